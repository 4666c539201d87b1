//go:build linux && (amd64 || arm64)

package tensix

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/internal/simtest"
	"github.com/tritlm/trit/accel/tensix/ttsim"
)

// All between two attentions on the tiles: residual stream, norms, squared ReLU, int8 quantisation and seven products
// are the host's to the last bit, and the stream stays on the tiles between blocks.
func TestBlocksOnTheTiles(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		type shape struct{ D, A, F int }
		shapes, grid, batches := []shape{{128, 160, 256}, {288, 256, 672}}, chip.Grid{Columns: 3, Rows: 2}, []int{1, 3, 8, 9, 32}
		if *long {
			shapes, grid, batches = []shape{{2560, 2560, 6912}}, chip.Grid{Columns: 12, Rows: 10}, []int{1, 8, 32}
		}
		ctx := context.Background()
		for _, sh := range shapes {
			d := openSim(t, s, grid)
			first, last := newTestBlock(sh.D, sh.A, sh.F, sh.A, 64, 96), newTestBlock(sh.D, sh.A, sh.F)
			var place placement
			b1, err1 := first.load(d, &place)
			b2, err2 := last.load(d, &place)
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			rng := rand.New(rand.NewPCG(21, uint64(sh.F)))
			for _, tokens := range batches {
				q, scales, x := activations(rng, tokens*sh.A), make([]float32, tokens), make([]float32, tokens*sh.D)
				for i := range scales {
					scales[i] = rng.Float32()*1e-2 + 1e-6
				}
				for i := range x {
					x[i] = float32(rng.NormFloat64())
				}
				before := d.Stats()
				if err := first.compare(ctx, d, b1, q, slices.Clone(scales), x, true); err != nil {
					t.Fatalf("%v, %d tokens, first block: %v", sh, tokens, err)
				}
				if err := last.compare(ctx, d, b2, q, scales, x, false); err != nil {
					t.Fatalf("%v, %d tokens, last block: %v", sh, tokens, err)
				}
				a := d.Stats()
				t.Logf("%v, %2d tokens: two blocks bit-equal; %d jobs, %d products, %d bytes sent, %d returned; %d clocks", sh, tokens, a.Jobs-before.Jobs, a.Products-before.Products, a.Sent-before.Sent, a.Returned-before.Returned, a.TileClocks-before.TileClocks)
				// and an ordinary product afterwards
				y, in := make([]int32, tokens*sh.F), activations(rng, tokens*sh.D)
				if err := d.MatMul(ctx, in, tokens, sh.D, Product{M: b1.w.Up.M, Y: y}); err != nil {
					t.Fatal(err)
				}
				differ(t, "product after a block", y, product(first.up, in, sh.F, sh.D, tokens))
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// What is not a block is refused: wrong shapes, and matrices that lie on other tiles than they should.
func TestBlockShapesAreChecked(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		d := openSim(t, s, chip.Grid{Columns: 2, Rows: 1})
		defer d.Close()
		var place placement
		blk, err := newTestBlock(128, 128, 256, 64).load(d, &place)
		if err != nil {
			t.Fatal(err)
		}
		for what, b := range map[string]*testBlock{"250 columns of feed-forward": newTestBlock(128, 128, 250), "a feed-forward that is cut": newTestBlock(128, 128, 8096)} {
			if _, err := b.load(d, &place); !errors.Is(err, ErrShape) {
				t.Errorf("%s: %v", what, err)
			}
		}
		blk.w.Up.M.segs[0].turn ^= 1
		if _, err := d.NewBlock(blk.w, 1); !errors.Is(err, ErrShape) {
			t.Errorf("up is not beside gate: %v", err)
		}
	})
}
