package gguf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"runtime"
	"strings"
	"testing"
)

// raw builds a GGUF file field by field, so that any field can lie.
type raw []byte

func (r *raw) u32(v uint32)  { *r = binary.LittleEndian.AppendUint32(*r, v) }
func (r *raw) u64(v uint64)  { *r = binary.LittleEndian.AppendUint64(*r, v) }
func (r *raw) str(s string)  { r.u64(uint64(len(s))); *r = append(*r, s...) }
func (r *raw) pad(n int)     { *r = append(*r, make([]byte, (n-len(*r)%n)%n)...) }
func (r *raw) bytes(n int)   { *r = append(*r, make([]byte, n)...) }
func (r *raw) key(k string)  { r.str(k); r.u32(kindString); r.str("v") }
func (r *raw) arch(a string) { r.str("general.architecture"); r.u32(kindString); r.str(a) }

func (r *raw) header(version uint32, tensors, kv uint64) {
	*r = append(*r, "GGUF"...)
	r.u32(version)
	r.u64(tensors)
	r.u64(kv)
}

// info is a tensor info, dims in file order.
func (r *raw) info(name string, t Type, off uint64, dims ...uint64) {
	r.str(name)
	r.u32(uint32(len(dims)))
	for _, d := range dims {
		r.u64(d)
	}
	r.u32(uint32(t))
	r.u64(off)
}

// one is a file with one tensor of size bytes.
func one(arch string, t Type, size int, dims ...uint64) raw {
	var r raw
	r.header(3, 1, 1)
	r.arch(arch)
	r.info("blk.0.ffn_up.weight", t, 0, dims...)
	r.pad(32)
	r.bytes(size)
	return r
}

// broken lists files by defect, with what their error must say.
var broken = []struct {
	name  string
	build func(r *raw)
	want  string
	is    error // ErrFormat unless set
}{
	{"empty", func(r *raw) {}, `the file is empty; download it again`, nil},
	{"two-bytes", func(r *raw) { *r = raw("GG") }, `the file ends inside the header; download it again`, nil},
	{"magic-only", func(r *raw) { *r = raw("GGUF") }, `at byte 4: 4 more bytes needed, but the file ends after 0; download it again`, nil},
	{"wrong-magic", func(r *raw) { *r = raw("MLUF\x03\x00\x00\x00") }, `no GGUF file (the first bytes are "MLUF"`, nil},
	{"ggjt", func(r *raw) { *r = raw("tjgg\x03\x00\x00\x00") }, `a ggml file from before GGUF; convert the model again`, nil},
	{"git-lfs-pointer", func(r *raw) { *r = raw("version https://git-lfs.github.com/spec/v1\noid sha256:12") }, `a git-lfs pointer, not the model; fetch it with git lfs pull`, nil},
	{"web-page", func(r *raw) { *r = raw("<!DOCTYPE html><title>Sign in</title>") }, `a web page, not the model`, nil},
	{"pytorch-zip", func(r *raw) { *r = raw("PK\x03\x04aaaaaaaa") }, `a zip archive`, nil},
	{"safetensors", func(r *raw) { *r = raw("\x40\x00\x00\x00\x00\x00\x00\x00{\"a\":1}") }, `looks like a safetensors file`, nil},
	{"version-1", func(r *raw) { r.header(1, 0, 0) }, `GGUF version 1, want 2 or 3`, errors.ErrUnsupported},
	{"version-9", func(r *raw) { r.header(9, 0, 0) }, `GGUF version 9, want 2 or 3`, errors.ErrUnsupported},
	{"big-endian", func(r *raw) { r.header(3<<24, 0, 0) }, `a big-endian file (version 3); convert it with gguf_convert_endian.py`, errors.ErrUnsupported},
	{"byte-swapped-magic", func(r *raw) { *r = raw("FUGG\x00\x00\x00\x03") }, `a byte-swapped GGUF file`, nil},
	{"huge-key-count", func(r *raw) { r.header(3, 0, 1<<60) }, `1152921504606846976 keys and 0 tensors announced, more than fit into 24 bytes`, nil},
	{"huge-tensor-count", func(r *raw) { r.header(3, 1<<40, 0) }, `1099511627776 tensors announced`, nil},
	{"missing-key", func(r *raw) { r.header(3, 0, 2); r.key("a"); r.bytes(20) }, `metadata entry 1 of 2: at byte`, nil},
	{"empty-key", func(r *raw) { r.header(3, 0, 1); r.str(""); r.bytes(20) }, `key of 0 bytes`, nil},
	{"huge-key", func(r *raw) { r.header(3, 0, 1); r.u64(1 << 50); r.bytes(20) }, `key of 1125899906842624 bytes`, nil},
	{"key-not-utf8", func(r *raw) { r.header(3, 0, 1); r.str("a\xff"); r.u32(kindUint8); r.bytes(20) }, `key "a\xff" is not UTF-8`, nil},
	{"duplicate-key", func(r *raw) { r.header(3, 0, 2); r.key("a.b"); r.key("a.b") }, `key "a.b" at byte 48: stands twice`, nil},
	{"unknown-value-type", func(r *raw) { r.header(3, 0, 1); r.str("k"); r.u32(13); r.bytes(20) }, `key "k" at byte 24: at byte 37: unknown value type 13`, nil},
	{"unknown-element-type", func(r *raw) {
		r.header(3, 0, 1)
		r.str("k")
		r.u32(kindArray)
		r.u32(99)
		r.u64(1)
		r.bytes(20)
	}, `an array of the unknown value type 99`, nil},
	{"nested-array", func(r *raw) {
		r.header(3, 0, 1)
		r.str("k")
		r.u32(kindArray)
		r.u32(kindArray)
		r.u64(1)
		r.bytes(20)
	}, `an array of arrays`, nil},
	{"bool-of-2", func(r *raw) { r.header(3, 0, 1); r.str("k"); r.u32(kindBool); *r = append(*r, 2) }, `a boolean of 2`, nil},
	{"huge-string", func(r *raw) { r.header(3, 0, 1); r.str("k"); r.u32(kindString); r.u64(1 << 62) }, `a string of 4611686018427387904 bytes, but the file ends`, nil},
	{"string-not-utf8", func(r *raw) { r.header(3, 0, 1); r.str("k"); r.u32(kindString); r.str("\xc3") }, `key "k" at byte 24: at byte 46: a string that is not UTF-8`, nil},
	{"huge-array", func(r *raw) {
		r.header(3, 0, 1)
		r.str("k")
		r.u32(kindArray)
		r.u32(kindFloat32)
		r.u64(1 << 61)
		r.bytes(40)
	}, `an array of 2305843009213693952 elements of 4 bytes`, nil},
	{"huge-string-array", func(r *raw) {
		r.header(3, 0, 1)
		r.str("k")
		r.u32(kindArray)
		r.u32(kindString)
		r.u64(1 << 40)
		r.bytes(40)
	}, `an array of 1099511627776 strings`, nil},
	{"string-array-cut", func(r *raw) {
		r.header(3, 0, 1)
		r.str("k")
		r.u32(kindArray)
		r.u32(kindString)
		r.u64(2)
		r.str("abc")
		r.u64(9)
	}, `a string of 9 bytes, but the file ends after 0`, nil},
	{"alignment-0", func(r *raw) { r.header(3, 0, 1); r.str("general.alignment"); r.u32(kindUint32); r.u32(0) }, `key "general.alignment" is 0, want a power of two`, nil},
	{"alignment-24", func(r *raw) { r.header(3, 0, 1); r.str("general.alignment"); r.u32(kindUint32); r.u32(24) }, `is 24, want a power of two up to`, nil},
	{"alignment-string", func(r *raw) { r.header(3, 0, 1); r.key("general.alignment") }, `key "general.alignment" is a string, want a uint32`, nil},
	{"alignment-uint64", func(r *raw) { r.header(3, 0, 1); r.str("general.alignment"); r.u32(kindUint64); r.u64(32) }, `key "general.alignment" is a uint64, want a uint32`, nil},
	{"tensor-name-empty", func(r *raw) { r.header(3, 1, 0); r.str(""); r.bytes(64) }, `tensor 0 of 1: at byte 32: tensor name of 0 bytes`, nil},
	{"tensor-name-of-64-bytes", func(r *raw) { r.header(3, 1, 0); r.str(strings.Repeat("n", 64)); r.bytes(64) }, `tensor 0 of 1: at byte 32: tensor name of 64 bytes, want 1 to 63`, nil},
	{"tensor-name-not-utf8", func(r *raw) { r.header(3, 1, 0); r.str("\xfe"); r.bytes(64) }, `tensor name "\xfe" is not UTF-8`, nil},
	{"duplicate-tensor", func(r *raw) {
		r.header(3, 2, 0)
		r.info("a", F32, 0, 4)
		r.info("a", F32, 32, 4)
		r.bytes(99)
	}, `tensor 1 of 2: "a" at byte 57: stands twice`, nil},
	{"five-dimensions", func(r *raw) { r.header(3, 1, 0); r.info("a", F32, 0, 1, 1, 1, 1, 1); r.bytes(64) }, `5 dimensions`, nil},
	{"huge-dimension-count", func(r *raw) { r.header(3, 1, 0); r.str("a"); r.u32(1 << 31); r.bytes(64) }, `2147483648 dimensions`, nil},
	{"dimension-0", func(r *raw) { r.header(3, 1, 0); r.info("a", F32, 0, 4, 0); r.bytes(64) }, `dimension 1 is 0`, nil},
	{"dimension-beyond-int", func(r *raw) { r.header(3, 1, 0); r.info("a", F32, 0, 1<<63); r.bytes(64) }, `dimension 0 is 9223372036854775808`, nil},
	{"dimensions-overflow", func(r *raw) {
		r.header(3, 1, 0)
		r.info("a", F32, 0, 1<<32, 1<<32)
		r.bytes(64)
	}, `tensor "a" at 96: shape [4294967296 4294967296] is too large`, nil},
	{"unknown-tensor-type", func(r *raw) { *r = one("llama", 77, 64, 4) }, `tensor "blk.0.ffn_up.weight" at 128: storage type 77 is not known`, errors.ErrUnsupported},
	{"type-beyond-16-bits", func(r *raw) { *r = one("llama", 1<<20, 64, 4) }, `storage type 1048576 is not known`, errors.ErrUnsupported},
	{"variant-type-number", func(r *raw) { *r = one("llama", Q2_0G128, 64, 128) }, `storage type 65578 is not known`, errors.ErrUnsupported},
	{"offset-not-aligned", func(r *raw) {
		r.header(3, 2, 0)
		r.info("a", F32, 0, 4)
		r.info("b", F32, 16, 4)
		r.pad(32)
		r.bytes(64)
	}, `tensor "b": offset 16, but tensor "a" in front of it (f32 [4], 16 bytes) makes it 32: an overlap`, nil},
	{"first-offset-not-0", func(r *raw) { r.header(3, 1, 0); r.info("a", F32, 32, 4); r.bytes(99) }, `tensor "a": offset 32, and the first tensor's is 0`, nil},
	{"hole", func(r *raw) { // the type number says bf16 where f32 was written
		r.header(3, 2, 0)
		r.info("a", BF16, 0, 16)
		r.info("b", F32, 64, 8)
		r.pad(32)
		r.bytes(96)
	}, `tensor "b": offset 64, but tensor "a" in front of it (bf16 [16], 32 bytes) makes it 32: a hole`, nil},
	{"not-in-order", func(r *raw) {
		r.header(3, 2, 0)
		r.info("a", F32, 32, 8)
		r.info("b", F32, 0, 8)
		r.pad(32)
		r.bytes(64)
	}, `tensor "a": offset 32, and the first tensor's is 0`, nil},
	{"offset-past-file", func(r *raw) { r.header(3, 1, 0); r.info("a", F32, 1<<40, 4); r.bytes(99) }, `"a" at byte 24: offset 1099511627776 lies past the file of`, nil},
	{"offset-wraps", func(r *raw) { r.header(3, 1, 0); r.info("a", F32, math.MaxUint64-31, 4); r.bytes(99) }, `offset 18446744073709551584 lies past the file`, nil},
	{"data-cut", func(r *raw) { *r = one("llama", F32, 63, 16) }, `tensor "blk.0.ffn_up.weight" at 128: ends past the file (64 bytes needed, 63 there); download it again`, nil},
	{"data-missing", func(r *raw) { r.header(3, 1, 0); r.info("a", F32, 0, 4) }, `tensor "a" at 64: ends past the file (16 bytes needed, 0 there)`, nil},
	{"overlap", func(r *raw) {
		r.header(3, 2, 0)
		r.info("a", F32, 0, 16)
		r.info("b", F32, 32, 8)
		r.pad(32)
		r.bytes(64)
	}, `tensor "b": offset 32, but tensor "a" in front of it (f32 [16], 64 bytes) makes it 64: an overlap`, nil},
	{"same-offset", func(r *raw) {
		r.header(3, 2, 0)
		r.info("a", F32, 0, 8)
		r.info("b", F32, 0, 8)
		r.pad(32)
		r.bytes(64)
	}, `tensor "b": offset 0, but tensor "a"`, nil},
	{"columns-not-whole-blocks", func(r *raw) { *r = one("llama", TQ1_0, 64, 128) }, `128 columns is not a multiple of 256, the block of tq1_0`, nil},
	{"tl1", func(r *raw) { *r = one("bitnet", TL1, 4096, 256, 16) }, `type tl1 is shuffled for one machine's kernels and cannot be read; convert the model again as i2_s`, errors.ErrUnsupported},
	{"tl2", func(r *raw) { *r = one("bitnet-b1.58", MXFP4, 4096, 256, 16) }, `type tl2 is shuffled`, errors.ErrUnsupported},
	{"tl2-in-llama", func(r *raw) { *r = one("llama", MXFP4, 42368, 1536, 128) }, `type tl2 is shuffled`, errors.ErrUnsupported},
	{"iq2_tn-under-142", func(r *raw) { *r = one("llama", PQ2_0, 4*(4+128), 512, 4) }, `type number 142 is pq2_0, but the size is not; iq2_tn`, errors.ErrUnsupported},
}

// allocated returns the bytes that fn allocates.
func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// checkError holds an error of Read to the rules: one line, the file's name, the right kind.
func checkError(t *testing.T, err, is error) {
	t.Helper()
	if is == nil {
		is = ErrFormat
	}
	if !errors.Is(err, is) {
		t.Errorf("%v: is not %v", err, is)
	}
	if s := err.Error(); !strings.HasPrefix(s, "gguf: m.gguf: ") || strings.Contains(s, "\n") || len(s) > 500 {
		t.Errorf("not one line that names the file: %q", s)
	}
}

func TestBrokenFiles(t *testing.T) {
	for _, c := range broken {
		t.Run(c.name, func(t *testing.T) {
			var r raw
			c.build(&r)
			var f *File
			var err error
			n := allocated(func() { f, err = Read(bytes.NewReader(r), int64(len(r)), "m.gguf") })
			if err == nil {
				t.Fatalf("no error; read %+v", f)
			}
			checkError(t, err, c.is)
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("%q does not say %q", err, c.want)
			}
			if limit := uint64(16*len(r) + 1<<18); n > limit { // the reader's buffer is 64 KiB
				t.Errorf("%d bytes allocated for a file of %d", n, len(r))
			}
		})
	}
}

// TestTruncatedAnywhere cuts a sound file at every byte: no prefix may be accepted, none may panic.
func TestTruncatedAnywhere(t *testing.T) {
	kv, tensors := sample()
	b := write(t, kv, tensors)
	f, err := Read(bytes.NewReader(b), int64(len(b)), "m.gguf")
	if err != nil {
		t.Fatal(err)
	}
	last := f.Tensors[len(f.Tensors)-1]
	for n := range int(last.Offset + last.Size) { // behind it there is only padding
		if _, err := Read(bytes.NewReader(b[:n]), int64(n), "m.gguf"); err == nil {
			t.Fatalf("%d of %d bytes were accepted", n, len(b))
		} else if checkError(t, err, nil); t.Failed() {
			t.Fatalf("at %d bytes", n)
		}
	}
}

// TestManySmallEntries is the worst case for memory: the shortest strings, keys and tensors.
func TestManySmallEntries(t *testing.T) {
	var kv KV
	var tensors []Tensor
	for i := range 20000 {
		kv = append(kv, Pair{fmt.Sprintf("%05d", i), uint8(i)})
		tensors = append(tensors, Tensor{Name: fmt.Sprintf("%05d", i), Type: I8, Shape: []int{1}})
	}
	kv = append(kv, Pair{"s", make([]string, 200000)}, Pair{"b", make([]bool, 300000)})
	var buf bytes.Buffer
	if err := Write(&buf, kv, tensors, fillWith); err != nil {
		t.Fatal(err)
	}
	b := buf.Bytes()
	n := allocated(func() {
		if _, err := Read(bytes.NewReader(b), int64(len(b)), "m.gguf"); err != nil {
			t.Fatal(err)
		}
	})
	t.Logf("%d bytes of file, %d allocated", len(b), n)
	if n > 16*uint64(len(b)) {
		t.Errorf("%d bytes allocated for a file of %d", n, len(b))
	}
}

// TestCollisions reads type numbers that mean different things in different files.
func TestCollisions(t *testing.T) {
	for _, c := range []struct {
		name string
		file raw
		want Type
	}{
		{"q2_0 of llama.cpp", one("qwen3", Q2_0, 4*36, 128, 4), Q2_0},
		{"q2_0 of Prism's earlier files", one("qwen3", Q2_0, 4*34, 128, 4), Q2_0G128},
		{"stq1_0 of Tencent", one("hunyuan-dense", Q2_0, 4*42, 256, 4), STQ1_0},
		{"mxfp4", one("gpt-oss", MXFP4, 4*68, 128, 4), MXFP4},
		{"pq2_0", one("qwen3", PQ2_0, 4*34, 128, 4), PQ2_0},
		{"ptq1_0", one("qwen3", PTQ1_0, 4*28, 128, 4), PTQ1_0},
	} {
		f, err := Read(bytes.NewReader(c.file), int64(len(c.file)), "m.gguf")
		if err != nil {
			t.Errorf("%s: %v", c.name, err)
		} else if got := f.Tensors[0].Type; got != c.want {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestWhatGgmlTakes: what is unusual and sound is read.
func TestWhatGgmlTakes(t *testing.T) {
	build := func(fn func(r *raw)) raw {
		var r raw
		fn(&r)
		return r
	}
	for name, b := range map[string]raw{
		"a single number without dimensions": build(func(r *raw) { r.header(3, 1, 0); r.info("a", F32, 0); r.pad(32); r.bytes(4) }),
		"alignment 1": build(func(r *raw) {
			r.header(3, 2, 1)
			r.str("general.alignment")
			r.u32(kindUint32)
			r.u32(1)
			r.info("a", F16, 0, 3)
			r.info("b", F32, 6, 1)
			r.bytes(10)
		}),
		"no tensors":                 build(func(r *raw) { r.header(3, 0, 1); r.key("k") }),
		"bytes behind the last":      append(one("llama", F32, 64, 16), "and more"...),
		"padding missing at the end": one("llama", F32, 20, 5),
		"a name of 63 bytes": build(func(r *raw) {
			r.header(3, 1, 0)
			r.info(strings.Repeat("n", 63), F32, 0, 1)
			r.pad(32)
			r.bytes(4)
		}),
	} {
		if _, err := Read(bytes.NewReader(b), int64(len(b)), "m.gguf"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestVersion2(t *testing.T) {
	var r raw
	r.header(2, 0, 1)
	r.key("k")
	f, err := Read(bytes.NewReader(r), int64(len(r)), "m.gguf")
	if err != nil || f.Version != 2 {
		t.Fatal(f, err)
	}
}

// errorAt fails at an offset, like a disk.
type errorAt struct {
	*bytes.Reader
	off int64
}

var errDisk = errors.New("input/output error")

func (e errorAt) ReadAt(p []byte, off int64) (int, error) {
	if off+int64(len(p)) > e.off {
		n, _ := e.Reader.ReadAt(p[:max(0, e.off-off)], off)
		return n, errDisk
	}
	return e.Reader.ReadAt(p, off)
}

func TestReadErrorIsPassedOn(t *testing.T) {
	kv, tensors := sample()
	b := write(t, kv, tensors)
	for _, off := range []int64{0, 10, 100} {
		_, err := Read(errorAt{bytes.NewReader(b), off}, int64(len(b)), "m.gguf")
		if !errors.Is(err, errDisk) || errors.Is(err, ErrFormat) {
			t.Errorf("at %d: %v", off, err)
		}
	}
}

func TestWriteErrors(t *testing.T) {
	ok := func(w io.Writer, t Tensor) error { return fillWith(w, t) }
	for _, c := range []struct {
		name string
		kv   KV
		ts   []Tensor
		data func(io.Writer, Tensor) error
		want string
	}{
		{"duplicate key", KV{{"a", true}, {"a", true}}, nil, ok, `key "a"`},
		{"empty key", KV{{"", true}}, nil, ok, `key ""`},
		{"bad value", KV{{"a", struct{}{}}}, nil, ok, `key "a": a value of type struct {} cannot be stored`},
		{"nil value", KV{{"a", nil}}, nil, ok, `key "a"`},
		{"alignment", KV{{"general.alignment", uint32(12)}}, nil, ok, `"general.alignment" is 12`},
		{"duplicate tensor", nil, []Tensor{{Name: "a", Type: F32, Shape: []int{1}}, {Name: "a", Type: F32, Shape: []int{1}}}, ok, `tensor "a"`},
		{"unknown type", nil, []Tensor{{Name: "a", Type: 99, Shape: []int{1}}}, ok, `tensor "a": storage type 99`},
		{"bad shape", nil, []Tensor{{Name: "a", Type: TQ1_0, Shape: []int{1, 100}}}, ok, `100 columns`},
		{"five dimensions", nil, []Tensor{{Name: "a", Type: F32, Shape: []int{1, 1, 1, 1, 1}}}, ok, `5 dimensions`},
		{"too few bytes", nil, []Tensor{{Name: "a", Type: F32, Shape: []int{2}}}, func(w io.Writer, _ Tensor) error { _, err := w.Write(make([]byte, 5)); return err }, `tensor "a": 3 of 8 bytes missing`},
		{"too many bytes", nil, []Tensor{{Name: "a", Type: F32, Shape: []int{2}}}, func(w io.Writer, _ Tensor) error { _, err := w.Write(make([]byte, 9)); return err }, `tensor "a": more bytes than`},
		{"data fails", nil, []Tensor{{Name: "a", Type: F32, Shape: []int{2}}}, func(io.Writer, Tensor) error { return errDisk }, `tensor "a": input/output error`},
	} {
		err := Write(io.Discard, c.kv, c.ts, c.data)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	kv, tensors := sample()
	size := len(write(t, kv, tensors))
	for n := range size { // a full disk, at every byte
		if err := Write(&fullDisk{n}, kv, tensors, fillWith); !errors.Is(err, errFull) {
			t.Fatalf("disk of %d bytes: %v", n, err)
		}
	}
}

type fullDisk struct{ left int }

var errFull = errors.New("no space left on device")

func (d *fullDisk) Write(p []byte) (int, error) {
	if len(p) > d.left {
		return d.left, errFull
	}
	d.left -= len(p)
	return len(p), nil
}

// TestLongKeys: keys of any length up to the format's bound are read, and errors about them stay short.
func TestLongKeys(t *testing.T) {
	long := strings.Repeat("k", maxKeyLen)
	for _, twice := range []bool{false, true} {
		var r raw
		r.header(3, 0, 2)
		r.key(long)
		if r.key(long[1:]); twice {
			r = nil
			r.header(3, 0, 2)
			r.key(long)
			r.key(long)
		}
		_, err := Read(bytes.NewReader(r), int64(len(r)), "m.gguf")
		if !twice && err != nil {
			t.Error(err)
		} else if twice {
			checkError(t, err, nil)
		}
	}
}
