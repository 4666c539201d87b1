package train

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/tritlm/trit/data"
	"github.com/tritlm/trit/internal/par"
)

// ring is a Group of goroutines.
type ring struct {
	n       int
	mu      sync.Mutex
	arrived int
	round   chan struct{}
	parts   [][]float32
	scalars [][]float64
}

type member struct {
	*ring
	rank int
}

func newRing(n int) *ring {
	return &ring{n: n, round: make(chan struct{}), parts: make([][]float32, n), scalars: make([][]float64, n)}
}

func (m member) Rank() int    { return m.rank }
func (m member) Size() int    { return m.n }
func (m member) Close() error { return nil }

// meet waits for all; the last one runs fn first.
func (r *ring) meet(fn func()) {
	r.mu.Lock()
	if r.arrived++; r.arrived == r.n {
		fn()
		r.arrived = 0
		close(r.round)
		r.round = make(chan struct{})
		r.mu.Unlock()
		return
	}
	round := r.round
	r.mu.Unlock()
	<-round
}

func pairs[T float32 | float64](parts [][]T) {
	for step := 1; step < len(parts); step *= 2 {
		for r := 0; r+step < len(parts); r += 2 * step {
			for i, v := range parts[r+step] {
				parts[r][i] += v
			}
		}
	}
}

func (m member) Sum(x []float32) error {
	m.parts[m.rank] = append([]float32(nil), x...)
	m.meet(func() { pairs(m.parts) })
	copy(x, m.parts[0])
	m.meet(func() {})
	return nil
}

func (m member) SumScalars(x []float64) error {
	m.scalars[m.rank] = append([]float64(nil), x...)
	m.meet(func() { pairs(m.scalars) })
	copy(x, m.scalars[0])
	m.meet(func() {})
	return nil
}

// TestProcessesTrainTheSameBits: 1×B, 2×B/2, 4×B/4 and 8×B/8 end with the same parameters, for every architecture and
// precision, with batches of which some sequences are as long as a piece of integer sums and others not, and for adapters.
func TestProcessesTrainTheSameBits(t *testing.T) {
	one := par.New(2)
	defer one.Close()
	vocab, err := data.Chars(data.Builtin())
	if err != nil {
		t.Fatal(err)
	}
	tokens := data.NewTokens(vocab.EncodeAll(data.Builtin()), vocab.Size())
	type build func(pool *par.Pool) (*Model, error)
	cases := map[string]build{}
	for _, arch := range Archs {
		for _, precision := range Precisions {
			c, _ := Preset("tiny", arch, precision)
			c.VocabSize = vocab.Size()
			cases[arch+"/"+precision] = func(pool *par.Pool) (*Model, error) { return New(c, pool, 3) }
		}
	}
	c, _ := Preset("tiny", "llama", "ternary")
	c.VocabSize, c.Block, c.NumLayers = vocab.Size(), 700, 1 // a sequence is longer than a piece of 512 tokens
	cases["long"] = func(pool *par.Pool) (*Model, error) { return New(c, pool, 3) }
	c.Block = 32
	base, err := New(c, one, 3)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := base.Export(dir, vocab, ExportOptions{Format: "hf-packed"}); err != nil {
		t.Fatal(err)
	}
	cases["lora"] = func(pool *par.Pool) (*Model, error) {
		m, _, err := InitLora(dir, Lora{Rank: 4}, 0, 1, pool)
		return m, err
	}
	for name, build := range cases {
		t.Run(name, func(t *testing.T) {
			train := func(n int) ([]float32, []float64) {
				r := newRing(n)
				var losses []float64
				var w []float32
				var wg sync.WaitGroup
				fail := make([]error, n)
				for rank := range n {
					wg.Go(func() {
						fail[rank] = func() error {
							pool := par.New(1)
							defer pool.Close()
							m, err := build(pool)
							if err != nil {
								return err
							}
							o := DefaultOptions()
							o.BatchSize, o.MaxIters, o.LR = 8, 6, 3e-3
							tr, err := NewTrainer(m, o)
							if err != nil {
								return err
							}
							if n > 1 {
								tr.Group = member{r, rank}
							}
							for s, err := range tr.Run(context.Background(), tr.Batches(tokens)) {
								if err != nil {
									return err
								}
								if rank == 0 {
									losses = append(losses, s.Loss)
								}
							}
							if rank == n-1 {
								w = m.w
							}
							return nil
						}()
					})
				}
				wg.Wait()
				for _, err := range fail {
					if err != nil {
						t.Fatal(err)
					}
				}
				return w, losses
			}
			want, losses := train(1)
			for _, n := range []int{2, 4, 8} {
				got, l := train(n)
				for i := range want {
					if got[i] != want[i] {
						t.Fatalf("%d processes: parameter %d is %v, alone %v", n, i, got[i], want[i])
					}
				}
				for i := range losses {
					if d := l[i] - losses[i]; d > 1e-12 || d < -1e-12 {
						t.Errorf("%d processes: step %d: loss %v, alone %v", n, i+1, l[i], losses[i])
					}
				}
			}
			if fmt.Sprint(losses[0]) == fmt.Sprint(losses[5]) {
				t.Error("nothing was learnt")
			}
		})
	}
}
