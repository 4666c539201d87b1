package cpu_test

import (
	"context"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"github.com/tritlm/trit/convert"
	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/cpu"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/weights"
)

// sparseModel writes a random model with squared ReLU, 80% zeros in front of down_proj, and a head large enough for a
// screen: all that decoding does to read less is in it.
func sparseModel(t testing.TB) string {
	t.Helper()
	r, err := convert.NewRandom("tiny", 158, 0.8)
	if err != nil {
		t.Fatal(err)
	}
	r.Config().SetVocabSize(8192)
	path := filepath.Join(t.TempDir(), "sparse.gguf")
	if _, err := convert.Write(t.Context(), path, r, convert.Options{Format: convert.TQ2, Keep: true}); err != nil {
		t.Fatal(err)
	}
	return path
}

// skipsAll fails unless the engine has decoded by rows and columns and through the screen.
func skipsAll(t testing.TB, e model.Engine) {
	t.Helper()
	if tokens, rows, ok := cpu.HeadStats(e); !ok || tokens == 0 || rows >= tokens*int64(e.Config().VocabSize)/2 {
		t.Errorf("the head's screen: %v, %d rows computed for %d tokens", ok, rows, tokens)
	}
	if !cpu.SkipsZeros(e) {
		t.Error("no zeros were skipped")
	}
}

// TestDecodingAllocatesNothing counts the bytes, and not only the allocations, of hundreds of decoded tokens.
func TestDecodingAllocatesNothing(t *testing.T) {
	e := loadCPU(t, sparseModel(t), 2)
	const warm, tokens = 40, 300
	cache, err := e.NewCache(warm + tokens)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	top := make([]model.Scored, 1)
	next := []int32{1}
	batch := []model.Input{{Cache: cache, Tokens: next, Top: top}}
	ctx := context.Background()
	decode := func(n int) {
		for range n {
			if err := e.Forward(ctx, batch); err != nil {
				t.Fatal(err)
			}
			next[0] = top[0].ID
		}
	}
	decode(warm + tokens) // the cache's pages and the copy by rows are there then
	skipsAll(t, e)
	cache.Truncate(warm)
	if n := testing.AllocsPerRun(1, func() { // the first of the two runs is not counted
		cache.Truncate(warm)
		decode(tokens)
	}); n != 0 {
		t.Errorf("%v allocations in %d tokens", n, tokens)
	}
	least := uint64(math.MaxUint64) // what the rest of the process allocates now and then counts as well
	for range 5 {
		var before, after runtime.MemStats
		cache.Truncate(warm)
		runtime.GC()
		runtime.ReadMemStats(&before)
		decode(tokens)
		runtime.ReadMemStats(&after)
		least = min(least, after.TotalAlloc-before.TotalAlloc)
	}
	if least != 0 {
		t.Errorf("%d bytes allocated in %d tokens", least, tokens)
	}
}

// TestThreadsOnFewCores: more threads than there are cores, or than a matrix has panels, change no logit.
func TestThreadsOnFewCores(t *testing.T) {
	path := sparseModel(t)
	var want []float32
	for _, threads := range []int{1, 2, 3, 4, 7, 8, 16, 31, 64} {
		e := loadCPU(t, path, threads)
		V := e.Config().VocabSize
		cache, err := e.NewCache(0)
		if err != nil {
			t.Fatal(err)
		}
		prompt := []int32{1, 500, 7, 8000, 42}
		logits := make([]float32, len(prompt)*V)
		if err := e.Forward(t.Context(), []model.Input{{Cache: cache, Tokens: prompt, Logits: logits}}); err != nil {
			t.Fatal(err)
		}
		row := make([]float32, V)
		for i := range 16 {
			if err := e.Forward(t.Context(), []model.Input{{Cache: cache, Tokens: []int32{int32(97 * i)}, Logits: row}}); err != nil {
				t.Fatal(err)
			}
			logits = append(logits, row...)
		}
		cache.Close()
		if want == nil {
			want = logits
		}
		if i := firstDifference(logits, want); i >= 0 {
			t.Errorf("%d threads on %d cores: logit %d of token %d is %g, with one thread %g",
				threads, runtime.NumCPU(), i%V, i/V, logits[i], want[i])
		}
	}
}

// firstDifference finds where two slices of one length differ in a bit, -1 where they do not.
func firstDifference(a, b []float32) int {
	for i := range a {
		if math.Float32bits(a[i]) != math.Float32bits(b[i]) {
			return i
		}
	}
	return -1
}

// TestGreedyIsThePlainPath generates tokens the fast way, and has each of them confirmed by an engine that has nothing
// of it: plain Go, one thread, every product dense, all logits computed. With TRIT_EXACT_MODEL the model it names
// writes 50 tokens for each of 20 prompts, such as
//
//	trit synth bitnet-2b4t two-layers --layers 2 --vocab-size 16384 --zeros 0.8
//	TRIT_EXACT_MODEL=two-layers go test ./model -run GreedyIsThePlainPath -v -timeout 0
func TestGreedyIsThePlainPath(t *testing.T) {
	path, prompts, tokens := os.Getenv("TRIT_EXACT_MODEL"), 20, 50
	if path == "" {
		path, prompts, tokens = sparseModel(t), 4, 24
	}
	set, err := weights.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	cfg, err := family.Read(set)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(20, 50))
	texts := make([][]int32, prompts) // a prompt of 3 to 12 tokens, then what was generated
	lengths := make([]int, prompts)
	fast, err := cpu.Backend{}.Load(t.Context(), cfg, set)
	if err != nil {
		t.Fatal(err)
	}
	for p := range texts {
		ids := make([]int32, 3+rng.IntN(10))
		for i := range ids {
			ids[i] = int32(rng.IntN(cfg.VocabSize))
		}
		lengths[p] = len(ids)
		texts[p] = slices.Concat(ids, greedy(t, fast, ids, tokens, len(ids)))
	}
	if kept, _ := cpu.ScreenBytes(cfg); cpu.CopyBytes(cfg) > 0 && kept > 0 {
		skipsAll(t, fast)
	}
	threads, tier := runtime.GOMAXPROCS(0), kernel.Tier()
	if err := fast.Close(); err != nil {
		t.Fatal(err)
	}

	defer kernel.SetTier(tier)
	defer cpu.NeverSkip()()
	plain, err := cpu.Backend{Threads: 1, Kernels: "generic"}.Load(t.Context(), cfg, set)
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	logits := make([]float32, cfg.VocabSize)
	same := 0
	for p, text := range texts {
		cache, err := plain.NewCache(len(text))
		if err != nil {
			t.Fatal(err)
		}
		for i, id := range text[:len(text)-1] {
			in := model.Input{Cache: cache, Tokens: []int32{id}}
			if i+1 >= lengths[p] {
				in.Logits = logits
			}
			if err := plain.Forward(t.Context(), []model.Input{in}); err != nil {
				t.Fatal(err)
			}
			if in.Logits == nil {
				continue
			}
			if best := argmax(logits); int32(best) != text[i+1] {
				t.Errorf("prompt %d, token %d: %d, the plain path's is %d (logits %g and %g)",
					p, i+1-lengths[p], text[i+1], best, logits[text[i+1]], logits[best])
			} else {
				same++
			}
		}
		cache.Close()
		t.Logf("%d of %d prompts", p+1, prompts)
	}
	t.Logf("%d of %d tokens: %s on %d threads, screened and sparse, and plain Go on one agree", same, prompts*tokens, tier, threads)
}
