package part

import (
	"context"
	"errors"
	"fmt"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/ternary"
	"github.com/tritlm/trit/weights"
)

// Arithmetic is how a projection is computed.
type Arithmetic uint8

const (
	// Dense multiplies floats, in the precision of the file.
	Dense Arithmetic = iota
	// Ternary8 is W1.58A8: codes of weights by codes of activations, an exact integer sum. Masters are quantised when they
	// are loaded. See package ternary and kernel.QuantizeRow.
	Ternary8
	// WeightOnly multiplies ternary or binary weights with a scale for each group of columns by activations that are floats:
	// see Activations and kernel.GroupMatMul.
	WeightOnly
)

var arithmetics = [...]string{"dense", "W1.58A8", "weights only"}

func (a Arithmetic) String() string { return arithmetics[a] }

// Projection is a linear layer, y = W·x, or W·x + bias.
type Projection struct {
	Name       string // of the module: its tensors are Name.weight, Name.bias
	In, Out    int
	Arithmetic Arithmetic
	Bias       bool
	// Norm is an RMSNorm in front of this projection alone, nil for none. Only Ternary8 has one.
	Norm *Norm
	// Rotation of the input, nil for none. Only WeightOnly has one.
	Rotation *Rotation
	// Weights is the module whose weights are taken, "" for Name: a head that is the embedding.
	Weights string
	Role    Role
	Sparse  bool // see Matrix
}

// Source is the module whose weights it takes.
func (p *Projection) Source() string {
	if p.Weights != "" {
		return p.Weights
	}
	return p.Name
}

// linear is a Projection that is loaded.
type linear struct {
	*Projection
	id    int            // of the matrix in Products
	group int            // WeightOnly: columns of an exact sum
	scale []float32      // ternary: one, or one per row
	dense *weights.Dense // else
	norm  norm           // in front, of this projection alone
	bias  []float32
	lora  *lora // nil: none
}

func (l *Loader) linear(p *Projection) (linear, error) {
	if l.Progress != nil {
		l.Progress()
	}
	x := linear{Projection: p}
	name := p.Source() + ".weight"
	var err error
	switch p.Arithmetic {
	case WeightOnly:
		if l.Block.weights == nil {
			return x, fmt.Errorf("part: %s has weights with scales of groups, which this device cannot multiply; the CPU can: %w", p.Name, errors.ErrUnsupported)
		}
		read := func() (*ternary.Groups, error) {
			g, err := l.Weights.Groups(name, p.Out, p.In)
			if err == nil {
				x.group = g.M.Group
			}
			return g, err
		}
		x.id, err = l.Block.weights.LoadWeights(Matrix{p.Source(), p.Out, p.In, p.Role, p.Sparse}, read)
	case Ternary8:
		read := func() (*ternary.Matrix, error) { return l.Weights.Ternary(name, p.Out, p.In) }
		m := Matrix{p.Source(), p.Out, p.In, p.Role, p.Sparse}
		if x.id, x.scale, err = l.Products.Load(m, read); err == nil && p.Norm != nil {
			x.norm, err = l.norm(p.Norm)
		}
	default:
		x.dense, err = l.Weights.Dense(name, p.Out, p.In)
	}
	if err != nil {
		return x, err
	}
	if p.Bias {
		if x.bias, err = l.Weights.Vector(p.Name+".bias", p.Out); err != nil {
			return x, err
		}
	}
	if l.Adapter != nil {
		x.lora = l.Adapter.modules[p.Name]
	}
	return x, nil
}

// takesCodes says whether the projection multiplies the codes that it shares with its neighbours: it is ternary and has no
// norm of its own.
func (l *linear) takesCodes() bool { return l.Arithmetic == Ternary8 && l.norm.w == nil }

// stride is from one row of its product to the next, where that is floats.
func (l *linear) stride() int {
	if l.Arithmetic == WeightOnly {
		return roundUp16(l.Out)
	}
	return l.Out
}

// plain says whether it is one ternary matrix with one scale and nothing else.
func (l *linear) plain() bool {
	return l.takesCodes() && l.bias == nil && l.lora == nil && len(l.scale) == 1
}

// bank is projections that share their input: the place where that is normed and quantised, as they need it.
type bank struct {
	b     *Block
	ls    []linear
	cols  int
	codes bool // some take codes

	own      *norm // under way: see quantizeOwn
	quantize func(lo, hi int)
	ids      []int
	y        [][]int32
	planes   []planeSet // of projections of weights alone
	outs     [][]float32

	adapted        bool // some have an adapter: see lowRank
	low            func(lo, hi int)
	lowFrom, lowTo int
}

// bank loads projections that share their input.
func (l *Loader) bank(ps ...*Projection) (*bank, error) {
	k := &bank{b: l.Block, cols: ps[0].In}
	k.quantize, k.low = k.quantizeOwn, k.lowRows
	for i, p := range ps {
		x, err := l.linear(p)
		if err != nil {
			return nil, err
		}
		k.codes = k.codes || x.takesCodes()
		if x.Arithmetic == WeightOnly {
			k.addPlanes(i, &x)
		}
		k.adapted = k.adapted || x.lora != nil
		k.ls = append(k.ls, x)
		l.Block.makeRoom(i, &x)
	}
	return k, nil
}

// row is row r of the input.
func (k *bank) row(r int) []float32 { return k.b.h[r*k.cols:][:k.cols] }

// normed makes row r of the input out of the residual stream.
func (k *bank) normed(r int, n *norm) {
	b := k.b
	x, h := b.X[r*b.width:][:b.width], k.row(r)
	if n.b == nil && k.codes && len(k.planes) == 0 {
		c16 := roundUp16(k.cols)
		b.xs[r], b.xsum[r] = kernel.RMSNormQuantize(b.xq[r*c16:][:c16], h, x, n.w, n.eps)
		return
	}
	n.apply(h, x)
	k.prepare(r)
}

// prepare quantises row r of the input, which is there, as projections need it.
func (k *bank) prepare(r int) {
	k.roundRow(r)
	if !k.codes {
		return
	}
	b, c16 := k.b, roundUp16(k.cols)
	b.xs[r], b.xsum[r] = kernel.QuantizeRow(b.xq[r*c16:][:c16], k.row(r))
}

// subNormed norms row r of the input in place, where there is such a norm, and prepares it.
func (k *bank) subNormed(r int, n *norm) {
	if n.w != nil {
		h := k.row(r)
		n.apply(h, h)
	}
	k.prepare(r)
}

// multiply computes the products of the block's inputs, which are prepared: dense ones into the slots' out; ternary ones into
// their acc, in panels, from xq, which those with a norm of their own make anew and so come last.
func (k *bank) multiply(ctx context.Context) error { return k.multiplySome(ctx, 0, len(k.ls)) }

// multiplySome computes projections [from, to) alone. Their products go to slots 0, 1, …
func (k *bank) multiplySome(ctx context.Context, from, to int) error {
	b, c16 := k.b, roundUp16(k.cols)
	ls := k.ls[from:to]
	k.lowRank(from, to)
	for i := range ls {
		if l := &ls[i]; l.dense != nil {
			b.dense.Set(l.dense, b.h[:b.n*k.cols], b.slots[i].out, l.Out)
			b.dense.Run(b.pool)
		}
	}
	if err := k.multiplyWeights(ctx, from, to); err != nil {
		return err
	}
	k.ids, k.y = k.ids[:0], k.y[:0]
	for i := range ls {
		if l := &ls[i]; l.takesCodes() {
			k.adds(l, i)
		}
	}
	if len(k.ids) > 0 {
		if err := b.products.Multiply(ctx, k.ids, k.y, b.xq[:b.n*c16], b.xsum[:b.n]); err != nil {
			return err
		}
	}
	for i := range ls {
		l := &ls[i]
		if l.norm.w == nil {
			continue
		}
		k.own = &l.norm
		b.pool.For(b.n, 1, k.quantize)
		k.ids, k.y = k.ids[:0], k.y[:0]
		k.adds(l, i)
		if err := b.products.Multiply(ctx, k.ids, k.y, b.xq[:b.n*c16], b.xsum[:b.n]); err != nil {
			return err
		}
	}
	return nil
}

// adds adds a projection, whose product goes to slot i, to the matrices of the next Multiply.
func (k *bank) adds(l *linear, i int) {
	s := &k.b.slots[i]
	k.ids = append(k.ids, l.id)
	k.y = append(k.y, s.acc[:k.b.n*roundUp16(l.Out)])
	s.scale = append(s.scale[:0], k.b.xs[:k.b.n]...)
}

// quantizeOwn norms and quantises rows of the input for one projection that has a norm of its own.
func (k *bank) quantizeOwn(lo, hi int) {
	b, c16 := k.b, roundUp16(k.cols)
	for r := lo; r < hi; r++ {
		// The normed row is needed only as int8: norm in a buffer that this row owns and nobody reads now.
		tmp := b.tmp[r*k.cols:][:k.cols]
		b.xs[r], b.xsum[r] = kernel.RMSNormQuantize(b.xq[r*c16:][:c16], tmp, k.row(r), k.own.w, k.own.eps)
	}
}

// take writes outputs from first on of row r of the product in slot i: y = s_x·s_w·(Ŵx̂) + bias. It is that of projection i of
// the last multiply.
//
//	y  [at most out-first]
func (k *bank) take(y []float32, i, r, first int) { k.takeOf(&k.ls[i], y, i, r, first) }

func (k *bank) takeOf(l *linear, y []float32, slot, r, first int) {
	b, s, end := k.b, &k.b.slots[slot], first+len(y)
	if l.Arithmetic != Ternary8 {
		copy(y, s.out[r*l.stride()+first:])
	} else {
		rows := roundUp16(l.Out)
		scale := s.scale[r]
		one := len(l.scale) == 1
		if one {
			scale *= l.scale[0]
		}
		for p := first / PanelRows; p*PanelRows < end; p++ {
			acc, at, width := Panel(s.acc, p, b.n, rows)
			lo, hi := max(at, first), min(at+width, end)
			kernel.ScaleRow(y[lo-first:hi-first], acc[r*width+lo-at:][:hi-lo], scale)
		}
		if !one {
			for o := range y {
				y[o] *= l.scale[first+o]
			}
		}
	}
	if l.bias != nil {
		kernel.Add(y, l.bias[first:end])
	}
	if l.lora != nil {
		l.lora.add(y, first, s.low[r*l.lora.rank:][:l.lora.rank])
	}
}

// DenseProduct is y[t] = W·x[t] in the precision of the file. Row t of the product goes to y[t].
type DenseProduct struct {
	w       *weights.Dense
	x       []float32   // [tokens, Cols]
	y       [][]float32 // tokens rows of [Rows]
	panel   func(i, worker int)
	workers []denseScratch
}

type denseScratch struct {
	row   []float32 // [Cols] one dequantised row
	panel []float32 // [tokens, PanelRows]
}

// NewDenseProduct makes room for products on a pool of so many threads.
func NewDenseProduct(threads int) *DenseProduct {
	p := &DenseProduct{workers: make([]denseScratch, threads)}
	p.panel = p.onePanel
	return p
}

// Set prepares the product of x [tokens, cols] into y [tokens, rows].
func (p *DenseProduct) Set(w *weights.Dense, x, y []float32, rows int) {
	p.w, p.x, p.y = w, x, p.y[:0]
	for t := range len(x) / w.Cols {
		p.y = append(p.y, y[t*rows:][:rows])
	}
}

// SetRows prepares the product of x [tokens, cols] into rows that lie anywhere, one for each token.
func (p *DenseProduct) SetRows(w *weights.Dense, x []float32, y [][]float32) { p.w, p.x, p.y = w, x, y }

// Run computes it.
func (p *DenseProduct) Run(pool interface {
	Run(n int, fn func(i, worker int))
},
) {
	pool.Run((p.w.Rows+PanelRows-1)/PanelRows, p.panel)
}

// onePanel computes one panel of outputs for all tokens.
func (p *DenseProduct) onePanel(i, worker int) {
	ws := &p.workers[worker]
	lo := i * PanelRows
	n := min(PanelRows, p.w.Rows-lo)
	cols, tokens := p.w.Cols, len(p.y)
	if len(ws.panel) < tokens*n {
		ws.panel = make([]float32, tokens*PanelRows)
	}
	out := ws.panel[:tokens*n]
	direct := tokens == 1
	if direct {
		out = p.y[0][lo : lo+n]
	}
	switch p.w.Type {
	case gguf.F32:
		kernel.MatMulF32(out, p.w.F32[lo*cols:][:n*cols], p.x, tokens)
	case gguf.BF16:
		kernel.MatMulBF16(out, p.w.U16[lo*cols:][:n*cols], p.x, tokens)
	case gguf.F16:
		kernel.MatMulF16(out, p.w.U16[lo*cols:][:n*cols], p.x, tokens)
	default: // block types: row by row through float32
		if len(ws.row) < cols {
			ws.row = make([]float32, cols)
		}
		row := ws.row[:cols]
		for r := range n {
			p.w.Row(row, lo+r)
			for t := range tokens {
				out[t*n+r] = kernel.Dot(row, p.x[t*cols:][:cols])
			}
		}
	}
	if !direct {
		for t := range tokens {
			copy(p.y[t][lo:], out[t*n:][:n])
		}
	}
}
