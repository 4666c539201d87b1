package part

import (
	"context"

	"github.com/tritlm/trit/internal/kernel"
)

// Activation is the function of a feed-forward.
type Activation string

const (
	SiLU  Activation = "silu"
	ReLU2 Activation = "relu2" // squared ReLU
	GELU  Activation = "gelu"  // exact, by erf
	// GELUTanh is the approximation of it by tanh.
	GELUTanh Activation = "gelu_pytorch_tanh"
)

// Functions are all activations.
var Functions = []Activation{SiLU, ReLU2, GELU, GELUTanh}

// Gated is a feed-forward with a gate:
//
//	out = Down·SubNorm(act(Gate·x)·(Up·x))
type Gated struct {
	Gate, Up, Down Projection
	Activation     Activation
	SubNorm        *Norm // nil: none
}

// Projections are Gate, Up and Down.
func (g *Gated) Projections() []*Projection { return []*Projection{&g.Gate, &g.Up, &g.Down} }

// Norms is the one in front of Down.
func (g *Gated) Norms() []*Norm {
	if g.SubNorm == nil {
		return nil
	}
	return []*Norm{g.SubNorm}
}

// gated is a Gated that is loaded.
type gated struct {
	*Gated
	b       *Block
	in, out *bank
	subNorm norm
	act     func(lo, hi int)
	sparse  RowProducts // one token leaves out rows of Up whose gate is closed; nil where that cannot be
}

func (g *Gated) load(l *Loader) (runner, error) {
	r := &gated{Gated: g, b: l.Block}
	r.act = r.actRows
	var err error
	if g.SubNorm != nil {
		if r.subNorm, err = l.norm(g.SubNorm); err != nil {
			return nil, err
		}
	}
	if r.in, err = l.bank(&g.Gate, &g.Up); err != nil {
		return nil, err
	}
	if gate, up := &r.in.ls[0], &r.in.ls[1]; g.Activation == ReLU2 && up.plain() && gate.takesCodes() && gate.norm.w == nil {
		r.sparse, _ = l.Products.(RowProducts)
	}
	if n := kernel.Pad16(g.Up.Out); r.sparse != nil && len(l.Block.up) < n {
		l.Block.up, l.Block.open = make([]float32, n), make([]int32, n)
	}
	r.out, err = l.bank(&g.Down)
	return r, err
}

func (g *gated) inputs() *bank { return g.in }
func (g *gated) output() *bank { return g.out }

func (g *gated) run(ctx context.Context) error {
	if g.sparse != nil && g.b.n == 1 {
		if err := g.oneToken(ctx); err != nil {
			return err
		}
		return g.out.multiply(ctx)
	}
	if err := g.in.multiply(ctx); err != nil {
		return err
	}
	g.out.makePlanes()
	g.b.pool.For(g.b.n, 1, g.act)
	return g.out.multiply(ctx)
}

// oneToken computes the gate first. Where it is not positive, its square's product with up is zero whatever up is, and that
// row of up is not needed.
func (g *gated) oneToken(ctx context.Context) error {
	if err := g.in.multiplySome(ctx, 0, 1); err != nil {
		return err
	}
	b, up, F := g.b, &g.in.ls[1], g.Gate.Out
	gate := b.tmp[:F]
	g.in.take(gate, 0, 0, 0)
	open := b.open[:kernel.Above(b.open, gate, 0)]
	y := b.slots[1].acc[:len(open)]
	h := g.out.row(0)
	if !g.sparse.MultiplyRows(up.id, y, open, b.xq[:roundUp16(g.Gate.In)], b.xsum[:1]) {
		if err := g.in.multiplySome(ctx, 1, 2); err != nil {
			return err
		}
		g.in.takeOf(up, b.up[:F], 0, 0, 0)
		kernel.ReLU2Mul(h, gate, b.up[:F])
	} else {
		u := b.up[:len(y)]
		kernel.ScaleRow(u, y, b.xs[0]*up.scale[0])
		clear(h)
		for j, i := range open {
			h[i] = float32(gate[i]*gate[i]) * u[j]
		}
	}
	g.out.makePlanes()
	g.out.subNormed(0, &g.subNorm)
	return nil
}

// actRows: h = act(gate)·up through the sub-norm, prepared for Down.
func (g *gated) actRows(lo, hi int) {
	F := g.Gate.Out
	for r := lo; r < hi; r++ {
		h := g.out.row(r)
		up, gate := h, g.b.tmp[r*F:][:F]
		g.in.take(gate, 0, r, 0)
		g.in.take(up, 1, r, 0)
		switch g.Activation {
		case ReLU2:
			kernel.ReLU2Mul(h, gate, up)
		case SiLU:
			kernel.SiLUMul(h, gate, up)
		case GELU:
			kernel.GELU(gate, gate)
			multiply(h, gate, up)
		case GELUTanh:
			kernel.GELUTanh(gate, gate)
			multiply(h, gate, up)
		}
		g.out.subNormed(r, &g.subNorm)
	}
}

func multiply(dst, a, b []float32) {
	for i := range dst {
		dst[i] = a[i] * b[i]
	}
}

// Plain is a feed-forward without a gate: out = Down·gelu(Up·x).
type Plain struct {
	Up, Down Projection
}

// Projections are Up and Down.
func (p *Plain) Projections() []*Projection { return []*Projection{&p.Up, &p.Down} }

// Norms are none.
func (p *Plain) Norms() []*Norm { return nil }

// plain is a Plain that is loaded.
type plain struct {
	*Plain
	b       *Block
	in, out *bank
	act     func(lo, hi int)
}

func (p *Plain) load(l *Loader) (runner, error) {
	r := &plain{Plain: p, b: l.Block}
	r.act = r.actRows
	var err error
	if r.in, err = l.bank(&p.Up); err != nil {
		return nil, err
	}
	r.out, err = l.bank(&p.Down)
	return r, err
}

func (p *plain) inputs() *bank { return p.in }
func (p *plain) output() *bank { return p.out }

func (p *plain) run(ctx context.Context) error {
	if err := p.in.multiply(ctx); err != nil {
		return err
	}
	p.out.makePlanes()
	p.b.pool.For(p.b.n, 1, p.act)
	return p.out.multiply(ctx)
}

func (p *plain) actRows(lo, hi int) {
	for r := lo; r < hi; r++ {
		h := p.out.row(r)
		p.in.take(h, 0, r, 0)
		kernel.GELU(h, h)
		p.out.prepare(r)
	}
}
