package gguf

import (
	"bytes"
	"fmt"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// sample is a small file with every kind of metadata value.
func sample() (KV, []Tensor) {
	kv := KV{
		{"general.architecture", "bitnet-b1.58"},
		{"u8", uint8(200)},
		{"i8", int8(-100)},
		{"u16", uint16(60000)},
		{"i16", int16(-30000)},
		{"u32", uint32(4000000000)},
		{"i32", int32(-2000000000)},
		{"u64", uint64(1 << 63)},
		{"i64", int64(-1 << 62)},
		{"f32", float32(1.5)},
		{"f64", 2.25},
		{"bool", true},
		{"a.u8", []uint8{1, 2}},
		{"a.i8", []int8{-1, 2}},
		{"a.u16", []uint16{1, 2}},
		{"a.i16", []int16{-1, 2}},
		{"a.u32", []uint32{1, 2}},
		{"a.i32", []int32{-1, 2}},
		{"a.u64", []uint64{1, 2}},
		{"a.i64", []int64{-1, 2}},
		{"a.f32", []float32{1, 2}},
		{"a.f64", []float64{1, 2}},
		{"a.bool", []bool{true, false}},
		{"a.str", []string{"a", "", "Ġé"}},
		{"a.empty", []string{}},
	}
	return kv, []Tensor{
		{Name: "token_embd.weight", Type: F16, Shape: []int{3, 64}},
		{Name: "blk.0.attn_q.weight", Type: I2_S, Shape: []int{2, 128}},
		{Name: "output_norm.weight", Type: F32, Shape: []int{5}},
		{Name: "odd.weight", Type: TQ1_0, Shape: []int{2, 3, 256}},
	}
}

// fillWith writes tensors whose bytes all are the tensor's name length.
func fillWith(w io.Writer, t Tensor) error {
	_, err := w.Write(bytes.Repeat([]byte{byte(len(t.Name))}, int(t.Size)))
	return err
}

func write(t testing.TB, kv KV, tensors []Tensor) []byte {
	t.Helper()
	var buf bytes.Buffer
	if err := Write(&buf, kv, tensors, fillWith); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func TestWriteReadIsEqual(t *testing.T) {
	for _, alignment := range []uint32{0, 8, 32, 256} {
		kv, tensors := sample()
		if alignment != 0 {
			kv.Set("general.alignment", alignment)
		}
		b := write(t, kv, tensors)
		f, err := Read(bytes.NewReader(b), int64(len(b)), "sample.gguf")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(kv, f.KV); d != "" {
			t.Error(d)
		}
		if d := cmp.Diff(tensors, f.Tensors, cmpopts.IgnoreFields(Tensor{}, "Offset", "Size")); d != "" {
			t.Error(d)
		}
		for _, x := range f.Tensors {
			if x.Offset%int64(f.Alignment) != 0 {
				t.Errorf("%s at %d", x.Name, x.Offset)
			}
			for _, c := range b[x.Offset : x.Offset+x.Size] {
				if int(c) != len(x.Name) {
					t.Fatalf("%s: wrong bytes", x.Name)
				}
			}
		}
		if x := f.Tensor("odd.weight"); x == nil || x.Size != 6*54 {
			t.Error(x)
		}
	}
}

func ExampleKV() {
	kv := KV{{"llama.block_count", uint32(30)}}
	n, err := kv.Uint("llama.block_count")
	fmt.Println(n, err)
	_, err = kv.String("llama.block_count")
	fmt.Println(err)
	_, err = kv.Uint("llama.context_length")
	fmt.Println(err)
	// Output:
	// 30 <nil>
	// gguf: key "llama.block_count" is a uint32, want a string: malformed GGUF
	// gguf: key "llama.context_length": no such key
}
