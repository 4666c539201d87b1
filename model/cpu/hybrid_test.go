package cpu_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/cpu"
	"github.com/tritlm/trit/model/enginetest"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/safetensors"
	"github.com/tritlm/trit/ternary"
	"github.com/tritlm/trit/weights"
)

// hybrids are small models of experts and of recurrent layers, with what transformers computes of them
// (tools/reference/hybrids.py).
const hybrids = "../../testdata/hybrids"

func hybridDirs(t testing.TB) []string {
	dirs, err := filepath.Glob(filepath.Join(hybrids, "*", "reference.f32.safetensors"))
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no models in %s: %v", hybrids, err)
	}
	for i := range dirs {
		dirs[i] = filepath.Dir(dirs[i])
	}
	return dirs
}

// TestHybridGoldens compares logits and 64 greedy tokens with transformers in float32, however the prompt is cut.
func TestHybridGoldens(t *testing.T) {
	for _, dir := range hybridDirs(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			ref := readReference(t, filepath.Join(dir, "reference.f32.safetensors"))
			e := loadCPU(t, dir, 2)
			for p := range ref.prompts {
				prompt := fmt.Sprintf("prompt.%d.", p)
				ids := ref.ints[prompt+"ids"]
				whole := run(t, e, ids)
				compareLogits(t, prompt, whole, ref)
				for _, chunk := range []int{1, 5, 64} {
					if got := runChunks(t, e, ids, chunk); !slices.EqualFunc(got, whole, sameBits) {
						t.Errorf("%schunks of %d: other logits than in one piece", prompt, chunk)
					}
				}
				want := ref.ints[prompt+"greedy"]
				if got := greedy(t, e, ids, len(want), len(ids)); !slices.Equal(got, want) {
					t.Errorf("%sgreedy: %v, want %v", prompt, got, want)
				}
			}
		})
	}
}

func sameBits(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) }

func compareLogits(t *testing.T, prompt string, logits []float32, ref *reference) {
	t.Helper()
	want := ref.tensors[prompt+"logits"]
	positions := ref.ints[prompt+"positions"]
	V := len(want) / len(positions)
	for i, at := range positions {
		g, w := logits[int(at)*V:][:V], want[i*V:][:V]
		diff, span := maxDiff(g, w)
		if r := correlation(g, w); !(r >= 0.99999) || argmax(g) != argmax(w) || diff > 1e-4*span {
			t.Errorf("%sposition %d: correlation %.7f, largest difference %g of a range of %g, best %d, want %d", prompt, at, r, diff, span, argmax(g), argmax(w))
		}
	}
}

// runChunks gives the logits of all tokens, so many of which are read at a time.
func runChunks(t testing.TB, e model.Engine, ids []int32, chunk int) []float32 {
	t.Helper()
	V := e.Config().VocabSize
	logits := make([]float32, len(ids)*V)
	cache, err := e.NewCache(0)
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	for at := 0; at < len(ids); at += chunk {
		n := min(chunk, len(ids)-at)
		if err := e.Forward(context.Background(), []model.Input{{Cache: cache, Tokens: ids[at : at+n], Logits: logits[at*V : (at+n)*V]}}); err != nil {
			t.Fatal(err)
		}
	}
	return logits
}

// TestHybridSameText: the same bits on every tier and any number of threads.
func TestHybridSameText(t *testing.T) {
	defer kernel.SetTier(kernel.Tier())
	for _, dir := range hybridDirs(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) {
			ref := readReference(t, filepath.Join(dir, "reference.f32.safetensors"))
			ids := ref.ints["prompt.2.ids"]
			var want []float32
			for _, tier := range kernel.Tiers() {
				if err := kernel.SetTier(tier); err != nil {
					t.Fatal(err)
				}
				for _, threads := range []int{1, 3} {
					got := run(t, loadCPU(t, dir, threads), ids)
					if want == nil {
						want = got
					}
					if !slices.EqualFunc(got, want, sameBits) {
						t.Errorf("%s, %d threads: other logits", tier, threads)
					}
				}
			}
		})
	}
}

// TestHybridEngine: batches, forks, cuts.
func TestHybridEngine(t *testing.T) {
	for _, dir := range hybridDirs(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) { enginetest.Run(t, cpu.Backend{Threads: 3}, dir) })
	}
}

// TestExpertsGGUF: a folder and the GGUF file that llama.cpp's converter makes of it, with one tensor for all experts of a layer,
// compute the same bits.
func TestExpertsGGUF(t *testing.T) {
	dir := filepath.Join(hybrids, "qwen3-moe")
	set, err := weights.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	cfg, err := family.Read(set)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "m.gguf")
	kv := shapeKeys("qwen3moe", cfg)
	for key, v := range map[string]any{"expert_count": uint32(8), "expert_used_count": uint32(3), "expert_feed_forward_length": uint32(32)} {
		kv.Set("qwen3moe."+key, v)
	}
	list, data := ggufTensors(t, "qwen3moe", cfg, func(x model.Tensor) (gguf.Type, []byte) {
		if x.Kind == model.NormWeight || strings.HasSuffix(x.Name, "mlp.gate.weight") {
			return gguf.F32, widened(set.Stored(x.Name))
		}
		return gguf.BF16, set.Stored(x.Name)
	})
	writeGGUF(t, path, kv, list, data)
	ids := readReference(t, filepath.Join(dir, "reference.f32.safetensors")).ints["prompt.2.ids"]
	if a, b := run(t, loadCPU(t, dir, 2), ids), run(t, loadCPU(t, path, 2), ids); !slices.EqualFunc(a, b, sameBits) {
		t.Error("the GGUF file computes other logits than the folder")
	}
}

// widened is bfloat16 as float32.
func widened(b []byte) []byte {
	w := make([]byte, 2*len(b))
	for i := 0; i < len(b); i += 2 {
		w[2*i+2], w[2*i+3] = b[i], b[i+1]
	}
	return w
}

// shapeKeys are the keys that every architecture has.
func shapeKeys(arch string, c *model.Config) gguf.KV {
	s := family.ShapeOf(c)
	kv := gguf.KV{{Key: "general.architecture", Value: arch}}
	for key, v := range map[string]any{
		"block_count": uint32(s.NumLayers), "context_length": uint32(s.MaxContext), "embedding_length": uint32(s.HiddenSize), "feed_forward_length": uint32(96),
		"attention.head_count": uint32(s.NumHeads), "attention.head_count_kv": uint32(s.NumKVHeads), "attention.key_length": uint32(s.HeadDim),
		"attention.layer_norm_rms_epsilon": s.NormEps, "rope.freq_base": float32(s.RopeTheta),
	} {
		kv.Set(arch+"."+key, v)
	}
	return kv
}

// ggufTensors lists a model's tensors as a GGUF file has them, those of experts of a layer as one.
func ggufTensors(t testing.TB, arch string, c *model.Config, of func(x model.Tensor) (gguf.Type, []byte)) (list []gguf.Tensor, data map[string][]byte) {
	t.Helper()
	data = map[string][]byte{}
	for _, x := range c.Tensors() {
		name, ok := weights.GGUFName(arch, x.Name)
		if !ok {
			t.Fatalf("%s has no name", x.Name)
		}
		typ, b := of(x)
		name, _, expert := strings.Cut(name, "[")
		if expert && data[name] != nil {
			data[name] = append(data[name], b...)
			list[slices.IndexFunc(list, func(x gguf.Tensor) bool { return x.Name == name })].Shape[0]++
			continue
		}
		shape := []int{x.Rows, x.Cols}
		switch {
		case expert:
			shape = []int{1, x.Rows, x.Cols}
		case x.Kind == model.NormWeight || x.Kind == model.Bias:
			shape = shape[1:]
		}
		data[name] = slices.Clone(b)
		list = append(list, gguf.Tensor{Name: name, Type: typ, Shape: shape})
	}
	return list, data
}

// mapleConfig is Maple small: two layers with a window of 20 tokens in front of one's own, one that sees all.
func mapleConfig() *model.Config {
	s := family.Shape{
		HiddenSize: 256, IntermediateSize: 512, NumLayers: 3, NumHeads: 4, NumKVHeads: 2, HeadDim: 64, VocabSize: 320, MaxContext: 512,
		NormEps: 1e-6, RopeTheta: 10000, Activation: part.SiLU,
	}
	x := family.ExpertShape{Experts: 12, TopK: 4, IntermediateSize: 256, Renormalise: true, Clamp: 0.5}
	return family.Maple(s, x, 32, []bool{true, false, true}, 20)
}

// writeMaple writes it with its experts in format f.
func writeMaple(t testing.TB, f ternary.Format, typ gguf.Type) string {
	t.Helper()
	c := mapleConfig()
	kv := shapeKeys("maple", c)
	kv.Set("maple.expert_count", uint32(12))
	kv.Set("maple.expert_used_count", uint32(4))
	kv.Set("maple.expert_feed_forward_length", uint32(256))
	kv.Set("maple.attention.sliding_window", uint32(20))
	kv.Set("maple.attention.sliding_window_pattern", []bool{true, false, true})
	kv.Set("maple.rope.dimension_count", uint32(32))
	kv.Set("maple.swiglu_clamp_exp", []float32{0.5, 0.5, 0.5})
	w := weightOnly{}
	list, data := ggufTensors(t, "maple", c, func(x model.Tensor) (gguf.Type, []byte) {
		rng := seeded(x.Name)
		floats := func(scale, add float64) []byte {
			var b []byte
			for range x.Rows * x.Cols {
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(add+scale*rng.NormFloat64())))
			}
			return b
		}
		switch {
		case x.Kind == model.NormWeight:
			return gguf.F32, floats(0.2, 1)
		case x.Kind == model.Table || x.Projection.Role == part.RoleRouter || x.Projection.Name == model.HeadName:
			return gguf.F32, floats(0.1, 0)
		}
		g, err := ternary.UnpackGroups(w.codes(rng, x.Rows, x.Cols), ternary.PQ2_0, x.Rows, x.Cols)
		if err != nil {
			t.Fatal(err)
		}
		b, err := g.Pack(f)
		if err != nil {
			t.Fatal(err)
		}
		return typ, b
	})
	path := filepath.Join(t.TempDir(), "maple.gguf")
	writeGGUF(t, path, kv, list, data)
	return path
}

// TestMapleIsItsDefinition compares Maple in each ternary format with plain loops in float64.
func TestMapleIsItsDefinition(t *testing.T) {
	ids := weightOnly{cfg: mapleConfig()}.ids(40) // longer than the window
	var text string
	for _, form := range []struct {
		f   ternary.Format
		typ gguf.Type
	}{{ternary.TQ1_0, gguf.TQ1_0}, {ternary.TQ2_0, gguf.TQ2_0}, {ternary.PQ2_0, gguf.PQ2_0}, {ternary.PTQ1_0, gguf.PTQ1_0}, {ternary.Q2_0, gguf.Q2_0}} {
		path := writeMaple(t, form.f, form.typ)
		e := loadCPU(t, path, 2)
		if got := len(e.Config().Layers[0].FeedForward.(*part.Experts).Experts); got != 12 || !e.Config().WeightOnly() {
			t.Fatalf("%v: %d experts, of weights alone: %v", form.typ, got, e.Config().WeightOnly())
		}
		for i, want := range []int{21, 0, 21} { // the border is inclusive: 20 and the token's own
			if a := e.Config().Layers[i].Mixer.(*part.Attention); a.Window != want || (a.Rope != nil) != (want > 0) {
				t.Errorf("layer %d: a window of %d, want %d; positions %v", i, a.Window, want, a.Rope)
			}
		}
		if form.f == ternary.TQ2_0 {
			set, err := weights.Open(path, nil)
			if err != nil {
				t.Fatal(err)
			}
			defer set.Close()
			compareDefinition(t, e, define(t, e.Config(), set), ids)
		}
		if got := fmt.Sprint(greedy(t, e, ids, 48, 7)); text == "" {
			text = got
		} else if got != text {
			t.Errorf("%v writes another text: %s, want %s", form.typ, got, text)
		}
	}
}

// TestMapleEngine: batches, forks, cuts.
func TestMapleEngine(t *testing.T) {
	enginetest.Run(t, cpu.Backend{Threads: 3}, writeMaple(t, ternary.TQ2_0, gguf.TQ2_0))
}

// TestExpertsRefused: files whose keys and tensors disagree about experts are refused by name.
func TestExpertsRefused(t *testing.T) {
	const shared = "../../../shared/cases/families/maple.gguf"
	if _, err := os.Stat(shared); err == nil {
		set, err := weights.Open(shared, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer set.Close()
		if _, err := family.Read(set); err == nil || !strings.Contains(err.Error(), "blk.0.ffn_gate_inp.weight") {
			t.Errorf("a file of experts without a router: %v", err)
		}
	}
	for key, value := range map[string]any{
		"expert_used_count": uint32(13), "expert_count": uint32(0), "expert_gating_func": uint32(2), "expert_weights_norm": false,
		"attention.sliding_window_pattern": []bool{true}, "swiglu_clamp_exp": []float32{7, 8, 7}, "expert_group_count": uint32(4),
		"rope.dimension_count": uint32(65), "attention.sliding_window": uint32(0),
	} {
		path := writeMaple(t, ternary.TQ2_0, gguf.TQ2_0)
		set, err := weights.Open(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		set.GGUF().KV.Set("maple."+key, value)
		_, err = family.Read(set)
		set.Close()
		word := key
		if key == "rope.dimension_count" || key == "attention.sliding_window" {
			word = map[string]string{"rope.dimension_count": "rotary positions", "attention.sliding_window": "sliding_window"}[key]
		}
		if err == nil || !strings.Contains(err.Error(), word) {
			t.Errorf("%s = %v: %v", key, value, err)
		}
	}
}

// tiledOrder puts value heads as GGUF has them: place i holds head (i mod keyHeads)·group + i div keyHeads.
func tiledOrder(keyHeads, valueHeads int) []int {
	order := make([]int, valueHeads)
	for i := range order {
		order[i] = i%keyHeads*(valueHeads/keyHeads) + i/keyHeads
	}
	return order
}

// moveRows gives rows of size bytes from first on, in blocks of n rows, another order.
func moveRows(b []byte, size, first, n int, order []int) []byte {
	out := slices.Clone(b)
	for i, from := range order {
		copy(out[(first+i*n)*size:][:n*size], b[(first+from*n)*size:][:n*size])
	}
	return out
}

// moveColumns does it for columns of two bytes.
func moveColumns(b []byte, rows, cols, n int, order []int) []byte {
	out := slices.Clone(b)
	for r := range rows {
		copy(out[2*r*cols:], moveRows(b[2*r*cols:][:2*cols], 2, 0, n, order))
	}
	return out
}

// writeQwen35 writes a golden folder as the GGUF file that llama.cpp's converter makes of it, with a block that only guesses behind it.
func writeQwen35(t testing.TB, dir string) string {
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
	d := cfg.Layers[0].Mixer.(*part.DeltaNet)
	order := tiledOrder(d.KeyHeads, d.ValueHeads)
	arch := cfg.Family
	kv := shapeKeys(arch, cfg)
	if arch == "qwen35moe" {
		for key, v := range map[string]any{"expert_count": uint32(8), "expert_used_count": uint32(2), "expert_feed_forward_length": uint32(32), "expert_shared_feed_forward_length": uint32(48)} {
			kv.Set("qwen35moe."+key, v)
		}
	}
	interval := slices.IndexFunc(cfg.Layers, func(y part.Layer) bool { _, ok := y.Mixer.(*part.Attention); return ok }) + 1
	for key, v := range map[string]any{
		"block_count": uint32(len(cfg.Layers) + 1), "nextn_predict_layers": uint32(1), "full_attention_interval": uint32(interval),
		"ssm.conv_kernel": uint32(d.Kernel), "ssm.state_size": uint32(d.KeyDim), "ssm.group_count": uint32(d.KeyHeads),
		"ssm.time_step_rank": uint32(d.ValueHeads), "ssm.inner_size": uint32(d.ValueHeads * d.ValueDim), "rope.dimension_count": uint32(8),
		"rope.dimension_sections": []int32{2, 1, 1, 0},
	} {
		kv.Set(arch+"."+key, v)
	}
	f32 := func(b []byte, f func(x float32) float32) []byte {
		b = widened(b)
		for i := 0; i < len(b); i += 4 {
			binary.LittleEndian.PutUint32(b[i:], math.Float32bits(f(math.Float32frombits(binary.LittleEndian.Uint32(b[i:])))))
		}
		return b
	}
	same := func(x float32) float32 { return x }
	list, data := ggufTensors(t, arch, cfg, func(x model.Tensor) (gguf.Type, []byte) {
		b := set.Stored(x.Name)
		channels := 2 * d.KeyHeads * d.KeyDim
		switch name := x.Name[strings.LastIndex(strings.TrimSuffix(x.Name, ".weight"), ".")+1:]; {
		case strings.HasSuffix(x.Name, "linear_attn.norm.weight"):
			return gguf.F32, f32(b, same)
		case x.Kind == model.NormWeight:
			return gguf.F32, f32(b, func(v float32) float32 { return v + 1 })
		case name == "A_log":
			return gguf.F32, f32(moveRows(b, 2, 0, 1, order), func(v float32) float32 { return -float32(math.Exp(float64(v))) })
		case name == "dt_bias":
			return gguf.F32, f32(moveRows(b, 2, 0, 1, order), same)
		case name == "conv1d.weight":
			return gguf.F32, f32(moveRows(b, 2*d.Kernel, channels, d.ValueDim, order), same)
		case name == "in_proj_qkv.weight":
			return gguf.BF16, moveRows(b, 2*x.Cols, channels, d.ValueDim, order)
		case name == "in_proj_z.weight":
			return gguf.BF16, moveRows(b, 2*x.Cols, 0, d.ValueDim, order)
		case name == "in_proj_a.weight" || name == "in_proj_b.weight":
			return gguf.BF16, moveRows(b, 2*x.Cols, 0, 1, order)
		case name == "out_proj.weight":
			return gguf.BF16, moveColumns(b, x.Rows, x.Cols, d.ValueDim, order)
		}
		return gguf.BF16, b
	})
	for i := range list { // vectors of a part
		if n := list[i].Name; strings.HasSuffix(n, "ssm_a") || strings.HasSuffix(n, "ssm_dt.bias") || strings.HasSuffix(n, "inp_shexp.weight") {
			list[i].Shape = list[i].Shape[1:]
		}
	}
	guess := fmt.Sprintf("blk.%d.nextn.eh_proj.weight", len(cfg.Layers))
	list = append(list, gguf.Tensor{Name: guess, Type: gguf.F32, Shape: []int{2, 2}})
	data[guess] = make([]byte, 16)
	path := filepath.Join(t.TempDir(), "qwen35.gguf")
	writeGGUF(t, path, kv, list, data)
	return path
}

// TestQwen35GGUF: a folder and its GGUF file compute the same bits, although the file has its value heads in another order.
func TestQwen35GGUF(t *testing.T) {
	for _, name := range []string{"qwen3.5", "qwen3.5-tied", "qwen3.5-moe"} {
		dir := filepath.Join(hybrids, name)
		ids := readReference(t, filepath.Join(dir, "reference.f32.safetensors")).ints["prompt.2.ids"]
		if a, b := run(t, loadCPU(t, dir, 2), ids), run(t, loadCPU(t, writeQwen35(t, dir), 2), ids); !slices.EqualFunc(a, b, sameBits) {
			diff, span := maxDiff(b, a)
			t.Errorf("%s: the GGUF file computes other logits than the folder: by %g of %g", name, diff, span)
		}
	}
}

// bonsai27 is the form of Bonsai-27B small, and of Bonsai-2-27B where it is rotated: a hybrid whose matrices are ternary, with the
// gates of its recurrent layers in floats.
func bonsai27(t testing.TB, rotated bool) string {
	t.Helper()
	s := family.Shape{
		HiddenSize: 256, IntermediateSize: 512, NumLayers: 4, NumHeads: 4, NumKVHeads: 2, HeadDim: 64, VocabSize: 320, MaxContext: 512,
		NormEps: 1e-6, RopeTheta: 10000, Activation: part.SiLU,
	}
	delta := family.DeltaShape{KeyHeads: 2, ValueHeads: 4, KeyDim: 64, ValueDim: 64, Kernel: 4}
	c := family.Qwen35(s, delta, 16, []bool{false, false, true, false}, true)
	kv := shapeKeys("qwen35", c)
	for key, v := range map[string]any{
		"attention.recurrent_layers": []bool{true, true, false, true}, "ssm.conv_kernel": uint32(4), "ssm.state_size": uint32(64), "ssm.group_count": uint32(2),
		"ssm.time_step_rank": uint32(4), "ssm.inner_size": uint32(256), "rope.dimension_count": uint32(16), "feed_forward_length": uint32(512),
	} {
		kv.Set("qwen35."+key, v)
	}
	w := weightOnly{arch: "qwen35", cfg: c}
	var folded []string
	list, data := ggufTensors(t, "qwen35", c, func(x model.Tensor) (gguf.Type, []byte) {
		rng := seeded(x.Name)
		floats := func(scale, add float64) []byte {
			var b []byte
			for range x.Rows * x.Cols {
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(float32(add+scale*rng.NormFloat64())))
			}
			return b
		}
		name, _ := weights.GGUFName("qwen35", x.Name)
		switch {
		case strings.HasSuffix(name, "ssm_a"):
			return gguf.F32, floats(0.05, -0.5)
		case strings.HasSuffix(name, "_norm.weight"), strings.HasSuffix(name, "ssm_dt.bias"):
			return gguf.F32, floats(0.2, 1)
		case strings.HasSuffix(name, "ssm_conv1d.weight"):
			return gguf.F32, floats(0.4, 0)
		case strings.HasSuffix(name, "ssm_alpha.weight"), strings.HasSuffix(name, "ssm_beta.weight"):
			return gguf.F32, floats(0.1, 0)
		}
		if x.Kind == model.Matrix {
			folded = append(folded, name)
		}
		return gguf.PQ2_0, w.codes(rng, x.Rows, x.Cols)
	})
	for i := range list {
		if strings.HasSuffix(list[i].Name, "ssm_a") || strings.HasSuffix(list[i].Name, "ssm_dt.bias") {
			list[i].Shape = list[i].Shape[1:]
		}
	}
	if rotated {
		kv = append(kv, w.rotation("explicit")...)
		kv.Set("prism.hadamard.weight_names", folded)
	}
	path := filepath.Join(t.TempDir(), "bonsai.gguf")
	writeGGUF(t, path, kv, list, data)
	return path
}

// TestBonsai27IsItsDefinition compares the form of Bonsai-27B, plain and rotated, with plain loops in float64.
func TestBonsai27IsItsDefinition(t *testing.T) {
	for _, rotated := range []bool{false, true} {
		path := bonsai27(t, rotated)
		e := loadCPU(t, path, 2)
		c := e.Config()
		if d := c.Layers[0].Mixer.(*part.DeltaNet); d.OutGrouped != rotated || (d.Out.Rotation != nil) != rotated || d.Alpha.Arithmetic != part.Dense || d.QKV.Arithmetic != part.WeightOnly {
			t.Errorf("rotated %v: grouped %v, rotation %v, alpha %v, qkv %v", rotated, d.OutGrouped, d.Out.Rotation, d.Alpha.Arithmetic, d.QKV.Arithmetic)
		}
		set, err := weights.Open(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer set.Close()
		compareDefinition(t, e, define(t, c, set), weightOnly{cfg: c}.ids(9))
	}
}

// TestBonsai27Engine: batches, forks, cuts.
func TestBonsai27Engine(t *testing.T) {
	enginetest.Run(t, cpu.Backend{Threads: 3}, bonsai27(t, true))
}

// TestNestedText: the text model inside one that sees images, too, is read by its nested names and configuration, and computes the same;
// what looks at images and what guesses is left out.
func TestNestedText(t *testing.T) {
	for _, name := range []string{"qwen3.5", "qwen3.5-moe"} {
		dir := filepath.Join(hybrids, name)
		set, err := weights.Open(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer set.Close()
		var text map[string]any
		if err := json.Unmarshal(set.HFConfig(), &text); err != nil {
			t.Fatal(err)
		}
		kind := strings.TrimSuffix(text["model_type"].(string), "_text")
		config, err := json.Marshal(map[string]any{
			"architectures": []string{"Qwen3_5ForConditionalGeneration"}, "model_type": kind, "text_config": text, "vision_config": map[string]any{"depth": 1},
			"image_token_id": 90, "tie_word_embeddings": false,
		})
		if err != nil {
			t.Fatal(err)
		}
		out := t.TempDir()
		if err := os.WriteFile(filepath.Join(out, "config.json"), config, 0o600); err != nil {
			t.Fatal(err)
		}
		var list []safetensors.Tensor
		data := map[string][]byte{}
		add := func(name string, shape []int, b []byte) {
			list, data[name] = append(list, safetensors.Tensor{Name: name, DType: safetensors.BF16, Shape: shape}), b
		}
		for _, n := range set.Names() {
			nested := strings.Replace(n, "model.", "model.language_model.", 1)
			if before, after, ok := strings.Cut(nested, ".mlp.experts."); !ok {
				add(nested, set.Shape(n), set.Stored(n))
			} else if strings.HasPrefix(after, "0.gate") { // all of a layer as one tensor, as published
				var gateUp, down []byte
				layer, _, _ := strings.Cut(n, ".mlp.experts.")
				for e := range 8 {
					for _, p := range []string{"gate_proj", "up_proj"} {
						gateUp = append(gateUp, set.Stored(fmt.Sprintf("%s.mlp.experts.%d.%s.weight", layer, e, p))...)
					}
					down = append(down, set.Stored(fmt.Sprintf("%s.mlp.experts.%d.down_proj.weight", layer, e))...)
				}
				add(before+".mlp.experts.gate_up_proj", []int{8, 64, 64}, gateUp)
				add(before+".mlp.experts.down_proj", []int{8, 64, 32}, down)
			}
		}
		add("model.visual.patch_embed.proj.weight", []int{2}, make([]byte, 4))
		add("mtp.fc.weight", []int{2}, make([]byte, 4))
		f, err := os.Create(filepath.Join(out, "model.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		err = safetensors.Write(f, list, nil, func(w io.Writer, x safetensors.Tensor) error {
			_, err := w.Write(data[x.Name])
			return err
		})
		if err := errors.Join(err, f.Close()); err != nil {
			t.Fatal(err)
		}
		ids := readReference(t, filepath.Join(dir, "reference.f32.safetensors")).ints["prompt.1.ids"]
		if a, b := run(t, loadCPU(t, dir, 2), ids), run(t, loadCPU(t, out, 2), ids); !slices.EqualFunc(a, b, sameBits) {
			t.Errorf("%s: nested, it computes other logits", name)
		}
	}
}
