package family

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/safetensors"
	"github.com/tritlm/trit/weights"
)

// checkRead holds what Read says of any input to the rules: an error of one line, or a description that passes its own check
// and whose tensors can be listed.
func checkRead(t *testing.T, s *weights.Set) {
	t.Helper()
	c, err := Read(s)
	if err != nil {
		if text := err.Error(); strings.ContainsAny(text, "\n") || len(text) > 4000 {
			t.Fatalf("not one line: %.500q", text)
		}
		return
	}
	if err := c.Check(); err != nil {
		t.Fatalf("a description that does not pass: %v", err)
	}
	if shape := ShapeOf(c); shape.check() != nil || len(c.Layers) != shape.NumLayers || len(Windows(c)) != shape.NumLayers {
		t.Fatalf("%+v", shape)
	}
	for _, x := range c.Tensors() {
		if x.Rows < 1 || x.Cols < 1 || x.Rows > maxVocab+maxContext || x.Cols > maxVocab {
			t.Fatalf("%+v", x)
		}
	}
}

// goldenFolders are the small files of the golden models with the list of their tensors.
func goldenFolders(f *testing.F) (folders []fstest.MapFS, tensors [][]safetensors.Tensor) {
	f.Helper()
	dirs, _ := filepath.Glob("../../testdata/goldens/*/config.json")
	if len(dirs) == 0 {
		f.Fatal("no goldens")
	}
	for _, d := range dirs {
		dir, fsys := filepath.Dir(d), fstest.MapFS{}
		for _, name := range []string{"config.json", "modules.json", "1_Pooling/config.json"} {
			if data, err := os.ReadFile(filepath.Join(dir, name)); err == nil {
				fsys[name] = &fstest.MapFile{Data: data}
			}
		}
		var list []safetensors.Tensor
		shards, _ := filepath.Glob(filepath.Join(dir, "model*.safetensors"))
		for _, name := range shards {
			data, err := os.ReadFile(name)
			if err != nil {
				f.Fatal(err)
			}
			sf, err := safetensors.Read(bytes.NewReader(data), int64(len(data)), dir)
			if err != nil {
				f.Fatal(err)
			}
			list = append(list, sf.Tensors...)
		}
		folders, tensors = append(folders, fsys), append(tensors, list)
	}
	return folders, tensors
}

// FuzzConfigJSON reads any config.json beside the tensors of a golden model: key gets value, or all of the file is text.
func FuzzConfigJSON(f *testing.F) {
	folders, tensors := goldenFolders(f)
	for i, fsys := range folders {
		text := string(fsys["config.json"].Data)
		f.Add(uint8(i), "", "", text)
		var c map[string]json.RawMessage
		if err := json.Unmarshal([]byte(text), &c); err != nil {
			f.Fatal(err)
		}
		for key, value := range c {
			f.Add(uint8(i), key, string(value), "")
		}
		for _, key := range []string{"rope_scaling", "rope_parameters"} {
			f.Add(uint8(i), key, `{"rope_type":"yarn","factor":4.0,"original_max_position_embeddings":128,"beta_fast":32,"mscale":0.7}`, "")
			f.Add(uint8(i), key, `{"full_attention":{"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,"rope_theta":1e4},"sliding_attention":{"rope_theta":1e6}}`, "")
		}
		f.Add(uint8(i), "layer_types", `["full_attention","sliding_attention"]`, "")
		f.Add(uint8(i), "quantization_config", `{"quant_method":"bitnet","modules_to_not_convert":["lm_head","model\\.layers\\.0.*","q_proj",""],"use_rms_norm":true}`, "")
		f.Add(uint8(i), "num_hidden_layers", "1023", "")
	}
	f.Fuzz(func(t *testing.T, which uint8, key, value, text string) {
		i := int(which) % len(folders)
		data := []byte(text)
		if text == "" {
			var c map[string]json.RawMessage
			if err := json.Unmarshal(folders[i]["config.json"].Data, &c); err != nil {
				t.Fatal(err)
			}
			if !json.Valid([]byte(value)) {
				return
			}
			c[key] = json.RawMessage(value)
			var err error
			if data, err = json.Marshal(c); err != nil {
				return
			}
		}
		fsys := fstest.MapFS{}
		for name, file := range folders[i] {
			fsys[name] = file
		}
		fsys["config.json"] = &fstest.MapFile{Data: data}
		s, err := weights.PlannedFolder(fsys, "fuzz", tensors[i])
		if err != nil {
			return
		}
		checkRead(t, s)
	})
}

// FuzzConfigGGUF reads the metadata of a sound file of some architecture with one key of any value, and one tensor of any name
// and shape.
func FuzzConfigGGUF(f *testing.F) {
	var archs []string
	for _, fam := range families {
		archs = append(archs, fam.gguf...)
	}
	keys := slices.Concat(ggufUsed, ggufHarmless, []string{"attention.scale", "attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa", "pooling_type"})
	for i := range archs {
		f.Add(uint8(i), "", uint8(0), uint64(0), "", "", uint32(0), uint32(0))
		for _, key := range keys {
			f.Add(uint8(i), key, uint8(4), uint64(2), "yarn", "output.weight", uint32(16), uint32(8))
			f.Add(uint8(i), key, uint8(6), uint64(0x40000000), "linear", "blk.0.attn_q_norm_in.weight", uint32(0), uint32(8))
			f.Add(uint8(i), key, uint8(9), uint64(1<<40), "", "rope_freqs.weight", uint32(0), uint32(2))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, key string, kind uint8, n uint64, text, tensor string, rows, cols uint32) {
		if len(tensor) > 63 {
			return // gguf.Read takes no such name
		}
		arch := archs[int(which)%len(archs)]
		kv := gguf.KV{{Key: "general.architecture", Value: arch}}
		for _, p := range []struct {
			key string
			v   uint32
		}{{"embedding_length", 8}, {"feed_forward_length", 16}, {"block_count", 2}, {"attention.head_count", 2}, {"attention.head_count_kv", 1}, {"context_length", 64}} {
			kv.Set(arch+"."+p.key, p.v)
		}
		var value any
		switch kind % 12 {
		case 0:
			value = nil
		case 1:
			value = uint8(n)
		case 2:
			value = int16(n)
		case 3:
			value = int32(n)
		case 4:
			value = uint32(n)
		case 5:
			value = n
		case 6:
			value = float32(int64(n)) / 65536
		case 7:
			value = n&1 == 1
		case 8:
			value = text
		case 9:
			value = []int32{int32(n), int32(n >> 32)}
		case 10:
			value = []string{text, text}
		case 11:
			value = []bool{n&1 == 1, n&2 == 2}
		}
		if full := arch + "." + key; value != nil && key != "" {
			kv.Set(full, value)
			if strings.HasPrefix(key, "general.") || strings.HasPrefix(key, "prism.") {
				kv.Set(key, value)
			}
		}
		tensors := []gguf.Tensor{{Name: "token_embd.weight", Type: gguf.F32, Shape: []int{32, 8}}, {Name: "output_norm.weight", Type: gguf.F32, Shape: []int{8}}}
		known := map[string][]byte{}
		if tensor != "" && tensor != "token_embd.weight" && tensor != "output_norm.weight" && cols > 0 && uint64(rows+1)*uint64(cols) < 1<<16 {
			x := gguf.Tensor{Name: tensor, Type: gguf.F32, Shape: []int{int(cols)}}
			if rows > 0 {
				x.Shape = []int{int(rows), int(cols)}
			}
			if n&1 == 1 {
				x.Type = gguf.IQ2_BN
			}
			size := 4 * int(rows+1) * int(cols)
			known[tensor] = make([]byte, size)[:4*x.Shape[0]*max(1, x.Shape[len(x.Shape)-1]*(len(x.Shape)-1))]
			tensors = append(tensors, x)
		}
		checkRead(t, weights.PlannedGGUF("fuzz.gguf", kv, tensors, known))
	})
}
