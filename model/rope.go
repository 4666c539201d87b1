package model

import "math"

// rope holds the rotary tables, grown as positions are asked for.
//
//	cos, sin  [positions, hd/2] float32
type rope struct {
	half     int
	freq     []float32 // [hd/2]
	scale    float32   // of cosines and sines
	cos, sin []float32
}

func newRope(c *Config) *rope { return newRopeOf(c, c.RopeTheta, c.Rope) }

// newLocalRope is that of sliding layers, nil where there are none or they have the others'.
func newLocalRope(c *Config) *rope {
	if c.Sliding == nil || c.LocalTheta == 0 {
		return nil
	}
	return newRopeOf(c, c.LocalTheta, RopeScaling{})
}

func newRopeOf(c *Config, theta float64, s RopeScaling) *rope {
	r := &rope{half: c.HeadDim / 2, freq: make([]float32, c.HeadDim/2), scale: 1}
	for i := range r.freq {
		// As transformers computes it: 1/theta^(2i/hd) in float32.
		r.freq[i] = float32(1 / float64(float32(math.Pow(theta, float64(float32(2*i)/float32(c.HeadDim))))))
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
		s.yarn(r.freq, theta, c.HeadDim)
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
func (r *rope) grow(n int) {
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

// at gives the tables of one position, [hd/2] each.
func (r *rope) at(pos int) (cos, sin []float32) {
	return r.cos[pos*r.half:][:r.half], r.sin[pos*r.half:][:r.half]
}
