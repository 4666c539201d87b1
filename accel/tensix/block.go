package tensix

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/tritlm/trit/accel/tensix/kernels"
)

// Block is all that lies between two layers' attentions, resident on the card and run by the tiles alone, as one job
// of up to four stages. The residual stream x stays on the tiles from one Block to the next:
//
//	x += o·x̂;  h = act(gate·x̂(norm(x)))·(up·x̂(norm(x)));  x += down·x̂(norm(h));  y = next·x̂(norm(x))
//
// act is the squared ReLU or SiLU; a model may have no norm of h.
//
// The tiles do the float32 work in the order that internal/kernel defines, so y is what the host would get, to the
// last bit, as long as no square underflows (|x|, |h| ≥ 2⁻⁶³): the cores flush subnormal numbers.
type Block struct {
	w                         BlockWeights
	ffnNorm, subNorm, outNorm uint64 // GDDR addresses in every bank
}

// Scaled is a matrix and what a sum of it is worth over the activations' scale.
type Scaled struct {
	M     *Matrix
	Scale float32
}

// Norm is an RMSNorm's weights and epsilon.
type Norm struct {
	W   []float32
	Eps float32
}

// BlockWeights are a Block's parts: O [D, A], Gate and Up [F, D], Down [D, F]; Next [·, D], none in the last block of
// a model, which gives the residual stream back. O and Down of all blocks that share a residual stream are loaded
// beside each other, and Up beside Gate (Device.Beside). D and F are multiples of 32; no matrix is wider than
// kernels.MaxK.
type BlockWeights struct {
	O, Gate, Up, Down          Scaled
	Next                       []Scaled
	FFNNorm, SubNorm, NextNorm Norm // [D], [F] or none, [D]
	SiLU                       bool // or squared ReLU
}

// ErrShape is wrapped when matrices are not a block that the tiles can run alone.
var ErrShape = errors.New("tensix: the tiles cannot run this block alone")

// NewBlock makes a block of matrices that are loaded, for up to `tokens` tokens at a time, at most kernels.MaxBatch.
func (d *Device) NewBlock(w BlockWeights, tokens int) (*Block, error) {
	D, F := w.O.M.Rows, w.Gate.M.Rows
	fits := func(s Scaled, rows, cols int) bool {
		return s.M.Kind == kernels.Ternary && s.M.Rows == rows && s.M.Cols == cols && len(s.M.segs) == 1
	}
	ok := D%kernels.ChunkRows == 0 && F%kernels.ChunkRows == 0 && fits(w.O, D, w.O.M.Cols) && fits(w.Gate, F, D) && fits(w.Up, F, D) && fits(w.Down, D, F) &&
		w.Up.M.segs[0].turn == w.Gate.M.segs[0].turn && w.Down.M.segs[0].turn == w.O.M.segs[0].turn &&
		len(w.FFNNorm.W) == D && (len(w.SubNorm.W) == F || len(w.SubNorm.W) == 0) && (len(w.Next) == 0 || len(w.NextNorm.W) == D)
	for _, n := range w.Next {
		ok = ok && fits(n, n.M.Rows, D)
	}
	if !ok {
		return nil, fmt.Errorf("%w: %s [%d, %d], %s [%d, %d], %s [%d, %d] and %d after them", ErrShape,
			w.O.M.Name, D, w.O.M.Cols, w.Gate.M.Name, F, w.Gate.M.Cols, w.Down.M.Name, w.Down.M.Rows, w.Down.M.Cols, len(w.Next))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		return nil, d.failed
	}
	b := &Block{w: w}
	if _, err := d.planBlock(b, tokens, true); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrShape, w.O.M.Name, err)
	}
	for _, n := range []struct {
		at *uint64
		w  []float32
	}{{&b.ffnNorm, w.FFNNorm.W}, {&b.subNorm, w.SubNorm.W}, {&b.outNorm, w.NextNorm.W}} {
		if len(n.w) == 0 {
			continue
		}
		var err error
		if *n.at, err = d.loadNorm(n.w); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// loadNorm puts a norm's weights into every bank, at the same address. The caller holds the device.
func (d *Device) loadNorm(w []float32) (at uint64, err error) {
	at = d.next
	if at+uint64(4*len(w)) > d.top {
		return 0, fmt.Errorf("%w: no room for a norm", ErrMemory)
	}
	for bank := range d.c.Banks {
		if err := d.c.WriteBank(bank, at, floats(w)); err != nil {
			return 0, err
		}
	}
	d.next = (at + uint64(4*len(w)) + 4095) &^ 4095
	return at, nil
}

// floats are float32 as the card has them.
func floats(v []float32) []byte {
	b := make([]byte, 4*len(v))
	for i, f := range v {
		binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(f))
	}
	return b
}

// stage is one stage of a job.
type stage struct {
	job  kernels.Job
	vec  kernels.Vector
	list []slice
}

// RunBlock runs a block for up to kernels.MaxBatch tokens.
//
//	x        [tokens, stride]  int8 activations of o
//	scales   [tokens]  their scales; overwritten with those of the activations of next
//	in, out  [tokens, D]  the residual stream: in where it is not on the tiles yet, out from a block without next
//	ys       sums of next
func (d *Device) RunBlock(ctx context.Context, b *Block, x []int8, stride int, scales, in, out []float32, ys ...Product) error {
	tokens, D := len(scales), b.w.O.M.Rows
	if tokens < 1 || tokens > kernels.MaxBatch || len(x) != tokens*stride || b.w.O.M.Cols > stride || len(ys) != len(b.w.Next) ||
		len(in) != 0 && len(in) != tokens*D || (len(ys) == 0) != (len(out) == tokens*D) {
		panic("tensix: RunBlock: lengths disagree")
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		return d.failed
	}
	stages, err := d.planBlock(b, tokens, len(in) > 0)
	if err != nil {
		return err
	}
	for i := range ys {
		ys[i].M = b.w.Next[i].M
		stages[3].list[i].p = &ys[i]
	}
	if err := d.runBlock(b, stages, x, stride, scales, in); err != nil {
		d.failed = err
		return err
	}
	for i := range out {
		out[i] = math.Float32frombits(binary.LittleEndian.Uint32(d.host.Bytes[d.out+4*i:]))
	}
	if len(out) > 0 {
		return nil
	}
	for i := range scales {
		a := math.Float32frombits(binary.LittleEndian.Uint32(d.host.Bytes[d.maxima+4*i:]))
		scales[i] = max(a, 1e-5) / 127 // as kernel.QuantizeRow; an infinity or NaN stays one
	}
	for _, s := range stages[3].list {
		if err := d.collect(s, tokens, 0, tokens); err != nil {
			d.failed = err
			return err
		}
	}
	return nil
}

func (d *Device) runBlock(b *Block, stages []stage, x []int8, stride int, scales, in []float32) error {
	first := &stages[0].job
	if err := d.sendActivations(first, x, len(scales), b.w.O.M.Cols, stride); err != nil {
		return err
	}
	d.clearPadding(first, b.w.Gate.M.Cols, b.w.Down.M.Cols)
	d.cast(kernels.ScalesAt, floats(scales))
	if len(in) > 0 {
		d.cast(uint64(stages[0].vec.XIn), floats(in))
	}
	d.stats.Products += uint64(4 + len(b.w.Next))
	return d.launch(b.w.O.M.Name, stages, 0)
}

// sendActivations packs and multicasts the ternary activations of a job's first stage.
func (d *Device) sendActivations(j *kernels.Job, x []int8, tokens, cols, stride int) error {
	if n := kernels.XBytes(kernels.Ternary, cols, int(j.Rows)); cap(d.x) < n {
		d.x = make([]byte, n)
	}
	if err := kernels.PackX(d.x[:cap(d.x)], kernels.Ternary, x, tokens, cols, stride); err != nil {
		return err
	}
	d.sendX(*j, cols)
	return nil
}

// clearPadding makes what pads later stages' activations finite. Those of the first stage are sent first: where they
// reach into a later one's padding they are finite themselves.
func (d *Device) clearPadding(j *kernels.Job, cols ...int) {
	rows, sent := int(j.Rows), int(j.KT)*32
	for _, k := range cols {
		per := kernels.XBytes(kernels.Ternary, kernels.PadK(k), rows) / kernels.PadK(k)
		if begin, end := per*max(k, sent), per*kernels.PadK(k); begin < end {
			d.cast(uint64(j.X)+uint64(begin), make([]byte, end-begin))
		}
	}
}

// stages are a block's stages before they have a place, up to the next layer's matrices.
func (b *Block) stages() []stage {
	w := &b.w
	D, F := uint32(w.O.M.Rows), uint32(w.Gate.M.Rows)
	stages := []stage{
		{job: kernels.Job{Then: kernels.ThenAdd}, list: []slice{{m: w.O.M, scale: w.O.Scale}}, vec: kernels.Vector{Cols: D, Norm: uint32(b.ffnNorm), Eps: math.Float32bits(w.FFNNorm.Eps)}},
		{job: kernels.Job{Then: kernels.ThenAct}, list: []slice{{m: w.Gate.M, scale: w.Gate.Scale}, {m: w.Up.M, scale: w.Up.Scale}}, vec: kernels.Vector{Cols: F, Norm: uint32(b.subNorm), Eps: math.Float32bits(w.SubNorm.Eps)}},
		{job: kernels.Job{Then: kernels.ThenOut}, list: []slice{{m: w.Down.M, scale: w.Down.Scale}}, vec: kernels.Vector{Cols: D, Norm: uint32(b.outNorm), Eps: math.Float32bits(w.NextNorm.Eps)}},
	}
	if w.SiLU {
		stages[1].job.Then = kernels.ThenSiLU
	}
	if len(w.Next) > 0 {
		stages[2].job.Then = kernels.ThenAdd
	}
	return stages
}

// planBlock places a block in L1 and its results in host memory.
func (d *Device) planBlock(b *Block, tokens int, begins bool) ([]stage, error) {
	stages, rows := b.stages(), kernels.Rows(tokens)
	if len(b.w.Next) > 0 {
		next, offset := stage{}, d.out
		for _, n := range b.w.Next {
			next.list = append(next.list, slice{m: n.M, offset: offset})
			offset += n.M.chunks * kernels.OutBytes(rows)
		}
		if offset > len(d.host.Bytes) {
			return nil, errNoRoom
		}
		stages = append(stages, next)
	}
	return stages, d.layOut(stages, tokens, begins, nil)
}

// layOut places stages in L1, one region behind the other: activations, sums, what is normed, a piece, gathered rows,
// tile 0's table, the residual stream where it comes in, what more says, the ring of weights; at the end the residual
// stream that stays. The stream comes in behind what the activations of the first stages take, over those of wider ones
// that are made when it has been added; unless that would be padding, which must be finite numbers.
func (d *Device) layOut(stages []stage, tokens int, begins bool, more func(region func(n int) uint32)) error {
	rows, tiles := kernels.Rows(tokens), len(d.tiles)
	each := func(m *Matrix) int { return (m.chunks + tiles - 1) / tiles }
	xBytes, slots, normed, stay, widest, stream := 0, 2, 0, 0, 0, 0
	early, over, adds := 0, true, -1 // bytes of activations that the stream lies behind; whether it may; where it is added
	for i := range stages {
		s := &stages[i]
		cols := s.list[0].m.Cols
		xBytes = max(xBytes, kernels.XBytes(kernels.Ternary, cols, rows))
		if over = over && cols == kernels.PadK(cols); adds < 0 || i == adds+1 {
			early = xBytes
		}
		if adds < 0 && s.job.Then == kernels.ThenAdd {
			adds = i
		}
		if s.job.Then == kernels.ThenHost {
			continue
		}
		sums := 0
		for _, l := range s.list {
			sums += each(l.m)
		}
		slots, normed, widest = max(slots, sums), max(normed, each(s.list[0].m)), max(widest, int(s.vec.Cols))
		if s.job.Then == kernels.ThenAdd || s.job.Then == kernels.ThenOut {
			stay, stream = each(s.list[0].m), int(s.vec.Cols)
		}
	}
	if d.out+4*tokens*stream > len(d.host.Bytes) {
		return errNoRoom
	}
	at := kernels.DataAt
	region := func(n int) uint32 {
		a := at
		at = (at + n + 1023) &^ 1023
		return uint32(a)
	}
	if !over {
		early = xBytes
	}
	x := region(max(xBytes, early+4*tokens*stream))
	out := region(slots * kernels.OutBytes(rows))
	v := d.vector(tokens)
	v.H = region(normed * rows * 128)
	v.Piece = region(4096 + 128)
	v.Gather = region((8*tokens + tiles - 1) / tiles * widest / 2)
	v.Table = region(tiles * 128)
	exps := region(4096) // what the vector unit makes exponentials of
	if more != nil {
		more(region)
	}
	end := (kernels.DataEnd - stay*rows*128) &^ 1023
	v.Res = uint32(end)
	v.OutLo, v.OutHi = d.hostAt(d.out)
	for i := range stages {
		s := &stages[i]
		j, err := kernels.Plan(kernels.Ternary, rows, s.list[0].m.Cols)
		if err != nil {
			return err
		}
		j.Then, j.X, j.Out, j.OutSlots = s.job.Then, x, out, uint32(slots)
		j.Ring, j.RingSlots = uint32(at), uint32(max(0, min((end-at)/int(j.ChunkBytes), 8)))
		if at+int(j.ChunkBytes) > end {
			return errNoRoom
		}
		s.job = j
		own := s.vec
		s.vec = v
		s.vec.Cols, s.vec.Norm, s.vec.Eps = own.Cols, own.Norm, own.Eps
		if j.Then == kernels.ThenSiLU {
			s.vec.OutLo = exps
		}
	}
	if begins {
		stages[adds].vec.XIn = x + uint32(early)
	}
	return nil
}

// errNoRoom: memory of a tile, or the host's for results, cannot hold what the step needs.
var errNoRoom = errors.New("tensix: this does not fit in a tile's memory at once")

// vector is what all vector steps share.
func (d *Device) vector(tokens int) kernels.Vector {
	corner, end := d.o.Grid.Corners()
	v := kernels.Vector{Tokens: uint32(tokens), Rect: corner.Coord()<<12 | end.Coord(), Master: d.tiles[0].Coord()}
	v.MaxLo, v.MaxHi = d.hostAt(d.maxima)
	return v
}

// hostAt is the address of a byte of host memory, as the tiles write it.
func (d *Device) hostAt(offset int) (lo, hi uint32) {
	a := d.host.NoC + uint64(offset)
	return uint32(a), uint32(a >> 32)
}
