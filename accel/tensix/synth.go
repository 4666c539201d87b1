package tensix

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/tritlm/trit/safetensors"
)

// synthShape is a model of BitNet 2B4T's family with random weights.
type synthShape struct {
	hidden, ffn, heads, kvHeads, layers, vocab int
}

// writeSynth writes such a model as a Hugging Face folder: for the self-test, and for tests at a true model's width.
func writeSynth(dir string, s synthShape) error {
	D, F, KV := s.hidden, s.ffn, s.hidden/s.heads*s.kvHeads
	config := fmt.Sprintf(`{"architectures":["BitNetForCausalLM"],"hidden_act":"relu2","hidden_size":%d,"intermediate_size":%d,
"max_position_embeddings":4096,"model_type":"bitnet","rms_norm_eps":1e-05,"num_attention_heads":%d,"num_hidden_layers":%d,
"num_key_value_heads":%d,"rope_theta":500000.0,"tie_word_embeddings":true,"vocab_size":%d,
"quantization_config":{"quant_method":"bitnet","linear_class":"autobitlinear","quantization_mode":"offline"}}`, D, F, s.heads, s.layers, s.kvHeads, s.vocab)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o666); err != nil {
		return err
	}
	tensors := []safetensors.Tensor{
		{Name: "model.embed_tokens.weight", DType: safetensors.BF16, Shape: []int{s.vocab, D}},
		{Name: "model.norm.weight", DType: safetensors.BF16, Shape: []int{D}},
	}
	for n := range s.layers {
		p := fmt.Sprintf("model.layers.%d.", n)
		for _, x := range []struct {
			name string
			n    int
		}{{"input_layernorm", D}, {"post_attention_layernorm", D}, {"self_attn.attn_sub_norm", D}, {"mlp.ffn_sub_norm", F}} {
			tensors = append(tensors, safetensors.Tensor{Name: p + x.name + ".weight", DType: safetensors.BF16, Shape: []int{x.n}})
		}
		for _, x := range []struct {
			name       string
			rows, cols int
		}{
			{"self_attn.q_proj", D, D},
			{"self_attn.k_proj", KV, D},
			{"self_attn.v_proj", KV, D},
			{"self_attn.o_proj", D, D},
			{"mlp.gate_proj", F, D},
			{"mlp.up_proj", F, D},
			{"mlp.down_proj", D, F},
		} {
			tensors = append(tensors,
				safetensors.Tensor{Name: p + x.name + ".weight_scale", DType: safetensors.BF16, Shape: []int{1}},
				safetensors.Tensor{Name: p + x.name + ".weight", DType: safetensors.U8, Shape: []int{x.rows / 4, x.cols}})
		}
	}
	var trits [256]byte // any byte to four codes 0, 1, 2
	for i := range trits {
		trits[i] = byte(i%3 | i/3%3<<2 | i/9%3<<4 | i/27%3<<6)
	}
	f, err := os.Create(filepath.Join(dir, "model.safetensors"))
	if err != nil {
		return err
	}
	defer f.Close()
	w := bufio.NewWriterSize(f, 1<<20)
	state := uint64(88172645463325252)
	next := func() uint64 { // xorshift
		state ^= state << 13
		state ^= state >> 7
		state ^= state << 17
		return state
	}
	err = safetensors.Write(w, tensors, map[string]string{"format": "pt"}, func(w io.Writer, x safetensors.Tensor) error {
		buf := make([]byte, x.Size)
		switch {
		case x.DType == safetensors.U8:
			for i := range buf {
				buf[i] = trits[next()>>32&255]
			}
		case strings.HasPrefix(x.Name, "model.embed"): // bf16 from ±0.008 to ±0.06
			for i := 0; i+8 <= len(buf); i += 8 {
				binary.LittleEndian.PutUint64(buf[i:], next()&0x80FF80FF80FF80FF|0x3C003C003C003C00)
			}
		default: // norms 1, scales 1/64
			v := uint16(0x3F80)
			if strings.HasSuffix(x.Name, "_scale") {
				v = 0x3C80
			}
			for i := 0; i < len(buf); i += 2 {
				binary.LittleEndian.PutUint16(buf[i:], v)
			}
		}
		_, err := w.Write(buf)
		return err
	})
	if err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}
