package model

import (
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
	hf: func(c *hfConfig) (*Config, bool, error) {
		if c.ModelType != "gemma3_text" {
			return nil, false, nil
		}
		switch {
		case c.Bidirectional != nil && *c.Bidirectional:
			return nil, false, fmt.Errorf("use_bidirectional_attention is set (EmbeddingGemma); attention here sees what comes before only")
		case c.AttnSoftcap != nil || c.FinalSoftcap != nil:
			return nil, false, fmt.Errorf("attn_logit_softcapping and final_logit_softcapping (Gemma 2) are not supported")
		}
		if c.HeadDim == nil {
			c.HeadDim = new(int)
			*c.HeadDim = 256 // the class's default, as those below
		}
		cfg, err := c.common()
		if err != nil {
			return nil, false, err
		}
		cfg.gemma3()
		if c.HiddenActivation != "" {
			cfg.Activation = Activation(c.HiddenActivation)
		}
		if c.NormEps == 0 {
			cfg.NormEps = 1e-6
		}
		if cfg.QueryScalar = c.QueryScalar; cfg.QueryScalar == 0 {
			cfg.QueryScalar = 256
		}
		cfg.TiedHead = c.TieWordEmbeddings == nil || *c.TieWordEmbeddings
		full, sliding := c.RopeParameters.layers()
		cfg.RopeTheta = firstPositive(full.Theta, c.RopeTheta, 1e6)
		if cfg.Rope = full.scaling(); cfg.Rope.Type == "" {
			cfg.Rope = c.RopeScaling.scaling()
		}
		if s := sliding.scaling(); s.Type != "" {
			return nil, false, fmt.Errorf("rope_parameters.sliding_attention has rope_type %q; only \"default\" is supported", s.Type)
		}
		if err := cfg.windows(c, firstPositive(sliding.Theta, c.RopeLocalTheta, 1e4)); err != nil {
			return nil, false, err
		}
		if err := cfg.quantized(c.Quantization); err != nil {
			return nil, false, err
		}
		cfg.projectionNorms(c.set)
		if slices.Contains(c.Architectures, "Gemma3TextModel") {
			cfg.TiedHead = true
			return cfg, true, cfg.embeds(c.set, gemma3End)
		}
		return cfg, true, nil
	},
	gguf: []string{"gemma3"},
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

// windows reads which layers see a window of tokens only.
func (cfg *Config) windows(c *hfConfig, theta float64) error {
	period := 6
	for _, p := range []int{c.WindowPattern, c.OldWindowPattern} {
		if p != 0 {
			period = p
		}
	}
	if cfg.NumLayers > maxLayers || period < 0 {
		return fmt.Errorf("num_hidden_layers %d and sliding_window_pattern %d: impossible", cfg.NumLayers, period)
	}
	sliding := slidingLayers(max(cfg.NumLayers, 0), period)
	if c.LayerTypes != nil {
		if len(c.LayerTypes) != cfg.NumLayers {
			return fmt.Errorf("layer_types has %d entries for %d layers", len(c.LayerTypes), cfg.NumLayers)
		}
		for i, t := range c.LayerTypes {
			if t != "sliding_attention" && t != "full_attention" {
				return fmt.Errorf("layer_types[%d] is %q; known: full_attention, sliding_attention", i, t)
			}
			sliding[i] = t == "sliding_attention"
		}
	}
	if slices.Contains(sliding, true) {
		if cfg.Window = c.SlidingWindow; cfg.Window == 0 {
			cfg.Window = 4096 // the class's default
		}
		cfg.LocalTheta, cfg.Sliding = theta, sliding
	}
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

func firstPositive(list ...float64) float64 {
	for _, v := range list {
		if v > 0 {
			return v
		}
	}
	return 0
}
