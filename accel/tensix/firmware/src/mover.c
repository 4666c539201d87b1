// BRISC: brings weights from GDDR into the L1 ring. Packets of 16 KiB, two chunks in flight under two transaction
// tags, one bank per tile, NoC 0 and one port only.
#include "job.h"

// What silicon wants before the tile works and the simulator takes either way (tt-metal brisc.cc, device_setup). The
// coprocessor's threads begin in their own cores.
static void init(void) {
  REG(DEST_CG_CTRL) = 0;            // Dst is not clock gated
  REG(TDMA_REG_CLK_GATE_EN) = 0x3F; // the movers may be
  for (u32 noc = NIU_0; noc <= NIU_1; noc += NIU_1 - NIU_0) {
    REG(noc + NIU_CFG_0) |= 1; // clock gating
    REG(noc + ROUTER_CFG_0) |= 1;
  }
  forget_units(TILE->card);
  CFG(RISCV_IC_INVALIDATE) = 0x1F; // forget cached instructions of all cores
  CFG(ECC_SCRUBBER) = 0x803;       // on, also on error, delay 0x100
  cfg_done(ECC_SCRUBBER);
}

int main(void) {
  init();
  alive(CORE_MOVER);
  u32 job = 0, filled = 0;
  for (;;) {
    job = next_job(job);
    for (u32 stage = 0; stage <= JOB(0)->more; stage++) {
      volatile struct job *j = JOB(stage);
      while (peek(LINE(FREED)) != filled) {} // the ring may be cut anew
      u32 bytes = j->chunk_bytes, slots = j->ring_slots, bank = TILE->bank;
      u32 ring = j->ring, at = ring, slot = 0, n = all_chunks(stage), c = 0;
      for (u32 part = j->first; part < j->first + j->parts; part++) {
        u32 src = PART(part)->weights + TILE->rank * PART(part)->stride;
        for (u32 left = my_chunks(part); left; left--, c++) {
          while (filled + c - peek(LINE(FREED)) >= slots) {}
          for (u32 o = 0; o < bytes; o += PACKET) {
            u32 k = bytes - o < PACKET ? bytes - o : PACKET;
            niu_read(NIU_MOVER, 1 + (c & 1), bank, src + o, 0, at + o, k);
          }
          src += bytes, at += bytes;
          if (++slot == slots) slot = 0, at = ring;
          if (c > 0 && slots > 1) {
            while (NIU_OUTSTANDING(1 + ((c - 1) & 1))) {}
            post(LINE(FILLED), filled + c);
          }
          if (c + 1 == n || slots == 1) {
            while (NIU_OUTSTANDING(1 + (c & 1))) {}
            post(LINE(FILLED), filled + c + 1);
          }
        }
      }
      filled += n;
    }
    post(LINE(DONE + CORE_MOVER), job);
  }
}
