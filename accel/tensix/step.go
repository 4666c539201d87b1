package tensix

import (
	"context"
	"encoding/binary"
	"fmt"
	"math"
	"sync"

	"github.com/tritlm/trit/accel/tensix/kernels"
	"github.com/tritlm/trit/internal/kernel"
)

// Step is a whole pass through a model's layers, resident on the card and run by the tiles alone as one job: from the
// first layer's query, key and value to the last residual stream. Attention is the vector units' work
// (firmware/src/heads.h, attend.h), its keys and values are in GDDR (Pages).
//
// The tiles do it in the order that internal/kernel defines, so the residual stream is what the host would get, to the
// last bit, under Block's condition and where no product q·k or p·v that matters is below 2⁻⁷⁹.
type Step struct {
	w     StepWeights
	norms []uint64 // GDDR address of each layer's attention norm
	pages *Pages
}

// StepWeights are a Step's parts.
type StepWeights struct {
	First           []Scaled // query, key, value of the first layer; the others' are the Blocks' Next
	Blocks          []*Block
	AttnNorms       []Norm // [H·Cols] or none between attention and O, of each layer
	Heads, KeyHeads int
	Cols            int // of a head: 32, 64 or 128
}

// NewStep makes a step of blocks that are loaded.
func (d *Device) NewStep(w StepWeights) (*Step, error) {
	A := w.Heads * w.Cols
	ok := (w.Cols == 32 || w.Cols == 64 || w.Cols == 128) && w.KeyHeads > 0 && w.Heads%w.KeyHeads == 0 && len(w.Blocks) > 0 && len(w.AttnNorms) == len(w.Blocks)
	for n := 0; ok && n < len(w.Blocks); n++ {
		b, qkv := &w.Blocks[n].w, w.qkv(n)
		ok = len(qkv) == 3 && (len(w.AttnNorms[n].W) == A || len(w.AttnNorms[n].W) == 0) && b.O.M.Cols == A
		for i := 0; ok && i < 3; i++ {
			m := qkv[i].M
			ok = m.Kind == kernels.Ternary && m.Cols == b.O.M.Rows && len(m.segs) == 1 && m.Rows == []int{A, w.KeyHeads * w.Cols, w.KeyHeads * w.Cols}[i]
		}
	}
	if !ok {
		return nil, fmt.Errorf("%w: a step of %d blocks with %d and %d heads of %d columns", ErrShape, len(w.Blocks), w.Heads, w.KeyHeads, w.Cols)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		return nil, d.failed
	}
	s := &Step{w: w, pages: newPages(d, len(w.Blocks), w.KeyHeads, w.Cols)}
	for _, n := range w.AttnNorms {
		at, err := uint64(0), error(nil)
		if len(n.W) > 0 {
			at, err = d.loadNorm(n.W)
		}
		if err != nil {
			return nil, err
		}
		s.norms = append(s.norms, at)
	}
	if _, err := d.planStep(s, 1, kernels.PageTokens); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrShape, err)
	}
	d.pages = s.pages
	return s, nil
}

// qkv are the query, key and value of layer n.
func (w *StepWeights) qkv(n int) []Scaled {
	if n == 0 {
		return w.First
	}
	return w.Blocks[n-1].w.Next
}

// StepRow says where a token stands.
type StepRow struct {
	Pos      int
	Pages    []int     // of its sequence, one for every kernels.PageTokens tokens up to and with this one
	Cos, Sin []float32 // [Cols/2] of its position
}

// StepFits says whether the tiles' memory holds a step of so many tokens, of which the longest sequence has `longest`.
func (d *Device) StepFits(s *Step, tokens, longest int) bool {
	if tokens > kernels.MaxBatch {
		return false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	_, err := d.planStep(s, tokens, longest)
	return err == nil
}

// RunStep runs a step. Rows of one sequence come in order of position; keys and values of all tokens before them are in
// their pages, and theirs are added.
//
//	x        [tokens, stride]  int8 activations of the first layer's query, key and value
//	scales   [tokens]  their scales
//	stream   [tokens, D]  the residual stream: before the first layer, then behind the last one
func (d *Device) RunStep(ctx context.Context, s *Step, x []int8, stride int, scales, stream []float32, rows []StepRow) error {
	tokens, D, cols := len(rows), s.w.Blocks[0].w.O.M.Rows, s.w.Cols
	if tokens < 1 || tokens > kernels.MaxBatch || len(scales) != tokens || len(x) != tokens*stride || stride < D || len(stream) != tokens*D {
		panic("tensix: RunStep: lengths disagree")
	}
	longest := 0
	for _, r := range rows {
		longest = max(longest, r.Pos+1)
		if len(r.Pages) != r.Pos/kernels.PageTokens+1 || len(r.Cos) != cols/2 || len(r.Sin) != cols/2 {
			panic("tensix: RunStep: a row's pages or angles are not as many as its position asks for")
		}
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		return d.failed
	}
	p, err := d.planStep(s, tokens, longest)
	if err != nil {
		return err
	}
	if err := d.runStep(s, p, x, stride, scales, stream, rows); err != nil {
		d.failed = err
		return err
	}
	for _, r := range rows { // keys and values of each query head, by whole pages
		d.stats.CacheRead += uint64(len(s.w.Blocks) * s.w.Heads * len(r.Pages) * kernels.SliceBytes(cols))
	}
	for i := range stream {
		stream[i] = math.Float32frombits(binary.LittleEndian.Uint32(d.host.Bytes[d.out+4*i:]))
	}
	return nil
}

func (d *Device) runStep(s *Step, p *stepPlan, x []int8, stride int, scales, stream []float32, rows []StepRow) error {
	D, tokens := s.w.Blocks[0].w.O.M.Rows, len(rows)
	if err := d.sendActivations(&p.stages[0].job, x, tokens, D, stride); err != nil {
		return err
	}
	b := &s.w.Blocks[0].w
	d.clearPadding(&p.stages[0].job, b.O.M.Cols, b.Down.M.Cols)
	d.cast(kernels.ScalesAt, floats(scales))
	d.cast(uint64(p.stages[1].vec.XIn), floats(stream))
	var table, lists, angles []byte
	listsAt := p.attend.RowsAt + uint32(8*tokens)
	for _, r := range rows {
		table = binary.LittleEndian.AppendUint32(table, uint32(r.Pos))
		table = binary.LittleEndian.AppendUint32(table, listsAt+uint32(len(lists)))
		for _, page := range r.Pages {
			lists = binary.LittleEndian.AppendUint32(lists, uint32(page))
		}
		angles = append(append(angles, floats(r.Cos)...), floats(r.Sin)...)
	}
	d.cast(uint64(p.attend.RowsAt), append(table, lists...))
	d.cast(uint64(p.attend.Rope), angles)
	d.cast(uint64(p.attend.BankAt), d.bankCoords())
	d.cast(uint64(p.attendAt), kernels.Words(&p.attend))
	d.stats.Products += uint64(7 * len(s.w.Blocks))
	return d.launch("a step of all layers", p.stages, p.listAt)
}

// bankCoords are the coordinates of all banks, as the tiles want them.
func (d *Device) bankCoords() (b []byte) {
	for n := range d.c.Banks {
		b = binary.LittleEndian.AppendUint32(b, d.c.Bank(n).Coord())
	}
	return b
}

// stepPlan is a step placed in L1.
type stepPlan struct {
	stages   []stage
	attend   kernels.Attend
	attendAt uint32
	listAt   int // stages, then parts
}

func (d *Device) planStep(s *Step, tokens, longest int) (*stepPlan, error) {
	w, p := &s.w, &stepPlan{}
	layers := len(w.Blocks)
	for n, b := range w.Blocks {
		var qkv []slice
		for _, m := range w.qkv(n) {
			qkv = append(qkv, slice{m: m.M, scale: m.Scale})
		}
		p.stages = append(p.stages, stage{
			job: kernels.Job{Then: kernels.ThenAttend}, list: qkv,
			vec: kernels.Vector{Cols: uint32(w.Heads * w.Cols), Norm: uint32(s.norms[n]), Eps: math.Float32bits(w.AttnNorms[n].Eps), Res: uint32(n)},
		})
		p.stages = append(p.stages, b.stages()...)
	}
	tiles, team := len(d.tiles), w.Cols/kernels.ChunkRows
	each := (w.Heads*team + tiles - 1) / tiles
	pairs := (longest + 2*kernels.PageTokens - 1) / (2 * kernels.PageTokens)
	p.attend = kernels.Attend{
		Heads: uint32(w.Heads), Group: uint32(w.Heads / w.KeyHeads), Cols: uint32(w.Cols), KeyHeads: uint32(w.KeyHeads),
		Scale: math.Float32bits(float32(1 / math.Sqrt(float64(w.Cols)))), Each: uint32(each), Banks: uint32(d.c.Banks),
		Base: uint32(s.pages.base), SlotBytes: uint32(s.pages.slotBytes), Pairs: uint32(pairs),
	}
	err := d.layOut(p.stages, tokens, true, func(region func(n int) uint32) {
		a := &p.attend
		p.attendAt = region(len(kernels.Words(a)))
		a.BankAt = region(4 * d.c.Banks)
		a.RowsAt = region(tokens * (8 + 4*((longest+kernels.PageTokens-1)/kernels.PageTokens)))
		a.Rope = region(tokens * w.Cols * 4)
		a.Mine, a.Theirs = region(2*each*tokens*128), region(2*each*tokens*128)
		a.Q = region(each * tokens * w.Cols * 4)
		a.Scores = region(each * tokens * pairs * 256)
		a.Weights = region(2*4*kernel.SpanTokens + 3072) // the unpacker takes 4 KiB at a time
		a.Blocks = region(2 * w.Cols * 128)
		a.Found = region(2 * 256)
		p.listAt = int(region(4*layers*kernels.StageBytes + 7*layers*kernels.PartBytes))
	})
	if err != nil {
		return nil, err
	}
	for i := range p.stages {
		if v := &p.stages[i].vec; p.stages[i].job.Then == kernels.ThenAttend {
			v.XIn, v.Res = p.attendAt, uint32(i/4)
		}
	}
	return p, nil
}

// Pages are the keys and values of all sequences in the card's memory, kernels.PageTokens tokens to a page. A page has a
// slot at the same address in every bank, from the top down; its layers and heads are spread over the banks.
type Pages struct {
	d                *Device
	layers, kv, cols int
	base, slotBytes  uint64
	all              int

	mu     sync.Mutex
	free   []int
	lowest int // slots from there on have been used, those below never
}

func newPages(d *Device, layers, keyHeads, cols int) *Pages {
	p := &Pages{d: d, layers: layers, kv: keyHeads, cols: cols}
	p.slotBytes = uint64((layers*keyHeads+d.c.Banks-1)/d.c.Banks) * uint64(kernels.SliceBytes(cols))
	p.all = int((d.top - d.next) / p.slotBytes)
	p.base, p.lowest = d.top-uint64(p.all)*p.slotBytes, p.all
	return p
}

// New returns a page's number.
func (p *Pages) New() (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if n := len(p.free); n > 0 {
		page := p.free[n-1]
		p.free = p.free[:n-1]
		return page, nil
	}
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	at := p.base + uint64(p.lowest-1)*p.slotBytes
	if p.lowest == 0 || at < p.d.next {
		return 0, fmt.Errorf("%w: keys and values of %d tokens fill it; use fewer or shorter sequences, or --device tensix-blocks, which keeps them in this machine's memory", ErrMemory, kernels.PageTokens*(p.all-p.lowest))
	}
	p.lowest--
	p.d.top = at
	return p.lowest, nil
}

// used is how many pages are in use.
func (p *Pages) used() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.all - p.lowest - len(p.free)
}

// Free gives a page back.
func (p *Pages) Free(page int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = append(p.free, page)
}

// Write fills a page.
//
//	data  [layers, key heads] of: keys, [cols, kernels.PageTokens]; then values, [kernels.PageTokens, cols]
func (p *Pages) Write(page int, data []float32) error {
	return p.each(page, data, func(bank int, at uint64, buf []byte, slices [][]float32) error {
		n := kernels.SliceBytes(p.cols)
		for i, s := range slices {
			kernels.PackSlice(buf[i*n:][:n], s, p.cols)
		}
		return p.d.c.WriteBank(bank, at, buf)
	})
}

// Read is Write's inverse.
func (p *Pages) Read(page int, data []float32) error {
	return p.each(page, data, func(bank int, at uint64, buf []byte, slices [][]float32) error {
		if err := p.d.c.ReadBank(bank, at, buf); err != nil {
			return err
		}
		n := kernels.SliceBytes(p.cols)
		for i, s := range slices {
			kernels.UnpackSlice(s, buf[i*n:][:n], p.cols)
		}
		return nil
	})
}

// each calls f for each bank with what it has of a page.
func (p *Pages) each(page int, data []float32, f func(bank int, at uint64, buf []byte, slices [][]float32) error) error {
	size := 2 * kernels.PageTokens * p.cols
	if len(data) != p.layers*p.kv*size {
		panic("tensix: a page of another shape")
	}
	p.d.mu.Lock()
	defer p.d.mu.Unlock()
	if p.d.failed != nil {
		return p.d.failed
	}
	banks := p.d.c.Banks
	for b := range banks {
		var list [][]float32
		for s := (b - page%banks + banks) % banks; s < p.layers*p.kv; s += banks {
			list = append(list, data[s*size:][:size])
		}
		if len(list) == 0 {
			continue
		}
		if err := f(b, p.base+uint64(page)*p.slotBytes, make([]byte, len(list)*kernels.SliceBytes(p.cols)), list); err != nil {
			return err
		}
	}
	return nil
}
