package part

import (
	"context"
	"math"

	"github.com/tritlm/trit/internal/kernel"
)

// Attention is softmax attention of a token over those before it, with shared key and value heads.
//
//	q, k, v = Q·x, K·x, V·x;  out = O·SubNorm(softmax(q·k/√Scalar)·v)
//
// and with Gate, for which Q gives each head a query and behind it a gate: O·(sigmoid(gate)·softmax(…)·v),
// with QNorm and KNorm over each head of q and k, and then rotary positions.
type Attention struct {
	Heads, KVHeads int // KVHeads divides Heads
	HeadDim        int
	Q, K, V, O     Projection
	QNorm, KNorm   *Norm   // over a head, nil: none
	SubNorm        *Norm   // in front of O, nil: none
	Rope           *Rope   // nil: none
	RopeFirst      bool    // positions come before QNorm and KNorm
	Window         int     // a token sees the last so many, itself included; 0 is all
	Gate           bool    // see above
	Scalar         float64 // scores are divided by its root; 0 is HeadDim
}

// Projections are Q, K, V and O.
func (a *Attention) Projections() []*Projection { return []*Projection{&a.Q, &a.K, &a.V, &a.O} }

// Norms are those of heads and the one in front of O.
func (a *Attention) Norms() (list []*Norm) {
	for _, n := range []*Norm{a.QNorm, a.KNorm, a.SubNorm} {
		if n != nil {
			list = append(list, n)
		}
	}
	return list
}

// attention is an Attention that is loaded.
type attention struct {
	*Attention
	b                     *Block
	in, out               *bank
	qNorm, kNorm, subNorm norm
	rope                  *ropeTable
	at                    place // of its keys and values
	scale                 float32

	qkv, normOut                   func(lo, hi int)
	attend, attendSpan, attendJoin func(i, worker int)
}

func (a *Attention) load(l *Loader) (runner, error) {
	r := &attention{Attention: a, b: l.Block, rope: l.rope(a.Rope), at: l.Pages.place(a.KVHeads, a.HeadDim)}
	scalar := a.Scalar
	if scalar == 0 {
		scalar = float64(a.HeadDim)
	}
	r.scale = float32(1 / math.Sqrt(scalar))
	l.Block.heads = max(l.Block.heads, a.Heads*a.HeadDim)
	l.Block.kvHeads = max(l.Block.kvHeads, a.KVHeads*kernel.Pad16(a.HeadDim))
	r.qkv, r.normOut, r.attend, r.attendSpan, r.attendJoin = r.qkvHeads, r.normOutRows, r.attendTile, r.attendOneSpan, r.joinSpans
	for _, t := range []struct {
		dst *norm
		n   *Norm
	}{{&r.qNorm, a.QNorm}, {&r.kNorm, a.KNorm}, {&r.subNorm, a.SubNorm}} {
		if t.n == nil {
			continue
		}
		var err error
		if *t.dst, err = l.norm(t.n); err != nil {
			return nil, err
		}
	}
	var err error
	if r.in, err = l.bank(&a.Q, &a.K, &a.V); err != nil {
		return nil, err
	}
	r.out, err = l.bank(&a.O)
	return r, err
}

func (a *attention) inputs() *bank { return a.in }
func (a *attention) output() *bank { return a.out }

// group is how many queries share a key head.
func (a *Attention) group() int { return a.Heads / a.KVHeads }

func (a *attention) run(ctx context.Context) error {
	if err := a.in.multiply(ctx); err != nil {
		return err
	}
	a.mix()
	return a.out.multiply(ctx)
}

// mix goes on from the products of q, k and v to the input of O.
func (a *attention) mix() {
	a.b.pool.For(a.b.n*a.KVHeads, 1, a.qkv)
	a.attendAll()
	a.out.makePlanes()
	a.b.pool.For(a.b.n, 1, a.normOut)
}

// qkvHeads: q, k, v from the products, normed and rotated; k and v go into the cache. A row has KVHeads pieces: each key head
// and the queries that share it.
func (a *attention) qkvHeads(lo, hi int) {
	b, hd, group := a.b, a.HeadDim, a.group()*a.HeadDim
	for i := lo; i < hi; i++ {
		r, h := i/a.KVHeads, i%a.KVHeads
		q, k, v := b.q[i*group:][:group], b.k[i*hd:][:hd], b.v[i*hd:][:hd]
		a.takeQueries(q, r, h)
		a.in.take(k, 1, r, h*hd)
		a.in.take(v, 2, r, h*hd)
		at := b.rows[r]
		if !a.RopeFirst {
			a.normHeads(q, k)
		}
		if a.rope != nil {
			cos, sin := a.rope.at(at.pos)
			a.turnHeads(q, cos, sin)
			kernel.Rope(k[:2*len(cos)], cos, sin)
		}
		if a.RopeFirst {
			a.normHeads(q, k)
		}
		codes := b.codes[i*kernel.Pad16(hd):]
		at.cache.pages[at.pos/pageTokens].of(a.at, h).store(at.pos%pageTokens, k, v, codes)
	}
}

// takeQueries takes those of a key head from the products.
func (a *attention) takeQueries(q []float32, r, kvHead int) {
	hd := a.HeadDim
	if !a.Gate {
		a.in.take(q, 0, r, kvHead*len(q))
		return
	}
	for g := 0; g < len(q); g += hd {
		a.in.take(q[g:g+hd], 0, r, 2*(kvHead*len(q)+g))
	}
}

// turnHeads rotates the first values of each head of q, as many as positions have.
func (a *attention) turnHeads(q, cos, sin []float32) {
	if dim := 2 * len(cos); dim < a.HeadDim {
		for ; len(q) > 0; q = q[a.HeadDim:] {
			kernel.Rope(q[:dim], cos, sin)
		}
		return
	}
	kernel.Rope(q, cos, sin)
}

// normHeads norms each head of q and k, where there are such norms.
func (a *attention) normHeads(q, k []float32) {
	if hd := a.HeadDim; a.qNorm.w != nil {
		for g := 0; g < len(q); g += hd {
			a.qNorm.apply(q[g:g+hd], q[g:g+hd])
		}
	}
	if a.kNorm.w != nil {
		a.kNorm.apply(k, k)
	}
}

// normOutRows: attention's output through its sub-norm, prepared for O.
func (a *attention) normOutRows(lo, hi int) {
	hd := a.HeadDim
	for r := lo; r < hi; r++ {
		if y := a.out.row(r); a.Gate {
			gate := a.b.tmp[r*hd:][:hd]
			for h := range a.Heads {
				a.in.take(gate, 0, r, (2*h+1)*hd)
				for i, g := range gate {
					y[h*hd+i] *= sigmoid(g)
				}
			}
		}
		a.out.subNormed(r, &a.subNorm)
	}
}
