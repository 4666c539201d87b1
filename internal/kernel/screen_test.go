package kernel

import (
	"fmt"
	"testing"
)

func TestScreen4(t *testing.T) {
	rng := newRand(12)
	for _, shape := range [][2]int{{16, 64}, {16, 128}, {32, 192}, {64, 2560}} {
		rows, cols := shape[0], shape[1]
		nc, ns := ScreenSizes(rows, cols)
		for _, extreme := range []bool{false, true} {
			codes := vecOf(t, nc, func(int) byte { return byte(rng.Uint32()) })
			x := vecOf(t, cols, func(int) int8 { return int8(rng.IntN(255) - 127) })
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
			xs, off, sq := vecOf(t, cols/64, random), vecOf(t, cols/64, random), vecOf(t, cols/64, random)
			y, v := make([]float32, rows), make([]float32, rows)
			screen4Generic(y, v, codes, scales, x, xs, off, sq)
			gy, gv := vec[float32](t, rows), vec[float32](t, rows)
			forTiers(func(tier string) {
				Screen4(gy, gv, codes, scales, x, xs, off, sq)
				equalBits(t, fmt.Sprint(tier, " estimates of ", shape), gy, y)
				equalBits(t, fmt.Sprint(tier, " variances of ", shape), gv, v)
			})
		}
	}
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
