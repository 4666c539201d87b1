package tensix

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/tritlm/trit/accel/tensix/kernels"
)

// FFN is the feed-forward part of a block, resident on the card and run by the tiles alone: one job instead of two,
// and nothing in between crosses PCIe.
//
//	h = relu(gate·x)²·(up·x);  y = down·quantise(rmsnorm(h))
//
// The tiles do the float32 work in the order that internal/kernel defines, so y is what the host would get, to the
// last bit, as long as no square underflows (|h| ≥ 2⁻⁶³): the cores flush subnormal numbers.
type FFN struct {
	gate, up, down *Matrix
	norm           uint64 // GDDR address in every bank
	eps            float32
}

// ErrShape is wrapped when matrices are not a feed-forward that the tiles can run alone.
var ErrShape = errors.New("tensix: the tiles cannot run this feed-forward alone")

// errNoRoom: a tile's memory cannot hold what the step needs.
var errNoRoom = errors.New("tensix: this feed-forward does not fit in a tile's memory at once")

// NewFFN makes a feed-forward of matrices that are loaded: gate and up [F, D], up loaded beside gate (LoadBeside), and
// down [D, F]; norm [F] are the weights of the norm in front of down. F is a multiple of 32, and neither D nor F is
// larger than kernels.MaxK.
func (d *Device) NewFFN(gate, up, down *Matrix, norm []float32, eps float32) (*FFN, error) {
	F := gate.Rows
	if up.Rows != F || down.Cols != F || len(norm) != F || up.Cols != gate.Cols || F%kernels.ChunkRows != 0 || len(gate.segs) > 1 || len(down.segs) > 1 || up.segs[0].turn != gate.segs[0].turn {
		return nil, fmt.Errorf("%w: %s [%d, %d], %s [%d, %d], %s [%d, %d], norm [%d]", ErrShape,
			gate.Name, gate.Rows, gate.Cols, up.Name, up.Rows, up.Cols, down.Name, down.Rows, down.Cols, len(norm))
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		return nil, d.failed
	}
	f := &FFN{gate: gate, up: up, down: down, norm: d.next, eps: eps}
	b := make([]byte, 4*F)
	for i, v := range norm {
		binary.LittleEndian.PutUint32(b[4*i:], math.Float32bits(v))
	}
	for bank := range d.c.Banks {
		if err := d.c.WriteBank(bank, f.norm, b); err != nil {
			return nil, err
		}
	}
	d.next = (d.next + uint64(len(b)) + 4095) &^ 4095
	return f, nil
}

// FeedForward runs the block.
//
//	x                   [tokens, stride]  int8, the first D of each row
//	gateScale, upScale  [tokens]  what a sum of gate or up is worth: activation scale times weight scale
//	y                   down's sums
//	largest             [tokens]  overwritten: max|rmsnorm(h)|; down's activation scale is max(largest, 1e-5)/127
//
// More than 32 tokens run in turns.
func (d *Device) FeedForward(ctx context.Context, f *FFN, x []int8, tokens, stride int, gateScale, upScale []float32, y Product, largest []float32) error {
	if tokens < 1 || len(x) != tokens*stride || len(gateScale) != tokens || len(upScale) != tokens || len(largest) != tokens || f.gate.Cols > stride {
		panic("tensix: FeedForward: lengths disagree")
	}
	y.M = f.down
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		return d.failed
	}
	for t := 0; t < tokens; t += kernels.MaxBatch {
		if err := ctx.Err(); err != nil {
			return err
		}
		n := min(kernels.MaxBatch, tokens-t)
		if err := d.passFFN(f, x[t*stride:][:n*stride], n, stride, gateScale[t:t+n], upScale[t:t+n], &y, largest[t:t+n], t, tokens); err != nil {
			return err
		}
	}
	return nil
}

// passFFN runs tokens begin to begin+tokens of all.
func (d *Device) passFFN(f *FFN, x []int8, tokens, stride int, gateScale, upScale []float32, y *Product, largest []float32, begin, all int) error {
	rows := kernels.Rows(tokens)
	first, second, v, err := d.planFFN(f, rows, tokens)
	if err != nil {
		return err
	}
	if n := kernels.XBytes(kernels.Ternary, f.gate.Cols, rows); cap(d.x) < n {
		d.x = make([]byte, n)
	}
	if err := kernels.PackX(d.x[:cap(d.x)], kernels.Ternary, x, tokens, f.gate.Cols, stride); err != nil {
		return err
	}
	d.sendX(first, f.gate.Cols)
	scales := make([]byte, 256)
	for i := range tokens {
		binary.LittleEndian.PutUint32(scales[4*i:], math.Float32bits(gateScale[i]))
		binary.LittleEndian.PutUint32(scales[128+4*i:], math.Float32bits(upScale[i]))
	}
	in := []slice{{p: &Product{M: f.gate}, n: f.gate.chunks}, {p: &Product{M: f.up}, n: f.up.chunks}}
	out := slice{p: y, n: f.down.chunks, offset: d.out}
	if out.n*kernels.OutBytes(rows) > len(d.host.Bytes)-d.out {
		return errNoRoom
	}
	a, n1 := d.parts(in)
	b, n2 := d.parts([]slice{out})
	vector := kernels.Words(&v)
	d.c.Cast(kernels.PartsAt, a)
	d.c.Cast(kernels.PartsAt+32*kernels.StageParts, b)
	d.c.Cast(kernels.ScalesAt, scales)
	d.c.Cast(kernels.VectorAt, vector)
	d.c.Cast(kernels.JobAt, kernels.Words(&first))
	d.c.Cast(kernels.JobAt+kernels.StageBytes, kernels.Words(&second))
	d.stats.Sent += uint64(len(a) + len(b) + len(scales) + len(vector) + 96)
	d.stats.Products += 3
	if err := d.ring(f.gate.Name, n1+n2); err != nil {
		d.failed = err
		return err
	}
	d.stats.Weights += uint64(n1)*uint64(first.ChunkBytes) + uint64(n2)*uint64(second.ChunkBytes)
	d.stats.Returned += uint64(n2)*uint64(kernels.OutBytes(rows)) + 128
	for i := range largest {
		largest[i] = math.Float32frombits(binary.LittleEndian.Uint32(d.host.Bytes[d.maxima+4*i:]))
	}
	if err := d.collect(out, tokens, begin, all); err != nil {
		d.failed = err
		return err
	}
	return nil
}

// planFFN places the two stages and the vector step in L1, one region behind the other: activations, results, h, a
// piece, gathered rows, tile 0's table, the second activations, the ring of weights.
func (d *Device) planFFN(f *FFN, rows, tokens int) (first, second kernels.Job, v kernels.Vector, err error) {
	tiles := len(d.tiles)
	pairs := (f.gate.chunks + tiles - 1) / tiles
	if first, err = kernels.Plan(kernels.Ternary, rows, f.gate.Cols); err != nil {
		return
	}
	if second, err = kernels.Plan(kernels.Ternary, rows, f.down.Cols); err != nil {
		return
	}
	at := int(first.Out)
	region := func(n int) uint32 {
		a := at
		at = (at + n + 1023) &^ 1023
		return uint32(a)
	}
	slots := max(2*pairs, 2)
	first.Out = region(slots * kernels.OutBytes(rows))
	first.OutSlots = uint32(slots)
	corner, end := d.o.Grid.Corners()
	host := d.host.NoC + uint64(d.maxima)
	v = kernels.Vector{
		Tokens: uint32(tokens), Cols: uint32(f.gate.Rows), Eps: math.Float32bits(f.eps), Norm: uint32(f.norm),
		H: region(pairs * rows * 128), Q: region(1024), Gather: region((tokens + tiles - 1) / tiles * f.gate.Rows * 4), Table: region(tiles * 128),
		Rect: corner.Coord()<<12 | end.Coord(), Master: d.tiles[0].Coord(), TilesAt: kernels.TilesAt,
		MaxLo: uint32(host), MaxHi: uint32(host >> 32),
	}
	second.X = region(kernels.XBytes(kernels.Ternary, f.down.Cols, rows))
	second.Out, second.OutSlots = first.Out, first.OutSlots
	for _, j := range []*kernels.Job{&first, &second} {
		j.Ring = uint32(at)
		j.RingSlots = uint32(min((kernels.DataEnd-at)/int(j.ChunkBytes), 8))
		if at+int(j.ChunkBytes) > kernels.DataEnd {
			err = errNoRoom
		}
	}
	first.Parts, first.More = 2, 1
	second.Parts, second.First = 1, kernels.StageParts
	return
}
