//go:build !purego && (amd64 || arm64)

package kernel

type (
	attnScoresFunc[K weight] func(s *float32, stride int, q *float32, k *K, hd, queries int, scale float32, ahead int)
	attnMixFunc[V weight]    func(out, p *float32, stride int, v *V, n, hd, queries, ahead int)

	attnScoresI8Func func(s *float32, stride int, q *float32, k *int8, scales *float32, hd, queries int, scale float32, ahead int)
	attnMixI8Func    func(out, p *float32, stride int, v *int8, scales *float32, n, hd, queries, ahead int)
)

func attnScoresWith[K weight](scores attnScoresFunc[K]) func(s []float32, stride int, q []float32, k []K, queries int, scale float32, ahead int) {
	return func(s []float32, stride int, q []float32, k []K, queries int, scale float32, ahead int) {
		scores(&s[0], stride, &q[0], &k[0], len(q)/queries, queries, scale, ahead)
	}
}

func attnScoresI8With(scores attnScoresI8Func) func(s []float32, stride int, q []float32, k []int8, scales []float32, queries int, scale float32, ahead int) {
	return func(s []float32, stride int, q []float32, k []int8, scales []float32, queries int, scale float32, ahead int) {
		scores(&s[0], stride, &q[0], &k[0], &scales[0], len(q)/queries, queries, scale, ahead)
	}
}

// mixRows is how many rows of values are mixed at a time: a kernel goes over them once for each block of columns
// and each few queries, and 32 rows of a head stay in L1 meanwhile.
const mixRows = 32

// attnMixWith returns a tier's AttnMix: mix if a row is a multiple of so many lanes, otherwise other.
func attnMixWith[V weight](mix attnMixFunc[V], lanes int, other func(out, p []float32, stride int, v []V, queries, ahead int)) func(out, p []float32, stride int, v []V, queries, ahead int) {
	return func(out, p []float32, stride int, v []V, queries, ahead int) {
		hd := len(out) / queries
		if hd%lanes != 0 {
			other(out, p, stride, v, queries, ahead)
			return
		}
		n := len(v) / hd
		for j := 0; j < n; j += mixRows {
			mix(&out[0], &p[j], stride, &v[j*hd], min(mixRows, n-j), hd, queries, ahead)
		}
	}
}

// attnMixI8With is attnMixWith for AttnMixI8.
func attnMixI8With(mix attnMixI8Func, lanes int, other func(out, p []float32, stride int, v []int8, scales []float32, queries, ahead int)) func(out, p []float32, stride int, v []int8, scales []float32, queries, ahead int) {
	return func(out, p []float32, stride int, v []int8, scales []float32, queries, ahead int) {
		hd := len(out) / queries
		if hd%lanes != 0 {
			other(out, p, stride, v, scales, queries, ahead)
			return
		}
		n := len(v) / hd
		for j := 0; j < n; j += mixRows {
			mix(&out[0], &p[j], stride, &v[j*hd], &scales[j], min(mixRows, n-j), hd, queries, ahead)
		}
	}
}
