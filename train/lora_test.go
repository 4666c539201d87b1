package train

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"github.com/tritlm/trit/convert"
	"github.com/tritlm/trit/data"
	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/safetensors"
	"github.com/tritlm/trit/tokenizer"
	"github.com/tritlm/trit/train/nn"
	"github.com/tritlm/trit/weights"
)

// baseModel writes a model of tinyConfig's shape whose 11 characters are a to k.
func baseModel(t *testing.T, pool *par.Pool, arch, precision, format string, seed uint64) (dir string) {
	return writeBase(t, pool, tinyConfig(arch, precision), format, seed)
}

func writeBase(t *testing.T, pool *par.Pool, c Config, format string, seed uint64) (dir string) {
	t.Helper()
	m, err := New(c, pool, seed)
	if err != nil {
		t.Fatal(err)
	}
	shake(m, seed)
	vocab, err := data.Chars("abcdefghijk")
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	if err := m.Export(dir, vocab, ExportOptions{Format: format}); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestLoraGradientsAgainstFiniteDifferences: as TestGradientsAgainstFiniteDifferences, for adapters on a packed base.
func TestLoraGradientsAgainstFiniteDifferences(t *testing.T) {
	eachGradient(t, func(t *testing.T, arch, precision string, pool *par.Pool) *Model {
		m, _, err := InitLora(baseModel(t, pool, arch, precision, "hf-packed", 5), Lora{Rank: 3, Alpha: 5}, 0, 1, pool)
		if err != nil {
			t.Fatal(err)
		}
		return m
	}, func(string) bool { return false })
}

// TestLoraStartsFromTheBase: with B = 0 the adapters' model says what its base says, packed, as masters or as GGUF.
func TestLoraStartsFromTheBase(t *testing.T) {
	pool := par.New(2)
	defer pool.Close()
	ids, target := randomBatch(1, 20, 11)
	for _, arch := range []string{"llama", "bitnet"} {
		c := tinyConfig(arch, "ternary")
		c.HiddenSize, c.IntermediateSize = 256, 256 // whole blocks of tq2_0
		packed := writeBase(t, pool, c, "hf-packed", 7)
		for _, path := range []string{packed, writeBase(t, pool, c, "hf-bf16", 7), toGGUF(t, packed)} {
			whole, _, err := Init(path, "", 0, pool)
			if err != nil {
				t.Fatal(err)
			}
			m, v, err := InitLora(path, Lora{Rank: 2}, 0, 1, pool)
			if err != nil {
				t.Fatal(err)
			}
			if v.Decode(v.EncodeAll("badge")) != "badge" {
				t.Errorf("%s: the tokenizer does not give a word back", path)
			}
			a, b := whole.Loss(whole.NewState(2, 10), ids, target), m.Loss(m.NewState(2, 10), ids, target)
			if math.Abs(a-b) > 1e-5 {
				t.Errorf("%s: loss %.7f with new adapters, %.7f without", path, b, a)
			}
		}
	}
}

// toGGUF converts a folder to tq2_0.
func toGGUF(t *testing.T, dir string) (path string) {
	t.Helper()
	set, err := weights.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	cfg, err := family.Read(set)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.LoadFS(set.Folder())
	if err != nil {
		t.Fatal(err)
	}
	o := convert.Options{Format: convert.TQ2}
	if o.TokenizerKV, err = tok.GGUF(); err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "m.gguf")
	if _, err := convert.Write(context.Background(), path, convert.FromSet(set, cfg), o); err != nil {
		t.Fatal(err)
	}
	return path
}

// loraRun begins a run of adapters on a packed base.
func loraRun(t *testing.T, dir, base string, pool *par.Pool) *Run {
	t.Helper()
	m, vocab, err := InitLora(base, Lora{Rank: 4, Targets: []string{"q_proj", "v_proj", "down_proj"}}, 0, 1, pool)
	if err != nil {
		t.Fatal(err)
	}
	o := DefaultOptions()
	o.BatchSize, o.MaxIters, o.LR, o.EvalEvery, o.EvalBatches, o.SaveEvery, o.SampleTokens = 4, 40, 1e-2, 10, 2, 7, 5
	r, err := StartFrom(dir, m, o, vocab, vocab.EncodeAll(strings.Repeat("abcabdabeabfcafebabe", 40)), 0.1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	return r
}

// TestLoraRunResumesBitForBit stops a run of adapters and continues it; the base stays as it was, and another base in its
// place is found out.
func TestLoraRunResumesBitForBit(t *testing.T) {
	pool := par.New(2)
	defer pool.Close()
	base := baseModel(t, pool, "llama", "ternary", "hf-packed", 7)
	whole := loraRun(t, t.TempDir(), base, pool)
	var losses []float64
	if err := whole.Do(context.Background(), func(r Record) { losses = append(losses, r.Loss) }); err != nil {
		t.Fatal(err)
	}
	if first, last := losses[0], losses[len(losses)-1]; last > 0.8*first {
		t.Errorf("loss went from %.3f to %.3f", first, last)
	}
	dir := t.TempDir()
	part := loraRun(t, dir, base, pool)
	ctx, cancel := context.WithCancel(context.Background())
	if err := part.Do(ctx, func(r Record) {
		if r.Step == 12 {
			cancel()
		}
	}); err == nil {
		t.Fatal("a cancelled run returned no error")
	}
	part.Close()
	one := par.New(1)
	defer one.Close()
	rest, err := Resume(dir, one, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer rest.Close()
	if err := rest.Do(context.Background(), func(r Record) {
		if losses[r.Step-1] != r.Loss {
			t.Errorf("step %d: loss %v, uninterrupted %v", r.Step, r.Loss, losses[r.Step-1])
		}
	}); err != nil {
		t.Fatal(err)
	}
	for i, v := range whole.Trainer.Model.w {
		if rest.Trainer.Model.w[i] != v {
			t.Fatalf("parameter %d differs", i)
		}
	}
	for _, name := range []string{"adapter_config.json", "adapter_model.safetensors"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}

	other := baseModel(t, pool, "llama", "ternary", "hf-packed", 8)
	_, err = Resume(dir, pool, func(c *Checkpoint) { c.Lora.Base = other })
	if err == nil || !strings.Contains(err.Error(), "--init") || !strings.Contains(err.Error(), "not the model below") {
		t.Errorf("another base: %v", err)
	}
	_, err = Resume(dir, pool, func(c *Checkpoint) { c.Lora.Base = filepath.Join(dir, "nowhere") })
	if err == nil || !strings.Contains(err.Error(), "--init") {
		t.Errorf("no base: %v", err)
	}
	if err := rest.Trainer.Model.Export(t.TempDir(), rest.Vocab, ExportOptions{Format: "hf-packed"}); err == nil {
		t.Error("adapters alone were exported as a model")
	}
	if _, _, err := rest.Trainer.Model.Merge(); err == nil || !strings.Contains(err.Error(), "no masters") {
		t.Errorf("merged into packed codes: %v", err)
	}
	if err := startTiny(t, t.TempDir(), "llama", "ternary", nil).Trainer.Model.ExportAdapter(dir); !errors.Is(err, ErrNoAdapter) {
		t.Errorf("adapters of a whole model: %v", err)
	}
}

func TestLoraBadInput(t *testing.T) {
	pool := par.New(1)
	defer pool.Close()
	base := baseModel(t, pool, "llama", "ternary", "hf-packed", 7)
	for _, bad := range []struct {
		o    Lora
		want string
	}{
		{Lora{Rank: 0}, "--lora 0"},
		{Lora{Rank: -3}, "--lora -3"},
		{Lora{Rank: 1 << 20}, "--lora 1048576"},
		{Lora{Rank: 2, Targets: []string{"q_proj", "banana"}}, "banana"},
		{Lora{Rank: 2, Alpha: nanValue()}, "--lora-alpha NaN"},
		{Lora{Rank: 2, Alpha: -1}, "--lora-alpha -1"},
	} {
		if _, _, err := InitLora(base, bad.o, 0, 1, pool); err == nil || !strings.Contains(err.Error(), bad.want) {
			t.Errorf("%+v: %v", bad.o, err)
		}
	}
	if _, _, err := InitLora(base, Lora{Rank: 2}, 999, 1, pool); err == nil || !strings.Contains(err.Error(), "--block 999") {
		t.Errorf("block: %v", err)
	}
	if _, _, err := InitLora(t.TempDir(), Lora{Rank: 2}, 0, 1, pool); err == nil || !strings.Contains(err.Error(), "config.json") {
		t.Errorf("empty folder: %v", err)
	}
}

// TestMergeOfFloatBaseIsExact: with float weights merging changes nothing but roundings; with ternary ones it changes codes.
func TestMergeOfFloatBaseIsExact(t *testing.T) {
	pool := par.New(2)
	defer pool.Close()
	ids, target := randomBatch(1, 20, 11)
	for _, precision := range Precisions {
		base := baseModel(t, pool, "bitnet", precision, "hf-bf16", 7)
		m, _, err := InitLora(base, Lora{Rank: 2}, 0, 1, pool)
		if err != nil {
			t.Fatal(err)
		}
		before := m.Loss(m.NewState(2, 10), ids, target)
		shake(m, 4)
		with := m.Loss(m.NewState(2, 10), ids, target)
		merged, _, err := m.Merge()
		if err != nil {
			t.Fatal(err)
		}
		after := merged.Loss(merged.NewState(2, 10), ids, target)
		t.Logf("%s: base %.5f, adapters %.5f, merged %.5f", precision, before, with, after)
		if math.Abs(with-before) < 1e-3 {
			t.Errorf("%s: the adapters do nothing", precision)
		}
		if precision == "float" && math.Abs(after-with) > 1e-5 {
			t.Errorf("loss %.6f with adapters, %.6f merged", with, after)
		}
	}
}

// TestLoraAgainstPeft compares gradients, ten steps and logits with transformers and peft on the same base and adapters.
// TRIT_TEST_PYTHON names a Python that has them. The tolerances are those of TestAgainstPyTorch.
func TestLoraAgainstPeft(t *testing.T) {
	python := os.Getenv("TRIT_TEST_PYTHON")
	if python == "" || exec.Command(python, "-c", "import peft, transformers").Run() != nil {
		t.Skip("TRIT_TEST_PYTHON names no Python with peft and transformers")
	}
	pool := par.New(2)
	defer pool.Close()
	for _, arch := range []string{"llama", "bitnet"} {
		for _, precision := range Precisions {
			t.Run(arch+"/"+precision, func(t *testing.T) {
				base := baseModel(t, pool, arch, precision, "hf-bf16", 7)
				m, _, err := InitLora(base, Lora{Rank: 3, Alpha: 7}, 0, 1, pool)
				if err != nil {
					t.Fatal(err)
				}
				shake(m, 3)
				o := DefaultOptions()
				o.LR, o.WeightDecay = 1e-3, 0.1
				tr, err := NewTrainer(m, o)
				if err != nil {
					t.Fatal(err)
				}
				dir := t.TempDir()
				if err := m.ExportAdapter(dir); err != nil {
					t.Fatal(err)
				}
				const B, S = 4, 10
				in := struct {
					Batch   int       `json:"batch"`
					Block   int       `json:"block"`
					IDs     [][]int32 `json:"ids"`
					Targets [][]int32 `json:"targets"`
					Options Options   `json:"options"`
					Probe   []int32   `json:"probe"`
				}{Batch: B, Block: S, Options: o}
				in.Probe, _ = randomBatch(99, S, 11)
				one := m.NewState(1, S)
				ours := make([]float32, S*11)
				for i := range S {
					m.Logits(one, in.Probe, i, ours[i*11:(i+1)*11])
				}
				st := m.NewState(B, S)
				grads := map[nn.GradMode][]float32{}
				var losses []float64
				for i := range 10 {
					ids, targets := randomBatch(uint64(i), B*S, 11)
					in.IDs, in.Targets = append(in.IDs, ids), append(in.Targets, targets)
					if i == 0 {
						for _, g := range []nn.GradMode{nn.GradF32, nn.GradI16} {
							m.SetGradMode(g)
							m.ZeroGrad()
							m.Gradient(st, ids, targets, 1)
							grads[g] = append([]float32(nil), m.g...)
						}
					}
					m.ZeroGrad()
					s := Step{N: i + 1, Loss: m.Gradient(st, ids, targets, 1)}
					if err := tr.update(&s); err != nil {
						t.Fatal(err)
					}
					losses = append(losses, s.Loss)
				}
				j, _ := json.Marshal(in)
				batches, out := filepath.Join(dir, "batches.json"), filepath.Join(dir, "out.safetensors")
				if err := os.WriteFile(batches, j, 0o644); err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command(python, "../bench/train/torch_lora.py", base, dir, batches, out)
				cmd.Env = append(os.Environ(), "TORCHDYNAMO_DISABLE=1")
				if text, err := cmd.CombinedOutput(); err != nil {
					t.Fatalf("%v\n%s", err, text)
				}
				raw, err := os.ReadFile(out)
				if err != nil {
					t.Fatal(err)
				}
				f, err := safetensors.Read(bytes.NewReader(raw), int64(len(raw)), out)
				if err != nil {
					t.Fatal(err)
				}
				floats := func(name string, n int) []float32 {
					x := f.Tensor(name)
					if x == nil || x.Size != int64(4*n) {
						t.Fatalf("no tensor %q of %d values", name, n)
					}
					v := make([]float32, n)
					if err := gguf.Dequantize(v, gguf.F32, raw[x.Offset:x.Offset+x.Size]); err != nil {
						t.Fatal(err)
					}
					return v
				}
				distance := func(got, want []float32) float64 {
					var d, n float64
					for i, v := range want {
						d += (float64(v) - float64(got[i])) * (float64(v) - float64(got[i]))
						n += float64(v) * float64(v)
					}
					return math.Sqrt(d / n)
				}
				tol := 1e-4
				if precision == "ternary" {
					tol = 2e-3
				}
				if e := distance(ours, floats("logits", S*11)); e > tol {
					t.Errorf("logits differ by %.2g of their size, want %.0e", e, tol)
				} else {
					t.Logf("logits: relative error %.2g", e)
				}
				for mode, name := range map[nn.GradMode]string{nn.GradF32: "f32", nn.GradI16: "int16"} {
					worst, at := 0.0, 0
					for _, p := range m.Params {
						e := distance(grads[mode][at:at+len(p.W)], floats("base_model.model."+p.Name, len(p.W)))
						at += len(p.W)
						worst = max(worst, e)
						if e > tol {
							t.Errorf("%s products: relative error %.2g of %s, want %.0e", name, e, p.Name, tol)
						}
					}
					t.Logf("gradients, %s products: worst relative error %.2g", name, worst)
				}
				x := f.Tensor("losses")
				want := unsafe.Slice((*float64)(unsafe.Pointer(&raw[x.Offset])), 10)
				worst := 0.0
				for i, l := range losses {
					worst = max(worst, math.Abs(l-want[i]))
				}
				t.Logf("ten steps: loss %.5f to %.5f, peft %.5f, largest difference %.2g", losses[0], losses[9], want[9], worst)
				if worst > 1e-3 {
					t.Errorf("losses %v, peft %v", losses, want)
				}
			})
		}
	}
}
