// The screen of the output head, on every tile's NCRISC while the matrix unit is at work. The scores of int8 rows are
// known up to a bound; a row can be the best only if its score and bound together reach the best that another row
// surely has:
//
//   |w_v.x / scale - s_v (r_v.q)| <= rest_v a + norm_v b
//
// The host chooses a and b large enough for every rounding here. What can be best by this tile's own rows is kept in
// a list; when all rows are done the tiles meet, and what cannot be best by all rows is thrown away.
#ifndef SCREEN_H
#define SCREEN_H
#include "vector.h"

enum { ROW_BYTES = 12, HEADER = 16 }; // s, rest, norm of a row; a list's length

// keys are ordered as the floats are
static inline u32 key(float f) { u32 b = as_bits(f); return b >> 31 ? ~b : b | 0x80000000u; }
static inline float unkey(u32 k) { return as_float(k >> 31 ? k & 0x7FFFFFFF : ~k); }

// The vector's fields mean: cols rows of the head; norm the GDDR address of the first reader's [chunks][3][32] float32
// s, rest, norm; res the bytes from reader to reader; gather their place in L1; h the list's, and x_in the most
// entries sent; eps the bytes of a tile's list in host memory.
static u32 screen_step(u32 stage, u32 acks, u32 *meeting, u32 sent) {
  volatile struct job *j = JOB(stage);
  volatile struct vector *v = VECTOR(stage);
  u32 rows = j->rows, tokens = v->tokens, tiles = TILE->tiles, n = my_chunks(j->first), first = my_first(j->first);
  u32 out = j->out, slots = j->out_slots, slot = 0, src = out, meta = v->gather, list = v->h + HEADER, end = list;
  for (u32 o = 0, all = n * 32 * ROW_BYTES; o < all; o += PACKET)
    niu_read(NIU_SENDER, 3, TILE->bank, v->norm + TILE->rank * v->res + o, 0, meta + o, all - o < PACKET ? all - o : PACKET);
  while (NIU_OUTSTANDING(3)) {}
  for (u32 r = 0; r < 32; r++) REG(MINE + 4 * r) = as_bits(-__builtin_inff());
  for (u32 c = 0; c < n; c++, meta += 32 * ROW_BYTES) {
    while (peek(LINE(PACKED)) == sent) {}
    u32 row = (first + c * tiles) * 32, have = v->cols - row < 32 ? v->cols - row : 32;
    for (u32 r = 0; r < tokens; r++) {
      float a = F32(SCALES + 4 * r), b = F32(SCALES + 128 + 4 * r), best = F32(MINE + 4 * r);
      for (u32 o = 0; o < have; o++) {
        u32 y = REG(src + 4 * out_at(rows, r, o));
        int i = y & 0x7FFFFFFF;
        if (y >> 31) i = -i;
        float score = F32(meta + 4 * o) * (float)i, bound = F32(meta + 128 + 4 * o) * a + F32(meta + 256 + 4 * o) * b;
        float high = score + bound;
        if (high < best) continue;
        REG(end) = (row + o) | r << 24;
        REG(end + 4) = y;
        REG(end + 8) = as_bits(high);
        end += 12;
        float low = score - bound;
        if (low > best) best = low;
      }
      REG(MINE + 4 * r) = as_bits(best);
    }
    post(LINE(SENT), ++sent);
    src += out_bytes(rows);
    if (++slot == slots) slot = 0, src = out;
  }
  for (u32 r = 0; r < 32; r++) REG(MINE + 4 * r) = r < tokens ? key(F32(MINE + 4 * r)) : 0;
  acks = meet(v, acks, meeting, 1);
  u32 kept = 0, most = v->x_in, to = list;
  for (u32 at = list; at != end; at += 12) {
    u32 id = REG(at), y = REG(at + 4);
    if (F32(at + 8) < unkey(REG(LARGEST + 4 * (id >> 24)))) continue;
    if (kept++ < most) {
      REG(to) = id;
      REG(to + 4) = y;
      to += 8;
    }
  }
  REG(v->h) = kept;
  drain(v->h);
  u32 bytes = (to - v->h + 15) & ~15u, line = TILE->index * v->eps, lo = v->out_lo + line, hi = v->out_hi + (lo < line);
  for (u32 o = 0; o < bytes; o += PACKET) {
    niu_write(NIU_SENDER, TILE->host, lo + o, hi + (lo + o < o), v->h + o, bytes - o < PACKET ? bytes - o : PACKET);
    acks++;
  }
  acked(acks);
  return acks;
}
#endif
