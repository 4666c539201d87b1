package ternary

import "math"

// Exact makes codes of a matrix whose elements are all -1, 0 or 1 times one number, which becomes the scale: 1 where all are
// zero. It returns no matrix where they are not, and the index of the first element that is none.
//
//	w  [rows, cols]
func Exact(w []float32, rows, cols int) (*Matrix, int) {
	checkLen(len(w), rows, cols)
	var scale float32
	for i, v := range w {
		a := float32(math.Abs(float64(v)))
		switch {
		case a == 0:
		case !(a <= math.MaxFloat32) || scale != 0 && a != scale:
			return nil, i
		default:
			scale = a
		}
	}
	if scale == 0 {
		scale = 1
	}
	m := newMatrix(rows, cols)
	m.Scale = []float32{scale}
	codes := make([]byte, (cols+15)/16*16)
	fill(codes, 1)
	for r := range rows {
		for i, v := range w[r*cols:][:cols] {
			codes[i] = 1
			if v > 0 {
				codes[i] = 2
			} else if v < 0 {
				codes[i] = 0
			}
		}
		setWords(m.row(r), codes)
	}
	return m, -1
}
