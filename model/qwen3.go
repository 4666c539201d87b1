package model

import (
	"errors"
	"slices"

	"github.com/tritlm/trit/weights"
)

// qwen3Family is Qwen3's block: Llama's with an RMSNorm over each head of q and k. Its BitNet conversions have an
// RMSNorm in front of each projection as well: *_proj.rms_norm.weight in packed folders (codys12/Qwen3-8B-BitNet),
// *_proj.norm.weight in the embedding models (microsoft/bitnet-embedding-0.6b), *_norm_in.weight in GGUF.
//
// The embedding models are published as GGUF, and trained as the bare Qwen3Model: tensors without "model." in front,
// no head.
//
// Sources: transformers models/qwen3; microsoft/BitNet utils/convert-bitnet-embedding-to-gguf.py.
var qwen3Family = &family{
	name: "qwen3",
	says: "Qwen3 with BitLinear projections, BitNet-embedding 0.6B (Qwen3ForCausalLM, Qwen3Model; GGUF qwen3)",
	is:   func(c *hfConfig) bool { return c.ModelType == "qwen3" },
	keys: hfKeys{
		class:    "Qwen3Config",
		defaults: `{"num_key_value_heads": 32, "head_dim": 128, "hidden_act": "silu", "rms_norm_eps": 1e-6, "sliding_window": 4096, "max_window_layers": 28}`,
		used:     "use_sliding_window sliding_window max_window_layers layer_types",
	},
	hf: func(c *hfConfig) (*Config, error) {
		cfg, err := c.common()
		if err != nil {
			return nil, err
		}
		cfg.QKNorms = true
		if err := cfg.qwenWindows(c); err != nil {
			return nil, err
		}
		if err := cfg.quantized(c.Quantization); err != nil {
			return nil, err
		}
		cfg.projectionNorms(c.set)
		if slices.Contains(c.Architectures, "Qwen3Model") {
			cfg.TiedHead = true
			return cfg, cfg.embeds(c.set, qwen3End)
		}
		return cfg, nil
	},
	gguf:     []string{"qwen3"},
	ggufKeys: embeddingKeys,
	fromGGUF: func(cfg *Config, s *weights.Set) error {
		cfg.Activation = SiLU
		cfg.QKNorms = true
		cfg.Ternary, cfg.FloatLinear = s.HasTernary(), []string{headName}
		cfg.projectionNorms(s)
		return cfg.embedsGGUF(s, "qwen3", qwen3End)
	},
}

// qwenWindows reads which layers see a window of tokens only: with use_sliding_window those of layer_types, or all from
// max_window_layers on. Their positions are as the others'.
func (cfg *Config) qwenWindows(c *hfConfig) error {
	sliding, err := c.slidingTypes()
	if err != nil {
		return err
	}
	window := c.UseSlidingWindow && c.SlidingWindow != nil
	if sliding == nil && window && cfg.NumLayers <= maxLayers {
		sliding = make([]bool, max(cfg.NumLayers, 0))
		for i := range sliding {
			sliding[i] = i >= c.MaxWindowLayers
		}
	}
	if !slices.Contains(sliding, true) {
		return nil
	}
	if !window {
		return errors.New("layer_types has sliding_attention, but use_sliding_window is false or sliding_window null")
	}
	cfg.Sliding, cfg.Window = sliding, *c.SlidingWindow
	return nil
}

// qwen3End ends every text that becomes a vector: id 151643 of the published vocabulary.
const qwen3End = "<|endoftext|>"
