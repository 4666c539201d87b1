package kernel

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// floats returns a generator of float32 values of all kinds: normal, tiny and subnormal ones, both zeros; and,
// if wild, infinities and NaN. Sums of them round at every step, underflow and cancel.
func floats(rng *rand.Rand, wild bool) func(int) float32 {
	return func(int) float32 {
		switch rng.IntN(20) {
		case 0:
			return 0
		case 1:
			return float32(math.Copysign(0, -1))
		case 2:
			return math.Float32frombits(rng.Uint32() & 0x807fffff)
		case 3:
			return math.Float32frombits(rng.Uint32()&0x80ffffff | 0x00800000)
		case 4:
			return float32(rng.NormFloat64() * 1e19)
		case 5:
			if wild && rng.IntN(30) == 0 {
				return []float32{float32(math.Inf(1)), float32(math.Inf(-1)), float32(math.NaN()), math.MaxFloat32}[rng.IntN(4)]
			}
		}
		return float32(rng.NormFloat64())
	}
}

// halves is floats for 16-bit storage: any bits at all, infinities and NaN only if wild.
func halves(rng *rand.Rand, widen func(uint16) float32, wild bool) func(int) uint16 {
	return func(int) uint16 {
		for {
			h := uint16(rng.Uint32())
			if rng.IntN(8) == 0 {
				h &= 0x83ff // subnormal or zero in both formats
			}
			if f := widen(h); wild && rng.IntN(50) == 0 || math.Abs(float64(f)) < 1e18 {
				return h
			}
		}
	}
}

var dotLengths = []int{0, 1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 47, 48, 63, 64, 65, 95, 96, 97, 128, 160, 191, 192, 193, 1000, 2560}

func TestDot(t *testing.T) {
	rng := newRand(2)
	eachTier(t, func(t *testing.T) {
		for _, n := range dotLengths {
			for _, wild := range []bool{false, true} {
				x := vecOf(t, n, floats(rng, wild))
				w := vecOf(t, n, floats(rng, wild))
				bf := vecOf(t, n, halves(rng, BF16, wild))
				f16 := vecOf(t, n, halves(rng, F16, wild))
				equalBits(t, fmt.Sprintf("Dot, DotBF16, DotF16 of %d", n),
					[]float32{Dot(w, x), DotBF16(bf, x), DotF16(f16, x), Sum(x)},
					[]float32{dotF32Generic(w, x), dotBF16Generic(bf, x), dotF16Generic(f16, x), sumGeneric(x)})
			}
		}
	})
}

// The padding of a last group of fewer than 32 turns a lane that underflowed to -0 into +0, and only there.
func TestDotSignOfZero(t *testing.T) {
	tiny := math.Float32frombits(1)
	eachTier(t, func(t *testing.T) {
		for _, n := range []int{32, 33, 64, 65} {
			a, b := make([]float32, n), make([]float32, n)
			for i := range 32 {
				a[i], b[i] = tiny, -tiny
			}
			for i := 32; i < n; i++ {
				a[i], b[i] = tiny, -tiny
			}
			equalBits(t, fmt.Sprint("n = ", n), []float32{Dot(a, b)}, []float32{dotF32Generic(a, b)})
		}
	})
}

func TestMatMul(t *testing.T) {
	rng := newRand(3)
	for _, rows := range []int{1, 2, 3, 4, 5, 7, 8, 9} {
		for _, cols := range []int{1, 5, 16, 31, 32, 33, 64, 80, 96, 128, 1056} {
			for _, tokens := range []int{1, 2, 3, 4, 5, 6, 7, 8, 10, 23, 24, 25, 26} {
				if cols > 128 && rows*tokens > 30 || tokens > 10 && (rows < 4 || cols > 96) {
					continue
				}
				wild := rng.IntN(4) == 0
				stride := rows + rng.IntN(3)
				x := vecOf(t, tokens*cols, floats(rng, wild))
				f32 := vecOf(t, rows*cols, floats(rng, wild))
				bf16 := vecOf(t, rows*cols, halves(rng, BF16, wild))
				f16 := vecOf(t, rows*cols, halves(rng, F16, wild))
				n := (tokens-1)*stride + rows
				got, want := vec[float32](t, n), make([]float32, n) // the gaps of the stride stay as they are
				check := func(name string, f func(k *tier, y []float32)) {
					t.Helper()
					f(&generic, want)
					forTiers(func(tier string) {
						clear(got)
						f(active, got)
						equalBits(t, fmt.Sprintf("%s %s [%d, %d] · %d tokens, stride %d", tier, name, rows, cols, tokens, stride), got, want)
					})
				}
				check("F32", func(k *tier, y []float32) { k.matMulF32(y, stride, f32, x, tokens) })
				check("BF16", func(k *tier, y []float32) { k.matMulBF16(y, stride, bf16, x, tokens) })
				check("F16", func(k *tier, y []float32) { k.matMulF16(y, stride, f16, x, tokens) })
			}
		}
	}
}

func TestMatVecIsDotOfRows(t *testing.T) {
	rng := newRand(4)
	eachTier(t, func(t *testing.T) {
		const rows, cols = 9, 100
		x := vecOf(t, cols, floats(rng, false))
		w := vecOf(t, rows*cols, floats(rng, false))
		bf := vecOf(t, rows*cols, halves(rng, BF16, false))
		f16 := vecOf(t, rows*cols, halves(rng, F16, false))
		y := [3][]float32{make([]float32, rows), make([]float32, rows), make([]float32, rows)}
		MatVecF32(y[0], w, x)
		MatVecBF16(y[1], bf, x)
		MatVecF16(y[2], f16, x)
		for r := range rows {
			i := r * cols
			equalBits(t, fmt.Sprint("row ", r), []float32{y[0][r], y[1][r], y[2][r]},
				[]float32{Dot(w[i:i+cols], x), DotBF16(bf[i:i+cols], x), DotF16(f16[i:i+cols], x)})
		}
	})
}

func TestDotLengthsPanic(t *testing.T) {
	f, h := make([]float32, 64), make([]uint16, 64)
	mustPanic(t, "Dot", func() { Dot(f, f[1:]) })
	mustPanic(t, "DotBF16", func() { DotBF16(h, f[1:]) })
	mustPanic(t, "DotF16", func() { DotF16(h, f[1:]) })
	mustPanic(t, "MatMulF32 without tokens", func() { MatMulF32(f, f, f, 0) })
	mustPanic(t, "MatMulF32 with w not whole rows", func() { MatMulF32(f[:1], f[:33], f[:32], 1) })
	mustPanic(t, "MatMulF32 with y too short", func() { MatMulF32Stride(f[:1], 2, f, f[:32], 1) })
	mustPanic(t, "MatMulF32 with stride too small", func() { MatMulF32Stride(f, 1, f, f, 2) })
	MatMulF32(nil, nil, nil, 0)
}

// A product through the exported functions allocates nothing.
func TestNothingAllocates(t *testing.T) {
	f, h := make([]float32, 1024), make([]uint16, 1024)
	y := make([]float32, 64)
	q, acc := make([]int8, 1024), make([]int32, 64)
	w := make([]byte, T16Bytes(16, 1024))
	scratch := make([]byte, MatMulScratch(1024))
	xsum := make([]int32, 4)
	index, columns := make([]int32, 4), make([]int32, 256)
	eachTier(t, func(t *testing.T) {
		if n := testing.AllocsPerRun(10, func() {
			Dot(f, f)
			DotF16(h, f)
			MatVecF32(y[:32], f, f[:32])
			MatMulBF16(y[:8], h[:4*256], f[:2*256], 2)
			s, sum := RMSNormQuantize(q, f, f, f, 1e-5)
			TernaryMatVec(acc[:16], w, q, sum)
			TernaryMatMul(acc, T16(w, 16, 256), q, xsum, scratch)
			ScaleRow(y, acc, s)
			AttnScores(y[:8], f[:128], f, 1)
			SoftmaxExp(y, Max(y))
			AttnMix(f[:128], y[:7], f[128:])
			AttnScoresGroupF16(y, 4, f[:256], h[:4*128], 2, 1)
			AttnMixGroupF16(f[:256], y, 4, h[:4*128], 2)
			TernaryRows(acc[:4], w, index, q[:128], 0)
			TernaryColumns(columns, w, 64, index, q[:4], 0)
			Screen(y[:0], y[:0], 0, nil, nil, nil, nil, nil, nil, nil, nil)
			ScreenRefine(y[:1], index[:1], w[:288], q[:64], f[:1])
			SiLUMul(f, f, f)
			ReLU2Mul(f, f, f)
			GELU(f, f)
			Rope(f, y, y)
		}); n != 0 {
			t.Errorf("%v allocations", n)
		}
	})
}

func T16(w []byte, rows, cols int) []byte { return w[:T16Bytes(rows, cols)] }
