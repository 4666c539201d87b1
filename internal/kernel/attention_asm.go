//go:build !purego && (amd64 || arm64)

package kernel

type attnMixFunc[W weight] func(out, p *float32, stride int, v *W, n, hd, queries int)

// mixRows is how many rows of values are mixed at a time: a kernel goes over them once for each block of columns
// and each few queries, and 32 rows of a head stay in L1 meanwhile.
const mixRows = 32

// attnMixWith returns a tier's AttnMixGroup: mix if a row is a multiple of so many lanes, otherwise other.
func attnMixWith[W weight](mix attnMixFunc[W], lanes int, other func(out, p []float32, stride int, v []W, queries int)) func(out, p []float32, stride int, v []W, queries int) {
	return func(out, p []float32, stride int, v []W, queries int) {
		hd := len(out) / queries
		if hd%lanes != 0 {
			other(out, p, stride, v, queries)
			return
		}
		n := len(v) / hd
		for j := 0; j < n; j += mixRows {
			mix(&out[0], &p[j], stride, &v[j*hd], min(mixRows, n-j), hd, queries)
		}
	}
}
