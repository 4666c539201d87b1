package kernel

import (
	"fmt"
	"testing"
)

func TestAttnScores(t *testing.T) {
	rng := newRand(9)
	eachTier(t, func(t *testing.T) {
		for _, hd := range []int{16, 20, 64, 96, 128} {
			for _, n := range []int{0, 1, 2, 3, 4, 5, 17, 40} {
				for _, queries := range []int{1, 2, 3, 4, 5} {
					wild := rng.IntN(4) == 0
					stride := n + rng.IntN(3)
					size := (queries-1)*stride + n
					q := vecOf(t, queries*hd, floats(rng, wild))
					k := vecOf(t, n*hd, floats(rng, wild))
					h := vecOf(t, n*hd, halves(rng, F16, wild))
					got, want := vec[float32](t, size), make([]float32, size)
					what := fmt.Sprintf("%d queries, %d keys of %d", queries, n, hd)
					scores := func(f func(g, j int) float32) {
						clear(want)
						for g := range queries {
							for j := range n {
								want[g*stride+j] = f(g, j) * 0.088
							}
						}
					}
					scores(func(g, j int) float32 { return dotF32Generic(q[g*hd:(g+1)*hd], k[j*hd:(j+1)*hd]) })
					AttnScoresGroup(got, stride, q, k, queries, 0.088)
					equalBits(t, "AttnScoresGroup of "+what, got, want)
					scores(func(g, j int) float32 { return dotF16Generic(h[j*hd:(j+1)*hd], q[g*hd:(g+1)*hd]) })
					clear(got)
					AttnScoresGroupF16(got, stride, q, h, queries, 0.088)
					equalBits(t, "AttnScoresGroupF16 of "+what, got, want)
				}
			}
		}
	})
}

func TestAttnMix(t *testing.T) {
	rng := newRand(10)
	eachTier(t, func(t *testing.T) {
		for _, hd := range []int{1, 8, 16, 20, 24, 64, 80, 96, 128, 256} {
			for _, n := range []int{0, 1, 2, 5, 31, 32, 33, 70} {
				for _, queries := range []int{1, 2, 3, 4, 5, 7} {
					if hd*n*queries > 20_000 {
						continue
					}
					wild := rng.IntN(4) == 0
					stride := n + rng.IntN(3)
					p := vecOf(t, (queries-1)*stride+n, floats(rng, wild))
					v := vecOf(t, n*hd, floats(rng, wild))
					h := vecOf(t, n*hd, halves(rng, F16, wild))
					start := fill(queries*hd, floats(rng, false))
					got, want := vec[float32](t, queries*hd), make([]float32, queries*hd)
					what := fmt.Sprintf("%d queries, %d values of %d", queries, n, hd)
					copy(got, start)
					copy(want, start)
					AttnMixGroup(got, p, stride, v, queries)
					attnMixF32Generic(want, p, stride, v, queries)
					equalBits(t, "AttnMixGroup of "+what, got, want)
					copy(got, start)
					copy(want, start)
					AttnMixGroupF16(got, p, stride, h, queries)
					attnMixF16Generic(want, p, stride, h, queries)
					equalBits(t, "AttnMixGroupF16 of "+what, got, want)
				}
			}
		}
	})
}

// Pages of keys and values, cut anywhere, give the bits of one piece.
func TestAttentionOverPages(t *testing.T) {
	rng := newRand(11)
	const hd, n = 64, 100
	q, k, v := fill(hd, floats(rng, false)), fill(n*hd, floats(rng, false)), fill(n*hd, floats(rng, false))
	eachTier(t, func(t *testing.T) {
		attend := func(cuts ...int) []float32 {
			s, out := make([]float32, n), make([]float32, hd)
			lo := 0
			for _, hi := range append(cuts, n) {
				AttnScores(s[lo:hi], q, k[lo*hd:hi*hd], 1e-3)
				lo = hi
			}
			Scale(s, 1/SoftmaxExp(s, Max(s)))
			lo = 0
			for _, hi := range append(cuts, n) {
				AttnMix(out, s[lo:hi], v[lo*hd:hi*hd])
				lo = hi
			}
			return out
		}
		whole := attend()
		equalBits(t, "pages of 16", attend(16, 32, 48, 64, 80, 96), whole)
		equalBits(t, "odd pages", attend(1, 2, 50, 99), whole)
	})
}
