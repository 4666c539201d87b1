package family

import (
	"fmt"
	"math"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
)

// MiniCPMScales are the three scales of MiniCPM.
type MiniCPMScales struct {
	Embedding float64 // of the embedding's rows: scale_emb
	Residual  float64 // of what each part adds to the stream: scale_depth/√L
	Head      float64 // of the states in front of the head: dim_model_base/D
}

// MiniCPM is MiniCPM's and BitCPM4's block: Llama's, with three scales.
//
//	x = Embedding·embedding;  x += Residual·part(norm(x));  scores = head(Head·norm(x))
//
// Source: the configuration_minicpm.py and modeling_minicpm.py published with the models.
func MiniCPM(s Shape, scales MiniCPMScales) *model.Config {
	rope := s.rope()
	c := s.decoder("minicpm", func(prefix string, _ int) part.Layer {
		return part.Layer{
			MixerNorm: s.norm(prefix + "input_layernorm"), Mixer: s.attention(prefix, rope),
			FeedForwardNorm: s.norm(prefix + "post_attention_layernorm"), FeedForward: s.gated(prefix),
			Scale: float32(scales.Residual),
		}
	})
	c.Embedding.Scale, c.HeadScale = float32(scales.Embedding), float32(scales.Head)
	return c
}

func (m MiniCPMScales) check() error {
	for name, v := range map[string]float64{"the embedding": m.Embedding, "the residual stream": m.Residual, "the head": m.Head} {
		if !(v > 0 && v < 1e6) {
			return fmt.Errorf("the scale of %s is %g; it must be positive", name, v)
		}
	}
	return nil
}

var minicpmFamily = &family{
	name: "minicpm",
	says: "MiniCPM, BitCPM4 (MiniCPMForCausalLM; GGUF minicpm)",
	is:   func(c *hfConfig) bool { return c.ModelType == "minicpm" },
	keys: hfKeys{
		defaults: `{"hidden_act": "silu", "rms_norm_eps": 1e-6, "tie_word_embeddings": true, "scale_emb": 1, "scale_depth": 1, "dim_model_base": 1}`,
		used:     "scale_emb scale_depth dim_model_base",
		only:     map[string][]string{"sparse_config": {}, "num_experts": {"0"}},
		harmless: "pretraining_tp mup_denominator",
	},
	hf: func(c *hfConfig) (*model.Config, error) {
		s, err := c.shape()
		if err != nil {
			return nil, err
		}
		scales := MiniCPMScales{c.ScaleEmb, c.ScaleDepth / math.Sqrt(float64(s.NumLayers)), float64(c.DimModelBase) / float64(s.HiddenSize)}
		return MiniCPM(s, scales), scales.check()
	},
	gguf:     []string{"minicpm"},
	ggufKeys: []string{"embedding_scale", "residual_scale", "logit_scale"},
	fromGGUF: func(g *ggufReader, s Shape) (*model.Config, error) {
		s.Activation = part.SiLU
		// The defaults are llama.cpp's. Of the head's scale files hold D/dim_model_base or its inverse; it makes scores
		// smaller, never larger.
		head := g.float("logit_scale", 256/float64(s.HiddenSize))
		scales := MiniCPMScales{g.float("embedding_scale", 12), g.float("residual_scale", 1.4/math.Sqrt(float64(s.NumLayers))), min(head, 1/head)}
		return MiniCPM(s, scales), scales.check()
	},
}
