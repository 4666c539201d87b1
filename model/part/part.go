// Package part has the parts that decoders are made of: attention, feed-forwards, norms, projections, rotary positions. A part
// is a description, plain values that say which tensors it needs and what it computes; loaded, it runs a block of rows.
//
//	family file → Layer{MixerNorm, Attention{…}, FeedForwardNorm, Gated{…}} → Loader → LayerRunner → Run(block)
//
// Every ternary product is an exact integer sum and every float step has one order (internal/kernel), so a row's result depends
// on its sequence alone: not on the block, the number of threads or the kernels of this machine.
package part

import (
	"context"

	"github.com/tritlm/trit/internal/kernel"
)

// Layer is one block of a decoder: a token mixer and a feed-forward on the residual stream x.
//
//	x += MixerPost(Mixer(MixerNorm(x)))
//	x += FeedForwardPost(FeedForward(FeedForwardNorm(x)))
type Layer struct {
	MixerNorm Norm
	Mixer     Part  // Attention, DeltaNet
	MixerPost *Norm // nil: none

	FeedForwardNorm Norm
	FeedForward     Part  // Gated, Plain, Experts
	FeedForwardPost *Norm // nil: none

	Scale float32 // what both parts add is multiplied by it; 0 is 1
}

// Part is what reads the normed residual stream and adds to it.
type Part interface {
	// Projections are the linear layers, those with one input side by side.
	Projections() []*Projection
	// Norms are those inside of the part, but for the projections' own.
	Norms() []*Norm
	// load makes it resident.
	load(l *Loader) (runner, error)
}

// runner is a part that is loaded.
type runner interface {
	// inputs are the projections that read the part's input.
	inputs() *bank
	// run computes the part for the block's rows, whose inputs were prepared, up to its output projection's product.
	run(ctx context.Context) error
	// output is the projection whose product is added to the stream.
	output() *bank
}

// Norms are the layer's own norms and those of its parts.
func (l *Layer) Norms() []*Norm {
	list := []*Norm{&l.MixerNorm, &l.FeedForwardNorm}
	for _, n := range []*Norm{l.MixerPost, l.FeedForwardPost} {
		if n != nil {
			list = append(list, n)
		}
	}
	return append(append(list, l.Mixer.Norms()...), l.FeedForward.Norms()...)
}

// Projections are those of both parts.
func (l *Layer) Projections() []*Projection {
	return append(l.Mixer.Projections(), l.FeedForward.Projections()...)
}

// LayerRunner is a layer that is loaded.
type LayerRunner struct {
	Layer
	b                    *Block
	mixerNorm, ffNorm    norm
	mixerPost, ffPost    norm // no weights: none
	mixer, feedForward   runner
	enter, between, done func(lo, hi int)
}

// Layer loads one.
func (l *Loader) Layer(y *Layer) (*LayerRunner, error) {
	r := &LayerRunner{Layer: *y, b: l.Block}
	r.enter, r.between, r.done = r.enterRows, r.betweenRows, r.doneRows
	for _, t := range []struct {
		dst *norm
		n   *Norm
	}{{&r.mixerNorm, &y.MixerNorm}, {&r.ffNorm, &y.FeedForwardNorm}, {&r.mixerPost, y.MixerPost}, {&r.ffPost, y.FeedForwardPost}} {
		if t.n == nil {
			continue
		}
		var err error
		if *t.dst, err = l.norm(t.n); err != nil {
			return nil, err
		}
	}
	var err error
	if r.mixer, err = y.Mixer.load(l); err != nil {
		return nil, err
	}
	r.feedForward, err = y.FeedForward.load(l)
	return r, err
}

// Run runs the block's rows through the layer.
func (r *LayerRunner) Run(ctx context.Context) error {
	r.Enter()
	if err := r.mixer.run(ctx); err != nil {
		return err
	}
	r.feedForward.inputs().makePlanes()
	r.b.pool.For(r.b.n, 1, r.between)
	if err := r.feedForward.run(ctx); err != nil {
		return err
	}
	r.b.pool.For(r.b.n, 1, r.done)
	return nil
}

// Enter prepares the mixer's input.
func (r *LayerRunner) Enter() {
	r.mixer.inputs().makePlanes()
	r.b.pool.For(r.b.n, 1, r.enter)
}

func (r *LayerRunner) enterRows(lo, hi int) {
	for i := lo; i < hi; i++ {
		r.mixer.inputs().normed(i, &r.mixerNorm)
	}
}

func (r *LayerRunner) betweenRows(lo, hi int) {
	for i := lo; i < hi; i++ {
		r.b.add(i, r.mixer.output(), &r.mixerPost, r.Scale)
		r.feedForward.inputs().normed(i, &r.ffNorm)
	}
}

func (r *LayerRunner) doneRows(lo, hi int) {
	for i := lo; i < hi; i++ {
		r.b.add(i, r.feedForward.output(), &r.ffPost, r.Scale)
	}
}

// add adds the output of a part to row i of the stream, through a norm and scaled where there are such.
func (b *Block) add(i int, out *bank, post *norm, scale float32) {
	y := b.tmp[i*b.width:][:b.width]
	out.take(y, 0, i, 0)
	if post.w != nil {
		post.apply(y, y)
	}
	if scale != 0 {
		kernel.Scale(y, scale)
	}
	kernel.Add(b.X[i*b.width:][:b.width], y)
}
