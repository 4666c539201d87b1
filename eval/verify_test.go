package eval

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/cpu"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/weights"
)

func engine(t *testing.T, dir string) model.Engine {
	t.Helper()
	set, err := weights.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := family.Read(set)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(dir, "-prequantized") { // the folder's configuration does not say that it is ternary
		cfg.QuantizeMasters()
	}
	e, err := cpu.Backend{}.Load(t.Context(), cfg, set)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { e.Close(); set.Close() })
	return e
}

// TestGoldensPass holds every golden model to its own references.
func TestGoldensPass(t *testing.T) {
	refs, _ := filepath.Glob("../testdata/goldens/*/reference.*.safetensors")
	if len(refs) == 0 {
		t.Fatal("no goldens")
	}
	for _, file := range refs {
		t.Run(filepath.Base(filepath.Dir(file))+"/"+filepath.Base(file), func(t *testing.T) {
			ref, err := ReadReference(file)
			if err != nil {
				t.Fatal(err)
			}
			r, err := Verify(t.Context(), engine(t, filepath.Dir(file)), ref, DefaultTolerance(ref.DType()), nil)
			if err != nil {
				t.Fatal(err)
			}
			if !r.OK() {
				t.Error(strings.Join(r.Failures, "\n"))
			}
			if ref.DType() == "float32" && (r.Top1 != r.Positions || r.Identical != r.Greedy) {
				t.Errorf("float32: top-1 %d of %d, identical continuations %d of %d", r.Top1, r.Positions, r.Identical, r.Greedy)
			}
			t.Logf("logits: correlation %.7f, largest difference %.3g of %.3g; top-1 %d/%d; greedy %d/%d steps, %d near ties",
				r.Logits.Correlation, r.Logits.MaxDiff, r.Range, r.Top1, r.Positions, r.Agree, r.Steps, r.NearTies)
			if _, err := json.Marshal(r); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestAChangedModelFails: a reference whose numbers are not the model's is noticed in every part.
func TestAChangedModelFails(t *testing.T) {
	dir := "../testdata/goldens/bitnet-2b4t"
	e := engine(t, dir)
	for name, spoil := range map[string]func(p *Prompt){
		"layer":  func(p *Prompt) { p.Hidden[1][0] += 50 },
		"final":  func(p *Prompt) { p.Final[3] = float32(math.NaN()) },
		"logits": func(p *Prompt) { p.Logits[5] += 1 },
		"greedy": func(p *Prompt) { p.Greedy[0] = (p.Greedy[0] + 1) % 300; p.Second, p.Margin = nil, nil },
	} {
		t.Run(name, func(t *testing.T) {
			ref, err := ReadReference(filepath.Join(dir, "reference.f32.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			spoil(&ref.Prompts[0])
			r, err := Verify(t.Context(), e, ref, DefaultTolerance("float32"), nil)
			if err != nil {
				t.Fatal(err)
			}
			if r.OK() {
				t.Error("it passed")
			}
			t.Log(r.Failures)
		})
	}
	ref, err := ReadReference(filepath.Join(dir, "reference.f32.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	ref.Layers++
	if _, err := Verify(t.Context(), e, ref, DefaultTolerance("float32"), nil); err == nil {
		t.Error("another number of layers was accepted")
	}
	if _, err := ReadReference(filepath.Join(dir, "model.safetensors")); err == nil || !strings.Contains(err.Error(), "reference.py") {
		t.Error(err)
	}
	if _, err := ReadReference(filepath.Join(dir, "config.json")); err == nil {
		t.Error("a JSON file was read")
	}
	if _, err := ReadReference("nothing"); !os.IsNotExist(err) {
		t.Error(err)
	}
}

func TestEstimateAndBench(t *testing.T) {
	dir := "../testdata/goldens/bitnet-2b4t"
	set, err := weights.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	cfg, err := family.Read(set)
	if err != nil {
		t.Fatal(err)
	}
	m := Estimate(cfg, set)
	// Two blocks of 128/256 with 4 heads of 32 and 2 KV heads, vocabulary 320, bfloat16.
	shape := family.ShapeOf(cfg)
	d, f := int64(cfg.HiddenSize), int64(shape.IntermediateSize)
	projections := int64(cfg.NumLayers()) * (2*d*d + 2*d*int64(shape.NumKVHeads*shape.HeadDim) + 3*d*f)
	want := projections / 4
	if cpu.MatrixBytes(16, 96) < 16*96/4 { // three weights in five bits, and what is left of 128 and 256 columns in two
		want = projections/4 - int64(cfg.NumLayers())*(((2*d+2*int64(shape.NumKVHeads*shape.HeadDim)+2*f)*1+d*2)*(96/4-96*5/24))
	}
	if m.Ternary != want || m.Embedding != 2*d*int64(cfg.VocabSize) || m.Head != 0 || m.Dense != 0 {
		t.Errorf("%+v, want %d ternary bytes", m, want)
	}
	if m.PerToken(10) != m.Weights()-m.Copies+10*m.KVToken {
		t.Errorf("a tied head is read whole: %d", m.PerToken(10))
	}
	s, err := Bench(t.Context(), engine(t, dir), BenchOptions{Prompt: 16, Tokens: 8, Repeats: 2})
	if err != nil {
		t.Fatal(err)
	}
	if !(s.Prompt > 0 && s.Decode > 0 && s.DecodeMin <= s.Decode && s.Decode <= s.DecodeMax) {
		t.Errorf("%+v", s)
	}
	if _, err := Bench(t.Context(), engine(t, dir), BenchOptions{Prompt: 1 << 20}); err == nil {
		t.Error("a prompt beyond the context")
	}
	if PeakMemory() < 1<<20 {
		t.Errorf("peak memory %d", PeakMemory())
	}
}

// TestLayerByLayer: an error in one layer shows there and nowhere else.
func TestLayerByLayer(t *testing.T) {
	dir := "../testdata/goldens/bitnet-2b4t"
	ref, err := ReadReference(filepath.Join(dir, "reference.f32.safetensors"))
	if err != nil {
		t.Fatal(err)
	}
	tol := DefaultTolerance(ref.DType())
	tol.LayerByLayer = true
	e := engine(t, dir)
	if _, err := Verify(t.Context(), e, ref, tol, nil); err == nil || !strings.Contains(err.Error(), "--positions 0") {
		t.Errorf("a reference of some positions only: %v", err)
	}
	ref.Prompts = slices.DeleteFunc(ref.Prompts, func(p Prompt) bool { return len(p.Positions) != len(p.IDs) })
	r, err := Verify(t.Context(), e, ref, tol, nil)
	if err != nil || !r.OK() || r.Steps != 0 {
		t.Fatalf("%v, %+v", err, r)
	}
	for i := range ref.Prompts { // as if the reference's first layer were another one
		h := ref.Prompts[i].Hidden[1]
		for j := range h {
			h[j] *= -1
		}
	}
	if r, err = Verify(t.Context(), e, ref, tol, nil); err != nil {
		t.Fatal(err)
	}
	// Layer 1 is wrong; layer 2, fed with what it then was, differs as well; without the reset so would all the rest.
	if r.Layers[0].Correlation < 0.99999 || r.Layers[1].Correlation > 0 {
		t.Errorf("embedding %.5f, layer 1 %.5f", r.Layers[0].Correlation, r.Layers[1].Correlation)
	}
	if final := r.Layers[len(r.Layers)-1]; final.Correlation < 0.99999 {
		t.Errorf("the final norm correlates to %.5f: it was not fed with the reference's last layer", final.Correlation)
	}
}
