//go:build !purego

package kernel

import "unsafe"

// The AVX2 product walks the columns in slabs of 256, the tokens in blocks of 64. A block's slab of
// activations (16 KiB) and a tile's slab of unpacked codes (4 KiB) stay in L1 while every tile of the
// matrix meets every token of the block; rows of a stride that is a power of two would not.
const (
	slabCols    = 256
	blockTokens = 64
	fewTokens   = 16 // below it a tile is not unpacked to memory first
)

func ternaryMatMulAVX2(y []int32, w []byte, x []int8, xsum []int32, scratch []byte) {
	tokens := len(xsum)
	rows, cols := len(y)/tokens, len(x)/tokens
	if cols == 0 {
		clear(y)
		return
	}
	if tokens == 1 {
		ternaryMatVecAVX2(y, w, x, xsum[0])
		return
	}
	if tokens < fewTokens {
		for r := 0; r < rows; r += TileRows {
			ternaryFewAVX2(&y[r], rows*4, &w[r*cols/4], &x[0], cols, &xsum[0], tokens)
		}
		return
	}
	for t, s := range xsum {
		for r := range y[t*rows : (t+1)*rows] {
			y[t*rows+r] = -s
		}
	}
	codes, slab := scratch[:16*slabCols], scratch[16*slabCols:][:blockTokens*slabCols]
	xb := int8s(slab)
	for t := 0; t < tokens; t += blockTokens {
		block := min(blockTokens, tokens-t)
		for c := 0; c < cols; c += slabCols {
			n := min(slabCols, cols-c)
			for i := range block {
				copy(xb[i*slabCols:], x[(t+i)*cols+c:][:n])
			}
			for r := 0; r < rows; r += 16 {
				ternaryUnpackAVX2(&codes[0], &w[(r/16*cols+c)*4], n/16)
				ternaryTokensAVX2(&y[t*rows+r], rows*4, &codes[0], &xb[0], n/4, block)
			}
		}
	}
}

// ternaryMatMulPairs takes the tiles two at a time, so that a matrix of 16k weights a pair stays in L1 for
// all tokens, 8 of them at once in registers.
func ternaryMatMulPairs(y []int32, w []byte, x []int8, xsum []int32, _ []byte) {
	tokens := len(xsum)
	rows, cols := len(y)/tokens, len(x)/tokens
	if cols == 0 {
		clear(y)
		return
	}
	if tokens == 1 {
		ternaryMatVecVNNI(y, w, x, xsum[0])
		return
	}
	r := 0
	for ; r+32 <= rows; r += 32 {
		ternaryMatMulVNNI(&y[r], rows*4, &w[r*cols/4], &x[0], cols, &xsum[0], tokens)
	}
	for t := 0; r < rows && t < tokens; t++ {
		ternaryMatVecVNNI(y[t*rows+r:][:16], w[r*cols/4:], x[t*cols:][:cols], xsum[t])
	}
}

func int8s(b []byte) []int8 { return unsafe.Slice((*int8)(unsafe.Pointer(&b[0])), len(b)) }
