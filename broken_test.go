package trit_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/safetensors"
)

// folder is a model folder in memory, to be damaged.
type folder map[string][]byte

func readFolder(t *testing.T, dir string) folder {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	f := folder{}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "reference.") {
			continue
		}
		if f[e.Name()], err = os.ReadFile(filepath.Join(dir, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func (f folder) write(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range f {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// config changes keys of config.json; a nil value deletes the key.
func (f folder) config(t *testing.T, changes map[string]any) {
	t.Helper()
	var c map[string]any
	if err := json.Unmarshal(f["config.json"], &c); err != nil {
		t.Fatal(err)
	}
	for k, v := range changes {
		if v == nil {
			delete(c, k)
			continue
		}
		c[k] = v
	}
	data, err := json.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	f["config.json"] = data
}

// tensors rewrites model.safetensors; change returns the tensors to keep, with their data.
func (f folder) tensors(t *testing.T, change func(x safetensors.Tensor, data []byte) (safetensors.Tensor, []byte, bool)) {
	t.Helper()
	src := f["model.safetensors"]
	file, err := safetensors.Read(bytes.NewReader(src), int64(len(src)), "model.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	var keep []safetensors.Tensor
	contents := map[string][]byte{}
	for _, x := range file.Tensors {
		x, data, ok := change(x, bytes.Clone(src[x.Offset:x.Offset+x.Size]))
		if ok {
			keep = append(keep, x)
			contents[x.Name] = data
		}
	}
	var out bytes.Buffer
	err = safetensors.Write(&out, keep, nil, func(w io.Writer, x safetensors.Tensor) error {
		_, err := w.Write(contents[x.Name])
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	f["model.safetensors"] = out.Bytes()
}

// one changes a single tensor.
func one(name string, change func(x *safetensors.Tensor, data []byte) []byte) func(safetensors.Tensor, []byte) (safetensors.Tensor, []byte, bool) {
	return func(x safetensors.Tensor, data []byte) (safetensors.Tensor, []byte, bool) {
		if x.Name == name {
			data = change(&x, data)
		}
		return x, data, true
	}
}

func drop(name string) func(safetensors.Tensor, []byte) (safetensors.Tensor, []byte, bool) {
	return func(x safetensors.Tensor, data []byte) (safetensors.Tensor, []byte, bool) {
		return x, data, x.Name != name
	}
}

// TestBrokenModels opens model folders that are damaged in one place each. Every one gives a single line that names
// the file and the tensor or key, and none allocates much more than the files' size.
func TestBrokenModels(t *testing.T) {
	const q, norm, embed = "model.layers.0.self_attn.q_proj.weight", "model.layers.1.input_layernorm.weight", "model.embed_tokens.weight"
	bf16 := func(v float32) []byte { return binary.LittleEndian.AppendUint16(nil, uint16(math.Float32bits(v)>>16)) }
	set := func(changes map[string]any) func(*testing.T, folder) {
		return func(t *testing.T, f folder) { f.config(t, changes) }
	}
	edit := func(change func(safetensors.Tensor, []byte) (safetensors.Tensor, []byte, bool)) func(*testing.T, folder) {
		return func(t *testing.T, f folder) { f.tensors(t, change) }
	}
	breakAll(t, golden, []breakage{
		{"no config", func(_ *testing.T, f folder) { delete(f, "config.json") }, []string{"no config.json"}},
		{"empty config", func(_ *testing.T, f folder) { f["config.json"] = nil }, []string{"config.json"}},
		{"config cut off", func(_ *testing.T, f folder) { f["config.json"] = f["config.json"][:40] }, []string{"config.json"}},
		{"config is a list", func(_ *testing.T, f folder) { f["config.json"] = []byte("[1]") }, []string{"config.json"}},
		{"unknown architecture", set(map[string]any{"architectures": []string{"MambaForCausalLM"}, "model_type": "mamba"}), []string{"config.json", "MambaForCausalLM", "supported:", "bitnet", "llama"}},
		{"unknown quantisation", set(map[string]any{"quantization_config": map[string]any{"quant_method": "gptq"}}), []string{"config.json", "gptq"}},
		{"hidden size of text", set(map[string]any{"hidden_size": "many"}), []string{"config.json", "hidden_size"}},
		{"hidden size missing", set(map[string]any{"hidden_size": nil}), []string{"config.json", "hidden_size"}},
		{"hidden size negative", set(map[string]any{"hidden_size": -128}), []string{"config.json", "hidden_size is -128"}},
		{"hidden size huge", set(map[string]any{"hidden_size": 1 << 40}), []string{"config.json", "hidden_size"}},
		{"hidden size other", set(map[string]any{"hidden_size": 256}), []string{"model.safetensors", embed, "[320 256]"}},
		{"no layers", set(map[string]any{"num_hidden_layers": 0}), []string{"num_hidden_layers is 0"}},
		{"too many layers", set(map[string]any{"num_hidden_layers": 3}), []string{"model.layers.2.", "missing tensor"}},
		{"a million layers", set(map[string]any{"num_hidden_layers": 1 << 20}), []string{"num_hidden_layers"}},
		{"heads that do not divide", set(map[string]any{"num_attention_heads": 3}), []string{"num_attention_heads 3"}},
		{"kv heads that do not divide", set(map[string]any{"num_key_value_heads": 3}), []string{"num_key_value_heads 3"}},
		{"odd head", set(map[string]any{"head_dim": 31}), []string{"head_dim 31"}},
		{"vocabulary empty", set(map[string]any{"vocab_size": 0}), []string{"vocab_size is 0"}},
		{"vocabulary other", set(map[string]any{"vocab_size": 400}), []string{embed, "[400 128]"}},
		{"vocabulary smaller than the tokenizer", set(map[string]any{"vocab_size": 10}), []string{"tokenizer has", "model 10"}},
		{"eps zero", set(map[string]any{"rms_norm_eps": -1.0}), []string{"eps is -1"}},
		{"theta negative", set(map[string]any{"rope_theta": -3}), []string{"rope_theta is -3"}},
		{"unknown activation", set(map[string]any{"hidden_act": "swish7"}), []string{"swish7", "silu"}},
		{"unknown rope scaling", set(map[string]any{"rope_scaling": map[string]any{"rope_type": "dynamic", "factor": 2}}), []string{"dynamic", "linear"}},
		{"part of a head rotated", set(map[string]any{"partial_rotary_factor": 0.5}), []string{"partial_rotary_factor is 0.5"}},
		{"impossible rope scaling", set(map[string]any{"rope_scaling": map[string]any{"rope_type": "linear", "factor": 0}}), []string{"rope_scaling", "linear"}},
		{"no weights", func(_ *testing.T, f folder) { delete(f, "model.safetensors") }, []string{"no model.safetensors"}},
		{"pickle only", func(_ *testing.T, f folder) {
			delete(f, "model.safetensors")
			f["pytorch_model.bin"] = []byte("\x80\x02}q\x00.")
		}, []string{"pytorch_model.bin", "run code", "safetensors"}},
		{"weights empty", func(_ *testing.T, f folder) { f["model.safetensors"] = nil }, []string{"model.safetensors", "empty"}},
		{"weights cut in the header", func(_ *testing.T, f folder) { f["model.safetensors"] = f["model.safetensors"][:100] }, []string{"model.safetensors"}},
		{"weights cut in the data", func(_ *testing.T, f folder) {
			f["model.safetensors"] = f["model.safetensors"][:len(f["model.safetensors"])-1]
		}, []string{"model.safetensors"}},
		{"shard missing", func(_ *testing.T, f folder) {
			delete(f, "model.safetensors")
			f["model.safetensors.index.json"] = []byte(`{"weight_map":{"a":"model-00001-of-00001.safetensors"}}`)
		}, []string{"model-00001-of-00001.safetensors"}},
		{"shard outside", func(_ *testing.T, f folder) {
			delete(f, "model.safetensors")
			f["model.safetensors.index.json"] = []byte(`{"weight_map":{"a":"../../etc/passwd"}}`)
		}, []string{"index.json", "../../etc/passwd"}},
		{"projection missing", edit(drop(q)), []string{q, "missing tensor"}},
		{"norm missing", edit(drop(norm)), []string{norm, "missing tensor"}},
		{"embedding missing", edit(drop(embed)), []string{embed, "missing tensor"}},
		{"scale missing", edit(drop(q + "_scale")), []string{q, "missing tensor"}},
		{"scale NaN", edit(one(q+"_scale", func(_ *safetensors.Tensor, _ []byte) []byte { return bf16(float32(math.NaN())) })), []string{q + "_scale", "NaN"}},
		{"scale zero", edit(one(q+"_scale", func(_ *safetensors.Tensor, _ []byte) []byte { return bf16(0) })), []string{q + "_scale", "is 0"}},
		{"scale infinite", edit(one(q+"_scale", func(_ *safetensors.Tensor, _ []byte) []byte { return bf16(float32(math.Inf(1))) })), []string{q + "_scale", "Inf"}},
		{"scale of two", edit(one(q+"_scale", func(x *safetensors.Tensor, _ []byte) []byte {
			x.Shape = []int{2}
			return append(bf16(1), bf16(1)...)
		})), []string{q + "_scale", "one number"}},
		{"code 3", edit(one(q, func(_ *safetensors.Tensor, data []byte) []byte { data[77] = 0xff; return data })), []string{q, "code 3", "model.safetensors"}},
		{"projection of the wrong shape", edit(one(q, func(x *safetensors.Tensor, data []byte) []byte { x.Shape = []int{16, 256}; return data })), []string{q, "[16 256]"}},
		{"projection of the wrong type", edit(one(q, func(x *safetensors.Tensor, data []byte) []byte { x.DType = safetensors.I8; return data })), []string{q}},
		{"norm too short", edit(one(norm, func(x *safetensors.Tensor, data []byte) []byte { x.Shape = []int{64}; return data[:128] })), []string{norm, "[64]"}},
		{"norm NaN", edit(one(norm, func(_ *safetensors.Tensor, data []byte) []byte {
			copy(data[6:], bf16(float32(math.NaN())))
			return data
		})), []string{norm, "element 3", "NaN"}},
		{"norm of integers", edit(one(norm, func(x *safetensors.Tensor, data []byte) []byte { x.DType = safetensors.I16; return data })), []string{norm}},
		{"embedding packed", edit(one(embed, func(x *safetensors.Tensor, data []byte) []byte {
			x.DType, x.Shape = safetensors.U8, []int{320, 256}
			return data
		})), []string{embed}},
		{"tokenizer missing", func(_ *testing.T, f folder) { delete(f, "tokenizer.json") }, []string{"tokenizer"}},
		{"tokenizer cut off", func(_ *testing.T, f folder) { f["tokenizer.json"] = f["tokenizer.json"][:99] }, []string{"tokenizer"}},
		{"tokenizer without vocabulary", func(_ *testing.T, f folder) {
			f["tokenizer.json"] = []byte(`{"model":{"type":"BPE","vocab":{},"merges":[]}}`)
		}, []string{"tokenizer"}},
	})
}

// TestBrokenEmbeddingModels does the same with what only Gemma 3 and embedding models have.
func TestBrokenEmbeddingModels(t *testing.T) {
	set := func(changes map[string]any) func(*testing.T, folder) {
		return func(t *testing.T, f folder) { f.config(t, changes) }
	}
	without := func(name string) func(*testing.T, folder) {
		return func(t *testing.T, f folder) { f.tensors(t, drop(name)) }
	}
	breakAll(t, "testdata/goldens/bitnet-embedding-270m", []breakage{
		{"attention both ways", set(map[string]any{"use_bidirectional_attention": true}), []string{"config.json", "use_bidirectional_attention"}},
		{"softcap", set(map[string]any{"final_logit_softcapping": 30}), []string{"config.json", "softcapping"}},
		{"layer types of another model", set(map[string]any{"layer_types": []string{"full_attention"}}), []string{"layer_types has 1 entries and num_hidden_layers is 2"}},
		{"unknown layer type", set(map[string]any{"layer_types": []string{"full_attention", "chunked"}}), []string{"layer_types[1]", "chunked", "sliding_attention"}},
		{"no window", set(map[string]any{"sliding_window": -1}), []string{"sliding_window is -1"}},
		{"impossible pattern", set(map[string]any{"sliding_window_pattern": -2, "layer_types": nil}), []string{"sliding_window_pattern -2"}},
		{"a million layers", set(map[string]any{"num_hidden_layers": 1 << 20}), []string{"num_hidden_layers"}},
		{"no layers", set(map[string]any{"num_hidden_layers": -5, "layer_types": nil}), []string{"num_hidden_layers is -5"}},
		{"scalar negative", set(map[string]any{"query_pre_attn_scalar": -1}), []string{"query_pre_attn_scalar is -1"}},
		{"unknown activation", set(map[string]any{"hidden_activation": "swish7"}), []string{"swish7", "gelu_pytorch_tanh"}},
		{"scaled sliding layers", set(map[string]any{"rope_parameters": map[string]any{"full_attention": map[string]any{}, "sliding_attention": map[string]any{"rope_type": "yarn"}}}), []string{"sliding_attention", "yarn"}},
		{"unknown pooling", func(_ *testing.T, f folder) {
			f["modules.json"] = []byte(`[{"path":"pool.json/..","type":"sentence_transformers.models.Pooling"},{"path":"","type":"x.Pooling"}]`)
		}, []string{"config.json", "pooling"}},
		{"modules that are none", func(_ *testing.T, f folder) { f["modules.json"] = []byte(`{`) }, []string{"modules.json"}},
		{"first norm of a projection missing", without("layers.0.self_attn.q_proj.norm.weight"), []string{"layers.0.self_attn.q_proj.norm.weight", "missing tensor"}},
		{"last norm of a projection missing", without("layers.1.mlp.down_proj.norm.weight"), []string{"layers.1.mlp.down_proj.norm.weight", "missing tensor"}},
		{"post norm missing", without("layers.1.post_feedforward_layernorm.weight"), []string{"layers.1.post_feedforward_layernorm.weight", "missing tensor"}},
		{"head norm missing", without("layers.0.self_attn.k_norm.weight"), []string{"layers.0.self_attn.k_norm.weight", "missing tensor"}},
	})
}

// breakage is a damage, and what the error about it says.
type breakage struct {
	name   string
	break_ func(t *testing.T, f folder)
	want   []string // all in the error
}

// breakAll opens the folder with one damage after the other.
func breakAll(t *testing.T, dir string, tests []breakage) {
	base := readFolder(t, dir)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			f := folder{}
			size := 0
			for k, v := range base {
				f[k] = v
				size += len(v)
			}
			test.break_(t, f)
			dir := f.write(t)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			m, err := trit.Open(dir, nil)
			runtime.ReadMemStats(&after)
			if err == nil {
				m.Close()
				t.Fatal("opened")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v\nlacks %q", err, want)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("more than one line: %v", err)
			}
			if got := after.TotalAlloc - before.TotalAlloc; got > uint64(8*size+4<<20) {
				t.Errorf("%d bytes allocated for a model of %d", got, size)
			}
			t.Log(err)
		})
	}
}
