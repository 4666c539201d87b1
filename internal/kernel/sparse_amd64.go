//go:build !purego

package kernel

// columnChunk is how many columns go through the matrix at a time: with 640 bytes each, that of 2560 rows, they
// stay in L2 beside the next chunk, which is being fetched.
const columnChunk = 64

func ternaryColumnsChunks(y []int32, w []byte, stride int, index []int32, x []int8, xsum int32) {
	for r := range y {
		y[r] = -xsum
	}
	n := len(index)
	for i := 0; i < n; i += columnChunk {
		size := min(columnChunk, n-i)
		next := i // the last chunk asks for itself
		if i+size < n {
			next = min(i+size, n-size)
		}
		ternaryColumnsVNNI(&y[0], &w[0], stride, &index[i], &index[next], &x[i], size/4, len(y)/ColumnRows)
	}
}
