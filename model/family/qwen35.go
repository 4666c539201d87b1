package family

import (
	"errors"
	"fmt"
	"slices"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
)

// DeltaShape is the numbers of Gated DeltaNet layers.
type DeltaShape struct {
	KeyHeads, ValueHeads, KeyDim, ValueDim, Kernel int
}

// Qwen35 is Qwen3.5's block, and that of the families of the same form: a Gated DeltaNet or, where full says so, attention with an
// output gate whose first rotary values of each head are turned. Files of GGUF have value heads tiled.
//
// Source: transformers models/qwen3_5.
func Qwen35(s Shape, d DeltaShape, rotary int, full []bool, tiled bool) *model.Config {
	rope := s.rope()
	rope.Dim = rotary
	norm := func(name string, width int) *part.Norm {
		n := s.normOf(name, width)
		n.Offset = true
		return n
	}
	c := s.decoder("qwen35", func(prefix string, n int) part.Layer {
		y := part.Layer{
			MixerNorm:       *norm(prefix+"input_layernorm", s.HiddenSize),
			FeedForwardNorm: *norm(prefix+"post_attention_layernorm", s.HiddenSize), FeedForward: s.gated(prefix),
		}
		if full[n] {
			attn := s.attention(prefix, rope)
			attn.Gate = true
			attn.Q.Out *= 2
			attn.QNorm, attn.KNorm = norm(prefix+"self_attn.q_norm", s.HeadDim), norm(prefix+"self_attn.k_norm", s.HeadDim)
			y.Mixer = attn
		} else {
			y.Mixer = s.deltaNet(prefix+"linear_attn.", d, tiled)
		}
		return y
	})
	c.FinalNorm.Offset = true
	return c
}

// Qwen35MoE is the same with experts in every layer, beside one that all tokens have.
//
// Source: transformers models/qwen3_5_moe.
func Qwen35MoE(s Shape, d DeltaShape, x ExpertShape, rotary int, full []bool, tiled bool) *model.Config {
	c := Qwen35(s, d, rotary, full, tiled)
	c.Family = "qwen35moe"
	for i := range c.Layers {
		prefix := fmt.Sprintf("model.layers.%d.", i)
		e := s.experts(prefix, x)
		if x.Shared > 0 {
			one := s
			one.IntermediateSize = x.Shared
			e.Shared = one.gated(prefix)
			for _, p := range e.Shared.Projections() {
				p.Name = prefix + "mlp.shared_expert." + p.Name[len(prefix+"mlp."):]
			}
			e.SharedGate = &part.Projection{Name: prefix + "mlp.shared_expert_gate", In: s.HiddenSize, Out: 1, Role: part.RoleRouter}
		}
		c.Layers[i].FeedForward = e
	}
	return c
}

func (s *Shape) deltaNet(prefix string, d DeltaShape, tiled bool) *part.DeltaNet {
	D, values := s.HiddenSize, d.ValueHeads*d.ValueDim
	return &part.DeltaNet{
		KeyHeads: d.KeyHeads, ValueHeads: d.ValueHeads, KeyDim: d.KeyDim, ValueDim: d.ValueDim, Kernel: d.Kernel,
		QKV:   part.Projection{Name: prefix + "in_proj_qkv", In: D, Out: 2*d.KeyHeads*d.KeyDim + values},
		Gate:  part.Projection{Name: prefix + "in_proj_z", In: D, Out: values},
		Beta:  part.Projection{Name: prefix + "in_proj_b", In: D, Out: d.ValueHeads},
		Alpha: part.Projection{Name: prefix + "in_proj_a", In: D, Out: d.ValueHeads},
		Out:   part.Projection{Name: prefix + "out_proj", In: values, Out: D, Role: part.RoleOut},
		Norm:  s.normOf(prefix+"norm", d.ValueDim), Conv: prefix + "conv1d", A: prefix + "A_log", Bias: prefix + "dt_bias",
		Decay: tiled, Tiled: tiled,
	}
}

const (
	qwen35Defaults = `"num_attention_heads": 16, "head_dim": 256, "hidden_act": "silu", "rms_norm_eps": 1e-6, "partial_rotary_factor": 0.25,
		"linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_value_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
		"full_attention_interval": 4, "max_position_embeddings": 32768`
	qwen35Used = "layer_types full_attention_interval partial_rotary_factor linear_conv_kernel_dim linear_key_head_dim linear_value_head_dim " +
		"linear_num_key_heads linear_num_value_heads"
	qwen35Harmless = "mamba_ssm_dtype mtp_num_hidden_layers mtp_use_dedicated_embeddings"
)

var (
	qwen35Only = map[string][]string{"attn_output_gate": {"true"}, "mlp_only_layers": {"[]"}}
	qwen35Keys = []string{
		"full_attention_interval", "attention.recurrent_layers", "ssm.conv_kernel", "ssm.state_size", "ssm.group_count", "ssm.time_step_rank", "ssm.inner_size",
		"rope.dimension_sections", "nextn_predict_layers",
	}
)

var qwen35Family = &family{
	name: "qwen35",
	says: "Qwen3.5's hybrids, dense, Bonsai-27B among them (Qwen3_5ForCausalLM, the text of Qwen3_5ForConditionalGeneration; GGUF qwen35)",
	is:   func(c *hfConfig) bool { return c.ModelType == "qwen3_5_text" },
	keys: hfKeys{
		class:    "Qwen3_5TextConfig",
		defaults: `{"num_key_value_heads": 4, ` + qwen35Defaults + `}`,
		used:     qwen35Used, only: qwen35Only, harmless: qwen35Harmless,
	},
	hf: func(c *hfConfig) (*model.Config, error) {
		return c.qwen35(func(s Shape, d DeltaShape, rotary int, full []bool) (*model.Config, error) {
			return Qwen35(s, d, rotary, full, false), nil
		})
	},
	gguf:       []string{"qwen35"},
	ggufKeys:   qwen35Keys,
	ggufRotary: true,
	fromGGUF: func(g *ggufReader, s Shape) (*model.Config, error) {
		return g.qwen35(s, func(s Shape, d DeltaShape, rotary int, full []bool) (*model.Config, error) {
			return Qwen35(s, d, rotary, full, true), nil
		})
	},
}

var qwen35moeFamily = &family{
	name: "qwen35moe",
	says: "Qwen3.5's hybrids with experts (Qwen3_5MoeForCausalLM, the text of Qwen3_5MoeForConditionalGeneration; GGUF qwen35moe)",
	is:   func(c *hfConfig) bool { return c.ModelType == "qwen3_5_moe_text" },
	keys: hfKeys{
		class: "Qwen3_5MoeTextConfig",
		defaults: `{"num_key_value_heads": 2, "moe_intermediate_size": 512, "shared_expert_intermediate_size": 512, "num_experts_per_tok": 8, ` +
			qwen35Defaults + `}`,
		used:     qwen35Used + " moe_intermediate_size shared_expert_intermediate_size num_experts num_local_experts num_experts_per_tok",
		only:     qwen35Only,
		harmless: qwen35Harmless + " output_router_logits router_aux_loss_coef",
	},
	hf: func(c *hfConfig) (*model.Config, error) {
		c.NormTopK = true
		x, err := c.experts(256)
		if err != nil {
			return nil, err
		}
		x.Shared, c.IntermediateSize = c.SharedIntermediate, c.SharedIntermediate
		return c.qwen35(func(s Shape, d DeltaShape, rotary int, full []bool) (*model.Config, error) {
			return Qwen35MoE(s, d, x, rotary, full, false), nil
		})
	},
	gguf:       []string{"qwen35moe"},
	ggufKeys:   slices.Concat(qwen35Keys, expertKeys, []string{"expert_shared_feed_forward_length"}),
	ggufRotary: true, ggufExperts: true,
	fromGGUF: func(g *ggufReader, s Shape) (*model.Config, error) {
		x, err := g.experts(&s)
		if err != nil {
			return nil, err
		}
		x.Shared = g.num("expert_shared_feed_forward_length", x.IntermediateSize)
		return g.qwen35(s, func(s Shape, d DeltaShape, rotary int, full []bool) (*model.Config, error) {
			return Qwen35MoE(s, d, x, rotary, full, true), nil
		})
	},
}

// qwen35Layers makes the layers of what the two readers have read.
type qwen35Layers func(s Shape, d DeltaShape, rotary int, full []bool) (*model.Config, error)

// qwen35 reads config.json.
func (c *hfConfig) qwen35(layers qwen35Layers) (*model.Config, error) {
	partial := *c.PartialRotary
	if p := c.ropeParameters().PartialRotary; p != nil {
		partial = *p
	}
	c.partial = true
	s, err := c.shape()
	if err != nil {
		return nil, err
	}
	full, err := c.fullTypes()
	if err != nil {
		return nil, err
	}
	d := DeltaShape{c.LinearKeyHeads, c.LinearValueHeads, c.LinearKeyDim, c.LinearValueDim, c.LinearKernel}
	cfg, err := layers(s, d, int(float64(s.HeadDim)*partial), full)
	if err != nil {
		return nil, err
	}
	c.ownBiases = true
	for i := range cfg.Layers {
		if a, ok := cfg.Layers[i].Mixer.(*part.Attention); ok {
			for _, p := range a.Projections() {
				p.Bias = c.AttentionBias
			}
		}
	}
	cfg.Skip = []string{"mtp.", "model.visual."} // heads that guess further tokens; what looks at images
	return cfg, nil
}

// qwen35 reads the keys of a GGUF file.
func (g *ggufReader) qwen35(s Shape, layers qwen35Layers) (*model.Config, error) {
	s.Activation = part.SiLU
	mtp := g.num("nextn_predict_layers", 0) // blocks behind the trunk that guess further tokens
	if mtp >= s.NumLayers {
		return nil, fmt.Errorf("%s.nextn_predict_layers is %d and block_count %d: no layer is left", g.arch, mtp, s.NumLayers)
	}
	blocks := s.NumLayers
	s.NumLayers -= mtp
	d := DeltaShape{KeyHeads: g.num("ssm.group_count", -1), ValueHeads: g.num("ssm.time_step_rank", -1), KeyDim: g.num("ssm.state_size", -1), Kernel: g.num("ssm.conv_kernel", -1)}
	inner, rotary := g.num("ssm.inner_size", -1), g.num("rope.dimension_count", s.HeadDim)
	full, err := g.fullLayers(s.NumLayers, blocks)
	if err := errors.Join(g.err, err); err != nil {
		return nil, err
	}
	if d.ValueHeads < 1 || inner < 1 || inner%d.ValueHeads != 0 {
		return nil, fmt.Errorf("%s.ssm.inner_size %d is not a multiple of ssm.time_step_rank %d", g.arch, inner, d.ValueHeads)
	}
	d.ValueDim = inner / d.ValueHeads
	cfg, err := layers(s, d, rotary, full)
	if err != nil {
		return nil, err
	}
	for n := s.NumLayers; n < blocks; n++ {
		cfg.Skip = append(cfg.Skip, fmt.Sprintf("blk.%d.", n))
	}
	return cfg, nil
}

// fullTypes reads which layers are attention: layer_types, or every full_attention_interval-th.
func (c *hfConfig) fullTypes() ([]bool, error) {
	full := make([]bool, c.NumLayers)
	if c.LayerTypes == nil {
		if c.FullInterval < 1 {
			return nil, fmt.Errorf("full_attention_interval is %d; it must be positive", c.FullInterval)
		}
		for i := range full {
			full[i] = (i+1)%c.FullInterval == 0
		}
		return full, nil
	}
	if len(c.LayerTypes) != c.NumLayers {
		return nil, fmt.Errorf("layer_types has %d entries and num_hidden_layers is %d", len(c.LayerTypes), c.NumLayers)
	}
	for i, t := range c.LayerTypes {
		if !slices.Contains([]string{"linear_attention", "full_attention"}, t) {
			return nil, fmt.Errorf("layer_types[%d] is %q; known: linear_attention, full_attention", i, t)
		}
		full[i] = t == "full_attention"
	}
	return full, nil
}

// fullLayers is the same of a GGUF file, whose array may have the blocks behind the layers, too.
func (g *ggufReader) fullLayers(layers, blocks int) ([]bool, error) {
	full := make([]bool, layers)
	if key := g.arch + ".attention.recurrent_layers"; g.kv.Has(key) {
		recurrent, err := g.pattern(key, blocks)
		if err != nil {
			if recurrent, err = g.pattern(key, layers); err != nil {
				return nil, err
			}
		}
		for i := range full {
			full[i] = !recurrent[i]
		}
		return full, nil
	}
	interval := g.num("full_attention_interval", 4)
	if interval < 1 {
		return nil, fmt.Errorf("%s.full_attention_interval is %d; it must be positive", g.arch, interval)
	}
	for i := range full {
		full[i] = (i+1)%interval == 0
	}
	return full, nil
}
