// TRISC0: the unpackers. Unit A brings weights to SrcA, unit B activations to SrcB; the z counter steps through the
// tiles of a chunk, so addresses are written once a chunk.
#include "job.h"

static void set_base(u32 gpr, u32 reg, u32 addr) {
  u32 v = (addr >> 4) - 1; // in 16 bytes, and the unit adds one
  PUSH(T_SETDMAREG(2 * gpr, v));
  PUSH(T_SETDMAREG(2 * gpr + 1, v >> 16));
  INSN(T_STALLWAIT(HOLD_CFG, IDLE_THCON | IDLE_UNPACK_A | IDLE_UNPACK_B));
  PUSH(T_WRCFG(gpr, reg));
}

static void configure(u32 wfmt, u32 xfmt, u32 forced, u32 kt, u32 xt) {
  CFG(UNP0_FORCED_SHARED_EXP) = 127 | 1 << 8;           // the exponent of all weights: 2^0
  CFG(UNP0_ADDR_CTRL_XY_1) = 0, CFG(UNP0_ADDR_CTRL_ZW_1) = 0, CFG(UNP1_ADDR_CTRL_ZW_1) = 0;
  CFG(THCON_SEC0_TILE) = wfmt | 1 << 4;          // weights: format, uncompressed
  CFG(THCON_SEC0_TILE_YZ) = 1 | kt << 16;           // kt tiles along z
  CFG(THCON_SEC0_UNPACK) = wfmt | 2 << 4;
  CFG(THCON_SEC0_UNPACK_MISC) = 0xF | forced << 8 | 0xF << 16;
  CFG(THCON_SEC0_DEST) = 64 | 64 << 16;          // SrcA's row 0
  CFG(THCON_SEC0_X_DIM) = 1024 | 1024 << 16;      // one 32x32 tile per step
  CFG(THCON_SEC0_OFFSET) = 0;
  CFG(THCON_SEC1_TILE) = xfmt | 1 << 4 | 1024 << 16;
  CFG(THCON_SEC1_TILE_YZ) = 1 | xt << 16;
  CFG(THCON_SEC1_UNPACK) = xfmt | 2 << 4;
  CFG(THCON_SEC1_UNPACK_MISC) = 0xF | 0xF << 16;
  cfg_done(THCON_SEC1_UNPACK_MISC);
  INSN(T_STALLWAIT(HOLD_UNPACK | HOLD_THCON | HOLD_CFG, IDLE_CFG));
  INSN(T_SETC16(SRCA_SET, 4));
  INSN(T_SETC16(UNPACK_MISC_CFG, 0));
  INSN(T_SETADCXY_ZERO(UNIT_A | UNIT_B));
  INSN(T_SETADCXX(UNIT_A | UNIT_B, 1023));
}

int main(void) {
  forget_thread(TILE->card);
  alive(CORE_UNPACK);
  u32 job = 0, freed = 0;
  for (;;) {
    job = next_job(job);
    for (u32 stage = 0; stage <= JOB(0)->more; stage++) {
      volatile struct job *j = JOB(stage);
      if (stage) while (peek(X_READY) != STAGE(job, stage)) {}
      u32 n = all_chunks(stage), kt = j->kt, wide = j->rows == 32, int8 = j->kind == KIND_INT8;
      u32 bytes = j->chunk_bytes, slots = j->ring_slots, ring = j->ring, at = ring, slot = 0;
      if (n) {
        if (int8) configure(14, 14, 0, kt, wide ? kt : kt / 4);
        else configure(15, 5, 1, kt, wide ? kt : kt / 4);
        set_base(4, THCON_SEC1_BASE, j->x);
      }
      for (u32 c = 0; c < n; c++) {
        while ((int)(peek(LINE(FILLED)) - freed) <= 0) {}
        set_base(5, THCON_SEC0_BASE, at);
        INSN(T_SETADCZW_ZERO(UNIT_A | UNIT_B));
        INSN(T_STALLWAIT(HOLD_UNPACK, IDLE_THCON));
        if (wide) for (u32 k = 0; k < kt; k++) {
          INSN(T_UNPACR(1));
          INSN(T_UNPACR(0));
        } else for (u32 k = 0; k < kt; k += 4) {
          INSN(T_UNPACR(1));
          INSN(T_UNPACR(0));
          INSN(T_UNPACR(0));
          INSN(T_UNPACR(0));
          INSN(T_UNPACR(0));
        }
        INSN(T_STALLWAIT(HOLD_SYNC | HOLD_THCON, IDLE_UNPACK_A | IDLE_UNPACK_B));
        insn_done();
        post(LINE(FREED), ++freed);
        at += bytes;
        if (++slot == slots) slot = 0, at = ring;
      }
    }
    post(LINE(DONE + CORE_UNPACK), job);
  }
}
