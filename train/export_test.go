package train_test

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/convert"
	"github.com/tritlm/trit/data"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/ternary"
	"github.com/tritlm/trit/tokenizer"
	"github.com/tritlm/trit/train"
	"github.com/tritlm/trit/weights"
)

// trained makes a model that has moved away from its initial values.
func trained(t *testing.T, arch, precision string) (*train.Trainer, *data.Vocab, *data.Tokens) {
	t.Helper()
	return trainedAs(t, arch, precision, 128, 256, 30)
}

func trainedAs(t *testing.T, arch, precision string, hidden, intermediate, steps int) (*train.Trainer, *data.Vocab, *data.Tokens) {
	t.Helper()
	pool := par.New(2)
	t.Cleanup(pool.Close)
	text := data.Builtin()
	vocab, err := data.Chars(text)
	if err != nil {
		t.Fatal(err)
	}
	c, err := train.Preset("tiny", arch, precision)
	if err != nil {
		t.Fatal(err)
	}
	c.HiddenSize, c.IntermediateSize = hidden, intermediate
	c.VocabSize = vocab.Size()
	m, err := train.New(c, pool, 1)
	if err != nil {
		t.Fatal(err)
	}
	o := train.DefaultOptions()
	o.BatchSize, o.MaxIters, o.LR = 4, steps, 2e-3
	tr, err := train.NewTrainer(m, o)
	if err != nil {
		t.Fatal(err)
	}
	tokens := data.NewTokens(vocab.EncodeAll(text), vocab.Size())
	for _, err := range tr.Run(context.Background(), tr.Batches(tokens)) {
		if err != nil {
			t.Fatal(err)
		}
	}
	return tr, vocab, tokens
}

func correlation(a, b []float32) float64 {
	var ma, mb, ab, aa, bb float64
	for i := range a {
		ma += float64(a[i]) / float64(len(a))
		mb += float64(b[i]) / float64(len(a))
	}
	for i := range a {
		x, y := float64(a[i])-ma, float64(b[i])-mb
		ab, aa, bb = ab+x*y, aa+x*x, bb+y*y
	}
	return ab / math.Sqrt(aa*bb)
}

func logitsOfTrainer(tr *train.Trainer, ids []int32) []float32 {
	m := tr.Model
	V := m.Config.VocabSize
	s := m.NewState(1, len(ids))
	all := make([]float32, len(ids)*V)
	for i := range ids {
		m.Logits(s, ids, i, all[i*V:(i+1)*V])
	}
	return all
}

// projections are the ternary matrices of a folder as its configuration makes them, by name.
func projections(t *testing.T, dir string) map[string]*ternary.Matrix {
	t.Helper()
	set, err := weights.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	all := map[string]*ternary.Matrix{}
	for _, name := range set.Names() {
		if strings.HasSuffix(name, "_proj.weight") {
			shape := set.Shape(name)
			if set.IsTernary(name) {
				shape = []int{shape[0] * 4, shape[1]} // packed in fours, all widths here are multiples
			}
			m, err := set.Ternary(name, shape[0], shape[1])
			if err != nil {
				t.Fatal(err)
			}
			all[name] = m
		}
	}
	return all
}

func testIDs(V int) []int32 {
	r := rand.New(rand.NewPCG(1, 1))
	ids := make([]int32, 24)
	for i := range ids {
		ids[i] = int32(r.IntN(V))
	}
	return ids
}

// TestExportedModelIsTheTrainedOne: train, export, trit.Open, the same logits. The packed folder holds the very codes of
// training and embeddings in bfloat16; the bf16 folder has masters that quantise to the same codes and scales, and gives the
// same logits to the last bit.
func TestExportedModelIsTheTrainedOne(t *testing.T) {
	for _, arch := range train.Archs {
		for _, precision := range train.Precisions {
			tr, vocab, _ := trained(t, arch, precision)
			ids := testIDs(vocab.Size())
			want := logitsOfTrainer(tr, ids)
			packed := t.TempDir()
			if err := tr.Model.Export(packed, vocab, train.ExportOptions{Format: "hf-packed"}); err != nil {
				t.Fatal(err)
			}
			var first []float32
			for _, format := range train.Formats {
				t.Run(fmt.Sprint(arch, "/", precision, "/", format), func(t *testing.T) {
					dir := t.TempDir()
					if err := tr.Model.Export(dir, vocab, train.ExportOptions{Format: format}); err != nil {
						t.Fatal(err)
					}
					m, err := trit.Open(dir, nil)
					if err != nil {
						t.Fatal(err)
					}
					defer m.Close()
					if m.Config().Ternary() != (precision == "ternary") {
						t.Errorf("Ternary is %v", m.Config().Ternary())
					}
					cache, err := m.Engine().NewCache(0)
					if err != nil {
						t.Fatal(err)
					}
					defer cache.Close()
					got := make([]float32, len(want))
					if err := m.Engine().Forward(context.Background(), []model.Input{{Cache: cache, Tokens: ids, Logits: got}}); err != nil {
						t.Fatal(err)
					}
					if first == nil {
						first = got
					}
					if !slices.Equal(got, first) {
						t.Errorf("other logits than those of %s", train.Formats[0])
					}
					if c := correlation(got, want); !(c >= 0.9999) {
						t.Errorf("correlation with the trainer's logits %.6f, want 0.9999", c)
					} else {
						t.Logf("correlation %.7f", c)
					}
					same := func(a, b *ternary.Matrix) bool {
						return slices.Equal(a.Codes(nil), b.Codes(nil)) && slices.Equal(a.Scale, b.Scale)
					}
					if a, b := projections(t, dir), projections(t, packed); precision == "ternary" && (len(a) < 12 || !maps.EqualFunc(a, b, same)) {
						t.Error("other codes or scales than those of training")
					}
					if s := "the fox"; m.Tokenizer().Decode(vocab.EncodeAll(s)) != s {
						t.Errorf("the tokenizer does not give %q back", s)
					}
				})
			}
		}
	}
}

// TestInitContinuesFromMasters: a bf16 folder comes back with the same logits and goes on training.
func TestInitContinuesFromMasters(t *testing.T) {
	for _, arch := range train.Archs {
		for _, precision := range train.Precisions {
			tr, vocab, tokens := trained(t, arch, precision)
			dir := t.TempDir()
			if err := tr.Model.Export(dir, vocab, train.ExportOptions{Format: "hf-bf16"}); err != nil {
				t.Fatal(err)
			}
			m, v, err := train.Init(dir, "", 0, tr.Model.Pool())
			if err != nil {
				t.Fatal(err)
			}
			if m.Config != tr.Model.Config || v.Size() != vocab.Size() {
				t.Errorf("%s %s: configuration %+v, was %+v", arch, precision, m.Config, tr.Model.Config)
			}
			again, err := train.NewTrainer(m, tr.Options)
			if err != nil {
				t.Fatal(err)
			}
			ids := testIDs(vocab.Size())
			if c := correlation(logitsOfTrainer(again, ids), logitsOfTrainer(tr, ids)); c < 0.9999 {
				t.Errorf("%s %s: correlation %.6f", arch, precision, c)
			}
			for s, err := range again.Run(context.Background(), again.Batches(tokens)) {
				if err != nil {
					t.Fatal(err)
				}
				if s.Loss > 3.5 {
					t.Errorf("%s %s: continued at loss %.3f", arch, precision, s.Loss)
				}
				break
			}
			if precision == "ternary" {
				packed := t.TempDir()
				if err := tr.Model.Export(packed, vocab, train.ExportOptions{Format: "hf-packed"}); err != nil {
					t.Fatal(err)
				}
				m, _, err := train.Init(packed, "", 0, tr.Model.Pool())
				if err != nil {
					t.Fatal(err)
				}
				if again, err = train.NewTrainer(m, tr.Options); err != nil {
					t.Fatal(err)
				}
				if c := correlation(logitsOfTrainer(again, ids), logitsOfTrainer(tr, ids)); c < 0.9999 {
					t.Errorf("%s: correlation %.6f from packed weights", arch, c)
				}
			}
		}
	}
}

// engineLogits are the logits of every one of ids, computed in pieces of n tokens.
func engineLogits(t *testing.T, m *trit.Model, ids []int32, n int) []float32 {
	t.Helper()
	cache, err := m.Engine().NewCache(0)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	V := m.Config().VocabSize
	all := make([]float32, len(ids)*V)
	for at := 0; at < len(ids); at += n {
		part := ids[at:min(at+n, len(ids))]
		if err := m.Engine().Forward(context.Background(), []model.Input{{Cache: cache, Tokens: part, Logits: all[at*V : (at+len(part))*V]}}); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// TestAdapterInTheEngine: train adapters, export them, trit.Open with them: the trainer's logits, the same bits for any cut
// and number of threads, and other ones than those of the base alone.
func TestAdapterInTheEngine(t *testing.T) {
	for _, arch := range train.Archs {
		for _, targets := range [][]string{nil, {"q_proj", "up_proj"}} {
			tr, vocab, tokens := trained(t, arch, "ternary")
			base, dir := t.TempDir(), t.TempDir()
			if err := tr.Model.Export(base, vocab, train.ExportOptions{Format: "hf-packed"}); err != nil {
				t.Fatal(err)
			}
			m, _, err := train.InitLora(base, train.Lora{Rank: 5, Targets: targets}, 0, 1, tr.Model.Pool())
			if err != nil {
				t.Fatal(err)
			}
			o := tr.Options
			o.LR, o.MaxIters = 2e-2, 15
			low, err := train.NewTrainer(m, o)
			if err != nil {
				t.Fatal(err)
			}
			for _, err := range low.Run(context.Background(), low.Batches(tokens)) {
				if err != nil {
					t.Fatal(err)
				}
			}
			if err := m.ExportAdapter(dir); err != nil {
				t.Fatal(err)
			}
			ids := testIDs(vocab.Size())
			want := logitsOfTrainer(low, ids)
			with, err := trit.Open(base, &trit.Options{Adapter: dir, Threads: 2})
			if err != nil {
				t.Fatal(err)
			}
			defer with.Close()
			got := engineLogits(t, with, ids, len(ids))
			if c := correlation(got, want); !(c >= 0.9999) {
				t.Errorf("%s %v: correlation with the trainer's logits %.6f, want 0.9999", arch, targets, c)
			} else {
				t.Logf("%s %v: correlation %.7f", arch, targets, c)
			}
			one, err := trit.Open(base, &trit.Options{Adapter: dir, Threads: 1})
			if err != nil {
				t.Fatal(err)
			}
			defer one.Close()
			if !slices.Equal(engineLogits(t, one, ids, 1), got) {
				t.Errorf("%s %v: token by token on one thread gives other bits", arch, targets)
			}
			alone, err := trit.Open(base, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer alone.Close()
			if c := correlation(engineLogits(t, alone, ids, len(ids)), want); c > 0.999 {
				t.Errorf("%s %v: the adapters change nothing (correlation %.6f without them)", arch, targets, c)
			}
		}
	}
}

// TestAdapterThatDoesNotFit: what is wrong with an adapter is one error that names it.
func TestAdapterThatDoesNotFit(t *testing.T) {
	tr, vocab, _ := trained(t, "llama", "ternary")
	base, other := t.TempDir(), t.TempDir()
	if err := tr.Model.Export(base, vocab, train.ExportOptions{Format: "hf-packed"}); err != nil {
		t.Fatal(err)
	}
	c := tr.Model.Config
	c.IntermediateSize, c.NumLayers = 192, 3
	big, err := train.New(c, tr.Model.Pool(), 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := big.Export(other, vocab, train.ExportOptions{Format: "hf-packed"}); err != nil {
		t.Fatal(err)
	}
	adapter := func(base string, targets ...string) string {
		m, _, err := train.InitLora(base, train.Lora{Rank: 2, Targets: targets}, 0, 1, tr.Model.Pool())
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		if err := m.ExportAdapter(dir); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	edit := func(file, from, to string) string {
		dir := adapter(base, "q_proj")
		path := filepath.Join(dir, file)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(strings.Replace(string(b), from, to, 1)), 0o644); err != nil {
			t.Fatal(err)
		}
		return dir
	}
	cut := adapter(base, "q_proj")
	if err := os.Truncate(filepath.Join(cut, "adapter_model.safetensors"), 300); err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string]struct{ dir, want string }{
		"a folder without an adapter": {t.TempDir(), "adapter_config.json"},
		"a model's width":             {adapter(other, "up_proj"), "192"},
		"a layer too many":            {adapter(other, "q_proj"), "model.layers.2.self_attn.q_proj"},
		"another method":              {edit("adapter_config.json", `"LORA"`, `"IA3"`), "IA3"},
		"rank 0":                      {edit("adapter_config.json", `"r": 2`, `"r": 0`), "r is 0"},
		"another rank":                {edit("adapter_config.json", `"r": 2`, `"r": 3`), "r is 3"},
		"dora":                        {edit("adapter_config.json", `"use_dora": false`, `"use_dora": true`), "use_dora"},
		"an unknown tensor":           {edit("adapter_model.safetensors", "lora_A", "lora_C"), "lora_C"},
		"a cut file":                  {cut, "adapter_model.safetensors"},
		"not JSON":                    {edit("adapter_config.json", "{", "("), "adapter_config.json"},
	} {
		m, err := trit.Open(base, &trit.Options{Adapter: bad.dir})
		if err == nil {
			m.Close()
			t.Errorf("%s: no error", name)
		} else if !strings.Contains(err.Error(), bad.want) || !strings.Contains(err.Error(), bad.dir) {
			t.Errorf("%s: %v; want %q and the folder", name, err, bad.want)
		}
	}
}

// TestTransformersReadsExports compares with Hugging Face transformers, run by the Python that TRIT_TEST_PYTHON names.
func TestTransformersReadsExports(t *testing.T) {
	python := os.Getenv("TRIT_TEST_PYTHON")
	if python == "" {
		t.Skip("TRIT_TEST_PYTHON names no Python with torch and transformers")
	}
	const sentence = "the fox\nruns, twice."
	root := t.TempDir()
	type export struct{ arch, precision, format string }
	var exports []export
	want := map[export][]float32{}
	var args struct {
		Dirs []string
		IDs  []int32
		Text string
	}
	args.Text = sentence
	var vocab *data.Vocab
	for _, arch := range []string{"llama", "bitnet"} {
		for _, precision := range train.Precisions {
			var tr *train.Trainer
			tr, vocab, _ = trained(t, arch, precision)
			args.IDs = testIDs(vocab.Size())
			for _, format := range train.Formats {
				e := export{arch, precision, format}
				dir := filepath.Join(root, strings.Join([]string{arch, precision, format}, "-"))
				if err := tr.Model.Export(dir, vocab, train.ExportOptions{Format: format}); err != nil {
					t.Fatal(err)
				}
				exports, args.Dirs = append(exports, e), append(args.Dirs, dir)
				want[e] = logitsOfTrainer(tr, args.IDs)
			}
		}
	}
	script := filepath.Join(root, "logits.py")
	if err := os.WriteFile(script, []byte(hfLogits), 0o644); err != nil {
		t.Fatal(err)
	}
	in, _ := json.Marshal(args)
	cmd := exec.Command(python, script, string(in))
	cmd.Env = append(os.Environ(), "TORCHDYNAMO_DISABLE=1") // eager: the same arithmetic without compiling it
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.String())
	}
	var results []struct {
		Logits []float32
		IDs    []int32
		Text   string
		Linear string
	}
	at := strings.LastIndex(string(out), "[{\"Logits")
	if at < 0 {
		t.Fatalf("no result in %.300s", out)
	}
	if err := json.Unmarshal(out[at:], &results); err != nil {
		t.Fatal(err)
	}
	for i, e := range exports {
		res := results[i]
		if e.precision == "ternary" && res.Linear != "AutoBitLinear" {
			t.Errorf("%v: transformers made the projections %s", e, res.Linear)
		}
		c := correlation(res.Logits, want[e])
		t.Logf("%v: correlation %.7f, %s", e, c, res.Linear)
		if !(c >= 0.9999) {
			t.Errorf("%v: correlation with transformers %.6f, want 0.9999", e, c)
		}
		if w := vocab.EncodeAll(sentence); fmt.Sprint(res.IDs) != fmt.Sprint(w) || res.Text != sentence {
			t.Errorf("%v: transformers encodes %v and decodes %q, trit encodes %v", e, res.IDs, res.Text, w)
		}
	}
}

// TestLlamaCppRunsGGUF: a llama trained here, as GGUF, continues prompts in llama.cpp with trit's tokens. llama.cpp rounds activations
// to int8 per 256 values and not per token, so where two tokens are nearly equal it may choose the other one
// (crosscheck.py counts those). TRIT_TEST_PYTHON names a Python with llama-cpp-python.
func TestLlamaCppRunsGGUF(t *testing.T) {
	python := os.Getenv("TRIT_TEST_PYTHON")
	if python == "" || exec.Command(python, "-c", "import llama_cpp").Run() != nil {
		t.Skip("TRIT_TEST_PYTHON names no Python with llama-cpp-python")
	}
	tr, vocab, _ := trainedAs(t, "llama", "ternary", 256, 512, 60)
	dir := t.TempDir()
	if err := tr.Model.Export(dir, vocab, train.ExportOptions{Format: "hf-packed"}); err != nil {
		t.Fatal(err)
	}
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
	for _, format := range []convert.Format{convert.TQ1, convert.TQ2} {
		o := convert.Options{Format: format}
		if o.TokenizerKV, err = tok.GGUF(); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "m.gguf")
		if _, err := convert.Write(context.Background(), file, convert.FromSet(set, cfg), o); err != nil {
			t.Fatal(err)
		}
		m, err := trit.Open(file, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer m.Close()
		type continued struct {
			Prompt []int32 `json:"prompt"`
			Tokens []int32 `json:"tokens"`
		}
		var expect []continued
		for _, text := range []string{"the fox", "a crow sat"} {
			c := continued{Prompt: vocab.EncodeAll(text)}
			for p, err := range m.NewSession().Generate(context.Background(), text, trit.GenerateOptions{MaxTokens: 16}) {
				if err != nil {
					t.Fatal(err)
				}
				if p.Finish == "" || p.Text != "" {
					c.Tokens = append(c.Tokens, p.Token)
				}
			}
			expect = append(expect, c)
		}
		j, _ := json.Marshal(expect)
		want := filepath.Join(t.TempDir(), "want.json")
		if err := os.WriteFile(want, j, 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(python, "../tools/reference/crosscheck.py", file, "--expect", want, "--threads", "2").CombinedOutput()
		t.Logf("%s: %s", format, out)
		if err != nil {
			t.Errorf("%s: %v", format, err)
		}
	}
}

const hfLogits = `
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
arg = json.loads(sys.argv[1])
torch.set_num_threads(1)
res = []
for dir in arg["Dirs"]:
    m = AutoModelForCausalLM.from_pretrained(dir, dtype=torch.float32).eval()
    torch.nn.Module.float(m)  # packed weights are unpacked to the dtype of the file
    with torch.no_grad():
        y = m(torch.tensor([arg["IDs"]])).logits[0].flatten().tolist()
    t = AutoTokenizer.from_pretrained(dir)
    ids = t.encode(arg["Text"])
    res.append({"Logits": y, "IDs": ids, "Text": t.decode(ids), "Linear": type(m.model.layers[0].self_attn.q_proj).__name__})
print(json.dumps(res))
`
