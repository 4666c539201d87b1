//go:build linux && (amd64 || arm64)

package tensix

import (
	"context"
	"math"
	"syscall"
	"testing"
	"time"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/internal/simtest"
	"github.com/tritlm/trit/accel/tensix/ttsim"
	"github.com/tritlm/trit/model"
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

// compareWide runs tokens through the CPU engine and the tiles and compares every bit of hidden states and logits,
// and the best tokens.
func compareWide(t *testing.T, s *ttsim.Sim, layers, vocab int, productsOnly bool, kinds []string, batches []int) {
	dir := t.TempDir()
	if err := writeSynth(dir, synthShape{2560, 6912, 20, 5, layers, vocab}); err != nil {
		t.Fatal(err)
	}
	set, cfg := openModel(t, dir)
	defer set.Close()
	cpu, err := model.CPU{}.Load(context.Background(), cfg, set)
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
		for _, kind := range kinds {
			before, t0 := d.Stats(), time.Now()
			cpu0, _ := usage()
			run := func(e model.Engine) []model.Input {
				in := make([]model.Input, batch)
				for i := range in {
					c, err := e.NewCache(16)
					if err != nil {
						t.Fatal(err)
					}
					defer c.Close()
					in[i] = model.Input{Cache: c, Tokens: []int32{int32((1000*i + 77) % vocab)}, Hidden: make([]float32, cfg.HiddenSize)}
					if kind == "logits" || kind == "both" && i == 0 {
						in[i].Logits = make([]float32, vocab)
					} else if in[i].Top = make([]model.Scored, 5); kind != "best tokens" {
						in[i].Top = in[i].Top[:1]
					}
				}
				if err := e.Forward(context.Background(), in); err != nil {
					t.Fatal(err)
				}
				return in
			}
			got := run(e)
			wall := time.Since(t0)
			cpu1, peak := usage()
			want := run(cpu)
			for i := range want {
				sameBits(t, "hidden", got[i].Hidden, want[i].Hidden)
				sameBits(t, "logit", got[i].Logits, want[i].Logits)
				for k := range want[i].Top {
					if got[i].Top[k] != want[i].Top[k] {
						t.Fatalf("best token %d is %v, the CPU engine's %v", k, got[i].Top[k], want[i].Top[k])
					}
				}
			}
			a := d.Stats()
			t.Logf("batch %2d, %s: %d of %d bits-equal; wall %v, cpu %v, peak %d MiB; %d jobs, %d chunks, %d bytes of weights",
				batch, kind, batch, batch, wall.Round(time.Millisecond), (cpu1 - cpu0).Round(time.Millisecond), peak,
				a.Jobs-before.Jobs, a.Chunks-before.Chunks, a.Weights-before.Weights)
			t.Logf("%d bytes sent, %d returned; head: %d tokens, %d of them by the tiles alone, %d rows scored again", a.Sent-before.Sent, a.Returned-before.Returned,
				a.HeadTokens-before.HeadTokens, a.HeadAlone-before.HeadAlone, a.HeadRescored-before.HeadRescored)
		}
	}
}

// Two layers of 2B4T's true width, on as many tiles as a p150a has.
func TestTwoLayersOf2B4TWidth(t *testing.T) {
	if !*long {
		t.Skip("SKIPPED without -long: takes about two minutes")
	}
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) { compareWide(t, s, 2, 4096, false, []string{"logits", "best token", "best tokens"}, []int{1, 8, 32}) })
}

// The same with the tiles doing products only.
func TestTwoLayersOf2B4TWidthProductsOnly(t *testing.T) {
	if !*long {
		t.Skip("SKIPPED without -long: takes about two minutes")
	}
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) { compareWide(t, s, 2, 4096, true, []string{"logits", "best token"}, []int{1, 8, 32}) })
}

// One whole token of the full 2B4T shape, for two sequences: one asks for all logits, one for the best token.
func TestOneTokenOf2B4T(t *testing.T) {
	if !*long {
		t.Skip("SKIPPED without -long: takes about ten minutes")
	}
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) { compareWide(t, s, 30, 128256, false, []string{"both"}, []int{2}) })
}
