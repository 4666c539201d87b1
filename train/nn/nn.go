// Package nn holds the layers of training: each has a forward pass that keeps what its backward pass
// needs, and a backward pass written by hand, with the shape of every buffer beside it.
//
// Buffers are row-major float32, [T, D] for T tokens; T is B·S, S tokens of one sequence after another.
// A layer's gradients are added to what Param.G and dx hold.
//
// Results do not depend on the number of workers: every sum has one order.
package nn

import (
	"math"

	"github.com/tritlm/trit/internal/gemm"
	"github.com/tritlm/trit/internal/par"
)

// Param is a tensor that is trained, or, without G, one that stays as it is.
type Param struct {
	Name    string // as Hugging Face names it
	Shape   []int
	W, G    []float32 // value and gradient; W is nil for a ternary matrix that stays: see Linear.Freeze
	Decay   bool      // weight decay applies: matrices, not norms or biases
	Ternary bool      // the forward pass sees its absmean codes
}

// GradMode says how the backward products of a ternary layer are computed.
type GradMode int

const (
	// GradI16 rounds dY to int16, one scale per token for dX and one per output and 512 tokens for dW, and
	// sums integers: 15 bits of gradient at twice the rate of float32.
	GradI16 GradMode = iota
	// GradF32 keeps every product in float32.
	GradF32
)

// Env is what layers share: workers and scratch memory. It serves one pass at a time.
type Env struct {
	Pool *par.Pool
	Grad GradMode
	// OnStage, when set, hears what begins: one of Stages. For measuring.
	OnStage func(stage string)

	units [8][]uint32
	f32   [16][]float32
	i8    [4][]int8
	i16   []int16
	work  []workspace

	leaves, perLeaf int // Split
	levels          [5][]float32
}

// Stages are the parts of a step that OnStage tells apart.
var Stages = []string{
	"embedding", "norms", "inputs", "linear forward", "rotary positions", "attention forward", "activation", "residual", "head and loss",
	"attention backward", "linear backward, dX", "linear backward, dW", "adapters", "optimizer", "weights to codes",
}

// Stage says that a part of the step begins.
func (e *Env) Stage(name string) {
	if e.OnStage != nil {
		e.OnStage(name)
	}
}

// workspace belongs to one worker of a parallel loop.
type workspace struct {
	a, b []uint32
	f    []float32
}

// NewEnv returns an Env that runs on pool.
func NewEnv(pool *par.Pool) *Env {
	return &Env{Pool: pool, work: make([]workspace, pool.Threads())}
}

func grow[T any](s *[]T, n int) []T {
	if cap(*s) < n {
		*s = make([]T, n)
	}
	return (*s)[:n]
}

// Scratch slots; what is in one lasts until the next use of the same slot.
const (
	uA = iota // left operand
	uB        // right operand
	uLoraA
	uLoraB
)

const (
	fScale = iota // factors per row
	fCol          // factors per column
	fInv
	fZero
	fDense  // weights as float
	fDenseX // inputs as float
	fPart   // partial sums
	fLogits
	fLora
	fLoraD
)

func up(n, to int) int { return (n + to - 1) / to * to }

// Add adds x to y.
func (e *Env) Add(y, x []float32) {
	e.Pool.For(len(y), 4096, func(lo, hi int) { gemm.Axpy(y[lo:hi], x[lo:hi], 1) })
}

// Zero clears x.
func (e *Env) Zero(x []float32) { e.Pool.For(len(x), 1<<14, func(lo, hi int) { clear(x[lo:hi]) }) }

// SquareSum returns Σx² in float64, in pieces of fixed size.
func (e *Env) SquareSum(x []float32) float64 {
	const piece = 1 << 14
	n := (len(x) + piece - 1) / piece
	parts := make([]float64, n)
	e.Pool.Run(n, func(i, _ int) {
		p := x[i*piece : min((i+1)*piece, len(x))]
		parts[i] = float64(gemm.Dot(p, p))
	})
	var s float64
	for _, p := range parts {
		s += p
	}
	return s
}

// KaimingUniform is the bound of nn.Linear's initialisation (He et al. 2015 with a = √5): ±1/√fanIn.
func KaimingUniform(fanIn int) float64 { return 1 / math.Sqrt(float64(fanIn)) }
