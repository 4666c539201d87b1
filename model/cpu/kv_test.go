package cpu_test

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/cpu"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/weights"
)

// loadWith loads a golden with its configuration changed.
func loadWith(t testing.TB, b model.Backend, name string, change func(*model.Config)) model.Engine {
	t.Helper()
	return loadChanged(t, b, filepath.Join(goldens, name), change)
}

func loadChanged(t testing.TB, b model.Backend, path string, change func(*model.Config)) model.Engine {
	t.Helper()
	set, err := weights.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := family.Read(set)
	if err != nil {
		t.Fatal(err)
	}
	change(cfg)
	e, err := b.Load(t.Context(), cfg, set)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.Close()
		set.Close()
	})
	return e
}

// kvTypes are what keys and values are kept in.
var kvTypes = []model.KVType{model.KVFloat32, model.KVFloat16, model.KVInt8}

// TestAttentionIsTheSame: over several spans and with every type of keys and values, a token's state has the same bits
// whether its prompt comes token by token on one thread in plain Go, in one piece, in odd pieces, beside another sequence, or
// after a fork; with and without a window.
func TestAttentionIsTheSame(t *testing.T) {
	const n = 600
	ids, other := make([]int32, n), make([]int32, 5)
	for i := range ids {
		ids[i] = int32((7*i + i*i/3) % 250)
	}
	for _, c := range []struct {
		golden string
		window int
	}{{"bitnet-2b4t", 0}, {"llama3-8b-1.58", 0}, {"bitnet-embedding-270m", 16}, {"bitnet-embedding-270m", 290}} {
		for _, kv := range kvTypes {
			t.Run(fmt.Sprintf("%s/%v/window %d", c.golden, kv, c.window), func(t *testing.T) {
				change := func(cfg *model.Config) {
					cfg.KV, cfg.MaxContext = kv, 1024
					for i := range cfg.Layers {
						if a := cfg.Layers[i].Mixer.(*part.Attention); a.Window > 0 {
							a.Window = c.window
						}
					}
				}
				run := func(e model.Engine, cache model.Cache, from int, pieces ...int) []float32 {
					D := e.Config().HiddenSize
					states := make([]float32, n*D)
					for _, m := range pieces {
						batch := []model.Input{{Cache: cache, Tokens: ids[from : from+m], Hidden: states[from*D : (from+m)*D]}}
						if m == 42 { // another sequence in the batch
							beside, err := e.NewCache(0)
							if err != nil {
								t.Fatal(err)
							}
							batch = append(batch, model.Input{Cache: beside, Tokens: other})
							defer beside.Close()
						}
						if err := e.Forward(context.Background(), batch); err != nil {
							t.Fatal(err)
						}
						from += m
					}
					return states
				}
				fresh := func(e model.Engine) model.Cache {
					cache, err := e.NewCache(0)
					if err != nil {
						t.Fatal(err)
					}
					return cache
				}
				one := loadWith(t, cpu.Backend{Threads: 1}, c.golden, change)
				want := run(one, fresh(one), 0, slices.Repeat([]int{1}, n)...)
				same := func(what string, got []float32, from int) {
					t.Helper()
					D := one.Config().HiddenSize
					for i := from * D; i < n*D; i++ {
						if got[i] != want[i] {
							t.Fatalf("%s: token %d, state %d is %g, want %g", what, i/D, i%D, got[i], want[i])
						}
					}
				}
				for _, threads := range []int{2, 3, 7} {
					e := loadWith(t, cpu.Backend{Threads: threads}, c.golden, change)
					cache := fresh(e)
					same(fmt.Sprintf("%d threads, one piece", threads), run(e, cache, 0, n), 0)
					same(fmt.Sprintf("%d threads, odd pieces", threads), run(e, fresh(e), 0, 7, 250, 1, 42, 1, 1, 298), 0)
					f, err := cache.Fork(530)
					if err != nil {
						t.Fatal(err)
					}
					same(fmt.Sprintf("%d threads, forked", threads), run(e, f, 530, 1, 1, 42, 26), 530)
					cache.Truncate(257)
					same(fmt.Sprintf("%d threads, truncated", threads), run(e, cache, 257, n-257), 257)
				}
				if c.golden == "bitnet-2b4t" {
					best := kernel.Tier()
					defer kernel.SetTier(best)
					plain := loadWith(t, cpu.Backend{Threads: 2, Kernels: "generic"}, c.golden, change)
					same("plain Go", run(plain, fresh(plain), 0, 300, 1, 299), 0)
				}
			})
		}
	}
}

// TestKVError: what rounded keys and values do to the logits of the goldens. It is little where activations are floats
// (trilm). Elsewhere the least change moves some activation over the middle between two int8 steps, which is what shows.
func TestKVError(t *testing.T) {
	type bound struct{ correlation, span float64 } // span: of the largest difference of a logit
	for _, c := range []struct {
		kv           model.KVType
		floats, int8 bound
	}{{model.KVFloat16, bound{0.9999999, 0.0003}, bound{0.9995, 0.02}}, {model.KVInt8, bound{0.99998, 0.004}, bound{0.999, 0.03}}} {
		for _, golden := range []string{"bitnet-2b4t", "llama3-8b-1.58", "falcon3", "qwen3-bitnet", "trilm"} {
			limit := c.int8
			if golden == "trilm" {
				limit = c.floats
			}
			ref := readReference(t, filepath.Join(goldens, golden, "reference.f32.safetensors"))
			logits := func(kv model.KVType, ids []int32) []float32 {
				e := loadWith(t, cpu.Backend{}, golden, func(cfg *model.Config) { cfg.KV = kv })
				cache, err := e.NewCache(0)
				if err != nil {
					t.Fatal(err)
				}
				out := make([]float32, len(ids)*e.Config().VocabSize)
				if err := e.Forward(t.Context(), []model.Input{{Cache: cache, Tokens: ids, Logits: out}}); err != nil {
					t.Fatal(err)
				}
				return out
			}
			for p := range ref.prompts {
				ids := ref.ints[fmt.Sprintf("prompt.%d.ids", p)]
				want, got := logits(model.KVFloat32, ids), logits(c.kv, ids)
				r := correlation(got, want)
				diff, span := maxDiff(got, want)
				t.Logf("%v, %s, prompt %d of %d: correlation %.7f, largest difference %.4f%% of the range", c.kv, golden, p, len(ids), r, 100*diff/span)
				if r < limit.correlation || diff > limit.span*span || len(ids) > 1 && slices.Equal(got, want) {
					t.Errorf("%v, %s, prompt %d: correlation %g, largest difference %g of a range of %g", c.kv, golden, p, r, diff, span)
				}
			}
		}
	}
}

// TestKVMemory: what a token is said to take is what its page takes, and one engine's cache is no other's.
func TestKVMemory(t *testing.T) {
	var sizes []int64
	for _, kv := range kvTypes {
		e := loadWith(t, cpu.Backend{}, "bitnet-2b4t", func(cfg *model.Config) { cfg.KV = kv })
		c := e.Config()
		_, kvHeads := c.Heads()
		heads := int64(2 * c.NumLayers() * kvHeads)
		if got, want := c.KVBytes(), cpu.PageBytes(e)/32; got != want {
			t.Errorf("%v: %d bytes a token, pages have %d", kv, got, want)
		}
		sizes = append(sizes, c.KVBytes()/heads)
		var back model.KVType
		if text, err := kv.MarshalText(); err != nil || back.UnmarshalText(text) != nil || back != kv {
			t.Errorf("%v reads back as %v", kv, back)
		}
	}
	if hd := sizes[0] / 4; sizes[1] != 2*hd || sizes[2] != hd+4 {
		t.Errorf("sizes %v", sizes)
	}
	if err := new(model.KVType).UnmarshalText([]byte("q4")); err == nil {
		t.Error("q4 is no type of keys and values")
	}
}
