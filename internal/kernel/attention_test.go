package kernel

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

func TestAttnScores(t *testing.T) {
	rng := newRand(9)
	eachTier(t, func(t *testing.T) {
		for _, hd := range []int{1, 3, 16, 20, 64, 96, 128} {
			for _, queries := range []int{1, 2, 3, 4, 5, 7, 8, 9, 15} {
				wild := rng.IntN(4) == 0
				stride := KeyTile + rng.IntN(3)
				size := (queries-1)*stride + KeyTile
				q := vecOf(t, queries*hd, floats(rng, wild))
				got, want := vec[float32](t, size), make([]float32, size)
				check := func(name string) {
					t.Helper()
					equalBits(t, fmt.Sprintf("%s of %d queries of %d", name, queries, hd), got, want)
					clear(got)
					clear(want)
				}
				k := vecOf(t, hd*KeyTile, floats(rng, wild))
				AttnScores(got, stride, q, k, queries, 0.088, nil)
				attnScoresF32Generic(want, stride, q, k, queries, 0.088, 0)
				check("AttnScores")
				h := vecOf(t, hd*KeyTile, halves(rng, F16, wild))
				AttnScoresF16(got, stride, q, h, queries, 0.088, nil)
				attnScoresF16Generic(want, stride, q, h, queries, 0.088, 0)
				check("AttnScoresF16")
				b, scales := vecOf(t, hd*KeyTile, bytesFrom(rng)), vecOf(t, KeyTile, floats(rng, wild))
				AttnScoresI8(got, stride, q, b, scales, queries, 0.088, nil)
				attnScoresI8Generic(want, stride, q, b, scales, queries, 0.088, 0)
				check("AttnScoresI8")
			}
		}
	})
}

func bytesFrom(rng *rand.Rand) func(int) int8 {
	return func(int) int8 { return int8(rng.IntN(256) - 128) }
}

// The sum of a score is that of its formula, to the last bit.
func TestAttnScoresAreSums(t *testing.T) {
	rng := newRand(12)
	const hd = 48
	q, k := fill(hd, floats(rng, false)), fill(hd*KeyTile, floats(rng, false))
	eachTier(t, func(t *testing.T) {
		got, want := make([]float32, KeyTile), make([]float32, KeyTile)
		AttnScores(got, KeyTile, q, k, 1, 0.5, nil)
		for j := range want {
			var even, odd float32
			for d := 0; d < hd; d += 2 {
				even = fma32(q[d], k[d*KeyTile+j], even)
				odd = fma32(q[d+1], k[(d+1)*KeyTile+j], odd)
			}
			want[j] = even + odd
		}
		Scale(want, 0.5)
		equalBits(t, "scores", got, want)
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
					start := fill(queries*hd, floats(rng, false))
					got, want := vec[float32](t, queries*hd), make([]float32, queries*hd)
					begin := func() {
						copy(got, start)
						copy(want, start)
					}
					check := func(name string) {
						t.Helper()
						equalBits(t, fmt.Sprintf("%s of %d queries, %d values of %d", name, queries, n, hd), got, want)
						begin()
					}
					begin()
					v := vecOf(t, n*hd, floats(rng, wild))
					AttnMix(got, p, stride, v, queries, nil)
					attnMixF32Generic(want, p, stride, v, queries, 0)
					check("AttnMix")
					h := vecOf(t, n*hd, halves(rng, F16, wild))
					AttnMixF16(got, p, stride, h, queries, nil)
					attnMixF16Generic(want, p, stride, h, queries, 0)
					check("AttnMixF16")
					b, scales := vecOf(t, n*hd, bytesFrom(rng)), vecOf(t, n, floats(rng, wild))
					AttnMixI8(got, p, stride, b, scales, queries, nil)
					attnMixI8Generic(want, p, stride, b, scales, queries, 0)
					check("AttnMixI8")
				}
			}
		}
	})
}

// Values in several pieces give the bits of one piece.
func TestAttnMixInPieces(t *testing.T) {
	rng := newRand(11)
	const hd, n = 64, 100
	p, v := fill(n, floats(rng, false)), fill(n*hd, floats(rng, false))
	eachTier(t, func(t *testing.T) {
		mix := func(cuts ...int) []float32 {
			out := make([]float32, hd)
			lo := 0
			for _, hi := range append(cuts, n) {
				AttnMix(out, p[lo:hi], hi-lo, v[lo*hd:hi*hd], 1, nil)
				lo = hi
			}
			return out
		}
		whole := mix()
		equalBits(t, "pieces of 16", mix(16, 32, 48, 64, 80, 96), whole)
		equalBits(t, "odd pieces", mix(1, 2, 50, 99), whole)
	})
}
