package gemm

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// eachTier runs a test once per tier of this machine.
func eachTier(t *testing.T, f func(t *testing.T)) {
	was := Tier()
	defer SetTier(was)
	for _, tier := range Tiers() {
		if err := SetTier(tier); err != nil {
			t.Fatal(err)
		}
		t.Run(tier, f)
	}
}

var shapes = [][3]int{{1, 1, 1}, {8, 32, 8}, {9, 33, 7}, {64, 256, 31}, {65, 257, 300}, {3, 100, 64}, {130, 40, 515}}

func random(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// packF32 packs an operand [rows, k] whose depth is contiguous.
func packF32(src []float32, rows, k, R int) []float32 {
	if R == MR {
		d := make([]uint32, ASize(rows, k))
		PackA(d, Units(src), k, rows, k, 0, Steps(rows, MR))
		return F32s(d)
	}
	d := make([]uint32, BSize(rows, k))
	PackB(d, Units(src), k, rows, k, 0, Steps(rows, NR), 0)
	return F32s(d)
}

func transpose(x []float32, rows, cols int) []float32 {
	o := make([]float32, len(x))
	for r := range rows {
		for c := range cols {
			o[c*rows+r] = x[r*cols+c]
		}
	}
	return o
}

func TestF32IsOneChainPerElement(t *testing.T) {
	eachTier(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(1, 2))
		for _, s := range shapes {
			m, n, k := s[0], s[1], s[2]
			a, b, c := random(r, m*k), random(r, n*k), random(r, m*n)
			want := make([]float32, m*n)
			for i := range m {
				for j := range n {
					x := c[i*n+j]
					for q := range k {
						x = fma32(a[i*k+q], b[j*k+q], x)
					}
					want[i*n+j] = x
				}
			}
			cols := make([]uint32, BSize(n, k))
			PackF32Cols(cols, transpose(b, n, k), n, n, k, NR, 0, k)
			for _, pb := range [][]float32{packF32(b, n, k, NR), F32s(cols)} {
				got := append([]float32(nil), c...)
				F32(nil, got, n, m, n, k, packF32(a, m, k, MR), pb, true)
				for i := range got {
					if got[i] != want[i] {
						t.Fatalf("m,n,k=%v: element %d is %g, want %g", s, i, got[i], want[i])
					}
				}
			}
		}
	})
}

func TestIntegerProductsAreExact(t *testing.T) {
	eachTier(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(3, 4))
		for _, s := range shapes {
			m, n, k := s[0], s[1], s[2]
			kp := up(k, 32)
			x, w := make([]int8, m*kp), make([]int8, n*kp)
			scale, init := make([]float32, up(m, MR)), make([]int32, up(m, MR))
			for i := range m {
				scale[i] = float32(r.Float64())
				for q := range k {
					x[i*kp+q] = int8(r.IntN(255) - 127)
					if r.IntN(8) == 0 {
						x[i*kp+q] = -128
					}
					init[i] -= int32(x[i*kp+q])
				}
			}
			for i := range n {
				for q := range kp {
					if q < k {
						w[i*kp+q] = int8(r.IntN(3) - 1)
					}
				}
			}
			want := make([]float32, m*n)
			c := random(r, m*n)
			for i := range m {
				for j := range n {
					var sum int32
					for q := range k {
						sum += int32(x[i*kp+q]) * int32(w[j*kp+q])
					}
					want[i*n+j] = float32(float32(sum)*scale[i]) + c[i*n+j]
				}
			}
			a, b := make([]uint32, ASize(m, kp/4)), make([]uint32, BSize(n, kp/4))
			PackA(a, Units(x), kp/4, m, kp/4, 0, Steps(m, MR))
			PackB(b, Units(w), kp/4, n, kp/4, 0, Steps(n, NR), 0x01010101)
			got := append([]float32(nil), c...)
			I8(nil, got, n, m, n, kp/4, a, b, scale, init, true)
			equal(t, fmt.Sprint("I8 ", s), got, want)

			// The same through int16 pairs, both operands stored depth-major.
			np, mp := up(n, NR), up(m, MR)
			wt, xt := make([]int8, kp*np), make([]float32, kp*mp)
			for q := range kp {
				for j := range n {
					wt[q*np+j] = w[j*kp+q]
				}
				for i := range m {
					xt[q*mp+i] = float32(x[i*kp+q])
				}
			}
			ones, zero := make([]float32, max(mp, kp)), make([]float32, mp)
			for i := range ones {
				ones[i] = 1
			}
			st := Steps(k, 2)
			a, b = make([]uint32, ASize(m, st)), make([]uint32, BSize(n, st))
			PackF32Pairs(a, xt, mp, mp, k, st, 0, st, ones, ones, zero)
			PackI8Pairs(b, wt, np, k, st, NR, 0, st, make([]int8, np))
			copy(got, c)
			I16(nil, got, n, m, n, st, a, b, scale, true)
			equal(t, fmt.Sprint("I16 ", s), got, want)
		}
	})
}

func equal(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%s: element %d is %g, want %g", what, i, got[i], want[i])
		}
	}
}

func TestRowPasses(t *testing.T) {
	eachTier(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(5, 6))
		for _, n := range []int{1, 7, 31, 32, 33, 64, 100, 512, 1027} {
			x := random(r, n)
			for i := range x {
				if r.IntN(4) == 0 {
					x[i] = float32(math.Round(float64(x[i])*2) / 2) // ties
				}
			}
			tail := n &^ 31
			m, s := absMaxGeneric(x), float32(0)
			if tail > 0 {
				s = sumAbsGeneric(x[:tail])
			}
			for _, v := range x[tail:] {
				s += abs(v)
			}
			if AbsMax(x) != m || SumAbs(x) != s {
				t.Fatalf("n=%d: AbsMax %g want %g, SumAbs %g want %g", n, AbsMax(x), m, SumAbs(x), s)
			}
			q, w := make([]int8, n+5), make([]int8, n)
			for _, f := range []float32{1, 100, 127 / m} {
				QuantI8(q, x, f)
				quantI8Generic(w, x, f)
				for i := range w {
					if q[i] != w[i] {
						t.Fatalf("QuantI8 n=%d i=%d: %d want %d", n, i, q[i], w[i])
					}
				}
				Ternary(q, x, f)
				ternaryCodesGeneric(w, x, f)
				for i := range w {
					if q[i] != w[i] {
						t.Fatalf("Ternary n=%d i=%d: %d want %d", n, i, q[i], w[i])
					}
				}
			}
			q16, w16 := make([]int16, n), make([]int16, n)
			QuantI16(q16, x, 32767/m)
			quantI16Generic(w16, x, 32767/m)
			for i := range w16 {
				if q16[i] != w16[i] {
					t.Fatalf("QuantI16 n=%d i=%d: %d want %d", n, i, q16[i], w16[i])
				}
			}
			cm, cw := make([]float32, n), make([]float32, n)
			ColMaxAbs(cm, x, 3)
			colMaxAbsGeneric(cw, x, 3)
			equal(t, "ColMaxAbs", cm, cw)
		}
	})
}

func benchmark(b *testing.B, unit int, f func(a, w []uint32, c, s []float32, init []int32, steps int)) {
	const m, n, k = 1024, 512, 512
	steps := k / unit
	a, w := make([]uint32, ASize(m, steps)), make([]uint32, BSize(n, steps))
	c, s := make([]float32, m*n), make([]float32, m)
	init := make([]int32, m)
	for b.Loop() {
		f(a, w, c, s, init, steps)
	}
	b.ReportMetric(2*m*n*k*float64(b.N)/b.Elapsed().Seconds()/1e9, "GOP/s")
}

func BenchmarkF32(b *testing.B) {
	benchmark(b, 1, func(a, w []uint32, c, s []float32, _ []int32, k int) {
		F32(nil, c, 512, 1024, 512, k, F32s(a), F32s(w), false)
	})
}

func BenchmarkI16(b *testing.B) {
	benchmark(b, 2, func(a, w []uint32, c, s []float32, _ []int32, k int) {
		I16(nil, c, 512, 1024, 512, k, a, w, s, false)
	})
}

func BenchmarkI8(b *testing.B) {
	benchmark(b, 4, func(a, w []uint32, c, s []float32, init []int32, k int) {
		I8(nil, c, 512, 1024, 512, k, a, w, s, init, false)
	})
}

func TestSumI8(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for _, n := range []int{0, 1, 7, 8, 9, 64, 1023, 1024, 1032, 2048, 5000} {
		for _, f := range []func() int8{func() int8 { return int8(rng.Uint32()) }, func() int8 { return -128 }, func() int8 { return 127 }} {
			q, want := make([]int8, n), int32(0)
			for i := range q {
				q[i] = f()
				want += int32(q[i])
			}
			if got := SumI8(q); got != want {
				t.Errorf("%d numbers: %d, want %d", n, got, want)
			}
		}
	}
}
