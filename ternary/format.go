package ternary

import (
	"encoding/binary"
	"fmt"
	"math"
)

// Format names a packed layout of ternary weights in a file. The names are ggml's.
type Format uint8

// The layouts, with the bytes of a block and the multiple that cols must be.
const (
	I2SX86    Format = iota + 1 // bitnet.cpp I2_S as its x86 build writes it (and the published files): 128 weights, 32 bytes, one float32 scale behind the tensor
	I2SARM                      // the same type number written by its ARM build: 64 weights, 16 bytes
	I2SX4                       // the same again from its x86 build without ACT_PARALLEL: 4 rows interleaved
	TQ1_0                       // llama.cpp: 256 weights in 54 bytes, 5 trits a byte, f16 scale a block
	TQ2_0                       // llama.cpp: 256 weights in 66 bytes, f16 scale a block
	Q2_0                        // llama.cpp: 64 weights in 18 bytes, f16 scale a block; code 3 is +2
	Q2_0G128                    // Prism's earlier file under the number of Q2_0: 128 weights in 34 bytes
	PQ2_0                       // Prism: the bytes of Q2_0G128 under a number of its own
	PTQ1_0                      // Prism: 128 weights in 28 bytes, 5 trits a byte, f16 scale a block
	IQ1_BN                      // ik_llama.cpp: rows of an f16 scale and blocks of 64 weights in 13 bytes
	IQ2_BN                      // ik_llama.cpp: rows of a float32 scale and blocks of 64 weights in 16 bytes
	IQ2_BN_R4                   // ik_llama.cpp: IQ2_BN with 4 rows interleaved
	Q1_0                        // llama.cpp: 128 weights in 18 bytes, f16 scale a block; binary, -1 or +1
	STQ1_0                      // llama.cpp, Sherry: 256 weights in 42 bytes, f16 scale a block; one of four weights is 0
)

// layout describes a Format. Exactly one of the three scale positions is used.
type layout struct {
	name    string
	weights int  // of a block; cols is a multiple of it
	bytes   int  // of a block, its own scale included
	scaleAt int  // offset of the f16 scale in a block, or -1
	prefix  int  // bytes of the scale in front of a row: 0, 2 (f16) or 4 (float32)
	tail    int  // bytes behind the tensor: 0, or 32 with a float32 scale in the first 4
	four    bool // rows come interleaved in groups of four: unpackFour and packFour instead of the functions below
	plus2   bool // code 3 is legal

	// decode writes the codes of one block (scale bytes are ignored), encode is its inverse and
	// finds dst zeroed. Both see exactly weights codes and bytes bytes.
	decode func(codes, src []byte)
	encode func(dst, codes []byte)

	// cannot, where a layout does not hold all codes, is the first of a block that it does not hold, or -1.
	cannot func(codes []byte) int

	// words, where a layout has it, is decode straight to T16: word w at dst[64·w:]. A bit of the
	// result is set for each code 3.
	words func(dst, src []byte) (bad uint64)
}

var layouts = [...]layout{
	I2SX86:    {name: "i2_s (x86)", weights: 128, bytes: 32, scaleAt: -1, tail: 32, decode: decodeI2S, encode: encodeI2S, words: wordsI2S},
	I2SARM:    {name: "i2_s (arm)", weights: 64, bytes: 16, scaleAt: -1, tail: 32, decode: decodeI2S, encode: encodeI2S, words: wordsI2S},
	I2SX4:     {name: "i2_s (x4)", weights: 1, scaleAt: -1, tail: 32, four: true},
	TQ1_0:     {name: "tq1_0", weights: 256, bytes: 54, scaleAt: 52, decode: decodeTQ1, encode: encodeTQ1},
	TQ2_0:     {name: "tq2_0", weights: 256, bytes: 66, scaleAt: 64, decode: decodeTQ2, encode: encodeTQ2, words: wordsTQ2},
	Q2_0:      {name: "q2_0", weights: 64, bytes: 18, scaleAt: 0, plus2: true, decode: decodeQ2, encode: encodeQ2, words: wordsQ2},
	Q2_0G128:  {name: "q2_0 (128-weight blocks)", weights: 128, bytes: 34, scaleAt: 0, plus2: true, decode: decodeQ2, encode: encodeQ2, words: wordsQ2},
	PQ2_0:     {name: "pq2_0", weights: 128, bytes: 34, scaleAt: 0, plus2: true, decode: decodeQ2, encode: encodeQ2, words: wordsQ2},
	PTQ1_0:    {name: "ptq1_0", weights: 128, bytes: 28, scaleAt: 26, decode: decodePTQ1, encode: encodePTQ1},
	IQ1_BN:    {name: "iq1_bn", weights: 64, bytes: 13, scaleAt: -1, prefix: 2, decode: decodeIQ1BN, encode: encodeIQ1BN},
	IQ2_BN:    {name: "iq2_bn", weights: 64, bytes: 16, scaleAt: -1, prefix: 4, decode: decodeIQ2BN, encode: encodeIQ2BN, words: wordsIQ2BN},
	IQ2_BN_R4: {name: "iq2_bn_r4", weights: 64, bytes: 16, scaleAt: -1, prefix: 4, four: true},
	Q1_0:      {name: "q1_0", weights: 128, bytes: 18, scaleAt: 0, decode: decodeQ1, encode: encodeQ1, cannot: notBinary},
	STQ1_0:    {name: "stq1_0", weights: 256, bytes: 42, scaleAt: 40, decode: decodeSTQ1, encode: encodeSTQ1, cannot: notSparse},
}

func (f Format) layout() *layout {
	if f == 0 || int(f) >= len(layouts) {
		panic(fmt.Sprintf("ternary: Format(%d)", f))
	}
	return &layouts[f]
}

// String returns the name that error messages use.
func (f Format) String() string {
	if f == 0 || int(f) >= len(layouts) {
		return fmt.Sprintf("Format(%d)", uint8(f))
	}
	return layouts[f].name
}

// Block is what the number of columns must be a multiple of.
func (f Format) Block() int { return f.layout().weights }

// Size returns the bytes of a matrix [rows, cols], or an error when the layout cannot hold that shape.
func (f Format) Size(rows, cols int) (int, error) {
	l := f.layout()
	if rows <= 0 || cols <= 0 {
		return 0, fmt.Errorf("ternary: %s: shape [%d, %d]: %w", f, rows, cols, ErrFormat)
	}
	if cols%l.weights != 0 {
		return 0, fmt.Errorf("ternary: %s: %d columns is not a multiple of %d: %w", f, cols, l.weights, ErrFormat)
	}
	if l.four && rows%4 != 0 {
		return 0, fmt.Errorf("ternary: %s: %d rows is not a multiple of 4: %w", f, rows, ErrFormat)
	}
	if cols > math.MaxInt/128 || rows > (math.MaxInt-64)/(cols+64) {
		return 0, fmt.Errorf("ternary: %s: shape [%d, %d] is too large: %w", f, rows, cols, ErrFormat)
	}
	if f == I2SX4 {
		return rows/4*cols + l.tail, nil
	}
	return rows*l.rowBytes(cols) + l.tail, nil
}

func (l *layout) rowBytes(cols int) int { return l.prefix + cols/l.weights*l.bytes }

// check verifies that src is a whole matrix.
func (f Format) check(src []byte, rows, cols int) error {
	size, err := f.Size(rows, cols)
	if err != nil {
		return err
	}
	if len(src) != size {
		return fmt.Errorf("ternary: %s: %d bytes for shape [%d, %d], want %d: %w", f, len(src), rows, cols, size, ErrFormat)
	}
	return nil
}

// Unpack reads a matrix [rows, cols] that src holds, whole, in layout f.
//
// Scales are collapsed to one when all rows agree. A block (or row) whose scale is 0 holds zeros
// whatever its codes say, as writers leave it for an all-zero block, and takes the scale of its
// neighbours. Errors name the row, column and byte; see ErrFormat, ErrCode3 and ErrMixedScales.
func Unpack(src []byte, f Format, rows, cols int) (*Matrix, error) {
	if err := f.check(src, rows, cols); err != nil {
		return nil, err
	}
	l := f.layout()
	m := newMatrix(rows, cols)
	if l.tail != 0 {
		at := len(src) - l.tail
		s := math.Float32frombits(binary.LittleEndian.Uint32(src[at:]))
		if !goodScale(s) {
			return nil, fmt.Errorf("ternary: %s: scale at byte %d is %g, want a positive finite number: %w", f, at, s, ErrFormat)
		}
		m.Scale = []float32{s}
	} else {
		m.Scale = make([]float32, rows)
	}
	var fault firstError
	parallel(rows, func(lo, hi int) {
		buf := m.codeBuffer()
		for r := lo; r < hi; r++ {
			var err error
			if !l.four {
				err = f.unpackRow(m, src, r, buf)
			} else if r%4 == 0 {
				err = f.unpackFour(m, src, r, buf)
			}
			if err != nil {
				fault.report(r, err)
				return
			}
		}
	})
	if fault.err != nil {
		return nil, fault.err
	}
	m.collapseScales()
	return m, nil
}

// unpackFour decodes rows r..r+3 of a layout that interleaves them.
func (f Format) unpackFour(m *Matrix, src []byte, r int, buf []byte) error {
	rows := [4][]byte{m.row(r), m.row(r + 1), m.row(r + 2), m.row(r + 3)}
	stride := m.Cols // bytes of four rows
	var bad uint64
	if f == I2SX4 { // a byte for each column, row r in the top bits
		src = src[r/4*stride:][:stride]
		bad = wordsRows(&[4][]byte{rows[3], rows[2], rows[1], rows[0]}, src)
	} else { // IQ2_BN_R4: four scales, then the words of T16, row by row within a step
		stride = 4 * f.layout().rowBytes(m.Cols)
		src = src[r/4*stride:][:stride]
		for i := range rows {
			m.Scale[r+i] = readScale(src[4*i:][:4])
			if s := m.Scale[r+i]; s != 0 && !goodScale(s) {
				return fmt.Errorf("ternary: %s: scale of row %d (byte %d) is %g, want a positive finite number: %w", f, r+i, r/4*stride+4*i, s, ErrFormat)
			}
		}
		for at, words := 0, src[16:]; len(words) >= 16; at, words = at+64, words[16:] {
			for i, row := range rows {
				w := uint32(0x55555555)
				if m.Scale[r+i] != 0 {
					w = binary.LittleEndian.Uint32(words[4*i:])
				}
				binary.LittleEndian.PutUint32(row[at:], w)
				bad |= uint64(w & (w >> 1) & 0x55555555)
			}
		}
	}
	if bad == 0 {
		return nil
	}
	for i := range rows {
		m.getRow(r+i, buf)
		if c := code3(buf[:m.Cols]); c >= 0 {
			at := r / 4 * stride
			if f == I2SX4 {
				at += c
			}
			return f.codeError(r+i, c, at)
		}
	}
	panic("ternary: a code 3 that is nowhere")
}

// packFour is its inverse.
func (f Format) packFour(dst []byte, m *Matrix, r int, buf []byte) {
	if f == I2SX4 {
		dst = dst[r/4*m.Cols:][:m.Cols]
		for i := range 4 {
			m.getRow(r+i, buf)
			orField(dst, buf, uint(6-2*i))
		}
		return
	}
	dst = dst[r*f.layout().rowBytes(m.Cols):]
	for i := range 4 {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(m.RowScale(r+i)))
		row := m.row(r + i)
		for s := range m.Cols / 16 {
			copy(dst[16+16*s+4*i:][:4], row[64*s:])
		}
	}
}

// unpackRow decodes one row of a format that stores rows one after another. buf has room for its codes.
func (f Format) unpackRow(m *Matrix, src []byte, r int, buf []byte) error {
	l := f.layout()
	stride := l.rowBytes(m.Cols)
	row, dst := src[r*stride:][:stride], m.row(r)
	var scale float32
	if l.prefix != 0 {
		if scale = readScale(row[:l.prefix]); scale == 0 {
			fillWords(dst, (m.Cols+15)/16)
			return nil
		}
		if !goodScale(scale) {
			return fmt.Errorf("ternary: %s: scale of row %d (byte %d) is %g, want a positive finite number: %w", f, r, r*stride, scale, ErrFormat)
		}
	}
	for b := 0; b < m.Cols/l.weights; b++ {
		at := l.prefix + b*l.bytes
		block := row[at:][:l.bytes]
		words := dst[b*l.weights*4:]
		if l.scaleAt >= 0 {
			s := readScale(block[l.scaleAt:][:2])
			switch {
			case s == 0:
				fillWords(words, l.weights/16)
				continue
			case !goodScale(s):
				return fmt.Errorf("ternary: %s: scale of row %d, block %d (byte %d) is %g, want a positive finite number: %w",
					f, r, b, r*stride+at+l.scaleAt, s, ErrFormat)
			case scale == 0:
				scale = s
			case s != scale:
				return fmt.Errorf("ternary: %s: row %d has scale %g in front of column %d and %g behind: %w", f, r, scale, b*l.weights, s, ErrMixedScales)
			}
		}
		if l.words == nil {
			codes := buf[:l.weights]
			l.decode(codes, block) // base 3: no code 3
			setWords(words, codes)
		} else if l.words(words, block) != 0 {
			codes := buf[:l.weights]
			l.decode(codes, block)
			return f.codeError(r, b*l.weights+code3(codes), r*stride+at)
		}
	}
	if l.tail == 0 {
		m.Scale[r] = scale
	}
	return nil
}

func (f Format) codeError(r, c, at int) error {
	if f.layout().plus2 {
		return fmt.Errorf("ternary: %s: row %d, column %d (block at byte %d) is +2, so this tensor is not ternary: %w", f, r, c, at, ErrCode3)
	}
	return fmt.Errorf("ternary: %s: row %d, column %d (block at byte %d): %w", f, r, c, at, ErrCode3)
}

func readScale(b []byte) float32 {
	if len(b) == 2 {
		return f16(binary.LittleEndian.Uint16(b))
	}
	return math.Float32frombits(binary.LittleEndian.Uint32(b))
}

// collapseScales gives rows without a scale (0) the first one there is, else 1, and keeps one scale
// where all rows agree.
func (m *Matrix) collapseScales() {
	var first float32 = 1
	for _, s := range m.Scale {
		if s != 0 {
			first = s
			break
		}
	}
	same := true
	for r, s := range m.Scale {
		if s == 0 {
			m.Scale[r] = first
		} else if s != first {
			same = false
		}
	}
	if same {
		m.Scale = []float32{first}
	}
}

// Pack writes m in layout f, the inverse of Unpack. Scales are rounded to the layout's type (f16 in
// most); a layout with one scale per tensor refuses a matrix with one per row, and a scale that
// becomes 0 or infinite is refused.
func Pack(m *Matrix, f Format) ([]byte, error) {
	size, err := f.Size(m.Rows, m.Cols)
	if err != nil {
		return nil, err
	}
	if err := m.checkScale(); err != nil {
		return nil, err
	}
	l := f.layout()
	half := l.scaleAt >= 0 || l.prefix == 2
	for r, s := range m.Scale {
		if half && !goodScale(f16(toF16(s))) {
			return nil, fmt.Errorf("ternary: %s: scale %g of row %d does not fit float16: %w", f, s, r, ErrFormat)
		}
	}
	dst := make([]byte, size)
	if l.tail != 0 {
		if len(m.Scale) != 1 {
			return nil, fmt.Errorf("ternary: %s: one scale per matrix, not %d: %w", f, len(m.Scale), ErrMixedScales)
		}
		binary.LittleEndian.PutUint32(dst[size-l.tail:], math.Float32bits(m.Scale[0]))
	}
	var fault firstError
	parallel(m.Rows, func(lo, hi int) {
		buf := m.codeBuffer()
		for r := lo; r < hi; r++ {
			if l.four {
				if r%4 == 0 {
					f.packFour(dst, m, r, buf)
				}
				continue
			}
			m.getRow(r, buf)
			stride := l.rowBytes(m.Cols)
			row := dst[r*stride:][:stride]
			switch l.prefix {
			case 2:
				binary.LittleEndian.PutUint16(row, toF16(m.RowScale(r)))
			case 4:
				binary.LittleEndian.PutUint32(row, math.Float32bits(m.RowScale(r)))
			}
			row = row[l.prefix:]
			for codes := buf; len(row) > 0; codes, row = codes[l.weights:], row[l.bytes:] {
				if err := f.holds(codes[:l.weights], r, m.Cols/l.weights*l.weights-len(row)/l.bytes*l.weights); err != nil {
					fault.report(r, err)
					return
				}
				l.encode(row[:l.bytes], codes[:l.weights])
				if l.scaleAt >= 0 {
					binary.LittleEndian.PutUint16(row[l.scaleAt:], toF16(m.RowScale(r)))
				}
			}
		}
	})
	if fault.err != nil {
		return nil, fault.err
	}
	return dst, nil
}

// holds says whether the layout can write a block, at row r and column c.
func (f Format) holds(codes []byte, r, c int) error {
	l := f.layout()
	if l.cannot == nil {
		return nil
	}
	if i := l.cannot(codes); i >= 0 {
		return fmt.Errorf("ternary: %s: row %d, column %d: the layout cannot hold the weight %d there: %w", f, r, c+i, int(codes[i])-1, ErrFormat)
	}
	return nil
}

// Decode writes the float values of a matrix [rows, cols] in layout f, for tensors that no Matrix can
// hold: scales that differ inside a row, weights of +2 in Q2_0 and PQ2_0.
//
//	dst  [rows, cols] float32, row-major
func Decode(dst []float32, src []byte, f Format, rows, cols int) error {
	if err := f.check(src, rows, cols); err != nil {
		return err
	}
	if len(dst) != rows*cols {
		panic(fmt.Sprintf("ternary: Decode: %d floats for shape [%d, %d]", len(dst), rows, cols))
	}
	l := f.layout()
	if l.tail != 0 || l.four { // one scale for at least a row, no code 3
		m, err := Unpack(src, f, rows, cols)
		if err != nil {
			return err
		}
		m.Float(dst)
		return nil
	}
	var fault firstError
	stride := l.rowBytes(cols)
	parallel(rows, func(lo, hi int) {
		codes := make([]byte, l.weights)
		for r := lo; r < hi; r++ {
			row, out := src[r*stride:][:stride], dst[r*cols:][:cols]
			scale := float32(0)
			if l.prefix != 0 {
				scale = readScale(row[:l.prefix])
			}
			for at := l.prefix; at < stride; at += l.bytes {
				block := row[at:][:l.bytes]
				l.decode(codes, block)
				if l.scaleAt >= 0 {
					scale = f16(binary.LittleEndian.Uint16(block[l.scaleAt:]))
				}
				if math.IsNaN(float64(scale)) || math.IsInf(float64(scale), 0) {
					fault.report(r, fmt.Errorf("ternary: %s: scale of row %d (block at byte %d) is %g: %w", f, r, r*stride+at, scale, ErrFormat))
					return
				}
				for i, c := range codes {
					if c == 3 && !l.plus2 {
						col := (at-l.prefix)/l.bytes*l.weights + i
						fault.report(r, f.codeError(r, col, r*stride+at))
						return
					}
					out[i] = float32(int(c)-1) * scale
				}
				out = out[l.weights:]
			}
		}
	})
	return fault.err
}

// Float writes the values ŵ·scale, row-major [Rows, Cols].
func (m *Matrix) Float(dst []float32) {
	if len(dst) != m.Rows*m.Cols {
		panic(fmt.Sprintf("ternary: Float: %d floats for shape [%d, %d]", len(dst), m.Rows, m.Cols))
	}
	parallel(m.Rows, func(lo, hi int) {
		buf := m.codeBuffer()
		for r := lo; r < hi; r++ {
			m.getRow(r, buf)
			s := m.RowScale(r)
			for c, v := range buf[:m.Cols] {
				dst[r*m.Cols+c] = float32(int(v)-1) * s
			}
		}
	})
}
