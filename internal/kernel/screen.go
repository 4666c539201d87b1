package kernel

import "encoding/binary"

// ScreenBlock is the number of columns of a screen that share a scale.
const ScreenBlock = 64

// A screen keeps a 5-bit code for each weight: the upper three bits of all of them together, which Screen reads, and the
// lower two apart, which ScreenRefine reads for the few rows that matter.

// ScreenSizes gives the lengths of the parts of a screen of rows by cols values, rows a multiple of 16 and cols of
// ScreenBlock: bytes of the codes' upper bits, their scales, and bytes of their lower bits.
func ScreenSizes(rows, cols int) (upper, scales, lower int) {
	return rows * cols / 8 * 3, rows * cols / ScreenBlock, rows * lowerBytes(cols)
}

// lowerBytes is the size of a row's lower bits, two a column, and its scales once more, so that all lies together.
func lowerBytes(cols int) int { return cols/4 + 2*cols/ScreenBlock }

// ScreenPack writes the codes of a row's block from column col, and their scale in binary16.
//
// Upper bits: tiles of 16 rows; per 32 columns three vectors b0, b1, b2 of 64 bytes, in which byte 4r+j belongs to row r
// and columns j, 4+j, … 28+j. The codes c0…c7 of these lie in
//
//	b0  bits 0–2 c0   3–5 c1   6–7 c6 bits 0–1
//	b1  bits 0–2 c2   3–5 c3   6–7 c7 bits 0–1
//	b2  bits 0–2 c4   3–5 c5   6 c6 bit 2   7 c7 bit 2
//
// Scales: [tiles, blocks, 16]. Lower bits: a row has 16 bytes a block; byte p holds, in bits 2q and 2q+1, column 16q+p. The
// row's scales follow.
func ScreenPack(upper []byte, scales []uint16, lower []byte, cols, row, col int, scale uint16, code *[ScreenBlock]byte) {
	scales[screenScale(cols, row, col)] = scale
	low := lower[row*lowerBytes(cols):][:lowerBytes(cols)]
	binary.LittleEndian.PutUint16(low[cols/4+2*(col/ScreenBlock):], scale)
	for half := 0; half < ScreenBlock; half += 32 {
		u, code := upper[(row/16*(cols/32)+(col+half)/32)*192+row%16*4:][:132], code[half:][:32]
		for j := range 4 {
			c6, c7 := code[24+j]>>2, code[28+j]>>2
			u[j] = code[j]>>2 | code[4+j]>>2<<3 | c6<<6
			u[64+j] = code[8+j]>>2 | code[12+j]>>2<<3 | c7<<6
			u[128+j] = code[16+j]>>2 | code[20+j]>>2<<3 | c6>>2<<6 | c7>>2<<7
		}
	}
	for p := range low[col/4:][:16] {
		low[col/4+p] = code[p]&3 | code[16+p]&3<<2 | code[32+p]&3<<4 | code[48+p]&3<<6
	}
}

// screenUpper is the upper three bits of the code at (row, col).
func screenUpper(upper []byte, cols, row, col int) byte {
	u := upper[(row/16*(cols/32)+col/32)*192+row%16*4+col%4:]
	switch g := col % 32 / 4; g {
	case 6, 7:
		return u[64*(g-6)]>>6 | u[128]>>g&1<<2
	default:
		return u[64*(g/2)] >> (g % 2 * 3) & 7
	}
}

// screenScale says where the scale of (row, col) lies among the upper bits'.
func screenScale(cols, row, col int) int {
	return (row/16*(cols/ScreenBlock)+col/ScreenBlock)*16 + row%16
}

// Screen estimates products with a matrix of 3-bit codes that stand for s·(code - z_c), a scale s for each row and
// block of 64 columns, and a zero point z for each column, and bounds them from above. For each query, over the blocks b
// in order:
//
//	y[r]    = Σ s_rb·(xs_b·Σ code·x̂ + off_b)      estimate; off_b = -xs_b·Σ z·x̂
//	high[r] = y[r] + (norm[r]·margin + √Σ s_rb²·sq_b)
//
//	y, high      query q's values begin at q·stride; rows of them, a multiple of 16
//	upper        [rows·cols·3/8] see ScreenPack; a slice of whole tiles of a screen is a screen
//	scales       [rows·cols/64]  binary16, see ScreenPack
//	norm         [rows]
//	x            [queries, cols] int8     cols a multiple of 64
//	xs, off, sq  [queries, cols/64]
//	margin       [queries]
//
// Integer sums are exact, floats fused multiply-adds in the order written: a query's results do not depend on others.
func Screen(y, high []float32, stride int, upper []byte, scales []uint16, norm []float32, x []int8, xs, off, sq, margin []float32) {
	queries := len(margin)
	if queries == 0 || len(upper) == 0 {
		return
	}
	cols := len(x) / queries
	rows, blocks := len(norm), cols/ScreenBlock
	need := (queries-1)*stride + rows
	if cols%ScreenBlock != 0 || cols == 0 || len(x)%queries != 0 || rows%16 != 0 || len(upper) != rows*cols/8*3 || len(scales) != rows*blocks ||
		stride < rows && queries > 1 || len(y) < need || len(high) < need || len(xs) != queries*blocks || len(off) != len(xs) || len(sq) != len(xs) {
		badLength("Screen(y, high, stride, upper, scales, norm, x, xs, off, sq, margin)",
			len(y), len(high), stride, len(upper), len(scales), len(norm), len(x), len(xs), len(off), len(sq), queries)
	}
	active.screen(y, high, stride, upper, scales, norm, x, xs, off, sq, margin)
}

// screenQueries does one query after the other.
func screenQueries(f func(y, high []float32, upper []byte, scales []uint16, norm []float32, x []int8, xs, off, sq []float32, margin float32)) screenFunc {
	return func(y, high []float32, stride int, upper []byte, scales []uint16, norm []float32, x []int8, xs, off, sq, margin []float32) {
		cols, rows := len(x)/len(margin), len(norm)
		blocks := cols / ScreenBlock
		for q, m := range margin {
			y, high := y[q*stride:][:rows], high[q*stride:][:rows]
			f(y, high, upper, scales, norm, x[q*cols:][:cols], xs[q*blocks:][:blocks], off[q*blocks:][:blocks], sq[q*blocks:][:blocks], m)
		}
	}
}

// ScreenRefine corrects estimates of some rows by their codes' lower bits, which say in which quarter of a step of the
// upper ones a weight lies:
//
//	y[i] += Σ_b s_rb·xs_b·Σ (2·bits-3)·x̂   r = index[i]
//
//	y, index  [n]
//	lower     of rows by cols codes, see ScreenPack
//	x         [cols] int8, cols a multiple of 64
//	xs        [cols/64]: an eighth of Screen's
//
// Sixteen lanes sum columns 4l…4l+3 of each block, fused multiply-adds by s_rb·xs_b, and are folded in halves.
func ScreenRefine(y []float32, index []int32, lower []byte, x []int8, xs []float32) {
	cols := len(x)
	if len(y) != len(index) || cols == 0 || cols%ScreenBlock != 0 || len(lower)%lowerBytes(cols) != 0 || len(xs) != cols/ScreenBlock {
		badLength("ScreenRefine(y, index, lower, x, xs)", len(y), len(index), len(lower), len(x), len(xs))
	}
	checkIndex("ScreenRefine", index, len(lower)/lowerBytes(cols))
	if len(index) != 0 {
		active.screenRefine(y, index, lower, x, xs)
	}
}
