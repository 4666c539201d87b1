package kernel

import (
	"fmt"
	"testing"
)

func TestScreen4(t *testing.T) {
	rng := newRand(12)
	for _, shape := range [][3]int{{16, 64, 1}, {16, 128, 3}, {32, 192, 2}, {64, 2560, 1}, {48, 128, 7}, {32, 64, 12}} {
		rows, cols, queries := shape[0], shape[1], shape[2]
		nc, ns := ScreenSizes(rows, cols)
		stride, blocks := rows+16, cols/64
		for _, extreme := range []bool{false, true} {
			codes := vecOf(t, nc, func(int) byte { return byte(rng.Uint32()) })
			x := vecOf(t, queries*cols, func(int) int8 { return int8(rng.IntN(255) - 127) })
			if extreme {
				for i := range codes {
					codes[i] = 0xff
				}
				for i := range x {
					x[i] = -128
				}
			}
			scales := vecOf(t, ns, func(int) uint16 { return ToF16(rng.Float32()) })
			random := func(int) float32 { return rng.Float32() - 0.5 }
			xs, off, sq := vecOf(t, queries*blocks, random), vecOf(t, queries*blocks, random), vecOf(t, queries*blocks, random)
			size := (queries-1)*stride + rows
			y, v := make([]float32, size), make([]float32, size)
			for q := range queries {
				b := q * blocks
				screen4Generic(y[q*stride:][:rows], v[q*stride:][:rows], codes, scales, x[q*cols:][:cols], xs[b:b+blocks], off[b:b+blocks], sq[b:b+blocks])
			}
			gy, gv := vec[float32](t, size), vec[float32](t, size) // what lies between the queries stays 0
			forTiers(func(tier string) {
				Screen4(gy, gv, stride, codes, scales, x, xs, off, sq, queries)
				equalBits(t, fmt.Sprint(tier, " estimates of ", shape), gy, y)
				equalBits(t, fmt.Sprint(tier, " variances of ", shape), gv, v)
			})
		}
	}
	mustPanic(t, "rows that overlap", func() {
		Screen4(make([]float32, 32), make([]float32, 32), 8, make([]byte, 512), make([]uint16, 16), make([]int8, 128), make([]float32, 2), make([]float32, 2), make([]float32, 2), 2)
	})
}

func TestScreenIndex(t *testing.T) {
	const rows, cols = 32, 128
	seen := map[[2]int]bool{}
	nc, _ := ScreenSizes(rows, cols)
	for r := range rows {
		for c := range cols {
			i, shift := ScreenIndex(cols, r, c)
			if i < 0 || i >= nc || seen[[2]int{i, shift}] {
				t.Fatalf("row %d, column %d: byte %d, shift %d", r, c, i, shift)
			}
			seen[[2]int{i, shift}] = true
		}
	}
}
