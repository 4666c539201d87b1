package model

import (
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
	hf: func(c *hfConfig) (*Config, bool, error) {
		if c.ModelType != "qwen3" {
			return nil, false, nil
		}
		cfg, err := c.common()
		if err != nil {
			return nil, false, err
		}
		cfg.QKNorms = true
		if c.HeadDim == nil {
			cfg.HeadDim = 128 // the class's default
		}
		if cfg.Activation == "" {
			cfg.Activation = SiLU
		}
		if c.NormEps == 0 {
			cfg.NormEps = 1e-6
		}
		if err := cfg.quantized(c.Quantization); err != nil {
			return nil, false, err
		}
		cfg.projectionNorms(c.set)
		if slices.Contains(c.Architectures, "Qwen3Model") {
			cfg.TiedHead = true
			return cfg, true, cfg.embeds(c.set, qwen3End)
		}
		return cfg, true, nil
	},
	gguf: []string{"qwen3"},
	fromGGUF: func(cfg *Config, s *weights.Set) error {
		cfg.Activation = SiLU
		cfg.QKNorms = true
		cfg.Ternary, cfg.FloatLinear = s.HasTernary(), []string{headName}
		cfg.projectionNorms(s)
		return cfg.embedsGGUF(s, "qwen3", qwen3End)
	},
}

// qwen3End ends every text that becomes a vector: id 151643 of the published vocabulary.
const qwen3End = "<|endoftext|>"
