package kernel

// ScreenBlock is the number of columns of a screen that share a scale.
const ScreenBlock = 64

// ScreenSizes gives the lengths of the codes and scales of a 4-bit screen of rows by cols values, rows a multiple of
// 16 and cols of ScreenBlock.
func ScreenSizes(rows, cols int) (codes, scales int) {
	return rows * cols / 2, rows * cols / ScreenBlock
}

// ScreenIndex says where the code at (row, col) lies: a byte, and the nibble's shift. Tiles of 16 rows; per 8 columns
// 64 bytes, in which byte 4r+j holds the codes of row r, columns j (low nibble) and 4+j.
func ScreenIndex(cols, row, col int) (index, shift int) {
	return (row/16*(cols/8)+col/8)*64 + row%16*4 + col%4, col % 8 / 4 * 4
}

// ScreenScaleIndex says where the scale of (row, col) lies: [tiles, blocks, 16].
func ScreenScaleIndex(cols, row, col int) int {
	return (row/16*(cols/ScreenBlock)+col/ScreenBlock)*16 + row%16
}

// Screen4 estimates products with a matrix of 4-bit codes that stand for s·(code - z_c), a scale s for each row and
// block of 64 columns, and a zero point z for each column. For each query, over the blocks b in order:
//
//	y[r] = Σ s_rb·(xs_b·Σ code·x̂ + off_b)   estimate; off_b = -xs_b·Σ z·x̂
//	v[r] = Σ s_rb²·sq_b                     what a bound of its error needs; sq_b = xs_b²·Σx̂²
//
//	y, v         query q's values begin at q·stride; rows of them, a multiple of 16
//	codes        [rows·cols/2]   see ScreenIndex; a slice of whole tiles of a screen is a screen
//	scales       [rows·cols/64]  binary16, see ScreenScaleIndex
//	x            [queries, cols] int8     cols a multiple of 64
//	xs, off, sq  [queries, cols/64] float32
//
// Integer sums are exact, floats fused multiply-adds in the order written: a query's results do not depend on others.
func Screen4(y, v []float32, stride int, codes []byte, scales []uint16, x []int8, xs, off, sq []float32, queries int) {
	if queries == 0 || len(codes) == 0 {
		return
	}
	cols := len(x) / queries
	rows, blocks := len(codes)*2/max(cols, 1), cols/ScreenBlock
	need := (queries-1)*stride + rows
	if cols%ScreenBlock != 0 || cols == 0 || len(x)%queries != 0 || rows%16 != 0 || len(codes) != rows*cols/2 || len(scales) != rows*blocks ||
		stride < rows && queries > 1 || len(y) < need || len(v) < need || len(xs) != queries*blocks || len(off) != len(xs) || len(sq) != len(xs) {
		badLength("Screen4(y, v, stride, codes, scales, x, xs, off, sq, queries)",
			len(y), len(v), stride, len(codes), len(scales), len(x), len(xs), len(off), len(sq), queries)
	}
	active.screen4(y, v, stride, rows, codes, scales, x, xs, off, sq, queries)
}

// screen4Queries does one query after the other.
func screen4Queries(f func(y, v []float32, codes []byte, scales []uint16, x []int8, xs, off, sq []float32)) screen4Func {
	return func(y, v []float32, stride, rows int, codes []byte, scales []uint16, x []int8, xs, off, sq []float32, queries int) {
		cols := len(x) / queries
		blocks := cols / ScreenBlock
		for q := range queries {
			y, v := y[q*stride:][:rows], v[q*stride:][:rows]
			f(y, v, codes, scales, x[q*cols:][:cols], xs[q*blocks:][:blocks], off[q*blocks:][:blocks], sq[q*blocks:][:blocks])
		}
	}
}
