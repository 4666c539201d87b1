// TRISC2: the packer, from 32-bit Dst to the ring of output chunks in L1.
#include "units.h"

int main(void) {
  forget_thread(TILE->card);
  alive(CORE_PACK);
  u32 job = 0, packed = 0;
  for (;;) {
    job = next_job(job);
    for (u32 stage = 0; stage <= JOB(0)->more; stage++) {
      volatile struct job *j = JOB(stage);
      u32 n = all_chunks(stage), rows = j->rows, ring = j->out, slots = j->out_slots, at = ring, slot = 0;
      u32 fmt = j->kind == KIND_INT8 ? 8 : 0; // int32 or fp32, as the accumulator has it
      if (stage) while (peek(X_READY) != STAGE(job, stage)) {} // attention may still be at the packer
      if (n) configure_packer(fmt);
      for (u32 c = 0; c < n; c++) {
        while (packed - peek(LINE(SENT)) >= slots) {}
        u32 v = (at >> 4) - 1;
        PUSH(T_SETDMAREG(8, v));
        PUSH(T_SETDMAREG(9, v >> 16));
        PUSH(T_SETDMAREG(10, c & 1 ? 512 : 0));
        INSN(T_SETDMAREG(11, 0));
        INSN(T_STALLWAIT(HOLD_CFG, IDLE_THCON | IDLE_PACK));
        INSN(T_WRCFG(4, THCON_SEC0_PACK_L1));
        INSN(T_WRCFG(5, DEST_TARGET_PACK_SEC0));
        INSN(T_NOP);
        INSN(T_NOP);
        INSN(T_SEMWAIT(HOLD_TDMA | HOLD_PACK, SEM_DST, WHILE_ZERO));
        if (rows == 1) {  // row 0 of both halves of n
          INSN(T_PACR(2, 1, 0));
          INSN(T_PACR(1, 1, 1));
        } else {          // four rows at a time
          if (rows == 32) {
            INSN(T_PACR(0, 0, 0)); INSN(T_PACR(0, 0, 0)); INSN(T_PACR(0, 0, 0)); INSN(T_PACR(0, 0, 0));
            INSN(T_PACR(0, 0, 0)); INSN(T_PACR(0, 0, 0)); INSN(T_PACR(0, 0, 0)); INSN(T_PACR(0, 0, 0));
            INSN(T_PACR(0, 0, 0)); INSN(T_PACR(0, 0, 0)); INSN(T_PACR(0, 0, 0)); INSN(T_PACR(0, 0, 0));
          }
          INSN(T_PACR(0, 0, 0));
          INSN(T_PACR(0, 0, 0));
          INSN(T_PACR(0, 0, 0));
          INSN(T_PACR(1, 0, 1));
        }
        INSN(T_STALLWAIT(HOLD_SYNC, IDLE_PACK));
        INSN(T_SEMGET(SEM_DST));
        insn_done(); // the chunk is in L1
        post(LINE(PACKED), ++packed);
        at += out_bytes(rows);
        if (++slot == slots) slot = 0, at = ring;
      }
    }
    post(LINE(DONE + CORE_PACK), job);
  }
}
