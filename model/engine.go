package model

import (
	"context"
	"errors"
	"fmt"

	"github.com/tritlm/trit/ternary"
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

// Products computes the exact integer products of ternary matrices with int8 activations: the part of a decoder
// that a device takes over (NewDecoder). Used by one goroutine at a time.
type Products interface {
	// Load makes the matrix resident and returns its number: 0, 1, 2, … in order of loading.
	Load(name string, m *ternary.Matrix) (int, error)
	// Multiply computes y[i] = W[ids[i]]·x̂ for the T = len(xsum) activation rows of x.
	//
	//	x     [T, cols16] int8, cols rounded up to a multiple of 16, the tail zero
	//	xsum  [T] the sum of each row of x
	//	y[i]  int32, in panels: see PanelRows
	//
	// All the matrices have the same number of columns.
	Multiply(ctx context.Context, ids []int, y [][]int32, x []int8, xsum []int32) error
	Close() error
}

// HeadScreener is what Products may do besides: find the best tokens of a dense output head.
type HeadScreener interface {
	// LoadHead prepares it; ok is false when the decoder shall compute the head.
	LoadHead(head *weights.Dense) (ok bool, err error)
	// BestTokens fills each dst with the best tokens of its hidden state, exactly: best first, equal ones by lower id.
	//
	//	x  [len(dst), D]  after the final norm
	BestTokens(ctx context.Context, dst [][]Scored, x []float32) error
}

// BlockRunner is what Products may do besides: run all that lies between two layers' attentions by themselves, with
// the residual stream x on the device,
//
//	x += o·x̂
//	x += down·x̂(norm(act(gate)·up)), gate and up being gate·x̂(norm(x)) and up·x̂(norm(x))
//	y = q, k and v of the next layer ·x̂(norm(x))
//
// bit-equal to what the decoder makes of Multiply.
type BlockRunner interface {
	// LoadBlock prepares it for loaded matrices and returns its number and how many tokens it takes at a time; none
	// when the device cannot run it.
	LoadBlock(b Block) (id, tokens int, err error)
	RunBlock(ctx context.Context, id int, r BlockRun) error
}

// Block is what a BlockRunner runs.
type Block struct {
	O, Gate, Up, Down             BlockMatrix
	Next                          []BlockMatrix // q, k, v of the next layer; none in the last
	FFNNorm, FFNSubNorm, NextNorm BlockNorm     // NextNorm is not set in the last layer, FFNSubNorm where there is none
	Activation                    Activation    // ReLU2 or SiLU
}

// BlockMatrix is a matrix that Products have loaded, and its scale.
type BlockMatrix struct {
	ID    int
	Scale float32
}

// BlockNorm is an RMSNorm's weights and epsilon.
type BlockNorm struct {
	W   []float32
	Eps float32
}

// BlockRun is one run for T tokens.
type BlockRun struct {
	X       []int8    // [T, cols16] activations of o
	Scales  []float32 // [T] their scales; overwritten by those of the activations of q, k and v
	In, Out []float32 // [T, D] the residual stream, in the first layer and out of the last one; else nil
	Y       [][]int32 // sums of q, k and v, in panels
}

// StepRunner is what a BlockRunner may do besides: run all layers by itself, attention included, with keys and values in
// its own memory, by pages of PageTokens tokens. Bit-equal to the same layers on the host. The decoder brings pages to the
// device and back where it must (page).
type StepRunner interface {
	// LoadStep prepares it for loaded matrices and blocks; ok is false when the device cannot run it.
	LoadStep(s Step) (ok bool, err error)
	// StepFits says whether it runs so many tokens at a time, of which the longest sequence has `longest`.
	StepFits(tokens, longest int) bool
	RunStep(ctx context.Context, r StepRun) error
	// NewPage reserves memory for a page; FreePage gives it back, and is called from any goroutine.
	NewPage() (page int, err error)
	FreePage(page int)
	// WritePage brings a page to the device, ReadPage back.
	//
	//	data  [L, KV] of: keys, [hd, PageTokens]; then values, [PageTokens, hd]
	WritePage(page int, data []float32) error
	ReadPage(page int, data []float32) error
}

// Step is what a StepRunner runs.
type Step struct {
	First          []BlockMatrix // q, k, v of the first layer; the others' are the blocks' Next
	Blocks         []int
	AttnSubNorms   []BlockNorm // in front of o, of each layer; not set where there is none
	Heads, KVHeads int
	HeadDim        int
}

// StepRun is one run for T tokens. Those of one sequence come in order.
type StepRun struct {
	X      []int8    // [T, cols16] activations of the first layer's q, k and v
	Scales []float32 // [T] their scales
	Stream []float32 // [T, D] the residual stream in front of the first layer, then behind the last one
	Rows   []StepRow
}

// StepRow says where a token stands.
type StepRow struct {
	Pos      int
	Pages    []int     // of its sequence, up to the one it is in
	Cos, Sin []float32 // [hd/2] of its position
}

// PanelRows is the height of a panel of outputs. A product of T rows by a matrix of R rows (rounded up to a
// multiple of 16) lies as ⌈R/PanelRows⌉ panels, each [T, PanelRows] row-major, the last one narrower; so for T = 1
// it is simply [R]. A worker owns a panel, and its outputs are contiguous.
const PanelRows = 64

// panel cuts panel p out of y, the product of t rows with a matrix of rows rows, and gives its first row and width.
func panel[T any](y []T, p, t, rows int) (out []T, first, width int) {
	first = p * PanelRows
	width = min(PanelRows, rows-first)
	return y[first*t : (first+width)*t], first, width
}

func roundUp16(n int) int { return (n + 15) &^ 15 }

// best is where the best tokens after token i of the input go; empty where they are not wanted.
func (in *Input) best(i int) []Scored {
	fromEnd := len(in.Tokens) - 1 - i
	switch {
	case fromEnd < len(in.Each):
		return in.Each[len(in.Each)-1-fromEnd]
	case fromEnd == 0:
		return in.Top
	}
	return nil
}

func checkInput(in *Input, c *Config) error {
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
