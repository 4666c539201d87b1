package family

import (
	"errors"
	"fmt"
	"math"
	"slices"
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

// GGUFKeys are the keys of a GGUF file that describe the model. What they cannot say is refused.
func GGUFKeys(c *model.Config) (gguf.KV, error) {
	arch := Arch(c.Family)
	if arch == "" {
		return nil, fmt.Errorf("GGUF has no architecture for %s; take an hf- format: %w", c.Family, errors.ErrUnsupported)
	}
	s := ShapeOf(c)
	norm, eps := OwnNorm(c)
	// What the file could not say, and its readers would get wrong.
	switch {
	case s.Rope.Type == "llama3":
		return nil, fmt.Errorf("rope scaling of type llama3 is not written to GGUF; take an hf- format: %w", errors.ErrUnsupported)
	case norm != "" && c.Pooling == "":
		return nil, fmt.Errorf("GGUF has no place for the RMSNorm inside each BitLinear of this model; take an hf- format: %w", errors.ErrUnsupported)
	case c.Head.Arithmetic == part.Ternary8:
		return nil, fmt.Errorf("GGUF has no place for a BitLinear head; take an hf- format: %w", errors.ErrUnsupported)
	case norm != "" && eps != s.NormEps:
		return nil, fmt.Errorf("the norms in front of projections have eps %g and the others %g, and GGUF has one; take an hf- format: %w", eps, s.NormEps, errors.ErrUnsupported)
	}
	if c.Ternary() {
		for _, name := range c.Floats() {
			if name != model.HeadName {
				return nil, fmt.Errorf("tensor %q is not ternary in this model (modules_to_not_convert), which GGUF cannot say; take an hf- format: %w", name+".weight", errors.ErrUnsupported)
			}
		}
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
	if s.Rope.Type == "linear" {
		kv.Set(arch+".rope.scaling.type", "linear")
		kv.Set(arch+".rope.scaling.factor", float32(s.Rope.Factor))
	}
	if c.Family == "gemma3" {
		if err := gemma3Keys(&kv, c, s); err != nil {
			return nil, err
		}
	}
	switch c.Pooling { // as in llama.cpp's llama.h
	case model.PoolMean:
		u("pooling_type", 1)
	case model.PoolLast:
		u("pooling_type", 3)
	}
	return kv, nil
}

// gemma3Keys are those of Gemma 3's windows and scores.
func gemma3Keys(kv *gguf.KV, c *model.Config, s Shape) error {
	if a := c.Layers[0].Mixer.(*part.Attention); a.Scalar != float64(s.HeadDim) {
		kv.Set("gemma3.attention.scale", float32(1/math.Sqrt(a.Scalar)))
	}
	windows := Windows(c)
	slides := slices.IndexFunc(windows, func(w int) bool { return w > 0 })
	if slides < 0 {
		kv.Set("gemma3.attention.sliding_window", uint32(0)) // said, so that nobody guesses
		return nil
	}
	period := slices.Index(windows, 0) + 1 // 0: all of them slide
	for i, w := range windows {
		if (w > 0) != (period == 0 || (i+1)%period != 0) {
			return fmt.Errorf("layer %d is not where GGUF would have a layer that sees the whole text; take an hf- format: %w", i, errors.ErrUnsupported)
		}
	}
	if period == 0 {
		period = s.NumLayers + 1
	}
	kv.Set("gemma3.attention.sliding_window", uint32(windows[slides]))
	kv.Set("gemma3.attention.sliding_window_pattern", uint32(period))
	kv.Set("gemma3.rope.freq_base_swa", float32(c.Layers[slides].Mixer.(*part.Attention).Rope.Theta))
	return nil
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
		"vocab_size": s.VocabSize, "max_position_embeddings": s.MaxContext, "rms_norm_eps": float64(s.NormEps),
		"rope_theta": s.RopeTheta, "hidden_act": string(s.Activation), "tie_word_embeddings": s.TiedHead,
		"attention_bias": false, "use_cache": true, "initializer_range": 0.02,
	}
	if s.NormEps == 1e-5 {
		config["rms_norm_eps"] = 1e-5
	} else if s.NormEps == 1e-6 {
		config["rms_norm_eps"] = 1e-6
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
	}
	return config, nil
}
