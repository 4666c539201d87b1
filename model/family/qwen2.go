package family

import (
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
)

// Qwen2 is Qwen2's block: Llama's with biases on q, k and v. Layers that are sliding see the last window tokens only; nil is
// none.
//
// Source: transformers models/qwen2.
func Qwen2(s Shape, sliding []bool, window int) *model.Config {
	rope := s.rope()
	return s.decoder("qwen2", func(prefix string, n int) part.Layer {
		attn := s.attention(prefix, rope)
		attn.Q.Bias, attn.K.Bias, attn.V.Bias = true, true, true
		if sliding != nil && sliding[n] {
			attn.Window = window
		}
		return part.Layer{
			MixerNorm: s.norm(prefix + "input_layernorm"), Mixer: attn,
			FeedForwardNorm: s.norm(prefix + "post_attention_layernorm"), FeedForward: s.gated(prefix),
		}
	})
}

var qwen2Family = &family{
	name: "qwen2",
	says: "Qwen2 and Qwen2.5 with weights of any kind (Qwen2ForCausalLM; GGUF qwen2)",
	is:   func(c *hfConfig) bool { return c.ModelType == "qwen2" },
	keys: hfKeys{
		class:    "Qwen2Config",
		defaults: `{"num_key_value_heads": 32, "hidden_act": "silu", "rms_norm_eps": 1e-6, "sliding_window": 4096, "max_window_layers": 28}`,
		used:     "use_sliding_window sliding_window max_window_layers layer_types",
		only:     map[string][]string{"attention_bias": {"true"}, "use_mrope": {"false"}},
	},
	hf: func(c *hfConfig) (*model.Config, error) {
		s, err := c.shape()
		if err != nil {
			return nil, err
		}
		sliding, window, err := qwenWindows(c)
		if err != nil {
			return nil, err
		}
		c.ownBiases = true
		return Qwen2(s, sliding, window), nil
	},
	gguf: []string{"qwen2"},
	fromGGUF: func(g *ggufReader, s Shape) (*model.Config, error) {
		s.Activation = part.SiLU
		return Qwen2(s, nil, 0), nil
	},
}
