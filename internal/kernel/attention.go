package kernel

import "unsafe"

// KeyTile is how many keys make a tile, in which element d of all of them lies together: a vector then holds one
// element of several keys, no sum runs across lanes, and the memory of a tile is read from its beginning to its end.
const KeyTile = 32

// AttnScores computes the scores of a tile of keys for several queries, those of a group of heads or of neighbouring
// tokens:
//
//	s[g·stride+j] = (Σ q[g][d]·k[d][j])·scale
//
// in two sums, of even d and of odd d, each from +0 by fused multiply-add in turn, which are added then: one sum alone
// would round often enough to show.
//
//	s     at least (queries-1)·stride + KeyTile long
//	q     [queries, hd], k [hd, KeyTile]
//	next  what will be read next, nil when that is not known: it is asked for meanwhile, since memory alone does not
//	      see one tile behind another
func AttnScores(s []float32, stride int, q, k []float32, queries int, scale float32, next []float32) {
	checkScores(len(s), stride, len(q), len(k), KeyTile, queries)
	active.attnScoresF32(s, stride, q, k, queries, scale, ahead(k, next))
}

// AttnScoresF16 is AttnScores for keys in binary16.
func AttnScoresF16(s []float32, stride int, q []float32, k []uint16, queries int, scale float32, next []uint16) {
	checkScores(len(s), stride, len(q), len(k), KeyTile, queries)
	active.attnScoresF16(s, stride, q, k, queries, scale, ahead(k, next))
}

// AttnScoresI8 is AttnScores for keys in int8, key j times scales[j]:
//
//	s[g·stride+j] = (Σ q[g][d]·k[d][j])·(scale·scales[j])
func AttnScoresI8(s []float32, stride int, q []float32, k []int8, scales []float32, queries int, scale float32, next []int8) {
	checkScores(len(s), stride, len(q), len(k), len(scales), queries)
	active.attnScoresI8(s, stride, q, k, scales, queries, scale, ahead(k, next))
}

func checkScores(s, stride, q, k, scales, queries int) {
	if queries <= 0 || q == 0 || q%queries != 0 || k != q/queries*KeyTile || scales != KeyTile ||
		stride < KeyTile || s < (queries-1)*stride+KeyTile {
		badLength("AttnScores(s, stride, q, k, scales, queries)", s, stride, q, k, scales, queries)
	}
}

// SoftmaxExp replaces s[j] by Exp(s[j] - max) and returns their canonical sum.
func SoftmaxExp(s []float32, max float32) (sum float32) { return active.softmaxExp(s, max) }

// AttnMix adds the values weighted by p, for several queries that share them:
//
//	out[g][d] = fma(p[g·stride+j], v[j][d], out[g][d]) for j = 0, 1, … in turn
//
// Pages of values give one result, called in order.
//
//	out   [queries, hd], v [n, hd] row-major
//	next  as in AttnScores
func AttnMix(out, p []float32, stride int, v []float32, queries int, next []float32) {
	if n := checkMix(len(out), len(p), stride, len(v), queries); n > 0 {
		active.attnMixF32(out, p, stride, v, queries, ahead(v, next))
	}
}

// AttnMixF16 is AttnMix for values in binary16.
func AttnMixF16(out, p []float32, stride int, v []uint16, queries int, next []uint16) {
	if n := checkMix(len(out), len(p), stride, len(v), queries); n > 0 {
		active.attnMixF16(out, p, stride, v, queries, ahead(v, next))
	}
}

// AttnMixI8 is AttnMix for values in int8, value j times scales[j]: the weight of value j is p[g·stride+j]·scales[j],
// rounded.
//
//	scales  [n]
func AttnMixI8(out, p []float32, stride int, v []int8, scales []float32, queries int, next []int8) {
	n := checkMix(len(out), len(p), stride, len(v), queries)
	if len(scales) != n {
		badLength("AttnMixI8(out, p, stride, v, scales, queries)", len(out), len(p), stride, len(v), len(scales), queries)
	}
	if n > 0 {
		active.attnMixI8(out, p, stride, v, scales, queries, ahead(v, next))
	}
}

// ahead is how many bytes behind now next begins.
func ahead[T any](now, next []T) int {
	if len(next) == 0 {
		return 0
	}
	return int(uintptr(unsafe.Pointer(&next[0])) - uintptr(unsafe.Pointer(&now[0])))
}

// checkMix returns the number of values, and panics when lengths disagree.
func checkMix(out, p, stride, v, queries int) int {
	if v == 0 {
		return 0
	}
	if queries <= 0 || out == 0 || out%queries != 0 || v%(out/queries) != 0 {
		badLength("AttnMix(out, p, stride, v, queries)", out, p, stride, v, queries)
	}
	n := v / (out / queries)
	if stride < n || p < (queries-1)*stride+n {
		badLength("AttnMix(out, p, stride, v, queries)", out, p, stride, v, queries)
	}
	return n
}
