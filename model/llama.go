package model

import (
	"strings"

	"github.com/tritlm/trit/weights"
)

// llamaFamily is the plain Llama block: RMSNorm, rotary positions, SwiGLU. With a quantization_config of method
// bitnet its projections are BitLinear (Llama3-8B-1.58, Falcon3-1.58bit, Falcon-E); without one they are dense
// (TriLM, whose half-precision weights are ternary already and whose activations are not quantised).
//
// Tensors: model.embed_tokens, model.norm, lm_head, model.layers.N.{input_layernorm, post_attention_layernorm,
// self_attn.{q,k,v,o}_proj, mlp.{gate,up,down}_proj}.
var llamaFamily = &family{
	name: "llama",
	says: "Llama3-8B-1.58, Falcon3-1.58bit, Falcon-E, TriLM and our own (LlamaForCausalLM; GGUF llama)",
	is:   func(c *hfConfig) bool { return c.ModelType == "llama" || c.ModelType == "falcon_e" },
	keys: hfKeys{
		class:    "LlamaConfig",
		defaults: `{"hidden_act": "silu", "rms_norm_eps": 1e-6}`,
		used:     "mlp_bias",
		harmless: "pretraining_tp", // how products were cut among devices
	},
	hf: func(c *hfConfig) (*Config, error) {
		cfg, err := c.common()
		if err != nil {
			return nil, err
		}
		return cfg, cfg.quantized(c.Quantization)
	},
	gguf: []string{"llama", "falcon-e", "falcon3"},
	fromGGUF: func(cfg *Config, s *weights.Set) error {
		cfg.Activation = SiLU
		// A ternary file says nothing of its activations. TriLM is the one family that leaves them alone.
		cfg.Ternary = s.HasTernary() && !strings.Contains(strings.ToLower(cfg.Name), "trilm")
		cfg.FloatLinear = []string{headName}
		return nil
	},
}
