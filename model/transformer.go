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
	hf: func(c *hfConfig) (*Config, bool, error) {
		if c.ModelType != "trit-transformer" {
			return nil, false, nil
		}
		cfg, err := c.common()
		if err != nil {
			return nil, false, err
		}
		cfg.LayerNorm = true
		cfg.LearnedPositions = true
		cfg.Ungated = true
		cfg.NormEps = float32(c.LayerNormEps)
		if c.LayerNormEps == 0 {
			cfg.NormEps = 1e-5
		}
		cfg.Activation = GELU
		return cfg, true, cfg.quantized(c.Quantization)
	},
}
