package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/tritlm/trit/weights"
)

// Pooling is how the states of a text's tokens become one vector.
type Pooling string

const (
	PoolLast Pooling = "last" // the state of the last token, which ends the text
	PoolMean Pooling = "mean" // the mean of all
)

// Check refuses what is no pooling; "" is what the model was trained for.
func (p Pooling) Check() error {
	switch p {
	case "", PoolLast, PoolMean:
		return nil
	}
	return fmt.Errorf("pooling %q is not known; known: last, mean", p)
}

// projectionNorms notes the norms in front of projections of the embedding models, which no configuration mentions:
// with them the masters are BitLinear.
func (cfg *Config) projectionNorms(s *weights.Set) bool {
	const name = "norm"
	if cfg.InputNorm != "" || !s.Has(cfg.layer(0).q+"."+name+".weight") {
		return false
	}
	cfg.InputNorm, cfg.InputNormEps = name, cfg.NormEps
	cfg.QuantizeMasters()
	return true
}

// embeds makes cfg that of a model for vectors, not text. The pooling is that of sentence-transformers' files, or of
// the GGUF key.
func (cfg *Config) embeds(s *weights.Set, end string) error {
	cfg.EmbedEnd, cfg.Pooling = end, PoolLast
	if g := s.GGUF(); g != nil {
		// Values as in llama.cpp's llama.h: 1 is mean, 2 the first token, 3 the last. The published files say 1, which is
		// what their converter writes when it is not told; the models are trained with the last token (microsoft/BitNet
		// docs/bitnet-embeddings-i2s-guide.md).
		arch, _ := g.KV.String("general.architecture")
		key := arch + ".pooling_type"
		if !g.KV.Has(key) {
			return nil
		}
		kind, err := g.KV.Uint(key)
		if err != nil {
			return err
		}
		switch kind {
		case 1:
			cfg.MeanInFile = true
		case 0, 3:
		default:
			return fmt.Errorf("model: %s: %s is %d; mean (1) and last (3) are supported", s.ConfigPath(), key, kind)
		}
		return nil
	}
	var modules []struct{ Path, Type string }
	if ok, err := readJSON(s, "modules.json", &modules); !ok {
		return err
	}
	for _, m := range modules {
		if !strings.HasSuffix(m.Type, "Pooling") {
			continue
		}
		var p struct {
			Last bool   `json:"pooling_mode_lasttoken"`
			Mean bool   `json:"pooling_mode_mean_tokens"`
			Mode string `json:"pooling_mode"` // newer files
		}
		name := strings.TrimPrefix(m.Path+"/config.json", "/")
		ok, err := readJSON(s, name, &p)
		switch {
		case err != nil:
			return err
		case !ok || p.Last || p.Mode == "lasttoken":
		case p.Mean || p.Mode == "mean":
			cfg.Pooling = PoolMean
		default:
			return fmt.Errorf("%s asks for a pooling that is neither lasttoken nor mean_tokens", name)
		}
	}
	return nil
}

// readJSON reads a small file beside config.json; ok is false where there is none.
func readJSON(s *weights.Set, name string, v any) (ok bool, err error) {
	data, err := fs.ReadFile(s.Folder(), name)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrInvalid): // a path out of the folder is not there either
		return false, nil
	case err != nil:
		return false, err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	return true, nil
}
