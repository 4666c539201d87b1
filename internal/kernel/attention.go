package kernel

// AttnScores computes s[j] = Dot(q, k[j])·scale for the n keys of one head.
//
//	s  [n], q [hd], k [n, hd] row-major
func AttnScores(s, q, k []float32, scale float32) {
	if len(k) != len(s)*len(q) {
		badLength("AttnScores(s, q, k)", len(s), len(q), len(k))
	}
	if len(s) != 0 {
		active.attnScores(s, q, k, scale)
	}
}

// SoftmaxExp replaces s[j] by Exp(s[j] - max) and returns their canonical sum. A head whose keys lie in
// several pages has one slice of scores, which AttnScores fills page by page.
func SoftmaxExp(s []float32, max float32) (sum float32) { return active.softmaxExp(s, max) }

// AttnMix adds the values weighted by p: out[d] = fma(p[j], v[j][d], out[d]) for j = 0, 1, … in turn.
// Pages of values give one result, called in order.
//
//	out  [hd], p [n], v [n, hd] row-major
func AttnMix(out, p, v []float32) {
	if len(v) != len(p)*len(out) {
		badLength("AttnMix(out, p, v)", len(out), len(p), len(v))
	}
	if len(v) != 0 {
		active.attnMix(out, p, v)
	}
}
