//go:build linux && (amd64 || arm64)

package tensix

import (
	"context"
	"math"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/internal/simtest"
	"github.com/tritlm/trit/accel/tensix/ttsim"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/cpu"
)

func usage() (cpu time.Duration, peakMiB int64) {
	var r syscall.Rusage
	_ = syscall.Getrusage(syscall.RUSAGE_SELF, &r)
	return time.Duration(r.Utime.Nano() + r.Stime.Nano()), r.Maxrss >> 10
}

func sameBits(t *testing.T, what string, got, want []float32) {
	t.Helper()
	for i := range want {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s %d is %g, the CPU engine's %g", what, i, got[i], want[i])
		}
	}
}

// compareWide writes greedy text with the CPU engine and with the tiles, and compares every bit of the hidden states, of
// the logits that every other sequence asks for, and the best tokens of the others.
func compareWide(t *testing.T, s *ttsim.Sim, layers, vocab, steps int, productsOnly bool, batches []int) {
	dir := t.TempDir()
	if err := writeSynth(dir, synthShape{2560, 6912, 20, 5, layers, vocab}); err != nil {
		t.Fatal(err)
	}
	set, cfg := openModel(t, dir)
	defer set.Close()
	cpu, err := cpu.Backend{}.Load(context.Background(), cfg, set)
	if err != nil {
		t.Fatal(err)
	}
	defer cpu.Close()
	b := backend(t, s, chip.Grid{Columns: 12, Rows: 10})
	b.ProductsOnly = productsOnly
	var d *Device
	b.Opened = func(opened *Device) { d = opened }
	start := time.Now()
	e, err := b.Load(context.Background(), cfg, set)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	t.Logf("%d layers, %d rows of head on %d tiles: loaded in %v", layers, vocab, d.Tiles(), time.Since(start).Round(time.Millisecond))
	for _, batch := range batches {
		before, t0 := d.Stats(), time.Now()
		cpu0, _ := usage()
		run := func(e model.Engine) (all [][]model.Input) {
			in := make([]model.Input, batch)
			for i := range in {
				c, err := e.NewCache(16)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				in[i] = model.Input{Cache: c, Tokens: []int32{int32((1000*i + 77) % vocab)}}
			}
			for range steps {
				for i := range in {
					in[i].Hidden = make([]float32, cfg.HiddenSize)
					if i%2 == 1 {
						in[i].Logits = make([]float32, vocab)
					} else {
						in[i].Top = make([]model.Scored, 1)
					}
				}
				if err := e.Forward(context.Background(), in); err != nil {
					t.Fatal(err)
				}
				all = append(all, slices.Clone(in))
				for i := range in {
					next := int32(0)
					if i%2 == 0 {
						next = in[i].Top[0].ID
					}
					for id, v := range in[i].Logits {
						if v > in[i].Logits[next] {
							next = int32(id)
						}
					}
					in[i].Tokens = []int32{next}
				}
			}
			return all
		}
		got := run(e)
		wall := time.Since(t0)
		cpu1, peak := usage()
		want := run(cpu)
		var text []int32
		for k := range want {
			for i := range want[k] {
				g, w := got[k][i], want[k][i]
				if g.Tokens[0] != w.Tokens[0] {
					t.Fatalf("token %d of sequence %d is %d, the CPU engine's %d", k, i, g.Tokens[0], w.Tokens[0])
				}
				sameBits(t, "hidden", g.Hidden, w.Hidden)
				sameBits(t, "logit", g.Logits, w.Logits)
				if i%2 == 0 && g.Top[0] != w.Top[0] {
					t.Fatalf("best token is %v, the CPU engine's %v", g.Top[0], w.Top[0])
				}
			}
			text = append(text, want[k][0].Tokens[0])
		}
		a := d.Stats()
		t.Logf("batch %2d, %d tokens each, the first %v: hidden states, logits and best tokens bit-equal; wall %v, cpu %v, peak %d MiB; %d jobs, %d chunks, %d bytes of weights, %d sent, %d returned; head: %d tokens, %d of them by the tiles alone, %d rows scored again",
			batch, steps, text, wall.Round(time.Millisecond), (cpu1 - cpu0).Round(time.Millisecond), peak,
			a.Jobs-before.Jobs, a.Chunks-before.Chunks, a.Weights-before.Weights, a.Sent-before.Sent, a.Returned-before.Returned,
			a.HeadTokens-before.HeadTokens, a.HeadAlone-before.HeadAlone, a.HeadRescored-before.HeadRescored)
	}
}

// Two layers of 2B4T's true width, on as many tiles as a p150a has.
func TestTwoLayersOf2B4TWidth(t *testing.T) {
	if !*long {
		t.Skip("SKIPPED without -long: takes about two minutes")
	}
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) { compareWide(t, s, 2, 4096, 2, false, []int{1, 8, 32}) })
}

// The same with the tiles doing products only.
func TestTwoLayersOf2B4TWidthProductsOnly(t *testing.T) {
	if !*long {
		t.Skip("SKIPPED without -long: takes about two minutes")
	}
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) { compareWide(t, s, 2, 4096, 2, true, []int{1, 8, 32}) })
}

// One whole token of the full 2B4T shape, for two sequences: one asks for all logits, one for the best token.
func TestOneTokenOf2B4T(t *testing.T) {
	if !*long {
		t.Skip("SKIPPED without -long: takes about ten minutes")
	}
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) { compareWide(t, s, 30, 128256, 1, false, []int{2}) })
}
