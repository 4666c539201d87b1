package part

import (
	"context"
	"fmt"
	"slices"

	"github.com/tritlm/trit/internal/kernel"
)

// Experts is a feed-forward of many small ones, of which a router takes a few for each token:
//
//	p = softmax(Router·x);  T = the TopK largest of p;  w = p of T, or p/Σp of T with Renormalise
//	out = Σ_T w·Expert(x)  [+ sigmoid(SharedGate·x)·Shared(x)]
//
// Of equal scores the expert with the lower number is taken. The router's arithmetic is float32, and the sum is taken in the order
// of the experts' numbers, so that it does not depend on which tokens of a block share an expert.
//
// Sources: transformers models/qwen3_moe, models/qwen3_5_moe.
type Experts struct {
	Router      Projection
	Experts     []Gated // all of one shape
	TopK        int
	Renormalise bool

	Shared     *Gated      // an expert that every token has, nil: none
	SharedGate *Projection // of one output; nil: the shared expert is added as it is
}

// Projections are the router's, those of each expert, and the shared ones.
func (e *Experts) Projections() []*Projection {
	list := make([]*Projection, 0, 1+3*len(e.Experts)+4)
	list = append(list, &e.Router)
	for i := range e.Experts {
		list = append(list, e.Experts[i].Projections()...)
	}
	if e.SharedGate != nil {
		list = append(list, e.SharedGate)
	}
	if e.Shared != nil {
		list = append(list, e.Shared.Projections()...)
	}
	return list
}

// Norms are those of the experts.
func (e *Experts) Norms() (list []*Norm) {
	for i := range e.Experts {
		list = append(list, e.Experts[i].Norms()...)
	}
	if e.Shared != nil {
		list = append(list, e.Shared.Norms()...)
	}
	return list
}

// Check refuses impossible numbers.
func (e *Experts) Check() error {
	if len(e.Experts) < 1 || e.TopK < 1 || e.TopK > len(e.Experts) {
		return fmt.Errorf("a token takes %d experts of %d; it must take at least one, and at most all", e.TopK, len(e.Experts))
	}
	return nil
}

// experts is an Experts that is loaded. An expert runs as a feed-forward of its own on a block of the rows that chose it.
type experts struct {
	*Experts
	b     *Block
	own   *Block // of the rows of one expert
	in    *bank  // of the router and the gate of the shared expert
	out   *bank  // where the sum is: a product that nobody computes
	each  []*gated
	share *gated

	logits []float32 // [N, experts]
	shared []float32 // [N] of the shared expert
	taken  []choice  // [N, TopK], of a row in the order of experts
	first  []int     // [experts + 1] where those of an expert begin in byExp
	byExp  []choice  // [N · TopK] by expert
	now    *gated    // under way, with these rows
	rows   []choice

	route, gather, add func(lo, hi int)
}

// choice is one expert of a row.
type choice struct {
	row, expert int
	weight      float32
}

func (e *Experts) load(l *Loader) (runner, error) {
	r := &experts{Experts: e, b: l.Block, first: make([]int, len(e.Experts)+1)}
	r.route, r.gather, r.add = r.routeRows, r.gatherRows, r.addRows
	inputs := []*Projection{&e.Router}
	if e.SharedGate != nil {
		inputs = append(inputs, e.SharedGate)
	}
	var err error
	if r.in, err = l.bank(inputs...); err != nil {
		return nil, err
	}
	sum := linear{Projection: &Projection{In: l.Block.width, Out: l.Block.width}}
	l.Block.makeRoom(0, &sum)
	r.out = &bank{b: l.Block, cols: l.Block.width, ls: []linear{sum}}

	if l.Block.experts == nil { // all layers share it
		l.Block.experts = NewBlock(l.Block.pool, l.Products, l.Block.width)
		l.Block.experts.activations = l.Block.activations
	}
	own := *l
	own.Block = l.Block.experts
	r.own = own.Block
	for i := range e.Experts {
		g, err := e.Experts[i].load(&own)
		if err != nil {
			return nil, err
		}
		r.each = append(r.each, g.(*gated))
	}
	if e.Shared != nil {
		g, err := e.Shared.load(&own)
		if err != nil {
			return nil, err
		}
		r.share = g.(*gated)
	}
	return r, nil
}

func (e *experts) inputs() *bank { return e.in }
func (e *experts) output() *bank { return e.out }

func (e *experts) run(ctx context.Context) error {
	if err := e.in.multiply(ctx); err != nil {
		return err
	}
	n := e.b.n
	e.logits = grown(e.logits, n*len(e.Experts.Experts))
	e.shared = grown(e.shared, n)
	e.taken = grown(e.taken, n*e.TopK)
	e.byExp = grown(e.byExp, n*e.TopK)
	e.b.pool.For(n, 1, e.route)
	e.group()
	clear(e.sum(0, n))
	for i, g := range e.each {
		if rows := e.byExp[e.first[i]:e.first[i+1]]; len(rows) > 0 {
			if err := e.one(ctx, g, rows); err != nil {
				return err
			}
		}
	}
	if e.share == nil {
		return nil
	}
	rows := e.byExp[:n]
	for r := range rows {
		rows[r] = choice{row: r, weight: e.shared[r]}
	}
	return e.one(ctx, e.share, rows)
}

// sum is where rows [lo, hi) of the output are.
func (e *experts) sum(lo, hi int) []float32 {
	return e.b.slots[0].out[lo*e.b.width : hi*e.b.width]
}

// routeRows chooses the experts of rows.
func (e *experts) routeRows(lo, hi int) {
	E := len(e.Experts.Experts)
	for r := lo; r < hi; r++ {
		p := e.logits[r*E:][:E]
		e.in.take(p, 0, r, 0)
		if e.shared[r] = 1; e.SharedGate != nil {
			e.in.take(e.shared[r:r+1], 1, r, 0)
			e.shared[r] = sigmoid(e.shared[r])
		}
		total := kernel.SoftmaxExp(p, kernel.Max(p))
		taken := e.taken[r*e.TopK:][:0]
		for i, v := range p { // a list of the largest so far, largest first
			at := len(taken)
			for at > 0 && v > taken[at-1].weight {
				at--
			}
			if at == e.TopK {
				continue
			}
			if len(taken) < e.TopK {
				taken = append(taken, choice{})
			}
			copy(taken[at+1:], taken[at:])
			taken[at] = choice{r, i, v}
		}
		var sum float32
		for i := range taken {
			taken[i].weight /= total
			sum += taken[i].weight
		}
		if e.Renormalise {
			for i := range taken {
				taken[i].weight /= sum
			}
		}
		slices.SortFunc(taken, func(a, b choice) int { return a.expert - b.expert })
	}
}

// group sorts the choices by expert.
func (e *experts) group() {
	clear(e.first)
	for _, c := range e.taken {
		e.first[c.expert+1]++
	}
	for i := range e.each {
		e.first[i+1] += e.first[i]
	}
	at := e.first
	for _, c := range e.taken {
		e.byExp[at[c.expert]] = c
		at[c.expert]++
	}
	copy(at[1:], at[:len(at)-1]) // each is where the next begins now
	at[0] = 0
}

// one adds what an expert makes of rows.
func (e *experts) one(ctx context.Context, g *gated, rows []choice) error {
	e.now, e.rows = g, rows
	e.own.grow(len(rows))
	e.own.n = len(rows)
	g.in.makePlanes()
	e.b.pool.For(len(rows), 1, e.gather)
	if err := g.run(ctx); err != nil {
		return err
	}
	e.b.pool.For(len(rows), 1, e.add)
	return nil
}

func (e *experts) gatherRows(lo, hi int) {
	for i := lo; i < hi; i++ {
		copy(e.now.in.row(i), e.in.row(e.rows[i].row))
		e.now.in.prepare(i)
	}
}

func (e *experts) addRows(lo, hi int) {
	for i := lo; i < hi; i++ {
		c, y := e.rows[i], e.own.tmp[i*e.b.width:][:e.b.width]
		e.now.out.take(y, 0, i, 0)
		kernel.Scale(y, c.weight)
		kernel.Add(e.sum(c.row, c.row+1), y)
	}
}

// sigmoid is 1/(1+e⁻ˣ).
func sigmoid(x float32) float32 { return 1 / (1 + kernel.Exp(-x)) }

// grown is s with n elements, contents open.
func grown[T any](s []T, n int) []T { return slices.Grow(s[:0], n)[:n] }
