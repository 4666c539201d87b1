package safetensors

import (
	"bytes"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func fillWith(w io.Writer, t Tensor) error {
	_, err := w.Write(bytes.Repeat([]byte{byte(len(t.Name))}, int(t.Size)))
	return err
}

func TestWriteReadIsEqual(t *testing.T) {
	tensors := []Tensor{
		{Name: "a", DType: F32, Shape: []int{2, 3}},
		{Name: "scalar", DType: F64, Shape: nil},
		{Name: "empty", DType: BF16, Shape: []int{0, 4}},
		{Name: "model.layers.0.mlp.up_proj.weight", DType: U8, Shape: []int{3, 5}},
		{Name: "é\"\\\n", DType: F4, Shape: []int{2}},
	}
	meta := map[string]string{"format": "pt", "x\t": "<y>"}
	var buf bytes.Buffer
	if err := Write(&buf, tensors, meta, fillWith); err != nil {
		t.Fatal(err)
	}
	b := buf.Bytes()
	f, err := Read(bytes.NewReader(b), int64(len(b)), "m.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(meta, f.Metadata); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff(tensors, f.Tensors, cmpopts.IgnoreFields(Tensor{}, "Offset", "Size")); d != "" {
		t.Error(d)
	}
	if f.Tensors[0].Offset%64 != 0 {
		t.Errorf("data at %d", f.Tensors[0].Offset)
	}
	for _, x := range f.Tensors {
		for _, c := range b[x.Offset : x.Offset+x.Size] {
			if int(c) != len(x.Name) {
				t.Fatalf("%s: wrong bytes", x.Name)
			}
		}
	}
}
