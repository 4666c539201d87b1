//go:build !purego && (amd64 || arm64)

package kernel

// ternaryMatMulTiles takes one tile after the other through all tokens, while it is in L1.
func ternaryMatMulTiles(
	matVec func(y []int32, w []byte, x []int8, xsum int32),
	matMul func(y *int32, stride int, w *byte, x *int8, cols int, xsum *int32, tokens int),
) func(y []int32, w []byte, x []int8, xsum []int32, _ []byte) {
	return func(y []int32, w []byte, x []int8, xsum []int32, _ []byte) {
		tokens := len(xsum)
		rows, cols := len(y)/tokens, len(x)/tokens
		if cols == 0 {
			clear(y)
			return
		}
		if tokens == 1 {
			matVec(y, w, x, xsum[0])
			return
		}
		for r := 0; r < rows; r += TileRows {
			matMul(&y[r], rows*4, &w[r*cols/4], &x[0], cols, &xsum[0], tokens)
		}
	}
}
