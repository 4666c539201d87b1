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
