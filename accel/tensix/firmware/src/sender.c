// NCRISC: delivers finished chunks to host memory, and then the completion line. The host reads its own memory and
// never the card's.
#include "vector.h"

int main(void) {
  alive(CORE_SENDER);
  u32 job = 0, sent = 0, acks = NIU_ACKS, meeting = 0;
  for (;;) {
    job = next_job(job);
    u32 start = CLOCK;
    u32 n = 0, stage = 0;
    volatile struct job *j = JOB(0);
    if (j->more) {
      n = all_chunks(0);
      while (peek(LINE(PACKED)) != sent + n) {}
      acks = vector_step(job, acks, &meeting);
      sent += n;
      post(LINE(SENT), sent);
      post(X_READY, job);
      stage = 1, j = JOB(1);
    }
    u32 rest = all_chunks(stage), bytes = out_bytes(j->rows), slots = j->out_slots, ring = j->out, at = ring, slot = 0;
    u32 host = TILE->host, step = TILE->tiles * bytes;
    u32 part = j->first, left = 0, lo = 0, hi = 0;
    for (u32 end = sent + rest; sent != end;) {
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
    // Nobody may still be reading the job when the host learns that it is over.
    for (u32 core = CORE_MOVER; core <= CORE_PACK; core++)
      while (peek(LINE(DONE + core)) != job) {}
    REG(SCRATCH + 0) = job;
    REG(SCRATCH + 4) = n + rest;
    REG(SCRATCH + 8) = CLOCK - start;
    REG(SCRATCH + 12) = ~job;
    drain(SCRATCH + 12);
    u32 line = TILE->index * 64, end = TILE->host_lo + line;
    niu_write(NIU_SENDER, host, end, TILE->host_hi + (end < line), SCRATCH, 16);
    acked(++acks);
  }
}
