package model

import (
	"fmt"
	"slices"

	"github.com/tritlm/trit/weights"
)

// bitnetFamily is BitNet b1.58 2B4T: squared ReLU, an RMSNorm in front of o_proj and of down_proj, tied head.
//
//	x += o_proj(attn_sub_norm(attention(input_layernorm(x))))
//	x += down_proj(ffn_sub_norm(relu(gate)²·up)), gate and up of post_attention_layernorm(x)
//
// Tensors: model.embed_tokens, model.norm, model.layers.N.{input_layernorm, post_attention_layernorm,
// self_attn.{q,k,v,o}_proj, self_attn.attn_sub_norm, mlp.{gate,up,down}_proj, mlp.ffn_sub_norm}.
//
// Source: arXiv:2504.12285; transformers models/bitnet.
var bitnetFamily = &family{
	name: "bitnet",
	says: "BitNet b1.58 2B4T (BitNetForCausalLM; GGUF bitnet-b1.58, bitnet-25)",
	is: func(c *hfConfig) bool {
		return c.ModelType == "bitnet" && (len(c.Architectures) == 0 || slices.Contains(c.Architectures, "BitNetForCausalLM"))
	},
	keys: hfKeys{
		class:    "BitNetConfig",
		defaults: `{"num_key_value_heads": 5, "hidden_act": "relu2", "rms_norm_eps": 1e-5, "rope_theta": 500000}`,
	},
	hf: func(c *hfConfig) (*Config, error) {
		cfg, err := c.common()
		if err != nil {
			return nil, err
		}
		cfg.SubNorms = true
		return cfg, cfg.quantized(c.Quantization) // without one it is dense
	},
	gguf: []string{"bitnet-b1.58", "bitnet-25"},
	fromGGUF: func(cfg *Config, _ *weights.Set) error {
		cfg.SubNorms = true
		cfg.Ternary, cfg.FloatLinear = true, []string{headName}
		cfg.Activation = ReLU2
		return nil
	},
}

// layerNames are the module names of one decoder layer as Hugging Face writes them.
type layerNames struct {
	attnNorm, q, k, v, o, attnSubNorm, qNorm, kNorm string
	ffnNorm, gate, up, down, ffnSubNorm             string
	attnPostNorm, ffnPostNorm                       string
}

const (
	embedName     = "model.embed_tokens"
	positionsName = "model.embed_positions" // learned positions of the vanilla transformer
	finalNormName = "model.norm"
	headName      = "lm_head"
)

// layer gives the names of layer n. The 1bitLLM models call the two sub-norms differently.
func (c *Config) layer(n int) layerNames {
	p := fmt.Sprintf("model.layers.%d.", n)
	names := layerNames{
		attnNorm:    p + "input_layernorm",
		q:           p + "self_attn.q_proj",
		k:           p + "self_attn.k_proj",
		v:           p + "self_attn.v_proj",
		o:           p + "self_attn.o_proj",
		attnSubNorm: p + "self_attn.attn_sub_norm",
		qNorm:       p + "self_attn.q_norm",
		kNorm:       p + "self_attn.k_norm",
		ffnNorm:     p + "post_attention_layernorm",
		gate:        p + "mlp.gate_proj",
		up:          p + "mlp.up_proj",
		down:        p + "mlp.down_proj",
		ffnSubNorm:  p + "mlp.ffn_sub_norm",
	}
	if c.PostNorms {
		names.attnPostNorm = p + "post_attention_layernorm"
		names.ffnNorm = p + "pre_feedforward_layernorm"
		names.ffnPostNorm = p + "post_feedforward_layernorm"
	}
	if c.Family == onebitFamily.name {
		names.attnSubNorm = p + "self_attn.inner_attn_ln"
		names.ffnSubNorm = p + "mlp.ffn_layernorm"
	}
	return names
}
