package family

import (
	"slices"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
)

// OneBit is the reproduction by 1bitLLM (bitnet_b1_58-large, -xl, -3B): the 2B4T block with SiLU, masters in half precision that
// are quantised when loaded, and other names for the two sub-norms.
//
// Source: the configuration_bitnet.py, modeling_bitnet.py and utils_quant.py published with the models.
func OneBit(s Shape) *model.Config {
	return bitNet("bitnet-1bitllm", s, "self_attn.inner_attn_ln", "mlp.ffn_layernorm")
}

var onebitFamily = &family{
	name: "bitnet-1bitllm",
	says: "1bitLLM bitnet_b1_58-large, -xl, -3B and kin (GGUF bitnet)",
	is:   (*hfConfig).isBitNetLlama,
	keys: hfKeys{
		defaults: `{"hidden_act": "silu"}`,
		used:     "mlp_bias weight_bits",
		only:     map[string][]string{"input_bits": {"8"}},
		harmless: "pretraining_tp",
	},
	hf: func(c *hfConfig) (*model.Config, error) {
		c.masters = true
		return c.build(OneBit)
	},
	gguf: []string{"bitnet"},
	fromGGUF: func(g *ggufReader, s Shape) (*model.Config, error) {
		s.Activation = part.SiLU
		g.eightBits, g.masters = true, true
		return OneBit(s), nil
	},
}

// isBitNetLlama tells the 1bitLLM files, whose class is BitNetForCausalLM (or BitnetForCausalLM) and whose
// model_type is llama, from plain Llama files.
func (c *hfConfig) isBitNetLlama() bool {
	if c.ModelType != "llama" && c.ModelType != "bitnet-1bitllm" {
		return false
	}
	return c.WeightBits == 1 || slices.Contains(c.Architectures, "BitNetForCausalLM") || slices.Contains(c.Architectures, "BitnetForCausalLM")
}
