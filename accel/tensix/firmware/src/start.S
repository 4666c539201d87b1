# Each core's first instructions. CSR 0x7C0 holds a core's own configuration, which no reset of ours restores: as the
# vendor's firmware does (tt-metal hw/inc/internal/firmware_common.h, configure_csr), instructions for the coprocessor are
# pushed one at a time (bit 18: gathering four of them is faulty, tt-metal issue 16439) and the L0 data cache is off
# (bit 3). The branch predictor (bit 1) is off while that changes.
  .option arch, +zicsr
  .section .start, "ax"
  .globl _start
_start:
  li sp, STACK
  li t0, 1 << 1
  csrs 0x7C0, t0
  fence
  li t1, 1 << 18 | 1 << 3
  csrs 0x7C0, t1
  csrc 0x7C0, t0
  fence
  j main
