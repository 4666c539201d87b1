package engine

import (
	"context"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/weights"
)

// HeadScreener is what Products may do besides: find the best tokens of a dense output head.
type HeadScreener interface {
	// LoadHead prepares it; ok is false when the engine shall compute all scores of the head.
	LoadHead(head *weights.Dense) (ok bool, err error)
	// BestTokens fills each dst with the best tokens of its hidden state, exactly: best first, equal ones by lower id.
	//
	//	x  [len(dst), D]  after the final norm
	BestTokens(ctx context.Context, dst [][]model.Scored, x []float32) error
}

// BlockRunner is what Products may do besides: run all that lies between two layers' attentions by themselves, with
// the residual stream x on the device,
//
//	x += o·x̂
//	x += FeedForward(norm(x))
//	y = q, k and v of the next layer ·x̂(norm(x))
//
// bit-equal to what the engine makes of Multiply.
type BlockRunner interface {
	// LoadBlock is offered what lies between the attentions of a layer and of the next one, nil behind the last. It
	// returns its number and how many tokens it takes at a time; none when the device does not run such parts.
	LoadBlock(layer, next *part.DeviceLayer) (id, tokens int, err error)
	RunBlock(ctx context.Context, id int, r BlockRun) error
}

// BlockRun is one run for T tokens.
type BlockRun struct {
	X       []int8    // [T, cols16] activations of o
	Scales  []float32 // [T] their scales; overwritten by those of the activations of q, k and v
	In, Out []float32 // [T, D] the residual stream, in the first layer and out of the last one; else nil
	Y       [][]int32 // sums of q, k and v, in panels
}

// StepRunner is what a BlockRunner may do besides: run all layers by itself, attention included, with keys and values in
// its own memory, by pages of PageTokens tokens. Bit-equal to the same layers on the host. The engine brings pages to the
// device and back where it must.
type StepRunner interface {
	part.PageDevice
	// LoadStep is offered all layers, and the blocks that it has made of them; ok is false when the device does not
	// run such parts.
	LoadStep(layers []*part.DeviceLayer, blocks []int) (ok bool, err error)
	// StepFits says whether it runs so many tokens at a time, of which the longest sequence has `longest`.
	StepFits(tokens, longest int) bool
	RunStep(ctx context.Context, r StepRun) error
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
	Cos, Sin []float32 // [dim/2] of its position
}

// device is what of the layers a device runs.
type device struct {
	blocks []int // of BlockRunner; none where it does not run them
	rows   int   // how many tokens it takes at a time
	runner BlockRunner
	step   StepRunner // runs all layers, or nil
}

// offer offers the layers to Products that run parts by themselves.
func (e *Engine) offer() error {
	p, ok := e.products.(BlockRunner)
	if !ok {
		return nil
	}
	var layers []*part.DeviceLayer
	for _, l := range e.layers {
		layers = append(layers, l.Device())
	}
	var ids []int
	rows := blockTokens
	for i, l := range layers {
		var next *part.DeviceLayer
		if i+1 < len(layers) {
			next = layers[i+1]
		}
		id, tokens, err := p.LoadBlock(l, next)
		if err != nil {
			return err
		}
		if tokens == 0 {
			return nil
		}
		ids, rows = append(ids, id), min(rows, tokens)
	}
	e.device = device{blocks: ids, rows: rows, runner: p}
	step, ok := e.products.(StepRunner)
	if !ok {
		return nil
	}
	ok, err := step.LoadStep(layers, ids)
	if ok {
		e.device.step = step
		e.pages.OnDevice(step)
	}
	return err
}

// runOnDevice runs the block's rows through all layers on the device, where it takes them; ran is false where it does not. Else
// the keys and values that the rows look back to are present in this machine's memory.
func (e *Engine) runOnDevice(ctx context.Context, longest int) (ran bool, err error) {
	if e.block.N() > e.device.rows || e.tracing() {
		return false, e.block.PagesToHost(e.pages)
	}
	if s := e.device.step; s != nil && s.StepFits(e.block.N(), longest) {
		return true, e.whole(ctx)
	}
	if err := e.block.PagesToHost(e.pages); err != nil {
		return false, err
	}
	return true, e.resident(ctx)
}

// whole runs all layers as one step.
func (e *Engine) whole(ctx context.Context) error {
	pages, err := e.block.PagesToDevice(e.pages)
	if err != nil {
		return err
	}
	first := e.layers[0]
	first.Enter()
	x, scales := first.Inputs()
	run := StepRun{X: x, Scales: scales, Stream: e.block.Stream()}
	for i := range e.block.N() {
		pos := e.block.Pos(i)
		cos, sin := first.Angles(pos)
		run.Rows = append(run.Rows, StepRow{Pos: pos, Pages: pages[i], Cos: cos, Sin: sin})
	}
	if err := e.device.step.RunStep(ctx, run); err != nil {
		return err
	}
	e.block.PagesWritten()
	return ctx.Err() // the device does not stop on the way
}

// resident runs the layers with the residual stream on the device: one call of it between two attentions. The last one brings
// the stream back.
func (e *Engine) resident(ctx context.Context) error {
	stream := e.block.Stream()
	e.layers[0].Enter()
	if err := e.layers[0].MixerInputs(ctx); err != nil {
		return err
	}
	for n, l := range e.layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		var r BlockRun
		r.X, r.Scales = l.Attend()
		if n == 0 {
			r.In = stream
		}
		if n+1 == len(e.layers) {
			r.Out = stream
		} else {
			r.Y = e.layers[n+1].Sums()
		}
		if err := e.device.runner.RunBlock(ctx, e.device.blocks[n], r); err != nil {
			return err
		}
		if n+1 < len(e.layers) {
			e.layers[n+1].Summed()
		}
	}
	return nil
}
