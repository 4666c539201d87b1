package family

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
)

// Gemma3Shape is what Gemma 3 has besides.
type Gemma3Shape struct {
	Shape
	QueryScalar float64 // attention's scores are divided by its root
	Sliding     []bool  // [L] layers that see the last Window tokens only, nil for none
	Window      int
	LocalTheta  float64 // of the rotary positions of sliding layers
}

// Gemma3 is Gemma 3's text block as BitNet-embedding 270M has it:
//
//	x = √D·embedding
//	x += post_attention_layernorm(o(attention(q, k, v of input_layernorm(x))))
//	x += post_feedforward_layernorm(down(gelu(gate)·up of pre_feedforward_layernorm(x)))
//
// with RMSNorms over each head of q and k, and one in front of every projection. All norms multiply by 1+w but those in front
// of projections. Attention's scores are divided by √query_pre_attn_scalar. Of the layers some see a window of tokens
// only and have rotary positions of their own base.
//
// Folders of the bare model have no "model." in front of their tensors.
//
// Sources: transformers models/gemma3; microsoft/BitNet utils/convert-bitnet-embedding-to-gguf.py.
func Gemma3(s Gemma3Shape) *model.Config {
	rope, local := s.rope(), &part.Rope{Dim: s.HeadDim, Theta: s.LocalTheta}
	offset := func(name string, width int) *part.Norm {
		n := s.normOf(name, width)
		n.Offset = true
		return n
	}
	c := s.decoder("gemma3", func(prefix string, n int) part.Layer {
		attn := s.attention(prefix, rope)
		attn.Scalar = s.QueryScalar
		attn.QNorm = offset(prefix+"self_attn.q_norm", s.HeadDim)
		attn.KNorm = offset(prefix+"self_attn.k_norm", s.HeadDim)
		if s.Sliding != nil && s.Sliding[n] {
			attn.Window, attn.Rope = s.Window, local
		}
		D := s.HiddenSize
		return part.Layer{
			MixerNorm: *offset(prefix+"input_layernorm", D), Mixer: attn, MixerPost: offset(prefix+"post_attention_layernorm", D),
			FeedForwardNorm: *offset(prefix+"pre_feedforward_layernorm", D), FeedForward: s.gated(prefix), FeedForwardPost: offset(prefix+"post_feedforward_layernorm", D),
		}
	})
	c.FinalNorm.Offset = true
	c.Embedding.Scale = float32(math.Sqrt(float64(s.HiddenSize)))
	return c
}

var gemma3Family = &family{
	name: "gemma3",
	says: "BitNet-embedding 270M (Gemma3TextModel; GGUF gemma3)",
	is:   func(c *hfConfig) bool { return c.ModelType == "gemma3_text" },
	keys: hfKeys{
		class: "Gemma3TextConfig",
		defaults: `{"num_key_value_heads": 4, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "rms_norm_eps": 1e-6, "query_pre_attn_scalar": 256,
			"sliding_window": 4096, "sliding_window_pattern": 6, "tie_word_embeddings": true}`,
		used: "hidden_activation query_pre_attn_scalar rope_local_base_freq sliding_window sliding_window_pattern layer_types",
		only: map[string][]string{
			"use_bidirectional_attention": {"false"}, // EmbeddingGemma; attention here sees what comes before only
			"attn_logit_softcapping":      {},        // Gemma 2
			"final_logit_softcapping":     {},
			"cache_implementation":        {`"hybrid"`},
		},
		// The class writes the pattern under this name as well, but reads the other; it has hidden_activation instead of
		// hidden_act.
		harmless: "_sliding_window_pattern hidden_act",
	},
	hf: func(c *hfConfig) (*model.Config, error) {
		full, local := c.ropeParameters(), &hfRope{}
		if full.Full != nil || full.Sliding != nil {
			if full.Full == nil || full.Sliding == nil {
				return nil, errors.New("rope_parameters lacks full_attention or sliding_attention")
			}
			full, local = full.Full, full.Sliding
		}
		c.RopeScaling, c.RopeParameters = nil, nil
		c.HiddenAct = c.HiddenActivation
		shape, err := c.shape()
		if err != nil {
			return nil, err
		}
		s := Gemma3Shape{Shape: shape, QueryScalar: c.QueryScalar, LocalTheta: cmp.Or(local.Theta, c.RopeLocalTheta, 1e4)}
		c.RopeTheta = cmp.Or(c.RopeTheta, 1e6)
		if s.RopeTheta, s.Rope, err = c.rope(full); err != nil {
			return nil, err
		}
		if kind := local.kind(); kind != "" {
			return nil, fmt.Errorf("rope_parameters.sliding_attention has rope_type %q; only \"default\" is supported", kind)
		}
		if s.Sliding, s.Window, err = gemma3Windows(c); err != nil {
			return nil, err
		}
		bare := slices.Contains(c.Architectures, "Gemma3TextModel")
		s.TiedHead = s.TiedHead || bare
		cfg := Gemma3(s)
		c.findProjectionNorms(cfg)
		if bare {
			return cfg, embeds(cfg, c.set, gemma3End)
		}
		return cfg, nil
	},
	gguf: []string{"gemma3"},
	ggufKeys: append([]string{
		"attention.scale", "attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa",
	}, embeddingKeys...),
	fromGGUF: func(g *ggufReader, shape Shape) (*model.Config, error) {
		s := Gemma3Shape{Shape: shape, QueryScalar: float64(shape.HeadDim)}
		s.Activation = part.GELUTanh
		if scale := g.float("attention.scale", 0); scale != 0 {
			if !(scale > 0 && scale < 1e6) {
				return nil, fmt.Errorf("gemma3.attention.scale is %g; it must be positive", scale)
			}
			s.QueryScalar = 1 / (scale * scale)
			if n := math.Round(s.QueryScalar); float32(1/math.Sqrt(n)) == float32(scale) {
				s.QueryScalar = n // the file has the root of a whole number as a float32
			}
		}
		guessed := false
		if g.has("attention.sliding_window") {
			s.Window = g.num("attention.sliding_window", 0)
			period := g.num("attention.sliding_window_pattern", 6)
			s.LocalTheta = g.float("rope.freq_base_swa", 1e4)
			if s.Window > maxContext || period > maxLayers+1 {
				return nil, fmt.Errorf("gemma3.attention.sliding_window is %d and its pattern %d: impossible", s.Window, period)
			}
			if s.Window > 0 {
				s.Sliding = slidingLayers(s.NumLayers, period)
			}
		} else if hasProjectionNorms(g.set) {
			// The converter of the published file leaves these keys out, but the model was made and trained in
			// transformers out of Gemma 3 270M, whose layers have a window of 512 tokens and the base 10000, but for every
			// sixth.
			s.Window, s.LocalTheta, s.Sliding = 512, 1e4, slidingLayers(s.NumLayers, 6)
			guessed = true
		}
		if g.err != nil {
			return nil, g.err
		}
		cfg := Gemma3(s)
		if guessed {
			cfg.Notes = append(cfg.Notes, "the file does not say which layers see a window of tokens only; taking Gemma 3 270M's: 512 tokens and rotary base 10000, but for every sixth layer")
		}
		g.findProjectionNorms(cfg)
		return cfg, g.embeds(cfg, gemma3End)
	},
}

// gemma3End ends every text that becomes a vector.
const gemma3End = "<eos>"

// gemma3Windows reads which layers see a window of tokens only: those of layer_types, or all but every
// sliding_window_pattern-th.
func gemma3Windows(c *hfConfig) (sliding []bool, window int, err error) {
	if sliding, err = c.slidingTypes(); err != nil {
		return nil, 0, err
	}
	if sliding == nil {
		if c.WindowPattern < 1 {
			return nil, 0, fmt.Errorf("sliding_window_pattern %d: impossible", c.WindowPattern)
		}
		sliding = slidingLayers(c.NumLayers, c.WindowPattern)
	}
	if !slices.Contains(sliding, true) {
		return nil, 0, nil
	}
	if c.SlidingWindow == nil {
		return nil, 0, errors.New("layer_types has sliding_attention, but sliding_window is null")
	}
	return sliding, *c.SlidingWindow, checkWindow(*c.SlidingWindow)
}

// slidingLayers: every period-th layer sees all, the others a window; period 0 is none of them.
func slidingLayers(layers, period int) []bool {
	s := make([]bool, layers)
	for i := range s {
		s[i] = period > 0 && (i+1)%period != 0
	}
	return s
}
