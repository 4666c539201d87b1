package kernel

// AttnScores computes s[j] = Dot(q, k[j])·scale for the n keys of one head.
//
//	s  [n], q [hd], k [n, hd] row-major
func AttnScores(s, q, k []float32, scale float32) {
	AttnScoresGroup(s, len(s), q, k, 1, scale)
}

// AttnScoresGroup is AttnScores for several queries that share their keys, as those of a group of heads or of
// neighbouring tokens do: k is read once.
//
//	s  s[g·stride+j] is the score of query g and key j
//	q  [queries, hd], k [n, hd]
func AttnScoresGroup(s []float32, stride int, q, k []float32, queries int, scale float32) {
	MatMulF32Stride(s, stride, k, q, queries)
	scaleScores(s, stride, len(q), len(k), queries, scale)
}

// AttnScoresGroupF16 is AttnScoresGroup for keys in binary16.
func AttnScoresGroupF16(s []float32, stride int, q []float32, k []uint16, queries int, scale float32) {
	MatMulF16Stride(s, stride, k, q, queries)
	scaleScores(s, stride, len(q), len(k), queries, scale)
}

func scaleScores(s []float32, stride, q, k, queries int, scale float32) {
	if k == 0 {
		return
	}
	n := k / (q / queries)
	for g := range queries {
		active.scale(s[g*stride:][:n], scale)
	}
}

// SoftmaxExp replaces s[j] by Exp(s[j] - max) and returns their canonical sum. A head whose keys lie in
// several pages has one slice of scores, which AttnScores fills page by page.
func SoftmaxExp(s []float32, max float32) (sum float32) { return active.softmaxExp(s, max) }

// AttnMix adds the values weighted by p: out[d] = fma(p[j], v[j][d], out[d]) for j = 0, 1, … in turn.
// Pages of values give one result, called in order.
//
//	out  [hd], p [n], v [n, hd] row-major
func AttnMix(out, p, v []float32) { AttnMixGroup(out, p, len(p), v, 1) }

// AttnMixGroup is AttnMix for several queries that share their values: v is read once.
//
//	out  [queries, hd]
//	p    p[g·stride+j] is the weight of value j for query g
//	v    [n, hd]
func AttnMixGroup(out, p []float32, stride int, v []float32, queries int) {
	if checkMix(len(out), len(p), stride, len(v), queries) {
		active.attnMixF32(out, p, stride, v, queries)
	}
}

// AttnMixGroupF16 is AttnMixGroup for values in binary16.
func AttnMixGroupF16(out, p []float32, stride int, v []uint16, queries int) {
	if checkMix(len(out), len(p), stride, len(v), queries) {
		active.attnMixF16(out, p, stride, v, queries)
	}
}

// checkMix reports whether there is anything to add, and panics when lengths disagree.
func checkMix(out, p, stride, v, queries int) bool {
	if v == 0 {
		return false
	}
	if queries <= 0 || out == 0 || out%queries != 0 || v%(out/queries) != 0 {
		badLength("AttnMix(out, p, stride, v, queries)", out, p, stride, v, queries)
	}
	n := v / (out / queries)
	if stride < n || p < (queries-1)*stride+n {
		badLength("AttnMix(out, p, stride, v, queries)", out, p, stride, v, queries)
	}
	return true
}
