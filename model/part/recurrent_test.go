package part_test

import (
	"context"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/cpu"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/weights"
)

func hybrid(t *testing.T, name string) model.Engine {
	t.Helper()
	set, err := weights.Open("../../testdata/hybrids/"+name, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := family.Read(set)
	if err != nil {
		t.Fatal(err)
	}
	e, err := cpu.Backend{Threads: 2}.Load(context.Background(), cfg, set)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		e.Close()
		set.Close()
	})
	return e
}

// logits of the last of tokens behind what the cache holds.
func logits(t *testing.T, e model.Engine, c model.Cache, ids []int32) []float32 {
	t.Helper()
	y := make([]float32, e.Config().VocabSize)
	if err := e.Forward(context.Background(), []model.Input{{Cache: c, Tokens: ids, Logits: y}}); err != nil {
		t.Fatal(err)
	}
	return y
}

// held is a cache and the text that it should hold.
type held struct {
	cache model.Cache
	ids   []int32
}

// TestStates tries caches of a model with recurrent layers in a random order of what callers do: reading on, alone and in batches,
// guesses that are wrong, cuts anywhere, forks, passes that are cancelled. What each says next is bit-equal to a fresh reading of its
// text, whether copies of states last or are forgotten at once.
func TestStates(t *testing.T) {
	for _, budget := range []int{0, 512 << 20} {
		defer part.SetSnapshotBytes(budget)()
		e := hybrid(t, "qwen3.5-tied")
		rng := rand.New(rand.NewPCG(7, uint64(budget)))
		text := func(n int) []int32 {
			ids := make([]int32, n)
			for i := range ids {
				ids[i] = int32(3 + rng.IntN(93))
			}
			return ids
		}
		fresh := func(ids []int32) []float32 {
			c, err := e.NewCache(0)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			return logits(t, e, c, ids)
		}
		equal := func(what string, got []float32, ids []int32) {
			t.Helper()
			if want := fresh(ids); !slices.EqualFunc(got, want, func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }) {
				t.Fatalf("budget %d: %s: other logits behind %d tokens", budget, what, len(ids))
			}
		}
		c, err := e.NewCache(0)
		if err != nil {
			t.Fatal(err)
		}
		all := []*held{{cache: c}}
		for step := range 50 {
			h := all[rng.IntN(len(all))]
			room := h.cache.Cap() - len(h.ids)
			switch op := rng.IntN(6); {
			case op == 0 && len(h.ids) > 0:
				n := rng.IntN(len(h.ids) + 1)
				h.cache.Truncate(n)
				h.ids = h.ids[:n]
			case op == 1 && len(all) < 5:
				n := rng.IntN(len(h.ids) + 1)
				f, err := h.cache.Fork(n)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, &held{f, slices.Clone(h.ids[:n])})
			case op == 2 && len(all) > 1:
				h.cache.Close()
				all = slices.DeleteFunc(all, func(x *held) bool { return x == h })
			case op == 3 && room > 8: // guesses, of which some are right
				more := text(1 + rng.IntN(7))
				h.ids = append(h.ids, more...)
				equal("guesses", logits(t, e, h.cache, more), h.ids)
				keep := len(h.ids) - rng.IntN(len(more))
				h.cache.Truncate(keep)
				h.ids = h.ids[:keep]
			case op == 4 && room > 3: // a pass that ends early
				ctx, cancel := context.WithCancel(context.Background())
				stop := func(name string, _ []float32) {
					if name == "layer.0" {
						cancel()
					}
				}
				if err := e.Forward(ctx, []model.Input{{Cache: h.cache, Tokens: text(3), Trace: stop}}); err == nil {
					t.Fatal("a cancelled pass ends well")
				}
				if h.cache.Len() != len(h.ids) {
					t.Fatalf("step %d: a cancelled pass leaves %d tokens, want %d", step, h.cache.Len(), len(h.ids))
				}
			case room > 0: // a batch of all
				var batch []model.Input
				for i, x := range all {
					n := min(x.cache.Cap()-len(x.ids), 1)
					if i%2 == 0 || x == h {
						n = min(x.cache.Cap()-len(x.ids), 1+rng.IntN(300))
					}
					if n == 0 {
						continue
					}
					more := text(n)
					x.ids = append(x.ids, more...)
					batch = append(batch, model.Input{Cache: x.cache, Tokens: more, Logits: make([]float32, e.Config().VocabSize)})
				}
				if err := e.Forward(context.Background(), batch); err != nil {
					t.Fatal(err)
				}
				for _, in := range batch {
					x := all[slices.IndexFunc(all, func(x *held) bool { return x.cache == in.Cache })]
					equal("a batch", in.Logits, x.ids)
				}
			}
		}
		for _, h := range all {
			h.cache.Close()
		}
	}
}

// TestTruncateEverywhere cuts a text at each of its positions, from the end on, and reads one token more.
func TestTruncateEverywhere(t *testing.T) {
	e := hybrid(t, "qwen3.5")
	ids := make([]int32, 300)
	for i := range ids {
		ids[i] = int32(3 + (i*i+7*i)%93)
	}
	V := e.Config().VocabSize
	want := make([]float32, len(ids)*V)
	c, err := e.NewCache(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Forward(context.Background(), []model.Input{{Cache: c, Tokens: ids, Logits: want}}); err != nil {
		t.Fatal(err)
	}
	for n := len(ids) - 1; n >= 0; n -= 1 + n%7 {
		c.Truncate(n)
		if got := logits(t, e, c, ids[n:n+1]); !slices.Equal(got, want[n*V:][:V]) {
			t.Fatalf("cut to %d: other logits", n)
		}
	}
	c.Close()
}

// TestSnapshotBudget: copies of states are no more than the budget says, and closed caches leave none.
func TestSnapshotBudget(t *testing.T) {
	defer part.SetSnapshotBytes(0)()
	e := hybrid(t, "qwen3.5-tied")
	var caches []*part.Cache
	for range 6 {
		c, err := e.NewCache(0)
		if err != nil {
			t.Fatal(err)
		}
		logits(t, e, c, make([]int32, 400))
		logits(t, e, c, make([]int32, 4))
		caches = append(caches, c.(interface{ Unwrap() *part.Cache }).Unwrap())
	}
	if _, all := caches[0].Snapshots(); all != 4 {
		t.Errorf("%d copies of states, want the 4 that there may be at least", all)
	}
	for _, c := range caches {
		c.Close()
	}
	if own, all := caches[0].Snapshots(); own+all != 0 {
		t.Errorf("%d copies of states of closed caches, %d in all", own, all)
	}
}
