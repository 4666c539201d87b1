package model

// transformerFamily is the vanilla transformer that package train compares with: LayerNorm with bias, learned
// positions, GELU, biases everywhere, no gate:
//
//	x += o_proj(attention(layernorm(x)));  x += down_proj(gelu(up_proj(layernorm(x))))
//
// Tensors: model.embed_tokens, model.embed_positions, model.norm.{weight,bias}, lm_head, model.layers.N.
// {input_layernorm, post_attention_layernorm, self_attn.{q,k,v,o}_proj, mlp.{up,down}_proj}.{weight,bias}.
var transformerFamily = &family{
	name: "trit-transformer",
	says: "the vanilla transformer of trit train (LayerNorm, learned positions, GELU)",
	is:   func(c *hfConfig) bool { return c.ModelType == "trit-transformer" },
	keys: hfKeys{
		defaults: `{"layer_norm_eps": 1e-5, "attention_bias": true}`,
		used:     "layer_norm_eps precision",
		only:     map[string][]string{"hidden_act": {`"gelu"`}, "attention_bias": {"true"}},
	},
	hf: func(c *hfConfig) (*Config, error) {
		cfg, err := c.common()
		if err != nil {
			return nil, err
		}
		cfg.LayerNorm = true
		cfg.LearnedPositions = true
		cfg.Ungated = true
		cfg.NormEps = float32(c.LayerNormEps)
		cfg.Activation = GELU
		c.MLPBias = true // one key for all of them
		return cfg, cfg.quantized(c.Quantization)
	},
}
