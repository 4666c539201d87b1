package cpu

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/weights"
)

// randomHead has rows of different lengths, a few nearly equal, one of zeros.
func randomHead(rows, cols int, seed uint64) *weights.Dense {
	rng := rand.New(rand.NewPCG(seed, 1))
	d := &weights.Dense{Rows: rows, Cols: cols, Type: gguf.BF16, U16: make([]uint16, rows*cols)}
	for r := range rows {
		size := rng.ExpFloat64()
		for c := range cols {
			d.U16[r*cols+c] = uint16(math.Float32bits(float32(rng.NormFloat64()*size)) >> 16)
		}
	}
	copy(d.U16[5*cols:6*cols], d.U16[77*cols:]) // equal scores: the lower id comes first
	clear(d.U16[9*cols : 10*cols])
	return d
}

// TestScreenIsExact compares with all scores computed exactly, for smooth and spiky activations.
func TestScreenIsExact(t *testing.T) {
	pool := par.New(3)
	defer pool.Close()
	for _, shape := range [][2]int{{1000, 256}, {513, 100}, {3000, 64}} {
		head := randomHead(shape[0], shape[1], uint64(shape[0]))
		s := newScreen(head, &store{pool: pool})
		rng := rand.New(rand.NewPCG(9, 9))
		for trial := range 30 {
			var dst [][]model.Scored
			var xs [][]float32
			for _, k := range []int{1, 1 + trial, 40} {
				x := make([]float32, head.Cols)
				for c := range x {
					x[c] = float32(rng.NormFloat64())
					if trial%3 == 1 && rng.IntN(40) == 0 {
						x[c] *= 300
					}
				}
				if trial == 7 {
					clear(x)
				}
				if trial == 8 { // the equal rows' own direction
					head.Row(x, 77)
				}
				s.add(x)
				xs = append(xs, x)
				dst = append(dst, make([]model.Scored, k))
			}
			s.best(pool, dst)
			for i, x := range xs {
				logits := make([]float32, head.Rows)
				kernel.MatVecBF16(logits, head.U16, x)
				want := make([]model.Scored, len(dst[i]))
				model.Best(want, logits)
				for j := range want {
					if dst[i][j] != want[j] {
						t.Fatalf("%v, trial %d, query %d: number %d is %+v, want %+v", shape, trial, i, j, dst[i][j], want[j])
					}
				}
			}
		}
		if s.rescored.Load() == 0 || s.tokens.Load() != 90 {
			t.Errorf("%d rows rescored for %d tokens", s.rescored.Load(), s.tokens.Load())
		}
	}
}

// TestScreenBounds: no estimate may leave its bounds, and the bound must not be so wide that it says nothing.
func TestScreenBounds(t *testing.T) {
	pool := par.New(1)
	defer pool.Close()
	head := randomHead(4096, 512, 4)
	s := newScreen(head, &store{pool: pool})
	x := make([]float32, head.Cols)
	rng := rand.New(rand.NewPCG(5, 5))
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	s.add(x)
	s.best(pool, [][]model.Scored{make([]model.Scored, 1)}) // makes room
	t.Logf("%d of %d rows rescored", s.rescored.Load(), head.Rows)
	logits := make([]float32, head.Rows)
	kernel.MatVecBF16(logits, head.U16, x)
	s.add(x)
	s.query[0].bar = float32(math.Inf(-1)) // every row is refined
	quarter := make([]float32, head.Rows)
	for i, pass := range []func(i, worker int){s.pass, s.refine} {
		pool.Run([]int{s.panels(), (s.panels() + refinePanels - 1) / refinePanels}[i], pass)
		var used float64
		for r, v := range logits {
			room := s.high[r] - s.est[r]
			off := float64(v - s.est[r])
			if math.Abs(off) > float64(room) {
				t.Errorf("pass %d, row %d: exact %g, estimate %g ± %g", i, r, v, s.est[r], room)
			}
			if room > 0 {
				used = max(used, math.Abs(off)/float64(room))
			}
			if i == 0 {
				quarter[r] = room / 4
			} else if room > quarter[r]*1.5 {
				t.Errorf("row %d: ± %g after it was refined, ± %g before", r, room, quarter[r]*4)
			}
		}
		t.Logf("pass %d: largest error %.2f of its bound", i, used)
		if used < 0.1 {
			t.Errorf("pass %d: the largest of 4096 errors is %.3f of its bound: the bound is too wide to be of use", i, used)
		}
	}
}

// TestADamagedHeadHasNoScreen: where a row holds a NaN or an infinity, all scores are computed, and the engine names the tensor.
func TestADamagedHeadHasNoScreen(t *testing.T) {
	for _, bits := range []uint16{0x7fc0, 0x7f80, 0xff80} {
		p := newProducts(1)
		head := randomHead(8192, 64, 3)
		if ok, err := p.LoadHead(head); !ok || err != nil {
			t.Fatalf("a sound head: %v, %v", ok, err)
		}
		head.U16[5000*64+7] = bits
		if ok, err := p.LoadHead(head); ok || err != nil {
			t.Errorf("%#x in a row: screen %v, %v", bits, ok, err)
		}
		p.pool.Close()
	}
}
