//go:build !purego

package kernel

// ternaryMatMulNEON takes a tile of 16 rows, which L1 keeps, through all tokens.
func ternaryMatMulNEON(y []int32, w []byte, x []int8, xsum []int32, _ []byte) {
	rows, cols := len(y)/len(xsum), len(x)/len(xsum)
	for r := 0; r < rows; r += TileRows {
		tile := w[r*cols/4:][:4*cols]
		for t, s := range xsum {
			ternaryMatVecNEON(y[t*rows+r:][:TileRows], tile, x[t*cols:][:cols], s)
		}
	}
}

func ternaryMatMulDot(y []int32, w []byte, x []int8, xsum []int32, _ []byte) {
	tokens := len(xsum)
	rows, cols := len(y)/tokens, len(x)/tokens
	if cols == 0 {
		clear(y)
		return
	}
	if tokens == 1 {
		ternaryMatVecNEONDot(y, w, x, xsum[0])
		return
	}
	for r := 0; r < rows; r += TileRows {
		ternaryMatMulNEONDot(&y[r], rows*4, &w[r*cols/4], &x[0], cols, &xsum[0], tokens)
	}
}
