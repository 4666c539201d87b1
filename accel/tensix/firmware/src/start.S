  .section .start, "ax"
  .globl _start
_start:
  li sp, STACK
  j main
