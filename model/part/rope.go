package part

import (
	"fmt"
	"math"
)

// Rope is rotary positions of the first Dim values of each head, or of all. Layers that share one share its tables.
type Rope struct {
	Dim     int
	Theta   float64
	Scaling RopeScaling
}

// RopeScaling stretches rotary positions; the zero value is none. Source: transformers modeling_rope_utils.
type RopeScaling struct {
	Type           string  // "", "linear", "llama3", "yarn"
	Factor         float64 // of all three
	LowFreqFactor  float64 // llama3
	HighFreqFactor float64 // llama3
	OldContext     int     // llama3, yarn: original_max_position_embeddings
	AttnFactor     float64 // yarn: cosines and sines are multiplied by it
	BetaFast       float64 // yarn
	BetaSlow       float64 // yarn
	NoTruncate     bool    // yarn: the borders of the ramp are not rounded to whole dimensions

	// Divisors divide the frequencies before they are stretched, nil for none: rope_freqs.weight of a GGUF file.
	Divisors []float32 // [dim/2]
}

// Check refuses a kind that is not known and impossible numbers.
func (r RopeScaling) Check() error {
	for _, d := range r.Divisors {
		if !(d > 0 && d <= math.MaxFloat32) {
			return fmt.Errorf("a factor of rope_freqs.weight is %g; it must be positive", d)
		}
	}
	switch r.Type {
	case "":
		return nil
	case "linear":
		if r.Factor > 0 {
			return nil
		}
	case "llama3":
		if r.Factor > 0 && r.LowFreqFactor > 0 && r.HighFreqFactor > r.LowFreqFactor && r.OldContext > 0 {
			return nil
		}
	case "yarn":
		if r.Factor > 0 && r.OldContext > 0 && r.AttnFactor > 0 && r.BetaFast > 0 && r.BetaSlow > 0 && !math.IsInf(r.AttnFactor, 0) {
			return nil
		}
	default:
		return fmt.Errorf("rope_scaling type %q is not supported; supported: linear, llama3, yarn", r.Type)
	}
	return fmt.Errorf("rope_scaling of type %q has impossible numbers: %+v", r.Type, r)
}

// ropeTable holds the rotary tables, grown as positions are asked for.
//
//	cos, sin  [positions, dim/2] float32
type ropeTable struct {
	of       *Rope
	half     int
	freq     []float32 // [dim/2]
	scale    float32   // of cosines and sines
	cos, sin []float32
}

// rope gives the tables of a Rope, nil for none.
func (l *Loader) rope(of *Rope) *ropeTable {
	if of == nil {
		return nil
	}
	for _, r := range l.Block.ropes {
		if r.of == of {
			return r
		}
	}
	r := newRopeTable(of)
	l.Block.ropes = append(l.Block.ropes, r)
	return r
}

func newRopeTable(of *Rope) *ropeTable {
	s := of.Scaling
	r := &ropeTable{of: of, half: of.Dim / 2, freq: make([]float32, of.Dim/2), scale: 1}
	for i := range r.freq {
		// As transformers computes it: 1/theta^(2i/dim) in float32.
		r.freq[i] = float32(1 / float64(float32(math.Pow(of.Theta, float64(float32(2*i)/float32(of.Dim))))))
	}
	for i, d := range s.Divisors {
		r.freq[i] = float32(float64(r.freq[i]) / float64(d))
	}
	switch s.Type {
	case "linear":
		for i := range r.freq {
			r.freq[i] = float32(float64(r.freq[i]) / s.Factor)
		}
	case "llama3":
		for i, f := range r.freq {
			r.freq[i] = s.llama3(f)
		}
	case "yarn":
		r.scale = float32(s.AttnFactor)
		s.yarn(r.freq, of.Theta, of.Dim)
	}
	return r
}

// yarn leaves the fast frequencies, divides the slow ones by Factor and blends between along a ramp over the dimensions.
// Source: arXiv:2309.00071; transformers modeling_rope_utils, _compute_yarn_parameters, in float32 as there.
//
//	freq  [dim/2], in place
func (s RopeScaling) yarn(freq []float32, theta float64, dim int) {
	border := func(rotations float64) float64 { // the dimension that turns so often within the old context
		return float64(dim) * math.Log(float64(s.OldContext)/(rotations*2*math.Pi)) / (2 * math.Log(theta))
	}
	low, high := border(s.BetaFast), border(s.BetaSlow)
	if !s.NoTruncate {
		low, high = math.Floor(low), math.Ceil(high)
	}
	low, high = max(low, 0), min(high, float64(dim-1))
	if low == high {
		high += 0.001
	}
	for i, f := range freq {
		slow := float32(float64(f) / s.Factor)
		ramp := min(max((float32(i)-float32(low))/float32(high-low), 0), 1)
		keep := 1 - ramp
		freq[i] = float32(slow*(1-keep)) + float32(f*keep)
	}
}

// llama3 stretches the slow frequencies by Factor, leaves the fast ones and blends between.
// Source: transformers modeling_rope_utils, _compute_llama3_parameters.
func (s RopeScaling) llama3(freq float32) float32 {
	wave := 2 * math.Pi / float64(freq)
	low := float64(s.OldContext) / s.LowFreqFactor
	high := float64(s.OldContext) / s.HighFreqFactor
	switch {
	case wave < high:
		return freq
	case wave > low:
		return float32(float64(freq) / s.Factor)
	}
	smooth := (float64(s.OldContext)/wave - s.LowFreqFactor) / (s.HighFreqFactor - s.LowFreqFactor)
	return float32((1-smooth)*float64(freq)/s.Factor + smooth*float64(freq))
}

// grow makes the tables reach positions [0, n).
func (r *ropeTable) grow(n int) {
	have := len(r.cos) / max(r.half, 1)
	if n <= have {
		return
	}
	n = max(n, 2*have, 256)
	cos := make([]float32, n*r.half)
	sin := make([]float32, n*r.half)
	copy(cos, r.cos)
	copy(sin, r.sin)
	for pos := have; pos < n; pos++ {
		for i, f := range r.freq {
			angle := float64(float32(pos) * f) // the product is rounded to float32, as in the reference
			cos[pos*r.half+i] = float32(math.Cos(angle)) * r.scale
			sin[pos*r.half+i] = float32(math.Sin(angle)) * r.scale
		}
	}
	r.cos, r.sin = cos, sin
}

// at gives the tables of one position, [dim/2] each.
func (r *ropeTable) at(pos int) (cos, sin []float32) {
	return r.cos[pos*r.half:][:r.half], r.sin[pos*r.half:][:r.half]
}
