package model

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"slices"

	"github.com/tritlm/trit/weights"
)

// gemma3Family is Gemma 3's text block as BitNet-embedding 270M has it:
//
//	x = √D·embedding
//	x += post_attention_layernorm(o(attention(q, k, v of input_layernorm(x))))
//	x += post_feedforward_layernorm(down(gelu(gate)·up of pre_feedforward_layernorm(x)))
//
// RMSNorms over each head of q and k, and one in front of every projection. All norms multiply by 1+w but those in front
// of projections. Attention's scores are divided by √query_pre_attn_scalar. Of the layers some see a window of tokens
// only and have rotary positions of their own base.
//
// Tensors: model.embed_tokens, model.norm, model.layers.N.{input_layernorm, post_attention_layernorm,
// pre_feedforward_layernorm, post_feedforward_layernorm, self_attn.{q,k,v,o}_proj, self_attn.{q,k}_norm,
// mlp.{gate,up,down}_proj}, *_proj.norm; without "model." in front in folders of the bare model.
//
// Sources: transformers models/gemma3; microsoft/BitNet utils/convert-bitnet-embedding-to-gguf.py.
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
	hf: func(c *hfConfig) (*Config, error) {
		full, sliding := c.ropeParameters(), &hfRope{}
		if full.Full != nil || full.Sliding != nil {
			if full.Full == nil || full.Sliding == nil {
				return nil, errors.New("rope_parameters lacks full_attention or sliding_attention")
			}
			full, sliding = full.Full, full.Sliding
		}
		local := c.RopeLocalTheta
		c.RopeScaling, c.RopeParameters = nil, nil
		cfg, err := c.common()
		if err != nil {
			return nil, err
		}
		cfg.gemma3()
		cfg.Activation = Activation(c.HiddenActivation)
		cfg.QueryScalar = c.QueryScalar
		c.RopeTheta = cmp.Or(c.RopeTheta, 1e6)
		if cfg.RopeTheta, cfg.Rope, err = c.rope(full); err != nil {
			return nil, err
		}
		if kind := sliding.kind(); kind != "" {
			return nil, fmt.Errorf("rope_parameters.sliding_attention has rope_type %q; only \"default\" is supported", kind)
		}
		if err := cfg.gemmaWindows(c, cmp.Or(sliding.Theta, local, 1e4)); err != nil {
			return nil, err
		}
		if err := cfg.quantized(c.Quantization); err != nil {
			return nil, err
		}
		cfg.projectionNorms(c.set)
		if slices.Contains(c.Architectures, "Gemma3TextModel") {
			cfg.TiedHead = true
			return cfg, cfg.embeds(c.set, gemma3End)
		}
		return cfg, nil
	},
	gguf: []string{"gemma3"},
	ggufKeys: append([]string{
		"attention.scale", "attention.sliding_window", "attention.sliding_window_pattern", "rope.freq_base_swa",
	}, embeddingKeys...),
	fromGGUF: func(cfg *Config, s *weights.Set) error {
		cfg.gemma3()
		cfg.QueryScalar = float64(cfg.HeadDim)
		g := s.GGUF().KV
		if g.Has("gemma3.attention.scale") {
			scale, err := g.Float("gemma3.attention.scale")
			if err != nil {
				return err
			}
			if !(scale > 0 && scale < 1e6) {
				return fmt.Errorf("model: %s: gemma3.attention.scale is %g; it must be positive", s.ConfigPath(), scale)
			}
			cfg.QueryScalar = 1 / (scale * scale)
		}
		cfg.Ternary, cfg.FloatLinear = s.HasTernary(), []string{headName}
		const window, pattern, base = "gemma3.attention.sliding_window", "gemma3.attention.sliding_window_pattern", "gemma3.rope.freq_base_swa"
		if g.Has(window) {
			n, err := g.Uint(window)
			if err != nil {
				return err
			}
			period, theta := uint64(6), 1e4
			if g.Has(pattern) {
				if period, err = g.Uint(pattern); err != nil {
					return err
				}
			}
			if g.Has(base) {
				if theta, err = g.Float(base); err != nil {
					return err
				}
			}
			if n > maxContext || period > maxLayers {
				return fmt.Errorf("model: %s: %s is %d and %s %d: impossible", s.ConfigPath(), window, n, pattern, period)
			}
			if n > 0 {
				cfg.Window, cfg.LocalTheta, cfg.Sliding = int(n), theta, slidingLayers(cfg.NumLayers, int(period))
			}
		}
		cfg.projectionNorms(s)
		if cfg.InputNorm != "" && !g.Has(window) && cfg.NumLayers <= maxLayers {
			// The converter of the published file leaves these keys out, but the model was made and trained in
			// transformers out of Gemma 3 270M, whose layers have a window of 512 tokens and the base 10000, but for every
			// sixth.
			cfg.Window, cfg.LocalTheta, cfg.Sliding = 512, 1e4, slidingLayers(cfg.NumLayers, 6)
			cfg.Notes = append(cfg.Notes, "the file does not say which layers see a window of tokens only; taking Gemma 3 270M's: 512 tokens and rotary base 10000, but for every sixth layer")
		}
		return cfg.embedsGGUF(s, "gemma3", gemma3End)
	},
}

// gemma3End ends every text that becomes a vector.
const gemma3End = "<eos>"

// gemma3 sets what all of the family have.
func (cfg *Config) gemma3() {
	cfg.Activation = GELUTanh
	cfg.QKNorms, cfg.PostNorms, cfg.OffsetNorms = true, true, true
	cfg.EmbedScale = float32(math.Sqrt(float64(cfg.HiddenSize)))
}

// gemmaWindows reads which layers see a window of tokens only: those of layer_types, or all but every
// sliding_window_pattern-th.
func (cfg *Config) gemmaWindows(c *hfConfig, theta float64) error {
	sliding, err := c.slidingTypes()
	if err != nil {
		return err
	}
	if sliding == nil {
		if cfg.NumLayers > maxLayers || c.WindowPattern < 1 {
			return fmt.Errorf("num_hidden_layers %d and sliding_window_pattern %d: impossible", cfg.NumLayers, c.WindowPattern)
		}
		sliding = slidingLayers(max(cfg.NumLayers, 0), c.WindowPattern)
	}
	if !slices.Contains(sliding, true) {
		return nil
	}
	if c.SlidingWindow == nil {
		return errors.New("layer_types has sliding_attention, but sliding_window is null")
	}
	cfg.Window, cfg.LocalTheta, cfg.Sliding = *c.SlidingWindow, theta, sliding
	return nil
}

// slidingLayers: every period-th layer sees all, the others a window; period 0 is none of them.
func slidingLayers(layers, period int) []bool {
	s := make([]bool, layers)
	for i := range s {
		s[i] = period > 0 && (i+1)%period != 0
	}
	return s
}
