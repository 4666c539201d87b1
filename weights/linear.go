package weights

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"runtime/debug"
	"unsafe"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/internal/mapped"
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
	return noType
}

// noType is no storage type of ggml's: Dequantize refuses it by number.
const noType gguf.Type = 1<<32 - 1

// ternaryFormats are the storage types that hold ternary codes. I2_S has three layouts: see chooseI2S.
var ternaryFormats = map[gguf.Type]ternary.Format{
	gguf.I2_S:     ternary.I2SX86,
	gguf.TQ1_0:    ternary.TQ1_0,
	gguf.TQ2_0:    ternary.TQ2_0,
	gguf.Q2_0:     ternary.Q2_0,
	gguf.Q2_0G128: ternary.Q2_0G128,
	gguf.PQ2_0:    ternary.PQ2_0,
	gguf.PTQ1_0:   ternary.PTQ1_0,
	gguf.IQ1_BN:   ternary.IQ1_BN,
	gguf.IQ2_BN:   ternary.IQ2_BN,

	gguf.IQ2_BN_R4: ternary.IQ2_BN_R4,
	gguf.Q1_0:      ternary.Q1_0,
}

// format is the layout of a tensor's codes; ok is false when it holds none.
func (s *Set) format(t *tensor) (f ternary.Format, ok bool) {
	if t.typ == gguf.I2_S && s.i2s != 0 {
		return s.i2s, true
	}
	f, ok = ternaryFormats[t.typ]
	return f, ok
}

// Ternary reads the matrix [rows, cols] as codes and scale: unpacked when the file stores codes, quantised by
// absmean when it stores the masters.
func (s *Set) Ternary(name string, rows, cols int) (_ *ternary.Matrix, err error) {
	defer mapped.Recover(debug.SetPanicOnFault(true), &err)
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
	if hd := s.ropeHead(name); hd > 1 && rows%hd == 0 && hd%2 == 0 {
		m.Reorder(func(r int) int { return RopeRow(r, hd) })
	}
	if len(s.blobs) > 0 && s.blobs[0].file != nil {
		mapped.Release(t.data)
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
	f, ok := s.format(t)
	if !ok {
		m, err := s.masters(t, name, rows, cols)
		if err != nil {
			return nil, err
		}
		if err := m.Check(); err != nil {
			return nil, fmt.Errorf("quantised: %w; the masters are damaged", err)
		}
		return m, nil
	}
	m, err := ternary.Unpack(t.data, f, rows, cols)
	if err != nil {
		return nil, err
	}
	if err := t.exact(m); err != nil {
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

// Groups reads the matrix [rows, cols] of codes with a scale for each group of columns, for products of weights alone.
func (s *Set) Groups(name string, rows, cols int) (_ *ternary.Groups, err error) {
	defer mapped.Recover(debug.SetPanicOnFault(true), &err)
	t := s.find(name)
	if t == nil {
		return nil, s.missing(name)
	}
	g, err := s.groups(t, name, rows, cols)
	if err != nil {
		return nil, t.errorf(name, "%w", err)
	}
	if len(s.blobs) > 0 && s.blobs[0].file != nil {
		mapped.Release(t.data)
	}
	return g, nil
}

func (s *Set) groups(t *tensor, name string, rows, cols int) (*ternary.Groups, error) {
	if a, err := s.affineOf(name); err != nil {
		return nil, err
	} else if a != nil {
		if a.rows != rows || a.cols != cols {
			return nil, fmt.Errorf("has shape [%d %d]; the configuration asks for [%d %d]", a.rows, a.cols, rows, cols)
		}
		return a.groups()
	}
	if len(t.shape) != 2 || t.shape[0] != rows || t.shape[1] != cols {
		return nil, fmt.Errorf("has shape %v; the configuration asks for [%d %d]", t.shape, rows, cols)
	}
	f, ok := s.format(t)
	if !ok || !f.Grouped() {
		return nil, fmt.Errorf("is stored as %s, which has no scales of groups", t.typ)
	}
	data := t.data
	if hd := s.ropeHead(name); hd > 1 && rows%hd == 0 && hd%2 == 0 {
		data = reorder(data, len(data)/rows, hd)
	}
	return ternary.UnpackGroups(data, f, rows, cols)
}

// MixedScales says whether the tensor is stored as codes whose blocks have scales that differ within a row.
func (s *Set) MixedScales(name string) bool {
	t := s.find(name)
	if t == nil || len(t.shape) != 2 || !s.IsGrouped(name) {
		return false
	}
	f, _ := s.format(t)
	_, err := ternary.Unpack(t.data, f, t.shape[0], t.shape[1])
	return errors.Is(err, ternary.ErrMixedScales)
}

// IsGrouped says whether the tensor is stored as codes with a scale for each block of columns.
func (s *Set) IsGrouped(name string) bool {
	if a, err := s.affineOf(name); err == nil && a != nil {
		return a.grouped()
	}
	if t := s.find(name); t != nil {
		f, ok := s.format(t)
		return ok && f.Grouped()
	}
	return false
}

// masters makes codes of floats: by absmean, or as they are where quantization_config says that they are codes already, which
// weight_scale multiplies. Source: transformers integrations/bitnet.py, AutoBitLinear.
func (s *Set) masters(t *tensor, name string, rows, cols int) (*ternary.Matrix, error) {
	if s.gguf != nil || s.quant == nil || s.quant.Class() != "autobitlinear" || s.quant.Online() {
		return quantize(t, rows, cols)
	}
	scale, err := s.scalar(name + "_scale")
	if err != nil {
		return nil, err
	}
	w := make([]float32, rows*cols)
	if err := t.floats(w); err != nil {
		return nil, err
	}
	m, i := ternary.Exact(w, rows, cols)
	if m == nil {
		return nil, fmt.Errorf("element %d is %g: quantization_mode is offline, so that all of them must be -1, 0 or 1 times one number", i, w[i])
	}
	m.Scale[0] *= scale
	return m, nil
}

// quantize makes codes of masters.
func quantize(t *tensor, rows, cols int) (*ternary.Matrix, error) {
	switch t.typ {
	case gguf.BF16:
		return ternary.QuantizeBF16(view[uint16](t.data, rows*cols), rows, cols), nil
	case gguf.F16:
		return ternary.QuantizeF16(view[uint16](t.data, rows*cols), rows, cols), nil
	case gguf.F32:
		return ternary.Quantize(view[float32](t.data, rows*cols), rows, cols), nil
	}
	w := make([]float32, rows*cols)
	if err := t.floats(w); err != nil {
		return nil, err
	}
	return ternary.Quantize(w, rows, cols), nil
}

// FloatType is a type that keeps the numbers of a tensor as they are: its own, or of codes that of floats. F32 where it is
// not there.
func (s *Set) FloatType(name string) gguf.Type {
	t := s.find(name)
	switch {
	case s.IsGrouped(name) && !s.MLX(): // a float16 for each block
		return gguf.F16
	case t == nil || t.typ == noType || s.ternaryCodes(t):
		return gguf.F32
	}
	return t.typ
}

// floats reads the whole tensor as float32.
func (t *tensor) floats(dst []float32) error {
	if t.typ == noType {
		return fmt.Errorf("is stored as %s; F32, F16 or BF16 is needed here", t.dtype)
	}
	if t.data == nil {
		return errors.New("is yet to be written")
	}
	return gguf.Dequantize(dst, t.typ, t.data)
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
	if err := t.floats(v[:]); err != nil {
		return 0, t.errorf(name, "%w", err)
	}
	if x := float64(v[0]); math.IsNaN(x) || math.IsInf(x, 0) || x == 0 {
		return 0, t.errorf(name, "is %g; a scale is a finite number other than 0", x)
	}
	return v[0], nil
}

// NotFinite looks for a NaN or an infinity among the numbers that the files hold as floats, reading all of them, and gives an
// error that names the first: its file, tensor and place. It is nil when there is none.
func (s *Set) NotFinite() error {
	for _, name := range s.names {
		t := s.tensors[name]
		if t.typ == noType || s.ternaryCodes(t) {
			continue
		}
		cols := 1
		if len(t.shape) > 0 {
			cols = t.shape[len(t.shape)-1]
		}
		size, err := t.typ.Size(cols)
		if err != nil || size <= 0 {
			continue // no floats
		}
		row := make([]float32, cols)
		for r := 0; (r+1)*int(size) <= len(t.data); r++ {
			if gguf.Dequantize(row, t.typ, t.data[r*int(size):][:size]) != nil {
				break
			}
			for c, v := range row {
				if x := float64(v); math.IsNaN(x) || math.IsInf(x, 0) {
					return t.errorf(name, "row %d, column %d is %g: the file is damaged, or was written from damaged weights", r, c, x)
				}
			}
		}
	}
	return nil
}

// Dense is a matrix in the precision of the file. Exactly one of F32, U16 and Raw is set.
type Dense struct {
	Rows, Cols int
	Type       gguf.Type      // F32, F16, BF16, or a block type
	F32        []float32      // F32
	U16        []uint16       // F16, BF16
	Raw        []byte         // block types, row after row
	format     ternary.Format // of Raw where it holds codes with a scale for each block, else 0
	affine     *affine        // of Raw that MLX has written, else nil
	rowBytes   int
	mapped     []byte       // the same bytes in the file's mapping, when that is where they are
	file       *mapped.File // and in the file, from at, when ReadRow is to take them from there
	at         int64
}

// Bytes is what the matrix takes in memory.
func (d *Dense) Bytes() int64 {
	return int64(len(d.F32))*4 + int64(len(d.U16))*2 + int64(len(d.Raw))
}

// Row writes row r as float32.
//
//	dst  [Cols]
func (d *Dense) Row(dst []float32, r int) {
	d.Widen(dst, d.stored(r))
}

// stored is row r where it lies in memory.
func (d *Dense) stored(r int) []byte {
	n := d.RowBytes()
	switch {
	case d.F32 != nil:
		return unsafe.Slice((*byte)(unsafe.Pointer(&d.F32[r*d.Cols])), n)
	case d.U16 != nil:
		return unsafe.Slice((*byte)(unsafe.Pointer(&d.U16[r*d.Cols])), n)
	}
	return d.Raw[r*n:][:n]
}

// RowBuffer is room for what ReadRow gives.
func RowBuffer(d *Dense) []byte {
	b := make([]uint64, d.RowBytes()/8+1)
	return unsafe.Slice((*byte)(unsafe.Pointer(&b[0])), 8*len(b))
}

// RowBytes is the size of a row in the precision of the file.
func (d *Dense) RowBytes() int { return int(d.Bytes() / int64(d.Rows)) }

// Scatter says that from now on single rows will be read, here and there.
func (d *Dense) Scatter() {
	if d.file != nil {
		scattered(d.file.Handle)
	}
}

// ReadRow gives row r in the precision of the file: RowBytes bytes in this machine's order, which are valid as long as
// buf is. Where it can, it reads them from the file into buf: rows read through the mapping, here and there, would each
// bring their neighbours into this process's memory, and cost more than being copied. A row that is not in the file any
// more is a fault, which mapped.Recover makes an error of.
//
//	buf  at least RowBytes, aligned to 4 bytes
func (d *Dense) ReadRow(buf []byte, r int) []byte {
	n := d.RowBytes()
	if d.file == nil {
		return d.stored(r)
	}
	if at := d.at + int64(r)*int64(n); !readAt(d.file.Handle, buf[:n], at) {
		if _, err := d.file.Handle.ReadAt(buf[:n], at); err != nil { // else it was a signal that came between
			d.file.ReadFailed(at, err)
		}
	}
	return buf[:n]
}

// Widen writes a row of ReadRow as float32.
//
//	dst  [Cols]
func (d *Dense) Widen(dst []float32, row []byte) {
	dst = dst[:d.Cols]
	switch d.Type {
	case gguf.F32:
		copy(dst, unsafe.Slice((*float32)(unsafe.Pointer(&row[0])), d.Cols))
	case gguf.BF16:
		for i, v := range unsafe.Slice((*uint16)(unsafe.Pointer(&row[0])), d.Cols) {
			dst[i] = math.Float32frombits(uint32(v) << 16)
		}
	default:
		d.decode(dst, row)
	}
}

// decode widens rows of a block type, whose length and type were checked when they were opened.
func (d *Dense) decode(dst []float32, rows []byte) {
	if d.affine != nil {
		d.affine.widen(dst, rows)
		return
	}
	var err error
	if d.format != 0 {
		err = ternary.Decode(dst, rows, d.format, len(dst)/d.Cols, d.Cols)
	} else {
		err = gguf.Dequantize(dst, d.Type, rows)
	}
	if err != nil {
		panic(err)
	}
}

// PermuteColumns puts column from(c) in the place of column c, in a copy, of floats alone: ok is false for block types, which stay.
func (d *Dense) PermuteColumns(from func(c int) int) (ok bool) {
	if d.F32 == nil && d.U16 == nil {
		return false
	}
	order := make([]int, d.Cols)
	for c := range order {
		order[c] = from(c)
	}
	if d.F32 != nil {
		d.F32 = permuted(d.F32, order)
	} else {
		d.U16 = permuted(d.U16, order)
	}
	d.mapped, d.file = nil, nil
	return true
}

// permuted is rows of len(order) values, each with value order[c] in place c.
func permuted[T any](m []T, order []int) []T {
	out := make([]T, len(m))
	for at := 0; at < len(m); at += len(order) {
		for c, from := range order {
			out[at+c] = m[at+from]
		}
	}
	return out
}

// Release tells the system that rows [lo, hi) will not be read soon: their pages of the file leave this process's
// memory, and come back when they are read.
func (d *Dense) Release(lo, hi int) {
	if n := len(d.mapped) / d.Rows; n > 0 {
		mapped.Release(d.mapped[lo*n : hi*n])
	}
}

// Dense reads the matrix [rows, cols] without quantising it. Codes with one scale for the whole matrix are widened to float32;
// those with a scale for each block stay as they are, and rows are widened as they are read.
func (s *Set) Dense(name string, rows, cols int) (_ *Dense, err error) {
	defer mapped.Recover(debug.SetPanicOnFault(true), &err)
	t := s.find(name)
	if t == nil {
		return nil, s.missing(name)
	}
	if a, err := s.affineOf(name); err != nil {
		return nil, t.errorf(name, "%w", err)
	} else if a != nil {
		if a.rows != rows || a.cols != cols {
			return nil, t.errorf(name, "has shape [%d %d]; the configuration asks for [%d %d]", a.rows, a.cols, rows, cols)
		}
		d, err := a.dense()
		if err != nil {
			return nil, t.errorf(name, "%w", err)
		}
		return d, nil
	}
	d, err := s.dense(t, rows, cols)
	if err != nil {
		return nil, t.errorf(name, "%w", err)
	}
	if len(s.blobs) > 0 && s.blobs[0].file != nil && (d.F32 == nil || len(t.data) == 4*rows*cols) {
		d.mapped = t.data
	}
	if d.mapped != nil && littleEndian && rowsByCall {
		d.file, d.at = s.origin(t.data)
	}
	if hd := s.ropeHead(name); hd > 1 && rows%hd == 0 && hd%2 == 0 {
		d.file = nil
		switch {
		case d.F32 != nil:
			d.F32 = reorder(d.F32, cols, hd)
		case d.U16 != nil:
			d.U16 = reorder(d.U16, cols, hd)
		default:
			d.Raw = reorder(d.Raw, d.rowBytes, hd)
		}
	}
	return d, nil
}

// origin says where in which file data lies.
func (s *Set) origin(data []byte) (*mapped.File, int64) {
	for _, b := range s.blobs {
		if len(b.data) == 0 || len(data) == 0 || b.file == nil {
			continue
		}
		if at := uintptr(unsafe.Pointer(&data[0])) - uintptr(unsafe.Pointer(&b.data[0])); at < uintptr(len(b.data)) {
			return b.file, int64(at)
		}
	}
	return nil, 0
}

func (s *Set) dense(t *tensor, rows, cols int) (*Dense, error) {
	if s.gguf == nil && s.ternaryCodes(t) {
		return nil, errors.New("is packed ternary where the configuration has a full-precision matrix")
	}
	if row := rows == 1 && len(t.shape) == 1 && t.shape[0] == cols; !row && (len(t.shape) != 2 || t.shape[0] != rows || t.shape[1] != cols) {
		return nil, fmt.Errorf("has shape %v; the configuration asks for [%d %d]", t.shape, rows, cols)
	}
	d := &Dense{Rows: rows, Cols: cols, Type: t.typ}
	switch t.typ {
	case gguf.F32:
		d.F32 = view[float32](t.data, rows*cols)
	case gguf.F16, gguf.BF16:
		d.U16 = view[uint16](t.data, rows*cols)
	default:
		f, ok := s.format(t)
		if ok && !f.Grouped() { // codes, widened once
			d.Type, d.F32 = gguf.F32, make([]float32, rows*cols)
			return d, ternary.Decode(d.F32, t.data, f, rows, cols)
		}
		if t.typ == noType {
			return nil, fmt.Errorf("is stored as %s; F32, F16 or BF16 is needed here", t.dtype)
		}
		size, err := t.typ.Size(cols)
		if err != nil {
			return nil, err
		}
		if int64(len(t.data)) != int64(rows)*size {
			return nil, fmt.Errorf("holds %d bytes; %d rows of %d need %d", len(t.data), rows, cols, int64(rows)*size)
		}
		d.Raw, d.rowBytes = t.data, int(size)
		if ok {
			d.format = f
			return d, nil
		}
		// Whether the type can be read at all shows now and not in the middle of a text.
		if err := gguf.Dequantize(make([]float32, cols), d.Type, d.Raw[:size]); err != nil {
			return nil, err
		}
	}
	return d, nil
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

// i2sNorms are the norms whose channels a projection reads, for the probe of i2_s layouts.
var i2sNorms = map[string]string{
	"attn_q": "attn_norm", "attn_k": "attn_norm", "attn_v": "attn_norm", "attn_output": "attn_sub_norm",
	"ffn_gate": "ffn_norm", "ffn_up": "ffn_norm", "ffn_down": "ffn_sub_norm",
}

// probeLayers is how many layers the probe looks at: the evidence of a few is clear where there is any.
const probeLayers = 4

// chooseI2S decides how the file's i2_s tensors lie: as told, or as their codes suggest.
func (s *Set) chooseI2S(told string) error {
	layouts := map[string]ternary.Format{"x86": ternary.I2SX86, "arm": ternary.I2SARM, "x4": ternary.I2SX4}
	if told != "" {
		f, ok := layouts[told]
		if !ok {
			return fmt.Errorf("weights: i2_s layout %q is not known; known: x86, arm, x4", told)
		}
		s.i2s = f
		return nil
	}
	var probe ternary.I2SProbe
	found := false
	for layer := range probeLayers {
		for part, norm := range i2sNorms {
			prefix := fmt.Sprintf("blk.%d.", layer)
			t := s.tensors[prefix+part+".weight"]
			if t == nil || t.typ != gguf.I2_S || len(t.shape) != 2 {
				continue
			}
			found = true
			if own := part + "_norm_in"; s.Has(prefix + own + ".weight") {
				norm = own
			}
			channel, err := s.Vector(prefix+norm+".weight", t.shape[1])
			if err != nil {
				channel = nil // the probe works without, and loading reports the norm
			}
			probe.Add(t.data, t.shape[0], t.shape[1], channel)
		}
	}
	if !found {
		return nil
	}
	s.i2s, _ = probe.Guess()
	if s.i2s != ternary.I2SX86 {
		s.notes = append(s.notes, fmt.Sprintf("the weights look as if they were written as %s, not in the layout of the published files; "+
			"if the text is nonsense, choose the layout yourself: x86, arm or x4", s.i2s))
	}
	return nil
}
