package model

import (
	"fmt"
	"slices"
	"strings"

	"github.com/tritlm/trit/weights"
)

// parseGGUF reads the keys that every GGUF architecture has; the family adds what the format leaves unsaid.
// Keys: ggml docs/gguf.md.
func parseGGUF(s *weights.Set) (*Config, error) {
	g := s.GGUF().KV
	arch, err := g.String("general.architecture")
	if err != nil {
		return nil, err
	}
	var fam *family
	for _, f := range families {
		if slices.Contains(f.gguf, arch) {
			fam = f
		}
	}
	if fam == nil {
		return nil, fmt.Errorf("model: %s: general.architecture %q is not supported; %s", s.ConfigPath(), arch, supportedGGUF())
	}
	var firstErr error
	num := func(key string, def int) int {
		key = arch + "." + key
		if def >= 0 && !g.Has(key) {
			return def
		}
		v, err := g.Uint(key)
		if err != nil && firstErr == nil {
			firstErr = err
		}
		if v > maxContext {
			v = maxContext + 1 // check names the key and the limit
		}
		return int(v)
	}
	float := func(key string, def float64) float64 {
		key = arch + "." + key
		if !g.Has(key) {
			return def
		}
		v, err := g.Float(key)
		if err != nil && firstErr == nil {
			firstErr = err
		}
		return v
	}
	cfg := &Config{
		Family:           fam.name,
		HiddenSize:       num("embedding_length", -1),
		IntermediateSize: num("feed_forward_length", -1),
		NumLayers:        num("block_count", -1),
		NumHeads:         num("attention.head_count", -1),
		MaxContext:       num("context_length", -1),
		NormEps:          float32(float("attention.layer_norm_rms_epsilon", 1e-5)),
		RopeTheta:        float("rope.freq_base", 10000),
	}
	if firstErr != nil {
		return nil, firstErr
	}
	cfg.NumKVHeads = num("attention.head_count_kv", cfg.NumHeads)
	headDim := 0
	if cfg.NumHeads > 0 {
		headDim = cfg.HiddenSize / cfg.NumHeads
	}
	cfg.HeadDim = num("attention.key_length", headDim)
	if g.Has("general.name") {
		cfg.Name, _ = g.String("general.name")
	}
	switch kind, _ := g.String(arch + ".rope.scaling.type"); kind {
	case "", "none":
	case "linear":
		cfg.Rope = RopeScaling{Type: kind, Factor: float("rope.scaling.factor", 1)}
	default:
		cfg.Rope = RopeScaling{Type: kind} // refused by check, by name
	}
	if s.Has("rope_freqs.weight") {
		return nil, fmt.Errorf("model: %s: tensor %q: per-frequency RoPE factors are not supported in GGUF files; take the Hugging Face folder of this model", s.ConfigPath(), "rope_freqs.weight")
	}
	if firstErr != nil {
		return nil, firstErr
	}
	if shape := s.Shape(embedName + ".weight"); len(shape) == 2 {
		cfg.VocabSize = shape[0]
	} else {
		return nil, fmt.Errorf("model: %s: tensor %q: missing or not a matrix", s.ConfigPath(), "token_embd.weight")
	}
	cfg.TiedHead = !s.Has(headName + ".weight")
	return cfg, fam.fromGGUF(cfg, s)
}

func supportedGGUF() string {
	var list []string
	for _, f := range families {
		list = append(list, f.gguf...)
	}
	return "supported: " + strings.Join(list, ", ")
}
