package gguf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"strings"
	"unicode/utf8"
)

// Named bounds.
const (
	maxKeyLen    = 1<<16 - 1 // docs/gguf.md
	maxNameLen   = 63        // of a tensor: GGML_MAX_NAME, which counts the 0 behind it
	maxDims      = 4         // ggml's
	maxAlignment = 1 << 20   // far above anything published
	bufferSize   = 1 << 16
	minPairBytes = 8 + 1 + 4 + 1         // the shortest key and value
	minInfoBytes = 8 + 1 + 4 + 8 + 4 + 8 // the shortest tensor info
)

// Read reads the directory of the GGUF file of that size behind r. name is for messages.
//
// Errors wrap ErrFormat, or errors.ErrUnsupported when the file may be sound but is of a kind that is
// not read: another version, big endian, a storage type of unknown size, TL1 and TL2.
func Read(r io.ReaderAt, size int64, name string) (*File, error) {
	d := &decoder{
		r:    bufio.NewReaderSize(io.NewSectionReader(r, 0, size), bufferSize),
		size: size,
	}
	f := &File{Name: name}
	if err := d.file(f); err != nil {
		return nil, fmt.Errorf("gguf: %s: %w", name, err)
	}
	return f, nil
}

// decoder reads the header. After an error every read returns zero and the error stays.
type decoder struct {
	r         *bufio.Reader
	pos, size int64
	err       error
}

func (d *decoder) file(f *File) error {
	if err := d.magic(); err != nil {
		return err
	}
	f.Version = int(d.u32())
	if d.err == nil && f.Version != 2 && f.Version != 3 {
		if v := bits.ReverseBytes32(uint32(f.Version)); v >= 1 && v <= 3 {
			return fmt.Errorf("a big-endian file (version %d); convert it with gguf_convert_endian.py of llama.cpp: %w", v, errors.ErrUnsupported)
		}
		return fmt.Errorf("GGUF version %d, want 2 or 3; convert the model again with a current converter: %w", uint32(f.Version), errors.ErrUnsupported)
	}
	numTensors, numKV := d.u64(), d.u64()
	if d.err != nil {
		return d.err
	}
	if left := uint64(d.size - d.pos); numKV > left/minPairBytes || numTensors > left/minInfoBytes {
		return d.errorf("%d keys and %d tensors announced, more than fit into %d bytes", numKV, numTensors, d.size)
	}
	keys := map[string]bool{}
	for i := range numKV {
		at := d.pos
		key := d.name("key", maxKeyLen)
		if d.err != nil {
			return fmt.Errorf("metadata entry %d of %d: %w", i, numKV, d.err)
		}
		if keys[key] {
			return fmt.Errorf("key %.100q at byte %d: stands twice: %w", key, at, ErrFormat)
		}
		keys[key] = true
		value := d.value()
		if d.err != nil {
			return fmt.Errorf("key %.100q at byte %d: %w", key, at, d.err)
		}
		f.KV = append(f.KV, Pair{key, value})
	}
	var err error
	if f.Alignment, err = f.KV.alignment(); err != nil {
		return err
	}
	f.byName = map[string]int{}
	for i := range numTensors {
		t, err := d.tensor(f.byName)
		if err != nil {
			return fmt.Errorf("tensor %d of %d: %w", i, numTensors, err)
		}
		f.byName[t.Name] = len(f.Tensors)
		f.Tensors = append(f.Tensors, t)
	}
	f.Data = align(d.pos, int64(f.Alignment))
	return f.place(d.size)
}

// alignment is what general.alignment says, 32 when absent.
func (kv KV) alignment() (int, error) {
	const key = "general.alignment"
	v := kv.Get(key)
	if v == nil {
		return 32, nil
	}
	a, ok := v.(uint32)
	if !ok {
		return 0, fmt.Errorf("key %q is a %T, want a uint32: %w", key, v, ErrFormat)
	}
	if a == 0 || a > maxAlignment || a&(a-1) != 0 {
		return 0, fmt.Errorf("key %q is %d, want a power of two up to %d: %w", key, a, maxAlignment, ErrFormat)
	}
	return int(a), nil
}

// magic checks the first four bytes and names the files that people confuse with GGUF.
func (d *decoder) magic() error {
	head, err := d.r.Peek(int(min(d.size, 64)))
	if err != nil {
		return fmt.Errorf("reading the header: %w", err)
	}
	if string(head[:min(4, len(head))]) == "GGUF" {
		d.r.Discard(4)
		d.pos = 4
		return nil
	}
	what := "no GGUF file"
	switch s := string(head); {
	case s == "":
		what = "the file is empty; download it again"
	case strings.HasPrefix("GGUF", s):
		what = "the file ends inside the header; download it again"
	case strings.HasPrefix(s, "FUGG"):
		what = "a byte-swapped GGUF file; convert it with gguf_convert_endian.py of llama.cpp"
	case strings.HasPrefix(s, "lmgg"), strings.HasPrefix(s, "tjgg"), strings.HasPrefix(s, "fmgg"), strings.HasPrefix(s, "algg"):
		what = "a ggml file from before GGUF; convert the model again"
	case strings.HasPrefix(s, "version https://git-lfs"):
		what = "a git-lfs pointer, not the model; fetch it with git lfs pull"
	case strings.HasPrefix(s, "PK\x03\x04"):
		what = "a zip archive, perhaps a PyTorch checkpoint; use the safetensors files"
	case strings.HasPrefix(strings.ToLower(strings.TrimSpace(s)), "<!doctype"), strings.HasPrefix(strings.ToLower(s), "<html"):
		what = "a web page, not the model; download the file itself"
	case len(s) > 9 && s[8] == '{':
		what = "this looks like a safetensors file; name it .safetensors"
	}
	return fmt.Errorf("%s (the first bytes are %q, want \"GGUF\"): %w", what, head[:min(4, len(head))], ErrFormat)
}

// tensor reads one tensor info. Offset is still relative to the data, Size unset.
func (d *decoder) tensor(seen map[string]int) (t Tensor, err error) {
	at := d.pos
	t.Name = d.name("tensor name", maxNameLen)
	if d.err != nil {
		return t, d.err
	}
	if _, ok := seen[t.Name]; ok {
		return t, fmt.Errorf("%q at byte %d: stands twice: %w", t.Name, at, ErrFormat)
	}
	dims := d.u32()
	if d.err == nil && dims > maxDims {
		return t, fmt.Errorf("%q at byte %d: %d dimensions, at most %d: %w", t.Name, at, dims, maxDims, ErrFormat)
	}
	t.Shape = make([]int, min(dims, maxDims))
	for i := range t.Shape {
		n := d.u64()
		if d.err == nil && (n == 0 || n > math.MaxInt>>1) {
			return t, fmt.Errorf("%q at byte %d: dimension %d is %d: %w", t.Name, at, i, n, ErrFormat)
		}
		t.Shape[len(t.Shape)-1-i] = int(n)
	}
	if dims == 0 { // a single number
		t.Shape = []int{1}
	}
	t.Type = Type(d.u32())
	off := d.u64()
	if d.err != nil {
		return t, fmt.Errorf("%q at byte %d: %w", t.Name, at, d.err)
	}
	if off > uint64(d.size) {
		return t, fmt.Errorf("%q at byte %d: offset %d lies past the file of %d bytes; download it again: %w", t.Name, at, off, d.size, ErrFormat)
	}
	t.Offset = int64(off)
	return t, nil
}

// place turns offsets into file positions, settles the type numbers that several forks use, and checks that the tensors
// lie in the file one behind the other, each at the end of the one in front padded to the alignment, as ggml demands
// (gguf_init_from_reader in its gguf.cpp): a wrong type number leaves a hole or an overlap. The padding behind the last
// tensor may be missing.
func (f *File) place(size int64) error {
	spans := make([]int64, len(f.Tensors)) // bytes up to the next tensor or the end
	for i := range f.Tensors {
		spans[i] = size - f.Data - f.Tensors[i].Offset
		if i+1 < len(f.Tensors) {
			spans[i] = min(spans[i], f.Tensors[i+1].Offset-f.Tensors[i].Offset)
		}
	}
	q2 := f.settleQ2(spans)
	next := int64(0)
	for i := range f.Tensors {
		t := &f.Tensors[i]
		if t.Offset != next {
			return f.misplaced(i, next)
		}
		t.Offset += f.Data
		if t.Type == Q2_0 {
			t.Type = q2
		} else if err := f.supported(t, spans[i]); err != nil {
			return fmt.Errorf("tensor %q at %d: %w", t.Name, t.Offset, err)
		}
		n, err := t.Type.Size(t.Shape...)
		if errors.Is(err, ErrColumns) {
			err = fmt.Errorf("%w: %w", err, ErrFormat)
		}
		if err != nil {
			return fmt.Errorf("tensor %q at %d: %w", t.Name, t.Offset, err)
		}
		t.Size = n
		if t.Size > size-t.Offset {
			return fmt.Errorf("tensor %q at %d: ends past the file (%d bytes needed, %d there); download it again: %w",
				t.Name, t.Offset, t.Size, max(0, size-t.Offset), ErrFormat)
		}
		next = align(t.Offset-f.Data+t.Size, int64(f.Alignment)) // no overflow: the file's size plus less than an alignment
	}
	return nil
}

// misplaced says that tensor i is not where the one in front of it ends.
func (f *File) misplaced(i int, want int64) error {
	t := &f.Tensors[i]
	if i == 0 {
		return fmt.Errorf("tensor %q: offset %d, and the first tensor's is 0: %w", t.Name, t.Offset, ErrFormat)
	}
	prev, kind := &f.Tensors[i-1], "a hole"
	if t.Offset < want {
		kind = "an overlap"
	}
	return fmt.Errorf("tensor %q: offset %d, but tensor %q in front of it (%s %v, %d bytes) makes it %d: %s, so that a type, a shape or an offset is wrong; download the file or convert the model again: %w",
		t.Name, t.Offset, prev.Name, prev.Type, prev.Shape, prev.Size, want, kind, ErrFormat)
}

// settleQ2 says which of its meanings number 42 has in this file: the first that no tensor is too short for.
func (f *File) settleQ2(spans []int64) Type {
	for i := range f.Tensors {
		t := &f.Tensors[i]
		if t.Type != Q2_0 || t.fills(Q2_0, spans[i], f.Alignment) {
			continue
		}
		for _, other := range []Type{Q2_0G128, STQ1_0} {
			if t.fills(other, spans[i], f.Alignment) {
				return other
			}
		}
	}
	return Q2_0
}

// fills reports whether the tensor, stored as typ, takes span bytes with the padding behind it.
func (t *Tensor) fills(typ Type, span int64, alignment int) bool {
	n, err := typ.Size(t.Shape...)
	return err == nil && n <= span && span-n < int64(alignment)
}

// supported refuses types that cannot be read although their number is known. span is what the tensor
// has to itself.
func (f *File) supported(t *Tensor, span int64) error {
	const redo = "convert the model again as i2_s, or give the Hugging Face folder instead"
	switch t.Type {
	case TL1:
		return fmt.Errorf("type tl1 is shuffled for one machine's kernels and cannot be read; %s: %w", redo, errors.ErrUnsupported)
	case MXFP4:
		arch, _ := f.KV.String("general.architecture")
		if strings.HasPrefix(arch, "bitnet") || !t.fills(MXFP4, span, f.Alignment) && span >= 0 && isTL2(t.Shape, span) {
			return fmt.Errorf("type tl2 is shuffled for one machine's kernels and cannot be read; %s: %w", redo, errors.ErrUnsupported)
		}
	case PQ2_0, PTQ1_0:
		if n, err := t.Type.Size(t.Shape...); err == nil && n > span {
			return fmt.Errorf("type number %d is %s, but the size is not; iq2_tn and iq1_tn of old ik_llama.cpp used the number too: %w", uint32(t.Type), t.Type, errors.ErrUnsupported)
		}
	}
	if t.Type > 0xffff { // above are our own variants
		return fmt.Errorf("storage type %d is not known: %w", uint32(t.Type), errors.ErrUnsupported)
	}
	return nil
}

// isTL2 reports whether span bytes are a TL2 matrix [m, k]: three weights in five bits, the last 256
// columns in pairs of two bits each, rounded up to 32, and a scale of 32 bytes.
func isTL2(shape []int, span int64) bool {
	if len(shape) != 2 || shape[1] < 256 || int64(shape[0]) > maxElements/int64(shape[1]) {
		return false
	}
	m, k := int64(shape[0]), int64(shape[1])
	n := align((k-256)*m/3*5/8+256*m/2*4/8, 32) + 32
	return n <= span && span-n < 64
}

func align(n, a int64) int64 { return (n + a - 1) / a * a }

// errorf returns an ErrFormat that says where the reader is.
func (d *decoder) errorf(format string, args ...any) error {
	return fmt.Errorf("at byte %d: %s: %w", d.pos, fmt.Sprintf(format, args...), ErrFormat)
}

func (d *decoder) fail(format string, args ...any) {
	if d.err == nil {
		d.err = d.errorf(format, args...)
	}
}

// next returns the next n bytes, at most the buffer's size, until the next call; nil after an error.
// What is missing at the end of the file is ErrFormat; another error is passed on.
func (d *decoder) next(n int) []byte {
	if d.err != nil {
		return nil
	}
	if int64(n) > d.size-d.pos {
		d.fail("%d more bytes needed, but the file ends after %d; download it again", n, d.size-d.pos)
		return nil
	}
	b, err := d.r.Peek(n)
	if err != nil {
		d.err = fmt.Errorf("reading at byte %d: %w", d.pos, err)
		return nil
	}
	d.r.Discard(n)
	d.pos += int64(n)
	return b
}

// uint reads an integer of n bytes.
func (d *decoder) uint(n int) (u uint64) {
	for i, c := range d.next(n) {
		u |= uint64(c) << (8 * i)
	}
	return u
}

func (d *decoder) u32() uint32 { return uint32(d.uint(4)) }
func (d *decoder) u64() uint64 { return d.uint(8) }

// name reads a key or tensor name: not empty, bounded, UTF-8.
func (d *decoder) name(what string, longest uint64) string {
	at := d.pos
	n := d.u64()
	if d.err == nil && (n == 0 || n > longest) {
		d.fail("%s of %d bytes, want 1 to %d", what, n, longest)
	}
	b := d.next(int(min(n, longest)))
	if !utf8.Valid(b) {
		d.err = fmt.Errorf("at byte %d: %s %.100q is not UTF-8: %w", at, what, b, ErrFormat)
	}
	return string(b)
}

// bytes reads n bytes, growing as they arrive, so that a lie about n costs nothing.
func (d *decoder) bytes(dst []byte, n uint64) []byte {
	if d.err == nil && n > uint64(d.size-d.pos) {
		d.fail("a string of %d bytes, but the file ends after %d; download it again", n, d.size-d.pos)
	}
	for n > 0 && d.err == nil {
		k := min(n, bufferSize)
		dst = append(dst, d.next(int(k))...)
		n -= k
	}
	return dst
}

// Value types of the metadata.
const (
	kindUint8 = iota
	kindInt8
	kindUint16
	kindInt16
	kindUint32
	kindInt32
	kindFloat32
	kindBool
	kindString
	kindArray
	kindUint64
	kindInt64
	kindFloat64
)

func (d *decoder) value() any {
	kind := d.u32()
	if d.err != nil {
		return nil
	}
	if kind != kindArray {
		return d.scalar(kind)
	}
	elem, n := d.u32(), d.u64()
	if d.err != nil {
		return nil
	}
	switch elem {
	case kindUint8:
		return array(d, n, 1, func(u uint64) uint8 { return uint8(u) })
	case kindInt8:
		return array(d, n, 1, func(u uint64) int8 { return int8(u) })
	case kindUint16:
		return array(d, n, 2, func(u uint64) uint16 { return uint16(u) })
	case kindInt16:
		return array(d, n, 2, func(u uint64) int16 { return int16(u) })
	case kindUint32:
		return array(d, n, 4, func(u uint64) uint32 { return uint32(u) })
	case kindInt32:
		return array(d, n, 4, func(u uint64) int32 { return int32(u) })
	case kindFloat32:
		return array(d, n, 4, func(u uint64) float32 { return math.Float32frombits(uint32(u)) })
	case kindUint64:
		return array(d, n, 8, func(u uint64) uint64 { return u })
	case kindInt64:
		return array(d, n, 8, func(u uint64) int64 { return int64(u) })
	case kindFloat64:
		return array(d, n, 8, math.Float64frombits)
	case kindBool:
		return array(d, n, 1, d.bool)
	case kindString:
		return d.strings(n)
	case kindArray:
		d.fail("an array of arrays")
	default:
		d.fail("an array of the unknown value type %d", elem)
	}
	return nil
}

func (d *decoder) bool(u uint64) bool {
	if u > 1 {
		d.fail("a boolean of %d", u)
	}
	return u == 1
}

func (d *decoder) scalar(kind uint32) any {
	switch kind {
	case kindUint8:
		return uint8(d.uint(1))
	case kindInt8:
		return int8(d.uint(1))
	case kindUint16:
		return uint16(d.uint(2))
	case kindInt16:
		return int16(d.uint(2))
	case kindUint32:
		return d.u32()
	case kindInt32:
		return int32(d.u32())
	case kindFloat32:
		return math.Float32frombits(d.u32())
	case kindUint64:
		return d.u64()
	case kindInt64:
		return int64(d.u64())
	case kindFloat64:
		return math.Float64frombits(d.u64())
	case kindBool:
		return d.bool(d.uint(1))
	case kindString:
		b := d.bytes(nil, d.u64())
		if d.err == nil && !utf8.Valid(b) {
			d.fail("a string that is not UTF-8")
		}
		return string(b)
	}
	d.fail("unknown value type %d", kind)
	return nil
}

// array reads n elements of width bytes each.
func array[T any](d *decoder, n uint64, width int, conv func(uint64) T) []T {
	if n > uint64(d.size-d.pos)/uint64(width) {
		d.fail("an array of %d elements of %d bytes, but the file ends after %d bytes; download it again", n, width, d.size-d.pos)
		return nil
	}
	out := make([]T, 0, min(n, 1<<16))
	for uint64(len(out)) < n && d.err == nil {
		u := d.uint(width)
		out = append(out, conv(u))
	}
	return out
}

// strings reads n strings into one backing string.
func (d *decoder) strings(n uint64) []string {
	if n > uint64(d.size-d.pos)/8 {
		d.fail("an array of %d strings, but the file ends after %d bytes; download it again", n, d.size-d.pos)
		return nil
	}
	var all []byte
	ends := make([]int, 0, min(n, 1<<16))
	for uint64(len(ends)) < n && d.err == nil {
		all = d.bytes(all, d.u64())
		ends = append(ends, len(all))
	}
	if d.err != nil {
		return nil
	}
	text := string(all)
	out := make([]string, len(ends))
	start := 0
	for i, end := range ends {
		out[i] = text[start:end]
		start = end
	}
	return out
}
