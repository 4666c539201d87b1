//go:build linux && (amd64 || arm64)

package tensix

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/internal/simtest"
	"github.com/tritlm/trit/accel/tensix/ttsim"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/cpu"
	"github.com/tritlm/trit/model/enginetest"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/weights"
)

// goldens are the small models of the repository whose projections are ternary; without -long three of them: squared
// ReLU, SiLU, and one that has a ternary head.
func goldens(t *testing.T) []string {
	t.Helper()
	dirs, err := filepath.Glob("../../testdata/goldens/*/config.json")
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no goldens: %v", err)
	}
	var out []string
	for _, d := range dirs {
		d = filepath.Dir(d)
		set, cfg := openModel(t, d)
		short := slices.Contains([]string{"bitnet-2b4t", "falcon-e", "qwen3-bitnet"}, filepath.Base(d))
		if cfg.Ternary() && (*long || short) {
			out = append(out, d)
		}
		set.Close()
	}
	return out
}

func openModel(t *testing.T, path string) (*weights.Set, *model.Config) {
	t.Helper()
	set, err := weights.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := family.Read(set)
	if err != nil {
		t.Fatal(err)
	}
	return set, cfg
}

// backend is a simulated chip; every broken rule fails the test.
func backend(t *testing.T, s *ttsim.Sim, g chip.Grid) Backend {
	return Backend{Machine: s, Options: Options{Grid: g, Check: func(err error) { t.Error(err) }}}
}

// The suite that every engine must pass, on every small model of the repository.
func TestEngineOnTheSimulator(t *testing.T) {
	for _, dir := range goldens(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
				enginetest.Run(t, backend(t, s, chip.Grid{Columns: 2, Rows: 1}), dir)
			})
		})
	}
}

// The same suite with less of the work on the tiles. And how many jobs a token takes: one and the head; in blocks the
// first queries, keys and values, a block a layer, and the head; else four a layer, and the head.
func TestEngineWithLessOnTheTiles(t *testing.T) {
	const dir = "../../testdata/goldens/bitnet-2b4t"
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		b := backend(t, s, chip.Grid{Columns: 2, Rows: 1})
		set, cfg := openModel(t, dir)
		defer set.Close()
		prompt := []int32{1, 2, 3, 4, 5}
		for _, c := range []struct {
			what                     string
			blocksOnly, productsOnly bool
			jobs                     int
		}{{"all", false, false, 2}, {"blocks", true, false, cfg.NumLayers() + 2}, {"products", false, true, 4*cfg.NumLayers() + 1}} {
			b.HostAttention, b.ProductsOnly = c.blocksOnly, c.productsOnly
			var d *Device
			b.Opened = func(opened *Device) { d = opened }
			e, err := b.Load(context.Background(), cfg, set)
			if err != nil {
				t.Fatal(err)
			}
			for _, tokens := range []int{1, 5} {
				before := d.Stats()
				greedy(t, e, [][]int32{prompt[:tokens]}, 1)
				if n := d.Stats().Jobs - before.Jobs; n != uint64(c.jobs) {
					t.Errorf("%s: %d jobs for %d tokens of %d layers, want %d", c.what, n, tokens, cfg.NumLayers(), c.jobs)
				}
			}
			if err := e.Close(); err != nil {
				t.Fatal(err)
			}
			if c.jobs > 2 {
				t.Run(c.what, func(t *testing.T) { enginetest.Run(t, b, dir) })
			}
		}
	})
}

// greedy continues each prompt by n tokens, all of them in one batch.
func greedy(t *testing.T, e model.Engine, prompts [][]int32, n int) [][]int32 {
	t.Helper()
	in := make([]model.Input, len(prompts))
	out := make([][]int32, len(prompts))
	for i, p := range prompts {
		c, err := e.NewCache(0)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		in[i] = model.Input{Cache: c, Tokens: p, Top: make([]model.Scored, 1)}
	}
	for range n {
		if err := e.Forward(context.Background(), in); err != nil {
			t.Fatal(err)
		}
		for i := range in {
			id := in[i].Top[0].ID
			out[i] = append(out[i], id)
			in[i].Tokens = []int32{id}
		}
	}
	return out
}

// Greedy text is the CPU engine's, for batches of 1, 8 and 32, and the tiles did the work: the number of chunks they
// report is what the model's shape asks for.
func TestGreedyTextIsTheCPUs(t *testing.T) {
	for _, dir := range goldens(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
				set, cfg := openModel(t, dir)
				defer set.Close()
				cpu, err := cpu.Backend{Threads: 1}.Load(context.Background(), cfg, set)
				if err != nil {
					t.Fatal(err)
				}
				defer cpu.Close()
				b := backend(t, s, chip.Grid{Columns: 2, Rows: 2})
				var d *Device
				b.Opened = func(opened *Device) { d = opened }
				e, err := b.Load(context.Background(), cfg, set)
				if err != nil {
					t.Fatal(err)
				}
				defer e.Close()
				for _, batch := range []int{1, 8, 32} {
					prompts := make([][]int32, batch)
					for i := range prompts {
						for k := range 1 + i%5 {
							prompts[i] = append(prompts[i], int32((7*i+13*k+1)%cfg.VocabSize))
						}
					}
					before := d.Stats()
					got, want := greedy(t, e, prompts, 8), greedy(t, cpu, prompts, 8)
					for i := range want {
						if !slices.Equal(got[i], want[i]) {
							t.Fatalf("batch %d, sequence %d: %v, want %v", batch, i, got[i], want[i])
						}
					}
					after := d.Stats()
					if n := after.Products - before.Products; n < 8*uint64(cfg.NumLayers())*6 {
						t.Errorf("batch %d: the tiles multiplied %d matrices in 8 steps of %d layers: somebody else did", batch, n, cfg.NumLayers())
					}
					t.Logf("batch %2d: 8 tokens of each equal the CPU's; %d products in %d jobs, %d chunks", batch, after.Products-before.Products, after.Jobs-before.Jobs, after.Chunks-before.Chunks)
				}
			})
		})
	}
}

// A token that is cancelled between two layers leaves every cache as it was; the same token is right afterwards, and so
// are batches that grow and shrink.
func TestCancelInMidTokenAndChangingBatches(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		set, cfg := openModel(t, goldens(t)[0])
		defer set.Close()
		cpu, err := cpu.Backend{Threads: 1}.Load(context.Background(), cfg, set)
		if err != nil {
			t.Fatal(err)
		}
		defer cpu.Close()
		e, err := backend(t, s, chip.Grid{Columns: 3, Rows: 1}).Load(context.Background(), cfg, set)
		if err != nil {
			t.Fatal(err)
		}
		defer e.Close()
		goroutines := runtime.NumGoroutine()
		for _, batch := range []int{1, 5, 32, 17, 2, 40, 1} {
			prompts := make([][]int32, batch)
			in := make([]model.Input, batch)
			ctx, cancel := context.WithCancel(context.Background())
			for i := range in {
				prompts[i] = []int32{int32(3 + i), int32(9 * i % cfg.VocabSize)}
				c, err := e.NewCache(0)
				if err != nil {
					cancel()
					t.Fatal(err)
				}
				defer c.Close()
				in[i] = model.Input{Cache: c, Tokens: prompts[i], Top: make([]model.Scored, 1), Trace: func(name string, _ []float32) {
					if name == "layer.0" {
						cancel()
					}
				}}
			}
			err := e.Forward(ctx, in)
			cancel()
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("batch %d: got %v", batch, err)
			}
			for i := range in {
				if n := in[i].Cache.Len(); n != 0 {
					t.Fatalf("batch %d: %d tokens in cache %d after a cancelled pass", batch, n, i)
				}
			}
			got, want := greedy(t, e, prompts, 3), greedy(t, cpu, prompts, 3)
			for i := range want {
				if !slices.Equal(got[i], want[i]) {
					t.Fatalf("batch %d, sequence %d: %v, want %v", batch, i, got[i], want[i])
				}
			}
		}
		if n := runtime.NumGoroutine(); n > goroutines {
			t.Errorf("%d goroutines, %d before", n, goroutines)
		}
	})
}

// A device must not be replaced by the CPU in silence.
func TestNoDeviceIsAnError(t *testing.T) {
	if _, err := os.Stat("/dev/tenstorrent"); err == nil {
		t.Skip("this machine has a Tenstorrent device")
	}
	set, cfg := openModel(t, goldens(t)[0])
	defer set.Close()
	e, err := Backend{}.Load(context.Background(), cfg, set)
	if err == nil {
		e.Close()
		t.Fatal("an engine without a device")
	}
	t.Log(err)
}
