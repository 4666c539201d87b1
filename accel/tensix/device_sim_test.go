//go:build linux && (amd64 || arm64)

package tensix

import (
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/internal/simtest"
	"github.com/tritlm/trit/accel/tensix/ttsim"
)

// t16 lays codes [rows, cols] out as layout T16, straight from its definition.
func t16(codes []int8, rows, cols int) []byte {
	tiles, steps := (rows+15)/16, (cols+15)/16
	out := make([]byte, tiles*steps*64)
	for r := range 16 * tiles {
		for c := range 16 * steps {
			code := byte(1)
			if r < rows && c < cols {
				code = byte(codes[r*cols+c] + 1)
			}
			out[(r/16*steps+c/16)*64+4*(r%16)+c%4] |= code << (2 * (c % 16 / 4))
		}
	}
	return out
}

func ternaryCodes(rng *rand.Rand, n int) []int8 {
	w := make([]int8, n)
	for i := range w {
		w[i] = int8(rng.IntN(3) - 1)
	}
	return w
}

func activations(rng *rand.Rand, n int) []int8 {
	x := make([]int8, n)
	for i := range x {
		x[i] = int8(rng.IntN(255) - 127)
	}
	return x
}

// product is the definition: y[t][r] = Σ w[r][k]·x[t][k].
func product(w, x []int8, rows, cols, tokens int) []int32 {
	y := make([]int32, tokens*rows)
	for t := range tokens {
		xt := x[t*cols:][:cols]
		for r := range rows {
			var s int32
			for k, v := range w[r*cols:][:cols] {
				s += int32(v) * int32(xt[k])
			}
			y[t*rows+r] = s
		}
	}
	return y
}

// openSim opens a device whose every broken rule fails the test.
func openSim(t *testing.T, s *ttsim.Sim, g chip.Grid) *Device {
	t.Helper()
	d, err := Open(s, Options{Grid: g, Check: func(err error) { t.Error(err) }})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func differ(t *testing.T, what string, got, want []int32) {
	t.Helper()
	bad := 0
	for i := range want {
		if got[i] != want[i] {
			if bad < 3 {
				t.Errorf("%s: output %d is %d, want %d", what, i, got[i], want[i])
			}
			bad++
		}
	}
	if bad > 0 {
		t.Fatalf("%s: %d of %d outputs wrong", what, bad, len(want))
	}
}

// Every shape the firmware knows: both kinds, all three row counts, odd sizes, several matrices in one job, more
// chunks than tiles and fewer.
func TestProductsOnTheSimulator(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		d := openSim(t, s, chip.Grid{Columns: 3, Rows: 2})
		rng := rand.New(rand.NewPCG(3, 4))
		ctx := context.Background()
		for _, c := range []struct {
			rows []int
			cols int
		}{{[]int{32}, 128}, {[]int{5}, 16}, {[]int{100, 33, 40}, 200}, {[]int{640, 96}, 640}} {
			var parts []Part
			var codes [][]int8
			for _, r := range c.rows {
				w := ternaryCodes(rng, r*c.cols)
				codes = append(codes, w)
				parts = append(parts, Part{t16(w, r, c.cols), r, c.cols})
			}
			m, err := d.LoadTernary("test", parts...)
			if err != nil {
				t.Fatal(err)
			}
			w8 := activations(rng, c.rows[0]*c.cols)
			m8, err := d.LoadInt8("head", w8, c.rows[0], c.cols)
			if err != nil {
				t.Fatal(err)
			}
			for _, tokens := range []int{1, 2, 8, 9, 32, 33} {
				x := activations(rng, tokens*c.cols)
				var y [][]int32
				for _, r := range c.rows {
					y = append(y, make([]int32, tokens*r))
				}
				if err := d.MatMul(ctx, m, x, tokens, y...); err != nil {
					t.Fatal(err)
				}
				for i, r := range c.rows {
					differ(t, "ternary", y[i], product(codes[i], x, r, c.cols, tokens))
				}
				y8 := make([]int32, tokens*c.rows[0])
				if err := d.MatMul(ctx, m8, x, tokens, y8); err != nil {
					t.Fatal(err)
				}
				differ(t, "int8", y8, product(w8, x, c.rows[0], c.cols, tokens))
			}
		}
		t.Logf("%+v, %d clocks", d.Stats(), s.Clocks)
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
}

func since(t0 time.Time) time.Duration { return time.Since(t0).Round(time.Millisecond) }
