package eval

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/cpu"
	"github.com/tritlm/trit/weights"
)

// warmTokens are decoded before anything is measured: what they show decides which copies of weights the engine makes.
const warmTokens = 16

// Memory is what a model takes, in bytes, known before anything is loaded.
type Memory struct {
	Ternary   int64 `json:"ternary"`   // projections as 2-bit codes
	Dense     int64 `json:"dense"`     // projections that stay floats
	Embedding int64 `json:"embedding"` // the table; also the head when that is tied
	Head      int64 `json:"head"`      // 0 when tied
	Screen    int64 `json:"screen"`    // of the head, at 5.5 bits; with it embedding and head stay in the file, read by row
	Screened  int64 `json:"screened"`  // what a token reads of the screen
	Copies    int64 `json:"copies"`    // of down_proj, for products that skip zeros
	Norms     int64 `json:"norms"`     // and biases
	Experts   int64 `json:"experts"`   // all of them; a token reads Taken of that
	Taken     int64 `json:"experts_per_token"`
	State     int64 `json:"state"` // of a sequence, of layers that keep one, beside keys and values
	KVToken   int64 `json:"kv_per_token"`
}

// Weights is everything but the KV cache. Rows of an embedding that is not the head as well stay in the file.
func (m Memory) Weights() int64 {
	head := m.Screen
	if head == 0 {
		head = m.HeadPerToken()
	}
	return m.Ternary + m.Copies + m.Dense + m.Experts + head + m.Norms
}

// Total is the memory with room for so many tokens.
func (m Memory) Total(tokens int) int64 { return m.Weights() + m.State + m.KVToken*int64(tokens) }

// HeadPerToken is how many bytes one decoded token reads of the head.
func (m Memory) HeadPerToken() int64 {
	switch {
	case m.Screen > 0:
		return m.Screened
	case m.Head > 0:
		return m.Head
	}
	return m.Embedding
}

// PerToken is how many bytes of weights and cache one decoded token reads behind so many others, when it skips none.
func (m Memory) PerToken(before int) int64 {
	return m.Ternary + m.Dense + m.Taken + m.State + m.HeadPerToken() + m.Norms + m.KVToken*int64(before)
}

// Estimate computes Memory from names and shapes alone.
func Estimate(c *model.Config, set *weights.Set) Memory {
	m := Memory{KVToken: c.KVBytes(), State: c.StateBytes(), Copies: cpu.CopyBytes(c)}
	all, taken := c.Experts()
	m.Screen, m.Screened = cpu.ScreenBytes(c)
	for _, name := range set.Names() {
		hf, ok := set.HFName(name)
		if !ok {
			hf = name
		}
		shape := set.Shape(name)
		switch {
		case strings.Contains(hf, ".mlp.experts.") && all > 0:
			m.Experts += set.Bytes(name)
		case hf == "model.word_embeddings.weight", hf == "model.embed_tokens.weight", hf == "model.embed_positions.weight":
			m.Embedding += set.Bytes(name)
		case hf == "lm_head.weight":
			if !c.TiedHead() {
				m.Head += set.Bytes(name)
			}
		case len(shape) == 2 && set.IsGrouped(name) && c.Projection(strings.TrimSuffix(hf, ".weight")) != nil:
			m.Ternary += set.Bytes(name) // as large in memory as in the file
		case len(shape) == 2 && c.IsTernary(strings.TrimSuffix(hf, ".weight")):
			rows, cols := shape[0], shape[1]
			if set.GGUF() == nil && set.IsTernary(name) {
				rows *= 4 // packed, four rows in one
			}
			m.Ternary += cpu.MatrixBytes(rows, cols)
		case len(shape) == 2:
			m.Dense += set.Bytes(name)
		default:
			m.Norms += set.Bytes(name)
		}
	}
	if all > 0 {
		m.Taken = m.Experts / int64(all) * int64(taken)
	}
	return m
}

// BenchOptions for Bench.
type BenchOptions struct {
	Prompt  int // tokens to read; 0 is 128
	Tokens  int // tokens to write; 0 is 64
	Repeats int // 0 is 3
	Step    func(done, total int64)
}

// Speed is what Bench measured: the median of the repeats, and their extremes.
type Speed struct {
	PromptTokens int     `json:"prompt_tokens"`
	Tokens       int     `json:"decode_tokens"`
	Prompt       float64 `json:"prompt_tokens_per_second"`
	PromptMin    float64 `json:"prompt_min"`
	PromptMax    float64 `json:"prompt_max"`
	Decode       float64 `json:"decode_tokens_per_second"`
	DecodeMin    float64 `json:"decode_min"`
	DecodeMax    float64 `json:"decode_max"`
	FirstToken   float64 `json:"first_token_seconds"` // reading the prompt, to its first answer
}

// Bench times an engine: a prompt of random tokens read at once, then tokens decoded greedily one by one. Some of the
// prompt is read once before, so that no buffer is made within what is timed.
func Bench(ctx context.Context, e model.Engine, o BenchOptions) (Speed, error) {
	c := e.Config()
	if o.Prompt == 0 {
		o.Prompt = 128
	}
	if o.Tokens == 0 {
		o.Tokens = 64
	}
	if o.Repeats == 0 {
		o.Repeats = 3
	}
	if o.Prompt < 1 || o.Tokens < 1 || o.Repeats < 1 {
		return Speed{}, errors.New("eval: bench needs at least one prompt token, one decoded token and one repeat")
	}
	if o.Prompt+o.Tokens > c.MaxContext {
		return Speed{}, fmt.Errorf("eval: %d prompt tokens and %d more do not fit the context of %d", o.Prompt, o.Tokens, c.MaxContext)
	}
	random := rand.New(rand.NewPCG(1, 2))
	ids := make([]int32, o.Prompt)
	for i := range ids {
		ids[i] = int32(random.IntN(c.VocabSize))
	}
	warm, err := e.NewCache(o.Prompt + min(o.Tokens, warmTokens))
	if err != nil {
		return Speed{}, err
	}
	input := []model.Input{{Cache: warm, Tokens: ids[:min(o.Prompt, 256)], Top: make([]model.Scored, 1)}}
	for range min(o.Tokens, warmTokens) {
		if err = e.Forward(ctx, input); err != nil {
			break
		}
		input[0].Tokens = []int32{input[0].Top[0].ID}
	}
	if warm.Close(); err != nil {
		return Speed{}, err
	}
	var prompt, decode []float64
	total := int64(o.Repeats * (o.Prompt + o.Tokens))
	var done int64
	tell := func(n int) {
		done += int64(n)
		if o.Step != nil {
			o.Step(done, total)
		}
	}
	for range o.Repeats {
		err := func() error {
			cache, err := e.NewCache(o.Prompt + o.Tokens)
			if err != nil {
				return err
			}
			defer cache.Close()
			top := make([]model.Scored, 1)
			batch := []model.Input{{Cache: cache, Tokens: ids, Top: top}}
			start := time.Now()
			if err := e.Forward(ctx, batch); err != nil {
				return err
			}
			prompt = append(prompt, float64(o.Prompt)/time.Since(start).Seconds())
			tell(o.Prompt)
			next := make([]int32, 1)
			batch[0].Tokens = next
			start = time.Now()
			for range o.Tokens {
				next[0] = top[0].ID
				if err := e.Forward(ctx, batch); err != nil {
					return err
				}
				tell(1)
			}
			decode = append(decode, float64(o.Tokens)/time.Since(start).Seconds())
			return nil
		}()
		if err != nil {
			return Speed{}, err
		}
	}
	slices.Sort(prompt)
	slices.Sort(decode)
	mid, last := o.Repeats/2, o.Repeats-1
	s := Speed{
		PromptTokens: o.Prompt, Tokens: o.Tokens,
		Prompt: prompt[mid], PromptMin: prompt[0], PromptMax: prompt[last],
		Decode: decode[mid], DecodeMin: decode[0], DecodeMax: decode[last],
	}
	s.FirstToken = float64(o.Prompt) / s.Prompt
	return s, nil
}
