package model

import "github.com/tritlm/trit/weights"

// onebitFamily is the reproduction by 1bitLLM (bitnet_b1_58-large, -xl, -3B): the 2B4T block with SiLU, masters in
// half precision that are quantised when loaded, and other names for the two sub-norms:
// self_attn.inner_attn_ln and mlp.ffn_layernorm.
//
// Source: the configuration_bitnet.py, modeling_bitnet.py and utils_quant.py published with the models.
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
	hf: func(c *hfConfig) (*Config, error) {
		cfg, err := c.common()
		if err != nil {
			return nil, err
		}
		cfg.SubNorms = true
		cfg.Ternary, cfg.FloatLinear = true, []string{headName}
		return cfg, nil
	},
	gguf: []string{"bitnet"},
	fromGGUF: func(cfg *Config, _ *weights.Set) error {
		cfg.SubNorms = true
		cfg.Ternary, cfg.FloatLinear = true, []string{headName}
		cfg.Activation = SiLU
		return nil
	},
}

// isBitNetLlama tells the 1bitLLM files, whose class is BitNetForCausalLM (or BitnetForCausalLM) and whose
// model_type is llama, from plain Llama files.
func (c *hfConfig) isBitNetLlama() bool {
	if c.ModelType != "llama" && c.ModelType != "bitnet-1bitllm" {
		return false
	}
	for _, a := range c.Architectures {
		if a == "BitNetForCausalLM" || a == "BitnetForCausalLM" {
			return true
		}
	}
	return c.WeightBits == 1
}
