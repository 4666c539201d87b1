package ternary

import (
	"encoding/binary"
	"fmt"
)

// UnpackHF reads the packed uint8 weights of a Hugging Face BitNet checkpoint.
//
//	src    [ceil(rows/4), cols] uint8; with R = ceil(rows/4), bits 2i and 2i+1 of src[r][c] are
//	       the code of row i·R + r, column c: rows that share a byte are R apart, not neighbours
//	scale  the value of a weight +1. Checkpoints store it either so (linear_class "autobitlinear")
//	       or inverted (any other: pass 1/weight_scale)
//
// Fields past the last row are ignored. Source: transformers integrations/bitnet.py, pack_weights.
func UnpackHF(src []byte, rows, cols int, scale float32) (*Matrix, error) {
	if rows <= 0 || cols <= 0 || len(src)/cols != (rows+3)/4 || len(src)%cols != 0 {
		return nil, fmt.Errorf("ternary: hf: %d bytes for shape [%d, %d], want [%d, %d] of uint8: %w",
			len(src), rows, cols, (rows+3)/4, cols, ErrFormat)
	}
	m := newMatrix(rows, cols)
	m.Scale = []float32{scale}
	if err := m.checkScale(); err != nil {
		return nil, err
	}
	quarter := (rows + 3) / 4
	var fault firstError
	parallel(quarter, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			packed := src[r*cols:][:cols]
			var dst [4][]byte
			for i := 0; i < 4 && i*quarter+r < rows; i++ {
				dst[i] = m.row(i*quarter + r)
			}
			if wordsRows(&dst, packed) == 0 {
				continue
			}
			for i, d := range dst {
				for c, b := range packed {
					if d != nil && b>>(2*i)&3 == 3 {
						row := i*quarter + r
						fault.report(row, fmt.Errorf("ternary: hf: row %d, column %d (byte %d): %w", row, c, r*cols+c, ErrCode3))
						return
					}
				}
			}
		}
	})
	if fault.err != nil {
		return nil, fault.err
	}
	return m, nil
}

// PackHF is the inverse of UnpackHF. The scale, which a checkpoint stores as a tensor of its own, is
// the caller's to write; a matrix with a scale per row cannot be expressed and is refused.
func PackHF(m *Matrix) ([]byte, error) {
	if len(m.Scale) != 1 {
		return nil, fmt.Errorf("ternary: hf: one scale per matrix, not %d: %w", len(m.Scale), ErrMixedScales)
	}
	quarter := (m.Rows + 3) / 4
	dst := make([]byte, quarter*m.Cols)
	parallel(quarter, func(lo, hi int) {
		buf := m.codeBuffer()
		for r := lo; r < hi; r++ {
			packed := dst[r*m.Cols:][:m.Cols]
			for i := 0; i < 4 && i*quarter+r < m.Rows; i++ {
				m.getRow(i*quarter+r, buf)
				orField(packed, buf, uint(2*i))
			}
		}
	})
	return dst, nil
}

// field writes the 2-bit field at shift of every byte of src to dst.
func field(dst, src []byte, shift uint) {
	const mask = 0x0303030303030303
	dst = dst[:len(src)]
	for ; len(src) >= 8; src, dst = src[8:], dst[8:] {
		binary.LittleEndian.PutUint64(dst, binary.LittleEndian.Uint64(src)>>(shift&7)&mask)
	}
	for i, b := range src {
		dst[i] = b >> (shift & 7) & 3
	}
}

// orField adds codes at shift to every byte of dst.
func orField(dst, codes []byte, shift uint) {
	codes = codes[:len(dst)]
	for ; len(dst) >= 8; dst, codes = dst[8:], codes[8:] {
		binary.LittleEndian.PutUint64(dst, binary.LittleEndian.Uint64(dst)|binary.LittleEndian.Uint64(codes)<<(shift&7))
	}
	for i := range dst {
		dst[i] |= codes[i] << (shift & 7)
	}
}

// code3 is the index of the first code 3.
func code3(codes []byte) int {
	for c, v := range codes {
		if v == 3 {
			return c
		}
	}
	return -1
}
