package kernel

import "math"

func quantizeRowGeneric(q []int8, x []float32) (scale float32, sum int32) {
	var bits uint32 // of the largest |x|: the bit patterns of non-negative floats are ordered, NaN above infinity
	for _, v := range x {
		bits = max(bits, math.Float32bits(v)&0x7fffffff)
	}
	if bits >= 0x7f800000 {
		clear(q)
		return float32(math.NaN()), 0
	}
	a := max(math.Float32frombits(bits), 1e-5)
	inv := 127 / a
	for i, v := range x {
		r := math.RoundToEven(float64(float32(v * inv)))
		q[i] = int8(max(-128, min(127, r)))
		sum += int32(q[i])
	}
	clear(q[len(x):])
	return a / 127, sum
}

func rmsScaleGeneric(y, x, w []float32, inv float32) {
	for i, v := range x {
		y[i] = w[i] * float32(v*inv)
	}
}
