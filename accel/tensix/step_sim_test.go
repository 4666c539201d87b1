//go:build linux && (amd64 || arm64)

package tensix

import (
	"context"
	"errors"
	"testing"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/internal/simtest"
	"github.com/tritlm/trit/accel/tensix/ttsim"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/cpu"
)

// enginePair is a synthetic model on the CPU and on simulated tiles.
type enginePair struct {
	cfg        *model.Config
	cpu, tiles model.Engine
	d          *Device
	pages      *Pages
}

func newPair(t *testing.T, s *ttsim.Sim, sh synthShape, g chip.Grid) *enginePair {
	t.Helper()
	dir := t.TempDir()
	if err := writeSynth(dir, sh); err != nil {
		t.Fatal(err)
	}
	return newPairOf(t, s, dir, g)
}

// newPairOf is a model of the repository likewise.
func newPairOf(t *testing.T, s *ttsim.Sim, dir string, g chip.Grid) *enginePair {
	t.Helper()
	set, cfg := openModel(t, dir)
	t.Cleanup(func() { set.Close() })
	p := &enginePair{cfg: cfg}
	var err error
	if p.cpu, err = (cpu.Backend{Threads: 1}).Load(context.Background(), cfg, set); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.cpu.Close() })
	b := backend(t, s, g)
	b.Opened = func(d *Device) { p.d = d }
	if p.tiles, err = b.Load(context.Background(), cfg, set); err != nil {
		t.Fatal(err)
	}
	if p.pages = p.d.pages; p.pages == nil {
		t.Fatal("attention does not run on the tiles")
	}
	return p
}

// tokens makes n of them.
func tokens(seed, n, vocab int) (ids []int32) {
	for k := range n {
		ids = append(ids, int32((7*seed+13*k+5)%vocab))
	}
	return ids
}

// Whole tokens on the tiles, attention too, are the CPU engine's to the last bit: heads of 32, 64 and 128 columns, one
// token, several, and more than a page of them; on grids with more and with fewer tiles than heads have chunks.
func TestStepsOnTheTiles(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		for i, sh := range []synthShape{{128, 256, 4, 2, 2, 256}, {128, 256, 2, 1, 2, 256}, {256, 384, 2, 1, 1, 256}} {
			p := newPair(t, s, sh, []chip.Grid{{Columns: 2, Rows: 1}, {Columns: 3, Rows: 2}, {Columns: 3, Rows: 3}}[i])
			run := func(e model.Engine, sizes ...int) (hidden []float32) {
				c, err := e.NewCache(0)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				for i, n := range sizes {
					in := []model.Input{{Cache: c, Tokens: tokens(i, n, p.cfg.VocabSize), Hidden: make([]float32, n*p.cfg.HiddenSize)}}
					if err := e.Forward(context.Background(), in); err != nil {
						t.Fatal(err)
					}
					hidden = append(hidden, in[0].Hidden...)
				}
				return hidden
			}
			sizes := []int{1, 1, 3, 28, 1, 9, 23, 1}
			sameBits(t, "hidden", run(p.tiles, sizes...), run(p.cpu, sizes...))
			st := p.d.Stats()
			if st.Jobs != uint64(len(sizes)) {
				t.Errorf("%v: %d jobs for %d passes", sh, st.Jobs, len(sizes))
			}
			t.Logf("%v on %d tiles: 67 tokens in %d passes bit-equal; %d jobs, %d clocks", sh, p.d.Tiles(), len(sizes), st.Jobs, st.TileClocks)
			if i == 2 || *long { // behind a prompt that the host reads, spans are joined
				sizes = []int{600, 1, 3, 28}
				sameBits(t, "hidden, of a long sequence,", run(p.tiles, sizes...), run(p.cpu, sizes...))
			}
			if err := p.tiles.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Prompts of any length are jobs of 32 tokens each, of squared ReLU with norms and of SiLU without: every bit of the hidden
// states behind them is the CPU engine's, and so is what follows.
func TestPromptsOnTheTiles(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		for dir, lengths := range map[string][]int{"bitnet-2b4t": {33, 200}, "falcon-e": {33, 200, 250}} {
			p := newPairOf(t, s, "../../testdata/goldens/"+dir, chip.Grid{Columns: 2, Rows: 2})
			for _, n := range lengths {
				var got, want [][]float32
				before := p.d.Stats().Jobs
				for _, e := range []struct {
					e   model.Engine
					all *[][]float32
				}{{p.tiles, &got}, {p.cpu, &want}} {
					q := newSequence(t, e.e)
					for i, k := range []int{n, 1, 2} {
						h := make([]float32, k*p.cfg.HiddenSize)
						if err := q.pass(tokens(i, k, p.cfg.VocabSize), h); err != nil {
							t.Fatal(err)
						}
						*e.all = append(*e.all, h)
					}
					q.c.Close()
				}
				for i := range want {
					sameBits(t, "hidden", got[i], want[i])
				}
				if jobs := p.d.Stats().Jobs - before; jobs != uint64((n+31)/32+2) {
					t.Errorf("%s, %d tokens: %d jobs", dir, n, jobs)
				}
				t.Logf("%s: a prompt of %d tokens and three behind it bit-equal", dir, n)
			}
			if err := p.tiles.Close(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// lateCancel is cancelled when it is looked at for the second time.
type lateCancel struct {
	context.Context
	looked int
}

func (c *lateCancel) Err() error {
	if c.looked++; c.looked > 1 {
		return context.Canceled
	}
	return nil
}

// Keys and values in pages: sequences of different lengths in a batch, some forked and some cut short, and passes that the
// host does on the way, by which pages go there and back. When all is closed all pages are free.
func TestPagesOnTheTiles(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		p := newPair(t, s, synthShape{128, 256, 4, 2, 2, 256}, chip.Grid{Columns: 2, Rows: 1})
		ctx, V, D := context.Background(), p.cfg.VocabSize, p.cfg.HiddenSize
		run := func(e model.Engine) (all []float32) {
			var caches []model.Cache
			keep := func(c model.Cache, err error) model.Cache {
				t.Helper()
				if err != nil {
					t.Fatal(err)
				}
				caches = append(caches, c)
				return c
			}
			pass := func(traced bool, lengths map[model.Cache]int, order ...model.Cache) {
				t.Helper()
				var in []model.Input
				for i, c := range order {
					n := lengths[c]
					x := model.Input{Cache: c, Tokens: tokens(len(all)+i, n, V), Hidden: make([]float32, n*D)}
					if traced {
						x.Trace = func(string, []float32) {} // the host, layer by layer
					}
					in = append(in, x)
				}
				if err := e.Forward(ctx, in); err != nil {
					t.Fatal(err)
				}
				for i := range in {
					all = append(all, in[i].Hidden...)
				}
			}
			a, b := keep(e.NewCache(0)), keep(e.NewCache(0))
			pass(false, map[model.Cache]int{a: 20, b: 7}, a, b)
			pass(false, map[model.Cache]int{a: 40}, a) // too many for a step: the host
			pass(false, map[model.Cache]int{a: 1, b: 1}, b, a)
			f, g := keep(a.Fork(61)), keep(a.Fork(33))
			pass(false, map[model.Cache]int{a: 2, b: 3, f: 1, g: 4}, a, f, b, g) // each has its own last page now
			a.Truncate(35)
			pass(true, map[model.Cache]int{a: 2, g: 1}, a, g)
			pass(false, map[model.Cache]int{a: 1, b: 1, f: 1, g: 1}, f, g, b, a)
			f.Truncate(0)
			pass(false, map[model.Cache]int{f: 3}, f)
			h := keep(f.Fork(2))
			f.Close()
			pass(false, map[model.Cache]int{h: 1, a: 1}, h, a)
			cancelled, cancel := context.WithCancel(ctx)
			cancel()
			if err := e.Forward(cancelled, []model.Input{{Cache: a, Tokens: tokens(1, 3, V)}}); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			late := &lateCancel{Context: ctx} // while the tiles are at work
			if err := e.Forward(late, []model.Input{{Cache: a, Tokens: tokens(2, 3, V)}}); !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			if n := a.Len(); n != 39 {
				t.Fatalf("%d tokens in the cache after two cancelled passes", n)
			}
			pass(false, map[model.Cache]int{a: 2}, a)
			for _, c := range caches {
				c.Close()
			}
			return all
		}
		want := run(p.cpu)
		for range 2 {
			sameBits(t, "hidden", run(p.tiles), want)
			if used, ever := p.d.Stats().Pages, p.pages.all-p.pages.lowest; used != 0 || ever == 0 || ever > 12 {
				t.Errorf("%d of %d pages are in use when all caches are closed", used, ever)
			}
		}
		t.Logf("%d pages were in use at most, of %d; all are free", p.pages.all-p.pages.lowest, p.pages.all)

		// No memory for another page: a clear error, and caches as they were.
		c, err := p.tiles.NewCache(0)
		if err != nil {
			t.Fatal(err)
		}
		var taken []int
		for len(p.pages.free) > 1 {
			n, err := p.pages.New()
			if err != nil {
				t.Fatal(err)
			}
			taken = append(taken, n)
		}
		next := p.d.next
		p.d.next = p.d.top // nothing is free below the pages that were used
		in := []model.Input{{Cache: c, Tokens: tokens(1, 31, V)}}
		if err := p.tiles.Forward(ctx, in); err != nil {
			t.Fatal(err)
		}
		err = p.tiles.Forward(ctx, in)
		if t.Log(err); !errors.Is(err, ErrMemory) {
			t.Errorf("got %v", err)
		}
		if n := c.Len(); n != 31 {
			t.Errorf("%d tokens in the cache", n)
		}
		p.d.next = next
		for _, n := range taken {
			p.pages.Free(n)
		}
		d, err := p.cpu.NewCache(0)
		if err != nil {
			t.Fatal(err)
		}
		var hidden [2][]float32
		for i, e := range []model.Engine{p.tiles, p.cpu} {
			if in[0].Cache = []model.Cache{c, d}[i]; i == 1 {
				in[0].Hidden = nil
				if err := e.Forward(ctx, in); err != nil {
					t.Fatal(err)
				}
			}
			in[0].Hidden = make([]float32, D)
			if err := e.Forward(ctx, in); err != nil {
				t.Fatal(err)
			}
			hidden[i] = in[0].Hidden
		}
		sameBits(t, "hidden, after the card was full,", hidden[0], hidden[1])
		c.Close()
		d.Close()
		if err := p.tiles.Close(); err != nil {
			t.Error(err)
		}
	})
}

// sequence is one sequence of an engine.
type sequence struct {
	e model.Engine
	c model.Cache
}

func newSequence(t *testing.T, e model.Engine) *sequence {
	t.Helper()
	c, err := e.NewCache(0)
	if err != nil {
		t.Fatal(err)
	}
	return &sequence{e, c}
}

// pass runs tokens and gives their hidden states.
func (s *sequence) pass(ids []int32, hidden []float32) error {
	return s.e.Forward(context.Background(), []model.Input{{Cache: s.c, Tokens: ids, Hidden: hidden}})
}
