package safetensors

import (
	"bytes"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
)

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
