// NCRISC: what becomes of the sums. Delivers finished chunks to host memory, or works on them (vector.h, heads.h,
// screen.h), and then the completion line. The host reads its own memory and never the card's.
#include "heads.h"
#include "screen.h"

// deliver sends a stage's chunks to the host as they are packed.
static u32 deliver(u32 stage, u32 acks, u32 sent) {
  volatile struct job *j = JOB(stage);
  u32 bytes = out_bytes(j->rows), slots = j->out_slots, ring = j->out, at = ring, slot = 0;
  u32 host = TILE->host, step = TILE->tiles * bytes;
  u32 part = j->first, left = 0, lo = 0, hi = 0;
  for (u32 end = sent + all_chunks(stage); sent != end;) {
    u32 have;
    while ((have = peek(LINE(PACKED))) == sent) {}
    for (; sent != have; sent++, left--) {
      while (!left) {  // on to the next matrix that has chunks for this tile
        left = my_chunks(part);
        u32 first = my_first(part) * bytes;
        lo = PART(part)->dst_lo + first, hi = PART(part)->dst_hi + (lo < first);
        part++;
      }
      niu_write(NIU_SENDER, host, lo, hi, at, bytes);
      acks++;
      lo += step, hi += lo < step;
      at += bytes;
      if (++slot == slots) slot = 0, at = ring;
    }
    acked(acks);
    post(LINE(SENT), sent);
  }
  return acks;
}

int main(void) {
  alive(CORE_SENDER);
  u32 job = 0, sent = 0, acks = NIU_ACKS, meeting = 0;
  for (;;) {
    job = next_job(job);
    u32 start = CLOCK, before = sent, since = start, spent[7] = {0, 0, 0, 0, 0, 0, 0};
    for (u32 stage = 0; stage <= JOB(0)->more; stage++) {
      u32 then = JOB(stage)->then, n = all_chunks(stage);
      if (then == THEN_HOST) {
        acks = deliver(stage, acks, sent);
      } else if (then == THEN_SCREEN) {
        acks = screen_step(stage, acks, &meeting, sent);
      } else {
        while (peek(LINE(PACKED)) != sent + n) {}
        acks = then == THEN_ATTEND ? attend_step(stage, acks, &meeting) : vector_step(stage, acks, &meeting);
        post(LINE(SENT), sent + n);
      }
      sent += n;
      u32 now = CLOCK;
      spent[then] += now - since;
      since = now;
      post(X_READY, STAGE(job, stage + 1));
    }
    // Nobody may still be reading the job when the host learns that it is over.
    for (u32 core = CORE_MOVER; core <= CORE_PACK; core++)
      while (peek(LINE(DONE + core)) != job) {}
    REG(SCRATCH + 0) = job;
    REG(SCRATCH + 4) = sent - before;
    REG(SCRATCH + 8) = CLOCK - start;
    for (u32 i = 0; i < 7; i++) REG(SCRATCH + 16 + 4 * i) = spent[i];
    REG(SCRATCH + 60) = ~job;
    drain(SCRATCH + 60);
    u32 line = TILE->index * 64, end = TILE->host_lo + line;
    niu_write(NIU_SENDER, TILE->host, end, TILE->host_hi + (end < line), SCRATCH, 64);
    acked(++acks);
  }
}
