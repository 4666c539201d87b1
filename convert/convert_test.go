package convert

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/weights"
)

func open(t *testing.T, path string) (*weights.Set, Source) {
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
	return set, FromSet(set, cfg)
}

// same compares every tensor of two models: codes and floats bit for bit, scales within tol.
func same(t *testing.T, got, want Source, tol float64) {
	t.Helper()
	list, skipped := plan(want)
	if len(skipped) > 0 {
		t.Errorf("skipped %v", skipped)
	}
	other, _ := plan(got)
	if len(list) != len(other) {
		t.Errorf("%d tensors, want %d", len(other), len(list))
	}
	c := want.Config()
	for _, e := range list {
		switch {
		case e.kind == vector:
			a, err := want.Vector(e.name, e.cols)
			if err != nil {
				t.Fatal(err)
			}
			name := e.name // folders have transformers' one name for the norm in front of a projection
			if n, _ := family.OwnNorm(got.Config()); n != "" {
				own, _ := family.OwnNorm(c)
				name = strings.Replace(name, "_proj."+own+".", "_proj."+n+".", 1)
			}
			b, err := got.Vector(name, e.cols)
			if err != nil {
				t.Fatal(err)
			}
			if !slices.EqualFunc(a, b, func(x, y float32) bool { // a bias was divided by its matrix's scale
				return x == y || strings.HasSuffix(name, ".bias") && math.Abs(float64(x/y)-1) < 1e-6
			}) {
				t.Errorf("%s differs", e.name)
			}
		case ternaryEntry(c, e):
			a, err := want.Ternary(e.name, e.rows, e.cols)
			if err != nil {
				t.Fatal(err)
			}
			b, err := got.Ternary(e.name, e.rows, e.cols)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(a.T16, b.T16) {
				t.Errorf("%s: other codes", e.name)
			}
			if rel := math.Abs(float64(a.Scale[0]/b.Scale[0]) - 1); !(rel <= tol) {
				t.Errorf("%s: scale %g, want %g", e.name, b.Scale[0], a.Scale[0])
			}
		default:
			a, err := want.Dense(e.name, e.rows, e.cols)
			if err != nil {
				t.Fatal(err)
			}
			b, err := got.Dense(e.name, e.rows, e.cols)
			if err != nil {
				t.Fatal(err)
			}
			x, y := make([]float32, e.cols), make([]float32, e.cols)
			for r := range e.rows {
				a.Row(x, r)
				b.Row(y, r)
				if !slices.Equal(x, y) {
					t.Errorf("%s: row %d differs", e.name, r)
					break
				}
			}
		}
	}
}

// TestEveryFormatKeepsTheModel writes a random model in each format and reads it back: the codes are
// the same bits, and the scales differ by no more than the format's rounding.
func TestEveryFormatKeepsTheModel(t *testing.T) {
	tolerance := map[Format]float64{HFPacked: 0, HFF32: 0x1p-22, HFBF16: 0x1p-22, I2S: 0, IQ2BN: 0, TQ1: 0, TQ2: 0, Q2: 0, IQ1BN: 0}
	for _, preset := range []string{"tiny", "tiny-llama", "tiny-1bitllm", "tiny-qwen3-embedding", "tiny-gemma3-embedding"} {
		r, err := NewRandom(preset, 7, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.Cut(2, 512); err != nil {
			t.Fatal(err)
		}
		names, _ := Formats()
		for _, f := range names {
			tol, ok := tolerance[f]
			if !ok {
				continue
			}
			t.Run(preset+"/"+string(f), func(t *testing.T) {
				dst := filepath.Join(t.TempDir(), "m")
				if f.IsGGUF() {
					dst += ".gguf"
				}
				var last, total int64
				report, err := Write(t.Context(), dst, r, Options{Format: f, Keep: true, Progress: func(d, n int64) { last, total = d, n }})
				if err != nil {
					t.Fatal(err)
				}
				if last != total || total == 0 || report.Bytes < total {
					t.Errorf("progress ended at %d of %d, %d bytes written", last, total, report.Bytes)
				}
				_, src := open(t, dst)
				same(t, src, r, tol)
			})
		}
	}
}

func TestPermutationIsUndone(t *testing.T) {
	const hd = 8
	seen := map[int]bool{}
	for i := range 3 * hd {
		r := interleaved(i, hd)
		seen[r] = true
		if r/hd != i/hd {
			t.Errorf("row %d comes from another head", i)
		}
		if i%2 == 0 && interleaved(i+1, hd) != r+hd/2 {
			t.Errorf("rows %d and %d are not a rotated pair", i, i+1)
		}
	}
	if len(seen) != 3*hd {
		t.Error("rows are lost")
	}
}

func TestZeros(t *testing.T) {
	if _, err := NewRandom("tiny-llama", 1, 0.8); err == nil {
		t.Error("zeros for an activation without any")
	}
	if _, err := NewRandom("huge", 1, 0); err == nil || !strings.Contains(err.Error(), "bitnet-2b4t") {
		t.Error(err)
	}
	for _, z := range []float64{-1, 1, math.NaN()} {
		if _, err := NewRandom("tiny", 1, z); err == nil {
			t.Errorf("zeros %g", z)
		}
	}
	// The share of gate ≤ 0 for inputs as the embedding has them, in the first layer.
	for _, z := range []float64{0.5, 0.8, 0.9} {
		r, err := NewRandom("bitnet-2b4t", 3, z)
		if err != nil {
			t.Fatal(err)
		}
		name := "model.layers.0.mlp.gate_proj.weight"
		m, err := r.Ternary(name, 512, r.cfg.HiddenSize)
		if err != nil {
			t.Fatal(err)
		}
		embed, _ := r.Dense("model.embed_tokens.weight", 0, r.cfg.HiddenSize)
		x, q := make([]float32, r.cfg.HiddenSize), make([]int8, r.cfg.HiddenSize)
		zero := 0
		const tokens = 20
		for tok := range tokens {
			embed.Row(x, tok)
			for row := range 512 {
				m.Row(q, row)
				var sum float32
				for i, v := range q {
					sum += float32(v) * x[i]
				}
				if sum <= 0 {
					zero++
				}
			}
		}
		if got := float64(zero) / (512 * tokens); math.Abs(got-z) > 0.05 {
			t.Errorf("%.3f zeros, want %g", got, z)
		}
	}
}

func TestTheSeedIsTheModel(t *testing.T) {
	write := func(seed uint64) []byte {
		r, err := NewRandom("tiny", seed, 0.8)
		if err != nil {
			t.Fatal(err)
		}
		dst := filepath.Join(t.TempDir(), "m.gguf")
		if _, err := Write(t.Context(), dst, r, Options{Format: I2S, Embedding: gguf.F16}); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(dst)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	a := write(1)
	if !bytes.Equal(a, write(1)) {
		t.Error("the same seed gave another file")
	}
	if bytes.Equal(a, write(2)) {
		t.Error("another seed gave the same file")
	}
}

func TestNothingHalfWritten(t *testing.T) {
	r, err := NewRandom("tiny", 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []Format{HFPacked, I2S} {
		dir := t.TempDir()
		dst := filepath.Join(dir, "m")
		ctx, cancel := context.WithCancelCause(t.Context())
		stop := errors.New("stop")
		_, err := Write(ctx, dst, r, Options{Format: f, Keep: true, Progress: func(d, n int64) {
			if d > n/2 {
				cancel(stop)
			}
		}})
		if !errors.Is(err, stop) {
			t.Errorf("%s: %v", f, err)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%s: left behind: %v", f, left)
		}
		// A destination that is there stays, unless asked; and a folder that is no model always.
		if f == HFPacked {
			os.Mkdir(dst, 0o755)
			os.WriteFile(filepath.Join(dst, "thesis.txt"), []byte("x"), 0o644)
		} else {
			os.WriteFile(dst, []byte("x"), 0o644)
		}
		if _, err := Write(t.Context(), dst, r, Options{Format: f, Keep: true}); !errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: %v", f, err)
		}
		_, err = Write(t.Context(), dst, r, Options{Format: f, Keep: true, Overwrite: true})
		if f == HFPacked != errors.Is(err, fs.ErrExist) {
			t.Errorf("%s: overwrite: %v", f, err)
		}
	}
}

func TestRefusals(t *testing.T) {
	r, err := NewRandom("bitnet-3b", 1, 0) // 3200 and 8640 are no multiples of 256
	if err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(t.TempDir(), "m.gguf")
	for f, text := range map[Format]string{TQ2: "multiple of 256", F16: "this model is ternary", "gguf-zip": "not known"} {
		if _, err := Write(t.Context(), dst, r, Options{Format: f}); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("%s: %v", f, err)
		}
	}
	r.Config().Quantize(func(string) bool { return true }, "", 0)
	if _, err := Write(t.Context(), dst, r, Options{Format: I2S}); !errors.Is(err, errors.ErrUnsupported) {
		t.Error(err)
	}
	if _, err := Write(t.Context(), filepath.Join(dst, "no", "such"), r, Options{Format: IQ2BN}); err == nil {
		t.Error("written into a folder that is not there")
	}
}

func TestRandomTokenizerIsValidJSON(t *testing.T) {
	r, err := NewRandom("tiny", 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	files, err := r.TokenizerFiles()
	if err != nil {
		t.Fatal(err)
	}
	var tok struct {
		Model struct{ Vocab map[string]int }
		Added []struct{ ID int } `json:"added_tokens"`
	}
	if err := json.Unmarshal(files["tokenizer.json"], &tok); err != nil {
		t.Fatal(err)
	}
	if n := len(tok.Model.Vocab) + len(tok.Added); n != r.cfg.VocabSize {
		t.Errorf("%d tokens, want %d", n, r.cfg.VocabSize)
	}
	if byteName(' ') != "Ġ" || byteName('\n') != "Ċ" || byteName('a') != "a" {
		t.Error("bytes are named otherwise than GPT-2 does")
	}
}

// cutting cuts the file that it reads once something of it was read.
type cutting struct {
	setSource
	file string
}

func (c cutting) Vector(name string, n int) ([]float32, error) {
	v, err := c.setSource.Vector(name, n)
	return v, errors.Join(err, os.Truncate(c.file, 1000))
}

// A source that is cut or written to while it is converted leaves nothing at the destination.
func TestSourceThatChanges(t *testing.T) {
	golden, err := os.ReadFile("../testdata/goldens/bitnet-2b4t/model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	config, err := os.ReadFile("../testdata/goldens/bitnet-2b4t/config.json")
	if err != nil {
		t.Fatal(err)
	}
	for _, format := range []Format{HFPacked, IQ2BN} {
		dir := t.TempDir()
		file := filepath.Join(dir, "model.safetensors")
		if err := errors.Join(os.WriteFile(file, golden, 0o600), os.WriteFile(filepath.Join(dir, "config.json"), config, 0o600)); err != nil {
			t.Fatal(err)
		}
		set, src := open(t, dir)
		out := t.TempDir()
		_, err := Write(t.Context(), filepath.Join(out, "x"), cutting{src.(setSource), file}, Options{Format: format})
		if runtime.GOOS != "windows" && (!errors.Is(err, weights.ErrChanged) || !strings.Contains(err.Error(), file)) {
			t.Errorf("%s: %v", format, err)
		}
		if left, _ := os.ReadDir(out); len(left) > 0 {
			t.Errorf("%s: left behind: %v", format, left)
		}
		set.Close()
	}
}
