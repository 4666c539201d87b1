package ternary

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/tritlm/trit/internal/kernel"
)

var groupFormats = []Format{TQ1_0, TQ2_0, Q2_0, Q2_0G128, PQ2_0, PTQ1_0, Q1_0, STQ1_0}

// digit is base-3 digit n of a byte, as the files' readers say it.
func digit(b byte, n int) int {
	for range n {
		b *= 3
	}
	return int(uint16(b)*3>>8) - 1
}

// weight reads one weight ŵ of a block, each layout by its published definition.
func weight(f Format, b []byte, e int) int {
	switch f {
	case TQ1_0:
		switch {
		case e < 160:
			return digit(b[e%32], e/32)
		case e < 240:
			return digit(b[32+(e-160)%16], (e-160)/16)
		}
		return digit(b[48+(e-240)%4], (e-240)/4)
	case TQ2_0:
		return int(b[e/128*32+e%32]>>(e%128/32*2)&3) - 1
	case PTQ1_0:
		switch {
		case e < 80:
			return digit(b[e&15], e>>4)
		case e < 120:
			return digit(b[16+(e-80)&7], (e-80)>>3)
		}
		return digit(b[24+(e-120)&1], (e-120)>>1)
	case Q1_0:
		return int(b[2+e/8]>>(e%8)&1)*2 - 1
	case STQ1_0:
		book := [32]byte{
			0xA9, 0x89, 0x29, 0x09, 0xA6, 0x86, 0x26, 0x06, 0x9A, 0x92, 0x1A, 0x12, 0x6A, 0x62, 0x4A, 0x42,
			0x01, 0x21, 0x81, 0xA1, 0x04, 0x24, 0x84, 0xA4, 0x10, 0x18, 0x90, 0x98, 0x40, 0x48, 0x60, 0x68,
		}
		g, p := e/64*16+e%16, e%64/16
		return int(book[b[32+g/8]>>(g%8)&1<<4|b[g/2]>>(g%2*4)&15]>>(2*p)&3) - 1
	}
	return int(b[2+e/4]>>(e%4*2)&3) - 1
}

// randomBlocks is a matrix of a layout with codes and scales at random; same says how many blocks share a scale.
func randomBlocks(rng *rand.Rand, f Format, rows, cols, same int) []byte {
	l := f.layout()
	size, err := f.Size(rows, cols)
	if err != nil {
		panic(err)
	}
	b := make([]byte, size)
	for at := 0; at < len(b); at += l.bytes {
		block := b[at:][:l.bytes]
		codes := make([]byte, l.weights)
		for i := range codes {
			codes[i] = byte(rng.IntN(3))
		}
		switch f {
		case Q1_0:
			for i := range codes {
				codes[i] = byte(rng.IntN(2) * 2)
			}
		case STQ1_0:
			for i := range 40 {
				block[i] = byte(rng.Uint32())
			}
			decodeSTQ1(codes, block)
			clear(block)
		}
		l.encode(block, codes)
	}
	n := cols / l.weights
	for r := range rows {
		var d uint16
		for i := range n {
			if i%same == 0 {
				d = toF16(float32(rng.NormFloat64()) * 0.05)
			}
			put16(b, (r*n+i)*l.bytes+l.scaleAt, d)
		}
	}
	return b
}

// values reads a matrix weight by weight.
func values(f Format, src []byte, rows, cols int) []float32 {
	l := f.layout()
	out := make([]float32, 0, rows*cols)
	for r := range rows {
		for c := range cols {
			b := src[(r*cols+c)/l.weights*l.bytes:][:l.bytes]
			out = append(out, float32(weight(f, b, (r*cols+c)%l.weights))*f16(binary.LittleEndian.Uint16(b[l.scaleAt:])))
		}
	}
	return out
}

func checkValues(t *testing.T, g *Groups, want []float32) {
	t.Helper()
	row := make([]float32, g.Cols)
	for r := range g.Rows {
		g.Row(row, r)
		for c, v := range row {
			if v != want[r*g.Cols+c] {
				t.Fatalf("row %d, column %d is %g, want %g", r, c, v, want[r*g.Cols+c])
			}
		}
	}
	// Rows that pad the last tile are 0.
	pad := make([]float32, g.Cols)
	for r := g.Rows; r < g.M.Rows; r++ {
		kernel.GroupRow(pad, &g.M, r)
		if slices.ContainsFunc(pad, func(v float32) bool { return v != 0 }) {
			t.Fatalf("padding row %d is not 0", r)
		}
	}
}

func TestGroups(t *testing.T) {
	rng := rand.New(rand.NewPCG(14, 1))
	for _, f := range groupFormats {
		t.Run(f.String(), func(t *testing.T) {
			for _, shape := range [][2]int{{1, 256}, {16, 512}, {37, 768}, {18, 1280}, {16, 2048}} {
				for _, same := range []int{1, 2, 4, 1000} {
					rows, cols := shape[0], shape[1]
					src := randomBlocks(rng, f, rows, cols, same)
					want := values(f, src, rows, cols)
					if !f.layout().plus2 { // what reads all types agrees
						dense := make([]float32, rows*cols)
						if err := Decode(dense, src, f, rows, cols); err != nil {
							t.Fatal(err)
						}
						if !slices.Equal(dense, want) {
							t.Fatal("Decode reads other values")
						}
					}
					layouts := []kernel.GroupLayout{kernel.Ternary2, kernel.Ternary5}
					if f == Q1_0 {
						layouts = []kernel.GroupLayout{kernel.Binary1}
					}
					for _, l := range layouts {
						g, err := unpackGroups(src, f, rows, cols, l)
						if err != nil {
							t.Fatal(err)
						}
						if g.M.Layout != l || g.Binary() != (f == Q1_0) {
							t.Fatalf("layout %v", g.M.Layout)
						}
						checkValues(t, g, want)
						columns := f.Block() * same
						if columns >= cols {
							columns = cols
						}
						if g.M.ScaleGroup != columns && g.M.ScaleGroup < cols {
							t.Errorf("%d blocks share a scale, kept for %d columns", same, g.M.ScaleGroup)
						}
						back, err := g.Pack(f)
						if err != nil {
							t.Fatal(err)
						}
						if !bytes.Equal(back, src) {
							t.Error("packed again it is another file")
						}
					}
				}
			}
		})
	}
}

// The same weights in different files are the same bits: equal matrices up to the layout, and the same products.
func TestGroupsOfOneModel(t *testing.T) {
	const rows, cols = 40, 1024
	rng := rand.New(rand.NewPCG(14, 2))
	src := randomBlocks(rng, PQ2_0, rows, cols, 1)
	g, err := UnpackGroups(src, PQ2_0, rows, cols)
	if err != nil {
		t.Fatal(err)
	}
	x := make([]float32, cols)
	for i := range x {
		x[i] = float32(rng.NormFloat64())
	}
	product := func(g *Groups) []float32 {
		var p kernel.Planes
		p.Resize(1, cols, g.M.Group, 2)
		kernel.QuantizeGroups(&p, 0, x)
		y := make([]float32, g.M.Rows)
		kernel.GroupMatMul(y, g.M.Rows, &g.M, 0, g.M.Rows, &p, make([]byte, kernel.GroupScratch))
		return y[:g.Rows]
	}
	want := product(g)
	exact := make([]float64, rows)
	for i, v := range values(PQ2_0, src, rows, cols) {
		exact[i/cols] += float64(v) * float64(x[i%cols])
	}
	for r, v := range exact { // a product is about 1.3; x is rounded by 2.7e-5
		if d := math.Abs(float64(want[r]) - v); d > 2e-4 {
			t.Errorf("row %d is off by %g", r, d)
		}
	}
	for _, f := range []Format{Q2_0, Q2_0G128, PTQ1_0} {
		b, err := g.Pack(f)
		if err != nil {
			t.Fatal(err)
		}
		other, err := UnpackGroups(b, f, rows, cols)
		if err != nil {
			t.Fatal(err)
		}
		if got := product(other); !slices.Equal(got, want) {
			t.Errorf("%s multiplies to other bits", f)
		}
		back, err := other.Pack(PQ2_0)
		if err != nil || !bytes.Equal(back, src) {
			t.Errorf("%s → pq2_0: another file, %v", f, err)
		}
	}
	// One scale a row: as blocks of 256 and as a Matrix.
	src = randomBlocks(rng, TQ2_0, rows, cols, 1000)
	for i := range rows * cols / 256 {
		src[i*66+65] &= 0x7f // a Matrix's scales are positive
	}
	if g, err = UnpackGroups(src, TQ2_0, rows, cols); err != nil {
		t.Fatal(err)
	}
	if g.M.ScaleGroups() != 1 || len(g.M.Scales) != g.M.Rows {
		t.Errorf("%d scales for %d rows", len(g.M.Scales), g.M.Rows)
	}
	m, err := Unpack(src, TQ2_0, rows, cols)
	if err != nil {
		t.Fatal(err)
	}
	mg, err := m.Groups()
	if err != nil {
		t.Fatal(err)
	}
	checkValues(t, mg, values(TQ2_0, src, rows, cols))
	a, b := product(g), product(mg)
	for r := range a {
		if d := math.Abs(float64(a[r] - b[r])); d > 1e-5 {
			t.Errorf("row %d: %g by group scales, %g by row scales", r, a[r], b[r])
		}
	}
	if back, err := mg.Pack(TQ2_0); err != nil || !bytes.Equal(back, src) {
		t.Errorf("row scales → tq2_0: another file, %v", err)
	}
}

// TestGroupsSize holds what the table in Groups promises, at the widths of published models.
func TestGroupsSize(t *testing.T) {
	rng := rand.New(rand.NewPCG(14, 3))
	for _, cols := range []int{2048, 2560, 4096, 5120, 6144, 9728, 12288, 17408} {
		for _, f := range groupFormats {
			if cols%f.Block() != 0 || f == STQ1_0 {
				continue
			}
			src := randomBlocks(rng, f, 16, cols, 1)
			g, err := UnpackGroups(src, f, 16, cols)
			if err != nil {
				t.Fatal(err)
			}
			if share := float64(g.Bytes()) / float64(len(src)); share > 1.05 {
				t.Errorf("%s with %d columns takes %.3f of its file", f, cols, share)
			}
		}
	}
}

func TestGroupsRefused(t *testing.T) {
	rng := rand.New(rand.NewPCG(14, 4))
	for _, c := range []struct {
		f      Format
		damage func(b []byte) []byte
		want   string
		is     error
	}{
		{Q2_0, func(b []byte) []byte { b[18*5+4] |= 0x0c; return b }, "q2_0: row 1, column 73 (block at byte 90) is +2, so this tensor is not ternary", ErrCode3},
		{PQ2_0, func(b []byte) []byte { b[33] |= 0xc0; return b }, "pq2_0: row 0, column 127 (block at byte 0) is +2", ErrCode3},
		{TQ2_0, func(b []byte) []byte { b[66*4+33] |= 0x0c; return b }, "tq2_0: row 4, column 161 (block at byte 264): code 3", ErrCode3},
		{PTQ1_0, func(b []byte) []byte { put16(b, 28*3+26, nan16); return b }, "ptq1_0: scale of row 1, block 1 (byte 110) is NaN, want a finite number", ErrFormat},
		{Q1_0, func(b []byte) []byte { put16(b, 18, inf16); return b }, "q1_0: scale of row 0, block 1 (byte 18) is +Inf", ErrFormat},
		{STQ1_0, func(b []byte) []byte { return b[1:] }, "stq1_0: 335 bytes for shape [8, 256], want 336", ErrFormat},
		{I2SX86, func(b []byte) []byte { return b }, "i2_s (x86) has no scales of groups", ErrFormat},
	} {
		var b []byte
		if c.f == I2SX86 {
			b = packed(t, c.f)
		} else {
			b = randomBlocks(rng, c.f, 8, 256, 1)
		}
		b = c.damage(b)
		_, err := UnpackGroups(b, c.f, 8, 256)
		if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, c.is) {
			t.Errorf("%s: %v, want %s", c.f, err, c.want)
		}
	}

	// What a layout cannot hold.
	g, err := UnpackGroups(randomBlocks(rng, PQ2_0, 3, 256, 1), PQ2_0, 3, 256)
	if err != nil {
		t.Fatal(err)
	}
	for f, want := range map[Format]string{
		TQ2_0:  "tq2_0: row 0 has scale",
		Q1_0:   "q1_0: row 0, column",
		IQ2_BN: "iq2_bn has no scales of groups",
	} {
		if _, err := g.Pack(f); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("pq2_0 → %s: %v, want %s", f, err, want)
		}
	}
	m := mustFromCodes(t, randomCodes(rng, 2*256), 2, 256, 0.5)
	for f, want := range map[Format]string{Q1_0: "q1_0: row 0, column", STQ1_0: "stq1_0: row 0, column"} {
		if _, err := Pack(m, f); err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v, want %s", f, err, want)
		}
	}
}

// A block with scale 0 holds zeros and does not keep its neighbours' scales apart; -0 is 0.
func TestGroupsZeroScale(t *testing.T) {
	rng := rand.New(rand.NewPCG(14, 5))
	src := randomBlocks(rng, PQ2_0, 16, 512, 1000)
	put16(src, 34*1, 0)
	put16(src, 34*8, 0x8000)
	g, err := UnpackGroups(src, PQ2_0, 16, 512)
	if err != nil {
		t.Fatal(err)
	}
	checkValues(t, g, values(PQ2_0, src, 16, 512))
	if g.M.ScaleGroups() != 1 {
		t.Errorf("%d scales a row", g.M.ScaleGroups())
	}
	bits := randomBlocks(rng, Q1_0, 16, 512, 1000)
	put16(bits, 18*1, 0)
	if g, err = UnpackGroups(bits, Q1_0, 16, 512); err != nil {
		t.Fatal(err)
	}
	checkValues(t, g, values(Q1_0, bits, 16, 512))
}

func TestGroupsGolden(t *testing.T) {
	var golden struct {
		Matrices []struct {
			Name, Source                           string
			Rows, Cols, Bits                       int
			Values, Packed, Scales, Biases, DTypes []byte
		}
	}
	b, err := os.ReadFile("testdata/groups.json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, &golden); err != nil {
		t.Fatal(err)
	}
	floats := func(b []byte) []float32 {
		out := make([]float32, len(b)/4)
		for i := range out {
			out[i] = math.Float32frombits(binary.LittleEndian.Uint32(b[4*i:]))
		}
		return out
	}
	for _, m := range golden.Matrices {
		t.Run(m.Name, func(t *testing.T) {
			var g *Groups
			var err error
			if m.Source == "mlx" {
				g, err = UnpackMLX(m.Packed, m.Bits, floats(m.Scales), floats(m.Biases), m.Rows, m.Cols)
			} else {
				g, err = UnpackGroups(m.Packed, map[string]Format{"tq1_0": TQ1_0, "tq2_0": TQ2_0}[m.Name], m.Rows, m.Cols)
			}
			if err != nil {
				t.Fatal(err)
			}
			checkValues(t, g, floats(m.Values))
		})
	}
	if len(golden.Matrices) != 8 {
		t.Errorf("%d matrices", len(golden.Matrices))
	}
}

func TestMLXRefused(t *testing.T) {
	fresh := func(bits int) (words []byte, scales, biases []float32) {
		words = make([]byte, 4*256/8*bits)
		scales, biases = make([]float32, 8), make([]float32, 8)
		for i := range scales {
			scales[i], biases[i] = 0.5, -0.5
			if bits == 1 {
				biases[i] = -0.25
			}
		}
		return
	}
	for _, c := range []struct {
		bits   int
		damage func(w []byte, s, b []float32) ([]byte, []float32, []float32)
		want   string
		is     error
	}{
		{2, func(w []byte, s, b []float32) ([]byte, []float32, []float32) { w[64*2+40] = 0x30; return w, s, b }, "mlx: row 2, column 162 (byte 168) is +2", ErrCode3},
		{2, func(w []byte, s, b []float32) ([]byte, []float32, []float32) { b[5] = -0.4; return w, s, b }, "row 2, group 1 has scale 0.5 and bias -0.4, which is not ternary (bias = -scale)", ErrFormat},
		{1, func(w []byte, s, b []float32) ([]byte, []float32, []float32) { b[1] = -0.5; return w, s, b }, "row 0, group 1 has scale 0.5 and bias -0.5, which is not binary (bias = -scale/2)", ErrFormat},
		{2, func(w []byte, s, b []float32) ([]byte, []float32, []float32) {
			s[3], b[3] = 1e-9, -1e-9
			return w, s, b
		}, "scale 1e-09 of row 1, group 1 is no float16 number", ErrFormat},
		{2, func(w []byte, s, b []float32) ([]byte, []float32, []float32) {
			s[3], b[3] = float32(math.Inf(1)), float32(math.Inf(-1))
			return w, s, b
		}, "row 1, group 1 is no float16", ErrFormat},
		{2, func(w []byte, s, b []float32) ([]byte, []float32, []float32) { return w[4:], s, b }, "252 bytes of weights for shape [4, 256]", ErrFormat},
		{2, func(w []byte, s, b []float32) ([]byte, []float32, []float32) { return w, s[1:], b }, "7 scales and 8 biases", ErrFormat},
		{2, func(w []byte, s, b []float32) ([]byte, []float32, []float32) { return w, nil, nil }, "0 scales and 0 biases", ErrFormat},
		{3, func(w []byte, s, b []float32) ([]byte, []float32, []float32) { return w, s, b }, "3 bits a weight are not ternary", ErrFormat},
	} {
		w, s, b := c.damage(fresh(c.bits))
		_, err := UnpackMLX(w, c.bits, s, b, 4, 256)
		if err == nil || !strings.Contains(err.Error(), c.want) || !errors.Is(err, c.is) {
			t.Errorf("%v, want %s", err, c.want)
		}
	}
}

func FuzzUnpackGroups(f *testing.F) {
	rng := rand.New(rand.NewPCG(14, 6))
	for _, l := range groupFormats {
		f.Add(uint8(l), 3, 512, randomBlocks(rng, l, 3, 512, 1))
	}
	f.Fuzz(func(t *testing.T, format uint8, rows, cols int, src []byte) {
		l := Format(format)
		if l == 0 || int(l) >= len(layouts) || rows > 1<<20 || cols > 1<<20 {
			t.Skip()
		}
		g, err := UnpackGroups(src, l, rows, cols)
		if err != nil {
			return
		}
		back, err := g.Pack(l)
		if err != nil {
			t.Fatal(err)
		}
		again, err := UnpackGroups(back, l, rows, cols)
		if err != nil {
			t.Fatal(err)
		}
		a, b := make([]float32, cols), make([]float32, cols)
		for r := range rows {
			g.Row(a, r)
			again.Row(b, r)
			if !slices.Equal(a, b) {
				t.Fatalf("row %d packed and read is another", r)
			}
		}
	})
}

func BenchmarkUnpackGroups(b *testing.B) {
	rng := rand.New(rand.NewPCG(14, 7))
	for _, f := range groupFormats {
		src := randomBlocks(rng, f, 256, 2048, 1)
		b.Run(fmt.Sprint(f), func(b *testing.B) {
			b.SetBytes(int64(len(src)))
			for b.Loop() {
				if _, err := UnpackGroups(src, f, 256, 2048); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
