package kernel

import "math"

func quantizeRowGeneric(q []int8, x []float32) (scale float32, sum int32) {
	var bits uint32 // of the largest |x|: the bit patterns of non-negative floats are ordered, NaN above infinity
	for _, v := range x {
		bits = max(bits, math.Float32bits(v)&0x7fffffff)
	}
	inv, scale := quantizer(bits)
	if inv == 0 {
		clear(q)
		return scale, 0
	}
	for i, v := range x {
		r := math.RoundToEven(float64(float32(v * inv)))
		q[i] = int8(max(-128, min(127, r)))
		sum += int32(q[i])
	}
	clear(q[len(x):])
	return scale, sum
}

// quantizer returns 127/a and a/127 for the largest |x|, given by its bits; 0 and NaN if that is not finite.
func quantizer(bits uint32) (inv, scale float32) {
	if bits >= 0x7f800000 {
		return 0, float32(math.NaN())
	}
	a := max(math.Float32frombits(bits), 1e-5)
	return 127 / a, a / 127
}

func rmsScaleGeneric(y, x, w []float32, inv float32) {
	for i, v := range x {
		y[i] = w[i] * float32(v*inv)
	}
}
