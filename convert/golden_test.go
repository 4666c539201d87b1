package convert_test

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tritlm/trit/convert"
	"github.com/tritlm/trit/eval"
	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/cpu"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/weights"
)

func load(t *testing.T, path string, quantize bool) (*weights.Set, *model.Config) {
	t.Helper()
	set, err := weights.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { set.Close() })
	cfg, err := family.Read(set)
	if err != nil {
		t.Fatal(err)
	}
	if quantize {
		cfg.QuantizeMasters()
	}
	return set, cfg
}

// TestConvertedGoldensComputeTheSame writes every golden model in every format that can hold it, and
// holds what was written to the numbers that transformers computed for the original.
func TestConvertedGoldensComputeTheSame(t *testing.T) {
	refs, _ := filepath.Glob("../testdata/goldens/*/reference.f32.safetensors")
	if len(refs) == 0 {
		t.Fatal("no goldens")
	}
	for _, file := range refs {
		dir := filepath.Dir(file)
		ref, err := eval.ReadReference(file)
		if err != nil {
			t.Fatal(err)
		}
		set, cfg := load(t, dir, strings.HasSuffix(dir, "-prequantized"))
		names, _ := convert.Formats()
		for _, f := range names {
			t.Run(filepath.Base(dir)+"/"+string(f), func(t *testing.T) {
				dst := filepath.Join(t.TempDir(), "m")
				if f.IsGGUF() {
					dst += ".gguf"
				}
				report, err := convert.Write(t.Context(), dst, convert.FromSet(set, cfg), convert.Options{Format: f, Keep: true, HFConfig: set.HFConfig()})
				switch {
				case errors.Is(err, errors.ErrUnsupported), errors.Is(err, gguf.ErrColumns):
					t.Skip(err)
				case err != nil:
					t.Fatal(err)
				}
				set, cfg := load(t, dst, false)
				e, err := cpu.Backend{}.Load(t.Context(), cfg, set)
				if err != nil {
					t.Fatal(err)
				}
				defer e.Close()
				tol := eval.DefaultTolerance("float32")
				if f == convert.HFBF16 && len(report.Rounded) > 0 {
					tol = eval.DefaultTolerance("bfloat16")
				}
				for _, q := range report.Quantised {
					if q.Relative < 0.3 || q.Relative > 0.7 {
						t.Errorf("%s: relative error %g; the goldens are normal numbers", q.Name, q.Relative)
					}
				}
				r, err := eval.Verify(t.Context(), e, ref, tol, nil)
				if err != nil {
					t.Fatal(err)
				}
				if !r.OK() {
					t.Error(r.Failures)
				}
				t.Logf("correlation %.7f, top-1 %d/%d, greedy %d/%d", r.Logits.Correlation, r.Top1, r.Positions, r.Agree, r.Steps)
			})
		}
	}
}
