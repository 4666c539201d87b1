//go:build !purego

package kernel

func ternaryMatVecT5With(f func(y *int32, tiles int, w *byte, x *int8, groups, rest int, xsum int32, table *byte)) func(y []int32, w []byte, x []int8, xsum int32) {
	return func(y []int32, w []byte, x []int8, xsum int32) {
		if len(y) == 0 || len(x) == 0 {
			clear(y)
			return
		}
		f(&y[0], len(y)/TileRows, &w[0], &x[0], len(x)/T5Cols, len(x)%T5Cols/TileCols, xsum, &t5Field[0])
	}
}

const t5Block = 256 << 10

func ternaryMatMulT5With(f func(y *int32, stride int, w *byte, x *int8, cols, groups, rest int, xsum *int32, tokens int, table *byte)) func(y []int32, w []byte, x []int8, xsum []int32) {
	return func(y []int32, w []byte, x []int8, xsum []int32) {
		rows, cols := len(y)/len(xsum), len(x)/len(xsum)
		if cols == 0 {
			clear(y)
			return
		}
		tile := T5Bytes(TileRows, cols)
		block := max(t5Block/cols&^7, 8) // tokens whose activations stay in L2 for all tiles
		for t := 0; t < len(xsum); t += block {
			n := min(block, len(xsum)-t)
			for r := 0; r < rows; r += TileRows {
				f(&y[t*rows+r], 4*rows, &w[r/TileRows*tile], &x[t*cols], cols, cols/T5Cols, cols%T5Cols/TileCols, &xsum[t], n, &t5Field[0])
			}
		}
	}
}

func t16FromT5With(f func(dst, src *byte, tiles, groups, rest int, table *byte)) func(dst, src []byte, rows, cols int) {
	return func(dst, src []byte, rows, cols int) {
		c := Pad16(cols)
		f(&dst[0], &src[0], rows/TileRows, c/T5Cols, c%T5Cols/TileCols, &t5Field[0])
	}
}

func t5FromT16With(f func(dst, src *byte, tiles, groups, rest int)) func(dst, src []byte, rows, cols int) {
	return func(dst, src []byte, rows, cols int) {
		c := Pad16(cols)
		f(&dst[0], &src[0], rows/TileRows, c/T5Cols, c%T5Cols/TileCols)
	}
}
