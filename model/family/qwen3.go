package family

import (
	"errors"
	"slices"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
)

// Qwen3 is Qwen3's block: Llama's with an RMSNorm over each head of q and k. Layers that are sliding see the last window tokens
// only; nil is none.
//
// Its BitNet conversions have an RMSNorm in front of each projection as well: *_proj.rms_norm.weight in packed folders
// (codys12/Qwen3-8B-BitNet), *_proj.norm.weight in the embedding models (microsoft/bitnet-embedding-0.6b), *_norm_in.weight in
// GGUF. The embedding models are published as GGUF, and trained as the bare Qwen3Model: tensors without "model." in front, no
// head.
//
// Sources: transformers models/qwen3; microsoft/BitNet utils/convert-bitnet-embedding-to-gguf.py.
func Qwen3(s Shape, sliding []bool, window int) *model.Config {
	rope := s.rope()
	return s.decoder("qwen3", func(prefix string, n int) part.Layer {
		attn := s.attention(prefix, rope)
		attn.QNorm = s.normOf(prefix+"self_attn.q_norm", s.HeadDim)
		attn.KNorm = s.normOf(prefix+"self_attn.k_norm", s.HeadDim)
		if sliding != nil && sliding[n] {
			attn.Window = window
		}
		return part.Layer{
			MixerNorm: s.norm(prefix + "input_layernorm"), Mixer: attn,
			FeedForwardNorm: s.norm(prefix + "post_attention_layernorm"), FeedForward: s.gated(prefix),
		}
	})
}

var qwen3Family = &family{
	name: "qwen3",
	says: "Qwen3 with BitLinear projections, BitNet-embedding 0.6B (Qwen3ForCausalLM, Qwen3Model; GGUF qwen3)",
	is:   func(c *hfConfig) bool { return c.ModelType == "qwen3" },
	keys: hfKeys{
		class:    "Qwen3Config",
		defaults: `{"num_key_value_heads": 32, "head_dim": 128, "hidden_act": "silu", "rms_norm_eps": 1e-6, "sliding_window": 4096, "max_window_layers": 28}`,
		used:     "use_sliding_window sliding_window max_window_layers layer_types",
	},
	hf: func(c *hfConfig) (*model.Config, error) {
		bare := slices.Contains(c.Architectures, "Qwen3Model")
		s, err := c.shape()
		if err != nil {
			return nil, err
		}
		sliding, window, err := qwenWindows(c)
		if err != nil {
			return nil, err
		}
		s.TiedHead = s.TiedHead || bare
		cfg := Qwen3(s, sliding, window)
		c.findProjectionNorms(cfg)
		if bare {
			return cfg, embeds(cfg, c.set, qwen3End)
		}
		return cfg, nil
	},
	gguf:     []string{"qwen3"},
	ggufKeys: embeddingKeys,
	fromGGUF: func(g *ggufReader, s Shape) (*model.Config, error) {
		s.Activation = part.SiLU
		cfg := Qwen3(s, nil, 0)
		g.findProjectionNorms(cfg)
		return cfg, g.embeds(cfg, qwen3End)
	},
}

// qwen3End ends every text that becomes a vector: id 151643 of the published vocabulary.
const qwen3End = "<|endoftext|>"

// qwenWindows reads which layers see a window of tokens only: with use_sliding_window those of layer_types, or all from
// max_window_layers on. Their positions are as the others'.
func qwenWindows(c *hfConfig) (sliding []bool, window int, err error) {
	if sliding, err = c.slidingTypes(); err != nil {
		return nil, 0, err
	}
	on := c.UseSlidingWindow && c.SlidingWindow != nil
	if sliding == nil && on {
		sliding = make([]bool, c.NumLayers)
		for i := range sliding {
			sliding[i] = i >= c.MaxWindowLayers
		}
	}
	if !slices.Contains(sliding, true) {
		return nil, 0, nil
	}
	if !on {
		return nil, 0, errors.New("layer_types has sliding_attention, but use_sliding_window is false or sliding_window null")
	}
	return sliding, *c.SlidingWindow, checkWindow(*c.SlidingWindow)
}
