package train

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// Schedules are the learning-rate schedules by name:
//
//	constant   LR after the warm-up
//	cosine     from LR to MinLR along half a cosine (Loshchilov and Hutter 2017, arXiv:1608.03983)
//	two-stage  linear decay towards 0 whose peak drops to 2/3 half way, where weight decay stops: the
//	           schedule of the BitNet training tips (microsoft/unilm, bitnet, "Training Tips, Code and FAQ")
var Schedules = []string{"constant", "cosine", "two-stage"}

// Options say how to train. The zero value of a field is not a default: see DefaultOptions.
type Options struct {
	BatchSize    int     `json:"batch_size"` // sequences per micro-batch
	Accumulate   int     `json:"accumulate"` // micro-batches per step
	MaxIters     int     `json:"max_iters"`  // optimizer steps
	LR           float64 `json:"lr"`
	MinLR        float64 `json:"min_lr"`
	Schedule     string  `json:"schedule"`
	Warmup       int     `json:"warmup"` // steps of linear warm-up
	WeightDecay  float64 `json:"weight_decay"`
	Beta1        float64 `json:"beta1"`
	Beta2        float64 `json:"beta2"`
	Eps          float64 `json:"eps"`
	Clip         float64 `json:"clip"` // largest gradient norm; 0: no clipping
	Seed         uint64  `json:"seed"`
	Gradients    string  `json:"gradients"`     // int16 or f32: backward products of ternary layers
	EvalEvery    int     `json:"eval_every"`    // steps between validations; 0: only at the end
	EvalBatches  int     `json:"eval_batches"`  // batches of one validation
	SaveEvery    int     `json:"save_every"`    // steps between checkpoints
	SampleTokens int     `json:"sample_tokens"` // length of the sample at each validation; 0: none
}

// DefaultOptions are the study's: AdamW as in PyTorch at a constant 2e-4, batch 32, 3000 steps.
func DefaultOptions() Options {
	return Options{
		BatchSize: 32, Accumulate: 1, MaxIters: 3000, LR: 2e-4, Schedule: "constant", WeightDecay: 0.01,
		Beta1: 0.9, Beta2: 0.999, Eps: 1e-8, Clip: 1, Seed: 1, Gradients: "int16",
		EvalEvery: 250, EvalBatches: 8, SaveEvery: 250, SampleTokens: 200,
	}
}

// maxSteps bounds the steps of a run, which a file may claim.
const maxSteps = 1 << 40

// Check reports the first thing wrong with o.
func (o *Options) Check() error {
	bad := func(name string, v any, want string) error {
		return fmt.Errorf("train: --%s %v: %s", name, v, want)
	}
	finite := func(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
	switch {
	case o.BatchSize < 1 || o.BatchSize > 1<<16:
		return bad("batch-size", o.BatchSize, "must be 1 to 65536")
	case o.Accumulate < 1 || o.Accumulate > 1<<16:
		return bad("accumulate", o.Accumulate, "must be 1 to 65536")
	case o.MaxIters < 1 || o.MaxIters > maxSteps:
		return bad("max-iters", o.MaxIters, fmt.Sprintf("must be 1 to %d", maxSteps))
	case !finite(o.LR) || o.LR <= 0:
		return bad("lr", o.LR, "must be a positive number")
	case !finite(o.MinLR) || o.MinLR < 0 || o.MinLR > o.LR:
		return bad("min-lr", o.MinLR, "must lie between 0 and --lr")
	case !slices.Contains(Schedules, o.Schedule):
		return bad("schedule", o.Schedule, "must be one of "+strings.Join(Schedules, ", "))
	case o.Warmup < 0 || o.Warmup >= o.MaxIters && o.Warmup > 0:
		return bad("warmup", o.Warmup, "must be less than --max-iters")
	case !finite(o.WeightDecay) || o.WeightDecay < 0:
		return bad("weight-decay", o.WeightDecay, "must not be negative")
	case !(o.Beta1 >= 0 && o.Beta1 < 1):
		return bad("beta1", o.Beta1, "must be at least 0 and less than 1")
	case !(o.Beta2 >= 0 && o.Beta2 < 1):
		return bad("beta2", o.Beta2, "must be at least 0 and less than 1")
	case !finite(o.Eps) || o.Eps <= 0:
		return bad("eps", o.Eps, "must be positive")
	case !finite(o.Clip) || o.Clip < 0:
		return bad("clip", o.Clip, "must not be negative")
	case o.Gradients != "int16" && o.Gradients != "f32":
		return bad("grad-precision", o.Gradients, "must be int16 or f32")
	case o.EvalEvery < 0 || o.EvalBatches < 0 || o.SaveEvery < 0 || o.SampleTokens < 0:
		return fmt.Errorf("train: intervals and counts must not be negative")
	case o.EvalBatches > 1<<16:
		return bad("eval-batches", o.EvalBatches, "must be at most 65536")
	case o.SampleTokens > 1<<16:
		return bad("sample-tokens", o.SampleTokens, "must be at most 65536")
	}
	return nil
}

// At returns the learning rate and weight decay of step n, counted from 0.
func (o *Options) At(n int) (lr, wd float64) {
	wd = o.WeightDecay
	if n < o.Warmup {
		return o.LR * float64(n+1) / float64(o.Warmup), wd
	}
	done := float64(n-o.Warmup) / float64(max(o.MaxIters-o.Warmup, 1))
	switch o.Schedule {
	case "cosine":
		return o.MinLR + (o.LR-o.MinLR)*(1+math.Cos(math.Pi*min(done, 1)))/2, wd
	case "two-stage":
		peak := o.LR
		if n >= o.MaxIters/2 {
			peak, wd = o.LR*2/3, 0
		}
		return max(peak*(1-min(done, 1)), o.MinLR), wd
	}
	return o.LR, wd
}
