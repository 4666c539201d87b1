package ternary

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tritlm/trit/internal/kernel"
)

// randomCodes is a matrix of ŵ with every value present.
func randomCodes(rng *rand.Rand, n int) []int8 {
	codes := make([]int8, n)
	for i := range codes {
		codes[i] = int8(rng.IntN(3)) - 1
	}
	return codes
}

func mustFromCodes(t testing.TB, codes []int8, rows, cols int, scale ...float32) *Matrix {
	t.Helper()
	m, err := FromCodes(codes, rows, cols, scale)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestT16Layout holds the layout against its definition, weight by weight.
func TestT16Layout(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	for _, shape := range [][2]int{{1, 1}, {16, 16}, {17, 15}, {33, 50}, {5, 128}} {
		rows, cols := shape[0], shape[1]
		codes := randomCodes(rng, rows*cols)
		m := mustFromCodes(t, codes, rows, cols, 0.5)
		rows16, cols16 := (rows+15)/16*16, (cols+15)/16*16
		if len(m.T16) != rows16*cols16/4 || len(m.T16) != kernel.T16Bytes(rows, cols) {
			t.Fatalf("%v: %d bytes", shape, len(m.T16))
		}
		for r := range rows16 {
			for c := range cols16 {
				want := byte(1)
				if r < rows && c < cols {
					want = byte(codes[r*cols+c] + 1)
				}
				tile, step, g, j := r/16, c/16, c%16/4, c%4
				got := m.T16[(tile*(cols16/16)+step)*64+4*(r%16)+j] >> (2 * g) & 3
				if got != want {
					t.Fatalf("%v: row %d column %d: code %d, want %d", shape, r, c, got, want)
				}
			}
		}
		if d := cmp.Diff(codes, m.Codes(nil)); d != "" {
			t.Fatalf("%v: %s", shape, d)
		}
		if err := m.Check(); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReorder(t *testing.T) {
	rng := rand.New(rand.NewPCG(9, 9))
	const rows, cols = 37, 20
	scale := make([]float32, rows)
	for r := range scale {
		scale[r] = float32(r + 1)
	}
	from := rng.Perm(rows)
	for _, scale := range [][]float32{{3}, scale} {
		m := mustFromCodes(t, randomCodes(rng, rows*cols), rows, cols, scale...)
		old := mustFromCodes(t, m.Codes(nil), rows, cols, scale...)
		m.Reorder(func(r int) int { return from[r] })
		if err := m.Check(); err != nil {
			t.Fatal(err)
		}
		got, want := make([]int8, cols), make([]int8, cols)
		for r := range rows {
			m.Row(got, r)
			old.Row(want, from[r])
			if d := cmp.Diff(want, got); d != "" || m.RowScale(r) != old.RowScale(from[r]) {
				t.Fatalf("row %d: %s", r, d)
			}
		}
	}
}

var formats = []Format{I2SX86, I2SARM, I2SX4, TQ1_0, TQ2_0, Q2_0, Q2_0G128, PQ2_0, PTQ1_0, IQ1_BN, IQ2_BN, IQ2_BN_R4}

func TestPackUnpackIsIdentity(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	for _, f := range formats {
		for _, shape := range [][2]int{{4, 256}, {16, 512}, {36, 768}} {
			rows, cols := shape[0], shape[1]
			codes := randomCodes(rng, rows*cols)
			m := mustFromCodes(t, codes, rows, cols, 0.25)
			b, err := Pack(m, f)
			if err != nil {
				t.Fatal(err)
			}
			got, err := Unpack(b, f, rows, cols)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(m, got); d != "" {
				t.Fatalf("%s %v: %s", f, shape, d)
			}
			want, dec := make([]float32, rows*cols), make([]float32, rows*cols)
			m.Float(want)
			if err := Decode(dec, b, f, rows, cols); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(want, dec); d != "" {
				t.Fatalf("%s %v: %s", f, shape, d)
			}
		}
	}
	for _, shape := range [][2]int{{4, 256}, {3, 5}, {70, 33}, {64, 64}} {
		m := mustFromCodes(t, randomCodes(rng, shape[0]*shape[1]), shape[0], shape[1], 2)
		b, err := PackHF(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := UnpackHF(b, shape[0], shape[1], 2)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(m, got); d != "" {
			t.Fatalf("hf %v: %s", shape, d)
		}
	}
}

// BenchmarkUnpack is the cost of loading: a 6912×2560 matrix, the largest of the 2B model, from each layout.
func BenchmarkUnpack(b *testing.B) {
	const rows, cols = 6912, 2560
	m := mustFromCodes(b, randomCodes(rand.New(rand.NewPCG(3, 3)), rows*cols), rows, cols, 0.25)
	bench := func(name string, src []byte, fn func() error) {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(src)))
			b.ReportAllocs()
			for b.Loop() {
				if err := fn(); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(rows*cols)*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gweights/s")
		})
	}
	for _, f := range formats {
		src, err := Pack(m, f)
		if err != nil {
			b.Fatal(err)
		}
		bench(fmt.Sprint(f), src, func() error { _, err := Unpack(src, f, rows, cols); return err })
	}
	src, _ := PackHF(m)
	bench("hf", src, func() error { _, err := UnpackHF(src, rows, cols, 0.25); return err })
	w := make([]float32, rows*cols)
	rng := rand.New(rand.NewPCG(4, 4))
	for i := range w {
		w[i] = float32(rng.NormFloat64())
	}
	bench("quantize-f32", make([]byte, 4*len(w)), func() error { Quantize(w, rows, cols); return nil })
	h := make([]uint16, rows*cols)
	for i := range h {
		h[i] = uint16(rng.Uint32()) & 0xbfff
	}
	bench("quantize-bf16", make([]byte, 2*len(w)), func() error { QuantizeBF16(h, rows, cols); return nil })
	bench("quantize-f16", make([]byte, 2*len(w)), func() error { QuantizeF16(h, rows, cols); return nil })
}
