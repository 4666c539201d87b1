package cpu

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/engine"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/ternary"
	"github.com/tritlm/trit/weights"
)

// TestColumnsAreTheSameProduct: whichever way a product is computed, and however many zeros there are.
func TestColumnsAreTheSameProduct(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, threads := range []int{1, 2, 5} {
		for _, shape := range [][2]int{{16, 16}, {40, 100}, {256, 64}, {300, 333}, {2560, 512}} {
			rows, cols := shape[0], shape[1]
			codes := make([]int8, rows*cols)
			for i := range codes {
				codes[i] = int8(rng.IntN(3) - 1)
			}
			m, err := ternary.FromCodes(codes, rows, cols, []float32{1})
			if err != nil {
				t.Fatal(err)
			}
			p := newProducts(threads)
			id, _, err := p.Load(part.Matrix{Name: "down", Rows: rows, Cols: cols, Role: part.RoleDown, Sparse: true}, func() (*ternary.Matrix, error) { return m, nil })
			if err != nil {
				t.Fatal(err)
			}
			if p.matrices[id].byColumn == nil {
				t.Fatal("no copy by columns")
			}
			for _, zeros := range []float64{0, 0.1, 0.5, 0.9, 1} {
				x := make([]int8, kernel.Pad16(cols))
				var sum int32
				for i := range cols {
					if rng.Float64() >= zeros {
						x[i] = int8(rng.IntN(255) - 127)
						sum += int32(x[i])
					}
				}
				got := make([]int32, kernel.Pad16(rows))
				used := p.multiplyColumns(&p.matrices[id], got, x, []int32{sum})
				if zeros != 0.5 && used != (zeros > 0.5) { // about half of them, it is left to chance
					t.Errorf("%v, %.0f%% zeros: by columns %v", shape, 100*zeros, used)
				}
				if err := p.Multiply(context.Background(), []int{id}, [][]int32{got}, x, []int32{sum}); err != nil {
					t.Fatal(err)
				}
				want := make([]int32, kernel.Pad16(rows))
				kernel.TernaryMatVec(want, m.T16, x, sum)
				if !slices.Equal(got[:rows], want[:rows]) {
					t.Fatalf("%d threads, %v, %.0f%% zeros: products differ", threads, shape, 100*zeros)
				}
			}
			if err := p.Close(); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestSparseIsDense: a model whose zeros are always skipped, and one whose zeros never are, give the same logits; also
// at the token where the copy for it is made.
func TestSparseIsDense(t *testing.T) {
	columns, rows := columnsPay, rowsPay
	defer func() { columnsPay, rowsPay = columns, rows }()
	logits := func(columns, rows float64) []float32 {
		columnsPay, rowsPay = columns, rows
		set, err := weights.Open("../../testdata/goldens/bitnet-2b4t", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer set.Close()
		cfg, err := family.Read(set)
		if err != nil {
			t.Fatal(err)
		}
		e, err := Backend{Threads: 2}.Load(context.Background(), cfg, set)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		p := e.(*engine.Engine).Products().(*cpuProducts)
		if p.matrices[6].byColumn == nil {
			t.Fatal("no copy by columns")
		}
		cache, err := e.NewCache(0)
		if err != nil {
			t.Fatal(err)
		}
		all := make([]float32, 40*cfg.VocabSize)
		for i := range 40 {
			in := []model.Input{{Cache: cache, Tokens: []int32{int32(7 * i)}, Logits: all[i*cfg.VocabSize:][:cfg.VocabSize]}}
			if err := e.Forward(context.Background(), in); err != nil {
				t.Fatal(err)
			}
		}
		for i, up := range []int{5, 12} {
			if made := p.matrices[up].byRow != nil; made != (rows > 0 && 40 >= rowsPatience+(i+1)/8) {
				t.Errorf("rows below %g, after 40 tokens: up_proj of layer %d copied by rows: %v", rows, i, made)
			}
		}
		return all
	}
	want := logits(0, 0)
	for _, pay := range [][2]float64{{2, 2}, {2, 0}, {0, 2}} {
		if !slices.Equal(logits(pay[0], pay[1]), want) {
			t.Errorf("by columns below %g and by rows below %g: other logits", pay[0], pay[1])
		}
	}
}
