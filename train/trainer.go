package train

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"math"
	"time"

	"github.com/tritlm/trit/data"
	"github.com/tritlm/trit/internal/gemm"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/train/nn"
)

// Step is what one optimizer step reports.
type Step struct {
	N        int     // steps done, this one included
	Loss     float64 // mean cross-entropy of the step's batches, nats per token, before the update
	LR       float64
	GradNorm float64 // before clipping
	Tokens   int
	Time     time.Duration
}

// Trainer is a model with the state of its optimizer.
type Trainer struct {
	Model   *Model
	Options Options
	Steps   int     // done so far
	Best    float64 // lowest validation loss so far; +Inf before the first

	// Group, when set, shares each batch with other processes that train the same model.
	Group Group

	m, v  []float32 // AdamW's moments
	state *State
}

// Group is a set of processes that train one model together (data parallel). All make the same calls in the same
// order. Sums run in pairs of ranks, then in pairs of pairs and so on, which goes on with the order in which a process sums
// over its sequences: 2, 4 or 8 processes train a model to the same bits as one process alone, as long as the batch is a
// multiple of them, --accumulate is 1 and the head has no more than 32 M parameters; others agree to roundings.
type Group interface {
	Rank() int // of this process, from 0
	Size() int
	Sum(x []float32) error        // x becomes the sum over all processes
	SumScalars(x []float64) error // likewise
	Close() error
}

// part is this process's share of a batch.
func (t *Trainer) part(b data.Batch) (data.Batch, error) {
	n, r := t.Group.Size(), t.Group.Rank()
	if b.B%n != 0 {
		return b, fmt.Errorf("train: a batch of %d sequences cannot be shared by %d processes; make --batch-size a multiple", b.B, n)
	}
	b.B /= n
	k := b.B * b.S
	b.IDs, b.Targets = b.IDs[r*k:(r+1)*k], b.Targets[r*k:(r+1)*k]
	return b, nil
}

// split says how the sums over a batch of B sequences, of all processes together, are cut.
func (t *Trainer) split(B, processes int) {
	all := 1
	for all < nn.MaxLeaves && B%(2*all) == 0 {
		all *= 2
	}
	t.Model.env.Split(max(all/processes, 1), all)
}

// ErrNotFinite is returned, wrapped, when a loss or gradient stops being a number. The parameters are
// still those before the step.
var ErrNotFinite = errors.New("training diverged")

// NewTrainer starts from a model.
func NewTrainer(m *Model, o Options) (*Trainer, error) {
	if err := o.Check(); err != nil {
		return nil, err
	}
	if n := o.BatchSize * m.Config.Block; n > maxBatchTokens {
		return nil, fmt.Errorf("train: --batch-size %d of %d tokens each is %d tokens at a time, at most %d; --accumulate makes steps of several such batches", o.BatchSize, m.Config.Block, n, maxBatchTokens)
	}
	m.SetGradMode(nn.GradI16)
	if o.Gradients == "f32" {
		m.SetGradMode(nn.GradF32)
	}
	return &Trainer{Model: m, Options: o, Best: math.Inf(1), m: make([]float32, len(m.w)), v: make([]float32, len(m.w))}, nil
}

// maxBatchTokens bounds what is computed at a time.
const maxBatchTokens = 1 << 24

// Batches are the batches that the trainer has not seen yet.
func (t *Trainer) Batches(d *data.Tokens) iter.Seq2[data.Batch, error] {
	return d.Batches(t.Options.Seed, t.Steps*t.Options.Accumulate, t.Options.BatchSize, t.Model.Config.Block)
}

func (t *Trainer) activations(B, S int) *State {
	if t.state == nil || t.state.B != B || t.state.S != S {
		t.state = t.Model.NewState(B, S)
	}
	return t.state
}

// Run trains until Options.MaxIters, the end of batches or of ctx, and yields each step after its update.
func (t *Trainer) Run(ctx context.Context, batches iter.Seq2[data.Batch, error]) iter.Seq2[Step, error] {
	return func(yield func(Step, error) bool) {
		o := &t.Options
		if t.Steps >= o.MaxIters {
			return
		}
		var s Step
		start, k := time.Now(), 0
		size := 1
		if t.Group != nil {
			size = t.Group.Size()
			if e := &t.Model.embed; t.Model.Config.Tied() && e.W.G != nil {
				e.G = make([]float32, len(e.W.G)) // a process alone adds it to that of the head when both are whole
			}
		}
		for b, err := range batches {
			if err == nil && t.Group == nil {
				err = ctx.Err()
			}
			if err == nil {
				err = t.check(b)
			}
			t.split(b.B, size)
			if err == nil && t.Group != nil {
				b, err = t.part(b)
			}
			if err != nil {
				yield(Step{}, err)
				return
			}
			if k == 0 {
				s = Step{N: t.Steps + 1}
				t.Model.ZeroGrad()
			}
			share := float64(o.Accumulate * size)
			s.Loss += t.Model.Gradient(t.activations(b.B, b.S), b.IDs, b.Targets, 1/share) / share
			s.Tokens += len(b.IDs) * size
			if k++; k < o.Accumulate {
				continue
			}
			k = 0
			stop, err := t.share(ctx, &s)
			if err != nil {
				yield(s, err)
				return
			}
			if err := t.update(&s); err != nil {
				yield(s, err)
				return
			}
			s.Time = time.Since(start)
			start = time.Now()
			if !yield(s, nil) || t.Steps >= o.MaxIters {
				return
			}
			if stop {
				yield(Step{}, context.Canceled)
				return
			}
			start = time.Now()
		}
	}
}

// share sums gradients and loss over the group, and finds out whether any of it was asked to stop: all of it then stops
// after this step.
func (t *Trainer) share(ctx context.Context, s *Step) (stop bool, err error) {
	if t.Group == nil {
		return false, nil
	}
	v := []float64{s.Loss, 0}
	if ctx.Err() != nil {
		v[1] = 1
	}
	if err := t.Group.SumScalars(v); err != nil {
		return false, err
	}
	s.Loss = v[0]
	if err := t.Group.Sum(t.Model.g); err != nil {
		return false, err
	}
	if e := &t.Model.embed; e.G != nil {
		if err := t.Group.Sum(e.G); err != nil {
			return false, err
		}
		t.Model.env.Add(e.W.G, e.G)
	}
	return v[1] > 0, nil
}

func (t *Trainer) check(b data.Batch) error {
	c := &t.Model.Config
	if b.S > c.Block || b.B*b.S != len(b.IDs) || len(b.IDs) != len(b.Targets) {
		return fmt.Errorf("train: a batch of %d×%d with %d tokens does not fit a model with blocks of %d", b.B, b.S, len(b.IDs), c.Block)
	}
	for i, id := range b.IDs {
		if id < 0 || int(id) >= c.VocabSize || int(b.Targets[i]) >= c.VocabSize {
			return fmt.Errorf("train: token %d of a batch is outside the model's vocabulary of %d; the data belongs to another tokenizer", id, c.VocabSize)
		}
	}
	return nil
}

// update is AdamW with clipping, in one pass over the parameters.
func (t *Trainer) update(s *Step) error {
	o, m := &t.Options, t.Model
	m.env.Stage("optimizer")
	s.GradNorm = m.GradNorm()
	lr, wd := o.At(t.Steps)
	s.LR = lr
	if bad := func(v float64) bool { return math.IsNaN(v) || math.IsInf(v, 0) }; bad(s.Loss) || bad(s.GradNorm) {
		what := "its loss is " + fmt.Sprint(s.Loss)
		if !bad(s.Loss) {
			what = "its gradient is not finite"
			for _, p := range m.Params {
				if n := float64(gemm.Dot(p.G, p.G)); bad(n) {
					what += ", first in " + p.Name
					break
				}
			}
		}
		return fmt.Errorf("train: step %d: %s (learning rate %.3g): %w; lower --lr, add --warmup, or --clip 1; the last checkpoint is good", s.N, what, lr, ErrNotFinite)
	}
	scale := 1.0
	if o.Clip > 0 && s.GradNorm > o.Clip {
		scale = o.Clip / s.GradNorm
	}
	n := float64(t.Steps + 1)
	a := gemm.Adam{
		GradScale: float32(scale), Beta1: float32(o.Beta1), Beta2: float32(o.Beta2), Eps: float32(o.Eps),
		Step: float32(lr / (1 - math.Pow(o.Beta1, n))), RootV: float32(1 / math.Sqrt(1-math.Pow(o.Beta2, n))),
	}
	at := 0
	for _, p := range m.Params {
		a.Keep = 1
		if p.Decay {
			a.Keep = float32(1 - lr*wd)
		}
		mo, ve := t.m[at:at+len(p.W)], t.v[at:at+len(p.W)]
		m.env.Pool.For(len(p.W), 4096, func(lo, hi int) { gemm.AdamW(p.W[lo:hi], p.G[lo:hi], mo[lo:hi], ve[lo:hi], a) })
		at += len(p.W)
	}
	m.Quantize()
	t.Steps++
	return nil
}

// Validate returns the mean loss over batches.
func (t *Trainer) Validate(ctx context.Context, batches iter.Seq2[data.Batch, error]) (float64, error) {
	sum, n := 0.0, 0
	for b, err := range batches {
		if err == nil {
			err = ctx.Err()
		}
		if err == nil {
			err = t.check(b)
		}
		if err != nil {
			return 0, err
		}
		sum += t.Model.Loss(t.activations(b.B, b.S), b.IDs, b.Targets)
		n++
	}
	return sum / float64(max(n, 1)), nil
}

// Pool is what the model's layers run on.
func (m *Model) Pool() *par.Pool { return m.env.Pool }
