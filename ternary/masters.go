package ternary

import "math"

// Masters makes float masters that quantise to m: to its codes, and to its scale, which is their mean size. They are w, where
// there is one, else as good as the codes alone give, in numbers that lose nothing when they are cut to the upper bits of a
// float32: 16 for bfloat16, 32 for float32.
//
// Nearly all become the nearest such number. The nearest of a few is beyond half the scale, the middle between two codes:
// these take the one on their own side. Then the mean is brought back to the scale by rounding others, all over the matrix, to
// their second nearest. A scale that is no reciprocal of a reciprocal, as Quantize computes it, is missed by its last bit.
//
//	w  [m.Rows, m.Cols] or nil
func Masters(w []float32, m *Matrix, bits int) []float32 {
	const room = 1.0 / (1 << 16) // for the roundings of whoever divides
	codes, scale := m.Codes(nil), reachable(m.Scale[0])
	below := cut(scale/2*(1-room), bits)
	above := next(cut(scale/2*(1+room), bits), bits, 1)
	size := make([]float32, len(codes))
	var missing float64 // of the sum of all sizes
	if w == nil {
		missing = evenSizes(size, codes, scale, bits)
	} else {
		missing = roundedSizes(size, w, codes, scale, bits, below, above)
	}
	// What is then still missing, less than one step, goes to a few weights of code 0.
	for i := range size {
		if size[i] == 0 && missing > 0 {
			size[i] = min(cut(float32(missing*(1-0x1p-23)), bits), below)
			missing -= float64(size[i])
		}
	}
	for i, s := range size {
		switch {
		case w != nil:
			size[i] = float32(math.Copysign(float64(s), float64(w[i])))
		case codes[i] < 0:
			size[i] = -s
		}
	}
	return size
}

// evenSizes gives all weights whose code is not 0 one of two neighbouring sizes, mixed evenly, and returns what is missing of
// the sum.
//
// With a share p of the codes not zero, weights ŵ·s/p have the mean magnitude s, and |ŵ/p| ≥ 1 rounds back to ŵ.
func evenSizes(size []float32, codes []int8, scale float32, bits int) (missing float64) {
	n := 0
	for _, c := range codes {
		n += int(c * c)
	}
	sum := float64(scale) * float64(len(codes))
	if n == 0 {
		return sum
	}
	lower := cut(float32(sum/float64(n)), bits)
	if float64(lower)*float64(n) > sum { // it was rounded up
		lower = next(lower, bits, -1)
	}
	upper := next(lower, bits, 1)
	missing = sum - float64(n)*float64(lower)
	more := int(min(float64(n), max(0, missing/(float64(upper)-float64(lower)))))
	at := 0 // of the weights so far times more, modulo n
	for i, c := range codes {
		if c == 0 {
			continue
		}
		size[i] = lower
		if at += more; at >= n {
			at -= n
			size[i] = upper
		}
	}
	return missing - float64(more)*(float64(upper)-float64(lower))
}

// roundedSizes rounds |w| on the side of each code, brings the sum near that of the scale, and returns what is missing of it.
func roundedSizes(size, w []float32, codes []int8, scale float32, bits int, below, above float32) (missing float64) {
	sum := float64(scale) * float64(len(size))
	missing = sum
	right := func() bool { // as Quantize computes it
		inv := 1 / float32((sum-missing)/float64(len(size)))
		return 1/inv == 1/(1/scale)
	}
	for i, x := range w {
		size[i] = abs(nearest(x, bits))
		if codes[i] == 0 {
			size[i] = min(size[i], below)
		} else {
			size[i] = max(size[i], above)
		}
		missing -= float64(size[i])
	}
	const stride = 7919 // a prime
	for i, done := 0, right(); i < len(size) && !done; i++ {
		k := int(uint64(i) * stride % uint64(len(size)))
		up := 1
		if missing < 0 {
			up = -1
		}
		if size[k] == 0 || (abs(w[k]) > size[k]) != (missing > 0) {
			continue
		}
		other := next(size[k], bits, up)
		more := float64(other) - float64(size[k])
		if math.Abs(more) <= math.Abs(missing) && (codes[k] == 0 && other <= below || codes[k] != 0 && other >= above) {
			size[k] = other
			missing -= more
			done = right()
		}
	}
	if right() {
		return 0
	}
	return missing
}

// reachable is a mean of which Quantize makes the scale s, or s when there is none.
func reachable(s float32) float32 {
	for _, mean := range []float32{s, next(s, 32, 1), next(s, 32, -1)} {
		if inv := 1 / mean; 1/inv == s {
			return mean
		}
	}
	return s
}

// cut makes a positive number smaller until it has no more than the upper bits.
func cut(x float32, bits int) float32 {
	return math.Float32frombits(math.Float32bits(x) &^ (1<<(32-bits) - 1))
}

// next is the number up steps away, of those with no more than the upper bits.
func next(x float32, bits, up int) float32 {
	return math.Float32frombits(uint32(int(math.Float32bits(x)) + up<<(32-bits)))
}

// nearest rounds to the upper bits, half to even.
func nearest(x float32, bits int) float32 {
	if bits == 32 {
		return x
	}
	shift := 32 - bits
	u := math.Float32bits(x)
	return math.Float32frombits((u + 1<<(shift-1) - 1 + u>>shift&1) &^ (1<<shift - 1))
}

func abs(x float32) float32 { return float32(math.Abs(float64(x))) }
