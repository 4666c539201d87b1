//go:build !purego && (amd64 || arm64)

package kernel

// hop is how far apart in a row of so many bytes the cache lines lie that are read one after another: a golden
// section of the row, all lines in turn. Read in order they would set off the prefetcher, which runs past the
// end of the row into one that is not wanted.
func hop(size int) int {
	lines := size / 64
	if lines < 3 {
		return 64
	}
	h := lines * 618 / 1000
	for gcd(h, lines) != 1 {
		h++
	}
	return h * 64
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// ternaryRowsWith returns a tier's TernaryRows.
func ternaryRowsWith(rows func(y []int32, w []byte, index []int32, x []int8, xsum int32, hop int)) func(y []int32, w []byte, index []int32, x []int8, xsum int32) {
	return func(y []int32, w []byte, index []int32, x []int8, xsum int32) {
		rows(y, w, index, x, xsum, hop(len(x)/4))
	}
}

// ternaryColumnsWith returns a tier's TernaryColumns: so many columns at a time go through the matrix. With 640
// bytes each, that of 2560 rows, 64 of them stay in L2 beside the next ones, which are being fetched.
func ternaryColumnsWith(columns func(y *int32, w *byte, stride int, index, next *int32, x *int8, groups, blocks int), chunk int) func(y []int32, w []byte, stride int, index []int32, x []int8, xsum int32) {
	return func(y []int32, w []byte, stride int, index []int32, x []int8, xsum int32) {
		for r := range y {
			y[r] = -xsum
		}
		n := len(index)
		for i := 0; i < n; i += chunk {
			size := min(chunk, n-i)
			next := min(i+size, n-size) // the last chunk asks for itself
			columns(&y[0], &w[0], stride, &index[i], &index[next], &x[i], size/4, len(y)/ColumnRows)
		}
	}
}

// rowsFromT16With does whole tiles of whole groups of columns in assembly.
func rowsFromT16With(f func(dst, w *byte, tiles, groups int)) func(dst, w []byte, rows, cols int) {
	return func(dst, w []byte, rows, cols int) {
		whole := rows / TileRows * TileRows
		if cols%RowCols != 0 {
			whole = 0
		}
		if whole > 0 {
			f(&dst[0], &w[0], whole/TileRows, cols/RowCols)
		}
		if whole < rows {
			rowsFromT16Generic(dst[RowsBytes(whole, cols):], w[T16Bytes(whole, cols):], rows-whole, cols)
		}
	}
}

// nonzerosWith and aboveWith do 16 at a time in assembly and the rest plainly. f returns how many it found.

func nonzerosWith(f func(index *int32, value, x *int8, steps int) int) func(index []int32, value, x []int8) int {
	return func(index []int32, value, x []int8) int {
		n, whole := 0, len(x)&^15
		if whole > 0 {
			n = f(&index[0], &value[0], &x[0], whole/16)
		}
		for i, v := range x[whole:] {
			if v != 0 {
				index[n], value[n] = int32(whole+i), v
				n++
			}
		}
		return n
	}
}

func aboveWith(f func(index *int32, g *float32, bar float32, steps int) int) func(index []int32, g []float32, bar float32) int {
	return func(index []int32, g []float32, bar float32) int {
		n, whole := 0, len(g)&^15
		if whole > 0 {
			n = f(&index[0], &g[0], bar, whole/16)
		}
		for i, v := range g[whole:] {
			if !(v <= bar) {
				index[n] = int32(whole + i)
				n++
			}
		}
		return n
	}
}
