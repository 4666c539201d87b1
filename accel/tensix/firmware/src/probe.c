// The self-test's firmware, one image for each core: says who and where it is, then (BRISC) moves data between GDDR
// banks through L1, adding one to every word, so that a stale or lost byte shows.
#include "chip.h"
#define BOX (0x16000u + 0x40u * CORE)
int main(void) {
  u32 a = 0, b = 1;
  for (u32 i = 0; i < 20 + CORE; i++) { u32 t = a + b; a = b; b = t; }
  REG(BOX + 4) = a;         // a Fibonacci number: the core computes
  REG(BOX + 8) = NIU_SELF;
  REG(BOX + 12) = CLOCK;
  post(BOX, 0x7121000 + CORE);
#if CORE == 0
  enum { GO = 0x16200, SRC = 0x16210, DST = 0x16220, LEN = 0x16230, END = 0x16240, BUF = 0x20000 };
  for (u32 last = 0;;) {
    u32 n;
    while ((n = peek(GO)) == last) {}
    last = n;
    u32 len = REG(LEN), src = REG(SRC), sa = REG(SRC + 4), dst = REG(DST), da = REG(DST + 4);
    for (u32 o = 0; o < len; o += PACKET) {
      u32 k = len - o < PACKET ? len - o : PACKET;
      niu_read(NIU_MOVER, 1, src, sa + o, 0, BUF, k);
      while (NIU_OUTSTANDING(1)) {}
      see();
      for (u32 i = 0; i < k; i += 4) REG(BUF + i) += 1;
      drain(BUF + k - 4);
      u32 acks = NIU_ACKS;
      niu_write(NIU_PROBE, dst, da + o, REG(DST + 8), BUF, k);
      while (NIU_ACKS - acks != 1) {}
    }
    post(END, n);
  }
#endif
  for (;;) {}
}
