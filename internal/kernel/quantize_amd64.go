//go:build !purego

package kernel

func quantizeRowAVX2(q []int8, x []float32) (scale float32, sum int32) {
	inv, scale := quantizer(absMaxAVX2(x))
	if inv == 0 {
		clear(q)
		return scale, 0
	}
	return scale, quantizeAVX2(q, x, inv)
}
