package weights

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"unsafe"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/safetensors"
	"github.com/tritlm/trit/ternary"
)

func newReaderAt(b []byte) *bytes.Reader { return bytes.NewReader(b) }

// ggmlType is the element type of a safetensors tensor in the words of GGUF, which names more of them.
func ggmlType(d safetensors.DType) gguf.Type {
	switch d {
	case safetensors.F32:
		return gguf.F32
	case safetensors.F16:
		return gguf.F16
	case safetensors.BF16:
		return gguf.BF16
	}
	return gguf.Unknown
}

// Ternary reads the matrix [rows, cols] as codes and scale: unpacked when the file stores codes, quantised by
// absmean when it stores the masters.
func (s *Set) Ternary(name string, rows, cols int) (*ternary.Matrix, error) {
	t := s.find(name)
	if t == nil {
		return nil, s.missing(name)
	}
	m, err := s.ternary(t, name, rows, cols)
	if err != nil {
		return nil, t.errorf(name, "%w", err)
	}
	for i, v := range m.Scale {
		if !(math.Abs(float64(v)) <= math.MaxFloat32) {
			return nil, t.errorf(name, "scale %d is %g: the file is damaged", i, v)
		}
	}
	if len(s.blobs) > 0 && s.blobs[0].unmap != nil {
		release(t.data)
	}
	return m, nil
}

func (s *Set) ternary(t *tensor, name string, rows, cols int) (*ternary.Matrix, error) {
	if s.gguf == nil && t.dtype == safetensors.U8 {
		if packed := (rows + 3) / 4; len(t.shape) != 2 || t.shape[0] != packed || t.shape[1] != cols {
			return nil, fmt.Errorf("has shape %v; the configuration asks for packed [%d %d]", t.shape, packed, cols)
		}
		scale, err := s.scalar(name + "_scale")
		if err != nil {
			return nil, err
		}
		if s.quant.dividesScale() {
			scale = 1 / scale
		}
		return ternary.UnpackHF(t.data, rows, cols, scale)
	}
	if len(t.shape) != 2 || t.shape[0] != rows || t.shape[1] != cols {
		return nil, fmt.Errorf("has shape %v; the configuration asks for [%d %d]", t.shape, rows, cols)
	}
	var m *ternary.Matrix
	var err error
	switch {
	case t.typ == gguf.I2S:
		m, err = ternary.UnpackI2S(t.data, rows, cols, s.i2s)
	case t.typ.IsTernary():
		m, err = ternary.Unpack(t.typ.String(), t.data, rows, cols)
	default:
		w := make([]float32, rows*cols)
		if err := gguf.Dequantize(w, t.typ, t.data); err != nil {
			return nil, err
		}
		return ternary.Quantize(w, rows, cols)
	}
	if err != nil {
		return nil, err
	}
	// The arch "bitnet" of llama.cpp may keep the scale in a tensor of its own.
	if extra, err := s.scalar(name + "_scale"); err == nil {
		for i := range m.Scale {
			m.Scale[i] *= extra
		}
	} else if !errors.Is(err, ErrMissing) {
		return nil, err
	}
	return m, nil
}

// scalar reads a tensor of one element.
func (s *Set) scalar(name string) (float32, error) {
	t := s.find(name)
	if t == nil {
		return 0, s.missing(name)
	}
	n := 1
	for _, d := range t.shape {
		n *= d
	}
	if n != 1 {
		return 0, t.errorf(name, "has shape %v; it must hold one number", t.shape)
	}
	var v [1]float32
	if err := gguf.Dequantize(v[:], t.typ, t.data); err != nil {
		return 0, t.errorf(name, "%w", err)
	}
	if x := float64(v[0]); math.IsNaN(x) || math.IsInf(x, 0) || x == 0 {
		return 0, t.errorf(name, "is %g; a scale is a finite number other than 0", x)
	}
	return v[0], nil
}

// Dense is a matrix in the precision of the file. Exactly one of F32, U16 and Raw is set.
type Dense struct {
	Rows, Cols int
	Type       gguf.Type // F32, F16, BF16, or a block type
	F32        []float32 // F32
	U16        []uint16  // F16, BF16
	Raw        []byte    // block types, row after row
	rowBytes   int
}

// Bytes is what the matrix takes in memory.
func (d *Dense) Bytes() int64 {
	return int64(len(d.F32))*4 + int64(len(d.U16))*2 + int64(len(d.Raw))
}

// Row writes row r as float32.
//
//	dst  [Cols]
func (d *Dense) Row(dst []float32, r int) {
	dst = dst[:d.Cols]
	switch {
	case d.F32 != nil:
		copy(dst, d.F32[r*d.Cols:])
	case d.Type == gguf.BF16:
		for i, v := range d.U16[r*d.Cols:][:d.Cols] {
			dst[i] = math.Float32frombits(uint32(v) << 16)
		}
	case d.Type == gguf.F16:
		b := unsafe.Slice((*byte)(unsafe.Pointer(&d.U16[r*d.Cols])), 2*d.Cols)
		mustDequantize(dst, gguf.F16, b)
	default:
		mustDequantize(dst, d.Type, d.Raw[r*d.rowBytes:][:d.rowBytes])
	}
}

// mustDequantize is for data whose length was checked when it was opened.
func mustDequantize(dst []float32, t gguf.Type, src []byte) {
	if err := gguf.Dequantize(dst, t, src); err != nil {
		panic(err)
	}
}

// Dense reads the matrix [rows, cols] without quantising it. Codes of a ternary type are widened to float16 or float32.
func (s *Set) Dense(name string, rows, cols int) (*Dense, error) {
	t := s.find(name)
	if t == nil {
		return nil, s.missing(name)
	}
	d, err := s.dense(t, rows, cols)
	if err != nil {
		return nil, t.errorf(name, "%w", err)
	}
	return d, nil
}

func (s *Set) dense(t *tensor, rows, cols int) (*Dense, error) {
	if s.gguf == nil && s.ternaryCodes(t) {
		return nil, errors.New("is packed ternary where the configuration has a full-precision matrix")
	}
	if len(t.shape) != 2 || t.shape[0] != rows || t.shape[1] != cols {
		return nil, fmt.Errorf("has shape %v; the configuration asks for [%d %d]", t.shape, rows, cols)
	}
	d := &Dense{Rows: rows, Cols: cols, Type: t.typ}
	switch t.typ {
	case gguf.F32:
		d.F32 = view[float32](t.data, rows*cols)
	case gguf.F16, gguf.BF16:
		d.U16 = view[uint16](t.data, rows*cols)
	default:
		size, err := t.typ.Bytes(cols)
		if err != nil || t.typ.IsTernary() {
			// A whole-tensor layout, or codes: widened once.
			w := make([]float32, rows*cols)
			if err := s.widen(w, t, rows, cols); err != nil {
				return nil, err
			}
			d.Type, d.F32 = gguf.F32, w
			return d, nil
		}
		d.Raw, d.rowBytes = t.data, size
		if len(d.Raw) != rows*size {
			return nil, fmt.Errorf("holds %d bytes; %d rows of %d need %d", len(d.Raw), rows, cols, rows*size)
		}
	}
	return d, nil
}

// widen writes the values of a tensor of ternary codes or of any other readable type.
func (s *Set) widen(dst []float32, t *tensor, rows, cols int) error {
	if !t.typ.IsTernary() {
		return gguf.Dequantize(dst, t.typ, t.data)
	}
	if t.typ != gguf.I2S {
		if err := ternary.Dequantize(dst, t.typ.String(), t.data, rows, cols); err == nil {
			return nil
		}
	}
	m, err := s.ternary(t, "", rows, cols)
	if err != nil {
		return err
	}
	m.Dequantize(dst)
	return nil
}

// view sees n little-endian numbers in b: in place where they are aligned, else copied.
func view[T float32 | uint16](b []byte, n int) []T {
	if n == 0 {
		return []T{}
	}
	var zero T
	size := int(unsafe.Sizeof(zero))
	b = b[:n*size]
	if uintptr(unsafe.Pointer(&b[0]))%uintptr(size) == 0 && littleEndian {
		return unsafe.Slice((*T)(unsafe.Pointer(&b[0])), n)
	}
	v := make([]T, n)
	if _, err := binary.Decode(b, binary.LittleEndian, v); err != nil {
		panic(err) // the lengths were just made equal
	}
	return v
}

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// wholePages cuts b down to the pages that lie wholly inside it.
func wholePages(b []byte, page int) []byte {
	if len(b) == 0 {
		return nil
	}
	start := uintptr(unsafe.Pointer(&b[0]))
	skip := int((uintptr(page) - start%uintptr(page)) % uintptr(page))
	if skip >= len(b) {
		return nil
	}
	b = b[skip:]
	return b[:len(b)/page*page]
}

// chooseI2S decides how the file's i2_s tensors lie: as told, or as the codes of the first one suggest.
func (s *Set) chooseI2S(told string) error {
	switch told {
	case "":
	case "x86":
		s.i2s = ternary.I2SX86
		return nil
	case "arm":
		s.i2s = ternary.I2SARM
		return nil
	case "x4":
		s.i2s = ternary.I2SX4
		return nil
	default:
		return fmt.Errorf("weights: i2_s layout %q is not known; known: x86, arm, x4", told)
	}
	for _, name := range s.names {
		if t := s.tensors[name]; t.typ == gguf.I2S && len(t.shape) == 2 {
			s.i2s = ternary.GuessI2S(t.data, t.shape[0], t.shape[1])
			return nil
		}
	}
	return nil
}
