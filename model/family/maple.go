package family

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
)

// mapleClamp is what experts clamp their gates and ups by: a constant of the published modeling code.
const mapleClamp = 7

// Maple is Maple's block: Qwen3's with experts in every layer. Layers that are sliding turn the first rotary values of each head and
// see window tokens in front of their own, so window+1 with it; the others see all and have no positions.
//
// Sources: the configuration and modeling code published with Maple-preview; vLLM's pull request #51833 for the window's border.
func Maple(s Shape, x ExpertShape, rotary int, sliding []bool, window int) *model.Config {
	rope := s.rope()
	rope.Dim = rotary
	return s.decoder("maple", func(prefix string, n int) part.Layer {
		attn := s.attention(prefix, nil)
		attn.QNorm = s.normOf(prefix+"self_attn.q_norm", s.HeadDim)
		attn.KNorm = s.normOf(prefix+"self_attn.k_norm", s.HeadDim)
		if sliding[n] {
			attn.Rope, attn.Window = rope, window+1
		}
		return part.Layer{
			MixerNorm: s.norm(prefix + "input_layernorm"), Mixer: attn,
			FeedForwardNorm: s.norm(prefix + "post_attention_layernorm"), FeedForward: s.experts(prefix, x),
		}
	})
}

var mapleFamily = &family{
	name: "maple",
	says: "Maple-preview 20B-A1B, 256 ternary experts (MapleForCausalLM; GGUF maple)",
	is:   func(c *hfConfig) bool { return c.ModelType == "maple" },
	keys: hfKeys{
		defaults: `{"num_attention_heads": 16, "num_key_value_heads": 4, "head_dim": 128, "hidden_act": "silu", "rms_norm_eps": 1e-6, "num_experts": 256,
			"num_experts_per_tok": 8, "moe_intermediate_size": 512, "norm_topk_prob": true, "sliding_window": 512, "partial_rotary_factor": 0.5,
			"max_position_embeddings": 131072}`,
		used: "num_experts num_local_experts num_experts_per_tok moe_intermediate_size norm_topk_prob sliding_window layer_types partial_rotary_factor",
		only: map[string][]string{
			"nope_on_global_attention": {"true"}, "use_qk_norm": {"true"}, "use_bias": {"false"}, "use_qkv_bias": {"false"}, "num_shared_experts": {"0"},
			"router_dtype": {`"fp32"`, `"float32"`}, "moe_router_enable_expert_bias": {"false"}, "expert_weight_layout": {},
		},
		harmless: "output_router_logits router_aux_loss_coef qat_ternary quantize preaffine training_objective bdlm_block_size bdlm_sampling_eps " +
			"mask_token_id moe_shared_expert_intermediate_size max_window_layers",
	},
	hf: func(c *hfConfig) (*model.Config, error) {
		partial := 1.0
		for _, p := range []*float64{c.PartialRotary, c.ropeParameters().PartialRotary} {
			if p != nil {
				partial = *p
			}
		}
		c.partial = true
		s, err := c.shape()
		if err != nil {
			return nil, err
		}
		x, err := c.experts(256)
		if err != nil {
			return nil, err
		}
		x.Clamp = mapleClamp
		sliding, err := c.slidingTypes()
		switch {
		case err != nil:
			return nil, err
		case sliding == nil:
			return nil, errors.New("layer_types is missing: it says which layers see a window of tokens")
		case c.SlidingWindow == nil:
			return nil, errors.New("sliding_window is missing")
		}
		cfg := Maple(s, x, int(float64(s.HeadDim)*partial), sliding, *c.SlidingWindow)
		cfg.Embedding.Name = "model.word_embeddings"
		return cfg, checkWindow(*c.SlidingWindow)
	},
	gguf:       []string{"maple"},
	ggufKeys:   append([]string{"attention.sliding_window", "attention.sliding_window_pattern", "swiglu_clamp_exp"}, expertKeys...),
	ggufRotary: true,
	fromGGUF: func(g *ggufReader, s Shape) (*model.Config, error) {
		s.Activation = part.SiLU
		x, err := g.experts(&s)
		if err != nil {
			return nil, err
		}
		if x.Clamp, err = g.clamp(); err != nil {
			return nil, err
		}
		rotary := g.num("rope.dimension_count", s.HeadDim)
		key := g.arch + ".attention.sliding_window"
		if !g.kv.Has(key) || !g.kv.Has(key+"_pattern") {
			return nil, fmt.Errorf("key %q or %q is missing: they say which layers see how many tokens", key, key+"_pattern")
		}
		window := g.num("attention.sliding_window", -1)
		sliding, err := g.pattern(key+"_pattern", s.NumLayers)
		if err = errors.Join(g.err, err); err != nil {
			return nil, err
		}
		return Maple(s, x, rotary, sliding, window), checkWindow(window)
	},
}

// clamp reads the limit of experts' gates and ups, of all layers alike.
func (g *ggufReader) clamp() (float32, error) {
	key := g.arch + ".swiglu_clamp_exp"
	if !g.kv.Has(key) {
		return mapleClamp, nil
	}
	list, err := g.kv.Floats(key)
	if err != nil || len(list) == 0 {
		return 0, fmt.Errorf("key %q is %s; it must be a list of numbers", key, short(g.kv.Get(key)))
	}
	if slices.ContainsFunc(list, func(v float32) bool { return v != list[0] }) || !(list[0] > 0 && list[0] < 1e6) {
		return 0, fmt.Errorf("key %q is %s; it must be one positive number for all layers", key, short(g.kv.Get(key)))
	}
	return list[0], nil
}

// pattern reads an array of a bool, or a number that is 0 or 1, for each layer.
func (g *ggufReader) pattern(key string, layers int) ([]bool, error) {
	list := make([]bool, layers)
	switch v := g.kv.Get(key).(type) {
	case []bool:
		if len(v) == layers {
			copy(list, v)
			return list, nil
		}
	default:
		if n, err := g.kv.Ints(key); err == nil && len(n) == layers {
			for i, x := range n {
				list[i] = x != 0
			}
			return list, nil
		}
	}
	return nil, fmt.Errorf("key %q is %s; it must have a bool for each of %d layers", key, short(g.kv.Get(key)), layers)
}
