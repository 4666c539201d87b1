// Attention, on every tile's NCRISC: what becomes of the sums of query, key and value. The matrix core and its vector unit
// do the sums over columns and tokens (attend.h); numbers and their order are internal/kernel's.
//
// A head has cols / 32 chunks, on as many tiles, its team. Tile and chunk are those of the query's product, and of the
// attention's output:
//
//   turn       query and key by position; each tile has one half of a turned pair and gets the other. Meeting
//   keep       key and value into their pages, the query to its team. Meeting
//   score      a tile scores every cols / 32-th block of keys and tells its team. Meeting
//   mix        span by span: weights of its keys, then the values of this tile's columns, joined with the spans before
//
// Then the output is normed, where the model has a norm there, and quantised as after any product (vector.h).
#ifndef HEADS_H
#define HEADS_H
#include "vector.h"

enum { BLOCK = 4096 }; // [32][32] float32

struct slice { u32 bank, addr; };
// keys_of says where a layer's keys of a head are, of the page that has a token; its values lie behind them.
static struct slice keys_of(volatile struct attend *a, u32 layer, u32 head, u32 row, u32 token) {
  u32 slot = REG(REG(a->rows_at + 8 * row + 4) + 4 * (token >> 5)), s = layer * a->key_heads + head;
  u32 index = s / a->banks;
  struct slice p = {REG(a->bank_at + 4 * ((slot + s) % a->banks)), a->base + slot * a->slot_bytes + index * (a->cols * 256)};
  return p;
}

static void fetch(u32 tag, struct slice p, u32 offset, u32 l1, u32 n) { niu_read(NIU_SENDER, tag, p.bank, p.addr + offset, 0, l1, n); }
static void fetched(u32 tag) {
  while (NIU_OUTSTANDING(tag)) {}
  see();
}

// keep puts 32 numbers of a token into a block in GDDR: as a column of keys or as a row of values.
static u32 keep(struct slice p, u32 offset, u32 token, u32 keys, u32 row, u32 l1, u32 acks) {
  fetch(3, p, offset, l1, BLOCK);
  fetched(3);
  for (u32 o = 0; o < 32; o++) {
    u32 at = keys ? spread_at(o, token & 31) : spread_at(token & 31, o);
    REG(l1 + at) = REG(row + 4 * o);
  }
  drain(l1 + (keys ? spread_at(31, token & 31) : spread_at(token & 31, 31)));
  niu_write(NIU_SENDER, p.bank, p.addr + offset, 0, l1, BLOCK);
  acked(++acks);
  return acks;
}

// tell_team puts a block's scores among its chunk's, here and on the other tiles of its head.
static u32 tell_team(volatile struct attend *a, u32 part, u32 chunk, u32 at, u32 stride, u32 found, u32 acks) {
  u32 tiles = TILE->tiles, team = a->cols / 32, own = a->scores + at;
  see();
  for (u32 i = 0; i < 32; i++) REG(own + 4 * i) = REG(found + 4 * SPREAD(i));
  drain(own + 124);
  for (u32 i = chunk / team * team, end = i + team; i < end; i++) {
    if (i == chunk) continue;
    u32 to = own + (i / tiles - chunk / tiles) * stride; // where that tile has its chunk
    niu_write(NIU_SENDER, REG(TILES_AT + 4 * ((PART(part)->turn + i) % tiles)), to, 0, own, 128);
    acks++;
  }
  return acks;
}

static u32 attend_step(u32 stage, u32 acks, u32 *meeting) {
  volatile struct job *j = JOB(stage);
  volatile struct vector *v = VECTOR(stage);
  volatile struct attend *a = (volatile struct attend *)v->x_in;
  u32 rows = j->rows, tokens = v->tokens, tiles = TILE->tiles, part = j->first, layer = v->res;
  u32 cols = a->cols, team = cols / 32, each = a->each, stride = rows * 128;
  see();
  // turn: this tile's sums, as numbers, and to the tile that has the other halves
  u32 out = j->out;
  for (u32 p = 0; p < 2; p++) {
    u32 n = my_chunks(part + p), g = my_first(part + p);
    for (u32 c = 0; c < n; c++, g += tiles, out += stride) {
      u32 other = team == 1 ? g : g / team * team + (g + team / 2) % team;
      u32 xy = REG(TILES_AT + 4 * ((PART(part + p)->turn + other) % tiles));
      for (u32 r = 0; r < tokens; r++) {
        float s = F32(SCALES + 4 * r) * as_float(PART(part + p)->scale);
        u32 row = a->mine + ((p * each + c) * tokens + r) * 128;
        for (u32 o = 0; o < 32; o++) REG(row + 4 * o) = as_bits(F32(out + 4 * out_at(rows, r, o)) * s);
        drain(row + 124);
        niu_write(NIU_SENDER, xy, a->theirs + ((p * each + other / tiles) * tokens + r) * 128, 0, row, 128);
        acks++;
      }
    }
  }
  acked(acks);
  acks = meet(v, acks, meeting, 0);
  // keep
  for (u32 p = 0; p < 2; p++) {
    u32 n = my_chunks(part + p), g = my_first(part + p);
    for (u32 c = 0; c < n; c++, g += tiles)
      for (u32 r = 0; r < tokens; r++) {
        u32 at = ((p * each + c) * tokens + r) * 128, row = a->mine + at, theirs = a->theirs + at;
        u32 m = g % team, pos = REG(a->rows_at + 8 * r), cosines = a->rope + r * cols * 4;
        if (team == 1) { // both halves are in one chunk; their copies stay as they were
          for (u32 o = 0; o < 32; o++) {
            u32 i = o & 15;
            float x = F32(theirs + 4 * o), y = F32(theirs + 4 * (o ^ 16)), co = F32(cosines + 4 * i), si = F32(cosines + 64 + 4 * i);
            float xc = x * co, ys = y * si;
            REG(row + 4 * o) = as_bits(o < 16 ? xc - ys : xc + ys);
          }
        } else {
          u32 half = cols / 2, i = 32 * m, first = i < half;
          if (!first) i -= half;
          for (u32 o = 0; o < 32; o++, i++) {
            float xc = F32(row + 4 * o) * F32(cosines + 4 * i), ys = F32(theirs + 4 * o) * F32(cosines + 4 * (half + i));
            REG(row + 4 * o) = as_bits(first ? xc - ys : xc + ys);
          }
        }
        drain(row + 124);
        if (p) {
          acks = keep(keys_of(a, layer, g / team, r, pos), m * BLOCK, pos, 1, row, a->blocks, acks);
          continue;
        }
        for (u32 i = g - m; i < g - m + team; i++) {
          u32 xy = REG(TILES_AT + 4 * ((PART(part)->turn + i) % tiles));
          niu_write(NIU_SENDER, xy, a->q + ((i / tiles * tokens + r) * cols + 32 * m) * 4, 0, row, 128);
          acks++;
        }
      }
  }
  u32 values = my_chunks(part + 2), g = my_first(part + 2);
  for (u32 c = 0; c < values; c++, g += tiles, out += stride)
    for (u32 r = 0; r < tokens; r++) {
      float s = F32(SCALES + 4 * r) * as_float(PART(part + 2)->scale);
      u32 row = a->found, pos = REG(a->rows_at + 8 * r);
      for (u32 o = 0; o < 32; o++) REG(row + 4 * o) = as_bits(F32(out + 4 * out_at(rows, r, o)) * s);
      drain(row + 124);
      acks = keep(keys_of(a, layer, g / team, r, pos), (team + g % team) * BLOCK, pos, 0, row, a->blocks, acks);
    }
  acked(acks);
  acks = meet(v, acks, meeting, 0);
  // score: blocks come one ahead of their use, and go to the team while the core is at the next one
  u32 n = my_chunks(part), first = my_first(part), room = a->pairs * 256, k = 0, last_at = 0, last_chunk = 0;
  for (u32 c = 0; c < n; c++) {
    u32 chunk = first + c * tiles, head = chunk / team;
    for (u32 r = 0; r < tokens; r++) {
      u32 len = REG(a->rows_at + 8 * r) + 1, q = a->q + (c * tokens + r) * cols * 4, at = (c * tokens + r) * room;
      for (u32 b = chunk % team; b * 32 < len; b += team, k++) {
        u32 l1 = a->blocks + (k & 1) * cols * 128;
        fetch(4 + (k & 1), keys_of(a, layer, head / a->group, r, b * 32), 0, l1, cols * 128); // the core is at the other one
        fetched(4 + (k & 1));
        ask(SCORES, q, l1, cols, a->scale, a->found + (k & 1) * 256);
        if (k) acks = tell_team(a, part, last_chunk, last_at, tokens * room, a->found + (~k & 1) * 256, acks);
        last_at = at + b * 128, last_chunk = chunk;
      }
    }
  }
  answered();
  if (k) acks = tell_team(a, part, last_chunk, last_at, tokens * room, a->found + (~k & 1) * 256, acks);
  acked(acks);
  acks = meet(v, acks, meeting, 0);
  // mix
  for (u32 c = 0; c < n; c++) {
    u32 head = (first + c * tiles) / team, m = (first + c * tiles) % team;
    for (u32 r = 0; r < tokens; r++) {
      u32 len = REG(a->rows_at + 8 * r) + 1, s = a->scores + (c * tokens + r) * room, kk = 0;
      float most = 0;
      for (u32 from = 0; from < len; from += SPAN) {
        u32 have = len - from < SPAN ? len - from : SPAN, pairs = (have + 63) / 64, w = a->weights + (from & SPAN) * 4;
        float largest = F32(s);
        for (u32 i = 0; i < 64 * pairs; i++, s += 4) {
          float x = i < have ? F32(s) : -3e38f;
          if (x > largest) largest = x;
          REG(w + spread_at(i >> 5, i & 31)) = as_bits(x);
        }
        drain(w + pairs * 256 - 4);
        ask(WEIGHTS, w, pairs, as_bits(largest), a->found, 0);
        answered();
        see();
        float lane[32];
        for (u32 i = 0; i < 32; i++) lane[i] = F32(a->found + 4 * SPREAD(i));
        for (u32 b = 0; b < have; b += 32, kk++) {
          u32 l1 = a->blocks + (kk & 1) * BLOCK;
          fetch(4 + (kk & 1), keys_of(a, layer, head / a->group, r, from + b), (team + m) * BLOCK, l1, BLOCK);
          fetched(4 + (kk & 1));
          ask(MIX, l1, w + spread_at(b >> 5, 0), have - b < 32 ? have - b : 32, !b, 0);
        }
        u32 larger = largest > most, how = !from ? JOIN_FIRST : larger ? JOIN_LARGER : JOIN_SMALLER;
        ask(JOIN, how, as_bits(larger ? most - largest : largest - most), as_bits(fold(lane)), from + SPAN < len ? 0 : a->found, 0);
        if (!from || larger) most = largest;
      }
      answered();
      see();
      u32 row = v->h + c * stride + r * 128;
      float inv = 1.0f / F32(a->found + 4);
      for (u32 o = 0; o < 32; o++) REG(row + 4 * o) = as_bits(F32(a->found + 4 * SPREAD(o)) * inv);
      drain(row + 124);
      if (v->norm) acks = send_squares(v, r, (first + c * tiles) * 32, row, acks);
    }
  }
  ask(REST, 0, 0, 0, 0, 0);
  answered();
  acked(acks);
  return norm_step(stage, n, first, v->h, acks, meeting);
}
#endif
