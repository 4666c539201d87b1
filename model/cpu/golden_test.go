package cpu_test

import (
	"bytes"
	"context"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/cpu"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/safetensors"
	"github.com/tritlm/trit/weights"
)

const goldens = "../../testdata/goldens"

// goldenDirs are the folders of small models with what transformers computes for them (testdata/goldens/README.md).
func goldenDirs(t testing.TB) []string {
	refs, err := filepath.Glob(filepath.Join(goldens, "*", "reference.f32.safetensors"))
	if err != nil || len(refs) == 0 {
		t.Fatalf("no goldens in %s: %v", goldens, err)
	}
	var dirs []string
	for _, r := range refs {
		dirs = append(dirs, filepath.Dir(r))
	}
	return dirs
}

func loadCPU(t testing.TB, path string, threads int) model.Engine {
	t.Helper()
	set, err := weights.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := family.Read(set)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(path, "-prequantized") { // the folder's configuration does not say that it is ternary
		cfg.QuantizeMasters()
	}
	e, err := cpu.Backend{Threads: threads}.Load(context.Background(), cfg, set)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Error(err)
		}
		set.Close()
	})
	return e
}

// reference is a file of tools/reference/reference.py, with bfloat16 widened.
type reference struct {
	prompts int
	tensors map[string][]float32
	ints    map[string][]int32
}

func readReference(t testing.TB, path string) *reference {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Read(bytes.NewReader(data), int64(len(data)), path)
	if err != nil {
		t.Fatal(err)
	}
	r := &reference{tensors: map[string][]float32{}, ints: map[string][]int32{}}
	for _, x := range f.Tensors {
		b := data[x.Offset : x.Offset+x.Size]
		switch x.DType {
		case safetensors.F32:
			v := make([]float32, len(b)/4)
			for i := range v {
				v[i] = math.Float32frombits(uint32(b[4*i]) | uint32(b[4*i+1])<<8 | uint32(b[4*i+2])<<16 | uint32(b[4*i+3])<<24)
			}
			r.tensors[x.Name] = v
		case safetensors.BF16:
			v := make([]float32, len(b)/2)
			for i := range v {
				v[i] = math.Float32frombits(uint32(b[2*i])<<16 | uint32(b[2*i+1])<<24)
			}
			r.tensors[x.Name] = v
		case safetensors.I32:
			v := make([]int32, len(b)/4)
			for i := range v {
				v[i] = int32(uint32(b[4*i]) | uint32(b[4*i+1])<<8 | uint32(b[4*i+2])<<16 | uint32(b[4*i+3])<<24)
			}
			r.ints[x.Name] = v
		default:
			t.Fatalf("%s: %s has type %v", path, x.Name, x.DType)
		}
	}
	for r.ints[fmt.Sprintf("prompt.%d.ids", r.prompts)] != nil {
		r.prompts++
	}
	if r.prompts == 0 {
		t.Fatalf("%s: no prompts", path)
	}
	return r
}

func correlation(a, b []float32) float64 {
	var sa, sb, saa, sbb, sab float64
	for i := range a {
		x, y := float64(a[i]), float64(b[i])
		sa += x
		sb += y
		saa += x * x
		sbb += y * y
		sab += x * y
	}
	n := float64(len(a))
	return (sab - sa*sb/n) / math.Sqrt((saa-sa*sa/n)*(sbb-sb*sb/n))
}

func maxDiff(a, b []float32) (diff, span float64) {
	lo, hi := math.Inf(1), math.Inf(-1)
	for i := range a {
		diff = max(diff, math.Abs(float64(a[i])-float64(b[i])))
		lo, hi = min(lo, float64(b[i])), max(hi, float64(b[i]))
	}
	return diff, hi - lo
}

func argmax(x []float32) int {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return best
}

// TestGoldens compares every layer, the logits and the greedy continuation with transformers in float32.
func TestGoldens(t *testing.T) {
	for _, dir := range goldenDirs(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			e := loadCPU(t, dir, 2)
			ref := readReference(t, filepath.Join(dir, "reference.f32.safetensors"))
			for p := range ref.prompts {
				compare(t, e, ref, fmt.Sprintf("prompt.%d.", p))
			}
		})
	}
}

// TestGoldensBF16 compares with transformers in bfloat16, whose own rounding is a few thousandths: the logits
// correlate to 0.999, and where the best tokens differ, they are a near tie.
func TestGoldensBF16(t *testing.T) {
	for _, dir := range goldenDirs(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			e := loadCPU(t, dir, 2)
			ref := readReference(t, filepath.Join(dir, "reference.bf16.safetensors"))
			V := e.Config().VocabSize
			for p := range ref.prompts {
				prompt := fmt.Sprintf("prompt.%d.", p)
				ids, want := ref.ints[prompt+"ids"], ref.tensors[prompt+"logits"]
				logits := make([]float32, len(ids)*V)
				cache, err := e.NewCache(0)
				if err != nil {
					t.Fatal(err)
				}
				if err := e.Forward(context.Background(), []model.Input{{Cache: cache, Tokens: ids, Logits: logits}}); err != nil {
					t.Fatal(err)
				}
				cache.Close()
				var rows []float32
				for i, at := range ref.ints[prompt+"positions"] {
					row, wantRow := logits[int(at)*V:][:V], want[i*V:][:V]
					rows = append(rows, row...)
					diff, span := maxDiff(row, wantRow)
					if diff > 0.04*span {
						t.Errorf("%sposition %d: largest difference %g of a range of %g", prompt, at, diff, span)
					}
					if got, best := argmax(row), argmax(wantRow); got != best && row[got]-row[best] > 0.02*float32(span) {
						t.Errorf("%sposition %d: best token %d, want %d, which is %g below it", prompt, at, got, best, row[got]-row[best])
					}
				}
				if r := correlation(rows, want); !(r >= 0.999) {
					t.Errorf("%slogits: correlation %.6f", prompt, r)
				}
			}
		})
	}
}

func compare(t *testing.T, e model.Engine, ref *reference, prompt string) {
	t.Helper()
	c := e.Config()
	D, V := c.HiddenSize, c.VocabSize
	ids, positions := ref.ints[prompt+"ids"], ref.ints[prompt+"positions"]
	traces := map[string][]float32{}
	logits := make([]float32, len(ids)*V)
	cache, err := e.NewCache(0)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	err = e.Forward(context.Background(), []model.Input{{
		Cache: cache, Tokens: ids, Logits: logits,
		Trace: func(name string, x []float32) { traces[name] = append(traces[name], x...) },
	}})
	if err != nil {
		t.Fatal(err)
	}
	check := func(name string, got, want []float32, width int) {
		t.Helper()
		if len(want) != len(positions)*width {
			t.Fatalf("%s%s: %d values for %d positions", prompt, name, len(want), len(positions))
		}
		var rows []float32
		for _, at := range positions {
			rows = append(rows, got[int(at)*width:][:width]...)
		}
		// Both sides round activations to int8, and their float sums differ in the last bit: an activation that lay
		// between two integers could go the other way. The goldens' seeds are chosen such that none does.
		diff, span := maxDiff(rows, want)
		if r := correlation(rows, want); !(r >= 0.99999) || !(diff <= 1e-5*span) {
			t.Errorf("%s%s: correlation %.7f, largest difference %g of a range of %g", prompt, name, r, diff, span)
		}
	}
	check("embed", traces["embed"], ref.tensors[prompt+"hidden.0"], D)
	for l := range c.NumLayers() {
		check(fmt.Sprintf("layer.%d", l), traces["layer."+strconv.Itoa(l)], ref.tensors[fmt.Sprintf("%shidden.%d", prompt, l+1)], D)
	}
	check("final", traces["final"], ref.tensors[prompt+"final"], D)
	check("logits", logits, ref.tensors[prompt+"logits"], V)
	for i, at := range positions {
		got, want := argmax(logits[int(at)*V:][:V]), argmax(ref.tensors[prompt+"logits"][i*V:][:V])
		if got != want {
			t.Errorf("%sposition %d: best token %d, want %d", prompt, at, got, want)
		}
	}
	want := ref.ints[prompt+"greedy"]
	got := greedy(t, e, ids, len(want), len(ids))
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("%sgreedy: token %d is %d, want %d (margin there %g)", prompt, i, got[i], want[i], ref.tensors[prompt+"greedy_margin"][i])
			break
		}
	}
}

// greedy continues ids by n tokens, the prompt read in chunks.
func greedy(t testing.TB, e model.Engine, ids []int32, n, chunk int) []int32 {
	t.Helper()
	cache, err := e.NewCache(0)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	top := make([]model.Scored, 1)
	var out []int32
	for len(ids) > 0 {
		m := min(chunk, len(ids))
		in := []model.Input{{Cache: cache, Tokens: ids[:m]}}
		if ids = ids[m:]; len(ids) == 0 {
			in[0].Top = top
		}
		if err := e.Forward(context.Background(), in); err != nil {
			t.Fatal(err)
		}
	}
	for {
		out = append(out, top[0].ID)
		if len(out) == n {
			return out
		}
		if err := e.Forward(context.Background(), []model.Input{{Cache: cache, Tokens: out[len(out)-1:], Top: top}}); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSameText: greedy text is one and the same for any number of threads, any cut of the prompt and any kernels.
func TestSameText(t *testing.T) {
	defer kernel.SetTier(kernel.Tier())
	for _, dir := range goldenDirs(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			ref := readReference(t, filepath.Join(dir, "reference.f32.safetensors"))
			ids := ref.ints[fmt.Sprintf("prompt.%d.ids", ref.prompts-1)]
			var want []int32
			for _, tier := range kernel.Tiers() {
				if err := kernel.SetTier(tier); err != nil {
					t.Fatal(err)
				}
				for _, threads := range []int{1, 2, 5} {
					e := loadCPU(t, dir, threads)
					for _, chunk := range []int{1, 7, 64, len(ids)} {
						got := greedy(t, e, ids, 24, chunk)
						if want == nil {
							want = got
						}
						if fmt.Sprint(got) != fmt.Sprint(want) {
							t.Errorf("%s, %d threads, chunks of %d: %v, want %v", tier, threads, chunk, got, want)
						}
					}
				}
			}
		})
	}
}
