package family

import (
	"slices"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
)

// BitNet is BitNet b1.58 2B4T: squared ReLU, an RMSNorm in front of o_proj and of down_proj.
//
//	x += o_proj(attn_sub_norm(attention(input_layernorm(x))))
//	x += down_proj(ffn_sub_norm(relu(gate)²·up)), gate and up of post_attention_layernorm(x)
//
// Source: arXiv:2504.12285; transformers models/bitnet.
func BitNet(s Shape) *model.Config {
	return bitNet("bitnet", s, "self_attn.attn_sub_norm", "mlp.ffn_sub_norm")
}

func bitNet(family string, s Shape, attnSubNorm, ffnSubNorm string) *model.Config {
	rope := s.rope()
	return s.decoder(family, func(prefix string, _ int) part.Layer {
		attn, ffn := s.attention(prefix, rope), s.gated(prefix)
		attn.SubNorm = s.normOf(prefix+attnSubNorm, attn.O.In)
		ffn.SubNorm = s.normOf(prefix+ffnSubNorm, ffn.Down.In)
		return part.Layer{
			MixerNorm: s.norm(prefix + "input_layernorm"), Mixer: attn,
			FeedForwardNorm: s.norm(prefix + "post_attention_layernorm"), FeedForward: ffn,
		}
	})
}

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
	hf:   func(c *hfConfig) (*model.Config, error) { return c.build(BitNet) }, // without quantization_config it is dense
	gguf: []string{"bitnet-b1.58", "bitnet-25"},
	fromGGUF: func(g *ggufReader, s Shape) (*model.Config, error) {
		s.Activation = part.ReLU2
		g.eightBits, g.masters = true, true
		return BitNet(s), nil
	},
}
