package model

import (
	"context"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/weights"
)

// stages are the functions that the pool's workers run, made once so that a decoded token allocates nothing. They
// read what to work on from here and from the decoder's scratch.
type stages struct {
	layer  *layer
	number int
	dense  denseProduct

	normIn, qkv, normOut, residual, act, ffnResidual func(lo, hi int)
	quantize                                         func(lo, hi int)
	attend, attendSpan, attendJoin, densePanel       func(i, worker int)
	low                                              func(lo, hi int)

	quantizeNorm norm // for quantize
	quantizeCols int

	lowOf   []linear // for low
	lowCols int
}

// denseProduct is y[t] = W·x[t] in the precision of the file. Row t of the product goes to y[t].
type denseProduct struct {
	w *weights.Dense
	x []float32   // [tokens, Cols]
	y [][]float32 // tokens rows of [Rows]
}

func newStages(d *decoder) stages {
	return stages{
		normIn:      d.normInRows,
		qkv:         d.qkvHeads,
		normOut:     d.normOutRows,
		residual:    d.residualRows,
		act:         d.actRows,
		ffnResidual: d.ffnResidualRows,
		quantize:    d.quantizeRows,
		attend:      d.attend,
		attendSpan:  d.attendSpan,
		attendJoin:  d.attendJoin,
		densePanel:  d.densePanel,
		low:         d.loraDownRows,
	}
}

// layer runs the block's rows through layer n:
//
//	x += o(attention(q, k, v of norm(x)));  x += down(act(gate)·up of norm(x))
func (d *decoder) layer(ctx context.Context, n int) error {
	c, s, st, l := d.cfg, &d.s, &d.stages, &d.layers[n]
	st.layer, st.number = l, n
	attn := c.NumHeads * c.HeadDim

	d.pool.For(s.b, 1, st.normIn)
	if err := d.project(ctx, c.HiddenSize, l.attnInputs()); err != nil {
		return err
	}
	d.pool.For(s.b*c.NumKVHeads, 1, st.qkv)
	d.attention()
	d.pool.For(s.b, 1, st.normOut)
	if err := d.project(ctx, attn, l.attnOutput()); err != nil {
		return err
	}
	d.pool.For(s.b, 1, st.residual)
	if err := d.gateAndUp(ctx, l); err != nil {
		return err
	}
	if err := d.project(ctx, c.IntermediateSize, l.ffnOutput()); err != nil {
		return err
	}
	d.pool.For(s.b, 1, st.ffnResidual)
	return nil
}

// gateAndUp leaves h = act(gate)·up, normed and quantised for down.
func (d *decoder) gateAndUp(ctx context.Context, l *layer) error {
	c, s, st := d.cfg, &d.s, &d.stages
	p, ok := d.products.(*cpuProducts)
	gate, up := &l.linears[gateAt], &l.linears[upAt]
	if !ok || s.b > 1 || c.Activation != ReLU2 || c.Ungated || !up.takesCodes() || up.bias != nil || len(up.scale) != 1 || up.lora != nil || gate.norm.w != nil {
		if err := d.project(ctx, c.HiddenSize, l.ffnInputs(c.Ungated)); err != nil {
			return err
		}
		d.pool.For(s.b, 1, st.act)
		return nil
	}
	// One token: the gate first. Where it is not positive, its square's product with up is zero whatever up is, and
	// that row of up is not needed.
	if err := d.project(ctx, c.HiddenSize, l.linears[gateAt:gateAt+1]); err != nil {
		return err
	}
	F := c.IntermediateSize
	g, h := s.tmp[:F], s.h[:F]
	d.takeRow(g, gate, 0, 0, 0)
	if len(s.open) < F {
		s.open = make([]int32, kernel.Pad16(F))
	}
	open := s.open[:kernel.Above(s.open, g, 0)]
	y := s.acc[1][:len(open)]
	if !p.multiplyRows(up.id, y, open, s.xq[:roundUp16(c.HiddenSize)], s.xsum[:1]) {
		if err := d.project(ctx, c.HiddenSize, l.linears[upAt:upAt+1]); err != nil {
			return err
		}
		d.takeRow(s.up[:F], up, 0, 0, 0)
		kernel.ReLU2Mul(h, g, s.up[:F])
	} else {
		u := s.up[:len(y)]
		kernel.ScaleRow(u, y, s.xs[0]*up.scale[0])
		clear(h)
		for j, i := range open {
			h[i] = float32(g[i]*g[i]) * u[j]
		}
	}
	d.subNormRow(0, F, &l.ffnSubNorm, &l.linears[downAt])
	return nil
}

// loadBlocks hands the layers to Products that run what lies between attentions by themselves: squared ReLU or SiLU, no
// biases and one scale a matrix.
func (d *decoder) loadBlocks() error {
	p, ok := d.products.(BlockRunner)
	if c := d.cfg; !ok || c.Ungated || c.Activation != ReLU2 && c.Activation != SiLU || c.InputNorm != "" || c.PostNorms || c.LayerNorm {
		return nil
	}
	matrices := func(ls []linear) (ms []BlockMatrix) {
		for i := range ls {
			if l := &ls[i]; l.takesCodes() && l.bias == nil && len(l.scale) == 1 {
				ms = append(ms, BlockMatrix{l.id, l.scale[0]})
			}
		}
		return ms
	}
	norm := func(n *norm) BlockNorm { return BlockNorm{n.w, n.eps} }
	rows := blockTokens
	var ids []int
	for n := range d.layers {
		l := &d.layers[n]
		all := matrices(l.linears[:])
		if len(all) != len(l.linears) {
			return nil
		}
		b := Block{O: all[oAt], Gate: all[gateAt], Up: all[upAt], Down: all[downAt], FFNNorm: norm(&l.ffnNorm), FFNSubNorm: norm(&l.ffnSubNorm), Activation: d.cfg.Activation}
		if n+1 < len(d.layers) {
			next := &d.layers[n+1]
			b.Next, b.NextNorm = matrices(next.attnInputs()), norm(&next.attnNorm)
			if len(b.Next) != len(next.attnInputs()) {
				return nil
			}
		}
		id, tokens, err := p.LoadBlock(b)
		if err != nil {
			return err
		}
		if tokens == 0 {
			return nil
		}
		ids, rows = append(ids, id), min(rows, tokens)
	}
	d.blocks, d.blockRows = ids, rows
	return d.loadStep(matrices, norm)
}

// loadStep hands all of the layers to Products that run attention, too: over all tokens, by rotated queries and keys.
func (d *decoder) loadStep(matrices func([]linear) []BlockMatrix, norm func(*norm) BlockNorm) error {
	c := d.cfg
	p, ok := d.products.(StepRunner)
	if !ok || c.LearnedPositions || c.QKNorms || c.Sliding != nil || c.QueryScalar != 0 {
		return nil
	}
	s := Step{First: matrices(d.layers[0].attnInputs()), Blocks: d.blocks, Heads: c.NumHeads, KVHeads: c.NumKVHeads, HeadDim: c.HeadDim}
	for n := range d.layers {
		s.AttnSubNorms = append(s.AttnSubNorms, norm(&d.layers[n].attnSubNorm))
	}
	ok, err := p.LoadStep(s)
	if ok {
		d.step, d.pages.device = p, p
	}
	return err
}

// whole runs the block's rows through all layers on the device.
func (d *decoder) whole(ctx context.Context) error {
	c, s, st := d.cfg, &d.s, &d.stages
	for _, r := range s.runs {
		from := s.rows[r.row].pos
		for i, pg := range r.cache.pages[:(from+r.n-1)/pageTokens+1] {
			if err := d.pages.toDevice(pg, max(0, min(from-i*pageTokens, pageTokens))); err != nil {
				return err
			}
		}
	}
	st.layer, st.number = &d.layers[0], 0
	d.pool.For(s.b, 1, st.normIn)
	run := StepRun{X: s.xq[:s.b*roundUp16(c.HiddenSize)], Scales: s.xs[:s.b], Stream: s.x[:s.b*c.HiddenSize]}
	for _, r := range s.runs {
		var slots []int
		for _, pg := range r.cache.pages {
			slots = append(slots, pg.slot-1)
		}
		for i := range r.n {
			pos := s.rows[r.row+i].pos
			cos, sin := d.rope.at(pos)
			run.Rows = append(run.Rows, StepRow{Pos: pos, Pages: slots[:pos/pageTokens+1], Cos: cos, Sin: sin})
		}
	}
	if err := d.step.RunStep(ctx, run); err != nil {
		return err
	}
	for _, r := range s.rows {
		r.cache.pages[r.pos/pageTokens].wrote(r.pos%pageTokens, true)
	}
	return ctx.Err() // the device does not stop on the way
}

// pagesToHost makes the keys and values that the block's rows look back to present in this machine's memory; theirs will
// be written there.
func (d *decoder) pagesToHost() error {
	if d.step == nil {
		return nil
	}
	for _, r := range d.s.runs {
		from := d.s.rows[r.row].pos
		for i, pg := range r.cache.pages[:(from+pageTokens-1)/pageTokens] {
			if err := d.pages.toHost(pg, min(from-i*pageTokens, pageTokens)); err != nil {
				return err
			}
		}
	}
	for _, r := range d.s.rows {
		r.cache.pages[r.pos/pageTokens].wrote(r.pos%pageTokens, false)
	}
	return nil
}

// resident runs the block's rows through all layers with the residual stream on the device: one call of it between
// two attentions. The last one brings the stream back.
func (d *decoder) resident(ctx context.Context) error {
	c, s, st, p := d.cfg, &d.s, &d.stages, d.products.(BlockRunner)
	st.layer, st.number = &d.layers[0], 0
	d.pool.For(s.b, 1, st.normIn)
	if err := d.project(ctx, c.HiddenSize, d.layers[0].attnInputs()); err != nil {
		return err
	}
	attn, x := c.NumHeads*c.HeadDim, s.x[:s.b*c.HiddenSize]
	for n := range d.layers {
		if err := ctx.Err(); err != nil {
			return err
		}
		st.layer, st.number = &d.layers[n], n
		d.pool.For(s.b*c.NumKVHeads, 1, st.qkv)
		d.attention()
		d.pool.For(s.b, 1, st.normOut)
		r := BlockRun{X: s.xq[:s.b*roundUp16(attn)], Scales: s.xs[:s.b]}
		if n == 0 {
			r.In = x
		}
		s.y = s.y[:0]
		if n+1 == len(d.layers) {
			r.Out = x
		} else {
			for i, l := range d.layers[n+1].attnInputs() {
				s.y = append(s.y, s.acc[i][:s.b*roundUp16(l.out)])
			}
		}
		r.Y = s.y
		if err := p.RunBlock(ctx, d.blocks[n], r); err != nil {
			return err
		}
		for i := range s.y {
			s.accScale[i] = append(s.accScale[i][:0], s.xs[:s.b]...)
		}
	}
	return nil
}

// The linears of a layer lie so that those with one input are neighbours.
const (
	qAt, kAt, vAt, oAt, gateAt, upAt, downAt = 0, 1, 2, 3, 4, 5, 6
)

func (l *layer) attnInputs() []linear { return l.linears[qAt : vAt+1] }
func (l *layer) attnOutput() []linear { return l.linears[oAt : oAt+1] }
func (l *layer) ffnInputs(ungated bool) []linear {
	if ungated {
		return l.linears[upAt : upAt+1]
	}
	return l.linears[gateAt : upAt+1]
}
func (l *layer) ffnOutput() []linear { return l.linears[downAt : downAt+1] }

// normInRows: h = norm(x), quantised, in front of q, k, v.
func (d *decoder) normInRows(lo, hi int) {
	for r := lo; r < hi; r++ {
		d.normRow(r, &d.stages.layer.attnNorm, d.stages.layer.attnInputs())
	}
}

// normRow norms row r of the residual stream into h and quantises it when one of the projections it feeds takes codes.
func (d *decoder) normRow(r int, n *norm, feeds []linear) {
	D := d.cfg.HiddenSize
	s := &d.s
	x, h := s.x[r*D:][:D], s.h[r*D:][:D]
	if n.b == nil && anyTakesCodes(feeds) {
		c16 := roundUp16(D)
		s.xs[r], s.xsum[r] = kernel.RMSNormQuantize(s.xq[r*c16:][:c16], h, x, n.w, n.eps)
		return
	}
	n.apply(h, x)
	if anyTakesCodes(feeds) {
		d.quantizeRow(r, h)
	}
}

// takesCodes says whether the projection multiplies the codes that it shares with its neighbours: it is ternary and has no
// norm of its own.
func (l *linear) takesCodes() bool { return l.dense == nil && l.norm.w == nil }

func anyTakesCodes(ls []linear) bool {
	for i := range ls {
		if ls[i].takesCodes() {
			return true
		}
	}
	return false
}

// quantizeRow quantises row r of a block whose rows have len(h) columns.
func (d *decoder) quantizeRow(r int, h []float32) {
	s := &d.s
	c16 := roundUp16(len(h))
	s.xs[r], s.xsum[r] = kernel.QuantizeRow(s.xq[r*c16:][:c16], h)
}

// quantizeRows norms and quantises rows of h for one projection that has a norm of its own (Config.InputNorm).
func (d *decoder) quantizeRows(lo, hi int) {
	s, st := &d.s, &d.stages
	cols := st.quantizeCols
	c16 := roundUp16(cols)
	for r := lo; r < hi; r++ {
		// The normed row is needed only as int8: norm in a buffer that this row owns and nobody reads now.
		tmp := s.tmp[r*cols:][:cols]
		s.xs[r], s.xsum[r] = kernel.RMSNormQuantize(s.xq[r*c16:][:c16], tmp, s.h[r*cols:][:cols], st.quantizeNorm.w, st.quantizeNorm.eps)
	}
}

// project computes the products of the block's activations with the given projections, which share their input: dense ones
// from h into out; ternary ones into acc, in panels, from xq, which those with a norm of their own make anew and so come last.
func (d *decoder) project(ctx context.Context, cols int, ls []linear) error {
	s, st := &d.s, &d.stages
	c16 := roundUp16(cols)
	d.loraDown(cols, ls)
	s.ids, s.y = s.ids[:0], s.y[:0]
	for i := range ls {
		switch l := &ls[i]; {
		case l.dense != nil:
			st.dense.set(l.dense, s.h[:s.b*cols], s.out[i], l.out)
			d.pool.Run((l.out+PanelRows-1)/PanelRows, st.densePanel)
		case l.takesCodes():
			s.multiplies(l, i)
		}
	}
	if len(s.ids) > 0 {
		if err := d.products.Multiply(ctx, s.ids, s.y, s.xq[:s.b*c16], s.xsum[:s.b]); err != nil {
			return err
		}
	}
	for i := range ls {
		l := &ls[i]
		if l.norm.w == nil {
			continue
		}
		st.quantizeNorm, st.quantizeCols = l.norm, cols
		d.pool.For(s.b, 1, st.quantize)
		s.ids, s.y = s.ids[:0], s.y[:0]
		s.multiplies(l, i)
		if err := d.products.Multiply(ctx, s.ids, s.y, s.xq[:s.b*c16], s.xsum[:s.b]); err != nil {
			return err
		}
	}
	return nil
}

// multiplies adds the i-th projection of a project to the matrices of the next Multiply.
func (s *scratch) multiplies(l *linear, i int) {
	s.ids = append(s.ids, l.id)
	s.y = append(s.y, s.acc[i][:s.b*roundUp16(l.out)])
	s.accScale[i] = append(s.accScale[i][:0], s.xs[:s.b]...)
}

// takeRow writes outputs from first on of row r of the product of the i-th projection of the last project:
// y = s_x·s_w·(Ŵx̂) + bias.
//
//	y  [at most out-first]
func (d *decoder) takeRow(y []float32, l *linear, i, r, first int) {
	s, end := &d.s, first+len(y)
	if l.dense != nil {
		copy(y, s.out[i][r*l.out+first:])
	} else {
		rows := roundUp16(l.out)
		scale := s.accScale[i][r]
		one := len(l.scale) == 1
		if one {
			scale *= l.scale[0]
		}
		for p := first / PanelRows; p*PanelRows < end; p++ {
			acc, at, width := panel(s.acc[i], p, s.b, rows)
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
		l.lora.add(y, first, s.low[i][r*l.lora.rank:][:l.lora.rank])
	}
}

// qkvHeads: q, k, v from the products, normed and rotated; k and v go into the cache. A row has NumKVHeads pieces: each key
// head and the queries that share it.
func (d *decoder) qkvHeads(lo, hi int) {
	c, s, l := d.cfg, &d.s, d.stages.layer
	hd, group := c.HeadDim, c.NumHeads/c.NumKVHeads*c.HeadDim
	for i := lo; i < hi; i++ {
		r, h := i/c.NumKVHeads, i%c.NumKVHeads
		q, k, v := s.q[i*group:][:group], s.k[i*hd:][:hd], s.v[i*hd:][:hd]
		d.takeRow(q, &l.linears[qAt], 0, r, h*group)
		d.takeRow(k, &l.linears[kAt], 1, r, h*hd)
		d.takeRow(v, &l.linears[vAt], 2, r, h*hd)
		if c.QKNorms {
			for g := 0; g < group; g += hd {
				l.qNorm.apply(q[g:g+hd], q[g:g+hd])
			}
			l.kNorm.apply(k, k)
		}
		at := s.rows[r]
		if !c.LearnedPositions {
			table := d.rope
			if l.window > 0 && d.local != nil {
				table = d.local
			}
			cos, sin := table.at(at.pos)
			kernel.Rope(q, cos, sin)
			kernel.Rope(k, cos, sin)
		}
		codes := s.codes[i*kernel.Pad16(hd):]
		at.cache.pages[at.pos/pageTokens].of(d.stages.number, h).store(at.pos%pageTokens, k, v, codes)
	}
}

// normOutRows: attention's output through its sub-norm, quantised for o.
func (d *decoder) normOutRows(lo, hi int) {
	c, l := d.cfg, d.stages.layer
	attn := c.NumHeads * c.HeadDim
	for r := lo; r < hi; r++ {
		d.subNormRow(r, attn, &l.attnSubNorm, &l.linears[oAt])
	}
}

// subNormRow norms row r of h in place where the model has that norm, and quantises it for the projection it feeds.
func (d *decoder) subNormRow(r, cols int, n *norm, feeds *linear) {
	h := d.s.h[r*cols:][:cols]
	if n.w != nil {
		n.apply(h, h)
	}
	if feeds.takesCodes() {
		d.quantizeRow(r, h)
	}
}

// residualRows: x += o, then h = norm(x), quantised, in front of gate and up.
func (d *decoder) residualRows(lo, hi int) {
	l := d.stages.layer
	for r := lo; r < hi; r++ {
		d.addResidual(r, &l.linears[oAt], &l.attnPostNorm)
		d.normRow(r, &l.ffnNorm, l.ffnInputs(d.cfg.Ungated))
	}
}

// addResidual: x += y, the projection's output, normed where the model has that norm.
func (d *decoder) addResidual(r int, l *linear, n *norm) {
	D := d.cfg.HiddenSize
	y := d.s.tmp[r*D:][:D]
	d.takeRow(y, l, 0, r, 0)
	if n.w != nil {
		n.apply(y, y)
	}
	kernel.Add(d.s.x[r*D:][:D], y)
}

// actRows: h = act(gate)·up through the sub-norm, quantised for down.
func (d *decoder) actRows(lo, hi int) {
	c, s, l := d.cfg, &d.s, d.stages.layer
	F := c.IntermediateSize
	for r := lo; r < hi; r++ {
		h := s.h[r*F:][:F]
		up := h
		if c.Ungated {
			d.takeRow(up, &l.linears[upAt], 0, r, 0)
			kernel.GELU(h, up)
		} else {
			gate := s.tmp[r*F:][:F]
			d.takeRow(gate, &l.linears[gateAt], 0, r, 0)
			d.takeRow(up, &l.linears[upAt], 1, r, 0)
			switch c.Activation {
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
		}
		d.subNormRow(r, F, &l.ffnSubNorm, &l.linears[downAt])
	}
}

func multiply(dst, a, b []float32) {
	for i := range dst {
		dst[i] = a[i] * b[i]
	}
}

// ffnResidualRows: x += down.
func (d *decoder) ffnResidualRows(lo, hi int) {
	for r := lo; r < hi; r++ {
		d.addResidual(r, &d.stages.layer.linears[downAt], &d.stages.layer.ffnPostNorm)
	}
}

// set prepares the product of x [tokens, cols] into y [tokens, rows].
func (p *denseProduct) set(w *weights.Dense, x, y []float32, rows int) {
	p.w, p.x, p.y = w, x, p.y[:0]
	for t := range len(x) / w.Cols {
		p.y = append(p.y, y[t*rows:][:rows])
	}
}

// densePanel computes one panel of outputs of the current dense product for all of its tokens.
func (d *decoder) densePanel(i, worker int) {
	p, ws := &d.stages.dense, &d.workers[worker]
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
