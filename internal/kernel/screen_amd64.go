//go:build !purego

package kernel

// screenTiles takes a tile through all queries while it is in L1, four of them at a time; the tiles of a single query
// one after the other.
func screenTiles(y, high []float32, stride int, upper []byte, scales []uint16, norm []float32, x []int8, xs, off, sq, margin []float32) {
	queries := len(margin)
	cols := len(x) / queries
	blocks, tiles := cols/ScreenBlock, 1
	if queries == 1 {
		tiles = len(norm) / 16
	}
	for t := 0; t < len(norm)/16; t += tiles {
		upper, scales := &upper[t*6*cols], &scales[t*16*blocks]
		for q := 0; q < queries; {
			at, b := q*stride+16*t, q*blocks
			f, n := screen1VNNI, 1
			switch left := queries - q; {
			case left >= 4:
				f, n = screen4VNNI, 4
			case left >= 2:
				f, n = screen2VNNI, 2
			}
			f(&y[at], &high[at], 4*stride, tiles, upper, scales, &norm[16*t], &x[q*cols], cols, &xs[b], &off[b], &sq[b], &margin[q])
			q += n
		}
	}
}
