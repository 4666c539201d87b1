package family

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
)

// Arch is the general.architecture that a GGUF file of the family has, "" where GGUF has none.
//
// llama.cpp rotates the heads of arch llama in neighbouring pairs, so the rows of q and k are stored in another order there.
func Arch(family string) string {
	return map[string]string{"bitnet": "bitnet-b1.58", "bitnet-1bitllm": "bitnet", "llama": "llama", "qwen3": "qwen3", "gemma3": "gemma3"}[family]
}

// OwnNorm is the module of the norms that ternary projections have of their own, such as "rms_norm", and their eps; "" where
// they have none.
func OwnNorm(c *model.Config) (name string, eps float32) {
	for _, p := range c.Projections() {
		if p.Norm != nil {
			return p.Norm.Name[strings.LastIndexByte(p.Norm.Name, '.')+1:], p.Norm.Eps
		}
	}
	return "", 0
}

// GGUFKeys are the keys of a GGUF file that describe the model, as far as the format has words for it: who writes it compares
// what Read makes of them with the model.
func GGUFKeys(c *model.Config) (gguf.KV, error) {
	arch := Arch(c.Family)
	if arch == "" {
		return nil, fmt.Errorf("GGUF has no architecture for %s; take an hf- format: %w", c.Family, errors.ErrUnsupported)
	}
	s := ShapeOf(c)
	if norm, _ := OwnNorm(c); norm != "" && c.Pooling == "" { // read back here it would be right, and nowhere else
		return nil, fmt.Errorf("GGUF has no place for the RMSNorm inside each BitLinear of this model (use_rms_norm); take an hf- format: %w", errors.ErrUnsupported)
	}
	name := c.Name
	if name == "" {
		name = c.Family
	}
	kv := gguf.KV{{Key: "general.architecture", Value: arch}, {Key: "general.type", Value: "model"}, {Key: "general.name", Value: name}}
	u := func(key string, v int) { kv.Set(arch+"."+key, uint32(v)) }
	u("vocab_size", s.VocabSize)
	u("context_length", s.MaxContext)
	u("embedding_length", s.HiddenSize)
	u("block_count", s.NumLayers)
	u("feed_forward_length", s.IntermediateSize)
	u("attention.head_count", s.NumHeads)
	u("attention.head_count_kv", s.NumKVHeads)
	u("attention.key_length", s.HeadDim)
	u("attention.value_length", s.HeadDim)
	u("rope.dimension_count", s.HeadDim)
	kv.Set(arch+".attention.layer_norm_rms_epsilon", s.NormEps)
	kv.Set(arch+".rope.freq_base", float32(s.RopeTheta))
	ropeKeys(&kv, arch, s.Rope)
	if c.Family == "gemma3" {
		gemma3Keys(&kv, c, s)
	}
	switch c.Pooling { // as in llama.cpp's llama.h
	case model.PoolMean:
		u("pooling_type", 1)
	case model.PoolLast:
		u("pooling_type", 3)
	}
	return kv, nil
}

// ropeKeys say how rotary positions are stretched.
func ropeKeys(kv *gguf.KV, arch string, r part.RopeScaling) {
	if r.Type != "linear" && r.Type != "yarn" {
		return
	}
	key := arch + ".rope.scaling."
	kv.Set(key+"type", r.Type)
	kv.Set(key+"factor", float32(r.Factor))
	if r.Type == "linear" {
		return
	}
	kv.Set(key+"original_context_length", uint32(r.OldContext))
	if own := yarnScale(r.Factor, 1); r.AttnFactor != own { // what readers scale attention by of themselves
		kv.Set(key+"attn_factor", float32(r.AttnFactor/own))
	}
	kv.Set(key+"yarn_beta_fast", float32(r.BetaFast))
	kv.Set(key+"yarn_beta_slow", float32(r.BetaSlow))
}

// gemma3Keys are those of Gemma 3's windows and scores.
func gemma3Keys(kv *gguf.KV, c *model.Config, s Shape) {
	if a := c.Layers[0].Mixer.(*part.Attention); a.Scalar != 0 && a.Scalar != float64(s.HeadDim) {
		kv.Set("gemma3.attention.scale", float32(1/math.Sqrt(a.Scalar)))
	}
	windows := Windows(c)
	slides := slices.IndexFunc(windows, func(w int) bool { return w > 0 })
	if slides < 0 {
		kv.Set("gemma3.attention.sliding_window", uint32(0)) // said, so that nobody guesses
		return
	}
	period := slices.Index(windows, 0) + 1
	if period == 0 { // all of them slide
		period = s.NumLayers + 1
	}
	kv.Set("gemma3.attention.sliding_window", uint32(windows[slides]))
	kv.Set("gemma3.attention.sliding_window_pattern", uint32(period))
	kv.Set("gemma3.rope.freq_base_swa", float32(c.Layers[slides].Mixer.(*part.Attention).Rope.Theta))
}

// HFConfig is a config.json for a model that had none, but for quantization_config and the type of its floats.
func HFConfig(c *model.Config) (map[string]any, error) {
	classes := map[string][2]string{
		"bitnet":         {"BitNetForCausalLM", "bitnet"},
		"bitnet-1bitllm": {"BitnetForCausalLM", "llama"},
		"llama":          {"LlamaForCausalLM", "llama"},
		"qwen3":          {"Qwen3ForCausalLM", "qwen3"},
		"gemma3":         {"Gemma3ForCausalLM", "gemma3_text"},
	}
	class, ok := classes[c.Family]
	if !ok {
		return nil, fmt.Errorf("a configuration of %s cannot be written: %w", c.Family, errors.ErrUnsupported)
	}
	switch {
	case c.Pooling != "" && c.Family == "qwen3":
		class[0] = "Qwen3Model"
	case c.Pooling != "" && c.Family == "gemma3":
		class[0] = "Gemma3TextModel"
	}
	s := ShapeOf(c)
	config := map[string]any{
		"architectures": []string{class[0]}, "model_type": class[1],
		"hidden_size": s.HiddenSize, "intermediate_size": s.IntermediateSize, "num_hidden_layers": s.NumLayers,
		"num_attention_heads": s.NumHeads, "num_key_value_heads": s.NumKVHeads, "head_dim": s.HeadDim,
		"vocab_size": s.VocabSize, "max_position_embeddings": s.MaxContext, "rms_norm_eps": Decimal(s.NormEps),
		"rope_theta": s.RopeTheta, "hidden_act": string(s.Activation), "tie_word_embeddings": s.TiedHead,
		"attention_bias": hasBias(c, "q_proj"), "use_cache": true, "initializer_range": 0.02,
	}
	if hasBias(c, "up_proj") {
		config["mlp_bias"] = true
	}
	if c.Family == "gemma3" {
		delete(config, "hidden_act")
		config["hidden_activation"], config["query_pre_attn_scalar"] = string(s.Activation), c.Layers[0].Mixer.(*part.Attention).Scalar
		kinds := make([]string, s.NumLayers)
		for i, w := range Windows(c) {
			kinds[i] = "full_attention"
			if w > 0 {
				kinds[i] = "sliding_attention"
				config["sliding_window"], config["rope_local_base_freq"] = w, c.Layers[i].Mixer.(*part.Attention).Rope.Theta
			}
		}
		config["layer_types"] = kinds
	}
	if c.Family == "bitnet-1bitllm" {
		config["weight_bits"], config["input_bits"] = 1, 8
	}
	switch s.Rope.Type {
	case "linear":
		config["rope_scaling"] = map[string]any{"rope_type": "linear", "factor": s.Rope.Factor}
	case "llama3":
		config["rope_scaling"] = map[string]any{
			"rope_type": "llama3", "factor": s.Rope.Factor, "low_freq_factor": s.Rope.LowFreqFactor,
			"high_freq_factor": s.Rope.HighFreqFactor, "original_max_position_embeddings": s.Rope.OldContext,
		}
	case "yarn":
		config["rope_scaling"] = map[string]any{
			"rope_type": "yarn", "factor": s.Rope.Factor, "original_max_position_embeddings": s.Rope.OldContext,
			"attention_factor": s.Rope.AttnFactor, "beta_fast": s.Rope.BetaFast, "beta_slow": s.Rope.BetaSlow, "truncate": !s.Rope.NoTruncate,
		}
	}
	return config, nil
}

// Decimal is a float32 in JSON as people write it: 1e-06, not the float64 nearest to its float32.
func Decimal(v float32) json.Number { return json.Number(strconv.FormatFloat(float64(v), 'g', -1, 32)) }

// hasBias says whether some projection of that name has a bias.
func hasBias(c *model.Config, name string) bool {
	return slices.ContainsFunc(c.Projections(), func(p *part.Projection) bool { return p.Bias && strings.HasSuffix(p.Name, "."+name) })
}
