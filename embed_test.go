package trit_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/convert"
	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/safetensors"
)

var embeddingGoldens = []string{"bitnet-embedding-0.6b", "bitnet-embedding-270m"}

// embeddingReference is what transformers computed for the golden's text: its tokens and unit vectors by pooling.
func embeddingReference(t *testing.T, name, dtype string) (text string, ids []int32, vectors map[model.Pooling][]float32) {
	t.Helper()
	path := filepath.Join("testdata/goldens", name, "reference."+dtype+".safetensors")
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := safetensors.Read(bytes.NewReader(data), int64(len(data)), path)
	if err != nil {
		t.Fatal(err)
	}
	word := func(name string, i int) uint32 {
		x := f.Tensor(name)
		if x == nil {
			t.Fatalf("%s: no %s", path, name)
		}
		b := data[x.Offset : x.Offset+x.Size][4*i:]
		return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
	}
	const prompt = "prompt.3."
	for i := range f.Tensor(prompt + "ids").Shape[0] {
		ids = append(ids, int32(word(prompt+"ids", i)))
	}
	vectors = map[model.Pooling][]float32{}
	for _, p := range []model.Pooling{model.PoolLast, model.PoolMean} {
		x := prompt + "embedding." + string(p)
		for i := range f.Tensor(x).Shape[0] {
			vectors[p] = append(vectors[p], math.Float32frombits(word(x, i)))
		}
	}
	return f.Metadata[prompt+"text"], ids, vectors
}

func cosine(a, b []float32) float64 {
	var ab, aa, bb float64
	for i := range a {
		ab += float64(a[i]) * float64(b[i])
		aa += float64(a[i]) * float64(a[i])
		bb += float64(b[i]) * float64(b[i])
	}
	return ab / math.Sqrt(aa*bb)
}

func openModel(t *testing.T, path string, o *trit.Options) *trit.Model {
	t.Helper()
	m, err := trit.Open(path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

func embedText(t *testing.T, m *trit.Model, o trit.EmbedOptions, texts ...string) [][]float32 {
	t.Helper()
	v, err := m.Embed(context.Background(), texts, o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// TestEmbedIsTransformers: from the text on, the vectors are those of transformers, in both poolings.
func TestEmbedIsTransformers(t *testing.T) {
	for _, name := range embeddingGoldens {
		for _, p := range []model.Pooling{"", model.PoolLast, model.PoolMean} {
			m := openModel(t, "testdata/goldens/"+name, &trit.Options{Pooling: p})
			text, ids, want := embeddingReference(t, name, "f32")
			if got, err := trit.EmbedTokens(m.Tokenizer(), m.Config(), text); err != nil || !slices.Equal(got, ids) {
				t.Fatalf("%s: tokens of %q are %v, want %v (%v)", name, text, got, ids, err)
			}
			got := embedText(t, m, trit.EmbedOptions{}, text)[0]
			_, _, coarse := embeddingReference(t, name, "bf16")
			if p == "" {
				p = model.PoolLast
			}
			if c := cosine(got, want[p]); !(c >= 0.99999) {
				t.Errorf("%s, %s: cosine %.7f with transformers in float32", name, p, c)
			}
			if c := cosine(got, coarse[p]); !(c >= 0.999) {
				t.Errorf("%s, %s: cosine %.5f with transformers in bfloat16", name, p, c)
			}
			for i := range got {
				if d := math.Abs(float64(got[i] - want[p][i])); !(d <= 1e-5) {
					t.Fatalf("%s, %s: number %d is %g, want %g", name, p, i, got[i], want[p][i])
				}
			}
			if c := cosine(want[model.PoolLast], want[model.PoolMean]); c > 0.99 {
				t.Errorf("%s: the two poolings are the same, %.4f: nothing tells them apart here", name, c)
			}
		}
	}
}

// TestEmbedDoesNotDependOnNeighbours: the vector of a text is the same bits alone, among others, behind a prefix that
// is part of it, and cut to its first numbers but for its length.
func TestEmbedDoesNotDependOnNeighbours(t *testing.T) {
	for _, p := range []model.Pooling{model.PoolLast, model.PoolMean} {
		m := openModel(t, "testdata/goldens/bitnet-embedding-270m", &trit.Options{Pooling: p})
		var texts []string
		for i := range 40 {
			texts = append(texts, strings.Repeat("the river was low ", i%5+1)+fmt.Sprint(i))
		}
		all := embedText(t, m, trit.EmbedOptions{Prefix: "query: "}, texts...)
		for _, i := range []int{0, 7, 39} {
			if alone := embedText(t, m, trit.EmbedOptions{}, "query: "+texts[i])[0]; !slices.Equal(alone, all[i]) {
				t.Errorf("%s: text %d has another vector alone", p, i)
			}
		}
		short := embedText(t, m, trit.EmbedOptions{Prefix: "query: ", Dimensions: 32}, texts[0])[0]
		if c := cosine(short, all[0][:32]); len(short) != 32 || math.Abs(cosine(short, short)-1) > 1e-6 || c < 0.9999999 {
			t.Errorf("%s: %d numbers, cosine %g", p, len(short), c)
		}
	}
}

func TestEmbedRefuses(t *testing.T) {
	m := openModel(t, "testdata/goldens/bitnet-embedding-0.6b", nil)
	for name, test := range map[string]struct {
		text string
		o    trit.EmbedOptions
		want string
	}{
		"too long":   {strings.Repeat("word ", 300), trit.EmbedOptions{}, "do not fit the context of 256"},
		"not UTF-8":  {"a\xff", trit.EmbedOptions{}, "not valid UTF-8 at byte 1"},
		"dimensions": {"x", trit.EmbedOptions{Dimensions: 129}, "the model has 128"},
		"negative":   {"x", trit.EmbedOptions{Dimensions: -1}, "the model has 128"},
	} {
		if _, err := m.Embed(context.Background(), []string{test.text}, test.o); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if v := embedText(t, m, trit.EmbedOptions{}, ""); len(v) != 1 || len(v[0]) != 128 { // the end token alone
		t.Errorf("the empty text: %d vectors", len(v))
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := m.Embed(ctx, []string{"x"}, trit.EmbedOptions{}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for _, err := range m.NewSession().Generate(context.Background(), "x", trit.GenerateOptions{MaxTokens: 1}) {
		if err == nil || !strings.Contains(err.Error(), "trit embed") {
			t.Errorf("it wrote text: %v", err)
		}
	}
	if _, err := trit.Open("testdata/goldens/bitnet-2b4t", &trit.Options{Pooling: model.PoolMean}); err == nil || !strings.Contains(err.Error(), "writes text") {
		t.Error(err)
	}
	if _, err := trit.Open("testdata/goldens/bitnet-embedding-0.6b", &trit.Options{Pooling: "cls"}); err == nil || !strings.Contains(err.Error(), "last, mean") {
		t.Error(err)
	}
}

// TestEmbedOfPublishedGGUF: a file with the types and keys of the published ones, norms in half precision and a pooling
// of mean that nobody asked for, gives the vectors of the folder it was made from.
func TestEmbedOfPublishedGGUF(t *testing.T) {
	for _, name := range embeddingGoldens {
		m := openModel(t, "testdata/goldens/"+name, nil)
		text, _, want := embeddingReference(t, name, "f32")
		dir := t.TempDir()
		ours, published := filepath.Join(dir, "ours.gguf"), filepath.Join(dir, "published.gguf")
		kv, err := m.Tokenizer().GGUF()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := convert.Write(t.Context(), ours, convert.FromSet(m.Weights(), m.Config()), convert.Options{Format: convert.I2S, Keep: true, TokenizerKV: kv}); err != nil {
			t.Fatal(err)
		}
		republish(t, ours, published, false)
		for _, p := range []model.Pooling{"", model.PoolMean} {
			g := openModel(t, published, &trit.Options{Pooling: p})
			if n := g.Notes(); (len(n) == 1) != (p == "") {
				t.Errorf("%s: notes %q", name, n)
			}
			if p == "" {
				p = model.PoolLast
			}
			got := embedText(t, g, trit.EmbedOptions{}, text)[0]
			if c := cosine(got, want[p]); !(c >= 0.999) { // norms and embedding were rounded to half precision
				t.Errorf("%s, %s: cosine %.6f", name, p, c)
			}
		}
		if n := openModel(t, ours, nil).Notes(); len(n) != 0 {
			t.Errorf("%s: our own file has notes %q", name, n)
		}
		republish(t, ours, published, true)
		g := openModel(t, published, &trit.Options{Pooling: model.PoolLast})
		c := g.Config()
		first := c.Layers[0].Mixer.(*part.Attention)
		if gemma := c.Family == "gemma3"; gemma != (len(g.Notes()) == 1) || gemma && (first.Window != 512 || first.Rope.Theta != 1e4) {
			t.Errorf("%s without the keys of windows: %q, %+v", name, g.Notes(), first)
		}
	}
}

// republish writes a GGUF file again as the converter of microsoft/BitNet does: floats as f16, pooling_type 1, and bare
// without a word of windows.
func republish(t *testing.T, from, to string, bare bool) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	f, err := gguf.Read(bytes.NewReader(data), int64(len(data)), from)
	if err != nil {
		t.Fatal(err)
	}
	arch, err := f.KV.String("general.architecture")
	if err != nil {
		t.Fatal(err)
	}
	f.KV.Set(arch+".pooling_type", uint32(1))
	if bare {
		f.KV = slices.DeleteFunc(f.KV, func(e gguf.Pair) bool {
			return strings.Contains(e.Key, "sliding_window") || strings.HasSuffix(e.Key, "freq_base_swa")
		})
	}
	content := map[string][]byte{}
	tensors := slices.Clone(f.Tensors)
	for i, x := range tensors {
		b := data[x.Offset : x.Offset+x.Size]
		if x.Type == gguf.F32 || x.Type == gguf.BF16 {
			n := 1
			for _, d := range x.Shape {
				n *= d
			}
			v := make([]float32, n)
			if err := gguf.Dequantize(v, x.Type, b); err != nil {
				t.Fatal(err)
			}
			b = make([]byte, 2*n)
			if err := gguf.Quantize(b, gguf.F16, v); err != nil {
				t.Fatal(err)
			}
			tensors[i].Type = gguf.F16
		}
		content[x.Name] = b
	}
	out, err := os.Create(to)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	err = gguf.Write(out, f.KV, tensors, func(w io.Writer, x gguf.Tensor) error {
		_, err := w.Write(content[x.Name])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
