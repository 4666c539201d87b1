//go:build !purego && (amd64 || arm64)

package kernel

// quantizeRowWith returns a tier's QuantizeRow: absMax gives the bits of the largest |x|, quantize the rest.
func quantizeRowWith(absMax func(x []float32) uint32, quantize func(q []int8, x []float32, inv float32) int32) func(q []int8, x []float32) (scale float32, sum int32) {
	return func(q []int8, x []float32) (scale float32, sum int32) {
		inv, scale := quantizer(absMax(x))
		if inv == 0 {
			clear(q)
			return scale, 0
		}
		return scale, quantize(q, x, inv)
	}
}
