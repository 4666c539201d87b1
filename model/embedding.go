package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
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
func (cfg *Config) projectionNorms(s *weights.Set) {
	for _, name := range s.Names() {
		hf, ok := s.HFName(name)
		if cfg.InputNorm == "" && ok && (strings.HasSuffix(hf, "_proj.norm.weight") || strings.HasSuffix(name, "_norm_in.weight")) {
			cfg.InputNorm, cfg.InputNormEps = "norm", cfg.NormEps
			cfg.QuantizeMasters()
		}
	}
}

// embeddingKeys are the keys that embedsGGUF reads.
var embeddingKeys = []string{"pooling_type"}

// embedsGGUF makes cfg that of a model for vectors where the file says how they are pooled. Values as in llama.cpp's
// llama.h: 1 is mean, 2 the first token, 3 the last. The published files say 1, which is what their converter writes
// when it is not told; the models are trained with the last token (microsoft/BitNet
// docs/bitnet-embeddings-i2s-guide.md).
func (cfg *Config) embedsGGUF(s *weights.Set, arch, end string) error {
	g, key := s.GGUF().KV, arch+".pooling_type"
	if !g.Has(key) {
		return nil
	}
	kind, err := g.Uint(key)
	if err != nil {
		return err
	}
	if kind != 1 && kind != 3 {
		return fmt.Errorf("model: %s: %s is %d; mean (1) and last (3) are supported", s.ConfigPath(), key, kind)
	}
	cfg.EmbedEnd, cfg.Pooling, cfg.MeanInFile = end, PoolLast, kind == 1
	return nil
}

// embeds makes cfg that of a model for vectors, not text. The pooling is that of sentence-transformers' files.
func (cfg *Config) embeds(s *weights.Set, end string) error {
	cfg.EmbedEnd, cfg.Pooling = end, PoolLast
	var modules []struct{ Path, Type string }
	if ok, err := readJSON(s, "modules.json", &modules); !ok {
		return err
	}
	for _, m := range modules {
		switch kind := m.Type[strings.LastIndexByte(m.Type, '.')+1:]; kind {
		case "Transformer", "Normalize":
			continue
		case "Pooling":
		default:
			return fmt.Errorf("modules.json has a module %q; known: Transformer, Pooling, Normalize", m.Type)
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

// Pool makes one vector of the final states of a text's tokens, which may come in pieces.
type Pool struct {
	mean   bool
	width  int
	states []float32
	sum    []float64
	n      int // states in sum
}

// NewPool is the pool for one text of a model. A model that writes text has the state of the last token.
func NewPool(c *Config) *Pool {
	return &Pool{mean: c.Pooling == PoolMean, width: c.HiddenSize, sum: make([]float64, c.HiddenSize)}
}

// Whole says whether the states of all tokens are needed, so that none may come from a cache.
func (p *Pool) Whole() bool { return p.mean }

// Hidden is what Input.Hidden must be for the next n tokens; last says that they end the text. Add takes what came.
func (p *Pool) Hidden(n int, last bool) []float32 {
	switch {
	case p.mean:
		n *= p.width
	case last:
		n = p.width
	default:
		n = 0
	}
	if cap(p.states) < n {
		p.states = make([]float32, n)
	}
	p.states = p.states[:n]
	return p.states
}

// Add takes the states that the forward pass left in the last Hidden.
func (p *Pool) Add() {
	for i := 0; i < len(p.states); i += p.width {
		for j, v := range p.states[i:][:p.width] {
			p.sum[j] += float64(v)
		}
		p.n++
	}
	p.states = p.states[:0]
}

// Reset forgets all states, for a text that is read again from its beginning.
func (p *Pool) Reset() {
	clear(p.sum)
	p.states, p.n = p.states[:0], 0
}

// Vector is the text's vector: its first dims numbers, 0 for all, scaled to length 1. The mean's divisor cancels.
func (p *Pool) Vector(dims int) []float32 {
	sum := p.sum
	if dims > 0 {
		sum = sum[:dims]
	}
	var sq float64
	for _, x := range sum {
		sq += x * x
	}
	v := make([]float32, len(sum))
	for i, x := range sum {
		if sq > 0 {
			v[i] = float32(x / math.Sqrt(sq))
		}
	}
	return v
}
