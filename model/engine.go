package model

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/tritlm/trit/weights"
)

// Backend makes an engine of weights: all that we ask of a device.
type Backend interface {
	// Load makes the model resident. The set may be closed when the engine is.
	Load(ctx context.Context, c *Config, w *weights.Set) (Engine, error)
}

// Engine turns tokens into logits. Forward, NewCache and the methods of its caches may be called from several
// goroutines; a forward pass runs alone.
type Engine interface {
	Config() *Config
	// NewCache makes room for the keys and values of one sequence of at most maxTokens tokens, 0 for MaxContext.
	NewCache(maxTokens int) (Cache, error)
	// Forward appends each input's tokens to its cache and computes what the input asks for. The sequences may
	// be at different positions, some with a chunk of prompt and some with one token; no cache may come twice.
	// On an error, cancellation included, every cache is as long as it was before.
	Forward(ctx context.Context, batch []Input) error
	Close() error
}

// Cache holds the keys and values of one sequence.
type Cache interface {
	Len() int // tokens held
	Cap() int // tokens that fit
	// Truncate forgets the tokens from n on; n is at most Len.
	Truncate(n int)
	// Fork makes a cache that starts with the first n tokens of this one and shares their memory.
	Fork(n int) (Cache, error)
	Close()
}

// Input is one sequence's part of a batch.
type Input struct {
	Cache  Cache
	Tokens []int32

	// Logits receives scores: none when empty, those of the last token when it holds V, of every token when it
	// holds len(Tokens)·V.
	Logits []float32
	// Top receives the len(Top) best scores of the last token, exactly, best first; equal scores by lower id.
	Top []Scored
	// Each receives the same for each of the last len(Each) tokens, for a caller that guesses ahead. It holds no
	// more rows than there are tokens; Top is left empty then.
	Each [][]Scored
	// Hidden receives states after the final norm: none when empty, the last token's when it holds D, every token's when
	// it holds len(Tokens)·D.
	Hidden []float32
	// Trace, when set, sees the residual stream of this input's tokens, [n, D] per call in order of tokens:
	// "embed", "layer.0" … after each block, "final" after the final norm. It may change x, all but "final": what
	// follows sees what it leaves.
	Trace func(name string, x []float32)
}

// Scored is a token and its logit.
type Scored struct {
	ID    int32
	Logit float32
}

// ErrContextFull: the tokens do not fit the cache.
var ErrContextFull = errors.New("the context is full")

// ErrChanged is in the error of an engine whose model's files were changed under it: cut, or written to. It names the
// file. The engine answers nothing more; other engines are not affected. An engine that has a method Check() error says
// so without computing anything.
var ErrChanged = weights.ErrChanged

// Best is where the best tokens after token i of the input go; empty where they are not wanted.
func (in *Input) Best(i int) []Scored {
	fromEnd := len(in.Tokens) - 1 - i
	switch {
	case fromEnd < len(in.Each):
		return in.Each[len(in.Each)-1-fromEnd]
	case fromEnd == 0:
		return in.Top
	}
	return nil
}

// Check refuses an input that an engine of this configuration cannot take.
func (in *Input) Check(c *Config) error {
	if in.Cache == nil {
		return errors.New("model: an input without a cache")
	}
	if len(in.Tokens) == 0 {
		return errors.New("model: an input without tokens")
	}
	for i, t := range in.Tokens {
		if t < 0 || int(t) >= c.VocabSize {
			return fmt.Errorf("model: token %d is %d, outside the vocabulary of %d", i, t, c.VocabSize)
		}
	}
	if n := len(in.Logits); n != 0 && n != c.VocabSize && n != len(in.Tokens)*c.VocabSize {
		return fmt.Errorf("model: room for %d logits; want 0, %d or %d", n, c.VocabSize, len(in.Tokens)*c.VocabSize)
	}
	if n := len(in.Hidden); n != 0 && n != c.HiddenSize && n != len(in.Tokens)*c.HiddenSize {
		return fmt.Errorf("model: room for %d hidden values; want 0, %d or %d", n, c.HiddenSize, len(in.Tokens)*c.HiddenSize)
	}
	if len(in.Top) > c.VocabSize {
		return fmt.Errorf("model: the %d best of a vocabulary of %d", len(in.Top), c.VocabSize)
	}
	if len(in.Each) > len(in.Tokens) || len(in.Each) > 0 && len(in.Top) > 0 {
		return fmt.Errorf("model: the best of each of %d tokens, of %d, and of the last one besides", len(in.Each), len(in.Tokens))
	}
	for _, top := range in.Each {
		if len(top) == 0 || len(top) > c.VocabSize {
			return fmt.Errorf("model: the %d best of a vocabulary of %d", len(top), c.VocabSize)
		}
	}
	if have, room := in.Cache.Len(), in.Cache.Cap(); have+len(in.Tokens) > room {
		return fmt.Errorf("model: %d tokens after %d of %d: %w", len(in.Tokens), have, room, ErrContextFull)
	}
	return nil
}

// Best writes the len(dst) highest scores, best first, equal ones by lower id.
func Best(dst []Scored, logits []float32) { AddBest(dst, 0, 0, logits) }

// AddBest goes on with Best: dst[:n] has what was found among lower ids, logits[0] is the score of first. It returns n.
func AddBest(dst []Scored, n int, first int32, logits []float32) int {
	for i, v := range logits {
		if n == len(dst) && !(v > dst[n-1].Logit) {
			continue
		}
		at, _ := slices.BinarySearchFunc(dst[:n], v, func(s Scored, v float32) int {
			if s.Logit >= v {
				return -1
			}
			return 1
		})
		if n < len(dst) {
			n++
		}
		copy(dst[at+1:n], dst[at:n-1])
		dst[at] = Scored{first + int32(i), v}
	}
	return n
}
