// TRISC1: the matrix unit. MVMUL does Dst[8x16] += SrcB[8x16] . SrcA[16x16]. SrcA holds a 32x32 weight tile as four
// faces (k lo n lo, k lo n hi, k hi n lo, k hi n hi), SrcB 64 rows of 16 activations.
//
// Ternary weights need one fidelity phase; int8 weights need four, each over the same operands.
#include "attend.h"

// Address modifier i: what an MVMUL adds to its SrcA row, SrcB row and phase.
#define MODIFIER(i, a, b, phase, reset)                              \
  INSN(T_SETC16(ADDR_MOD_AB_SEC0 + (i), (a) | (b) << 8));                          \
  INSN(T_SETC16(ADDR_MOD_DST_SEC0 + (i), (phase) << 13 | (reset) << 15));           \
  INSN(T_SETC16(ADDR_MOD_BIAS_SEC0 + (i), 0))

// Up to 8 tokens: a weight tile meets two blocks of SrcB (k lo, k hi).
#define TILE8(end, clear)       \
  INSN(T_MVMUL(0, 0, 0));       \
  INSN(T_MVMUL(0, 1, 8));       \
  INSN(T_MVMUL(0, 0, 0));       \
  INSN(T_MVMUL(clear, end, 8))
// 32 tokens: SrcB holds four groups of [k lo: 8 rows][k hi: 8 rows]. Eight blocks of Dst are touched before one comes
// back, so the accumulator's latency is hidden.
#define FACE32(off, end, clear)   \
  INSN(T_MVMUL(0, 0, 0 + (off)));   \
  INSN(T_MVMUL(0, 0, 16 + (off)));  \
  INSN(T_MVMUL(0, 0, 32 + (off)));  \
  INSN(T_MVMUL(clear, end, 48 + (off)))
#define TILE32(end, clear) \
  FACE32(0, 1, 0); FACE32(8, 2, 0); FACE32(0, 1, 0); FACE32(8, end, clear)

int main(void) {
  forget_thread(TILE->card);
  INSN(T_ZEROACC_ALL);
  for (u32 s = 0; s < 8; s++) PUSH(T_SEMINIT(15, 1 << s));
  INSN(V_NO_LANES_OFF);
  insn_done();
  alive(CORE_MATH);
  u32 job = 0;
  for (;;) {
    job = next_job(job);
    for (u32 stage = 0; stage <= JOB(0)->more; stage++) {
      volatile struct job *j = JOB(stage);
      if (stage) while (peek(X_READY) != STAGE(job, stage)) {} // the packer may still be at Dst and at the semaphore
      u32 n = all_chunks(stage), kt = j->kt, wide = j->rows == 32, int8 = j->kind == KIND_INT8;
      if (n) {
        u32 src = int8 ? 14 : 5, dst = int8 ? 8 : 0;
        CFG(ALU_FORMAT_SPEC) = 0;
        CFG(ALU_FORMAT_SPEC_REG) = src << 17 | src << 21 | dst << 25 | 1u << 29 | 1u << 30 | int8 << 31;
        CFG(ALU_ACC_CTRL) = 0;
        cfg_done(ALU_ACC_CTRL);
        INSN(T_STALLWAIT(HOLD_MATH | HOLD_CFG, IDLE_CFG));
        INSN(T_SEMINIT(2, SEM_DST));
        if (int8) { INSN(T_SETC16(DISABLE_IMPLIED_SRCA_FMT, 0)); } else { INSN(T_SETC16(DISABLE_IMPLIED_SRCA_FMT, 1)); } // ternary: SrcA is bf16 because we say so
        INSN(T_SETC16(DISABLE_IMPLIED_SRCB_FMT, 0));
        INSN(T_SETC16(CLR_DVALID, 0));
        if (wide) {
          MODIFIER(0, 0, 16, 0, 0);   // next group of tokens
          MODIFIER(1, 16, 16, 0, 0);  // next face, same k
          MODIFIER(2, 16, 24, 0, 0);  // next face, next k
          MODIFIER(3, 16, 8, 0, 1);   // next tile
          MODIFIER(4, 16, 8, 1, 0);   // the same tile in the next phase
        } else {
          MODIFIER(0, 16, 0, 0, 0);   // next face, same k
          MODIFIER(1, 16, 8, 0, 0);   // next face, next k
          MODIFIER(3, 16, 8, 0, 1);   // next tile
          MODIFIER(4, 16, 56, 1, 0);  // the same tile in the next phase: 8 rows back
        }
        INSN(T_SETRWC_ZERO);
      }
      for (u32 c = 0; c < n; c++) {
        INSN(T_SEMWAIT(HOLD_MATH | HOLD_SYNC, SEM_DST, WHILE_FULL));
        INSN(T_STALLWAIT(HOLD_CFG, IDLE_MATH));
        if (c & 1) { INSN(T_SETC16(DEST_TARGET_MATH, 512)); } else { INSN(T_SETC16(DEST_TARGET_MATH, 0)); }  // the other half of Dst
        INSN(T_ZEROACC16(0));
        if (wide) {
          INSN(T_ZEROACC16(1));
          INSN(T_ZEROACC16(2));
          INSN(T_ZEROACC16(3));
          for (u32 k = 0; k < kt; k++) {
            if (int8) { TILE32(4, 0); TILE32(4, 0); TILE32(4, 0); }
            TILE32(3, 3);
          }
        } else for (u32 k = 0; k < kt; k += 4) {
          if (int8) {
            TILE8(4, 0); TILE8(4, 0); TILE8(4, 0); TILE8(3, 1);
            TILE8(4, 0); TILE8(4, 0); TILE8(4, 0); TILE8(3, 1);
            TILE8(4, 0); TILE8(4, 0); TILE8(4, 0); TILE8(3, 1);
            TILE8(4, 0); TILE8(4, 0); TILE8(4, 0); TILE8(3, 3);
          } else {
            TILE8(3, 1); TILE8(3, 1); TILE8(3, 1); TILE8(3, 3);
          }
        }
        INSN(T_STALLWAIT(HOLD_SYNC, IDLE_MATH | IDLE_SFPU));
        INSN(T_SEMPOST(SEM_DST));
      }
      insn_done();
      if (j->then == THEN_ATTEND || j->then == THEN_SILU) attend();
    }
    post(LINE(DONE + CORE_MATH), job);
  }
}
