// What the host and the five cores of a tile tell each other through L1. Package kernels mirrors this file; its
// tests compare the two.
#ifndef JOB_H
#define JOB_H
#include "chip.h"

enum { KIND_TERNARY = 0, KIND_INT8 = 1 };

// Written once per tile, before its cores start.
struct tile {
  u32 index, tiles;  // this tile is number index of tiles
  u32 bank;          // coordinates of the GDDR bank its weights are in
  u32 rank;          // it is the rank-th reader of that bank
  u32 host;          // coordinates of the PCIe tile
  u32 host_lo, host_hi;  // where the completion lines are, 64 bytes a tile
  u32 card;          // not a simulator: all of the chip's configuration is there
};
#define TILE ((volatile struct tile *)0x16000)

// A job is a list of stages, the same words for every tile: one, or all of a token's. A stage: products of one batch of
// activations with some matrices, and what becomes of the sums.
enum {
  THEN_HOST,    // to the host, as they are
  THEN_ACT,     // squared ReLU of the first matrix's times the second's, norm, int8: the next stage's activations
  THEN_ADD,     // added to the residual stream, norm, int8: the next stage's activations
  THEN_OUT,     // added to the residual stream, which goes to the host
  THEN_SCREEN,  // scores of the output head: the rows that can be best go to the host
  THEN_ATTEND,  // query, key and value: attention, norm, int8: the next stage's activations
  THEN_SILU,    // SiLU of the first matrix's times the second's, norm, int8: the next stage's activations
};
struct job {
  u32 kind;
  u32 rows;            // tokens in one pass: 1, 8 or 32
  u32 kt;              // K / 32: a multiple of 4, at most 252
  u32 chunk_bytes;     // of a chunk: 32 outputs by all of K
  u32 x;               // L1: activations
  u32 out, out_slots;  // L1: ring of finished chunks
  u32 ring, ring_slots;  // L1: ring of weight chunks
  u32 parts, first;    // matrices: PART(first) and on
  u32 more;            // of JOB(0): stages that follow
  u32 then;
};
#define BELL 0x16180u  // job number, and where its stages and parts are; written last, starts the job
#define JOB(stage) ((volatile struct job *)(REG(BELL + 4) + 128 * (stage)))

// A matrix of the job. The tiles take its chunks in turn, tile number `turn` the first: so the matrices of a job, one
// beginning where the other ended, keep all tiles equally busy. A tile's chunks lie one behind the other in its bank.
struct part {
  u32 chunks;
  u32 weights;         // GDDR address of the first reader's chunks
  u32 stride;          // bytes from one reader's chunks to the next reader's
  u32 turn;
  u32 dst_lo, dst_hi;  // host address of chunk 0's outputs
  u32 scale;           // float32: what a sum is worth, over the activations' scale
  u32 pad;
};
#define PART(i) ((volatile struct part *)(REG(BELL + 8) + 32 * (i)))

// Free-running counters, each with one writer and a line of its own.
#define LINE(n) (0x16200u + 16u * (n))
enum {
  FILLED = 0,  // mover: weight chunks in the ring
  FREED,       // unpack: weight chunks no longer needed
  PACKED,      // pack: output chunks in the ring
  SENT,        // sender: output chunks delivered
  DONE,        // DONE + core: last job finished by core 0..3
  ALIVE = 8,   // ALIVE + core: set once by each core at start
};
#define SCRATCH 0x16400u  // sender's completion line, 64 bytes: job, chunks, clocks, 16 bytes on clocks by THEN_…, last ~job
enum { CORE_MOVER, CORE_UNPACK, CORE_MATH, CORE_PACK, CORE_SENDER };
enum { READY = 0x7121 };

// What a stage's vector step works on, in vector.h and screen.h.
struct vector {
  u32 tokens, cols;  // real rows, and columns: 32 times the chunks of a matrix
  u32 eps;           // of the norm, float32
  u32 norm;          // GDDR address, in every bank, of the norm's weights, float32 [cols]; 0: no norm
  u32 h, res;        // L1: [chunks][rows][32] float32, what is normed; the residual stream, which stays between jobs
  u32 piece;         // L1: 4 KiB and 32 float32
  u32 gather, table; // L1: [owned quarters of lanes][cols / 32][4] float32; [tiles][32]
  u32 x_in;          // L1: [tokens][cols] float32, the residual stream where a pass begins, or 0
  u32 rect;          // multicast rectangle of all tiles: start << 12 | end
  u32 master;        // coordinates of tile 0
  u32 out_lo, out_hi;  // host address of the residual stream [tokens][cols], or of the lists of rows; SiLU: L1, 4 KiB
  u32 max_lo, max_hi;  // host address for the rows' largest magnitudes
};
#define VECTOR(stage) ((volatile struct vector *)(REG(BELL + 4) + 128 * (stage) + 64))

// What attention works on, the same for all layers of a job (attend.h). A vector of 32 numbers lies as the vector unit
// takes it from Dst: two of them share 64 words, number i of the first in word SPREAD(i), of the second one word on.
// Keys and values are in GDDR by pages of 32 tokens. A page has a slot, the same in every bank, and in it for each
// layer and key head [cols][32 tokens] keys, in blocks of 32 columns, and then [cols / 32][32 tokens][32] values.
struct attend {
  u32 heads, group, cols;   // query heads, how many of them share a key head, columns of a head: 32, 64 or 128
  u32 key_heads;
  u32 scale;                // float32: 1 / sqrt(cols)
  u32 each;                 // most chunks that a tile has of q, k or v
  u32 banks, bank_at;       // how many, and L1: their coordinates
  u32 base, slot_bytes;     // GDDR: slot 0; from one slot to the next
  u32 rows_at;              // L1: [tokens] position, L1 address of the sequence's list of slots
  u32 rope;                 // L1: [tokens][2][cols / 2] cosines, sines
  u32 mine, theirs;         // L1: [2][each][tokens][32] of q and k: this tile's, and the chunks they are turned with
  u32 q;                    // L1: [each][tokens][cols] the queries of this tile's heads
  u32 scores, pairs;        // L1: [each][tokens][2 * pairs][32]
  u32 weights;              // L1: [2][SPAN], of two spans of one token and head, and 3 KiB
  u32 blocks;               // L1: two keys' blocks
  u32 found;                // L1: 2 * 256 bytes, what the vector unit found
};
enum { SPAN = 256 }; // tokens whose weights are of one largest score
#define SPREAD(i) (((i) >> 3) * 16 + ((i) & 7) * 2)

// The sender's orders to the matrix core, which has the vector unit do them.
struct order {
  u32 what;
  u32 a, b, c, d, e;
};
enum {
  SCORES,   // a: query, b: block of keys, c: its columns, d: scale; e: where 32 scores go
  WEIGHTS,  // a: pairs of scores, b: how many, c: the largest; they become exp(score - c); d: where 32 lanes of their sum go
  MIX,      // a: block of values, b: weights of its tokens, c: how many; d: begin anew
  JOIN,     // the span that was mixed with those before it. a: which has the larger score, b: how much less the other's
            // is, c: sum of the span's weights; d: where 32 sums over values, and of weights, go, or 0
  REST,     // back to products
  EXPS,     // a: pairs of vectors, b: how many; they become their exponentials
};
enum { JOIN_FIRST, JOIN_SMALLER, JOIN_LARGER }; // the span is the first; its largest score is not larger; it is larger
#define ORDER ((volatile struct order *)0x17F40)
#define ASKED 0x17F20u     // orders given
#define ANSWERED 0x17F30u  // orders done
#define TILES_AT 0x16A00u   // coordinates of all tiles
#define SCALES 0x16500u     // float32 [32]: the activations' scales, by row; [32] more for the screen
#define INVERSE(r) (0x16600u + 16u * (r))  // 1/rms of row r, and the meeting after which it was made
#define ARRIVALS 0x17400u   // on tile 0: how many tiles have come to meetings, all meetings together
#define ARRIVED 0x17410u    // what comes back of adding to that
#define RELEASE 0x17D00u    // the last meeting that is over
#define LARGEST 0x17D80u    // [32] largest magnitudes of all tiles
#define MINE 0x17E00u       // [32] of this tile
#define NOTE 0x17E80u       // a line to send
#define LANES(row, g) (0x18000u + 256u * (row) + 32u * (g))  // lanes 4g to 4g + 3 of an owned row's sum; 16 bytes on, the meeting
#define X_READY 0x17F00u    // STAGE(job, stage) whose activations are there
#define STAGE(job, stage) ((job) * 4096 + (stage))

// This tile's first chunk of a matrix, and how many it has: every `tiles`-th from there on.
static inline u32 my_first(u32 part) {
  u32 t = TILE->tiles, i = TILE->index, turn = PART(part)->turn;
  return i >= turn ? i - turn : i + t - turn;
}
static inline u32 my_chunks(u32 part) {
  u32 t = TILE->tiles, c = PART(part)->chunks, i = my_first(part);
  return c > i ? (c - i + t - 1) / t : 0;
}
static inline u32 all_chunks(u32 stage) {
  u32 n = 0;
  for (u32 p = 0; p < JOB(stage)->parts; p++) n += my_chunks(JOB(stage)->first + p);
  return n;
}
static inline u32 out_bytes(u32 rows) { return 128 * rows; }

static inline void alive(u32 core) { post(LINE(ALIVE + core), READY); }
static inline u32 next_job(u32 last) {
  u32 n;
  while ((n = peek(BELL)) == last) {}
  return n;
}
#endif
