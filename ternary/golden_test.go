package ternary

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// golden is testdata/golden.json, the output of the implementations that publish these layouts. Its
// script, tools/reference/formats.py, names them.
type golden struct {
	Layouts []struct {
		Name, Source  string
		Rows, Cols    int
		Scale         float32
		Codes, Packed []byte
	}
	Absmean []struct {
		Name           string
		Rows, Cols     int
		Bits, Codes    []byte
		Scale, Rounded float64
	}
}

func readGolden(t testing.TB) (g golden) {
	t.Helper()
	b, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &g); err != nil {
		t.Fatal(err)
	}
	return g
}

// TestGoldenLayouts packs and unpacks what bitnet.cpp, llama.cpp, ik_llama.cpp and transformers packed.
func TestGoldenLayouts(t *testing.T) {
	byName := map[string]Format{}
	for _, f := range formats {
		byName[f.String()] = f
	}
	seen := map[string]bool{}
	for _, v := range readGolden(t).Layouts {
		t.Run(v.Name, func(t *testing.T) {
			seen[v.Name] = true
			codes := make([]int8, len(v.Codes))
			for i, c := range v.Codes {
				codes[i] = int8(c) - 1
			}
			want := mustFromCodes(t, codes, v.Rows, v.Cols, v.Scale)
			var got *Matrix
			var packed []byte
			var err, err2 error
			if f, ok := byName[v.Name]; ok {
				got, err = Unpack(v.Packed, f, v.Rows, v.Cols)
				packed, err2 = Pack(want, f)
			} else {
				got, err = UnpackHF(v.Packed, v.Rows, v.Cols, v.Scale)
				packed, err2 = PackHF(want)
			}
			if err != nil || err2 != nil {
				t.Fatal(err, err2)
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
			if !slices.Equal(packed, v.Packed) {
				t.Errorf("packed bytes differ:\n got %x\nwant %x", packed, v.Packed)
			}
		})
	}
	for _, f := range formats {
		if !seen[f.String()] && f != Q2_0G128 { // the bytes of PQ2_0
			t.Errorf("no golden vector of %s", f)
		}
	}
}

// TestGoldenAbsmean compares codes and scales with transformers' WeightQuant.
func TestGoldenAbsmean(t *testing.T) {
	for _, v := range readGolden(t).Absmean {
		t.Run(v.Name, func(t *testing.T) {
			n := v.Rows * v.Cols
			var m *Matrix
			if len(v.Bits) == 4*n {
				w := make([]float32, n)
				for i := range w {
					w[i] = math.Float32frombits(binary.LittleEndian.Uint32(v.Bits[4*i:]))
				}
				m = Quantize(w, v.Rows, v.Cols)
			} else {
				w := make([]uint16, n)
				for i := range w {
					w[i] = binary.LittleEndian.Uint16(v.Bits[2*i:])
				}
				if v.Name[len(v.Name)-8:] == "bfloat16" {
					m = QuantizeBF16(w, v.Rows, v.Cols)
				} else {
					m = QuantizeF16(w, v.Rows, v.Cols)
				}
			}
			nonzero := false
			for i, c := range m.Codes(nil) {
				if c != int8(v.Codes[i])-1 {
					t.Errorf("row %d, column %d: %d, want %d", i/v.Cols, i%v.Cols, c, int8(v.Codes[i])-1)
				}
				nonzero = nonzero || c != 0
			}
			if err := m.Check(); err != nil {
				t.Error(err)
			}
			// torch sums in float32: its mean is off by an ulp or two.
			if rel := math.Abs(float64(m.Scale[0])/v.Scale - 1); nonzero && rel > 0x1p-22 {
				t.Errorf("scale %v, want %v", m.Scale[0], float32(v.Scale))
			}
		})
	}
}
