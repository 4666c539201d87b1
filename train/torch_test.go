package train

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/tritlm/trit/data"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/safetensors"
	"github.com/tritlm/trit/train/nn"
)

// TestAgainstPyTorch compares whole architectures with PyTorch's autograd on the same weights and batch, and ten optimizer
// steps with its AdamW. TRIT_TEST_PYTHON names a Python with torch and safetensors.
//
// Gradients: ‖ours − torch‖/‖torch‖ per tensor ≤ 1e-4 in float mode. In ternary mode PyTorch multiplies rounded floats
// where we sum integers, so a value at a rounding edge may get another code on one side: 2e-3.
// Losses of ten steps: 1e-3.
func TestAgainstPyTorch(t *testing.T) {
	python := os.Getenv("TRIT_TEST_PYTHON")
	if python == "" {
		t.Skip("TRIT_TEST_PYTHON names no Python with torch")
	}
	pool := par.New(2)
	defer pool.Close()
	vocab, err := data.Chars(data.Builtin())
	if err != nil {
		t.Fatal(err)
	}
	tokens := data.NewTokens(vocab.EncodeAll(data.Builtin()), vocab.Size())
	for _, arch := range Archs {
		for _, precision := range Precisions {
			t.Run(arch+"/"+precision, func(t *testing.T) {
				c, _ := Preset("tiny", arch, precision)
				c.VocabSize = vocab.Size()
				m, err := New(c, pool, 3)
				if err != nil {
					t.Fatal(err)
				}
				o := DefaultOptions()
				o.LR, o.BatchSize, o.WeightDecay = 2e-4, 4, 0.1
				tr, err := NewTrainer(m, o)
				if err != nil {
					t.Fatal(err)
				}
				dir := t.TempDir()
				ckpt := filepath.Join(dir, "a.ckpt")
				if err := tr.Save(ckpt, vocab.JSON); err != nil {
					t.Fatal(err)
				}
				var b struct {
					Batch   int       `json:"batch"`
					Block   int       `json:"block"`
					IDs     [][]int32 `json:"ids"`
					Targets [][]int32 `json:"targets"`
				}
				b.Batch, b.Block = 4, c.Block
				var losses []float64
				grads := map[nn.GradMode][]float32{}
				for batch, err := range tokens.Batches(7, 0, 4, c.Block) {
					if err != nil {
						t.Fatal(err)
					}
					b.IDs, b.Targets = append(b.IDs, batch.IDs), append(b.Targets, batch.Targets)
					st := tr.activations(4, c.Block)
					if len(losses) == 0 {
						for _, g := range []nn.GradMode{nn.GradF32, nn.GradI16} {
							m.SetGradMode(g)
							m.ZeroGrad()
							m.Gradient(st, batch.IDs, batch.Targets, 1)
							grads[g] = append([]float32(nil), m.g...)
						}
					}
					m.ZeroGrad()
					s := Step{N: len(losses) + 1, Loss: m.Gradient(st, batch.IDs, batch.Targets, 1)}
					if err := tr.update(&s); err != nil {
						t.Fatal(err)
					}
					if losses = append(losses, s.Loss); len(losses) == 10 {
						break
					}
				}
				j, _ := json.Marshal(b)
				in, out := filepath.Join(dir, "batches.json"), filepath.Join(dir, "out.safetensors")
				if err := os.WriteFile(in, j, 0o644); err != nil {
					t.Fatal(err)
				}
				cmd := exec.Command(python, "../bench/train/torch_check.py", ckpt, in, out)
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
				tol := 1e-4
				if precision == "ternary" {
					tol = 2e-3
				}
				for mode, name := range map[nn.GradMode]string{nn.GradF32: "f32", nn.GradI16: "int16"} {
					worst, at, where := 0.0, 0, ""
					for _, p := range m.Params {
						g := grads[mode][at : at+len(p.W)]
						at += len(p.W)
						x := f.Tensor(p.Name)
						want := unsafe.Slice((*float32)(unsafe.Pointer(&raw[x.Offset])), len(p.W))
						var d, n float64
						for i, v := range want {
							d += (float64(v) - float64(g[i])) * (float64(v) - float64(g[i]))
							n += float64(v) * float64(v)
						}
						if n < 1e-12 {
							continue // a key bias: zero but for rounding
						}
						if e := math.Sqrt(d / n); e > worst {
							worst, where = e, p.Name
						}
					}
					t.Logf("gradients, %s products: worst relative error %.2g in %s", name, worst, where)
					if worst > tol {
						t.Errorf("%s products: relative error %.2g of %s, want %.0e", name, worst, where, tol)
					}
				}
				x := f.Tensor("losses")
				want := unsafe.Slice((*float64)(unsafe.Pointer(&raw[x.Offset])), 10)
				worst := 0.0
				for i, l := range losses {
					worst = max(worst, math.Abs(l-want[i]))
				}
				t.Logf("ten steps: loss %.5f to %.5f, PyTorch %.5f, largest difference %.2g", losses[0], losses[9], want[9], worst)
				if worst > 1e-3 {
					t.Errorf("losses %v, PyTorch %v", losses, want)
				}
			})
		}
	}
}
