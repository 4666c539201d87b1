// The packer's setup, which the pack core uses for products and the math core for attention.
#ifndef UNITS_H
#define UNITS_H
#include "job.h"

static inline void configure_packer(u32 fmt) {
  CFG(12) = 16 * 4 << 16;  // bytes of a row of Dst
  CFG(13) = 256 * 4 | 1024 * 4 << 16;
  CFG(18) = 1;             // Dst is 32 bits wide
  CFG(20) = 0;
  CFG(24) = 0xFFFF;        // no masking at edges
  CFG(28) = 16 << 8;
  CFG(68) = 4 << 16;
  CFG(70) = 1 | fmt << 4 | fmt << 8;
  CFG(71) = 0;
  cfg_done(71);
  INSN(T_STALLWAIT(HOLD_PACK | HOLD_THCON | HOLD_CFG, IDLE_CFG));
  INSN(T_SETC16(37, 4));                          // modifier 0: four rows on
  INSN(T_SETC16(38, 1 << 5 | 1 << 11 | 1 << 13)); // 1: back to row 0
  INSN(T_SETC16(39, 8));                          // 2: eight rows on
  INSN(T_SETADCXY_ZERO(UNIT_PACK));
  INSN(T_SETADCZW_ZERO(UNIT_PACK));
  INSN(T_SETADCXX(UNIT_PACK, 15));
}
#endif
