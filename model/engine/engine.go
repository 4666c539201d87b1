// Package engine runs a model made of parts: blocks of tokens of several sequences through its layers, and what they ask for at
// the end. The ternary products, and whatever else a device runs by itself, are the device's (part.Products).
package engine

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"sync"

	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/internal/mapped"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/weights"
)

// blockTokens is how many tokens go through the layers together. Longer inputs are cut; the result is the same.
const blockTokens = 256

// Options for New.
type Options struct {
	Adapter  *part.Adapter         // added to the model's projections, nil for none
	Progress func(done, total int) // hears of loading: so many of total matrices are done
	Loaded   func()                // hears that all weights are there, before the first forward pass
	Closed   func()                // is called by Close, before the products are closed
}

// Engine is a model.Engine: float work on the host, ternary products wherever Products has them.
type Engine struct {
	cfg      *model.Config
	files    *weights.Set // that it was loaded from and reads
	pool     *par.Pool
	products part.Products
	pages    *part.Pages
	closing  func()

	embed     *weights.Dense // [V, D]
	positions *weights.Dense // [MaxContext, D], learned positions only
	layers    []*part.LayerRunner
	final     *part.NormRunner
	head      head
	device    device

	mu     sync.Mutex // held by Forward
	block  *part.Block
	runs   []run
	row    []byte    // of the embedding as the file has it
	spare  []float32 // [D]
	closed bool

	damaged   sync.Once // see notFinite
	damagedBy error
}

// run is one input's tokens inside the current block.
type run struct {
	input *model.Input
	first int // the input's token that is row `row` of the block
	row   int
	n     int
}

// New makes an engine of weights, with the products computed by p. It owns p from now on, and closes it when it fails.
func New(ctx context.Context, c *model.Config, w *weights.Set, pool *par.Pool, p part.Products, o Options) (*Engine, error) {
	e := &Engine{
		cfg: c, files: w, pool: pool, products: p, pages: part.NewPages(c.KV), closing: o.Closed,
		block: part.NewBlock(pool, p, c.HiddenSize), spare: make([]float32, c.HiddenSize),
	}
	e.block.Round(c.Activations)
	if err := e.load(ctx, w, o); err != nil {
		if o.Closed != nil {
			o.Closed()
		}
		return nil, errors.Join(err, p.Close())
	}
	return e, nil
}

// load loads the weights. What it read is of one model, or it is an error.
func (e *Engine) load(ctx context.Context, w *weights.Set, o Options) (err error) {
	defer e.watch(&err)
	defer mapped.Recover(debug.SetPanicOnFault(true), &err)
	c := e.cfg
	if o.Adapter != nil {
		if err := o.Adapter.Check(c.Projections()); err != nil {
			return err
		}
	}
	done, total := 0, len(c.Projections())-1
	l := &part.Loader{Weights: w, Products: e.products, Block: e.block, Pages: e.pages, Adapter: o.Adapter, Progress: func() {
		if done++; o.Progress != nil {
			o.Progress(done, total)
		}
	}}
	if e.embed, err = w.Dense(c.Embedding.Name+".weight", c.VocabSize, c.HiddenSize); err != nil {
		return err
	}
	e.row = weights.RowBuffer(e.embed)
	if p := c.Embedding.Positions; p != "" {
		if e.positions, err = w.Dense(p+".weight", c.MaxContext, c.HiddenSize); err != nil {
			return err
		}
	}
	if e.final, err = l.Norm(&c.FinalNorm); err != nil {
		return err
	}
	for n := range c.Layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := l.Layer(&c.Layers[n])
		if err != nil {
			return err
		}
		e.layers = append(e.layers, r)
	}
	if err := e.loadHead(w, l); err != nil {
		return err
	}
	if o.Loaded != nil {
		o.Loaded()
	}
	return e.offer()
}

// Config describes the model.
func (e *Engine) Config() *model.Config { return e.cfg }

// Products are those that the engine was made with.
func (e *Engine) Products() part.Products { return e.products }

// PageBytes is the size of a page of the engine's caches.
func (e *Engine) PageBytes() int64 { return int64(e.pages.Bytes()) }

// cache is a part.Cache with model.Cache's Fork.
type cache struct{ *part.Cache }

func (c cache) Fork(n int) (model.Cache, error) {
	f, err := c.Cache.Fork(n)
	if err != nil {
		return nil, err
	}
	return cache{f}, nil
}

// NewCache makes room for the keys and values of one sequence.
func (e *Engine) NewCache(maxTokens int) (model.Cache, error) {
	if maxTokens <= 0 {
		maxTokens = e.cfg.MaxContext
	}
	if maxTokens > e.cfg.MaxContext {
		return nil, fmt.Errorf("model: a context of %d tokens; this model has %d", maxTokens, e.cfg.MaxContext)
	}
	return cache{e.pages.NewCache(maxTokens)}, nil
}

// Close gives everything back.
func (e *Engine) Close() error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return nil
	}
	e.closed = true
	if e.closing != nil {
		e.closing()
	}
	e.pages.Close()
	return e.products.Close()
}

// errClosed: the engine was closed before.
var errClosed = errors.New("model: the engine is closed")

// Forward runs a batch: see model.Engine.
func (e *Engine) Forward(ctx context.Context, batch []model.Input) (err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closed {
		return errClosed
	}
	if err := e.check(batch); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			for i := range batch {
				batch[i].Cache.(cache).Rollback()
			}
		}
	}()
	defer e.watch(&err)
	defer mapped.Recover(debug.SetPanicOnFault(true), &err)
	for i := range batch {
		batch[i].Cache.(cache).Begin()
	}
	// Cut the inputs into blocks; a block holds parts of as many inputs as fit.
	most := blockTokens
	if e.device.step != nil { // which runs long inputs a few tokens at a time, and keeps their keys and values
		most = e.device.rows
	}
	e.start()
	for i := range batch {
		in := &batch[i]
		for done := 0; done < len(in.Tokens); {
			n := min(len(in.Tokens)-done, most-e.block.N())
			if err := e.add(in, done, n); err != nil {
				return err
			}
			if done += n; e.block.N() == most {
				if err := e.forward(ctx); err != nil {
					return err
				}
				e.start()
			}
		}
	}
	if e.block.N() > 0 {
		return e.forward(ctx)
	}
	return nil
}

// watch ends what reads the weights: it counts when nobody has changed their files since they were opened.
func (e *Engine) watch(err *error) {
	if changed := e.files.Check(); changed != nil {
		*err = changed
	}
}

// Check says whether the engine can go on: see model.ErrChanged.
func (e *Engine) Check() error { return e.files.Check() }

func (e *Engine) check(batch []model.Input) error {
	for i := range batch {
		if err := batch[i].Check(e.cfg); err != nil {
			return err
		}
		c, ok := batch[i].Cache.(cache)
		if !ok || !c.Of(e.pages) {
			return errors.New("model: the cache is another engine's")
		}
		for j := range i {
			if batch[j].Cache == batch[i].Cache {
				return errors.New("model: one cache twice in a batch")
			}
		}
	}
	return nil
}

// start begins a block.
func (e *Engine) start() {
	e.block.Start()
	e.runs = e.runs[:0]
}

// add puts n tokens of an input, from the first-th on, into the block.
func (e *Engine) add(in *model.Input, first, n int) error {
	e.runs = append(e.runs, run{in, first, e.block.N(), n})
	return e.block.Add(in.Cache.(cache).Cache, n)
}

// forward runs the block's rows through every layer and fills what their inputs asked for.
func (e *Engine) forward(ctx context.Context) error {
	longest := e.block.Prepare()
	e.embedRows()
	ran, err := e.runOnDevice(ctx, longest)
	if err != nil {
		return err
	}
	if ran {
		if e.block.Finite() {
			return e.output(ctx)
		}
		e.embedRows() // once more, layer by layer: which one was it?
		if err := e.block.PagesToHost(e.pages); err != nil {
			return err
		}
	}
	e.trace("embed", e.block.Stream())
	for n, l := range e.layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := l.Run(ctx); err != nil {
			return err
		}
		if !e.block.Finite() {
			return e.notFinite(fmt.Sprintf("layer %d", n))
		}
		if e.tracing() {
			e.trace(fmt.Sprintf("layer.%d", n), e.block.Stream())
		}
	}
	return e.output(ctx)
}

// embedRows begins the residual stream.
func (e *Engine) embedRows() {
	scale := e.cfg.Embedding.Scale
	for _, r := range e.runs {
		for i, id := range r.input.Tokens[r.first : r.first+r.n] {
			x := e.block.Row(r.row + i)
			e.embed.Widen(x, e.embed.ReadRow(e.row, int(id)))
			if turn := e.cfg.Embedding.Rotation; turn != nil {
				turn.Undo(x)
			}
			if scale != 0 {
				kernel.Scale(x, scale)
			}
			if e.positions != nil {
				e.positions.Row(e.spare, e.block.Pos(r.row+i))
				kernel.Add(x, e.spare)
			}
		}
	}
}

// notFinite is the error for a NaN or infinity in what a place computed. It names the tensor that has one already: the files
// are looked through once.
func (e *Engine) notFinite(place string) error {
	e.damaged.Do(func() { e.damagedBy = e.files.NotFinite() })
	switch {
	case e.damagedBy != nil:
		return fmt.Errorf("model: %s produced NaN or infinity: %w", place, e.damagedBy)
	case e.cfg.KV == model.KVFloat16:
		return fmt.Errorf("model: %s produced NaN or infinity; keys or values beyond 65504 do not fit float16: try --kv f32 (Options.KV)", place)
	}
	return fmt.Errorf("model: %s produced NaN or infinity, although every weight that is stored as a float is finite: scales are wrong, or numbers go beyond float32", place)
}

func (e *Engine) tracing() bool {
	for _, r := range e.runs {
		if r.input.Trace != nil {
			return true
		}
	}
	return false
}

func (e *Engine) trace(name string, x []float32) {
	for _, r := range e.runs {
		if r.input.Trace != nil {
			r.input.Trace(name, x[r.row*e.cfg.HiddenSize:][:r.n*e.cfg.HiddenSize])
		}
	}
}
