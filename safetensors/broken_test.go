package safetensors

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// file is a safetensors file of a header and n bytes of data.
func file(header string, n int) []byte {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	return append(append(b, header...), make([]byte, n)...)
}

func tensor(name, dtype, shape, offsets string) string {
	return fmt.Sprintf(`%q:{"dtype":%q,"shape":%s,"data_offsets":%s}`, name, dtype, shape, offsets)
}

// broken lists files by defect, with what their error must say.
var broken = []struct {
	name string
	file []byte
	want string
}{
	{"empty", nil, `the file is empty; download it again`},
	{"seven-bytes", make([]byte, 7), `at byte 7: the file ends inside the header length`},
	{"git-lfs-pointer", []byte("version https://git-lfs.github.com/spec/v1\noid sha256:12"), `a git-lfs pointer, not the weights; fetch them with git lfs pull`},
	{"web-page", []byte("\n<html><body>Sign in</body></html>"), `a web page, not the weights`},
	{"pytorch-zip", []byte("PK\x03\x04aaaaaaaa"), `a PyTorch checkpoint (pickle), which is never opened`},
	{"pickle", []byte("\x80\x02}q\x00X\x06\x00\x00"), `a PyTorch checkpoint (pickle)`},
	{"gguf", []byte("GGUF\x03\x00\x00\x00\x00\x00\x00\x00"), `this is a GGUF file; name it .gguf`},
	{"header-huge", binary.LittleEndian.AppendUint64(nil, 1<<63), `at byte 0: a header of 9223372036854775808 bytes, at most 100000000`},
	{"header-past-file", binary.LittleEndian.AppendUint64(nil, 99_999_999), `at byte 0: a header of 99999999 bytes, but the file has 8; download it again`},
	{"header-empty", file("", 0), `at byte 8: the header does not begin with {`},
	{"header-array", file("[]", 0), `at byte 8: the header does not begin with {`},
	{"header-space-first", file(" {}", 0), `at byte 8: the header does not begin with {`},
	{"header-cut", file(`{"a":{"dtype":"F32"`, 0), `at byte 27: the JSON ends where ',' should come`},
	{"header-not-utf8", file("{\"\xff\":1}", 0), `the header is not UTF-8`},
	{"header-two-objects", file("{}{}", 0), `at byte 10: JSON: something behind the end`},
	{"header-trailing-comma", file(`{"__metadata__":{},}`, 0), `at byte 27: JSON: '}' where '"' should come`},
	{"string-without-end", file(`{"a`, 0), `at byte 10: JSON: a string without an end`},
	{"string-bad-escape", file(`{"a\x":1}`, 0), `JSON: a bad escape in a string`},
	{"string-control-character", file("{\"a\n\":1}", 0), `at byte 11: JSON: control character in a string`},
	{"metadata-number", file(`{"__metadata__":{"a":1}}`, 0), `at byte 29: JSON: '1' where '"' should come`},
	{"metadata-twice", file(`{"__metadata__":{},"__metadata__":{}}`, 0), `key "__metadata__" stands twice`},
	{"metadata-key-twice", file(`{"__metadata__":{"a":"","a":""}}`, 0), `metadata key "a" stands twice`},
	{"tensor-number", file(`{"a":1}`, 0), `JSON: '1' where '{' should come`},
	{"tensor-null", file(`{"a":null}`, 0), `JSON: 'n' where '{' should come`},
	{"tensor-twice", file("{"+tensor("a", "U8", "[1]", "[0,1]")+","+tensor("a", "U8", "[1]", "[1,2]")+"}", 2), `tensor "a" at 114: stands twice`},
	{"dtype-missing", file(`{"a":{"shape":[1],"data_offsets":[0,1]}}`, 1), `at byte 9: tensor "a": dtype, shape or data_offsets is missing`},
	{"shape-missing", file(`{"a":{"dtype":"U8","data_offsets":[0,1]}}`, 1), `tensor "a": dtype, shape or data_offsets is missing`},
	{"offsets-missing", file(`{"a":{"dtype":"U8","shape":[1]}}`, 1), `tensor "a": dtype, shape or data_offsets is missing`},
	{"dtype-twice", file(`{"a":{"dtype":"U8","dtype":"I8","shape":[1],"data_offsets":[0,1]}}`, 1), `tensor "a": dtype stands twice`},
	{"dtype-unknown", file("{"+tensor("a", "F33", "[1]", "[0,1]")+"}", 1), `tensor "a": unknown dtype "F33"`},
	{"dtype-empty", file("{"+tensor("a", "", "[1]", "[0,1]")+"}", 1), `tensor "a": unknown dtype ""`},
	{"shape-negative", file("{"+tensor("a", "U8", "[-1]", "[0,1]")+"}", 1), `want a whole number that is not negative`},
	{"shape-fraction", file("{"+tensor("a", "U8", "[1.5]", "[0,1]")+"}", 1), `'.' where ',' should come`},
	{"shape-exponent", file("{"+tensor("a", "U8", "[1e3]", "[0,1]")+"}", 1), `'e' where ',' should come`},
	{"shape-leading-zero", file("{"+tensor("a", "U8", "[01]", "[0,1]")+"}", 1), `begins with 0`},
	{"shape-huge", file("{"+tensor("a", "U8", "[99999999999999999999]", "[0,1]")+"}", 1), `a number that is too large`},
	{"shape-overflow", file("{"+tensor("a", "F64", "[4294967296,4294967296]", "[0,1]")+"}", 1), `tensor "a": shape [4294967296 4294967296] of F64 has no size`},
	{"shape-many-dimensions", file("{"+tensor("a", "U8", "["+strings.Repeat("1,", 40)+"1]", "[0,1]")+"}", 1), `more than 32 numbers in a list`},
	{"f4-half-a-byte", file("{"+tensor("a", "F4", "[3]", "[0,1]")+"}", 1), `shape [3] of F4 has no size`},
	{"offsets-one", file("{"+tensor("a", "U8", "[1]", "[0]")+"}", 1), `tensor "a": data_offsets [0], want [begin, end]`},
	{"offsets-three", file("{"+tensor("a", "U8", "[1]", "[0,1,2]")+"}", 1), `data_offsets [0 1 2], want [begin, end]`},
	{"offsets-reversed", file("{"+tensor("a", "U8", "[1]", "[1,0]")+"}", 1), `data_offsets [1 0], want [begin, end]`},
	{"offsets-contradict-shape", file("{"+tensor("a", "F32", "[2,3]", "[0,23]")+"}", 23), `at byte 9: tensor "a": data_offsets [0 23] span 23 bytes, but shape [2 3] of F32 needs 24`},
	{"data-cut", file("{"+tensor("a", "F32", "[2,3]", "[0,24]")+"}", 23), `tensor "a" at 65: ends past the file (24 bytes needed, 23 there); download it again`},
	{"data-past-file", file("{"+tensor("a", "U8", "[1]", "[4000000000000000000,4000000000000000001]")+"}", 1), `tensor "a" at 4000000000000000097: ends past the file`},
	{"data-behind", file("{"+tensor("a", "U8", "[1]", "[0,1]")+"}", 3), `at byte 62: 2 bytes behind the last tensor`},
	{"data-hole", file("{"+tensor("a", "U8", "[1]", "[0,1]")+","+tensor("b", "U8", "[1]", "[3,4]")+"}", 4), `tensor "b" at 116: 2 bytes in front of it belong to no tensor`},
	{"data-overlap", file("{"+tensor("a", "U8", "[2]", "[0,2]")+","+tensor("b", "U8", "[2]", "[1,3]")+"}", 3), `tensor "b" at 114: overlaps tensor "a", which ends at 115`},
	{"nested-too-deep", file(`{"a":{"x":`+strings.Repeat("[", 5000)+strings.Repeat("]", 5000)+"}}", 0), `JSON: nested too deep`},
	{"field-no-value", file(`{"a":{"x":}}`, 0), `at byte 18: JSON: no value`},
	{"field-bad-value", file(`{"a":{"x":nul}}`, 0), `at byte 18: JSON: no value`},
}

func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func checkError(t *testing.T, err error) {
	t.Helper()
	if !errors.Is(err, ErrFormat) {
		t.Errorf("%v: is not ErrFormat", err)
	}
	if s := err.Error(); !strings.HasPrefix(s, "safetensors: m.safetensors: ") || strings.Contains(s, "\n") || len(s) > 500 {
		t.Errorf("not one line that names the file: %q", s)
	}
}

func TestBrokenFiles(t *testing.T) {
	for _, c := range broken {
		t.Run(c.name, func(t *testing.T) {
			var f *File
			var err error
			n := allocated(func() { f, err = Read(bytes.NewReader(c.file), int64(len(c.file)), "m.safetensors") })
			if err == nil {
				t.Fatalf("no error; read %+v", f)
			}
			checkError(t, err)
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q does not say %q", err, c.want)
			}
			if limit := uint64(16*len(c.file) + 1<<16); n > limit {
				t.Errorf("%d bytes allocated for a file of %d", n, len(c.file))
			}
		})
	}
}

func sample(t testing.TB) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := Write(&buf, []Tensor{
		{Name: "a", DType: F32, Shape: []int{2, 3}},
		{Name: "b", DType: U8, Shape: []int{5}},
	}, map[string]string{"format": "pt"}, fillWith); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

// TestTruncatedAnywhere cuts a sound file at every byte: no prefix may be accepted, none may panic.
func TestTruncatedAnywhere(t *testing.T) {
	b := sample(t)
	for n := range len(b) {
		if _, err := Read(bytes.NewReader(b[:n]), int64(n), "m.safetensors"); err == nil {
			t.Fatalf("%d of %d bytes were accepted", n, len(b))
		} else if checkError(t, err); t.Failed() {
			t.Fatalf("at %d bytes", n)
		}
	}
}

// TestManySmallTensors is the worst case for memory.
func TestManySmallTensors(t *testing.T) {
	h := []string{}
	for i := range 20000 {
		h = append(h, fmt.Sprintf(`"%05d":{"dtype":"U8","shape":[],"data_offsets":[%d,%d]}`, i, i, i+1))
	}
	b := file("{"+strings.Join(h, ",")+"}", 20000)
	n := allocated(func() {
		if _, err := Read(bytes.NewReader(b), int64(len(b)), "m.safetensors"); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("%d bytes of file, %d allocated", len(b), n)
	if n > 16*uint64(len(b)) {
		t.Errorf("%d bytes allocated for a file of %d", n, len(b))
	}
}

func TestIndex(t *testing.T) {
	x, err := ReadIndex([]byte(`{"metadata": {"total_size": 12.5, "x": [null, true, {"y": "z"}]},
		"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors", "c": "model-00001-of-00002.safetensors"}}`), "i.json")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(&Index{
		Shard: map[string]string{"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors", "c": "model-00001-of-00002.safetensors"},
		Files: []string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"},
	}, x); d != "" {
		t.Error(d)
	}
	for _, c := range []struct{ index, want string }{
		{``, `the JSON ends where '{' should come`},
		{`{}`, `no weight_map`},
		{`{"weight_map": 3}`, `JSON: '3' where '{' should come`},
		{`{"weight_map": {"a": "../../etc/passwd"}}`, `tensor "a": file "../../etc/passwd" is not a name in the same folder`},
		{`{"weight_map": {"a": "/etc/passwd"}}`, `is not a name in the same folder`},
		{`{"weight_map": {"a": "x\\y"}}`, `is not a name in the same folder`},
		{`{"weight_map": {"a": ".."}}`, `is not a name in the same folder`},
		{`{"weight_map": {"a": ""}}`, `is not a name in the same folder`},
		{`{"weight_map": {"a": "x", "a": "y"}}`, `tensor "a" stands twice`},
		{`{"weight_map": {}, "weight_map": {}}`, `weight_map stands twice`},
		{"{\"\xff\": 1}", `not UTF-8`},
	} {
		_, err := ReadIndex([]byte(c.index), "i.json")
		if !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), "safetensors: i.json: ") {
			t.Errorf("%s: %v, want %q", c.index, err, c.want)
		}
	}
}

var errDisk = errors.New("input/output error")

// failing fails from an offset on, like a disk.
type failing struct {
	*bytes.Reader
	off int64
}

func (e failing) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > e.off {
		return 0, errDisk
	}
	return e.Reader.ReadAt(p, off)
}

func TestReadErrorIsPassedOn(t *testing.T) {
	b := sample(t)
	for _, off := range []int64{0, 70} {
		if _, err := Read(failing{bytes.NewReader(b), off}, int64(len(b)), "m"); !errors.Is(err, errDisk) || errors.Is(err, ErrFormat) {
			t.Errorf("at %d: %v", off, err)
		}
	}
}

func TestWriteErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		ts   []Tensor
		meta map[string]string
		data func(io.Writer, Tensor) error
		want string
	}{
		{"duplicate", []Tensor{{Name: "a", DType: U8}, {Name: "a", DType: U8}}, nil, fillWith, `tensor "a"`},
		{"reserved name", []Tensor{{Name: "__metadata__", DType: U8}}, nil, fillWith, `tensor "__metadata__"`},
		{"not UTF-8", []Tensor{{Name: "\xff", DType: U8}}, nil, fillWith, `tensor "\xff"`},
		{"metadata not UTF-8", nil, map[string]string{"a": "\xff"}, fillWith, `metadata "a"`},
		{"unknown dtype", []Tensor{{Name: "a", DType: "F5"}}, nil, fillWith, `tensor "a": F5`},
		{"negative shape", []Tensor{{Name: "a", DType: U8, Shape: []int{-1}}}, nil, fillWith, `tensor "a"`},
		{"too few bytes", []Tensor{{Name: "a", DType: F32, Shape: []int{2}}}, nil, func(w io.Writer, _ Tensor) error { _, err := w.Write(make([]byte, 5)); return err }, `tensor "a": 3 of 8 bytes missing`},
		{"too many bytes", []Tensor{{Name: "a", DType: F32, Shape: []int{2}}}, nil, func(w io.Writer, _ Tensor) error { _, err := w.Write(make([]byte, 9)); return err }, `tensor "a": more bytes than`},
	} {
		err := Write(io.Discard, c.ts, c.meta, c.data)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

// FuzzRead looks for files that make Read panic or accept a lie.
func FuzzRead(f *testing.F) {
	for _, c := range broken {
		f.Add(c.file)
	}
	f.Add(sample(f))
	for _, path := range []string{"testdata/python.safetensors", "testdata/torch.safetensors"} {
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := Read(bytes.NewReader(b), int64(len(b)), "m")
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("%v is of no kind", err)
			}
			return
		}
		var used int64
		for _, x := range g.Tensors {
			n, ok := x.DType.size(x.Shape)
			if !ok || n != x.Size || x.Offset < 8 || x.Offset+x.Size > int64(len(b)) || g.Tensor(x.Name).Offset != x.Offset {
				t.Fatalf("%+v in %d bytes", x, len(b))
			}
			used += x.Size
		}
		if used > int64(len(b)) {
			t.Fatalf("%d bytes of tensors in %d", used, len(b))
		}
		var buf bytes.Buffer
		if err := Write(&buf, g.Tensors, g.Metadata, fillWith); err != nil {
			t.Fatal(err)
		}
		h, err := Read(bytes.NewReader(buf.Bytes()), int64(buf.Len()), "m")
		if err != nil {
			t.Fatalf("what was written is refused: %v", err)
		}
		if d := cmp.Diff(g.Tensors, h.Tensors, cmpopts.IgnoreFields(Tensor{}, "Offset"), cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
		if d := cmp.Diff(g.Metadata, h.Metadata, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}

func FuzzReadIndex(f *testing.F) {
	f.Add([]byte(`{"metadata": {"total_size": 12}, "weight_map": {"a": "x.safetensors", "b\u00e9": "y"}}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		x, err := ReadIndex(b, "i.json")
		if err != nil {
			if !errors.Is(err, ErrFormat) {
				t.Fatalf("%v is of no kind", err)
			}
			return
		}
		for _, name := range x.Files {
			if strings.ContainsAny(name, "/\\\x00") || name == "" || name == ".." {
				t.Fatalf("file %q", name)
			}
		}
	})
}

func TestWriteReadIsEqualForAll(t *testing.T) {
	dtypes := []DType{}
	for d := range dtypeBits {
		dtypes = append(dtypes, d)
	}
	rapid.Check(t, func(t *rapid.T) {
		var tensors []Tensor
		for _, n := range rapid.SliceOfDistinct(rapid.StringN(0, 20, -1), rapid.ID).Draw(t, "names") {
			if n == "__metadata__" {
				continue
			}
			x := Tensor{Name: n, DType: rapid.SampledFrom(dtypes).Draw(t, "dtype")}
			x.Shape = rapid.SliceOfN(rapid.IntRange(0, 5), 0, 4).Draw(t, "shape")
			if b := dtypeBits[x.DType]; b%8 != 0 {
				x.Shape = append(x.Shape, 4)
			}
			tensors = append(tensors, x)
		}
		meta := rapid.MapOf(rapid.String(), rapid.String()).Draw(t, "metadata")
		var buf bytes.Buffer
		if err := Write(&buf, tensors, meta, fillWith); err != nil {
			t.Fatal(err)
		}
		f, err := Read(bytes.NewReader(buf.Bytes()), int64(buf.Len()), "m")
		if err != nil {
			t.Fatal(err)
		}
		byName := cmpopts.SortSlices(func(a, b Tensor) bool { return a.Name < b.Name }) // empty ones share an offset
		if d := cmp.Diff(tensors, f.Tensors, byName, cmpopts.IgnoreFields(Tensor{}, "Offset", "Size"), cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
		if d := cmp.Diff(meta, f.Metadata, cmpopts.EquateEmpty()); d != "" {
			t.Fatal(d)
		}
	})
}
