// The packer's setup, which the pack core uses for products and the math core for attention.
#ifndef UNITS_H
#define UNITS_H
#include "job.h"

static inline void configure_packer(u32 fmt) {
  CFG(PCK0_ADDR_CTRL_XY_0) = 16 * 4 << 16;  // bytes of a row of Dst
  CFG(PCK0_ADDR_CTRL_ZW_0) = 256 * 4 | 1024 * 4 << 16;
  CFG(PCK_DEST_RD_CTRL) = 1;             // Dst is 32 bits wide
  CFG(TILE_ROW_SET_MAPPING_0) = 0;
  CFG(PCK_EDGE_OFFSET_SEC0) = 0xFFFF;        // no masking at edges
  CFG(PACK_COUNTERS_SEC0) = 16 << 8;
  CFG(THCON_SEC0_PACK_SIZES) = 4 << 16;
  CFG(THCON_SEC0_PACK_FORMAT) = 1 | fmt << 4 | fmt << 8;
  CFG(THCON_SEC0_PACK_MISC) = 0;
  cfg_done(THCON_SEC0_PACK_MISC);
  INSN(T_STALLWAIT(HOLD_PACK | HOLD_THCON | HOLD_CFG, IDLE_CFG));
  INSN(T_SETC16(ADDR_MOD_PACK_SEC0, 4));                          // modifier 0: four rows on
  INSN(T_SETC16(ADDR_MOD_PACK_SEC0 + 1, 1 << 5 | 1 << 11 | 1 << 13)); // 1: back to row 0
  INSN(T_SETC16(ADDR_MOD_PACK_SEC0 + 2, 8));                          // 2: eight rows on
  INSN(T_SETADCXY_ZERO(UNIT_PACK));
  INSN(T_SETADCZW_ZERO(UNIT_PACK));
  INSN(T_SETADCXX(UNIT_PACK, 15));
}
#endif
