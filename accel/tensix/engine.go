package tensix

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/tritlm/trit/accel/tensix/driver"
	"github.com/tritlm/trit/accel/tensix/kernels"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/ternary"
	"github.com/tritlm/trit/weights"
)

// Backend is the model.Backend of a Blackhole: all ternary products, the screening of the output head, and where the
// model allows it the residual stream with its norms run on its tiles; everything else (RoPE, attention) on the host
// in the same code as the CPU engine. The products are integers and exact, the float32 work has one order everywhere,
// so the engine's logits are bit-equal to the CPU's.
type Backend struct {
	// Machine is the chip to use; the caller closes it after the engine. Nil: card number Card.
	Machine driver.Machine
	Card    int
	Threads int // of the host's part, 0 for as many as the process may use
	Options Options
	// HostHead leaves the output head to the host: no int8 copy of it is made, and every logit is computed there.
	HostHead bool
	// ProductsOnly leaves norms, activation functions and the residual stream to the host, for every model. Else the
	// tiles keep the residual stream of up to 32 tokens, where the model has squared ReLU or SiLU and one scale a matrix, and run all
	// that lies between two attentions alone: one job a layer instead of four, and the same bits.
	ProductsOnly bool
	// HostAttention leaves attention to the host and keys and values in its memory: one job a layer. Else the tiles run
	// whole tokens, of models whose heads have 32, 64 or 128 columns, as one job, where their memory holds the context's
	// scores.
	HostAttention bool
	// Opened, if set, is given the device once the model is loaded.
	Opened func(*Device)
}

// Load uploads the model's ternary matrices.
func (b Backend) Load(ctx context.Context, c *model.Config, w *weights.Set) (model.Engine, error) {
	if err := checkModel(c); err != nil {
		return nil, err
	}
	if c.KV != model.KVFloat32 && !b.HostAttention && !b.ProductsOnly {
		return nil, fmt.Errorf("tensix: the card keeps keys and values in f32; use --kv f32, or --device tensix-blocks, which keeps them as %v in this machine's memory", c.KV)
	}
	m := b.Machine
	if m == nil {
		var err error
		if m, err = driver.OpenCard(b.Card); err != nil {
			return nil, fmt.Errorf("%w (the CPU engine is there: --device cpu)", err)
		}
	}
	p := &products{own: b.Machine == nil, m: m}
	d, err := Open(m, b.Options)
	if err != nil {
		return nil, errors.Join(err, p.Close())
	}
	p.d = d
	p.pool = par.New(b.Threads)
	p.hostHead = b.HostHead
	var products model.Products = &steps{blocks: blocks{products: p}}
	switch {
	case b.ProductsOnly:
		products = p
	case b.HostAttention:
		products = &blocks{products: p}
	}
	e, err := model.NewDecoder(ctx, c, w, p.pool, products)
	if err != nil {
		return nil, err
	}
	if b.Opened != nil {
		b.Opened(d)
	}
	return e, nil
}

// checkModel refuses models whose products would not be exact or whose shape the tiles cannot hold, before anything
// is uploaded.
func checkModel(c *model.Config) error {
	if !c.Ternary {
		return errors.New("tensix: this model has no ternary weights; use --device cpu")
	}
	return nil
}

// products is model.Products on a Device, and a model.HeadScreener.
type products struct {
	m        driver.Machine
	own      bool
	d        *Device
	pool     *par.Pool
	matrices []*Matrix
	list     []Product
	place    placement
	hostHead bool
	head     *head
}

func (p *products) Load(name string, m *ternary.Matrix) (int, error) {
	t, err := p.place.next(p.d, name, func() (*Matrix, error) { return p.d.LoadTernary(name, m.T16, m.Rows, m.Cols) })
	if err != nil {
		return 0, err
	}
	p.matrices = append(p.matrices, t)
	return len(p.matrices) - 1, nil
}

// placement spreads a model's matrices over the tiles so that Blocks can be made of them: up beside gate, and all
// that add to the residual stream beside each other.
type placement struct {
	gate, residual *Matrix
}

// next has the next matrix loaded where it belongs.
func (p *placement) next(d *Device, name string, load func() (*Matrix, error)) (*Matrix, error) {
	kind := name[strings.LastIndexByte(name, '.')+1:]
	adds := kind == "o_proj" || kind == "down_proj"
	switch {
	case adds && p.residual != nil:
		d.Beside(p.residual)
	case kind == "up_proj" && p.gate != nil:
		d.Beside(p.gate)
	}
	m, err := load()
	switch {
	case err != nil:
		return nil, err
	case adds && p.residual == nil:
		p.residual = m
	case kind == "gate_proj":
		p.gate = m
	}
	return m, nil
}

func (p *products) LoadHead(w *weights.Dense) (bool, error) {
	if p.hostHead {
		return false, nil
	}
	var err error
	p.head, err = newHead(p.d, p.pool, w)
	return err == nil, err
}

func (p *products) BestTokens(ctx context.Context, dst [][]model.Scored, x []float32) error {
	return p.head.top(ctx, dst, x)
}

func (p *products) Multiply(ctx context.Context, ids []int, y [][]int32, x []int8, xsum []int32) error {
	tokens := len(xsum)
	p.list = p.list[:0]
	for i, id := range ids {
		p.list = append(p.list, Product{M: p.matrices[id], Y: y[i], Panel: model.PanelRows})
	}
	return p.d.MatMul(ctx, x, tokens, len(x)/tokens, p.list...)
}

func (p *products) Close() error {
	var errs []error
	if p.pool != nil {
		p.pool.Close()
	}
	if p.d != nil {
		errs = append(errs, p.d.Close())
	}
	if p.own {
		errs = append(errs, p.m.Close())
	}
	return errors.Join(errs...)
}

// blocks is products that run blocks, too: a model.BlockRunner.
type blocks struct {
	*products
	list []*Block
}

func (p *blocks) LoadBlock(b model.Block) (id, tokens int, err error) {
	scaled := func(m model.BlockMatrix) Scaled { return Scaled{p.matrices[m.ID], m.Scale} }
	norm := func(n model.BlockNorm) Norm { return Norm(n) }
	w := BlockWeights{O: scaled(b.O), Gate: scaled(b.Gate), Up: scaled(b.Up), Down: scaled(b.Down), FFNNorm: norm(b.FFNNorm), SubNorm: norm(b.FFNSubNorm), NextNorm: norm(b.NextNorm), SiLU: b.Activation == model.SiLU}
	for _, m := range b.Next {
		w.Next = append(w.Next, scaled(m))
	}
	x, err := p.d.NewBlock(w, kernels.MaxBatch)
	if errors.Is(err, ErrShape) {
		return 0, 0, nil
	}
	p.list = append(p.list, x)
	return len(p.list) - 1, kernels.MaxBatch, err
}

func (p *blocks) RunBlock(ctx context.Context, id int, r model.BlockRun) error {
	p.products.list = p.products.list[:0]
	for _, y := range r.Y {
		p.products.list = append(p.products.list, Product{Y: y, Panel: model.PanelRows})
	}
	return p.d.RunBlock(ctx, p.list[id], r.X, len(r.X)/len(r.Scales), r.Scales, r.In, r.Out, p.products.list...)
}

// steps is blocks that run whole tokens, too: a model.StepRunner.
type steps struct {
	blocks
	step *Step
	rows []StepRow
}

func (p *steps) LoadStep(s model.Step) (bool, error) {
	w := StepWeights{Heads: s.Heads, KeyHeads: s.KVHeads, Cols: s.HeadDim}
	for _, m := range s.First {
		w.First = append(w.First, Scaled{p.matrices[m.ID], m.Scale})
	}
	for _, id := range s.Blocks {
		w.Blocks = append(w.Blocks, p.blocks.list[id])
	}
	for _, n := range s.AttnSubNorms {
		w.AttnNorms = append(w.AttnNorms, Norm(n))
	}
	var err error
	p.step, err = p.d.NewStep(w)
	if errors.Is(err, ErrShape) {
		return false, nil
	}
	return err == nil, err
}

func (p *steps) StepFits(tokens, longest int) bool { return p.d.StepFits(p.step, tokens, longest) }

func (p *steps) RunStep(ctx context.Context, r model.StepRun) error {
	p.rows = p.rows[:0]
	for _, row := range r.Rows {
		p.rows = append(p.rows, StepRow(row))
	}
	return p.d.RunStep(ctx, p.step, r.X, len(r.X)/len(r.Scales), r.Scales, r.Stream, p.rows)
}

func (p *steps) NewPage() (int, error)                    { return p.step.pages.New() }
func (p *steps) FreePage(page int)                        { p.step.pages.Free(page) }
func (p *steps) WritePage(page int, data []float32) error { return p.step.pages.Write(page, data) }
func (p *steps) ReadPage(page int, data []float32) error  { return p.step.pages.Read(page, data) }
