// The vector step between two stages, on every tile's NCRISC: the host's work done by the tiles,
//
//   THEN_ACT   h = relu(g)^2 * u             THEN_ADD   h = x += y
//   THEN_SILU  h = g / (1 + exp(-g)) * u
//   y = w * (h / rms(h)), or y = h where there is no norm;  x = round(127 y / max|y|)
//
// in float32 and in the order that internal/kernel defines, so that x is the host's to the last bit:
//
//   - the sum of squares has 32 lanes of fused multiply-adds (square_add), folded 32 -> 1. Four lanes of a row are one
//     tile's work, so a row's sum is shared by eight tiles; the tile that owns the row folds them
//   - mean, 1/sqrt and 127/max are single correctly rounded operations
//
// Exponentials are the vector unit's (attend.h), which the matrix core works. The tiles meet three times, and twice where
// there is no norm. A meeting: everybody adds one to a word of tile 0's, tile 0 tells everybody.
#ifndef VECTOR_H
#define VECTOR_H
#include "job.h"

static void acked(u32 want) { while (NIU_ACKS != want) {} }

static void niu_cast(u32 rect, u32 addr, u32 l1, u32 n) {
  NIU(NIU_SENDER, TARG_ADDR_LO) = l1;
  NIU(NIU_SENDER, TARG_ADDR_MID) = 0;
  NIU(NIU_SENDER, TARG_ADDR_HI) = NIU_SELF;
  NIU(NIU_SENDER, RET_ADDR_LO) = addr;
  NIU(NIU_SENDER, RET_ADDR_MID) = 0;
  NIU(NIU_SENDER, RET_ADDR_HI) = rect;
  NIU(NIU_SENDER, PACKET_TAG) = 0;
  NIU(NIU_SENDER, NOC_CTRL) = CTRL_WRITE | CTRL_ACK | CTRL_CAST | CTRL_PATH_RESERVE | CTRL_CAST_SELF; // acknowledged by every tile
  NIU(NIU_SENDER, AT_LEN_BE) = n;
  niu_go(NIU_SENDER);
}

static inline float as_float(u32 u) { union { u32 u; float f; } x = {.u = u}; return x.f; }
static inline u32 as_bits(float f) { union { float f; u32 u; } x = {.f = f}; return x.u; }
#define F32(a) as_float(REG(a))

// fold adds the 32 lanes of a sum in halves.
static __attribute__((noinline)) float fold(float *lane) {
  for (u32 half = 16; half; half /= 2)
    for (u32 i = 0; i < half; i++) lane[i] = lane[i] + lane[i + half];
  return lane[0];
}

// square_root is correctly rounded; x is positive and normal. The core has no such instruction.
static float square_root(float x) {
  u32 b = as_bits(x);
  int e = (int)(b >> 23) - 127;
  unsigned long long m = (b & 0x7FFFFF) | 0x800000;
  m <<= e & 1 ? 26 : 25; // an even power of two is left, and a root of 25 bits
  e = (e - (e & 1)) / 2;
  unsigned long long root = 0, rest = 0;
  for (int i = 0; i < 25; i++) {
    rest = rest << 2 | (m >> 48 & 3);
    m = m << 2 & ((1ull << 50) - 1);
    unsigned long long t = root << 2 | 1;
    root <<= 1;
    if (rest >= t) rest -= t, root |= 1;
  }
  u32 r = root >> 1, half = root & 1; // a root never lies half-way exactly: half decides
  r += half;
  return as_float(((u32)(e + 127) << 23) + (r - 0x800000));
}

// square_add is fma(x, x, a) with one rounding, for a >= 0. The core's own fused multiply-add cuts the product to 24
// bits, two more and a sticky one before it adds. That is exact as long as the sum's exponent is the larger one, which
// it is after the first few columns; else both summands are cut and the result may be a last place off, so integers do
// it. Squares below 2^-126 count as zero.
static u32 square_slow(u32 x, u32 a);
static inline u32 square_add(u32 x, u32 a) {
  if ((int)(a >> 23) >= 2 * (int)(x >> 23 & 0xFF) - 127) return as_bits(__builtin_fmaf(as_float(x), as_float(x), as_float(a)));
  return square_slow(x, a);
}
static __attribute__((noinline)) u32 square_slow(u32 x, u32 a) {
  int ex = x >> 23 & 0xFF, ea = a >> 23;
  u32 m = (x & 0x7FFFFF) | 0x800000, ma = (a & 0x7FFFFF) | 0x800000;
  if (ex < 64) return a; // the square is below 2^-126
  unsigned long long p = (unsigned long long)m * m << 14; // 2^60 to 2^62; its last bit is worth 2^low
  int low = 2 * (ex - 127) - 46 - 14;
  if (ea) {
    int d = ea - 150 - low; // how far the last bit of a lies above
    unsigned long long s;
    if (d > 38) { // a is so large that bits of the square fall off: remember that there were some
      int n = d - 38;
      s = n > 63 ? 1 : p >> n | (p << (64 - n) != 0);
      p = (unsigned long long)ma << 38;
      low += n;
    } else if (d >= 0) {
      s = (unsigned long long)ma << d;
    } else {
      int n = -d;
      s = n > 24 ? 1 : ma >> n | ((ma & ((1u << n) - 1)) != 0);
    }
    p += s;
  }
  u32 top = p >> 32; // not 0
  int n = 39 - __builtin_clz(top) + 1; // so many bits go: 24 stay
  u32 r = p >> n;
  unsigned long long rest = p << (64 - n), half = 1ull << 63;
  if (rest > half || (rest == half && (r & 1))) r++;
  return ((u32)(low + n + 149) << 23) + r; // r brings its leading bit, which counts the exponent up by one
}

// where output o (0 to 31) of row r lies in a chunk of results
static inline u32 out_at(u32 rows, u32 r, u32 o) {
  return rows == 1 ? o : (r >> 3) * 256 + (o >> 4) * 128 + (r & 7) * 16 + (o & 15);
}

// meet: what this tile did before is done, and so is everybody else's when it returns. The acknowledgements of what
// was sent before have been awaited. With fold, tile 0 hands out the largest of the tiles' 32 words at MINE.
static u32 meet(volatile struct vector *v, u32 acks, u32 *meeting, u32 fold) {
  u32 n = ++*meeting, tiles = TILE->tiles, me = TILE->index;
  if (fold) {
    drain(MINE + 124);
    niu_write(NIU_SENDER, v->master, v->table + 128 * me, 0, MINE, 128);
    acked(++acks);
  }
  niu_increment(NIU_SENDER, v->master, ARRIVALS, ARRIVED);
  if (me == 0) {
    while (peek(ARRIVALS) != n * tiles) {}
    REG(NOTE) = n;
    drain(NOTE);
    if (fold) {
      see();
      for (u32 r = 0; r < v->tokens; r++) {
        u32 m = 0;
        for (u32 i = 0; i < tiles; i++) {
          u32 w = REG(v->table + 128 * i + 4 * r);
          if (w > m) m = w;
        }
        REG(MINE + 4 * r) = m;
      }
      drain(MINE + 124);
      niu_cast(v->rect, LARGEST, MINE, 128);
      acks += tiles;
      niu_write(NIU_SENDER, TILE->host, v->max_lo, v->max_hi, MINE, 128);
      acked(++acks);
    }
    niu_cast(v->rect, RELEASE, NOTE, 16);
    acks += tiles;
    acked(acks);
  }
  while (peek(RELEASE) != n) {}
  see();
  return acks;
}

// send_squares sends a row of a chunk, columns k to k + 31, to the tiles that add its squares up, four lanes to each.
static u32 send_squares(volatile struct vector *v, u32 r, u32 k, u32 row, u32 acks) {
  u32 tiles = TILE->tiles;
  for (u32 g = 0; g < 8; g++) {
    u32 i = 8 * r + g;
    niu_write(NIU_SENDER, REG(TILES_AT + 4 * (i % tiles)), v->gather + (i / tiles * v->cols + k) / 2, 0, row + 16 * g, 16);
  }
  return acks + 8;
}

// ask gives the matrix core an order once it has done the last one.
static void answered(void) { while (peek(ANSWERED) != REG(ASKED)) {} }
static void ask(u32 what, u32 a, u32 b, u32 c, u32 d, u32 e) {
  answered();
  volatile struct order *o = ORDER;
  o->what = what, o->a = a, o->b = b, o->c = c, o->d = d, o->e = e;
  drain((u32)&o->e);
  post(ASKED, REG(ASKED) + 1);
}

// where lane `lane` of vector `first` lies among vectors that share words by twos
static inline u32 spread_at(u32 first, u32 lane) { return ((first >> 1) * 64 + SPREAD(lane) + (first & 1)) * 4; }

// inverses adds the gathered squares up and hands 1/rms of each row to everybody.
static u32 inverses(volatile struct vector *v, u32 acks, u32 *meeting) {
  u32 tokens = v->tokens, tiles = TILE->tiles, cols = v->cols;
  acks = meet(v, acks, meeting, 0);
  // the sums of squares: this tile's lanes, to the rows' owners
  u32 me = TILE->index, to = v->piece, now = *meeting;
  for (u32 i = me; i < 8 * tokens; i += tiles, to += 16) {
    u32 a = v->gather + i / tiles * cols / 2, lane[4] = {0, 0, 0, 0};
    for (u32 end = a + cols / 2; a != end; a += 16)
      for (u32 l = 0; l < 4; l++) lane[l] = square_add(REG(a + 4 * l), lane[l]);
    for (u32 l = 0; l < 4; l++) REG(to + 4 * l) = lane[l];
    drain(to + 12);
    u32 r = i >> 3;
    niu_write(NIU_SENDER, REG(TILES_AT + 4 * (r % tiles)), LANES(r / tiles, i & 7), 0, to, 16);
    acks++;
  }
  acked(acks);
  REG(NOTE) = now;
  drain(NOTE);
  for (u32 i = me; i < 8 * tokens; i += tiles) {
    u32 r = i >> 3;
    niu_write(NIU_SENDER, REG(TILES_AT + 4 * (r % tiles)), LANES(r / tiles, i & 7) + 16, 0, NOTE, 16);
    acks++;
  }
  acked(acks);
  // 1/rms of this tile's rows, to everybody
  for (u32 r = me; r < tokens; r += tiles) {
    float lane[32];
    for (u32 i = 0; i < 32; i++) {
      u32 a = LANES(r / tiles, i >> 2);
      while (peek(a + 16) != now) {}
      lane[i] = F32(a + 4 * (i & 3));
    }
    float mean = fold(lane) / (float)cols;
    float inv = 1.0f / square_root(mean + as_float(v->eps));
    REG(NOTE) = as_bits(inv);
    REG(NOTE + 4) = now;
    drain(NOTE + 4);
    niu_cast(v->rect, INVERSE(r), NOTE, 16); // a line of L1 is written at once
    acks += tiles;
    acked(acks);
  }
  for (u32 r = 0; r < tokens; r++) while (peek(INVERSE(r) + 4) != now) {}
  return acks;
}

// norm_step norms the n chunks at src, tile `first` has the first of them, and makes them the next stage's activations.
static u32 norm_step(u32 stage, u32 n, u32 first, u32 src, u32 acks, u32 *meeting) {
  volatile struct job *j = JOB(stage);
  volatile struct vector *v = VECTOR(stage);
  u32 rows = j->rows, tokens = v->tokens, tiles = TILE->tiles, h = v->h, stride = rows * 128;
  u32 piece = v->piece, normed = v->norm;
  if (normed) acks = inverses(v, acks, meeting);
  // the norm, and the largest magnitudes; the norm's weights come from the tile's own bank
  u32 w = piece + 4096;
  for (u32 r = 0; r < 32; r++) REG(MINE + 4 * r) = 0;
  for (u32 c = 0; c < n; c++) {
    if (normed) {
      niu_read(NIU_SENDER, 3, TILE->bank, normed + (first + c * tiles) * 128, 0, w, 128);
      while (NIU_OUTSTANDING(3)) {}
      see();
    }
    for (u32 r = 0; r < tokens; r++) {
      float inv = normed ? F32(INVERSE(r)) : 1;
      u32 at = c * stride + r * 128, m = REG(MINE + 4 * r);
      for (u32 o = 0; o < 128; o += 4) {
        float x = F32(src + at + o) * inv;
        u32 b = as_bits(normed ? F32(w + o) * x : x);
        REG(h + at + o) = b;
        b &= 0x7FFFFFFF;
        if (b > m) m = b;
      }
      REG(MINE + 4 * r) = m;
    }
  }
  acks = meet(v, acks, meeting, 1);
  // int8 as bf16, straight into everybody's activations: a chunk's 32 columns are one piece for 32 rows, and two
  // pieces of 16 columns else
  for (u32 i = 0; i < rows * 64; i += 4) REG(piece + i) = 0;
  for (u32 c = 0; c < n; c++) {
    for (u32 r = 0; r < tokens; r++) {
      float a = F32(LARGEST + 4 * r);
      if (a < 1e-5f) a = 1e-5f;
      float inv = 127.0f / a;
      u32 row = h + c * stride + r * 128;
      for (u32 o = 0; o < 32; o += 2) {
        u32 pair = 0;
        for (u32 i = 0; i < 2; i++) {
          int q;
          float p = F32(row + 4 * (o + i)) * inv;
          __asm__("fcvt.w.s %0, %1, rne" : "=r"(q) : "f"(p));
          if (q > 127) q = 127;
          if (q < -128) q = -128;
          pair |= as_bits((float)q) >> 16 << 16 * i;
        }
        REG(piece + 2 * out_at(rows, r, o)) = pair;
      }
    }
    drain(piece + rows * 64 - 4);
    drain(piece);
    u32 k = (first + c * tiles) * 32;
    if (rows == 32) {
      niu_cast(v->rect, j->x + 64 * k, piece, 2048);
      acks += tiles;
    } else {
      niu_cast(v->rect, j->x + 16 * k, piece, 32 * rows);
      niu_cast(v->rect, j->x + 16 * k + 256, piece + 32 * rows, 32 * rows);
      acks += 2 * tiles;
    }
    acked(acks); // the piece's place is used again
  }
  // what the next stage's sums are worth
  for (u32 r = 0; r < tokens; r++) {
    float a = F32(LARGEST + 4 * r);
    if (a < 1e-5f) a = 1e-5f;
    REG(SCALES + 4 * r) = as_bits(a / 127.0f);
  }
  drain(SCALES + 4 * tokens - 4);
  return meet(v, acks, meeting, 0);
}

// silu makes h = silu(g) * u of a stage's sums, 32 vectors of 32 columns at a time.
static u32 silu(volatile struct job *j, volatile struct vector *v, u32 n, u32 first, u32 acks) {
  u32 rows = j->rows, tokens = v->tokens, part = j->first, stride = rows * 128, e = v->out_lo, all = n * tokens;
  for (u32 from = 0; from < all; from += 32) {
    u32 end = all - from < 32 ? all : from + 32;
    for (u32 half = 0; half < 2; half++) { // -g to the vector unit; what comes of its exponentials
      for (u32 k = from; k < end; k++) {
        u32 c = k / tokens, r = k - c * tokens, row = v->h + c * stride + r * 128;
        u32 y0 = j->out + c * stride, y1 = j->out + (n + c) * stride;
        float xs = F32(SCALES + 4 * r), s0 = xs * as_float(PART(part)->scale), s1 = xs * as_float(PART(part + 1)->scale);
        for (u32 o = 0; o < 32; o++) {
          u32 at = 4 * out_at(rows, r, o), word = e + spread_at(k - from, o);
          float g = F32(y0 + at) * s0;
          if (!half) {
            REG(word) = as_bits(-g);
            continue;
          }
          float a = g / (1.0f + F32(word));
          REG(row + 4 * o) = as_bits(a * (F32(y1 + at) * s1));
        }
        if (half) drain(row + 124);
        if (half && v->norm) acks = send_squares(v, r, (first + c * TILE->tiles) * 32, row, acks);
      }
      if (half) continue;
      u32 pairs = (end - from + 1) / 2;
      drain(e + pairs * 256 - 4);
      ask(EXPS, e, pairs, 0, 0, 0);
      answered();
      see();
    }
  }
  ask(REST, 0, 0, 0, 0, 0);
  answered();
  acked(acks);
  return acks;
}

static u32 vector_step(u32 stage, u32 acks, u32 *meeting) {
  volatile struct job *j = JOB(stage);
  volatile struct vector *v = VECTOR(stage);
  u32 rows = j->rows, tokens = v->tokens, tiles = TILE->tiles, part = j->first, n = my_chunks(part), first = my_first(part);
  u32 h = v->h, cols = v->cols, stride = rows * 128, out = j->out, act = j->then == THEN_ACT || j->then == THEN_SILU, over = j->then == THEN_OUT;
  u32 src = act ? h : v->res;
  see();
  if (j->then == THEN_SILU) {
    acks = silu(j, v, n, first, acks);
    return norm_step(stage, n, first, src, acks, meeting);
  }
  // the sums come together, and four lanes of each row go to the tile that adds them up, or the row goes home
  for (u32 c = 0; c < n; c++) {
    u32 k = (first + c * tiles) * 32;
    u32 y0 = out + c * stride, y1 = out + (n + c) * stride;
    for (u32 r = 0; r < tokens; r++) {
      float xs = F32(SCALES + 4 * r), s0 = xs * as_float(PART(part)->scale), s1 = xs * as_float(PART(part + 1)->scale);
      u32 row = src + c * stride + r * 128, x = v->x_in ? v->x_in + (r * cols + k) * 4 : row;
      for (u32 o = 0; o < 32; o++) {
        u32 at = 4 * out_at(rows, r, o);
        float y = F32(y0 + at) * s0;
        if (act) {
          if (y < 0) y = 0;
          y = y * y;
          y = y * (F32(y1 + at) * s1);
        } else {
          y = F32(x + 4 * o) + y;
        }
        REG(row + 4 * o) = as_bits(y);
      }
      drain(row + 124);
      if (over) {
        u32 o = (r * cols + k) * 4, lo = v->out_lo + o;
        niu_write(NIU_SENDER, TILE->host, lo, v->out_hi + (lo < o), row, 128);
        acks++;
        continue;
      }
      if (v->norm) acks = send_squares(v, r, k, row, acks);
    }
  }
  acked(acks);
  return over ? acks : norm_step(stage, n, first, src, acks, meeting);
}
#endif
