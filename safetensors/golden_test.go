package safetensors

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var python = flag.String("python", "", "a Python with tools/reference/requirements.txt: what Write writes is also read by its safetensors package")

// TestPythonReadsOurFile lets the reference reader have what we write.
func TestPythonReadsOurFile(t *testing.T) {
	if *python == "" {
		t.Skip("SKIPPED: no -python given")
	}
	tensors := []Tensor{
		{Name: "a", DType: F32, Shape: []int{2, 3}},
		{Name: "scalar", DType: F64},
		{Name: "empty", DType: BF16, Shape: []int{0, 4}},
		{Name: "é\"\\\n", DType: BF16, Shape: []int{2}},
		{Name: "packed", DType: U8, Shape: []int{3, 5}},
	}
	var buf bytes.Buffer
	if err := Write(&buf, tensors, map[string]string{"format": "pt", "x": "<\u2028>"}, fillWith); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "m.safetensors")
	if err := os.WriteFile(path, buf.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(*python, "../tools/reference/formats.py", "--check", path).Output()
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Tensors  map[string][3]any
		Metadata map[string]string
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]string{"format": "pt", "x": "<\u2028>"}, got.Metadata); d != "" {
		t.Error(d)
	}
	data := func(n int, v byte) string {
		return base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{v}, n))
	}
	if d := cmp.Diff(map[string][3]any{
		"a":       {"float32", []any{2., 3.}, data(24, 1)},
		"scalar":  {"float64", []any{}, ""},
		"empty":   {"bfloat16", []any{0., 4.}, ""},
		"é\"\\\n": {"bfloat16", []any{2.}, data(4, 5)},
		"packed":  {"uint8", []any{3., 5.}, data(15, 6)},
	}, got.Tensors); d != "" {
		t.Error(d)
	}
}

// TestReferenceFiles reads files that the Hugging Face library wrote (tools/reference/formats.py).
func TestReferenceFiles(t *testing.T) {
	type info struct {
		DType DType
		Shape []int
		Bytes string
	}
	for path, want := range map[string]map[string]info{
		"testdata/python.safetensors": {
			"a":      {F32, []int{2, 3}, "\x00\x00\x00\x00\x00\x00\x80?\x00\x00\x00@\x00\x00@@\x00\x00\x80@\x00\x00\xa0@"},
			"b":      {U8, []int{2, 2}, "\x01\x02\x03\x04"},
			"scalar": {I64, nil, "\x07\x00\x00\x00\x00\x00\x00\x00"},
			"empty":  {F16, []int{0, 3}, ""},
			"é":      {Bool, []int{2}, "\x01\x00"},
		},
		"testdata/torch.safetensors": {
			"w": {BF16, []int{1, 3}, "\xc0?\x00\xc0P@"},
			"h": {F16, []int{2}, "\x008\xff{"},
		},
	} {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		f, err := Read(bytes.NewReader(b), int64(len(b)), path)
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]info{}
		for _, x := range f.Tensors {
			got[x.Name] = info{x.DType, x.Shape, string(b[x.Offset:][:x.Size])}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", path, d)
		}
		if f.Metadata["format"] == "" {
			t.Errorf("%s: metadata %v", path, f.Metadata)
		}
	}
}
