package kernel

import "unsafe"

// KeyTile is how many keys make a tile, in which element d of all of them lies together: a vector then holds one
// element of several keys, no sum runs across lanes, and the memory of a tile is read from its beginning to its end.
const KeyTile = 32

// SpanTokens is how many tokens share a largest score in attention.
const SpanTokens = 256

// Attention is the attention of one query: the definition of what engines make of this file's kernels. Tokens are taken in
// spans of SpanTokens. In each
//
//	s[j] = (Σ q[d]·k[j][d])·scale      see AttnScores
//	m = max s;  e[j] = exp(s[j] - m)
//	l = Σ e[j]                         in the canonical order
//	o = Σ e[j]·v[j]                    over j in turn, by fused multiply-add
//
// and spans are joined one after the other (Milakov and Gimelshein 2018, arXiv:1805.02867):
//
//	m' = max(m₁, m₂);  l' = exp(m₁-m')·l₁ + exp(m₂-m')·l₂
//	o'[d] = fma(exp(m₂-m'), o₂[d], exp(m₁-m')·o₁[d])
//
// in the end o·(1/l). So attention is the same however a prompt was cut, and whether one thread computes a head or several do.
//
//	out, q  [hd]
//	k, v    [n, hd] row-major, n > 0
func Attention(out, q, k, v []float32, scale float32) {
	hd := len(q)
	var m, l float32
	clear(out)
	for from := 0; from < len(k)/hd; from += SpanTokens {
		n := min(SpanTokens, len(k)/hd-from)
		s, o := make([]float32, n), make([]float32, hd)
		for j := range s {
			var sum [2]float32
			for d, qd := range q {
				sum[d%2] = fma32(qd, k[(from+j)*hd+d], sum[d%2])
			}
			s[j] = (sum[0] + sum[1]) * scale
		}
		m2 := maxGeneric(s)
		l2 := softmaxExpGeneric(s, m2)
		attnMixF32Generic(o, s, n, v[from*hd:(from+n)*hd], 1, 0)
		if from == 0 {
			m = m2
		}
		both := max(m, m2)
		a, b := Exp(m-both), Exp(m2-both)
		for d := range out {
			out[d] = fma32(b, o[d], a*out[d])
		}
		m, l = both, float32(a*l)+float32(b*l2)
	}
	inv := 1 / l
	for d := range out {
		out[d] *= inv
	}
}

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
