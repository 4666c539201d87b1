package ternary

import (
	"math"
	"math/rand/v2"
	"testing"
)

// trained is a matrix with the traces that training leaves: channels differ in their share of zeros,
// and the norm in front knows about it (loosely).
func trained(rng *rand.Rand, rows, cols int, trace float64) (codes []int8, norm []float32) {
	norm = make([]float32, cols)
	zeros := make([]float64, cols)
	for c := range cols {
		x := rng.NormFloat64()
		zeros[c] = min(0.95, max(0.05, 0.4+trace*x))
		norm[c] = float32(1 + 0.1*x + 0.3*rng.NormFloat64())
	}
	codes = make([]int8, rows*cols)
	for i := range codes {
		if rng.Float64() >= zeros[i%cols] {
			codes[i] = int8(rng.IntN(2)*2 - 1)
		}
	}
	return codes, norm
}

func TestI2SProbe(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 5))
	for _, f := range i2sLayouts {
		var p I2SProbe
		for range 20 {
			codes, norm := trained(rng, 256, 512, 0.05)
			b, err := Pack(mustFromCodes(t, codes, 256, 512, 1), f)
			if err != nil {
				t.Fatal(err)
			}
			p.Add(b, 256, 512, norm)
		}
		got, clear := p.Guess()
		if got != f || !clear {
			t.Errorf("%s: guessed %s, clear %v (%+v)", f, got, clear, p)
		}
	}
}

// TestI2SProbeOnRandomWeights has nothing to find: the guess is the published layout, and not clear.
func TestI2SProbeOnRandomWeights(t *testing.T) {
	rng := rand.New(rand.NewPCG(6, 6))
	for _, f := range i2sLayouts {
		var p I2SProbe
		for range 20 {
			codes, norm := trained(rng, 64, 512, 0)
			b, _ := Pack(mustFromCodes(t, codes, 64, 512, 1), f)
			p.Add(b, 64, 512, norm)
		}
		if got, clear := p.Guess(); got != I2SX86 || clear {
			t.Errorf("%s: guessed %s, clear %v (%+v)", f, got, clear, p)
		}
	}
}

func TestI2SProbeShapes(t *testing.T) {
	guess := func(rows, cols int) (Format, bool) {
		var p I2SProbe
		p.Add(make([]byte, rows*cols/4+32), rows, cols, []float32{float32(math.NaN())})
		return p.Guess()
	}
	if f, clear := guess(3, 192); f != I2SARM || !clear {
		t.Errorf("3×192 is %s, %v", f, clear)
	}
	if f, clear := guess(4, 48); f != I2SX4 || !clear {
		t.Errorf("4×48 is %s, %v", f, clear)
	}
	if f, clear := guess(4, 128); f != I2SX86 || clear {
		t.Errorf("4×128 is %s, %v", f, clear)
	}
	if f, clear := guess(3, 5); f != I2SX86 || clear {
		t.Errorf("3×5 is %s, %v", f, clear)
	}
}
