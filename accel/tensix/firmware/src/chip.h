// What the baby RISC-V cores of a Blackhole Tensix tile need to know: memory, NoC and coprocessor access from C, with
// the ordering rules in one place. Facts: tt-isa-documentation (BlackholeA0), instruction fields as in ttsim's
// data/bh/*.json.
#ifndef CHIP_H
#define CHIP_H
typedef unsigned int u32;

#include "registers.h"

#define REG(a) (*(volatile u32 *)(a))

// ---- ordering ----
// A core's stores stay in order within one region (L1, one NIU, configuration) and not between regions, and its small
// data cache is not coherent with anybody. So:
//   see()    before every load of L1 that somebody else may have written
//   drain()  after stores to L1 and before anything that makes another unit read them: the load comes back only when
//            the stores before it, to the same region, have been done; consuming its value keeps what follows behind
static inline void see(void) { __asm__ volatile("fence" ::: "memory"); }
static inline u32 peek(u32 a) { see(); return REG(a); }
static inline void drain(u32 a) {
  see();
  u32 v = REG(a);
  __asm__ volatile("mv zero, %0" ::"r"(v) : "memory");
}
// post() publishes a counter: everything stored to L1 before is there first, and the store itself has left when it returns
static inline void post(u32 a, u32 v) { see(); REG(a) = v; drain(a); }

// ---- NoC 0 ----
// Four request initiators. Each one belongs to one core for good, so no core disturbs another one's request.
enum { NIU_MOVER = 0, NIU_SENDER = 1, NIU_PROBE = 2 };
#define NIU(i, r) REG(NIU_0 + 0x800u * (i) + (r))
#define NIU_ACKS REG(NIU_0 + WR_ACK_RECEIVED)                   // write acknowledgements, free running
#define NIU_OUTSTANDING(tag) REG(NIU_0 + REQS_OUTSTANDING + 4u * (tag))  // requests of a tag not yet answered
#define NIU_SELF (REG(NIU_0 + NOC_ID_LOGICAL) & 0xFFF)         // this tile's own coordinates
enum { PACKET = 16384 };                            // most bytes in one request

static inline void niu_go(u32 i) {
  NIU(i, CMD_CTRL) = 1;
  while (NIU(i, CMD_CTRL) & 1) {}
}
// The coordinate registers are rewritten by the NIU, so each request sets all of them.
static inline void niu_read(u32 i, u32 tag, u32 xy, u32 lo, u32 hi, u32 l1, u32 n) {
  NIU(i, TARG_ADDR_LO) = lo;
  NIU(i, TARG_ADDR_MID) = hi;
  NIU(i, TARG_ADDR_HI) = xy;
  NIU(i, RET_ADDR_LO) = l1;
  NIU(i, RET_ADDR_MID) = 0;
  NIU(i, RET_ADDR_HI) = NIU_SELF;
  NIU(i, PACKET_TAG) = tag << 10;
  NIU(i, NOC_CTRL) = CTRL_READ;
  NIU(i, AT_LEN_BE) = n;
  niu_go(i);
}
// The caller has drained what it stored at l1, or another unit's work at l1 is known to be done.
static inline void niu_write(u32 i, u32 xy, u32 lo, u32 hi, u32 l1, u32 n) {
  NIU(i, TARG_ADDR_LO) = l1;
  NIU(i, TARG_ADDR_MID) = 0;
  NIU(i, TARG_ADDR_HI) = NIU_SELF;
  NIU(i, RET_ADDR_LO) = lo;
  NIU(i, RET_ADDR_MID) = hi;
  NIU(i, RET_ADDR_HI) = xy;
  NIU(i, PACKET_TAG) = 0;
  NIU(i, NOC_CTRL) = CTRL_WRITE | CTRL_ACK;
  NIU(i, AT_LEN_BE) = n;
  niu_go(i);
}

// niu_increment adds one to a word of another tile's L1; the old one is stored at `old` here. It is not waited for.
static inline void niu_increment(u32 i, u32 xy, u32 addr, u32 old) {
  NIU(i, TARG_ADDR_LO) = addr;
  NIU(i, TARG_ADDR_MID) = 0;
  NIU(i, TARG_ADDR_HI) = xy;
  NIU(i, RET_ADDR_LO) = old;
  NIU(i, RET_ADDR_MID) = 0;
  NIU(i, RET_ADDR_HI) = NIU_SELF;
  NIU(i, PACKET_TAG) = 0;
  NIU(i, NOC_CTRL) = CTRL_ATOMIC | CTRL_ACK;
  NIU(i, AT_LEN_BE) = AT_INCREMENT;
  NIU(i, AT_DATA) = 1;
  niu_go(i);
}

// ---- Tensix coprocessor ----
// A constant instruction travels in the core's own instruction stream, rotated left by two; one with a run-time
// operand is stored to the thread's queue.
#define INSN(w) __asm__ volatile(".word %0" ::"i"(((u32)(w) << 2) | ((u32)(w) >> 30)))
#define PUSH(w) (REG(INSTRN_BUF) = (w))

#define OP(o, a) (((u32)(o) << 24) | (u32)(a))
#define T_NOP OP(0x02, 0)
#define T_ZEROACC16(row16) OP(0x10, 1 << 19 | 1 << 18 | 7 << 14 | (row16)) // 16 rows of 32-bit Dst
#define T_ZEROACC_ALL OP(0x10, 3 << 19)
#define T_MVMUL(clear, mod, dst) OP(0x26, (clear) << 22 | (mod) << 14 | (dst))
#define T_SETRWC_ZERO OP(0x37, 0xF)
#define T_PACR(mod, intf, last) OP(0x41, (mod) << 15 | (intf) << 8 | (last))
#define T_UNPACR(unit) OP(0x42, (unit) << 23 | 1 << 15 | 1 << 7 | 1 << 6 | 1) // z += 1, hand the bank over
#define T_SETDMAREG(half, v) OP(0x45, ((u32)(v) & 0xFFFF) << 8 | (half))
#define T_SETADCXY_ZERO(units) OP(0x51, (units) << 21 | 0xB)
#define T_SETADCZW_ZERO(units) OP(0x54, (units) << 21 | 0xF)
#define T_SETADCXX(units, end) OP(0x5E, (units) << 21 | (end) << 10)
#define T_STALLWAIT(hold, until) OP(0xA2, (hold) << 15 | (until))
#define T_SEMINIT(max, sem) OP(0xA3, (max) << 20 | (sem) << 2)
#define T_SEMPOST(sem) OP(0xA4, (sem) << 2)
#define T_SEMGET(sem) OP(0xA5, (sem) << 2)
#define T_SEMWAIT(hold, sem, cond) OP(0xA6, (hold) << 15 | (sem) << 2 | (cond))
#define T_WRCFG(gpr, reg) OP(0xB0, (gpr) << 16 | (reg))
#define T_SETC16(reg, v) OP(0xB2, (reg) << 16 | (v))

// The vector unit: 32 lanes of float32, registers 0 to 7, 9 is 0.0, 10 is 1.0, 11 to 14 are constants that software sets.
// Row 2v of Dst is vector v of 64 words: the even columns of four rows, or the odd ones. fma models: ttsim src/fma.cpp.
#define V_LOAD(d, row) OP(0x70, (d) << 20 | 3 << 16 | 5 << 13 | (row))  // float32 from Dst; address modifier 5
#define V_STORE(d, row) OP(0x72, (d) << 20 | 3 << 16 | 5 << 13 | (row))
#define V_HIGH(d, bits) OP(0x71, (d) << 20 | 8 << 16 | (u32)(bits) >> 16)
#define V_LOW(d, bits) OP(0x71, (d) << 20 | 10 << 16 | ((bits) & 0xFFFF))
#define V_MAD(d, a, b, c) OP(0x84, (a) << 16 | (b) << 12 | (c) << 8 | (d) << 4)      // a * b + c
#define V_MADN(d, a, b, c) OP(0x84, (a) << 16 | (b) << 12 | (c) << 8 | (d) << 4 | 2) // a * b - c
#define V_MUL(d, a, b) OP(0x86, (a) << 16 | (b) << 12 | 9 << 8 | (d) << 4)
#define V_ADD(d, a, b) OP(0x85, 10 << 16 | (a) << 12 | (b) << 8 | (d) << 4)
#define V_SUB(d, a, b) OP(0x85, 10 << 16 | (a) << 12 | (b) << 8 | (d) << 4 | 2)
#define V_AND(d, a, b) OP(0x7E, (a) << 12 | (b) << 8 | (d) << 4 | 1)
#define V_OR(d, a, b) OP(0x7F, (a) << 12 | (b) << 8 | (d) << 4 | 1)
#define V_XOR(d, a) OP(0x8D, (a) << 8 | (d) << 4)             // d ^= a
#define V_SHIFT(d, n) OP(0x7A, ((n) & 0xFFF) << 12 | (d) << 4 | 1)  // left, or right when negative
#define V_SHIFT_SIGN(d, n) OP(0x7A, ((n) & 0xFFF) << 12 | (d) << 4 | 3)
#define V_IADD(d, a) OP(0x79, (a) << 8 | (d) << 4 | 4)        // d += a
#define V_IADDI(d, a, n) OP(0x79, ((n) & 0xFFF) << 12 | (a) << 8 | (d) << 4 | 5)
#define V_MOV(d, a) OP(0x7C, (a) << 8 | (d) << 4)
#define V_CONST(d) OP(0x91, (d) << 4)                         // constant d = register 0
#define V_IF_NOT_0(a) OP(0x7B, (a) << 8 | 2)
#define V_IF_NEGATIVE(a) OP(0x7B, (a) << 8)
#define V_ALL_LANES OP(0x8A, 3 << 12 | 10)
#define V_NO_LANES_OFF OP(0x8A, 2 << 12 | 10) // conditions are off

enum { UNIT_A = 1, UNIT_B = 2, UNIT_PACK = 4 }; // address counters
enum { HOLD_TDMA = 1, HOLD_SYNC = 2, HOLD_PACK = 4, HOLD_UNPACK = 8, HOLD_THCON = 0x20, HOLD_MATH = 0x40, HOLD_CFG = 0x80, HOLD_SFPU = 0x100 };
enum { IDLE_THCON = 1, IDLE_UNPACK_A = 2, IDLE_UNPACK_B = 4, IDLE_PACK = 8, IDLE_MATH = 0x10, IDLE_CFG = 0x400, IDLE_SFPU = 0x800 };
enum { WHILE_ZERO = 1, WHILE_FULL = 2 };
enum { SEM_DST = 1 << 1 }; // filled halves of Dst, 0 to 2

#define CFG(i) REG(TENSIX_CFG + 4u * (i)) // backend configuration
// cfg_done() makes sure that configuration stores have been done before the coprocessor is told anything.
#define cfg_done(i) ((void)CFG(i))
// insn_done() returns when this thread's coprocessor instructions are done.
static inline void insn_done(void) {
  REG(PC_BUF_SYNC) = 0;
  (void)REG(PC_BUF_SYNC);
  see();
}
#define CLOCK REG(WALL_CLOCK_0)

// ---- what another program may have left ----
// A card's configuration outlives the program that made it: a stale word turns results wrong or stops a unit. Every
// thread's configuration, and the units', is zeroed once, each word that some card has; the simulator refuses words that
// it does not model, so it gets those of the first list alone. What is left out: instruction caches (185), the random
// numbers' seed (186), instruction prefetch (208), and of a thread the scoreboards (8 to 10), streams and automatic
// synchronisation (42 to 45, 56 and on), which are not ours (tt-isa-documentation BackendConfiguration.md).
#define WORDS(from, to) ((to) >= 32 ? 0 : 0xFFFFFFFFu << (from) & 0xFFFFFFFFu >> (31 - (to)))
static const u32 units_modelled[7] = {
  WORDS(0, 3) | WORDS(12, 15) | WORDS(17, 18) | WORDS(20, 21) | WORDS(24, 25) | WORDS(28, 31),
  WORDS(18, 18) | WORDS(24, 25) | WORDS(27, 27),                                    // 50, 56, 57, 59
  WORDS(0, 1) | WORDS(4, 9) | WORDS(12, 13) | WORDS(20, 20) | WORDS(22, 22) | WORDS(28, 29), // 64, 65, 68 to 73, 76, 77, 84, 86, 92, 93
  WORDS(16, 17) | WORDS(23, 25) | WORDS(28, 29),                                    // 112, 113, 119 to 121, 124, 125
  0,
  WORDS(20, 23),                                                                    // 180 to 183
  WORDS(17, 19) | WORDS(28, 28),                                                    // 209 to 211, 220
};
static const u32 units_all[7] = {~0u, ~0u, ~0u, ~0u, ~0u, ~0u & ~WORDS(25, 26), WORDS(0, 30) & ~WORDS(16, 16)};
static const u32 thread_modelled[2] = {
  WORDS(0, 3) | WORDS(5, 5) | WORDS(7, 7) | WORDS(12, 19) | WORDS(28, 31),
  WORDS(0, 3) | WORDS(5, 9) | WORDS(15, 22),                                        // 32 to 35, 37 to 41, 47 to 54
};
static const u32 thread_all[2] = {~0u & ~WORDS(8, 10), WORDS(0, 9) | WORDS(14, 23)}; // 0 to 41 without scoreboards, 46 to 55

static inline void forget_units(u32 card) {
  const u32 *list = card ? units_all : units_modelled;
  for (u32 i = 0; i < 7 * 32; i++) if (list[i >> 5] >> (i & 31) & 1) CFG(i) = 0;
}
// forget_thread is each coprocessor thread's own: register 0 first, which says whose configuration it uses.
static inline void forget_thread(u32 card) {
  const u32 *list = card ? thread_all : thread_modelled;
  for (u32 i = 0; i < 2 * 32; i++) if (list[i >> 5] >> (i & 31) & 1) PUSH(T_SETC16(i, 0));
  insn_done();
}
#endif
