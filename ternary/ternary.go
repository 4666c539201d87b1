// Package ternary holds 1.58-bit weight matrices: absmean quantisation of float masters, and the
// packed byte layouts in which ternary models are published, read straight into the one layout
// that the kernels use (T16) and written back. No float copy of a matrix is ever made on the way.
//
// A ternary weight is value = ŵ·scale with ŵ ∈ {-1, 0, +1}; the code of a weight is ŵ+1.
package ternary

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"sync"

	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/internal/par"
)

var (
	// ErrFormat is wrapped by every complaint about malformed bytes: a wrong length, a scale that is
	// not a positive finite number, a shape that the format cannot hold.
	ErrFormat = errors.New("malformed ternary data")

	// ErrCode3 is wrapped when a 2-bit field holds 3. In Q2_0 and PQ2_0 that is a legal weight of +2
	// (the tensor is not ternary: decode it to float); in every other layout the bytes are damaged or
	// another layout was meant. It also matches ErrFormat.
	ErrCode3 = fmt.Errorf("code 3: %w", ErrFormat)

	// ErrMixedScales is returned when the blocks of one row carry different scales, which a Matrix
	// cannot express. The bytes are fine: Decode gives the float values.
	ErrMixedScales = errors.New("scales differ inside a row")
)

// Matrix is a ternary matrix [Rows, Cols] in T16 layout.
//
// Rows and columns are padded to multiples of 16 with code 1 (weight 0). Tile t (rows 16t..16t+15) and
// step s (columns 16s..16s+15) form a block of 64 bytes at offset (t·(cols16/16) + s)·64. Byte 4r+j of
// it holds in bits 2g and 2g+1 (g = 0..3) the code of row 16t+r, column 16s+4g+j. Read as a
// little-endian uint32, bytes 4r..4r+3 are the 16 columns of one row: a "word" in this package.
type Matrix struct {
	Rows, Cols int
	T16        []byte    // kernel.T16Bytes(Rows, Cols) bytes
	Scale      []float32 // one for the whole matrix, or one per row; finite and > 0
}

// zeroByte is four codes 1: four zero weights.
const zeroByte = 0x55

// newMatrix allocates without setting the codes of real rows; the padding rows are zeros.
func newMatrix(rows, cols int) *Matrix {
	m := &Matrix{Rows: rows, Cols: cols, T16: make([]byte, kernel.T16Bytes(rows, cols))}
	if rows%16 != 0 {
		fill(m.T16[rows/16*m.tileBytes():], zeroByte)
	}
	return m
}

func fill(b []byte, v byte) {
	for i := range b {
		b[i] = v
	}
}

// tileBytes is the size of 16 rows.
func (m *Matrix) tileBytes() int { return (m.Cols + 15) / 16 * 64 }

// row returns the bytes that start with row r's first word; word s is at 64·s.
func (m *Matrix) row(r int) []byte {
	off := r/16*m.tileBytes() + r%16*4
	return m.T16[off : off+m.tileBytes()-60]
}

// setWords stores codes 0..2, a multiple of 16 of them: word w at dst[64·w:].
func setWords(dst, codes []byte) {
	for at := 0; len(codes) >= 16; at, codes = at+64, codes[16:] {
		lo, hi := binary.LittleEndian.Uint64(codes), binary.LittleEndian.Uint64(codes[8:])
		w := lo | hi<<4 // fields 0 and 2 in the lower half, 1 and 3 in the upper
		binary.LittleEndian.PutUint32(dst[at:], uint32(w)|uint32(w>>30))
	}
}

// fillWords stores n words of zero weights.
func fillWords(dst []byte, n int) {
	for w := range n {
		binary.LittleEndian.PutUint32(dst[64*w:], 0x55555555)
	}
}

// getRow writes the codes 0..2 of row r, padding included, to codes (len cols16).
func (m *Matrix) getRow(r int, codes []byte) {
	src := m.row(r)
	for at := 0; len(codes) >= 16; at, codes = at+64, codes[16:] {
		w := binary.LittleEndian.Uint32(src[at:])
		w2 := uint64(w) | uint64(w)<<30
		binary.LittleEndian.PutUint64(codes, w2&0x0303030303030303)
		binary.LittleEndian.PutUint64(codes[8:], w2>>4&0x0303030303030303)
	}
}

// codeBuffer returns room for one row of codes, the padding set to 1.
func (m *Matrix) codeBuffer() []byte {
	b := make([]byte, (m.Cols+15)/16*16)
	fill(b[m.Cols:], 1)
	return b
}

// FromCodes builds a matrix from ŵ ∈ {-1, 0, +1}.
//
//	codes  [rows, cols] row-major
//	scale  1 or rows values, finite and > 0; copied
func FromCodes(codes []int8, rows, cols int, scale []float32) (*Matrix, error) {
	if rows <= 0 || cols <= 0 || len(codes)/cols != rows || len(codes)%cols != 0 {
		return nil, fmt.Errorf("ternary: %d codes for shape [%d, %d]: %w", len(codes), rows, cols, ErrFormat)
	}
	m := newMatrix(rows, cols)
	m.Scale = append([]float32(nil), scale...)
	if err := m.checkScale(); err != nil {
		return nil, err
	}
	var fault firstError
	parallel(rows, func(lo, hi int) {
		buf := m.codeBuffer()
		for r := lo; r < hi; r++ {
			for c, v := range codes[r*cols : (r+1)*cols] {
				if uint8(v+1) > 2 {
					fault.report(r, fmt.Errorf("ternary: weight %d at row %d, column %d is not -1, 0 or +1: %w", v, r, c, ErrFormat))
					return
				}
				buf[c] = byte(v + 1)
			}
			setWords(m.row(r), buf)
		}
	})
	if fault.err != nil {
		return nil, fault.err
	}
	return m, nil
}

// Codes writes every ŵ ∈ {-1, 0, +1}, row-major [Rows, Cols], to dst and returns it.
// A dst that is too short (nil, say) is replaced.
func (m *Matrix) Codes(dst []int8) []int8 {
	n := m.Rows * m.Cols
	if cap(dst) < n {
		dst = make([]int8, n)
	}
	dst = dst[:n]
	parallel(m.Rows, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			m.Row(dst[r*m.Cols:(r+1)*m.Cols], r)
		}
	})
	return dst
}

// Row writes the ŵ ∈ {-1, 0, +1} of row r to dst, which must have Cols elements.
func (m *Matrix) Row(dst []int8, r int) {
	if len(dst) != m.Cols {
		panic(fmt.Sprintf("ternary: Row: %d elements for %d columns", len(dst), m.Cols))
	}
	src := m.row(r)
	for c := range dst {
		b := src[c/16*64+c%4]
		dst[c] = int8(b>>(c%16/4*2)&3) - 1
	}
}

// RowScale returns the scale of row r.
func (m *Matrix) RowScale(r int) float32 {
	if len(m.Scale) == 1 {
		return m.Scale[0]
	}
	return m.Scale[r]
}

// Check reports whether the matrix is whole: sizes that agree, scales that are finite and
// positive, no code 3, padding zero. What this package returns without an error passes, except the
// Quantize functions' result for masters that hold NaN or infinities.
func (m *Matrix) Check() error {
	if m.Rows <= 0 || m.Cols <= 0 || len(m.T16) != kernel.T16Bytes(m.Rows, m.Cols) {
		return fmt.Errorf("ternary: %d bytes for shape [%d, %d]: %w", len(m.T16), m.Rows, m.Cols, ErrFormat)
	}
	if err := m.checkScale(); err != nil {
		return err
	}
	var fault firstError
	parallel((m.Rows+15)/16*16, func(lo, hi int) {
		buf := m.codeBuffer()
		for r := lo; r < hi; r++ {
			m.getRow(r, buf)
			for c, v := range buf {
				switch {
				case (r >= m.Rows || c >= m.Cols) && v != 1:
					fault.report(r, fmt.Errorf("ternary: padding at row %d, column %d is not zero: %w", r, c, ErrFormat))
					return
				case v == 3:
					fault.report(r, fmt.Errorf("ternary: row %d, column %d: %w", r, c, ErrCode3))
					return
				}
			}
		}
	})
	return fault.err
}

func (m *Matrix) checkScale() error {
	if len(m.Scale) != 1 && len(m.Scale) != m.Rows {
		return fmt.Errorf("ternary: %d scales for %d rows: %w", len(m.Scale), m.Rows, ErrFormat)
	}
	for r, s := range m.Scale {
		if !goodScale(s) {
			return fmt.Errorf("ternary: scale %d is %g, want a positive finite number: %w", r, s, ErrFormat)
		}
	}
	return nil
}

func goodScale(s float32) bool { return s > 0 && s <= math.MaxFloat32 }

// firstError collects the complaint about the smallest row from a parallel loop.
type firstError struct {
	mu  sync.Mutex
	row int
	err error
}

func (e *firstError) report(row int, err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.err == nil || row < e.row {
		e.row, e.err = row, err
	}
}

// parallel calls fn for ranges of [0, n) that together cover it, on all cores. Ranges are multiples
// of 16 rows, so that two workers never share a tile.
func parallel(n int, fn func(lo, hi int)) {
	if n <= 16 {
		fn(0, n)
		return
	}
	pool := par.New(0)
	defer pool.Close()
	pool.For(n, 16, fn)
}
