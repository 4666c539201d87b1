package gguf

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"flag"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var python = flag.String("python", "", "a Python with tools/reference/requirements.txt: what Write writes is also read by its gguf package")

// TestPythonReadsOurFile writes a file with every kind of value and lets the reference reader have it.
func TestPythonReadsOurFile(t *testing.T) {
	if *python == "" {
		t.Skip("SKIPPED: no -python given")
	}
	kv, tensors := sample()
	// The fields that the package has types for.
	tensors = []Tensor{tensors[0], tensors[2], tensors[3], {Name: "q8", Type: Q8_0, Shape: []int{2, 64}}, {Name: "q6", Type: Q6_K, Shape: []int{1, 256}}}
	path := filepath.Join(t.TempDir(), "m.gguf")
	if err := os.WriteFile(path, write(t, kv, tensors), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(*python, "../tools/reference/formats.py", "--check", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Tensors  map[string][3]any
		Metadata map[string]any
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Tensors) != len(tensors) {
		t.Errorf("%d tensors, want %d", len(got.Tensors), len(tensors))
	}
	for _, x := range tensors {
		g := got.Tensors[x.Name]
		if g[0] != strings.ToUpper(x.Type.String()) {
			t.Errorf("%s: type %v", x.Name, g[0])
		}
		for i, n := range g[1].([]any) { // ggml's order
			if int(n.(float64)) != x.Shape[len(x.Shape)-1-i] {
				t.Errorf("%s: shape %v, want the reverse of %v", x.Name, g[1], x.Shape)
			}
		}
		size, _ := x.Type.Size(x.Shape...)
		if want := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{byte(len(x.Name))}, int(size))); g[2] != want {
			t.Errorf("%s: other bytes", x.Name)
		}
	}
	want, err := json.Marshal(func() map[string]any {
		m := map[string]any{}
		for _, p := range kv {
			if b, ok := p.Value.([]uint8); ok { // json has its own idea of bytes
				p.Value = convert[int64](b)
			}
			if s, ok := p.Value.([]string); ok && len(s) == 0 {
				continue // the package drops it
			}
			m[p.Key] = p.Value
		}
		return m
	}())
	if err != nil {
		t.Fatal(err)
	}
	var wantKV map[string]any
	if err := json.Unmarshal(want, &wantKV); err != nil {
		t.Fatal(err)
	}
	delete(got.Metadata, "a.empty")
	if d := cmp.Diff(wantKV, got.Metadata); d != "" {
		t.Error(d)
	}
}

func readFile(t testing.TB, path string) *File {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Read(bytes.NewReader(b), int64(len(b)), path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestPythonFile reads testdata/python.gguf, written by the Python package gguf
// (tools/reference/formats.py).
func TestPythonFile(t *testing.T) {
	f := readFile(t, "testdata/python.gguf")
	want := KV{
		{"general.architecture", "bitnet-b1.58"},
		{"bitnet-b1.58.block_count", uint32(2)},
		{"bitnet-b1.58.attention.layer_norm_rms_epsilon", float32(1e-5)},
		{"t.u8", uint8(200)},
		{"t.i64", int64(-1 << 40)},
		{"t.f64", 0.1},
		{"t.bool", true},
		{"tokenizer.ggml.tokens", []string{"<s>", "a", "Ġé"}},
		{"tokenizer.ggml.scores", []float32{0, -1, -2.5}},
		{"tokenizer.ggml.token_type", []int32{3, 1, 1}},
		{"t.ints", []int32{1, -2, 3}},
	}
	if d := cmp.Diff(want, f.KV); d != "" {
		t.Error(d)
	}
	type info struct {
		Type  Type
		Shape []int
		Size  int64
	}
	got := map[string]info{}
	for _, x := range f.Tensors {
		got[x.Name] = info{x.Type, x.Shape, x.Size}
	}
	if d := cmp.Diff(map[string]info{
		"a.f32": {F32, []int{2, 3}, 24},
		"b.f16": {F16, []int{3, 2, 2}, 24},
		"c.tq1": {TQ1_0, []int{2, 256}, 108},
		"d.q8":  {Q8_0, []int{1, 64}, 68},
	}, got); d != "" {
		t.Error(d)
	}
}

// TestGoldenTypes compares with llama.cpp's quantisers and dequantisers, bit for bit. Q6_K is stored
// by a search of our own: there the error must be as small as llama.cpp's.
func TestGoldenTypes(t *testing.T) {
	b, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var g struct {
		Types []struct {
			Name         string
			X, Packed, Y []byte
		}
	}
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	floats := func(b []byte) []float32 {
		f := make([]float32, len(b)/4)
		for i := range f {
			f[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
		return f
	}
	for _, v := range g.Types {
		t.Run(v.Name, func(t *testing.T) {
			typ := map[string]Type{"f32": F32, "f16": F16, "bf16": BF16, "q8_0": Q8_0, "q4_0": Q4_0, "q6_k": Q6_K}[v.Name]
			x, want := floats(v.X), floats(v.Y)
			got := make([]float32, len(want))
			if err := Dequantize(got, typ, v.Packed); err != nil {
				t.Fatal(err)
			}
			for i := range got {
				if got[i] != want[i] {
					t.Fatalf("value %d is %v, want %v", i, got[i], want[i])
				}
			}
			packed := make([]byte, len(v.Packed))
			if err := Quantize(packed, typ, x); err != nil {
				t.Fatal(err)
			}
			if typ != Q6_K {
				if !bytes.Equal(packed, v.Packed) {
					t.Errorf("packed bytes differ:\n got %x\nwant %x", packed, v.Packed)
				}
				return
			}
			if err := Dequantize(got, typ, packed); err != nil {
				t.Fatal(err)
			}
			for lo := 0; lo < len(x); lo += 256 {
				var ours, theirs float64
				for i := lo; i < lo+256; i++ {
					ours += math.Pow(float64(got[i]-x[i]), 2)
					theirs += math.Pow(float64(want[i]-x[i]), 2)
				}
				t.Logf("values %d to %d: squared error %.3g, llama.cpp %.3g", lo, lo+256, ours, theirs)
				if ours > 1.02*theirs {
					t.Errorf("values %d to %d: squared error %g, llama.cpp %g", lo, lo+256, ours, theirs)
				}
			}
		})
	}
}

// TestBlocksAsPython decodes blocks of random bytes of every type as the Python package gguf does, to the last bit.
func TestBlocksAsPython(t *testing.T) {
	data, err := os.ReadFile("testdata/blocks.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Types []struct {
			Name      string
			Packed, Y []byte
		}
	}
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	names := map[string]Type{}
	for typ := range decoders {
		names[typ.String()] = typ
	}
	for _, g := range golden.Types {
		typ, ok := names[g.Name]
		if !ok {
			t.Errorf("%s is not decoded", g.Name)
			continue
		}
		delete(names, g.Name)
		got := make([]float32, len(g.Y)/4)
		if err := Dequantize(got, typ, g.Packed); err != nil {
			t.Error(err)
		}
		for i, v := range got {
			if want := binary.LittleEndian.Uint32(g.Y[4*i:]); math.Float32bits(v) != want {
				t.Errorf("%s: weight %d is %g, want %g", g.Name, i, v, math.Float32frombits(want))
				break
			}
		}
	}
	for name, typ := range names {
		if typeInfos[typ].block > 1 {
			t.Errorf("%s has no vectors", name)
		}
	}
}
