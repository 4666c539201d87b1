// The math core's part of attention: it does the sender's orders with the vector unit, numbers bit-equal to
// internal/kernel's. It works the unpacker, the vector unit and the packer alone, one after the other: the other cores wait.
#ifndef ATTEND_H
#define ATTEND_H
#include "units.h"

// Places in Dst. Up to 256 rows hold what was unpacked. At JOINED are sums over values and behind them those of their
// weights, in all lanes.
enum { FOUND = 256, JOINED = 260, KEEP_X = 264, KEEP_T = 266, KEEP_N = 268, KEEP_R = 270 };

#define CONSTANT(d, bits) INSN(V_HIGH(d, bits)); INSN(V_LOW(d, bits))
#define NUMBER(d, bits) PUSH(V_HIGH(d, bits)); PUSH(V_LOW(d, bits))

// multiply_add: register 2 = register 0 * register 1 + register 2 with one rounding, in all lanes. The unit's own
// fused operation cuts the product before it adds, so it is made of exact steps:
//
//   p + e = a * b        by halves of 12 bits (Dekker 1971); every product of halves and every sum is exact
//   s + t = p + c        (Knuth's TwoSum)
//   w = t + e, rounded to odd, so that it still shows on which side of a middle it lies (Boldo and Melquiond 2008)
//   s + w                is the sum, rounded once
//
// Products below 2^-79 lose bits of e, as the unit flushes subnormal numbers.
//
// Two chains that do not need each other take turns, as an operation's result is there after two cycles.
static __attribute__((noinline)) void multiply_add(void) {
  INSN(V_AND(3, 0, 14));
  INSN(V_AND(4, 1, 14));
  INSN(V_MUL(5, 0, 1));      // p
  INSN(V_SUB(0, 0, 3));
  INSN(V_SUB(1, 1, 4));
  INSN(V_MADN(6, 3, 4, 5));
  INSN(V_ADD(7, 5, 2));      // s
  INSN(V_MAD(6, 3, 1, 6));
  INSN(V_SUB(3, 7, 5));
  INSN(V_MAD(6, 0, 4, 6));
  INSN(V_SUB(4, 7, 3));
  INSN(V_MAD(6, 0, 1, 6));   // e
  INSN(V_SUB(4, 5, 4));
  INSN(V_SUB(2, 2, 3));
  INSN(V_ADD(4, 4, 2));      // t
  INSN(V_ADD(0, 4, 6));      // w
  INSN(V_SUB(1, 0, 4));
  INSN(V_SUB(2, 0, 1));
  INSN(V_SUB(6, 6, 1));
  INSN(V_SUB(4, 4, 2));
  INSN(V_ADD(6, 4, 6));      // what w's rounding left
  INSN(V_IF_NOT_0(6));
  INSN(V_XOR(6, 0));
  INSN(V_SHIFT_SIGN(6, -31));
  INSN(V_IADD(0, 6));        // one less where it was rounded away from zero
  INSN(V_OR(0, 0, 13));      // odd
  INSN(V_ALL_LANES);
  INSN(V_ADD(2, 7, 0));
}

// unpack_to brings n blocks of 4 KiB from L1 into Dst, 64 rows each.
static void unpack_to(u32 l1, u32 n) {
  for (u32 i = 0; i < n; i++, l1 += 4096) {
    CFG(THCON_SEC0_BASE) = (l1 >> 4) - 1;
    CFG(THCON_SEC0_DEST) = 64 + 1024 * i;
    cfg_done(THCON_SEC0_DEST);
    INSN(T_STALLWAIT(HOLD_UNPACK | HOLD_THCON | HOLD_CFG, IDLE_CFG | IDLE_SFPU | IDLE_MATH));
    INSN(OP(0x42, 1 << 7 | 1));
    INSN(T_STALLWAIT(HOLD_SYNC | HOLD_SFPU, IDLE_UNPACK_A));
    insn_done();
  }
}

// pack_from sends n pairs of vectors from Dst to L1.
static void pack_from(u32 row, u32 l1, u32 n) {
  CFG(THCON_SEC0_PACK_L1) = (l1 >> 4) - 1;
  CFG(DEST_TARGET_PACK_SEC0) = row;
  cfg_done(THCON_SEC0_PACK_L1); // any word of the region will do, and the simulator does not give 180 back
  INSN(T_STALLWAIT(HOLD_PACK | HOLD_THCON | HOLD_CFG, IDLE_CFG | IDLE_SFPU));
  for (u32 i = 1; i < n; i++) INSN(T_PACR(0, 0, 0));
  INSN(T_PACR(1, 0, 1));
  INSN(T_STALLWAIT(HOLD_SYNC | HOLD_SFPU, IDLE_PACK));
  insn_done();
}

// scores: two sums over even and odd columns, added then. A lane of the vector unit is a key.
static void scores(u32 q, u32 block, u32 cols, u32 scale, u32 to) {
  unpack_to(block, cols / 32);
  for (u32 odd = 0; odd < 2; odd++) {
    for (u32 i = odd; i < cols; i += 2) {
      u32 a = REG(q + 4 * i);
      NUMBER(0, a);
      PUSH(V_LOAD(1, 2 * i));
      if (i == odd) INSN(V_MUL(2, 0, 1));
      else multiply_add();
    }
    if (!odd) INSN(V_STORE(2, FOUND));
  }
  INSN(V_LOAD(0, FOUND));
  INSN(V_ADD(0, 0, 2));
  NUMBER(1, scale);
  INSN(V_MUL(0, 0, 1));
  INSN(V_STORE(0, FOUND));
  pack_from(FOUND, to, 1);
}

// exponential: register 2 = internal/kernel's Exp of register 0, which is not above 88.75. Below 2^-125 it is zero.
static __attribute__((noinline)) void exponential(void) {
  CONSTANT(1, 0xC2AF0000);  // -87.5
  INSN(V_SUB(3, 0, 1));
  INSN(V_IF_NEGATIVE(3));
  INSN(V_MOV(0, 1));
  INSN(V_ALL_LANES);
  INSN(V_STORE(0, KEEP_X));
  CONSTANT(1, 0x3FB8AA3B);  // log2 e
  CONSTANT(2, 0x4B400000);  // 1.5 * 2^23
  multiply_add();
  INSN(V_STORE(2, KEEP_T));
  CONSTANT(1, 0x4B400000);
  INSN(V_SUB(0, 2, 1));
  INSN(V_STORE(0, KEEP_N));
  CONSTANT(1, 0xBF317218);  // -ln 2, high
  INSN(V_LOAD(2, KEEP_X));
  multiply_add();
  INSN(V_LOAD(0, KEEP_N));
  CONSTANT(1, 0x3102E308);  // -ln 2, low
  multiply_add();
  INSN(V_STORE(2, KEEP_R));
  CONSTANT(0, 0x3AB511E7);  // expC6
  INSN(V_MOV(1, 2));
  CONSTANT(2, 0x3C091D10);  // expC5
  multiply_add();
#define NEXT(bits) INSN(V_MOV(0, 2)); INSN(V_LOAD(1, KEEP_R)); CONSTANT(2, bits); multiply_add()
  NEXT(0x3D2AAC79);         // expC4
  NEXT(0x3E2AAA49);         // expC3
  NEXT(0x3EFFFFFE);         // expC2
  NEXT(0x3F800000);
  NEXT(0x3F800000);
  INSN(V_LOAD(0, KEEP_T));
  INSN(V_IADDI(0, 0, 126));
  INSN(V_SHIFT(0, 23));
  INSN(V_MUL(2, 2, 0));
  INSN(V_ADD(2, 2, 2));
}

// exps: the exponentials of numbers of either sign.
static void exps(u32 at, u32 pairs) {
  unpack_to(at, 1);
  for (u32 v = 0; v < 2 * pairs; v++) {
    PUSH(V_LOAD(0, 2 * v));
    CONSTANT(1, 0x42B18000);  // 88.75, where it is infinite
    INSN(V_SUB(3, 1, 0));
    INSN(V_IF_NEGATIVE(3));
    INSN(V_MOV(0, 1));
    INSN(V_ALL_LANES);
    exponential();
    PUSH(V_STORE(2, 2 * v));
  }
  pack_from(0, at, pairs);
}

// weights: the exponentials of a span's scores less the largest, and the 32 lanes of their sum.
static void weights(u32 at, u32 pairs, u32 largest, u32 sums) {
  INSN(V_SUB(0, 9, 9));
  INSN(V_STORE(0, FOUND));
  unpack_to(at, 1);
  for (u32 v = 0; v < 2 * pairs; v++) {
    PUSH(V_LOAD(1, 2 * v));
    NUMBER(0, largest);
    INSN(V_SUB(0, 1, 0));
    exponential();
    PUSH(V_STORE(2, 2 * v));
    INSN(V_LOAD(0, FOUND));
    INSN(V_ADD(0, 0, 2));
    INSN(V_STORE(0, FOUND));
  }
  pack_from(0, at, pairs);
  pack_from(FOUND, sums, 1);
}

// mix adds values, weighted, to register 2, which stays from order to order. A lane is a column.
static void mix(u32 block, u32 weight, u32 n, u32 begin) {
  unpack_to(block, 1);
  if (begin) INSN(V_SUB(2, 9, 9));
  for (u32 j = 0; j < n; j++) {
    u32 p = REG(weight + 4 * SPREAD(j));
    NUMBER(0, p);
    PUSH(V_LOAD(1, 2 * j));
    multiply_add();
  }
}

// join adds what mix has found in a span, and the sum of its weights, to those of the spans before.
static void join(u32 how, u32 less, u32 sum, u32 to) {
  INSN(V_STORE(2, FOUND));
  if (how == JOIN_FIRST) {
    INSN(V_STORE(2, JOINED));
    NUMBER(0, sum);
    INSN(V_STORE(0, JOINED + 2));
  } else {
    NUMBER(0, less);
    exponential();
    INSN(V_STORE(2, KEEP_X));
    if (how == JOIN_LARGER) { // what was before counts that much less
      INSN(V_LOAD(0, JOINED));
      INSN(V_MUL(0, 0, 2));
      INSN(V_LOAD(1, FOUND));
      INSN(V_ADD(0, 0, 1));
      INSN(V_STORE(0, JOINED));
      INSN(V_LOAD(0, JOINED + 2));
      INSN(V_MUL(0, 0, 2));
      NUMBER(1, sum);
    } else {
      INSN(V_MOV(0, 2));
      INSN(V_LOAD(1, FOUND));
      INSN(V_LOAD(2, JOINED));
      multiply_add();
      INSN(V_STORE(2, JOINED));
      INSN(V_LOAD(0, KEEP_X));
      NUMBER(1, sum);
      INSN(V_MUL(0, 0, 1));
      INSN(V_LOAD(1, JOINED + 2));
    }
    INSN(V_ADD(0, 0, 1));
    INSN(V_STORE(0, JOINED + 2));
  }
  if (to) pack_from(JOINED, to, 1);
}

static void configure_vectors(void) {
  CFG(UNP0_ADDR_CTRL_XY_1) = 0, CFG(UNP0_ADDR_CTRL_ZW_1) = 0, CFG(UNP1_ADDR_CTRL_ZW_1) = 0;
  CFG(THCON_SEC0_TILE) = 1 << 4;            // float32, uncompressed
  CFG(THCON_SEC0_TILE_YZ) = 1 | 1 << 16;
  CFG(THCON_SEC0_UNPACK) = 2 << 4;
  CFG(THCON_SEC0_UNPACK_MISC) = 0xF | 1 << 4 | 0xF << 16; // to Dst
  CFG(THCON_SEC0_X_DIM) = 1024 | 1024 << 16;
  CFG(THCON_SEC0_OFFSET) = 0;
  cfg_done(THCON_SEC0_X_DIM);
  INSN(T_STALLWAIT(HOLD_UNPACK | HOLD_THCON | HOLD_CFG, IDLE_CFG));
  INSN(T_SETC16(SRCA_SET, 0));
  INSN(T_SETC16(UNPACK_MISC_CFG, 0));
  INSN(T_SETADCXY_ZERO(UNIT_A));
  INSN(T_SETADCZW_ZERO(UNIT_A));
  INSN(T_SETADCXX(UNIT_A, 1023));
  configure_packer(0);
  INSN(T_SETC16(DEST_TARGET_MATH, 0));
  INSN(T_SETC16(ADDR_MOD_AB_SEC0 + 5, 0));
  INSN(T_SETC16(ADDR_MOD_DST_SEC0 + 5, 0));
  INSN(T_SETC16(ADDR_MOD_BIAS_SEC0 + 5, 0));
  INSN(T_SETRWC_ZERO);
  INSN(V_ALL_LANES);
  CONSTANT(0, 1);
  INSN(V_CONST(13));
  CONSTANT(0, 0xFFFFF000);
  INSN(V_CONST(14));
}

// attend does orders until it is told to rest. With the first one all other cores are done with the units.
static void attend(void) {
  u32 ready = 0;
  for (u32 n = peek(ANSWERED);;) {
    while (peek(ASKED) == n) {}
    see();
    volatile struct order *o = ORDER;
    u32 what = o->what;
    if (what != REST && !ready) configure_vectors(), ready = 1;
    if (what == SCORES) scores(o->a, o->b, o->c, o->d, o->e);
    else if (what == WEIGHTS) weights(o->a, o->b, o->c, o->d);
    else if (what == MIX) mix(o->a, o->b, o->c, o->d);
    else if (what == JOIN) join(o->a, o->b, o->c, o->d);
    else if (what == EXPS) exps(o->a, o->b);
    else if (ready) INSN(V_NO_LANES_OFF);
    insn_done();
    post(ANSWERED, ++n);
    if (what == REST) return;
  }
}
#endif
