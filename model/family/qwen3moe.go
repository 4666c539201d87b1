package family

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
)

// ExpertShape is the numbers of feed-forwards of experts.
type ExpertShape struct {
	Experts          int
	TopK             int
	IntermediateSize int // of an expert
	Renormalise      bool
	Clamp            float32
	Shared           int // of the expert that every token has, 0: none
}

// experts has the projections of the layer whose modules begin with prefix.
func (s *Shape) experts(prefix string, x ExpertShape) *part.Experts {
	one := *s
	one.IntermediateSize = x.IntermediateSize
	e := &part.Experts{
		Router: part.Projection{Name: prefix + "mlp.gate", In: s.HiddenSize, Out: x.Experts, Role: part.RoleRouter},
		TopK:   x.TopK, Renormalise: x.Renormalise,
	}
	for i := range x.Experts {
		g := one.gated("")
		for _, p := range g.Projections() {
			p.Name = fmt.Sprintf("%smlp.experts.%d.%s", prefix, i, p.Name[len("mlp."):])
		}
		g.Clamp = x.Clamp
		e.Experts = append(e.Experts, *g)
	}
	return e
}

// check refuses impossible numbers, by the names of their keys.
func (x *ExpertShape) check(experts, used, size string) error {
	switch {
	case x.Experts < 1 || x.Experts > maxExperts:
		return fmt.Errorf("%s is %d; it must be 1 to %d", experts, x.Experts, maxExperts)
	case x.TopK < 1 || x.TopK > x.Experts:
		return fmt.Errorf("%s is %d; it must be 1 to %s, %d", used, x.TopK, experts, x.Experts)
	case x.IntermediateSize < 1 || x.IntermediateSize > maxWidth:
		return fmt.Errorf("%s is %d; it must be 1 to %d", size, x.IntermediateSize, maxWidth)
	}
	return nil
}

// maxExperts is what no published model reaches.
const maxExperts = 1 << 12

// Qwen3MoE is Qwen3's block with experts in the layers for which sparse says so. A token sees the last window tokens; 0 is all.
//
// Source: transformers models/qwen3_moe.
func Qwen3MoE(s Shape, x ExpertShape, sparse func(layer int) bool, window int) *model.Config {
	rope := s.rope()
	return s.decoder("qwen3moe", func(prefix string, n int) part.Layer {
		attn := s.attention(prefix, rope)
		attn.QNorm = s.normOf(prefix+"self_attn.q_norm", s.HeadDim)
		attn.KNorm = s.normOf(prefix+"self_attn.k_norm", s.HeadDim)
		attn.Window = window
		y := part.Layer{
			MixerNorm: s.norm(prefix + "input_layernorm"), Mixer: attn,
			FeedForwardNorm: s.norm(prefix + "post_attention_layernorm"), FeedForward: s.gated(prefix),
		}
		if sparse(n) {
			y.FeedForward = s.experts(prefix, x)
		}
		return y
	})
}

var qwen3moeFamily = &family{
	name: "qwen3moe",
	says: "Qwen3 with experts, weights of any kind (Qwen3MoeForCausalLM; GGUF qwen3moe)",
	is:   func(c *hfConfig) bool { return c.ModelType == "qwen3_moe" },
	keys: hfKeys{
		class: "Qwen3MoeConfig",
		defaults: `{"num_key_value_heads": 4, "hidden_act": "silu", "rms_norm_eps": 1e-6, "sliding_window": 4096, "decoder_sparse_step": 1,
			"moe_intermediate_size": 768, "num_experts_per_tok": 8}`,
		used:     "use_sliding_window sliding_window num_experts num_local_experts num_experts_per_tok moe_intermediate_size norm_topk_prob decoder_sparse_step mlp_only_layers",
		harmless: "output_router_logits router_aux_loss_coef max_window_layers",
	},
	hf: func(c *hfConfig) (*model.Config, error) {
		s, err := c.shape()
		if err != nil {
			return nil, err
		}
		x, err := c.experts(128)
		if err != nil {
			return nil, err
		}
		window := 0
		if c.UseSlidingWindow && c.SlidingWindow != nil {
			if window = *c.SlidingWindow; checkWindow(window) != nil {
				return nil, checkWindow(window)
			}
		}
		if c.DecoderSparseStep < 1 {
			return nil, fmt.Errorf("decoder_sparse_step is %d; it must be positive", c.DecoderSparseStep)
		}
		sparse := func(n int) bool { return !slices.Contains(c.MLPOnlyLayers, n) && (n+1)%c.DecoderSparseStep == 0 }
		return Qwen3MoE(s, x, sparse, window), nil
	},
	gguf:     []string{"qwen3moe"},
	ggufKeys: expertKeys,
	fromGGUF: func(g *ggufReader, s Shape) (*model.Config, error) {
		s.Activation = part.SiLU
		x, err := g.experts(&s)
		if err != nil {
			return nil, err
		}
		return Qwen3MoE(s, x, func(int) bool { return true }, 0), nil
	},
}

// experts reads the numbers of experts of config.json.
func (c *hfConfig) experts(number int) (ExpertShape, error) {
	x := ExpertShape{Experts: number, TopK: c.ExpertsPerToken, IntermediateSize: c.MoEIntermediate, Renormalise: c.NormTopK}
	for _, n := range []*int{c.NumExperts, c.NumLocalExperts} { // two names of one thing: transformers' attribute_map
		if n != nil {
			x.Experts = *n
		}
	}
	if c.NumExperts != nil && c.NumLocalExperts != nil && *c.NumExperts != *c.NumLocalExperts {
		return x, fmt.Errorf("num_experts is %d and num_local_experts %d", *c.NumExperts, *c.NumLocalExperts)
	}
	return x, x.check("num_experts", "num_experts_per_tok", "moe_intermediate_size")
}

// expertKeys are the keys of experts of a GGUF file.
var expertKeys = []string{"expert_count", "expert_used_count", "expert_feed_forward_length", "expert_weights_norm", "expert_gating_func"}

// experts reads the numbers of experts of a GGUF file, whose weights are renormalised. Source: llama.cpp src/models/qwen3moe.cpp.
func (g *ggufReader) experts(s *Shape) (ExpertShape, error) {
	x := ExpertShape{Experts: g.num("expert_count", -1), TopK: g.num("expert_used_count", -1), Renormalise: true}
	x.IntermediateSize = g.num("expert_feed_forward_length", s.IntermediateSize/max(x.TopK, 1))
	if n := g.num("expert_gating_func", 1); n != 1 {
		g.fail(fmt.Errorf("%s.expert_gating_func is %d; only 1, softmax, is supported", g.arch, n))
	}
	if key := g.arch + ".expert_weights_norm"; g.kv.Has(key) {
		if norm, err := g.kv.Bool(key); err != nil || !norm {
			g.fail(errors.Join(err, fmt.Errorf("%s is %v; only true is supported", key, g.kv.Get(key))))
		}
	}
	if g.err != nil {
		return x, g.err
	}
	if !g.set.Has("model.layers.0.mlp.gate.weight") {
		return x, fmt.Errorf("tensor %q is missing: the keys say that a token takes %d of %d experts, and the file has no router that chooses them", "blk.0.ffn_gate_inp.weight", x.TopK, x.Experts)
	}
	return x, x.check(g.arch+".expert_count", g.arch+".expert_used_count", g.arch+".expert_feed_forward_length")
}
