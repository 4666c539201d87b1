package family

import (
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
)

// Transformer is the vanilla transformer that package train compares with: LayerNorm with bias, learned positions, GELU, biases
// everywhere, no gate:
//
//	x += o_proj(attention(layernorm(x)));  x += down_proj(gelu(up_proj(layernorm(x))))
func Transformer(s Shape) *model.Config {
	norm := func(name string) part.Norm {
		n := s.norm(name)
		n.Centered = true
		return n
	}
	c := s.decoder("trit-transformer", func(prefix string, _ int) part.Layer {
		g := s.gated(prefix)
		return part.Layer{
			MixerNorm: norm(prefix + "input_layernorm"), Mixer: s.attention(prefix, nil),
			FeedForwardNorm: norm(prefix + "post_attention_layernorm"), FeedForward: &part.Plain{Up: g.Up, Down: g.Down},
		}
	})
	c.FinalNorm = norm(model.FinalNormName)
	c.Embedding.Positions = model.PositionsName
	return c
}

var transformerFamily = &family{
	name: "trit-transformer",
	says: "the vanilla transformer of trit train (LayerNorm, learned positions, GELU)",
	is:   func(c *hfConfig) bool { return c.ModelType == "trit-transformer" },
	keys: hfKeys{
		defaults: `{"layer_norm_eps": 1e-5, "attention_bias": true, "mlp_bias": true}`,
		used:     "layer_norm_eps precision",
		only:     map[string][]string{"hidden_act": {`"gelu"`}, "attention_bias": {"true"}},
	},
	hf: func(c *hfConfig) (*model.Config, error) {
		c.NormEps, c.HiddenAct = c.LayerNormEps, string(part.GELU)
		return c.build(Transformer)
	},
}
