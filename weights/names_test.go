package weights

import "testing"

func TestNames(t *testing.T) {
	for _, test := range []struct{ arch, hf, gguf string }{
		{"bitnet-b1.58", "model.norm.weight", "output_norm.weight"},
		{"bitnet-b1.58", "model.layers.3.post_attention_layernorm.weight", "blk.3.ffn_norm.weight"},
		{"bitnet-b1.58", "model.layers.3.self_attn.attn_sub_norm.weight", "blk.3.attn_sub_norm.weight"},
		{"llama", "model.layers.12.self_attn.q_proj.bias", "blk.12.attn_q.bias"},
		{"qwen3", "model.layers.0.self_attn.q_norm.weight", "blk.0.attn_q_norm.weight"},
		{"qwen3", "model.layers.0.self_attn.q_proj.rms_norm.weight", "blk.0.attn_q_norm_in.weight"},
		{"qwen3", "model.layers.0.mlp.down_proj.rms_norm.weight", "blk.0.ffn_down_norm_in.weight"},
		{"gemma3", "model.layers.0.post_attention_layernorm.weight", "blk.0.post_attention_norm.weight"},
		{"gemma3", "model.layers.0.pre_feedforward_layernorm.weight", "blk.0.ffn_norm.weight"},
		{"gemma3", "model.layers.0.post_feedforward_layernorm.weight", "blk.0.post_ffw_norm.weight"},
		{"gemma3", "model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight"},
	} {
		if got, ok := GGUFName(test.arch, test.hf); !ok || got != test.gguf {
			t.Errorf("%s: %s is %q in GGUF, want %q", test.arch, test.hf, got, test.gguf)
		}
		if got, ok := HFName(test.arch, test.gguf); !ok || got != test.hf {
			t.Errorf("%s: %s is %q in Hugging Face, want %q", test.arch, test.gguf, got, test.hf)
		}
	}
	if got, ok := GGUFName("gemma3", "model.layers.0.mlp.up_proj.norm.weight"); !ok || got != "blk.0.ffn_up_norm_in.weight" {
		t.Errorf("the embedding models' norm in front of a projection is %q", got)
	}
	for _, hf := range []string{"model.layers.x.mlp.up_proj.weight", "layers.0.mlp.up_proj.weight", "model.layers.0.mlp.weight", "model.norm"} {
		if got, ok := GGUFName("qwen3", hf); ok {
			t.Errorf("%s is %q", hf, got)
		}
	}
	for hf, want := range map[string]bool{
		"model.norm.weight":                           true,
		"model.layers.0.input_layernorm.weight":       true,
		"model.layers.0.self_attn.k_norm.weight":      true,
		"model.layers.0.self_attn.k_proj.norm.weight": false,
		"model.layers.0.self_attn.k_proj.weight":      false,
	} {
		if OffsetNorm("gemma3", hf) != want || OffsetNorm("qwen3", hf) {
			t.Errorf("offset of %s: not %v for gemma3 alone", hf, want)
		}
	}
}
