package tensix

import (
	"context"
	"errors"
	"fmt"

	"github.com/tritlm/trit/accel/tensix/driver"
	"github.com/tritlm/trit/accel/tensix/kernels"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/engine"
	"github.com/tritlm/trit/model/part"
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
	var products part.Products = &steps{blocks: blocks{products: p}}
	switch {
	case b.ProductsOnly:
		products = p
	case b.HostAttention:
		products = &blocks{products: p}
	}
	e, err := engine.New(ctx, c, w, p.pool, products, engine.Options{})
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
	if !c.Ternary() {
		return errors.New("tensix: this model has no ternary weights; use --device cpu")
	}
	return nil
}

// products is part.Products on a Device, and an engine.HeadScreener.
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

func (p *products) Load(x part.Matrix, read func() (*ternary.Matrix, error)) (int, []float32, error) {
	m, err := read()
	if err != nil {
		return 0, nil, err
	}
	t, err := p.place.next(p.d, x.Role, func() (*Matrix, error) { return p.d.LoadTernary(x.Name, m.T16, m.Rows, m.Cols) })
	if err != nil {
		return 0, nil, err
	}
	p.matrices = append(p.matrices, t)
	return len(p.matrices) - 1, m.Scale, nil
}

// roles are those of a layer's projections by the last part of their names, where there is no model to ask.
var roles = map[string]part.Role{"o_proj": part.RoleOut, "gate_proj": part.RoleGate, "up_proj": part.RoleUp, "down_proj": part.RoleDown}

// placement spreads a model's matrices over the tiles so that Blocks can be made of them: up beside gate, and all
// that add to the residual stream beside each other.
type placement struct {
	gate, residual *Matrix
}

// next has the next matrix loaded where it belongs.
func (p *placement) next(d *Device, role part.Role, load func() (*Matrix, error)) (*Matrix, error) {
	adds := role == part.RoleOut || role == part.RoleDown
	switch {
	case adds && p.residual != nil:
		d.Beside(p.residual)
	case role == part.RoleUp && p.gate != nil:
		d.Beside(p.gate)
	}
	m, err := load()
	switch {
	case err != nil:
		return nil, err
	case adds && p.residual == nil:
		p.residual = m
	case role == part.RoleGate:
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
		p.list = append(p.list, Product{M: p.matrices[id], Y: y[i], Panel: part.PanelRows})
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

// blocks is products that run blocks, too: an engine.BlockRunner.
type blocks struct {
	*products
	list []*Block
}

// runsGated says whether the tiles compute such a feed-forward: squared ReLU or SiLU.
func runsGated(g *part.Gated) bool { return g.Activation == part.ReLU2 || g.Activation == part.SiLU }

// taken gathers what of a layer the tiles are to have; ok turns false where they cannot.
type taken struct {
	p  *products
	of *part.DeviceLayer
	ok bool
}

func (t *taken) matrix(p *part.Projection) Scaled {
	m, ok := t.of.Matrix(p)
	if t.ok = t.ok && ok; !ok {
		return Scaled{}
	}
	return Scaled{t.p.matrices[m.ID], m.Scale}
}

// norm is one of the layer's norms, or none.
func (t *taken) norm(n *part.Norm) Norm {
	if n == nil {
		return Norm{}
	}
	w, ok := t.of.Norm(n)
	t.ok = t.ok && ok
	return Norm(w)
}

// inputs are q, k and v.
func (t *taken) inputs(a *part.Attention) []Scaled {
	return []Scaled{t.matrix(&a.Q), t.matrix(&a.K), t.matrix(&a.V)}
}

func (p *blocks) LoadBlock(layer, next *part.DeviceLayer) (id, tokens int, err error) {
	a, ok := layer.Mixer.(*part.Attention)
	g, gated := layer.FeedForward.(*part.Gated)
	if !ok || !gated || a.Gate || g.Clamp != 0 || a.Rope != nil && a.Rope.Dim != a.HeadDim || !runsGated(g) || layer.MixerPost != nil || layer.FeedForwardPost != nil || layer.Scale != 0 {
		return 0, 0, nil
	}
	t := &taken{p.products, layer, true}
	w := BlockWeights{
		O: t.matrix(&a.O), Gate: t.matrix(&g.Gate), Up: t.matrix(&g.Up), Down: t.matrix(&g.Down),
		FFNNorm: t.norm(&layer.FeedForwardNorm), SubNorm: t.norm(g.SubNorm), SiLU: g.Activation == part.SiLU,
	}
	if next != nil {
		b, ok := next.Mixer.(*part.Attention)
		if !ok {
			return 0, 0, nil
		}
		t.of = next
		w.Next, w.NextNorm = t.inputs(b), t.norm(&next.MixerNorm)
	}
	if !t.ok {
		return 0, 0, nil
	}
	x, err := p.d.NewBlock(w, kernels.MaxBatch)
	if errors.Is(err, ErrShape) {
		return 0, 0, nil
	}
	p.list = append(p.list, x)
	return len(p.list) - 1, kernels.MaxBatch, err
}

func (p *blocks) RunBlock(ctx context.Context, id int, r engine.BlockRun) error {
	p.products.list = p.products.list[:0]
	for _, y := range r.Y {
		p.products.list = append(p.products.list, Product{Y: y, Panel: part.PanelRows})
	}
	return p.d.RunBlock(ctx, p.list[id], r.X, len(r.X)/len(r.Scales), r.Scales, r.In, r.Out, p.products.list...)
}

// steps is blocks that run whole tokens, too: an engine.StepRunner.
type steps struct {
	blocks
	step *Step
	rows []StepRow
}

func (p *steps) LoadStep(layers []*part.DeviceLayer, blocks []int) (bool, error) {
	first := layers[0].Mixer.(*part.Attention) // or there were no blocks
	t := &taken{p.products, layers[0], true}
	w := StepWeights{Heads: first.Heads, KeyHeads: first.KVHeads, Cols: first.HeadDim, First: t.inputs(first)}
	for i, l := range layers {
		a := l.Mixer.(*part.Attention)
		if a.Rope == nil || a.QNorm != nil || a.KNorm != nil || a.Window != 0 || a.Scalar != 0 || a.Rope != first.Rope {
			return false, nil
		}
		t.of = l
		w.AttnNorms = append(w.AttnNorms, t.norm(a.SubNorm))
		w.Blocks = append(w.Blocks, p.blocks.list[blocks[i]])
	}
	if !t.ok {
		return false, nil
	}
	var err error
	p.step, err = p.d.NewStep(w)
	if errors.Is(err, ErrShape) {
		return false, nil
	}
	return err == nil, err
}

func (p *steps) StepFits(tokens, longest int) bool { return p.d.StepFits(p.step, tokens, longest) }

func (p *steps) RunStep(ctx context.Context, r engine.StepRun) error {
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
