package family

import (
	"strings"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
)

// Llama is the plain Llama block: RMSNorm, rotary positions, a gated feed-forward. With a quantization_config of method bitnet
// its projections are BitLinear (Llama3-8B-1.58, Falcon3-1.58bit, Falcon-E); without one they are dense (TriLM, whose
// half-precision weights are ternary already and whose activations are not quantised).
//
//	x += o_proj(attention(input_layernorm(x)))
//	x += down_proj(silu(gate)·up), gate and up of post_attention_layernorm(x)
//
// Source: transformers models/llama.
func Llama(s Shape) *model.Config {
	rope := s.rope()
	return s.decoder("llama", func(prefix string, _ int) part.Layer {
		return part.Layer{
			MixerNorm: s.norm(prefix + "input_layernorm"), Mixer: s.attention(prefix, rope),
			FeedForwardNorm: s.norm(prefix + "post_attention_layernorm"), FeedForward: s.gated(prefix),
		}
	})
}

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
	hf:   func(c *hfConfig) (*model.Config, error) { return c.build(Llama) },
	gguf: []string{"llama", "falcon-e", "falcon3"},
	fromGGUF: func(g *ggufReader, s Shape) (*model.Config, error) {
		s.Activation = part.SiLU
		// A file of tq1_0 or tq2_0 says nothing of its activations. Of Llama's kin TriLM leaves them alone.
		g.eightBits = !strings.Contains(strings.ToLower(s.Name), "trilm")
		return Llama(s), nil
	},
}
