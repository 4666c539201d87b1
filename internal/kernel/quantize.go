package kernel

import "math"

// QuantizeRow quantises one token's activations to int8 by their largest magnitude a:
//
//	x̂ = clamp(round(x·(127/a)), -128, 127), a = max(max|x|, 1e-5); half to even
//
//	q  [Pad16(len(x))] int8   the padding is set to 0
//	→  scale = a/127, so that x ≈ x̂·scale, and sum = Σx̂
//
// A row that holds an infinity or a NaN cannot be represented: q is 0 and scale is NaN, so that every
// product with it is NaN.
//
// Source: the absmax quantiser of Wang et al. 2023, arXiv:2310.11453 §2.1, in the float32 steps of
// transformers integrations/bitnet.py.
func QuantizeRow(q []int8, x []float32) (scale float32, sum int32) {
	if len(q) != Pad16(len(x)) || len(q) > MaxCols {
		badLength("QuantizeRow(q, x)", len(q), len(x))
	}
	return active.quantizeRow(q, x)
}

// RMSNorm computes y = w·(x/√(mean(x²)+eps)). y may be x.
//
// mean(x²) is Dot(x, x)/n; 1/√ is two rounded steps; then one rounding for x·(1/√) and one for w·.
func RMSNorm(y, x, w []float32, eps float32) {
	if len(y) != len(x) || len(w) != len(x) {
		badLength("RMSNorm(y, x, w)", len(y), len(x), len(w))
	}
	active.rmsScale(y, x, w, rmsInverse(x, eps))
}

// RMSNormQuantize is RMSNorm followed by QuantizeRow of y.
func RMSNormQuantize(q []int8, y, x, w []float32, eps float32) (scale float32, sum int32) {
	RMSNorm(y, x, w, eps)
	return QuantizeRow(q, y)
}

func rmsInverse(x []float32, eps float32) float32 {
	mean := active.dotF32(x, x) / float32(len(x))
	return 1 / float32(math.Sqrt(float64(mean+eps)))
}
