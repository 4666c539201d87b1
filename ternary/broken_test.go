package ternary

import (
	"encoding/binary"
	"errors"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tritlm/trit/internal/kernel"
	"pgregory.net/rapid"
)

const inf16, nan16 = 0x7c00, 0x7e00

// packed is a sound matrix [8, 256] in layout f.
func packed(t testing.TB, f Format) []byte {
	t.Helper()
	m := mustFromCodes(t, randomCodes(rand.New(rand.NewPCG(7, uint64(f))), 8*256), 8, 256, 0.5)
	b, err := Pack(m, f)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func put16(b []byte, at int, v uint16) { binary.LittleEndian.PutUint16(b[at:], v) }
func put32(b []byte, at int, v float64) {
	binary.LittleEndian.PutUint32(b[at:], math.Float32bits(float32(v)))
}

func TestBrokenData(t *testing.T) {
	for _, c := range []struct {
		name   string
		f      Format
		damage func(b []byte) []byte
		want   string
		is     error
	}{
		{"i2s-cut", I2SX86, func(b []byte) []byte { return b[:len(b)-1] }, `i2_s (x86): 543 bytes for shape [8, 256], want 544`, ErrFormat},
		{"i2s-long", I2SX86, func(b []byte) []byte { return append(b, 0) }, `545 bytes for shape [8, 256], want 544`, ErrFormat},
		{"i2s-without-scale", I2SX86, func(b []byte) []byte { return b[:512] }, `512 bytes for shape`, ErrFormat},
		{"i2s-empty", I2SX86, func(b []byte) []byte { return nil }, `0 bytes for shape`, ErrFormat},
		{"i2s-code-3", I2SX86, func(b []byte) []byte { b[64*3+32+5] |= 0xc0; return b }, `i2_s (x86): row 3, column 133 (block at byte 224): code 3`, ErrCode3},
		{"i2s-code-3-last", I2SX86, func(b []byte) []byte { b[511] |= 3; return b }, `row 7, column 255 (block at byte 480): code 3`, ErrCode3},
		{"i2s-arm-code-3", I2SARM, func(b []byte) []byte { b[64*3+16+5] |= 0x30; return b }, `i2_s (arm): row 3, column 85 (block at byte 208): code 3`, ErrCode3},
		{"i2s-x4-code-3", I2SX4, func(b []byte) []byte { b[256+9] |= 0x30; return b }, `i2_s (x4): row 5, column 9 (block at byte 265): code 3`, ErrCode3},
		{"i2s-scale-nan", I2SX86, func(b []byte) []byte { put32(b, 512, math.NaN()); return b }, `scale at byte 512 is NaN, want a positive finite number`, ErrFormat},
		{"i2s-scale-inf", I2SARM, func(b []byte) []byte { put32(b, 512, math.Inf(1)); return b }, `scale at byte 512 is +Inf`, ErrFormat},
		{"i2s-scale-0", I2SX4, func(b []byte) []byte { put32(b, 512, 0); return b }, `scale at byte 512 is 0`, ErrFormat},
		{"i2s-scale-negative", I2SX86, func(b []byte) []byte { put32(b, 512, -1); return b }, `scale at byte 512 is -1`, ErrFormat},
		{"tq1-cut", TQ1_0, func(b []byte) []byte { return b[:53] }, `tq1_0: 53 bytes for shape [8, 256], want 432`, ErrFormat},
		{"tq1-scale-nan", TQ1_0, func(b []byte) []byte { put16(b, 54*2+52, nan16); return b }, `tq1_0: scale of row 2, block 0 (byte 160) is NaN`, ErrFormat},
		{"tq1-scale-inf", TQ1_0, func(b []byte) []byte { put16(b, 52, inf16); return b }, `scale of row 0, block 0 (byte 52) is +Inf`, ErrFormat},
		{"tq1-scale-negative", TQ1_0, func(b []byte) []byte { put16(b, 52, 0xb800); return b }, `scale of row 0, block 0 (byte 52) is -0.5`, ErrFormat},
		{"tq2-code-3", TQ2_0, func(b []byte) []byte { b[66*4+33] |= 0x0c; return b }, `tq2_0: row 4, column 161 (block at byte 264): code 3`, ErrCode3},
		{"tq2-scale-nan", TQ2_0, func(b []byte) []byte { put16(b, 64, nan16); return b }, `scale of row 0, block 0 (byte 64) is NaN`, ErrFormat},
		{"q2-plus-2", Q2_0, func(b []byte) []byte { b[18*5+4] |= 0x0c; return b }, `q2_0: row 1, column 73 (block at byte 90) is +2, so this tensor is not ternary`, ErrCode3},
		{"q2-mixed-scales", Q2_0, func(b []byte) []byte { put16(b, 18*6, 0x3c00); return b }, `q2_0: row 1 has scale 0.5 in front of column 128 and 1 behind`, ErrMixedScales},
		{"q2-g128-mixed-scales", Q2_0G128, func(b []byte) []byte { put16(b, 34, 0x3c00); return b }, `q2_0 (128-weight blocks): row 0 has scale 0.5 in front of column 128 and 1 behind`, ErrMixedScales},
		{"pq2-plus-2", PQ2_0, func(b []byte) []byte { b[2] |= 3; return b }, `pq2_0: row 0, column 0 (block at byte 0) is +2`, ErrCode3},
		{"ptq1-scale-inf", PTQ1_0, func(b []byte) []byte { put16(b, 28+26, inf16); return b }, `ptq1_0: scale of row 0, block 1 (byte 54) is +Inf`, ErrFormat},
		{"ptq1-mixed-scales", PTQ1_0, func(b []byte) []byte { put16(b, 28+26, 0x3c00); return b }, `ptq1_0: row 0 has scale 0.5 in front of column 128 and 1 behind`, ErrMixedScales},
		{"iq1bn-scale-nan", IQ1_BN, func(b []byte) []byte { put16(b, 54, nan16); return b }, `iq1_bn: scale of row 1 (byte 54) is NaN`, ErrFormat},
		{"iq2bn-scale-inf", IQ2_BN, func(b []byte) []byte { put32(b, 68, math.Inf(1)); return b }, `iq2_bn: scale of row 1 (byte 68) is +Inf`, ErrFormat},
		{"iq2bn-code-3", IQ2_BN, func(b []byte) []byte { b[68+4+16+1] |= 0xc0; return b }, `iq2_bn: row 1, column 113 (block at byte 88): code 3`, ErrCode3},
		{"iq2bnr4-scale-nan", IQ2_BN_R4, func(b []byte) []byte { put32(b, 272+8, math.NaN()); return b }, `iq2_bn_r4: scale of row 6 (byte 280) is NaN`, ErrFormat},
		{"iq2bnr4-code-3", IQ2_BN_R4, func(b []byte) []byte { b[16+16+4] |= 0x30; return b }, `iq2_bn_r4: row 1, column 24 (block at byte 0): code 3`, ErrCode3},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := c.damage(packed(t, c.f))
			m, err := Unpack(b, c.f, 8, 256)
			if m != nil || !errors.Is(err, c.is) || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v, want %q", err, c.want)
			}
			if c.is == ErrCode3 && !errors.Is(err, ErrFormat) {
				t.Error("ErrCode3 is not ErrFormat")
			}
			if s := err.Error(); !strings.HasPrefix(s, "ternary: ") || strings.Contains(s, "\n") {
				t.Errorf("not one line that begins with the package: %q", s)
			}
			// What is sound but not ternary can be had as floats.
			err = Decode(make([]float32, 8*256), b, c.f, 8, 256)
			if legal := c.is == ErrMixedScales || strings.Contains(c.want, "+2") || strings.Contains(c.want, "is -0.5"); legal != (err == nil) {
				t.Errorf("Decode: %v", err)
			}
		})
	}
}

func TestBrokenHF(t *testing.T) {
	b := make([]byte, 3*5) // 10 rows of 5
	for i := range b {
		b[i] = zeroByte
	}
	for _, c := range []struct {
		name  string
		b     []byte
		scale float32
		want  string
	}{
		{"cut", b[:14], 1, `hf: 14 bytes for shape [10, 5], want [3, 5] of uint8`},
		{"long", make([]byte, 20), 1, `hf: 20 bytes for shape [10, 5], want [3, 5]`},
		{"scale-nan", b, float32(math.NaN()), `scale 0 is NaN`},
		{"scale-inf", b, float32(math.Inf(1)), `scale 0 is +Inf`},
		{"scale-0", b, 0, `scale 0 is 0`},
		{"code-3", append(slices.Clone(b[:7]), append([]byte{0x75}, b[8:]...)...), 1, `hf: row 7, column 2 (byte 7): code 3`},
	} {
		if _, err := UnpackHF(c.b, 10, 5, c.scale); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	b[2*5] = 0xff // rows 2, 5, 8 and the 11th that is not there
	if _, err := UnpackHF(b, 10, 5, 1); err == nil || !strings.Contains(err.Error(), "row 2, column 0 (byte 10)") {
		t.Error(err)
	}
	b[2*5] = 0xd5 // only the one that is not there
	if _, err := UnpackHF(b, 10, 5, 1); err != nil {
		t.Error(err)
	}
}

func TestBadShapes(t *testing.T) {
	for _, shape := range [][2]int{{0, 256}, {256, 0}, {-1, 256}, {math.MaxInt, 1 << 40}, {1 << 40, math.MaxInt - 255}, {4, 100}} {
		for _, f := range formats {
			if f == I2SX4 && shape == [2]int{4, 100} {
				continue
			}
			if _, err := Unpack(make([]byte, 100), f, shape[0], shape[1]); !errors.Is(err, ErrFormat) {
				t.Errorf("%s %v: %v", f, shape, err)
			}
		}
		if _, err := UnpackHF(make([]byte, 101), shape[0], shape[1], 1); !errors.Is(err, ErrFormat) {
			t.Errorf("hf %v: %v", shape, err)
		}
		if _, err := FromCodes(make([]int8, 101), shape[0], shape[1], []float32{1}); !errors.Is(err, ErrFormat) {
			t.Errorf("codes %v: %v", shape, err)
		}
	}
	for _, scale := range [][]float32{nil, {1, 1}, {float32(math.NaN())}, {0}, {-1}} {
		if _, err := FromCodes(make([]int8, 3), 3, 1, scale); !errors.Is(err, ErrFormat) {
			t.Errorf("scale %v: %v", scale, err)
		}
	}
	if _, err := FromCodes([]int8{0, 1, 2}, 3, 1, []float32{1}); err == nil || !strings.Contains(err.Error(), "weight 2 at row 2, column 0") {
		t.Error(err)
	}
}

// TestZeroScale: writers that take max|w| leave scale 0 on a block of zeros, with any codes behind it
// (ik_llama.cpp: all +1). Such a block is zeros at the scale of its neighbours.
func TestZeroScale(t *testing.T) {
	b := packed(t, TQ2_0)
	put16(b, 66*3+64, 0)
	b[66*3] = 0xff
	m, err := Unpack(b, TQ2_0, 8, 256)
	if err != nil || len(m.Scale) != 1 || m.Scale[0] != 0.5 {
		t.Fatal(m.Scale, err)
	}
	row := make([]int8, 256)
	if m.Row(row, 3); slices.ContainsFunc(row, func(w int8) bool { return w != 0 }) {
		t.Error(row)
	}
	for _, f := range []Format{IQ1_BN, IQ2_BN, IQ2_BN_R4} {
		b = make([]byte, len(packed(t, f)))
		m, err = Unpack(b, f, 8, 256)
		if err != nil || len(m.Scale) != 1 || m.Scale[0] != 1 {
			t.Fatal(f, err)
		}
		if err := m.Check(); err != nil {
			t.Error(err)
		}
		if slices.ContainsFunc(m.Codes(nil), func(w int8) bool { return w != 0 }) {
			t.Errorf("%s: not all zero", f)
		}
	}
}

func TestScalePerRow(t *testing.T) {
	rng := rand.New(rand.NewPCG(8, 8))
	scale := []float32{1, 2, 0.5, 0.25}
	m := mustFromCodes(t, randomCodes(rng, 4*256), 4, 256, scale...)
	for _, f := range formats {
		b, err := Pack(m, f)
		if f == I2SX86 || f == I2SARM || f == I2SX4 {
			if !errors.Is(err, ErrMixedScales) {
				t.Errorf("%s: %v", f, err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		got, err := Unpack(b, f, 4, 256)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(m, got); d != "" {
			t.Errorf("%s: %s", f, d)
		}
	}
	if _, err := PackHF(m); !errors.Is(err, ErrMixedScales) {
		t.Error(err)
	}
}

func TestScaleBeyondHalf(t *testing.T) {
	for _, s := range []float32{1e-9, 1e6} {
		m := mustFromCodes(t, make([]int8, 4*256), 4, 256, s)
		for _, f := range []Format{TQ1_0, TQ2_0, Q2_0, PQ2_0, PTQ1_0, IQ1_BN} {
			if _, err := Pack(m, f); err == nil || !strings.Contains(err.Error(), "does not fit float16") {
				t.Errorf("%s, scale %g: %v", f, s, err)
			}
		}
	}
}

func TestCheck(t *testing.T) {
	good := func() *Matrix { return mustFromCodes(t, make([]int8, 3*5), 3, 5, 1) }
	for _, c := range []struct {
		name   string
		damage func(m *Matrix)
		want   string
	}{
		{"short", func(m *Matrix) { m.T16 = m.T16[:63] }, `63 bytes for shape [3, 5]`},
		{"no scale", func(m *Matrix) { m.Scale = nil }, `0 scales for 3 rows`},
		{"scale", func(m *Matrix) { m.Scale[0] = 0 }, `scale 0 is 0`},
		{"code 3", func(m *Matrix) { m.T16[4] |= 3 }, `row 1, column 0: code 3`},
		{"padding column", func(m *Matrix) { m.T16[1] &^= 4 }, `padding at row 0, column 5 is not zero`},
		{"padding row", func(m *Matrix) { m.T16[12] = 0 }, `padding at row 3, column 0 is not zero`},
	} {
		m := good()
		c.damage(m)
		if err := m.Check(); !errors.Is(err, ErrFormat) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
	w := []float32{1, float32(math.NaN()), 0}
	if m := Quantize(w, 1, 3); m.Check() == nil || slices.ContainsFunc(m.Codes(nil), func(c int8) bool { return c != 0 }) {
		t.Error("NaN among the masters", m)
	}
	w[1] = float32(math.Inf(-1))
	if m := Quantize(w, 1, 3); m.Check() == nil || slices.ContainsFunc(m.Codes(nil), func(c int8) bool { return c != 0 }) {
		t.Error("infinity among the masters", m)
	}
}

// TestPackUnpackForAll: pack, unpack and unpack, pack are the identity in every layout, for every
// shape it can hold.
func TestPackUnpackForAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		f := rapid.SampledFrom(formats).Draw(t, "layout")
		l := f.layout()
		rows := rapid.IntRange(1, 40).Draw(t, "rows")
		if l.four {
			rows = (rows + 3) / 4 * 4
		}
		cols := l.weights * rapid.IntRange(1, max(3, 70/l.weights)).Draw(t, "blocks")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		scale := []float32{rapid.SampledFrom([]float32{0.5, 1, 0x1p-14, 60000}).Draw(t, "scale")}
		if l.tail == 0 && rows > 1 && rapid.Bool().Draw(t, "per row") {
			scale = make([]float32, rows)
			for r := range scale {
				scale[r] = float32(r + 1)
			}
		}
		m, err := FromCodes(randomCodes(rng, rows*cols), rows, cols, scale)
		if err != nil {
			t.Fatal(err)
		}
		b, err := Pack(m, f)
		if err != nil {
			t.Fatal(err)
		}
		got, err := Unpack(b, f, rows, cols)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(m, got); d != "" {
			t.Fatal(d)
		}
		if err := got.Check(); err != nil {
			t.Fatal(err)
		}
		dec, want := make([]float32, rows*cols), make([]float32, rows*cols)
		if err := Decode(dec, b, f, rows, cols); err != nil {
			t.Fatal(err)
		}
		if m.Float(want); !slices.Equal(dec, want) {
			t.Fatal("Decode differs from Float")
		}
	})
	rapid.Check(t, func(t *rapid.T) {
		rows, cols := rapid.IntRange(1, 80).Draw(t, "rows"), rapid.IntRange(1, 80).Draw(t, "cols")
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		m, err := FromCodes(randomCodes(rng, rows*cols), rows, cols, []float32{3})
		if err != nil {
			t.Fatal(err)
		}
		b, err := PackHF(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := UnpackHF(b, rows, cols, 3)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(m, got); d != "" {
			t.Fatal(d)
		}
	})
}

// TestQuantizeForAll holds Quantize to its formula, one weight at a time.
func TestQuantizeForAll(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		rows, cols := rapid.IntRange(1, 40).Draw(t, "rows"), rapid.IntRange(1, 40).Draw(t, "cols")
		w := make([]float32, rows*cols)
		rng := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		for i := range w {
			w[i] = float32(rng.NormFloat64()) * rapid.SampledFrom([]float32{1e-7, 0.02, 3}).Draw(t, "size")
		}
		m := Quantize(w, rows, cols)
		s := 1 / m.Scale[0]
		var sum float64
		for _, v := range w {
			sum += math.Abs(float64(v))
		}
		if mean := max(sum/float64(len(w)), float64(float32(1e-5))); math.Abs(float64(m.Scale[0])/mean-1) > 0x1p-22 {
			t.Fatalf("scale %g, mean %g", m.Scale[0], mean)
		}
		for i, c := range m.Codes(nil) {
			p := float64(w[i] * s)
			if math.Abs(math.Abs(p)-0.5) < 1e-6 { // 1/(1/s) is an ulp off
				continue
			}
			if want := max(-1, min(1, math.RoundToEven(p))); float64(c) != want {
				t.Fatalf("W·s = %v became %d", p, c)
			}
		}
		if err := m.Check(); err != nil {
			t.Fatal(err)
		}
	})
}

// TestQuantize16 holds the 16-bit masters to Quantize of the same weights widened, over every
// magnitude there is.
func TestQuantize16(t *testing.T) {
	rng := rand.New(rand.NewPCG(10, 10))
	for _, size := range []float64{1e-7, 1e-5, 0.02, 1, 1e4} {
		for _, c := range []struct {
			name  string
			widen func(uint16) float32
			fn    func([]uint16, int, int) *Matrix
			limit uint16
		}{
			{"bf16", func(h uint16) float32 { return math.Float32frombits(uint32(h) << 16) }, QuantizeBF16, 0x7f7f},
			{"f16", f16, QuantizeF16, 0x7bff},
		} {
			rows, cols := 37, 53
			w, wide := make([]uint16, rows*cols), make([]float32, rows*cols)
			for i := range w {
				bits := math.Float32bits(float32(rng.NormFloat64() * size))
				if w[i] = uint16(bits >> 16); c.name == "f16" {
					w[i] = toF16(math.Float32frombits(bits))
				}
				if rng.IntN(50) == 0 {
					w[i] &= 0x83ff // a subnormal half
				}
				wide[i] = c.widen(w[i])
			}
			if d := cmp.Diff(Quantize(wide, rows, cols), c.fn(w, rows, cols)); d != "" {
				t.Fatalf("%s, size %g: %s", c.name, size, d)
			}
			for _, bad := range []uint16{c.limit + 1, 0x7fff, c.limit + 0x8001} {
				w[40] = bad
				if m := c.fn(w, rows, cols); m.Check() == nil {
					t.Errorf("%s: %#04x among the masters goes unnoticed", c.name, bad)
				}
			}
		}
	}
}

func TestHalfRoundTrip(t *testing.T) {
	for h := range 1 << 16 {
		f := f16(uint16(h))
		if f != f {
			if g := f16(toF16(f)); g == g {
				t.Fatalf("%#04x: NaN becomes %v", h, g)
			}
		} else if toF16(f) != uint16(h) {
			t.Fatalf("%#04x is %v and becomes %#04x", h, f, toF16(f))
		}
	}
	for _, c := range []struct { // ties to even, and the ends
		f float32
		h uint16
	}{{2049, 0x6800}, {2051, 0x6802}, {65519, 0x7bff}, {65520, 0x7c00}, {0x1p-25, 0}, {0x1.8p-24, 2}, {0x1.000002p-25, 1}} {
		if toF16(c.f) != c.h {
			t.Errorf("%v becomes %#04x, want %#04x", c.f, toF16(c.f), c.h)
		}
	}
}

// TestUnpackAllocates bounds the memory of loading: the matrix, a scale per row, a row buffer per worker, the workers.
func TestUnpackAllocates(t *testing.T) {
	const rows, cols = 512, 512
	m := mustFromCodes(t, make([]int8, rows*cols), rows, cols, 1)
	for _, f := range formats {
		b, err := Pack(m, f)
		if err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		if _, err := Unpack(b, f, rows, cols); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if n, limit := after.TotalAlloc-before.TotalAlloc, uint64(kernel.T16Bytes(rows, cols)+4*rows+runtime.GOMAXPROCS(0)*2*cols+16384); n > limit {
			t.Errorf("%s: %d bytes allocated, at most %d expected", f, n, limit)
		}
	}
}

// FuzzUnpack feeds any bytes to every layout. What is accepted is a whole matrix and survives being
// packed again.
func FuzzUnpack(f *testing.F) {
	for _, layout := range formats {
		b := packed(f, layout)
		f.Add(uint8(layout), uint8(8), uint8(4), b)
		f.Add(uint8(layout), uint8(8), uint8(4), b[:len(b)-1])
	}
	f.Add(uint8(0), uint8(10), uint8(5), make([]byte, 15))
	f.Fuzz(func(t *testing.T, kind, rows8, cols8 uint8, b []byte) {
		rows := int(rows8)
		if kind%13 == 0 {
			m, err := UnpackHF(b, rows, int(cols8), 1)
			if err != nil {
				if !errors.Is(err, ErrFormat) {
					t.Fatal(err)
				}
				return
			}
			again, err := PackHF(m)
			if err != nil {
				t.Fatal(err)
			}
			if rows%4 == 0 && !slices.Equal(b, again) {
				t.Fatal("unpacking and packing changed the bytes")
			}
			return
		}
		format := Format(kind % 13)
		cols := int(cols8) * max(64, format.layout().weights)
		if size, err := format.Size(rows, cols); err == nil && len(b) > size {
			b = b[:size] // otherwise hardly anything gets past the length
		}
		m, err := Unpack(b, format, rows, cols)
		if err != nil {
			if !errors.Is(err, ErrFormat) && !errors.Is(err, ErrMixedScales) {
				t.Fatal(err)
			}
			if len(b) <= 1<<20 && rows*cols > 0 {
				Decode(make([]float32, rows*cols), b, format, rows, cols)
			}
			return
		}
		if err := m.Check(); err != nil {
			t.Fatal(err)
		}
		again, err := Pack(m, format)
		if err != nil {
			t.Fatal(err)
		}
		m2, err := Unpack(again, format, rows, cols)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(m, m2); d != "" {
			t.Fatal(d)
		}
	})
}
