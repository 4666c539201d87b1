//go:build linux && (amd64 || arm64)

package tensix

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/internal/simtest"
	"github.com/tritlm/trit/accel/tensix/ttsim"
	"github.com/tritlm/trit/internal/kernel"
)

func loadFFN(t *testing.T, d *Device, gate, up, down []byte, D, F int, norm []float32, eps float32) *FFN {
	t.Helper()
	g, err1 := d.LoadTernary("gate", gate, F, D)
	u, err2 := d.LoadBeside(g, "up", up, F, D)
	w, err3 := d.LoadTernary("down", down, D, F)
	f, err4 := d.NewFFN(g, u, w, norm, eps)
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	return f
}

// The whole feed-forward on the tiles: squared ReLU, norm, int8 quantisation and both products are the host's to the
// last bit.
func TestFeedForwardOnTheTiles(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		type shape struct{ D, F int }
		shapes := []shape{{128, 256}, {256, 672}}
		grid := chip.Grid{Columns: 3, Rows: 2}
		if *long {
			shapes, grid = []shape{{2560, 6912}}, chip.Grid{Columns: 12, Rows: 10}
		}
		for _, sh := range shapes {
			d := openSim(t, s, grid)
			rng := rand.New(rand.NewPCG(21, uint64(sh.F)))
			D, F := sh.D, sh.F
			gate, up, down := ternaryCodes(rng, F*D), ternaryCodes(rng, F*D), ternaryCodes(rng, D*F)
			norm := make([]float32, F)
			for i := range norm {
				norm[i] = 0.5 + rng.Float32()
			}
			const eps = 1e-5
			f := loadFFN(t, d, t16(gate, F, D), t16(up, F, D), t16(down, D, F), D, F, norm, eps)
			for _, tokens := range []int{1, 3, 8, 9, 32, 35} {
				x := activations(rng, tokens*D)
				sg, su := make([]float32, tokens), make([]float32, tokens)
				for i := range sg {
					sg[i], su[i] = rng.Float32()*1e-3+1e-6, rng.Float32()*1e-3+1e-6
				}
				// the host's way
				yg, yu := product(gate, x, F, D, tokens), product(up, x, F, D, tokens)
				q := make([]int8, tokens*F)
				want := make([]float32, tokens)
				for r := range tokens {
					g, u, h := make([]float32, F), make([]float32, F), make([]float32, F)
					kernel.ScaleRow(g, yg[r*F:][:F], sg[r])
					kernel.ScaleRow(u, yu[r*F:][:F], su[r])
					kernel.ReLU2Mul(h, g, u)
					row := make([]int8, kernel.Pad16(F))
					y := make([]float32, F)
					want[r], _ = kernel.RMSNormQuantize(row, y, h, norm, eps)
					copy(q[r*F:], row[:F])
				}
				wantY := product(down, q, D, F, tokens)
				gotY, largest := make([]int32, tokens*D), make([]float32, tokens)
				before := d.Stats()
				if err := d.FeedForward(context.Background(), f, x, tokens, D, sg, su, Product{Y: gotY}, largest); err != nil {
					t.Fatal(err)
				}
				for r := range tokens {
					if got := max(largest[r], 1e-5) / 127; math.Float32bits(got) != math.Float32bits(want[r]) {
						t.Fatalf("%v, %d tokens: scale of token %d is %g, want %g", sh, tokens, r, got, want[r])
					}
				}
				differ(t, "feed-forward", gotY, wantY)
				a := d.Stats()
				t.Logf("%v, %2d tokens: %d outputs and %d scales bit-equal; %d job, %d bytes sent, %d returned", sh, tokens, len(gotY), tokens, a.Jobs-before.Jobs, a.Sent-before.Sent, a.Returned-before.Returned)
				// and an ordinary product afterwards
				y := make([]int32, tokens*F)
				if err := d.MatMul(context.Background(), x, tokens, D, Product{M: f.up, Y: y}); err != nil {
					t.Fatal(err)
				}
				differ(t, "product after a feed-forward", y, yu)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}
