package convert

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/ternary"
	"github.com/tritlm/trit/tokenizer"
)

// changed is a random model with another configuration.
func changed(t *testing.T, preset string, change func(c *model.Config)) *Random {
	t.Helper()
	r, err := NewRandom(preset, 1, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Cut(2, 512); err != nil {
		t.Fatal(err)
	}
	change(r.cfg)
	return r
}

// attentions and gated change a part of every layer.
func attentions(change func(n int, a *part.Attention)) func(c *model.Config) {
	return func(c *model.Config) {
		for n := range c.Layers {
			change(n, c.Layers[n].Mixer.(*part.Attention))
		}
	}
}

func gated(change func(g *part.Gated)) func(c *model.Config) {
	return func(c *model.Config) {
		for n := range c.Layers {
			change(c.Layers[n].FeedForward.(*part.Gated))
		}
	}
}

func scaling(s part.RopeScaling) func(c *model.Config) {
	return attentions(func(_ int, a *part.Attention) { a.Rope = &part.Rope{Dim: a.Rope.Dim, Theta: a.Rope.Theta, Scaling: s} })
}

func theta(v float64) func(c *model.Config) {
	return attentions(func(_ int, a *part.Attention) { a.Rope = &part.Rope{Dim: a.Rope.Dim, Theta: v} })
}

func windows(w ...int) func(c *model.Config) {
	return attentions(func(n int, a *part.Attention) { a.Window = w[n] })
}

// TestRefusedByKey: what a format cannot say is refused before anything is written, by the name of the key.
func TestRefusedByKey(t *testing.T) {
	for _, c := range []struct {
		preset, format, want string
		change               func(c *model.Config)
	}{
		{"tiny", "gguf-i2_s", "hidden_act is silu and would be read back as relu2", gated(func(g *part.Gated) { g.Activation = part.SiLU })},
		{"tiny-llama", "gguf-i2_s", "hidden_act is gelu and would be read back as silu", gated(func(g *part.Gated) { g.Activation = part.GELU })},
		{"tiny-llama", "gguf-tq2_0", "rope_scaling is {Type:llama3", scaling(part.RopeScaling{Type: "llama3", Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OldContext: 512})},
		{"tiny-llama", "gguf-tq2_0", "rope_scaling is {Type:yarn", scaling(part.RopeScaling{Type: "yarn", Factor: 4, OldContext: 512, AttnFactor: 1, BetaFast: 32, BetaSlow: 1, NoTruncate: true})},
		{"tiny-llama", "hf-packed", "rope_scaling is {", scaling(part.RopeScaling{Divisors: make([]float32, 32)})},
		{"tiny-llama", "gguf-tq2_0", "rope_theta is 1.00000001e+08 and would be read back as 1e+08", theta(100000001)},
		{"tiny-llama", "gguf-i2_s", "modules_to_not_convert is ", func(c *model.Config) { c.Head.Arithmetic = part.Ternary8 }},
		{"tiny-qwen3-embedding", "gguf-i2_s", "sliding_window (layer_types) is 8 and would be read back as 0", windows(8, 8)},
		{"tiny-gemma3-embedding", "gguf-i2_s", "sliding_window (layer_types) is 64 and would be read back as 0 (layer 1)", func(c *model.Config) {
			a, b := c.Layers[0].Mixer.(*part.Attention), c.Layers[1].Mixer.(*part.Attention)
			a.Window, b.Window, a.Rope, b.Rope = 32, 64, b.Rope, a.Rope
			a.Window = 0
		}},
		{"tiny-gemma3-embedding", "gguf-i2_s", "rms_norm_eps is 1e-05", func(c *model.Config) {
			for _, p := range c.Projections() {
				if p.Norm != nil {
					p.Norm.Eps = 1e-5
				}
			}
		}},
		{"tiny-qwen3-embedding", "gguf-i2_s", "use_rms_norm", func(c *model.Config) { c.Pooling = "" }},
		{"tiny", "gguf-i2_s", "Attention.SubNorm is none", attentions(func(_ int, a *part.Attention) { a.SubNorm = nil })},
	} {
		r := changed(t, c.preset, c.change)
		dir := t.TempDir()
		_, err := Write(t.Context(), filepath.Join(dir, "m"), r, Options{Format: Format(c.format), Keep: true})
		if !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s as %s: %v does not say %q", c.preset, c.format, err, c.want)
		}
		if left, _ := os.ReadDir(dir); len(left) > 0 {
			t.Errorf("%s as %s: left behind: %v", c.preset, c.format, left)
		}
	}
}

// TestSaidByEveryFormat: keys that both kinds of files can say are written and read back.
func TestSaidByEveryFormat(t *testing.T) {
	for name, change := range map[string]func(c *model.Config){
		"linear": scaling(part.RopeScaling{Type: "linear", Factor: 4}),
		"yarn":   scaling(part.RopeScaling{Type: "yarn", Factor: 4, OldContext: 512, AttnFactor: 1.25, BetaFast: 16, BetaSlow: 2}),
		"eps": func(c *model.Config) {
			for _, n := range c.Norms() {
				n.Eps = 3e-6
			}
		},
		"theta":   theta(1000042),
		"tied":    func(c *model.Config) { c.TieHead(true) },
		"context": func(c *model.Config) { c.MaxContext = 12345 },
	} {
		for _, f := range []Format{HFPacked, TQ2} {
			r := changed(t, "tiny-llama", change)
			if _, err := Write(t.Context(), filepath.Join(t.TempDir(), "m"), r, Options{Format: f, Keep: true}); err != nil {
				t.Errorf("%s as %s: %v", name, f, err)
			}
		}
	}
}

// TestEveryFieldIsCompared: a difference in any field of a description, those of mayDiffer excepted, is seen.
func TestEveryFieldIsCompared(t *testing.T) {
	for _, preset := range []string{"tiny", "tiny-gemma3-embedding"} {
		want := changed(t, preset, func(*model.Config) {}).cfg
		got := changed(t, preset, func(*model.Config) {}).cfg
		if d := differences(want, got); d != nil {
			t.Fatalf("two that are equal: %v", d)
		}
		fields := 0
		eachField(reflect.ValueOf(got).Elem(), "Config", func(field string, v reflect.Value) {
			fields++
			old := reflect.New(v.Type()).Elem()
			old.Set(v)
			switch v.Kind() {
			case reflect.String:
				v.SetString(v.String() + "x")
			case reflect.Int:
				v.SetInt(v.Int() + 1)
			case reflect.Uint8:
				v.SetUint(v.Uint() + 1)
			case reflect.Float32, reflect.Float64:
				v.SetFloat(2*v.Float() + 3)
			case reflect.Bool:
				v.SetBool(!v.Bool())
			case reflect.Slice:
				v.Set(reflect.Append(v, reflect.Zero(v.Type().Elem())))
			case reflect.Pointer: // what is not there is
				v.Set(reflect.New(v.Type().Elem()))
			default:
				t.Fatalf("%s is a %s", field, v.Kind())
			}
			seen := differences(want, got) != nil
			if ownNorm := field == "Norm.Name" && strings.Contains(old.String(), "_proj.") && !strings.Contains(old.String(), "layernorm"); !ownNorm && seen == (mayDiffer[field] != "") {
				t.Errorf("%s, %v instead of %v: seen: %v", field, v, old, seen)
			}
			v.Set(old)
		})
		t.Log(preset, fields, "fields")
	}
}

// eachField calls fn for every value in v that is no struct of the description itself.
func eachField(v reflect.Value, field string, fn func(field string, v reflect.Value)) {
	switch {
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			eachField(v.Field(i), v.Type().Name()+"."+v.Type().Field(i).Name, fn)
		}
	case v.Kind() == reflect.Pointer && !v.IsNil(), v.Kind() == reflect.Interface:
		eachField(v.Elem(), field, fn)
	case v.Kind() == reflect.Slice && v.Type().Elem().Kind() == reflect.Struct:
		fn(field, v)
		for i := range v.Len() {
			eachField(v.Index(i), field, fn)
		}
	default:
		fn(field, v)
	}
}

// lying is a source that gives another answer when it is asked again, as what was written would be wrong.
type lying struct {
	*Random
	asked map[string]int
	lie   func(name string, asked int) bool
}

func (l *lying) again(name string) bool {
	l.asked[name]++
	return l.lie(name, l.asked[name])
}

func (l *lying) Ternary(name string, rows, cols int) (*ternary.Matrix, error) {
	m, err := l.Random.Ternary(name, rows, cols)
	if err == nil && l.again(name) {
		m.Scale[0] *= 1.5
	}
	return m, err
}

func (l *lying) Dense(name string, rows, cols int) (Rows, error) {
	d, err := l.Random.Dense(name, rows, cols)
	if err == nil && l.again(name) {
		r := d.(randomRows)
		r.mean++
		d = r
	}
	return d, err
}

func (l *lying) Vector(name string, n int) ([]float32, error) {
	v, err := l.Random.Vector(name, n)
	if err == nil && l.again(name) {
		v[n/2]++
	}
	return v, err
}

// TestWhatIsWrittenIsCompared: a tensor that was written otherwise than the source has it is found, and nothing is left.
func TestWhatIsWrittenIsCompared(t *testing.T) {
	for _, f := range []Format{HFPacked, HFBF16, I2S, IQ2BN} {
		for name, want := range map[string]string{
			"model.layers.1.mlp.up_proj.weight": `tensor "model.layers.1.mlp.up_proj.weight": row 0 has scale`,
			"model.embed_tokens.weight":         `tensor "model.embed_tokens.weight": row 0, column 0 is`,
			"model.norm.weight":                 `tensor "model.norm.weight": element 128 is`,
		} {
			src := &lying{changed(t, "tiny", func(*model.Config) {}), map[string]int{}, func(n string, asked int) bool { return n == name && asked == 1 }}
			dir := t.TempDir()
			_, err := Write(t.Context(), filepath.Join(dir, "m"), src, Options{Format: f, Keep: true})
			if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "does not read back") {
				t.Errorf("%s: %v does not say %q", f, err, want)
			}
			if left, _ := os.ReadDir(dir); len(left) > 0 {
				t.Errorf("%s: left behind: %v", f, left)
			}
		}
	}
}

// TestTokenizersAreCompared: files with another tokenizer than the source's are refused, by what differs.
func TestTokenizersAreCompared(t *testing.T) {
	r := changed(t, "tiny", func(*model.Config) {})
	files, err := r.TokenizerFiles()
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.FromJSON(files["tokenizer.json"], files["tokenizer_config.json"])
	if err != nil {
		t.Fatal(err)
	}
	edit := func(name, old, new string) map[string][]byte {
		other := map[string][]byte{}
		for n, data := range files {
			other[n] = data
		}
		text := strings.Replace(string(files[name]), old, new, 1)
		if text == string(files[name]) {
			t.Fatalf("%s does not say %q", name, old)
		}
		other[name] = []byte(text)
		return other
	}
	for want, other := range map[string]map[string][]byte{
		"":                      files,
		"the chat template":     edit("tokenizer_config.json", "Assistant: ", "Bot: "),
		"a text ends at":        edit("tokenizer_config.json", `"eos_token":"\u003c|end_of_text|\u003e"`, `"eos_token":"\u003c|begin_of_text|\u003e"`),
		"would be read back as": edit("tokenizer.json", `"add_prefix_space":false,"trim_offsets":true,"type":"ByteLevel","use_regex":true},"truncation"`, `"add_prefix_space":true,"trim_offsets":true,"type":"ByteLevel","use_regex":true},"truncation"`),
	} {
		if want == "a text ends at" { // generation_config.json has the last word about it
			other["generation_config.json"] = []byte(`{"eos_token_id": 5}`)
		}
		dir := t.TempDir()
		_, err := Write(t.Context(), filepath.Join(dir, "m"), r, Options{Format: HFPacked, Files: other, Tokenizer: tok})
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
		if left, _ := os.ReadDir(dir); err != nil && len(left) > 0 {
			t.Errorf("left behind: %v", left)
		}
	}
}

// TestSplit lays tensors out as gguf-split does: in order, a new file where the next would exceed the size, metadata in the
// first; a tensor that is larger than the size has its own.
func TestSplit(t *testing.T) {
	r := changed(t, "tiny", func(*model.Config) {})
	for _, c := range []struct {
		size  int64
		parts int
	}{{1, 24}, {70000, 6}, {1 << 40, 1}} {
		dir := t.TempDir()
		report, err := Write(t.Context(), filepath.Join(dir, "m.gguf"), r, Options{Format: I2S, Keep: true, SplitSize: c.size})
		if err != nil {
			t.Fatal(err)
		}
		if n := max(1, len(report.Parts)); n != c.parts {
			t.Errorf("%d files at %d bytes, want %d", n, c.size, c.parts)
		}
		set, src := open(t, report.Path)
		same(t, src, r, 0)
		for i, f := range set.Parts() {
			var size int64
			for _, x := range f.Tensors {
				size += (x.Size + 31) / 32 * 32
			}
			if size > c.size && len(f.Tensors) > 1 {
				t.Errorf("part %d has %d bytes of tensors", i, size)
			}
			if i > 0 && len(f.KV) != 3 {
				t.Errorf("part %d has the keys %v", i, f.KV)
			}
		}
		if c.parts > 1 { // a destination that is there is kept
			if _, err := Write(t.Context(), filepath.Join(dir, "m.gguf"), r, Options{Format: I2S, Keep: true, SplitSize: c.size}); err == nil || !strings.Contains(err.Error(), "m-00001-of-") {
				t.Error(err)
			}
		}
	}
}

// TestEveryPair writes a model in each form, and each of these again in each form: what arrives is the model.
func TestEveryPair(t *testing.T) {
	for golden, forms := range map[string][]Format{
		"bitnet-2b4t": {HFPacked, HFBF16, HFF32, I2S, Q2, IQ1BN, IQ2BN},
		"llama-bias":  {HFPacked, HFBF16, HFF32},
		"trilm":       {HFBF16, HFF32, F16, BF16, F32},
	} {
		t.Run(golden, func(t *testing.T) {
			set, src := open(t, "../testdata/goldens/"+golden)
			dir := t.TempDir()
			write := func(src Source, config []byte, f Format, name string) (*Report, string) {
				dst := filepath.Join(dir, name)
				if f.IsGGUF() {
					dst += ".gguf"
				}
				r, err := Write(t.Context(), dst, src, Options{Format: f, Keep: true, HFConfig: config})
				if err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				return r, dst
			}
			for _, a := range forms {
				first, path := write(src, set.HFConfig(), a, string(a))
				mid, from := open(t, path)
				for _, b := range forms {
					second, path := write(from, mid.HFConfig(), b, string(a)+"-"+string(b))
					if rounds := len(first.Rounded)+len(second.Rounded) > 0; !rounds || golden == "bitnet-2b4t" {
						_, got := open(t, path)
						same(t, got, src, map[bool]float64{true: 0x1p-21}[rounds])
					}
				}
			}
		})
	}
}

// TestKeepsBlocks: an embedding in blocks of a type that is only read stays as it is.
func TestKeepsBlocks(t *testing.T) {
	r := changed(t, "tiny", func(*model.Config) {})
	dir := t.TempDir()
	if _, err := Write(t.Context(), filepath.Join(dir, "q6.gguf"), r, Options{Format: TQ2, Embedding: gguf.Q6_K}); err != nil {
		t.Fatal(err)
	}
	set, src := open(t, filepath.Join(dir, "q6.gguf"))
	if _, err := Write(t.Context(), filepath.Join(dir, "again.gguf"), src, Options{Format: I2S, Keep: true}); err != nil {
		t.Fatal(err)
	}
	again, _ := open(t, filepath.Join(dir, "again.gguf"))
	const name = "token_embd.weight"
	if string(set.Stored(name)) != string(again.Stored(name)) || again.Type(name) != "q6_k" {
		t.Error("the embedding was decoded and encoded again")
	}
	report, err := Write(t.Context(), filepath.Join(dir, "folder"), src, Options{Format: HFPacked})
	if err != nil || len(report.Rounded) > 0 {
		t.Error(err, report.Rounded)
	}
	text, err := os.ReadFile(filepath.Join(dir, "folder", "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var c struct{ DType string }
	if err := json.Unmarshal(text, &c); err != nil || c.DType != "float32" {
		t.Error(c, err)
	}
}
