package kernel

// T16 is the layout of a ternary matrix [rows, cols] that every tier reads: rows lie across the lanes
// of a vector and activations are broadcast four at a time, so that no sum is ever folded across lanes.
//
// Rows and cols are padded to multiples of 16 with weight 0. Block (t, s) holds rows 16t…16t+15 and
// columns 16s…16s+15 in 64 bytes at offset (t·cols/16 + s)·64. Byte 4r+j of a block holds, in bits
// 2g and 2g+1 for g = 0…3, the code ŵ+1 ∈ {0, 1, 2} of row 16t+r, column 16s+4g+j. A matrix takes
// 2.0 bits a weight.
const (
	TileRows  = 16
	TileCols  = 16
	TileBytes = 64
)

// MaxCols bounds the columns of a ternary matrix, so that every tier's int32 sums are exact: the AVX-512
// tier holds Σ 64·ŵx̂ over a quarter of the columns, |64·2·128·cols/4| < 2³¹.
const MaxCols = 1 << 18

// Pad16 rounds n up to a multiple of 16.
func Pad16(n int) int { return (n + 15) &^ 15 }

// T16Bytes is the size of a T16 matrix of rows by cols weights.
func T16Bytes(rows, cols int) int { return Pad16(rows) / 16 * (Pad16(cols) / 16) * TileBytes }

// PutT16 sets the weight at (row, col) of a T16 matrix of cols columns to code ŵ+1 ∈ {0, 1, 2}.
func PutT16(w []byte, cols, row, col int, code byte) {
	block := row/16*(Pad16(cols)/16) + col/16
	i, shift := block*TileBytes+row%16*4+col%4, col%16/4*2
	w[i] = w[i]&^(3<<shift) | code<<shift
}

// TernaryMatVec computes y = Ŵ·x̂ exactly.
//
//	y     [rows] int32  rows a multiple of 16
//	w     T16 of [rows, cols]
//	x     [cols] int8   one token, cols a multiple of 16, any values
//	xsum  Σx̂, which turns Σ(ŵ+1)x̂ into Σŵx̂
//
// A slice of whole tiles of a matrix is a matrix: workers share one by cutting y and w alike.
func TernaryMatVec(y []int32, w []byte, x []int8, xsum int32) {
	if len(y)%16 != 0 || len(x)%16 != 0 || len(x) > MaxCols || len(w) != T16Bytes(len(y), len(x)) {
		badLength("TernaryMatVec(y, w, x)", len(y), len(w), len(x))
	}
	active.ternaryMatVec(y, w, x, xsum)
}

// MatMulScratch is the size of the scratch that TernaryMatMul needs for a matrix of cols columns.
func MatMulScratch(cols int) int { return 32 << 10 }

// TernaryMatMul computes y[t] = Ŵ·x̂[t] exactly for several tokens.
//
//	y        [tokens, rows] int32  row-major, rows a multiple of 16
//	w        T16 of [rows, cols]
//	x        [tokens, cols] int8   cols a multiple of 16, any values
//	xsum     [tokens] Σx̂ of each token
//	scratch  at least MatMulScratch(cols) bytes of the calling worker's own, contents open
func TernaryMatMul(y []int32, w []byte, x []int8, xsum []int32, scratch []byte) {
	tokens := len(xsum)
	if tokens == 0 {
		if len(y) != 0 || len(x) != 0 {
			badLength("TernaryMatMul(y, w, x, xsum)", len(y), len(w), len(x), tokens)
		}
		return
	}
	rows, cols := len(y)/tokens, len(x)/tokens
	if len(y)%tokens != 0 || len(x)%tokens != 0 || rows%16 != 0 || cols%16 != 0 || cols > MaxCols ||
		len(w) != T16Bytes(rows, cols) || len(scratch) < MatMulScratch(cols) {
		badLength("TernaryMatMul(y, w, x, xsum, scratch)", len(y), len(w), len(x), tokens, len(scratch))
	}
	active.ternaryMatMul(y, w, x, xsum, scratch)
}

// ScaleRow computes y = float32(acc)·s, each step rounded.
func ScaleRow(y []float32, acc []int32, s float32) {
	if len(y) != len(acc) {
		badLength("ScaleRow(y, acc)", len(y), len(acc))
	}
	active.scaleRow(y, acc, s)
}
