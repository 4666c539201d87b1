package ternary

import (
	"bytes"
	"math"
	"math/rand/v2"
	"testing"
)

// TestMastersThatFitStay: what is a bfloat16 already is not rounded again.
func TestMastersThatFitStay(t *testing.T) {
	rng := rand.New(rand.NewPCG(3, 4))
	for range 50 {
		rows, cols := 1+rng.IntN(20), 1+rng.IntN(100)
		w := make([]float32, rows*cols)
		for i := range w {
			w[i] = nearest(float32(rng.NormFloat64()*0.02), 16)
		}
		m := Quantize(w, rows, cols)
		for i, v := range Masters(w, m, 16) {
			if v != w[i] {
				t.Fatalf("%d×%d: master %d is %g instead of %g", rows, cols, i, v, w[i])
			}
		}
	}
}

// TestMastersOfCodesAreExact: of matrices of some size that have zeros, codes and scale come back to the last bit.
func TestMastersOfCodesAreExact(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for range 100 {
		rows, cols := 64+rng.IntN(64), 64+rng.IntN(64)
		w := make([]float32, rows*cols)
		for i := range w {
			w[i] = float32(rng.NormFloat64() * 0.02)
		}
		m := Quantize(w, rows, cols)
		for _, bits := range []int{16, 32} {
			got := Quantize(Masters(nil, m, bits), rows, cols)
			if !bytes.Equal(got.T16, m.T16) || got.Scale[0] != m.Scale[0] {
				t.Fatalf("%d×%d, %d bits: scale %g instead of %g", rows, cols, bits, got.Scale[0], m.Scale[0])
			}
		}
	}
}

// TestMastersQuantiseBack: masters of codes, and rounded masters, become the codes and the scale they are for.
func TestMastersQuantiseBack(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 200 {
		rows, cols := 1+rng.IntN(40), 1+rng.IntN(200)
		w := make([]float32, rows*cols)
		for i := range w {
			w[i] = float32(rng.NormFloat64() * math.Exp(rng.NormFloat64()*2-4))
		}
		switch n % 5 {
		case 1: // codes that are all 0 but one
			clear(w)
			w[rng.IntN(len(w))] = 1
		case 2: // all alike
			for i := range w {
				w[i] = 0.013
			}
		}
		m := Quantize(w, rows, cols)
		if n%2 == 1 { // as weight_scale of a packed file may be
			m.Scale[0] = math.Float32frombits(math.Float32bits(m.Scale[0]) &^ 0xffff)
		}
		if m.Check() != nil || m.Scale[0] < 1e-4 {
			continue
		}
		for _, c := range []struct {
			w    []float32
			bits int
		}{{nil, 16}, {nil, 32}, {w, 16}} {
			if c.w != nil && n%2 == 1 {
				continue // the scale is not that of the masters
			}
			x := Masters(c.w, m, c.bits)
			for i, v := range x {
				if c.bits == 16 && math.Float32bits(v)&0xffff != 0 {
					t.Fatalf("%d: master %d is %g, no bfloat16", n, i, v)
				}
			}
			got := Quantize(x, rows, cols)
			if !bytes.Equal(got.T16, m.T16) {
				t.Errorf("%d: %d×%d, %d bits, of masters: %v: other codes", n, rows, cols, c.bits, c.w != nil)
			}
			d := math.Abs(float64(got.Scale[0])/float64(m.Scale[0]) - 1)
			limit := 0x1p-22
			if c.bits == 16 && (rows*cols < 300 || n%5 == 2) { // too few, or too like each other, to make the mean
				limit = 1e-3
			}
			if d > limit {
				t.Errorf("%d: %d×%d, %d bits, of masters: %v: scale %g instead of %g", n, rows, cols, c.bits, c.w != nil, got.Scale[0], m.Scale[0])
			}
		}
	}
}
