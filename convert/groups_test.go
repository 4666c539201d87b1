package convert

import (
	"bytes"
	"errors"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/model/part"
)

// bonsai writes a small random model of weights alone as f.
func bonsai(t *testing.T, f Format, rotated bool) string {
	t.Helper()
	r, err := NewRandom("bonsai-tiny", 3, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.Binary = f == Q1
	if rotated {
		if err := r.Rotate(128); err != nil {
			t.Fatal(err)
		}
	}
	dst := filepath.Join(t.TempDir(), "m.gguf")
	if _, err := Write(t.Context(), dst, r, Options{Format: f, Keep: true}); err != nil {
		t.Fatal(err)
	}
	return dst
}

func rewrite(t *testing.T, src string, f Format) string {
	t.Helper()
	_, s := open(t, src)
	dst := filepath.Join(t.TempDir(), "m")
	if _, err := Write(t.Context(), dst, s, Options{Format: f, Keep: true}); err != nil {
		t.Fatalf("%s: %v", f, err)
	}
	return dst
}

// TestWeightsAloneThereAndBack: every format of groups gives the same bytes back, rotated or not.
func TestWeightsAloneThereAndBack(t *testing.T) {
	for _, rotated := range []bool{false, true} {
		src := bonsai(t, PQ2, rotated)
		want, err := os.ReadFile(src)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []Format{PQ2, PTQ1, Q2} {
			got, err := os.ReadFile(rewrite(t, rewrite(t, src, f), PQ2))
			if err != nil {
				t.Fatal(err)
			}
			if string(got) != string(want) {
				t.Errorf("%s, rotated %v, and back: other bytes", f, rotated)
			}
		}
	}
	_, src := open(t, bonsai(t, Q1, false))
	for _, f := range []Format{I2S, IQ1BN, HFPacked} {
		if _, err := Write(t.Context(), filepath.Join(t.TempDir(), "m"), src, Options{Format: f}); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s: %v", f, err)
		}
	}
	if _, err := Write(t.Context(), filepath.Join(t.TempDir(), "m"), src, Options{Format: Q1}); err != nil {
		t.Error(err)
	}
}

// TestUnrotated: floats made of a rotated file are the plain weights, w = s ⊙ H(w').
func TestUnrotated(t *testing.T) {
	path := bonsai(t, PQ2, true)
	set, src := open(t, path)
	cfg, err := family.Read(set)
	if err != nil {
		t.Fatal(err)
	}
	plain, got := open(t, rewrite(t, path, HFF32))
	if c := got.Config(); c.Embedding.Rotation != nil || c.Projections()[0].Rotation != nil {
		t.Error("the floats are still said to be rotated")
	}
	p := cfg.Projections()[6] // down_proj
	folded, err := src.Dense(p.Name+".weight", p.Out, p.In)
	if err != nil {
		t.Fatal(err)
	}
	dense, err := plain.Dense(p.Name+".weight", p.Out, p.In)
	if err != nil {
		t.Fatal(err)
	}
	a, b := make([]float32, p.In), make([]float32, p.In)
	folded.Row(a, 5)
	dense.Row(b, 5)
	for i := range b {
		var want float64
		for j := range p.Rotation.Block {
			at := i/p.Rotation.Block*p.Rotation.Block + j
			sign := 1.0
			for k := i % p.Rotation.Block & j; k > 0; k &= k - 1 {
				sign = -sign
			}
			want += sign * float64(a[at])
		}
		want *= float64(p.Rotation.Signs[i]) / math.Sqrt(float64(p.Rotation.Block))
		if math.Abs(want-float64(b[i])) > 1e-6 {
			t.Fatalf("column %d is %g, want %g", i, b[i], want)
		}
	}
}

// TestFloatsOfGroups: a model of groups that was written as floats becomes the same bytes again, whatever the mean of its groups.
func TestFloatsOfGroups(t *testing.T) {
	for _, stored := range []Format{PQ2, PTQ1, Q1} {
		src := bonsai(t, stored, false)
		for _, f := range []Format{PQ2, PTQ1} {
			want, err := os.ReadFile(rewrite(t, src, f))
			if err != nil {
				t.Fatal(err)
			}
			for _, through := range []Format{F32, F16} {
				got, err := os.ReadFile(rewrite(t, rewrite(t, rewrite(t, src, through), f), f)) // twice: the keys in one order
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(want, got) {
					t.Errorf("%s through %s to %s: other bytes", stored, through, f)
				}
			}
		}
	}
}

// TestMastersOfGroups: floats that are not ternary become so group by group, by the mean magnitude, and how far they are is said.
func TestMastersOfGroups(t *testing.T) {
	floats := rewrite(t, bonsai(t, PQ2, true), HFF32) // turned back: sums of 128 ternary weights
	_, src := open(t, floats)
	dst := filepath.Join(t.TempDir(), "m.gguf")
	r, err := Write(t.Context(), dst, src, Options{Format: PQ2})
	if err != nil {
		t.Fatal(err)
	}
	if e := r.MeanError(); len(r.Quantised) != 29 || !(e > 0.45 && e < 0.6) { // GaussianError
		t.Errorf("%d tensors, error %g", len(r.Quantised), e)
	}
	_, got := open(t, dst)
	p := got.Config().Projections()[0]
	if p.Arithmetic != part.WeightOnly {
		t.Errorf("%s has arithmetic %s", p.Name, p.Arithmetic)
	}
	before, err := src.Dense(p.Name+".weight", p.Out, p.In)
	if err != nil {
		t.Fatal(err)
	}
	after, err := got.Dense(p.Name+".weight", p.Out, p.In)
	if err != nil {
		t.Fatal(err)
	}
	x, y := make([]float32, p.In), make([]float32, p.In)
	before.Row(x, 0)
	after.Row(y, 0)
	var mean float64
	for _, v := range x[:128] {
		mean += math.Abs(float64(v)) / 128
	}
	for i, v := range x[:128] {
		if want := mean * max(-1, min(1, math.RoundToEven(float64(v)/mean))); math.Abs(float64(y[i])-want) > 1e-3*mean {
			t.Errorf("column %d: %g became %g, the mean magnitude is %g", i, v, y[i], mean)
		}
	}
}
