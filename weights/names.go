package weights

import (
	"strconv"
	"strings"
)

// Module names of Hugging Face and of GGUF, part by part. In both, a tensor is module + ".weight", ".bias" and so on.
// Source: ggml docs/gguf.md and the converters of llama.cpp and microsoft/BitNet.
var (
	wholeNames = [][2]string{
		{"model.embed_tokens", "token_embd"},
		{"model.embed_positions", "position_embd"},
		{"model.norm", "output_norm"},
		{"lm_head", "output"},
	}
	layerParts = [][2]string{ // model.layers.N.x and blk.N.y
		{"input_layernorm", "attn_norm"},
		{"self_attn.q_proj", "attn_q"},
		{"self_attn.k_proj", "attn_k"},
		{"self_attn.v_proj", "attn_v"},
		{"self_attn.o_proj", "attn_output"},
		{"self_attn.attn_sub_norm", "attn_sub_norm"},
		{"self_attn.inner_attn_ln", "attn_sub_norm"}, // 1bitLLM
		{"self_attn.q_norm", "attn_q_norm"},
		{"self_attn.k_norm", "attn_k_norm"},
		{"post_attention_layernorm", "ffn_norm"},
		{"mlp.gate_proj", "ffn_gate"},
		{"mlp.up_proj", "ffn_up"},
		{"mlp.down_proj", "ffn_down"},
		{"mlp.ffn_sub_norm", "ffn_sub_norm"},
		{"mlp.ffn_layernorm", "ffn_sub_norm"}, // 1bitLLM
	}
	endings = [][2]string{
		{".rms_norm.weight", "_norm_in.weight"},
		{".weight_scale", ".scale"},
		{".weight", ".weight"},
		{".bias", ".bias"},
	}
)

// GGUFName translates a tensor's Hugging Face name; ok is false for one that GGUF has no word for.
func GGUFName(hf string) (name string, ok bool) { return translate(hf, 0, 1, "model.layers.", "blk.") }

// HFName translates a tensor's GGUF name into that of Hugging Face, with the sub-norms as in BitNet 2B4T.
func HFName(gguf string) (name string, ok bool) {
	return translate(gguf, 1, 0, "blk.", "model.layers.")
}

func translate(name string, from, to int, prefix, newPrefix string) (string, bool) {
	for _, e := range endings {
		module, found := strings.CutSuffix(name, e[from])
		if !found {
			continue
		}
		for _, w := range wholeNames {
			if module == w[from] {
				return w[to] + e[to], true
			}
		}
		rest, found := strings.CutPrefix(module, prefix)
		if !found {
			return "", false
		}
		layer, part, _ := strings.Cut(rest, ".")
		if n, err := strconv.Atoi(layer); err != nil || n < 0 {
			return "", false
		}
		for _, p := range layerParts {
			if part == p[from] {
				return newPrefix + layer + "." + p[to] + e[to], true
			}
		}
		return "", false
	}
	return "", false
}
