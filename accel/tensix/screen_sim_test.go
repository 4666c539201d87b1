//go:build linux && (amd64 || arm64)

package tensix

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/internal/simtest"
	"github.com/tritlm/trit/accel/tensix/ttsim"
)

// The tiles keep every row of a head that can have the largest score, with its exact sum, and hardly any other; and
// say so when there are too many.
func TestScreenOnTheTiles(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		const rows, cols = 1000, 256
		d := openSim(t, s, chip.Grid{Columns: 3, Rows: 2})
		defer d.Close()
		rng := rand.New(rand.NewPCG(31, 32))
		w := activations(rng, rows*cols)
		copy(w[700*cols:], w[300*cols:301*cols]) // two equal rows
		m, err := d.LoadInt8("head", rows, cols, rowsOf(w, cols))
		if err != nil {
			t.Fatal(err)
		}
		bounds := make([]RowBound, rows)
		for r := range bounds {
			bounds[r] = RowBound{S: 1e-3 * (0.5 + rng.Float32()), Rest: 0.1 * rng.Float32(), Norm: rng.Float32()}
		}
		bounds[700] = bounds[300]
		sc, err := d.NewScreen(m, func(r int) RowBound { return bounds[r] })
		if err != nil {
			t.Fatal(err)
		}
		for _, tokens := range []int{1, 2, 8, 9, 32} {
			x, a, b := activations(rng, tokens*cols), make([]float32, tokens), make([]float32, tokens)
			for i := range a {
				a[i], b[i] = 100*rng.Float32(), 40*rng.Float32()
			}
			clocks := d.Stats().TileClocks
			lists, ok, err := d.Screen(context.Background(), sc, x, cols, a, b)
			clocks = d.Stats().TileClocks - clocks
			if err != nil || !ok {
				t.Fatal(ok, err)
			}
			y, kept := product(w, x, rows, cols, tokens), 0
			for i := range tokens {
				best := math.Inf(-1)
				score := func(r int) (v, e float64) {
					return float64(bounds[r].S) * float64(y[i*rows+r]), float64(bounds[r].Rest)*float64(a[i]) + float64(bounds[r].Norm)*float64(b[i])
				}
				for r := range rows {
					v, e := score(r)
					best = max(best, v-e)
				}
				got := map[int32]int32{}
				for _, c := range lists[i] {
					got[c.Row] = c.Sum
				}
				kept += len(got)
				for r := range rows {
					v, e := score(r)
					sum, in := got[int32(r)]
					const room = 1e-5 // float32, of a score of 10³
					if v+e > best+room*(math.Abs(v)+e) && !in || v+e < best-room*(math.Abs(v)+e) && in {
						t.Fatalf("%d tokens: row %d of token %d (%g ± %g, best %g) is in the list: %v", tokens, r, i, v, e, best, in)
					}
					if in && sum != y[i*rows+r] {
						t.Fatalf("row %d of token %d: sum %d, want %d", r, i, sum, y[i*rows+r])
					}
				}
				_, one := got[300]
				if _, other := got[700]; one != other {
					t.Errorf("of two equal rows one is kept: %v, %v", one, other)
				}
			}
			t.Logf("%2d tokens: %d of %d scores came to the host; %d clocks", tokens, kept, tokens*rows, clocks)
		}
		// No row can be ruled out: all of them come, if there is room.
		x, a, b := activations(rng, cols), []float32{float32(math.Inf(1))}, []float32{float32(math.NaN())}
		lists, ok, err := d.Screen(context.Background(), sc, x, cols, a, b)
		if err != nil || !ok || len(lists[0]) != rows {
			t.Fatalf("%d rows, %v, %v", len(lists[0]), ok, err)
		}
		slices.SortFunc(lists[0], func(a, b Screened) int { return int(a.Row - b.Row) })
		for r, v := range product(w, x, rows, cols, 1) {
			if lists[0][r] != (Screened{int32(r), v}) {
				t.Fatalf("row %d: %v, want a sum of %d", r, lists[0][r], v)
			}
		}
		host := d.host.Bytes
		d.host.Bytes = host[:d.out+d.Tiles()*128]
		if _, ok, err := d.Screen(context.Background(), sc, x, cols, a, b); ok || err != nil {
			t.Errorf("a list longer than its room: %v, %v", ok, err)
		}
		d.host.Bytes = host
		if _, ok, err := d.Screen(context.Background(), sc, x, cols, []float32{0}, []float32{0}); !ok || err != nil {
			t.Errorf("afterwards: %v, %v", ok, err)
		}
	})
}
