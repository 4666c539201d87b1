package safetensors

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	maxHeader = 100_000_000 // the format's own bound
	maxRank   = 32          // dimensions of a tensor
)

// Read reads the directory of the safetensors file of that size behind r. name is for messages.
// As in the reference implementation the tensors must fill the file: no holes, no overlap.
// Errors wrap ErrFormat, except those of r.
func Read(r io.ReaderAt, size int64, name string) (*File, error) {
	f, err := read(r, size)
	if err != nil {
		return nil, fmt.Errorf("safetensors: %s: %w", name, err)
	}
	f.Name = name
	return f, nil
}

func read(r io.ReaderAt, size int64) (*File, error) {
	var head [64]byte
	k := int(min(size, int64(len(head))))
	if n, err := r.ReadAt(head[:k], 0); n < k {
		return nil, fmt.Errorf("reading the header: %w", err)
	}
	if what := otherFile(string(head[:k])); what != "" {
		return nil, fmt.Errorf("%s: %w", what, ErrFormat)
	}
	if size < 8 {
		return nil, fmt.Errorf("at byte %d: the file ends inside the header length; download it again: %w", size, ErrFormat)
	}
	n := binary.LittleEndian.Uint64(head[:])
	if n > maxHeader {
		return nil, fmt.Errorf("at byte 0: a header of %d bytes, at most %d are allowed; this may be another kind of file: %w", n, maxHeader, ErrFormat)
	}
	if int64(n) > size-8 {
		return nil, fmt.Errorf("at byte 0: a header of %d bytes, but the file has %d; download it again: %w", n, size, ErrFormat)
	}
	header := make([]byte, n)
	if got, err := r.ReadAt(header, 8); got < len(header) {
		return nil, fmt.Errorf("reading the header: %w", err)
	}
	f := &File{}
	s := &scanner{src: header, base: 8}
	s.header(f, 8+int64(n))
	if s.err != nil {
		return nil, s.err
	}
	slices.SortStableFunc(f.Tensors, func(a, b Tensor) int {
		return cmp.Or(cmp.Compare(a.Offset, b.Offset), cmp.Compare(a.Size, b.Size))
	})
	f.byName = make(map[string]int, len(f.Tensors))
	pos := 8 + int64(n)
	for i, t := range f.Tensors {
		if _, ok := f.byName[t.Name]; ok {
			return nil, fmt.Errorf("tensor %q at %d: stands twice: %w", t.Name, t.Offset, ErrFormat)
		}
		f.byName[t.Name] = i
		if t.Size > size-t.Offset {
			return nil, fmt.Errorf("tensor %q at %d: ends past the file (%d bytes needed, %d there); download it again: %w",
				t.Name, t.Offset, t.Size, max(0, size-t.Offset), ErrFormat)
		}
		if t.Offset < pos {
			return nil, fmt.Errorf("tensor %q at %d: overlaps tensor %q, which ends at %d: %w", t.Name, t.Offset, f.Tensors[i-1].Name, pos, ErrFormat)
		}
		if t.Offset > pos {
			return nil, fmt.Errorf("tensor %q at %d: %d bytes in front of it belong to no tensor: %w", t.Name, t.Offset, t.Offset-pos, ErrFormat)
		}
		pos += t.Size
	}
	if pos != size {
		return nil, fmt.Errorf("at byte %d: %d bytes behind the last tensor: %w", pos, size-pos, ErrFormat)
	}
	return f, nil
}

// otherFile names the files that people confuse with safetensors, or returns "".
func otherFile(s string) string {
	low := strings.ToLower(strings.TrimSpace(s))
	switch {
	case s == "":
		return "the file is empty; download it again"
	case strings.HasPrefix(s, "version https://git-lfs"):
		return "a git-lfs pointer, not the weights; fetch them with git lfs pull"
	case strings.HasPrefix(s, "PK\x03\x04"), strings.HasPrefix(s, "\x80\x02"):
		return "a PyTorch checkpoint (pickle), which is never opened; convert it to safetensors"
	case strings.HasPrefix(low, "<!doctype"), strings.HasPrefix(low, "<html"):
		return "a web page, not the weights; download the file itself"
	case strings.HasPrefix(s, "GGUF"):
		return "this is a GGUF file; name it .gguf"
	}
	return ""
}

// header parses the JSON header; data is the file offset of the tensor bytes.
func (s *scanner) header(f *File, data int64) {
	if !utf8.Valid(s.src) {
		s.fail("the header is not UTF-8")
		return
	}
	if len(s.src) == 0 || s.src[0] != '{' {
		s.fail("the header does not begin with {")
		return
	}
	s.object(func(key string, at int) {
		if key == "__metadata__" {
			if f.Metadata != nil {
				s.pos = at
				s.fail("key %q stands twice", key)
				return
			}
			f.Metadata = map[string]string{}
			s.object(func(k string, at int) {
				if _, ok := f.Metadata[k]; ok {
					s.pos = at
					s.fail("metadata key %q stands twice", k)
				}
				f.Metadata[k] = s.string()
			})
			return
		}
		f.Tensors = append(f.Tensors, s.tensor(key, at, data))
	})
	s.end()
}

// tensor parses {"dtype": "F32", "shape": [2, 3], "data_offsets": [begin, end]}.
func (s *scanner) tensor(name string, at int, data int64) Tensor {
	t := Tensor{Name: name}
	var seen struct{ dtype, shape, offsets bool }
	var offsets []int64
	once := func(flag *bool, key string, at int) {
		if *flag {
			s.pos = at
			s.fail("tensor %q: %s stands twice", name, key)
		}
		*flag = true
	}
	s.object(func(key string, at int) {
		switch key {
		case "dtype":
			once(&seen.dtype, key, at)
			t.DType = DType(s.string())
		case "shape":
			once(&seen.shape, key, at)
			for _, n := range s.ints() {
				t.Shape = append(t.Shape, int(n))
				if int64(int(n)) != n {
					s.fail("tensor %q: dimension %d is too large for this machine", name, n)
				}
			}
		case "data_offsets":
			once(&seen.offsets, key, at)
			offsets = s.ints()
		default:
			s.skip(0)
		}
	})
	if s.err != nil {
		return t
	}
	s2 := *s // errors below point at the tensor's name
	s2.pos = at
	switch size, ok := t.DType.size(t.Shape); {
	case !seen.dtype || !seen.shape || !seen.offsets:
		s2.fail("tensor %q: dtype, shape or data_offsets is missing", name)
	case dtypeBits[t.DType] == 0:
		s2.fail("tensor %q: unknown dtype %q", name, t.DType)
	case !ok:
		s2.fail("tensor %q: shape %v of %s has no size", name, t.Shape, t.DType)
	case len(offsets) != 2 || offsets[0] > offsets[1]:
		s2.fail("tensor %q: data_offsets %v, want [begin, end]", name, offsets)
	case offsets[1]-offsets[0] != size:
		s2.fail("tensor %q: data_offsets %v span %d bytes, but shape %v of %s needs %d", name, offsets, offsets[1]-offsets[0], t.Shape, t.DType, size)
	case offsets[1] > 1<<62:
		s2.fail("tensor %q: data_offsets %v lie past any file", name, offsets)
	default:
		t.Offset, t.Size = data+offsets[0], size
	}
	s.err = s2.err
	return t
}

// Index is a model.safetensors.index.json: which file of a sharded model holds which tensor.
type Index struct {
	Shard map[string]string // tensor name → file name, in the folder of the index
	Files []string          // each file once, sorted
}

// ReadIndex parses an index. File names that lead out of its folder are refused.
func ReadIndex(data []byte, name string) (*Index, error) {
	x := &Index{Shard: map[string]string{}}
	s := &scanner{src: data}
	if !utf8.Valid(data) {
		s.fail("not UTF-8")
	}
	found := false
	s.object(func(key string, at int) {
		if key != "weight_map" {
			s.skip(0)
			return
		}
		if found {
			s.fail("weight_map stands twice")
			return
		}
		found = true
		s.object(func(tensor string, at int) {
			file := s.string()
			if s.err != nil {
				return
			}
			if file == "" || file == "." || file == ".." || filepath.Base(file) != file || strings.ContainsAny(file, `/\`) || strings.ContainsRune(file, 0) {
				s.pos = at
				s.fail("tensor %q: file %q is not a name in the same folder", tensor, file)
				return
			}
			if _, ok := x.Shard[tensor]; ok {
				s.pos = at
				s.fail("tensor %q stands twice", tensor)
				return
			}
			x.Shard[tensor] = file
			x.Files = append(x.Files, file)
		})
	})
	s.end()
	if s.err == nil && !found {
		s.fail("no weight_map")
	}
	if s.err != nil {
		return nil, fmt.Errorf("safetensors: %s: %w", name, s.err)
	}
	slices.Sort(x.Files)
	x.Files = slices.Compact(x.Files)
	return x, nil
}

// scanner reads JSON in place: unlike encoding/json it sees duplicate keys, says where an error is and
// builds nothing. After an error every method returns at once.
type scanner struct {
	src  []byte
	pos  int
	base int // offset of src in the file, for messages
	err  error
}

func (s *scanner) fail(format string, args ...any) {
	if s.err == nil {
		s.err = fmt.Errorf("at byte %d: %s: %w", s.base+s.pos, fmt.Sprintf(format, args...), ErrFormat)
	}
}

// peek returns the next byte that is not white space, or 0.
func (s *scanner) peek() byte {
	for s.err == nil && s.pos < len(s.src) {
		switch c := s.src[s.pos]; c {
		case ' ', '\t', '\n', '\r':
			s.pos++
		default:
			return c
		}
	}
	return 0
}

func (s *scanner) expect(c byte) {
	if got := s.peek(); s.err == nil && got != c {
		if s.pos >= len(s.src) {
			s.fail("the JSON ends where %q should come", c)
			return
		}
		s.fail("JSON: %q where %q should come", got, c)
		return
	}
	s.pos++
}

func (s *scanner) end() {
	if s.peek(); s.err == nil && s.pos < len(s.src) {
		s.fail("JSON: something behind the end")
	}
}

// object calls fn with each key, the scanner standing at its value and at pointing to the key.
func (s *scanner) object(fn func(key string, at int)) {
	s.expect('{')
	if s.peek() == '}' {
		s.pos++
		return
	}
	for s.err == nil {
		s.peek()
		at := s.pos
		key := s.string()
		s.expect(':')
		if s.err != nil {
			return
		}
		fn(key, at)
		if s.peek() == '}' {
			s.pos++
			return
		}
		s.expect(',')
	}
}

// string reads a string literal.
func (s *scanner) string() string {
	s.expect('"')
	if s.err != nil {
		return ""
	}
	start, escaped := s.pos, false
	for ; s.pos < len(s.src); s.pos++ {
		switch c := s.src[s.pos]; {
		case c == '"':
			lit := s.src[start:s.pos]
			s.pos++
			if !escaped {
				return string(lit)
			}
			var out string
			if err := json.Unmarshal(s.src[start-1:s.pos], &out); err != nil {
				s.pos = start
				s.fail("JSON: a bad escape in a string")
			}
			return out
		case c == '\\':
			escaped = true
			s.pos++
		case c < ' ':
			s.fail("JSON: control character in a string")
			return ""
		}
	}
	s.pos = start
	s.fail("JSON: a string without an end")
	return ""
}

// int reads a whole number from 0 to 2⁶²; fractions, signs and exponents are refused.
func (s *scanner) int() int64 {
	c := s.peek()
	start := s.pos
	var n int64
	for s.err == nil && s.pos < len(s.src) {
		d := s.src[s.pos]
		if d < '0' || d > '9' {
			break
		}
		if n > (1<<62)/10-1 || s.pos > start && c == '0' {
			s.fail("JSON: a number that is too large or begins with 0")
			return 0
		}
		n = n*10 + int64(d-'0')
		s.pos++
	}
	if s.err == nil && s.pos == start {
		s.fail("JSON: want a whole number that is not negative")
	}
	return n
}

func (s *scanner) ints() []int64 {
	var out []int64
	s.expect('[')
	if s.peek() == ']' {
		s.pos++
		return nil
	}
	for s.err == nil {
		if len(out) == maxRank {
			s.fail("JSON: more than %d numbers in a list", maxRank)
			return nil
		}
		out = append(out, s.int())
		if s.peek() == ']' {
			s.pos++
			break
		}
		s.expect(',')
	}
	return out
}

// skip passes over any value.
func (s *scanner) skip(depth int) {
	if depth > 100 {
		s.fail("JSON: nested too deep")
		return
	}
	switch c := s.peek(); {
	case s.err != nil:
	case c == '{':
		s.object(func(string, int) { s.skip(depth + 1) })
	case c == '[':
		s.pos++
		if s.peek() == ']' {
			s.pos++
			return
		}
		for s.err == nil {
			s.skip(depth + 1)
			if s.peek() == ']' {
				s.pos++
				return
			}
			s.expect(',')
		}
	case c == '"':
		s.string()
	default:
		start := s.pos
		for s.pos < len(s.src) && strings.IndexByte(",]} \t\r\n", s.src[s.pos]) < 0 {
			s.pos++
		}
		if !json.Valid(s.src[start:s.pos]) {
			s.pos = start
			s.fail("JSON: no value")
		}
	}
}
