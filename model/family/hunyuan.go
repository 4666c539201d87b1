package family

import (
	"math"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
)

// HunYuan is Tencent's dense block: Llama's with an RMSNorm over each head of q and k behind the rotary positions.
//
// Source: transformers models/hunyuan_v1_dense.
func HunYuan(s Shape) *model.Config {
	rope := s.rope()
	return s.decoder("hunyuan-dense", func(prefix string, _ int) part.Layer {
		attn := s.attention(prefix, rope)
		attn.QNorm = s.normOf(prefix+"self_attn.query_layernorm", s.HeadDim)
		attn.KNorm = s.normOf(prefix+"self_attn.key_layernorm", s.HeadDim)
		attn.RopeFirst = true
		return part.Layer{
			MixerNorm: s.norm(prefix + "input_layernorm"), Mixer: attn,
			FeedForwardNorm: s.norm(prefix + "post_attention_layernorm"), FeedForward: s.gated(prefix),
		}
	})
}

var hunyuanFamily = &family{
	name: "hunyuan-dense",
	says: "Hunyuan dense, Hy-MT in 1.25 bits (HunYuanDenseV1ForCausalLM; GGUF hunyuan-dense)",
	is:   func(c *hfConfig) bool { return c.ModelType == "hunyuan_v1_dense" },
	keys: hfKeys{
		class:    "HunYuanDenseV1Config",
		defaults: `{"hidden_act": "silu", "rms_norm_eps": 1e-5}`,
		only:     map[string][]string{"use_qk_norm": {"true"}, "use_cla": {"false"}, "use_mla": {"false"}, "num_experts": {"0", "1"}, "add_classification_head": {"false"}},
		harmless: "pretraining_tp eod_token_id mask_init_id org_vocab_size pad_id sep_token_id text_start_id text_end_id im_start_id im_end_id im_newline_id " +
			"norm_type cla_share_factor class_num pool_type attention_head_dim",
	},
	hf: func(c *hfConfig) (*model.Config, error) {
		r := c.ropeParameters()
		alpha := 0.0
		if r.kind() == "dynamic" && r.Alpha > 0 { // a fixed base, whatever its name says
			alpha, r.Type, r.OldType = r.Alpha, "default", ""
		}
		s, err := c.shape()
		if err != nil {
			return nil, err
		}
		if alpha > 0 {
			s.RopeTheta *= math.Pow(alpha, float64(s.HeadDim)/float64(s.HeadDim-2))
		}
		return HunYuan(s), nil
	},
	gguf:     []string{"hunyuan-dense"},
	ggufKeys: []string{"rope.scaling.alpha"}, // folded into rope.freq_base by its converter
	fromGGUF: func(_ *ggufReader, s Shape) (*model.Config, error) {
		s.Activation = part.SiLU
		return HunYuan(s), nil
	},
}
