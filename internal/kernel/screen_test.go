package kernel

import (
	"math"
	"math/rand/v2"
	"testing"
)

func TestScreen4(t *testing.T) {
	defer SetTier(Tier())
	rng := rand.New(rand.NewPCG(3, 4))
	for _, shape := range [][2]int{{16, 64}, {16, 128}, {32, 192}, {64, 2560}} {
		rows, cols := shape[0], shape[1]
		nc, ns := ScreenSizes(rows, cols)
		for _, extreme := range []bool{false, true} {
			codes, scales := make([]byte, nc), make([]uint16, ns)
			x := make([]int8, cols)
			xs, off, sq := make([]float32, cols/64), make([]float32, cols/64), make([]float32, cols/64)
			for i := range codes {
				codes[i] = byte(rng.Uint32())
				if extreme {
					codes[i] = 0xff
				}
			}
			for i := range scales {
				scales[i] = ToF16(rng.Float32())
			}
			for i := range x {
				x[i] = int8(rng.IntN(255) - 127)
				if extreme {
					x[i] = -128
				}
			}
			for i := range xs {
				xs[i], off[i], sq[i] = rng.Float32(), rng.Float32()-0.5, rng.Float32()
			}
			y, v := make([]float32, rows), make([]float32, rows)
			for _, tier := range Tiers() {
				if err := SetTier(tier); err != nil {
					t.Fatal(err)
				}
				gy, gv := make([]float32, rows), make([]float32, rows)
				Screen4(gy, gv, codes, scales, x, xs, off, sq)
				if tier == "generic" {
					y, v = gy, gv
					continue
				}
				for r := range y {
					if math.Float32bits(gy[r]) != math.Float32bits(y[r]) || math.Float32bits(gv[r]) != math.Float32bits(v[r]) {
						t.Fatalf("%s %v row %d: %g, %g; want %g, %g", tier, shape, r, gy[r], gv[r], y[r], v[r])
					}
				}
			}
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
