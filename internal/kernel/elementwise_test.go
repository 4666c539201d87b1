package kernel

import (
	"fmt"
	"math"
	"testing"
)

// Every float kernel that maps or folds one row, against its definition.
func TestRowKernels(t *testing.T) {
	rng := newRand(5)
	lengths := []int{2560, 6912}
	for n := range 100 {
		lengths = append(lengths, n)
	}
	eachTier(t, func(t *testing.T) {
		for _, n := range lengths {
			for _, wild := range []bool{false, true} {
				a, b := vecOf(t, n, floats(rng, wild)), vecOf(t, n, floats(rng, wild))
				acc := vecOf(t, n, func(int) int32 { return int32(rng.Uint32()) >> rng.IntN(32) })
				// run has f compute y, once apart from its inputs and once in place of a, with a tier and with the
				// definition.
				run := func(name string, f func(k *tier, y, a []float32)) {
					got, want := vec[float32](t, n), make([]float32, n)
					f(active, got, a)
					f(&generic, want, a)
					equalBits(t, fmt.Sprintf("%s of %d", name, n), got, want)
					copy(got, a)
					f(active, got, got)
					equalBits(t, fmt.Sprintf("%s of %d in place", name, n), got, want)
				}
				run("add", func(k *tier, y, a []float32) { copy(y, a); k.add(y, b) })
				run("scale", func(k *tier, y, a []float32) { copy(y, a); k.scale(y, -0.3) })
				run("scaleRow", func(k *tier, y, a []float32) { k.scaleRow(y, acc, 0.37) })
				run("rmsScale", func(k *tier, y, a []float32) { k.rmsScale(y, a, b, 1.7) })
				run("siluMul", func(k *tier, y, a []float32) { k.siluMul(y, a, b) })
				run("relu2Mul", func(k *tier, y, a []float32) { k.relu2Mul(y, a, b) })
				run("gelu", func(k *tier, y, a []float32) { k.gelu(y, a) })
				run("geluTanh", func(k *tier, y, a []float32) { k.geluTanh(y, a) })
				run("softmaxExp", func(k *tier, y, a []float32) {
					copy(y, a)
					sum := k.softmaxExp(y, 1.5)
					if n > 0 { // the sum in place of one value
						y[n/2] = sum
					}
				})
				equalBits(t, fmt.Sprint("sum of ", n), []float32{active.sum(a)}, []float32{generic.sum(a)})
				if !wild {
					equalBits(t, fmt.Sprint("Max of ", n), []float32{Max(a)}, []float32{generic.max(a) + 0})
				}
			}
		}
	})
}

// Every exponent and sign, and what lies around the bounds, where tiers could differ.
func TestExpOfEveryRange(t *testing.T) {
	var x []float32
	for u := uint64(0); u < 1<<32; u += 20_011 {
		x = append(x, math.Float32frombits(uint32(u)))
	}
	for _, c := range []float32{expMin, expMax, -86.99, -87.33, 88.72, 88.73, 0, 0.5 * math.Ln2, 1.5 * math.Ln2} {
		f, g := c, c
		for range 50 {
			x = append(x, f, g)
			f, g = math.Nextafter32(f, 1e9), math.Nextafter32(g, -1e9)
		}
	}
	want := make([]float32, len(x))
	for i, v := range x {
		want[i] = Exp(v)
	}
	eachTier(t, func(t *testing.T) {
		y := append([]float32(nil), x...)
		SoftmaxExp(y, 0)
		equalBits(t, "SoftmaxExp", y, want)
	})
}

func TestMaxOfNegatives(t *testing.T) {
	eachTier(t, func(t *testing.T) {
		if got := Max(nil); !math.IsInf(float64(got), -1) {
			t.Errorf("Max of nothing = %v, want -Inf", got)
		}
		for n := 1; n < 80; n++ {
			for at := range n {
				x := vecOf(t, n, func(i int) float32 { return -float32(i) - 10 })
				x[at] = -3
				if got := Max(x); got != -3 {
					t.Fatalf("Max of %d with the largest at %d = %v", n, at, got)
				}
			}
		}
		minus := float32(math.Copysign(0, -1))
		if got := Max([]float32{minus}); math.Float32bits(got) != 0 {
			t.Errorf("Max of -0 has bits %08x, want +0", math.Float32bits(got))
		}
	})
}

func TestRope(t *testing.T) {
	rng := newRand(6)
	eachTier(t, func(t *testing.T) {
		for _, half := range []int{1, 3, 7, 8, 9, 16, 20, 32, 64, 65} {
			for _, heads := range []int{0, 1, 2, 5} {
				cos, sin := vecOf(t, half, floats(rng, false)), vecOf(t, half, floats(rng, false))
				x := vecOf(t, 2*half*heads, floats(rng, true))
				want := append([]float32(nil), x...)
				Rope(x, cos, sin)
				ropeGeneric(want, cos, sin)
				equalBits(t, fmt.Sprintf("%d heads of %d", heads, 2*half), x, want)
			}
		}
	})
}

// relative is the largest error of got against want, relative to want, where want is not tiny.
func relative(t *testing.T, got []float32, want func(i int) float64) float64 {
	t.Helper()
	worst := 0.0
	for i, g := range got {
		w := want(i)
		if math.Abs(w) < 1e-30 {
			continue
		}
		worst = max(worst, math.Abs(float64(g)-w)/math.Abs(w))
	}
	return worst
}

// The definitions themselves, against float64.
func TestActivationsAreAccurate(t *testing.T) {
	x := fill(20_001, func(i int) float32 { return float32(i-10_000) / 1000 })
	one := fill(len(x), func(int) float32 { return 1 })
	y := make([]float32, len(x))
	GELU(y, x)
	if e := relative(t, y, func(i int) float64 { return float64(x[i]) / 2 * math.Erfc(-float64(x[i])/math.Sqrt2) }); e > 4e-6 {
		t.Errorf("GELU: relative error %.2g", e)
	}
	if e := relative(t, y[8000:], func(i int) float64 {
		return float64(x[8000+i]) / 2 * math.Erfc(-float64(x[8000+i])/math.Sqrt2)
	}); e > 6e-7 {
		t.Errorf("GELU of x > -2: relative error %.2g", e)
	}
	GELUTanh(y, x)
	if e := relative(t, y[5000:], func(i int) float64 {
		v := float64(x[5000+i])
		return v / (1 + math.Exp(-2*math.Sqrt(2/math.Pi)*(v+0.044715*v*v*v)))
	}); e > 4e-6 {
		t.Errorf("GELUTanh of x > -5: relative error %.2g", e)
	}
	SiLUMul(y, x, one)
	if e := relative(t, y, func(i int) float64 { return float64(x[i]) / (1 + math.Exp(-float64(x[i]))) }); e > 4e-7 {
		t.Errorf("SiLUMul: relative error %.2g", e)
	}
	ReLU2Mul(y, x, one)
	if e := relative(t, y, func(i int) float64 { return math.Pow(max(float64(x[i]), 0), 2) }); e > 1e-7 {
		t.Errorf("ReLU2Mul: relative error %.2g", e)
	}
}

func TestRowLengthsPanic(t *testing.T) {
	f := make([]float32, 64)
	mustPanic(t, "Add", func() { Add(f, f[1:]) })
	mustPanic(t, "SiLUMul", func() { SiLUMul(f, f, f[1:]) })
	mustPanic(t, "ReLU2Mul", func() { ReLU2Mul(f, f[1:], f) })
	mustPanic(t, "GELU", func() { GELU(f, f[1:]) })
	mustPanic(t, "GELUTanh", func() { GELUTanh(f, f[1:]) })
	mustPanic(t, "Rope with odd heads", func() { Rope(f[:63], f[:8], f[:8]) })
	mustPanic(t, "Rope without a table", func() { Rope(f, nil, nil) })
	mustPanic(t, "ScaleRow", func() { ScaleRow(f, make([]int32, 63), 1) })
	mustPanic(t, "RMSNorm", func() { RMSNorm(f, f, f[1:], 0) })
	mustPanic(t, "QuantizeRow", func() { QuantizeRow(make([]int8, 63), f) })
	mustPanic(t, "AttnScores", func() { AttnScores(f[:31], 32, f[:2], f, 1, 1, nil) })
	mustPanic(t, "AttnMix", func() { AttnMix(f[:16], f[:3], 3, f, 1, nil) })
	mustPanic(t, "AttnMix of odd rows", func() { AttnMix(f[:15], f[:4], 4, f, 1, nil) })
	mustPanic(t, "AttnScoresI8 with few scales", func() { AttnScoresI8(f[:32], 32, f[:2], make([]int8, 64), f[:31], 1, 1, nil) })
	mustPanic(t, "AttnMixI8 with many scales", func() { AttnMixI8(f[:16], f[:4], 4, make([]int8, 64), f[:5], 1, nil) })
}
