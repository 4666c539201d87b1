package part

import "context"

// What a device needs that runs parts in the engine's place, on what its Products have loaded.

// DeviceMatrix is a matrix that Products have loaded, and its scale.
type DeviceMatrix struct {
	ID    int
	Scale float32
}

// DeviceNorm is an RMSNorm's weights and epsilon; without weights it is none.
type DeviceNorm struct {
	W   []float32
	Eps float32
}

// DeviceLayer is a loaded layer as a device is offered it: the description, and what its tensors have become.
type DeviceLayer struct {
	Layer
	matrices map[*Projection]DeviceMatrix
	norms    map[*Norm]DeviceNorm
}

// Matrix gives the matrix of one of the layer's projections; ok is false for one that is more, or another thing, than a ternary
// matrix with one scale: dense, with a bias, a norm of its own or an adapter.
func (l *DeviceLayer) Matrix(p *Projection) (m DeviceMatrix, ok bool) {
	m, ok = l.matrices[p]
	return m, ok
}

// Norm gives the weights of one of the layer's norms; ok is false for a LayerNorm.
func (l *DeviceLayer) Norm(n *Norm) (w DeviceNorm, ok bool) {
	w, ok = l.norms[n]
	return w, ok
}

// Device describes the layer to a device.
func (r *LayerRunner) Device() *DeviceLayer {
	d := &DeviceLayer{r.Layer, map[*Projection]DeviceMatrix{}, map[*Norm]DeviceNorm{}}
	banks := []*bank{r.mixer.inputs(), r.mixer.output(), r.feedForward.inputs(), r.feedForward.output()}
	for _, k := range banks {
		for i := range k.ls {
			if l := &k.ls[i]; l.plain() {
				d.matrices[l.Projection] = DeviceMatrix{l.id, l.scale[0]}
			}
		}
	}
	norms := map[*Norm]*norm{r.MixerPost: &r.mixerPost, r.FeedForwardPost: &r.ffPost, &d.MixerNorm: &r.mixerNorm, &d.FeedForwardNorm: &r.ffNorm}
	if a, ok := r.mixer.(*attention); ok {
		norms[a.QNorm], norms[a.KNorm], norms[a.SubNorm] = &a.qNorm, &a.kNorm, &a.subNorm
	}
	if g, ok := r.feedForward.(*gated); ok {
		norms[g.SubNorm] = &g.subNorm
	}
	for n, loaded := range norms {
		if n != nil && loaded.b == nil {
			d.norms[n] = DeviceNorm{loaded.w, loaded.eps}
		}
	}
	return d
}

// Inputs are the codes and scales of the block's inputs of the layer's mixer, which Enter has prepared.
//
//	x  [N, cols16], scales  [N]
func (r *LayerRunner) Inputs() (x []int8, scales []float32) { return r.b.codesOf(r.mixer.inputs()) }

// MixerInputs computes the products of the mixer's inputs.
func (r *LayerRunner) MixerInputs(ctx context.Context) error { return r.mixer.inputs().multiply(ctx) }

// Attend goes on from the products of an Attention's inputs to the codes and scales of what its output projection reads.
func (r *LayerRunner) Attend() (x []int8, scales []float32) {
	a := r.mixer.(*attention)
	a.mix()
	return r.b.codesOf(a.out)
}

// Sums is where a device leaves the products of the mixer's inputs, in panels, to be called before it does.
func (r *LayerRunner) Sums() [][]int32 {
	k := r.mixer.inputs()
	k.y = k.y[:0]
	for i := range k.ls {
		k.y = append(k.y, r.b.slots[i].acc[:r.b.n*roundUp16(k.ls[i].Out)])
	}
	return k.y
}

// Summed says that it has, of inputs with the scales that Inputs and Attend gave, or that it has written in their place.
func (r *LayerRunner) Summed() {
	for i := range r.mixer.inputs().ls {
		s := &r.b.slots[i]
		s.scale = append(s.scale[:0], r.b.xs[:r.b.n]...)
	}
}

// Angles gives the cosines and sines of a position of an Attention with rotary positions, [dim/2] each.
func (r *LayerRunner) Angles(pos int) (cos, sin []float32) {
	return r.mixer.(*attention).rope.at(pos)
}

func (b *Block) codesOf(k *bank) (x []int8, scales []float32) {
	return b.xq[:b.n*roundUp16(k.cols)], b.xs[:b.n]
}

// PagesToDevice makes the keys and values that the block's rows look back to present in the device's memory, and gives the
// device's pages of each row, up to the one that it is in. PagesWritten says that the rows' own have been written there.
func (b *Block) PagesToDevice(p *Pages) (pages [][]int, err error) {
	for _, r := range b.runs {
		cache, from := b.rows[r.row].cache, b.rows[r.row].pos
		for i, pg := range cache.pages[:(from+r.n-1)/pageTokens+1] {
			if err := p.toDevice(pg, max(0, min(from-i*pageTokens, pageTokens))); err != nil {
				return nil, err
			}
		}
		var slots []int
		for _, pg := range cache.pages {
			slots = append(slots, pg.slot-1)
		}
		for i := range r.n {
			pages = append(pages, slots[:b.rows[r.row+i].pos/pageTokens+1])
		}
	}
	return pages, nil
}

// PagesWritten notes that the rows' keys and values are in the device's memory.
func (b *Block) PagesWritten() {
	for _, r := range b.rows {
		r.cache.pages[r.pos/pageTokens].wrote(r.pos%pageTokens, true)
	}
}

// PagesToHost makes the keys and values that the block's rows look back to present in this machine's memory; theirs will be
// written there.
func (b *Block) PagesToHost(p *Pages) error {
	if p.device == nil {
		return nil
	}
	for _, r := range b.runs {
		cache, from := b.rows[r.row].cache, b.rows[r.row].pos
		for i, pg := range cache.pages[:(from+pageTokens-1)/pageTokens] {
			if err := p.toHost(pg, min(from-i*pageTokens, pageTokens)); err != nil {
				return err
			}
		}
	}
	for _, r := range b.rows {
		r.cache.pages[r.pos/pageTokens].wrote(r.pos%pageTokens, false)
	}
	return nil
}
