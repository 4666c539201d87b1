package kernel

import (
	"fmt"
	"math"
	"testing"
)

func TestQuantizeRow(t *testing.T) {
	rng := newRand(7)
	eachTier(t, func(t *testing.T) {
		check := func(what string, x []float32) {
			t.Helper()
			got, want := vecOf(t, Pad16(len(x)), func(int) int8 { return 99 }), make([]int8, Pad16(len(x)))
			s, sum := QuantizeRow(got, x)
			ws, wsum := quantizeRowGeneric(want, x)
			equalInts(t, what, got, want)
			equalBits(t, what+": scale", []float32{s}, []float32{ws})
			if sum != wsum {
				t.Fatalf("%s: sum %d, want %d", what, sum, wsum)
			}
		}
		for n := range 130 {
			check(fmt.Sprint(n, " values"), vecOf(t, n, floats(rng, false)))
			check(fmt.Sprint(n, " zeros"), vecOf(t, n, func(int) float32 { return 0 }))
			check(fmt.Sprint(n, " below 1e-5"), vecOf(t, n, func(i int) float32 { return float32(i%3-1) * 1e-7 }))
			// Ties: with a = 127 the scale is 1 and x = k+0.5 rounds to the even neighbour.
			check(fmt.Sprint(n, " ties"), vecOf(t, n, func(i int) float32 {
				if i == 0 {
					return -127
				}
				return float32(i%200-100) + 0.5
			}))
			check(fmt.Sprint(n, " normal"), vecOf(t, n, func(int) float32 { return float32(rng.NormFloat64()) }))
		}
		check("2560 values", vecOf(t, 2560, floats(rng, false)))
		for _, bad := range []float32{float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN())} {
			for _, at := range []int{0, 5, 31, 32, 69} {
				x := vecOf(t, 70, func(i int) float32 { return float32(i) })
				x[at] = bad
				check(fmt.Sprint(bad, " at ", at), x)
			}
		}
	})
}

// By hand, from the formula.
func TestQuantizeRowOfKnownValues(t *testing.T) {
	eachTier(t, func(t *testing.T) {
		x := []float32{0.5, -1, 0.25, 1.0 / 127, 0.5 / 127, 1.5 / 127, 0}
		q := make([]int8, 16)
		scale, sum := QuantizeRow(q, x)
		want := []int8{64, -127, 32, 1, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} // 63.5 and 31.75, 0.5 and 1.5 to even
		equalInts(t, "q", q, want)
		if scale != 1.0/127 || sum != 64-127+32+1+2 {
			t.Errorf("scale %v, sum %d", scale, sum)
		}
		inf := float32(math.Inf(1))
		if s, sum := QuantizeRow(q, []float32{1, inf}); s == s || sum != 0 || q[0] != 0 {
			t.Errorf("a row with an infinity: scale %v, sum %d, q %v; want NaN, 0, zeros", s, sum, q)
		}
	})
}

func TestRMSNorm(t *testing.T) {
	rng := newRand(8)
	eachTier(t, func(t *testing.T) {
		for _, n := range []int{1, 2, 7, 8, 31, 32, 33, 64, 100, 2560} {
			x, w := vecOf(t, n, func(int) float32 { return float32(rng.NormFloat64()) }), vecOf(t, n, floats(rng, false))
			got, want := vec[float32](t, n), make([]float32, n)
			RMSNorm(got, x, w, 1e-5)
			inv := 1 / float32(math.Sqrt(float64(dotF32Generic(x, x)/float32(n)+1e-5)))
			rmsScaleGeneric(want, x, w, inv)
			equalBits(t, fmt.Sprint("RMSNorm of ", n), got, want)

			q, wq := vec[int8](t, Pad16(n)), make([]int8, Pad16(n))
			scale, sum := RMSNormQuantize(q, got, x, w, 1e-5)
			ws, wsum := quantizeRowGeneric(wq, want)
			equalBits(t, fmt.Sprint("RMSNormQuantize of ", n), append(got, scale), append(want, ws))
			equalInts(t, "RMSNormQuantize", append([]int8(nil), q...), wq)
			if sum != wsum {
				t.Errorf("RMSNormQuantize of %d: sum %d, want %d", n, sum, wsum)
			}
			copy(got, x)
			RMSNorm(got, got, w, 1e-5)
			equalBits(t, fmt.Sprint("RMSNorm in place of ", n), got, want)
		}
	})
}
