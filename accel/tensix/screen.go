package tensix

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/tritlm/trit/accel/tensix/kernels"
)

// Screen is an int8 matrix whose largest score the tiles look for themselves, so that only rows that can have it come
// to the host (firmware/src/screen.h). A row's score is known up to a bound:
//
//	|score_v - S·Σ r_v·q| ≤ Rest·a + Norm·b
type Screen struct {
	m            *Matrix
	base, stride uint64 // of the rows' records in GDDR, laid out as the matrix's chunks
}

// RowBound is what the tiles know of a row besides its weights.
type RowBound struct{ S, Rest, Norm float32 }

// Screened is a row that can have the largest score, and its sum.
type Screened struct{ Row, Sum int32 }

const recordBytes = 12 * kernels.ChunkRows // of a chunk: 32 of each of the three

// NewScreen uploads what the tiles need to screen an int8 matrix of one segment.
func (d *Device) NewScreen(m *Matrix, row func(r int) RowBound) (*Screen, error) {
	if m.Kind != kernels.Int8 || len(m.segs) != 1 || m.Rows >= 1<<24 {
		return nil, fmt.Errorf("%w: %s [%d, %d] as a screen", ErrShape, m.Name, m.Rows, m.Cols)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		return nil, d.failed
	}
	tiles, turn := len(d.tiles), m.segs[0].turn
	s := &Screen{m: m, base: d.next, stride: uint64((m.chunks + tiles - 1) / tiles * recordBytes)}
	for i := range tiles {
		var b []byte
		for g := (i - turn + tiles) % tiles; g < m.chunks; g += tiles {
			var v [3][kernels.ChunkRows]float32
			for k := range min(kernels.ChunkRows, m.Rows-kernels.ChunkRows*g) {
				r := row(kernels.ChunkRows*g + k)
				v[0][k], v[1][k], v[2][k] = r.S, r.Rest, r.Norm
			}
			for k := range v {
				b = append(b, floats(v[k][:])...)
			}
		}
		if len(b) == 0 {
			continue
		}
		if err := d.c.WriteBank(i%d.c.Banks, s.base+uint64(i/d.c.Banks)*s.stride, b); err != nil {
			return nil, err
		}
	}
	readers := (tiles + d.c.Banks - 1) / d.c.Banks
	d.next = (d.next + uint64(readers)*s.stride + 4095) &^ 4095
	return s, nil
}

// Screen gives for each token the rows that can have its largest score; every one that can is among them.
//
//	x     [tokens, stride] int8, the first Cols of each row, never -128; at most kernels.MaxBatch tokens
//	a, b  [tokens] see above; with room for the roundings of the tiles' float32: three of each term and of the sum
//
// ok is false when the tiles have no room for it, or too many rows are close.
func (d *Device) Screen(ctx context.Context, s *Screen, x []int8, stride int, a, b []float32) (lists [][]Screened, ok bool, err error) {
	tokens := len(a)
	if tokens < 1 || tokens > kernels.MaxBatch || len(b) != tokens || len(x) != tokens*stride || s.m.Cols > stride {
		panic("tensix: Screen: lengths disagree")
	}
	if err := ctx.Err(); err != nil {
		return nil, false, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.failed != nil {
		return nil, false, d.failed
	}
	st, err := d.planScreen(s, tokens)
	if errors.Is(err, errNoRoom) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	if n := kernels.XBytes(kernels.Int8, s.m.Cols, int(st.job.Rows)); cap(d.x) < n {
		d.x = make([]byte, n)
	}
	if err := kernels.PackX(d.x[:cap(d.x)], kernels.Int8, x, tokens, s.m.Cols, stride); err != nil {
		return nil, false, err
	}
	d.sendX(st.job, s.m.Cols)
	bounds := make([]float32, 32, 64)
	copy(bounds, a)
	d.cast(kernels.ScalesAt, floats(append(bounds, b...)))
	d.stats.Products++
	if err := d.launch(s.m.Name, []stage{*st}, 0); err != nil {
		d.failed = err
		return nil, false, err
	}
	lists, ok = make([][]Screened, tokens), true
	for i := range d.tiles {
		list := d.host.Bytes[d.out+i*int(st.vec.Eps):][:st.vec.Eps]
		kept := binary.LittleEndian.Uint32(list)
		n := min(kept, st.vec.XIn)
		d.stats.Returned += 16 + 8*uint64(n)
		ok = ok && kept == n
		for k := range int(n) {
			id, sum := binary.LittleEndian.Uint32(list[16+8*k:]), binary.LittleEndian.Uint32(list[20+8*k:])
			row, token := int32(id&(1<<24-1)), int(id>>24)
			if token >= tokens || int(row) >= s.m.Rows {
				d.failed = fmt.Errorf("tensix: %s: tile %v found row %d for token %d; there are %d and %d", s.m.Name, d.tiles[i], row, token, s.m.Rows, tokens)
				return nil, false, d.failed
			}
			lists[token] = append(lists[token], Screened{row, kernels.Int32(sum)})
		}
	}
	return lists, ok, nil
}

// planScreen places a screen in L1: activations, sums, the rows' records, the list, tile 0's table, the ring of weights.
func (d *Device) planScreen(s *Screen, tokens int) (*stage, error) {
	rows, tiles := kernels.Rows(tokens), len(d.tiles)
	j, err := kernels.Plan(kernels.Int8, rows, s.m.Cols)
	if err != nil {
		return nil, err
	}
	chunks := (s.m.chunks + tiles - 1) / tiles
	at := int(j.Ring)
	region := func(n int) uint32 {
		a := at
		at = (at + n + 1023) &^ 1023
		return uint32(a)
	}
	perTile := (len(d.host.Bytes) - d.out) / tiles &^ 63
	v := d.vector(tokens)
	v.Cols, v.Norm, v.Res = uint32(s.m.Rows), uint32(s.base), uint32(s.stride)
	v.Gather, v.H, v.Table = region(chunks*recordBytes), region(16+chunks*kernels.ChunkRows*tokens*12), region(tiles*128)
	v.XIn, v.Eps = uint32(perTile-16)/8, uint32(perTile)
	v.OutLo, v.OutHi = d.hostAt(d.out)
	j.Ring, j.RingSlots = uint32(at), uint32(min((kernels.DataEnd-at)/int(j.ChunkBytes), 8))
	if at+2*int(j.ChunkBytes) > kernels.DataEnd {
		return nil, errNoRoom
	}
	j.Then = kernels.ThenScreen
	return &stage{job: j, vec: v, list: []slice{{m: s.m}}}, nil
}
