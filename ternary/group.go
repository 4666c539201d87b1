package ternary

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/tritlm/trit/internal/kernel"
)

// Groups is a weight-only matrix [Rows, Cols]: a weight is ŵ·d with a float16 scale d for a group of columns of its row,
// or for the row, and ŵ ∈ {-1, 0, +1}, or {-1, +1}. It is as large as its file, give or take a twentieth:
//
//	bits a weight           in the file   in memory
//	Q2_0, 64 a scale        2.25          2.25, or 1.92 as Ternary5
//	Q2_0 of 128, PQ2_0      2.125         2.125, or 1.79
//	TQ2_0                   2.0625        2.125 (2.0625 where scales allow), or 1.79
//	PTQ1_0                  1.75          1.79 to 1.82 from 2,048 columns
//	TQ1_0                   1.6875        1.73 to 1.76
//	Q1_0                    1.125         1.125
//	STQ1_0                  1.3125        1.73 to 1.76
//
// (Ternary5 leaves up to two groups of a row at 2 bits.) Scales that repeat are kept once: a matrix whose rows have one scale
// each needs none per group, whatever its file, and multiplies to the same bits as any other file of the same weights.
type Groups struct {
	Rows, Cols int
	M          kernel.GroupMatrix // its rows are padded to a multiple of 16 with scales 0
}

// Binary says whether there is no weight 0.
func (g *Groups) Binary() bool { return g.M.Layout == kernel.Binary1 }

// Bytes is the size in memory.
func (g *Groups) Bytes() int { return g.M.Bytes() }

// Row writes the values ŵ·d of row r. dst has Cols elements.
func (g *Groups) Row(dst []float32, r int) {
	if r < 0 || r >= g.Rows {
		panic(fmt.Sprintf("ternary: row %d of %d", r, g.Rows))
	}
	kernel.GroupRow(dst, &g.M, r)
}

// Grouped says whether UnpackGroups reads the layout: those with a float16 scale in each block.
func (f Format) Grouped() bool { return f.layout().scaleAt >= 0 }

// tight says whether the layout is below 2 bits a weight, so that its matrices are kept below them too.
func (f Format) tight() bool { return f == TQ1_0 || f == PTQ1_0 || f == STQ1_0 }

// UnpackGroups reads a matrix [rows, cols] that src holds, whole, in a layout with a scale a block, into the layout that
// products are computed from. Scales may differ, be negative, or 0. Errors name the row, the column and the byte; see
// ErrFormat, and ErrCode3 for a weight of +2 in Q2_0 and PQ2_0, which is legal there but not ternary (Decode reads it).
func UnpackGroups(src []byte, f Format, rows, cols int) (*Groups, error) {
	layout := kernel.Ternary2
	switch {
	case f == Q1_0:
		layout = kernel.Binary1
	case f.tight() || kernel.PreferT5():
		layout = kernel.Ternary5
	}
	return unpackGroups(src, f, rows, cols, layout)
}

func unpackGroups(src []byte, f Format, rows, cols int, layout kernel.GroupLayout) (*Groups, error) {
	if err := f.check(src, rows, cols); err != nil {
		return nil, err
	}
	l := f.layout()
	if !f.Grouped() {
		return nil, fmt.Errorf("ternary: %s has no scales of groups: %w", f, ErrFormat)
	}
	b := newGroups(rows, cols, l.weights, layout)
	stride := l.rowBytes(cols)
	block := func(r, i int) []byte { return src[r*stride+i*l.bytes:][:l.bytes] }
	if err := b.scales(func(r, i int) (uint16, error) {
		d := binary.LittleEndian.Uint16(block(r, i)[l.scaleAt:])
		if d&0x7c00 == 0x7c00 {
			return 0, fmt.Errorf("ternary: %s: scale of row %d, block %d (byte %d) is %g, want a finite number: %w",
				f, r, i, r*stride+i*l.bytes+l.scaleAt, f16(d), ErrFormat)
		}
		return d, nil
	}); err != nil {
		return nil, err
	}
	err := b.codes(func(r, i int, words, buf []byte) error {
		src := block(r, i)
		if layout == kernel.Binary1 {
			for k := range l.weights / 32 {
				binary.LittleEndian.PutUint32(words[64*k:], wordsBits(binary.LittleEndian.Uint32(src[2+4*k:])))
			}
			return nil
		}
		if l.words == nil {
			l.decode(buf[:l.weights], src)
			setWords(words, buf[:l.weights])
		} else if l.words(words, src) != 0 {
			l.decode(buf[:l.weights], src)
			return f.codeError(r, i*l.weights+code3(buf[:l.weights]), r*stride+i*l.bytes)
		}
		return nil
	})
	return b.done(err)
}

// UnpackMLX reads a matrix of MLX's affine quantisation, w = q·scale + bias, where that is a ternary one (2 bits, bias =
// -scale: q is ŵ+1) or a binary one (1 bit, scale = -2·bias).
//
//	words           [rows, cols·bits/32] little-endian uint32, q of the first column in the bottom bits
//	scales, biases  [rows, cols/group]   as float32; they must be float16 numbers, as Scales are kept so
//
// What is not ternary is refused with its row and column: ErrCode3 for q = 3, ErrFormat for a bias or a scale that does not fit.
func UnpackMLX(words []byte, bits int, scales, biases []float32, rows, cols int) (*Groups, error) {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("ternary: mlx: "+format+": %w", append(args, ErrFormat)...)
	}
	if bits != 1 && bits != 2 {
		return nil, bad("%d bits a weight are not ternary", bits)
	}
	if rows <= 0 || cols <= 0 || cols%32 != 0 || len(words)/rows != cols/8*bits || len(words)%rows != 0 {
		return nil, bad("%d bytes of weights for shape [%d, %d]", len(words), rows, cols)
	}
	n := len(scales) / rows
	if n == 0 || len(scales)%rows != 0 || len(biases) != len(scales) || cols%n != 0 {
		return nil, bad("%d scales and %d biases for shape [%d, %d]", len(scales), len(biases), rows, cols)
	}
	group := cols / n
	if group%32 != 0 || group&(group-1) != 0 && n > 1 {
		return nil, bad("groups of %d columns", group)
	}
	layout := kernel.Ternary2
	if bits == 1 {
		layout = kernel.Binary1
	} else if kernel.PreferT5() {
		layout = kernel.Ternary5
	}
	b := newGroups(rows, cols, group, layout)
	if err := b.scales(func(r, i int) (uint16, error) {
		s, bias := scales[r*n+i], biases[r*n+i]
		d, want := s, -s
		if bits == 1 {
			d, want = -bias, -s/2
		}
		if bias != want {
			return 0, bad("row %d, group %d has scale %g and bias %g, which is not %s", r, i, s, bias, map[int]string{1: "binary (bias = -scale/2)", 2: "ternary (bias = -scale)"}[bits])
		}
		h := toF16(d)
		if f16(h) != d || h&0x7c00 == 0x7c00 {
			return 0, bad("scale %g of row %d, group %d is no float16 number", d, r, i)
		}
		return h, nil
	}); err != nil {
		return nil, err
	}
	stride, size := cols/8*bits, group/8*bits
	err := b.codes(func(r, i int, out, buf []byte) error {
		src := words[r*stride+i*size:][:size]
		if bits == 1 {
			for k := range group / 32 {
				binary.LittleEndian.PutUint32(out[64*k:], wordsBits(binary.LittleEndian.Uint32(src[4*k:])))
			}
		} else if wordsQuads(out, src) != 0 {
			for k, v := range src {
				for j := range 4 {
					if v>>(2*j)&3 == 3 {
						return fmt.Errorf("ternary: mlx: row %d, column %d (byte %d) is +2, so this tensor is not ternary: %w", r, i*group+4*k+j, r*stride+i*size+k, ErrCode3)
					}
				}
			}
		}
		return nil
	})
	return b.done(err)
}

// Groups is the matrix as a weight-only one. The codes are shared, not copied.
func (m *Matrix) Groups() (*Groups, error) {
	group := kernel.GroupColumns(m.Cols, 0)
	if group == 0 {
		return nil, fmt.Errorf("ternary: %d columns is not a multiple of 32: %w", m.Cols, ErrFormat)
	}
	g := &Groups{Rows: m.Rows, Cols: m.Cols, M: kernel.GroupMatrix{
		Rows: kernel.Pad16(m.Rows), Cols: m.Cols, Layout: kernel.Ternary2, Group: group, ScaleGroup: m.Cols, Codes: m.T16,
	}}
	g.M.RowScale = make([]float32, g.M.Rows)
	for r := range m.Rows {
		g.M.RowScale[r] = m.RowScale(r)
	}
	return g, nil
}

// groupBuilder makes Groups from blocks: first all scales, as which of them are equal decides how codes lie, then the codes.
type groupBuilder struct {
	g      *Groups
	block  int // columns
	layout kernel.GroupLayout
	zero   bool // whether a block of scale 0 has to become codes of weight 0
	raw    []uint16
}

func newGroups(rows, cols, block int, layout kernel.GroupLayout) *groupBuilder {
	return &groupBuilder{
		g: &Groups{Rows: rows, Cols: cols}, block: block, layout: layout, zero: layout != kernel.Binary1,
		raw: make([]uint16, kernel.Pad16(rows)*(cols/block)),
	}
}

// at is where the scale of row r, block i of n lies.
func (b *groupBuilder) at(r, i, n int) int { return (r/16*n+i)*16 + r%16 }

// scales reads all scales and then keeps one of two neighbours where all pairs are equal, as often as that is so. A ternary
// block whose scale is 0 holds zeros whatever its codes say, and agrees with any neighbour.
func (b *groupBuilder) scales(read func(r, i int) (uint16, error)) error {
	g, n := b.g, b.g.Cols/b.block
	var fault firstError
	parallel(g.Rows, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			for i := range n {
				d, err := read(r, i)
				if err != nil {
					fault.report(r, err)
					return
				}
				if d&0x7fff == 0 {
					d = 0
				}
				b.raw[b.at(r, i, n)] = d
			}
		}
	})
	if fault.err != nil {
		return fault.err
	}
	scales, columns := b.raw, b.block
	for n > 1 {
		half := (n + 1) / 2
		next := make([]uint16, kernel.Pad16(g.Rows)*half)
		same := true
		for r := 0; r < g.Rows && same; r++ {
			for i := range half {
				d := scales[b.at(r, 2*i, n)]
				if 2*i+1 < n {
					switch e := scales[b.at(r, 2*i+1, n)]; {
					case d == e || e == 0 && b.zero:
					case d == 0 && b.zero:
						d = e
					default:
						same = false
					}
				}
				next[b.at(r, i, half)] = d
			}
		}
		if !same {
			break
		}
		scales, n, columns = next, half, 2*columns
	}
	if n == 1 {
		columns = g.Cols
	}
	group := kernel.GroupColumns(g.Cols, columns)
	if group == 0 {
		return fmt.Errorf("ternary: a scale for %d of %d columns: %w", columns, g.Cols, ErrFormat)
	}
	g.M = kernel.GroupMatrix{
		Rows: kernel.Pad16(g.Rows), Cols: g.Cols, Layout: b.layout, Group: group, ScaleGroup: columns,
		Codes:  make([]byte, kernel.GroupBytes(b.layout, g.Rows, g.Cols, group)),
		Scales: slices.Clip(scales),
	}
	return nil
}

// codes packs all codes. read writes those of a block as words, word k at words[64·k:], and has room for a block in buf.
func (b *groupBuilder) codes(read func(r, i int, words, buf []byte) error) error {
	g, n := b.g, b.g.Cols/b.block
	size := len(g.M.Codes) / (g.M.Rows / 16)
	per := 4 * b.block // bytes from a block's words to the next one's
	if b.layout == kernel.Binary1 {
		per = 2 * b.block
	}
	var fault firstError
	parallel(g.M.Rows, func(lo, hi int) {
		tile, buf := make([]byte, per*n), make([]byte, b.block)
		for ; lo < hi; lo += 16 {
			clear(tile)
			for r := lo; r < lo+16; r++ {
				for i := range n {
					words := tile[i*per+r%16*4:]
					if r >= g.Rows || b.zero && b.raw[b.at(r, i, n)] == 0 {
						if b.zero {
							fillWords(words, b.block/16)
						}
					} else if err := read(r, i, words, buf); err != nil {
						fault.report(r, err)
						return
					}
				}
			}
			kernel.PutGroupTile(g.M.Codes[lo/16*size:][:size], b.layout, tile, g.Cols, g.M.Group)
		}
	})
	return fault.err
}

func (b *groupBuilder) done(err error) (*Groups, error) {
	if err != nil {
		return nil, err
	}
	return b.g, nil
}

// Pack writes the matrix in layout f, the inverse of UnpackGroups, without loss or not at all: a block whose columns have
// different scales, or a weight that the layout cannot hold, is refused with its row and column.
func (g *Groups) Pack(f Format) ([]byte, error) {
	size, err := f.Size(g.Rows, g.Cols)
	if err != nil {
		return nil, err
	}
	l := f.layout()
	if !f.Grouped() {
		return nil, fmt.Errorf("ternary: %s has no scales of groups: %w", f, ErrMixedScales)
	}
	if g.M.RowScale != nil {
		for r, s := range g.M.RowScale[:g.Rows] {
			if h := toF16(s); f16(h) != s || math.IsInf(float64(f16(h)), 0) || g.M.Scales != nil {
				return nil, fmt.Errorf("ternary: %s: scale %g of row %d is no float16 number: %w", f, s, r, ErrFormat)
			}
		}
	}
	dst := make([]byte, size)
	stride := l.rowBytes(g.Cols)
	var fault firstError
	parallel(g.Rows, func(lo, hi int) {
		codes := make([]byte, g.Cols)
		for r := lo; r < hi; r++ {
			kernel.GroupCodes(codes, &g.M, r)
			row := dst[r*stride:][:stride]
			for c := 0; c < g.Cols; c, row = c+l.weights, row[l.bytes:] {
				block := codes[c:][:l.weights]
				d, err := g.blockScale(f, block, r, c)
				if err == nil {
					err = f.holds(block, r, c)
				}
				if err != nil {
					fault.report(r, err)
					return
				}
				l.encode(row[:l.bytes], block)
				binary.LittleEndian.PutUint16(row[l.scaleAt:], d)
			}
		}
	})
	if fault.err != nil {
		return nil, fault.err
	}
	return dst, nil
}

// blockScale is the one scale of a block of f at row r, column c; groups of weights 0 alone have any.
func (g *Groups) blockScale(f Format, codes []byte, r, c int) (uint16, error) {
	if g.M.RowScale != nil {
		return toF16(g.M.RowScale[r]), nil
	}
	d := g.M.Scale(r, c)
	for at := 0; at < len(codes); at += g.M.Group {
		e := g.M.Scale(r, c+at)
		if e == d {
			continue
		}
		part := codes[at:min(at+g.M.Group, len(codes))]
		if !slices.ContainsFunc(part, func(v byte) bool { return v != 1 }) {
			continue
		}
		if !slices.ContainsFunc(codes[:at], func(v byte) bool { return v != 1 }) {
			d = e
			continue
		}
		return 0, fmt.Errorf("ternary: %s: row %d has scale %g in front of column %d and %g behind: %w", f, r, f16(d), c+at, f16(e), ErrMixedScales)
	}
	return d, nil
}
