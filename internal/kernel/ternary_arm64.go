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

// ternaryMatMulI8MM returns a TernaryMatMul that walks the columns in slabs: a tile's slab of unpacked codes (16 KiB) stays
// in L1 for all tokens. Four tokens do not pay for unpacking (107 instructions for 1000 products against 101): few does
// them.
func ternaryMatMulI8MM(few func(y []int32, w []byte, x []int8, xsum []int32, scratch []byte)) func(y []int32, w []byte, x []int8, xsum []int32, scratch []byte) {
	const slab = 1024
	return func(y []int32, w []byte, x []int8, xsum []int32, scratch []byte) {
		tokens := len(xsum)
		rows, cols := len(y)/tokens, len(x)/tokens
		if tokens <= 4 {
			few(y, w, x, xsum, scratch)
			return
		}
		for t, s := range xsum {
			for r := range y[t*rows : (t+1)*rows] {
				y[t*rows+r] = -s
			}
		}
		for r := 0; r < rows; r += TileRows {
			for c := 0; c < cols; c += slab {
				n := min(slab, cols-c) / TileCols
				ternaryUnpackI8MM(&scratch[0], &w[(r*cols+c*TileRows)/4], n)
				ternaryTokensI8MM(&y[r], rows*4, &scratch[0], &x[c], cols, n, tokens)
			}
		}
	}
}
