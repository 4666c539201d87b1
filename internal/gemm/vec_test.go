package gemm

import (
	"math"
	"math/rand/v2"
	"testing"
)

// TestVectorPassesEqualTheirDefinitions compares every pass with plain Go, bit by bit.
func TestVectorPassesEqualTheirDefinitions(t *testing.T) {
	eachTier(t, func(t *testing.T) {
		r := rand.New(rand.NewPCG(7, 8))
		for _, n := range []int{1, 5, 8, 13, 32, 61, 96, 130} {
			in := func() (x [6][]float32) {
				r := rand.New(rand.NewPCG(uint64(n), 9))
				for i := range x {
					x[i] = random(r, n)
					for j := range x[i] {
						x[i][j] *= 4
					}
				}
				return x
			}
			s := float32(r.NormFloat64())
			type pass struct {
				name     string
				fast, df func(x [6][]float32)
			}
			for _, p := range []pass{
				{"SiLUMul", func(x [6][]float32) { SiLUMul(x[0], x[1], x[2]) }, func(x [6][]float32) { siluMulGeneric(x[0], x[1], x[2]) }},
				{"SiLUMulGrad", func(x [6][]float32) { SiLUMulGrad(x[0], x[1], x[2], x[3], x[4]) }, func(x [6][]float32) { siluMulGradGeneric(x[0], x[1], x[2], x[3], x[4]) }},
				{"SiLUMulGrad in place", func(x [6][]float32) { SiLUMulGrad(x[0], x[1], x[2], x[0], x[1]) }, func(x [6][]float32) { siluMulGradGeneric(x[0], x[1], x[2], x[0], x[1]) }},
				{"ReLU2Mul", func(x [6][]float32) { ReLU2Mul(x[0], x[1], x[2]) }, func(x [6][]float32) { relu2MulGeneric(x[0], x[1], x[2]) }},
				{"ReLU2MulGrad in place", func(x [6][]float32) { ReLU2MulGrad(x[0], x[1], x[2], x[0], x[1]) }, func(x [6][]float32) { relu2MulGradGeneric(x[0], x[1], x[2], x[0], x[1]) }},
				{"GELU", func(x [6][]float32) { GELU(x[0], x[1]) }, func(x [6][]float32) { geluGeneric(x[0], x[1]) }},
				{"GELUGrad", func(x [6][]float32) { GELUGrad(x[0], x[1], x[2]) }, func(x [6][]float32) { geluGradGeneric(x[0], x[1], x[2]) }},
				{"ExpSub", func(x [6][]float32) { ExpSub(x[0], s) }, func(x [6][]float32) { expSubGeneric(x[0], s) }},
				{"SoftmaxGrad", func(x [6][]float32) { SoftmaxGrad(x[0], x[1], s, 2*s) }, func(x [6][]float32) { softmaxGradGeneric(x[0], x[1], s, 2*s) }},
				{"ScaleMul", func(x [6][]float32) { ScaleMul(x[0], x[1], x[2], s) }, func(x [6][]float32) { scaleMulGeneric(x[0], x[1], x[2], s) }},
				{"NormGrad", func(x [6][]float32) { NormGrad(x[0], x[1], x[2], x[3], s, 3*s) }, func(x [6][]float32) { normGradGeneric(x[0], x[1], x[2], x[3], s, 3*s) }},
				{"MulAdd", func(x [6][]float32) { MulAdd(x[0], x[1], x[2], s) }, func(x [6][]float32) { mulAddGeneric(x[0], x[1], x[2], s) }},
				{"Axpy", func(x [6][]float32) { Axpy(x[0], x[1], s) }, func(x [6][]float32) { axpyGeneric(x[0], x[1], s) }},
				{"Scale", func(x [6][]float32) { Scale(x[0], s) }, func(x [6][]float32) { scaleGeneric(x[0], s) }},
				{"Rotate", func(x [6][]float32) { Rotate(x[0], x[1], x[2], x[3], -1) }, func(x [6][]float32) { rotateGeneric(x[0], x[1], x[2], x[3], -1) }},
				{"AdamW", func(x [6][]float32) {
					for i := range x[3] {
						x[3][i] = abs(x[3][i])
					}
					AdamW(x[0], x[1], x[2], x[3], Adam{0.5, 0.9, 0.95, 0.99, 1e-2, 3, 1e-8})
				}, func(x [6][]float32) {
					for i := range x[3] {
						x[3][i] = abs(x[3][i])
					}
					b1, b2 := float32(0.9), float32(0.95)
					adamwGeneric(x[0], x[1], x[2], x[3], 0.5, b1, 1-b1, b2, 1-b2, 0.99, 1e-2, 3, 1e-8)
				}},
			} {
				a, b := in(), in()
				p.fast(a)
				p.df(b)
				for i := range a {
					equal(t, p.name, a[i], b[i])
				}
			}
			x := in()
			k := n &^ 31
			sum, dot, dot3 := float32(0), float32(0), float32(0)
			if k > 0 {
				sum, dot, dot3 = sumGeneric(x[0][:k]), dotGeneric(x[0][:k], x[1][:k]), dot3Generic(x[0][:k], x[1][:k], x[2][:k])
			}
			for i := k; i < n; i++ {
				sum += x[0][i]
				dot += float32(x[0][i] * x[1][i])
				dot3 += float32(float32(x[0][i]*x[1][i]) * x[2][i])
			}
			equal(t, "reductions", []float32{Sum(x[0]), Dot(x[0], x[1]), Dot3(x[0], x[1], x[2]), RowMax(x[0])}, []float32{sum, dot, dot3, rowMaxGeneric(x[0])})
		}
	})
}

func TestExpIsAccurate(t *testing.T) {
	for x := float32(-80); x < 80; x += 0.0137 {
		want := math.Exp(float64(x))
		if e := math.Abs(float64(expDef(x))-want) / want; e > 2e-7 {
			t.Fatalf("exp(%g): relative error %g", x, e)
		}
	}
}
