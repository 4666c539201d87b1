package weights

import (
	"slices"
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
		{"self_attn.query_layernorm", "attn_q_norm"}, // Hunyuan
		{"self_attn.key_layernorm", "attn_k_norm"},   // Hunyuan
		{"post_attention_layernorm", "ffn_norm"},
		{"mlp.gate_proj", "ffn_gate"},
		{"mlp.up_proj", "ffn_up"},
		{"mlp.down_proj", "ffn_down"},
		{"mlp.gate", "ffn_gate_inp"}, // the router of experts
		{"mlp.experts.gate_proj", "ffn_gate_exps"},
		{"mlp.experts.up_proj", "ffn_up_exps"},
		{"mlp.experts.down_proj", "ffn_down_exps"},
		{"mlp.shared_expert_gate", "ffn_gate_inp_shexp"},
		{"mlp.shared_expert.gate_proj", "ffn_gate_shexp"},
		{"mlp.shared_expert.up_proj", "ffn_up_shexp"},
		{"mlp.shared_expert.down_proj", "ffn_down_shexp"},
		{"mlp.ffn_sub_norm", "ffn_sub_norm"},
		{"mlp.ffn_layernorm", "ffn_sub_norm"}, // 1bitLLM
	}
	qwen35Parts = [][2]string{ // of the architectures qwen35 and qwen35moe; they come first
		{"post_attention_layernorm", "post_attention_norm"},
		{"linear_attn.in_proj_qkv", "attn_qkv"},
		{"linear_attn.in_proj_z", "attn_gate"},
		{"linear_attn.in_proj_b", "ssm_beta"},
		{"linear_attn.in_proj_a", "ssm_alpha"},
		{"linear_attn.conv1d", "ssm_conv1d"},
		{"linear_attn.norm", "ssm_norm"},
		{"linear_attn.out_proj", "ssm_out"},
		{"linear_attn.A_log", "ssm_a"}, // this one and the next are whole names; GGUF has A itself
		{"linear_attn.dt_bias", "ssm_dt.bias"},
	}
	gemma3Parts = [][2]string{ // of the architecture gemma3; they come first
		{"post_attention_layernorm", "post_attention_norm"},
		{"pre_feedforward_layernorm", "ffn_norm"},
		{"post_feedforward_layernorm", "post_ffw_norm"},
	}
	endings = [][2]string{
		{".rms_norm.weight", "_norm_in.weight"},
		{".norm.weight", "_norm_in.weight"}, // BitNet embedding models
		{".weight_scale", ".scale"},
		{".weight", ".weight"},
		{".bias", ".bias"},
		{"", ""},
	}
)

// GGUFName translates a tensor's Hugging Face name for a file of that general.architecture; ok is false for one that
// GGUF has no word for. One expert's matrix is a part of its layer's: blk.0.ffn_up_exps.weight[5].
func GGUFName(arch, hf string) (name string, ok bool) {
	hf, expert := cutExpert(hf)
	name, ok = translate(arch, hf, 0, 1, "model.layers.", "blk.")
	return name + expert, ok
}

// HFName translates a tensor's name in a GGUF file of that general.architecture into that of Hugging Face, with the
// sub-norms as in BitNet 2B4T and the norms in front of projections as transformers' BitLinear has them.
func HFName(arch, gguf string) (name string, ok bool) {
	return translate(arch, gguf, 1, 0, "blk.", "model.layers.")
}

// OffsetNorm says whether a GGUF file of that architecture holds 1+w where Hugging Face has w: Gemma's norms, and Qwen3.5's, multiply
// by 1+w, those in front of projections by w. Source: the converters of llama.cpp and of microsoft/BitNet
// (utils/convert-bitnet-embedding-to-gguf.py).
func OffsetNorm(arch, hf string) bool {
	name, ok := GGUFName(arch, hf)
	return ok && (arch == "gemma3" || strings.HasPrefix(arch, "qwen35")) && strings.HasSuffix(name, "_norm.weight") && !strings.HasSuffix(name, ".ssm_norm.weight")
}

func translate(arch, name string, from, to int, prefix, newPrefix string) (string, bool) {
	parts := layerParts
	if arch == "gemma3" {
		parts = slices.Concat(gemma3Parts, layerParts)
	}
	if strings.HasPrefix(arch, "qwen35") {
		parts = slices.Concat(qwen35Parts, layerParts)
	}
	for _, e := range endings {
		module, found := strings.CutSuffix(name, e[from])
		if !found {
			continue
		}
		for _, w := range wholeNames {
			if module == w[from] && e[from] != "" {
				return w[to] + e[to], true
			}
		}
		rest, found := strings.CutPrefix(module, prefix)
		if !found {
			continue // model.norm.weight ends like a norm in front of a projection
		}
		layer, part, _ := strings.Cut(rest, ".")
		if n, err := strconv.Atoi(layer); err != nil || n < 0 {
			return "", false
		}
		for _, p := range parts {
			if part == p[from] {
				return newPrefix + layer + "." + p[to] + e[to], true
			}
		}
	}
	return "", false
}
