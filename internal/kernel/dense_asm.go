//go:build !purego && (amd64 || arm64)

package kernel

// A matrix product goes to one of two kernels. Rows by tokens blocks keep the multipliers busy; but a single
// token's product waits for memory, which delivers one sequential stream faster than several: long rows are
// then taken one at a time.
const streamBytes = 2048 // a row longer than this is a stream of its own

type (
	matVecFunc[W weight] func(y *float32, w *W, x *float32, cols, rows int)
	matMulFunc[W weight] func(y *float32, stride int, w *W, x *float32, cols, rows, tokens int)
)

// dotWith returns Dot by matVec of one row.
func dotWith[W weight](matVec matVecFunc[W]) func(w []W, x []float32) float32 {
	return func(w []W, x []float32) float32 {
		if len(w) == 0 {
			return 0
		}
		var y float32
		matVec(&y, &w[0], &x[0], len(x), 1)
		return y
	}
}

// matMulWith returns a tier's MatMul: matMul for whole groups of rows, if cols is a multiple of colMultiple, and
// matVec for what is left.
func matMulWith[W weight](matVec matVecFunc[W], matMul matMulFunc[W], rowGroup, colMultiple, size int) func(y []float32, stride int, w []W, x []float32, tokens int) {
	return func(y []float32, stride int, w []W, x []float32, tokens int) {
		cols := len(x) / tokens
		rows := len(w) / cols
		block := rows / rowGroup * rowGroup
		if cols%colMultiple != 0 || tokens == 1 && cols*size > streamBytes {
			block = 0
		}
		if block > 0 {
			matMul(&y[0], stride, &w[0], &x[0], cols, block, tokens)
		}
		if block < rows {
			for t := range tokens {
				matVec(&y[t*stride+block], &w[block*cols], &x[t*cols], cols, rows-block)
			}
		}
	}
}
