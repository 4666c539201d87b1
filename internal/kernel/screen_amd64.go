//go:build !purego

package kernel

// screen4Tiles takes a tile through all queries while it is in L1, four of them at a time; the tiles of a single query
// one after the other.
func screen4Tiles(y, v []float32, stride, rows int, codes []byte, scales []uint16, x []int8, xs, off, sq []float32, queries int) {
	cols := len(x) / queries
	blocks, tiles := cols/ScreenBlock, 1
	if queries == 1 {
		tiles = rows / 16
	}
	for t := 0; t < rows/16; t += tiles {
		codes, scales := &codes[t*8*cols], &scales[t*16*blocks]
		for q := 0; q < queries; {
			at, b := q*stride+16*t, q*blocks
			f, n := screen4x1VNNI, 1
			switch left := queries - q; {
			case left >= 4:
				f, n = screen4x4VNNI, 4
			case left >= 2:
				f, n = screen4x2VNNI, 2
			}
			f(&y[at], &v[at], 4*stride, tiles, codes, scales, &x[q*cols], cols, &xs[b], &off[b], &sq[b])
			q += n
		}
	}
}
