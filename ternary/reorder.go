package ternary

// Reorder puts row from(r) of the matrix in the place of row r, for every row.
func (m *Matrix) Reorder(from func(r int) int) {
	const block, word = 64, 4 // a row has 4 bytes in every block of its tile
	tile := m.tileBytes()
	out := make([]byte, len(m.T16))
	copy(out, m.T16) // the padding rows stay
	scale := m.Scale
	if len(scale) > 1 {
		m.Scale = make([]float32, len(scale))
	}
	for r := range m.Rows {
		f := from(r)
		src, dst := m.T16[f/16*tile:][:tile], out[r/16*tile:][:tile]
		for at := 0; at < tile; at += block {
			copy(dst[at+r%16*word:][:word], src[at+f%16*word:])
		}
		if len(scale) > 1 {
			m.Scale[r] = scale[f]
		}
	}
	m.T16 = out
}
