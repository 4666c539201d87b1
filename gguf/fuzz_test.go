package gguf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// FuzzRead looks for files that make Read panic or accept a lie, and for what does not survive being
// written and read again.
func FuzzRead(f *testing.F) {
	for _, c := range broken {
		var r raw
		c.build(&r)
		f.Add([]byte(r))
	}
	kv, tensors := sample()
	f.Add(write(f, kv, tensors))
	python, err := os.ReadFile("testdata/python.gguf")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(python)
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := Read(bytes.NewReader(b), int64(len(b)), "m.gguf")
		if err != nil {
			if !errors.Is(err, ErrFormat) && !errors.Is(err, errors.ErrUnsupported) {
				t.Fatalf("%v is of no kind", err)
			}
			return
		}
		used := int64(0)
		for _, x := range g.Tensors {
			n, err := x.Type.Size(x.Shape...)
			if err != nil || n != x.Size || x.Offset < g.Data || x.Offset+x.Size > int64(len(b)) || x.Offset%int64(g.Alignment) != 0 {
				t.Fatalf("%+v in %d bytes: %d, %v", x, len(b), n, err)
			}
			if g.Tensor(x.Name).Offset != x.Offset {
				t.Fatalf("%q is not found", x.Name)
			}
			used += x.Size
		}
		if used > int64(len(b)) {
			t.Fatalf("%d bytes of tensors in %d", used, len(b))
		}
		if g.Alignment > 4096 {
			return
		}
		for i := range g.Tensors {
			if g.Tensors[i].Type == Q2_0G128 { // not written
				g.Tensors[i].Type = PQ2_0
			}
		}
		again := write(t, g.KV, g.Tensors)
		h, err := Read(bytes.NewReader(again), int64(len(again)), "again.gguf")
		if err != nil {
			t.Fatalf("what was written is refused: %v", err)
		}
		if !bytes.Equal(again, write(t, h.KV, h.Tensors)) {
			t.Fatal("reading and writing is not stable")
		}
	})
}

// FuzzDequantize must take any bytes for blocks.
func FuzzDequantize(f *testing.F) {
	f.Add(uint8(0), bytes.Repeat([]byte{0xff}, 210))
	f.Fuzz(func(t *testing.T, kind uint8, b []byte) {
		typ := []Type{F32, F16, BF16, Q8_0, Q4_0, Q6_K, Q4_1, Q5_0, Q5_1, IQ4_NL, Q2_K, Q3_K, Q4_K, Q5_K}[kind%14]
		info := typeInfos[typ]
		n := int64(len(b)) / info.bytes
		x := make([]float32, n*info.block)
		b = b[:n*info.bytes]
		if err := Dequantize(x, typ, b); err != nil {
			t.Fatal(err)
		}
		for _, v := range x {
			if v != v || math.IsInf(float64(v), 0) {
				return
			}
		}
		again := make([]byte, len(b))
		if err := Quantize(again, typ, x); errors.Is(err, errors.ErrUnsupported) && typ != F32 && info.block > 1 {
			return // read only
		} else if err != nil {
			t.Fatal(err)
		}
		if info.block == 1 && !bytes.Equal(again, b) {
			t.Fatalf("%s: %x became %x", typ, b, again)
		}
	})
}

func TestWriteReadIsEqualForAll(t *testing.T) {
	name := rapid.StringMatching(`[a-z0-9_.]{1,20}`)
	value := rapid.OneOf(
		rapid.Map(rapid.Uint8(), toAny), rapid.Map(rapid.Int8(), toAny), rapid.Map(rapid.Uint16(), toAny),
		rapid.Map(rapid.Int16(), toAny), rapid.Map(rapid.Uint32(), toAny), rapid.Map(rapid.Int32(), toAny),
		rapid.Map(rapid.Uint64(), toAny), rapid.Map(rapid.Int64(), toAny), rapid.Map(rapid.Float32(), toAny),
		rapid.Map(rapid.Float64(), toAny), rapid.Map(rapid.Bool(), toAny), rapid.Map(rapid.String(), toAny),
		rapid.Map(rapid.SliceOf(rapid.String()), toAny), rapid.Map(rapid.SliceOf(rapid.Int32()), toAny),
		rapid.Map(rapid.SliceOf(rapid.Float32()), toAny), rapid.Map(rapid.SliceOf(rapid.Bool()), toAny),
	)
	types := []Type{}
	for typ := range typeInfos {
		if typ != Q2_0G128 && typ != Q2_0 { // told apart by size, which one small tensor leaves open
			types = append(types, typ)
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		var kv KV
		for _, k := range rapid.SliceOfNDistinct(name, 0, 6, rapid.ID).Draw(t, "keys") {
			kv = append(kv, Pair{k, value.Draw(t, "value")})
		}
		if rapid.Bool().Draw(t, "aligned") {
			kv.Set("general.alignment", uint32(8)<<rapid.IntRange(0, 5).Draw(t, "alignment"))
		}
		var tensors []Tensor
		for _, n := range rapid.SliceOfNDistinct(name, 0, 5, rapid.ID).Draw(t, "tensors") {
			x := Tensor{Name: n, Type: rapid.SampledFrom(types).Draw(t, "type")}
			for range rapid.IntRange(0, 3).Draw(t, "dims") {
				x.Shape = append(x.Shape, rapid.IntRange(1, 4).Draw(t, "dim"))
			}
			x.Shape = append(x.Shape, int(typeInfos[x.Type].block)*rapid.IntRange(1, 3).Draw(t, "blocks"))
			tensors = append(tensors, x)
		}
		var buf bytes.Buffer
		if err := Write(&buf, kv, tensors, fillWith); err != nil {
			t.Fatal(err)
		}
		f, err := Read(bytes.NewReader(buf.Bytes()), int64(buf.Len()), "m.gguf")
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(kv, f.KV, cmpopts.EquateNaNs()); d != "" {
			t.Fatal(d)
		}
		if d := cmp.Diff(tensors, f.Tensors, cmpopts.IgnoreFields(Tensor{}, "Offset", "Size")); d != "" {
			t.Fatal(d)
		}
	})
}

func toAny[T any](v T) any { return v }

// TestHalvesRoundTrip goes through every half and bfloat16.
func TestHalvesRoundTrip(t *testing.T) {
	b := make([]byte, 2<<16)
	for i := range 1 << 16 {
		binary.LittleEndian.PutUint16(b[2*i:], uint16(i))
	}
	x, again := make([]float32, 1<<16), make([]byte, 2<<16)
	for _, typ := range []Type{F16, BF16} {
		if err := Dequantize(x, typ, b); err != nil {
			t.Fatal(err)
		}
		if err := Quantize(again, typ, x); err != nil {
			t.Fatal(err)
		}
		for i := range 1 << 16 {
			if x[i] == x[i] && !bytes.Equal(b[2*i:2*i+2], again[2*i:2*i+2]) {
				t.Fatalf("%s %#04x is %v and becomes %x", typ, i, x[i], again[2*i:2*i+2])
			}
			if x[i] != x[i] {
				var y [1]float32
				if Dequantize(y[:], typ, again[2*i:2*i+2]); y[0] == y[0] {
					t.Fatalf("%s %#04x: NaN becomes %v", typ, i, y[0])
				}
			}
		}
	}
}
