package ternary

import (
	"fmt"
	"math"
	"sort"
)

// Quantize makes a ternary matrix of float32 masters by absmean (Ma et al. 2024, arXiv:2402.17764,
// eqs. 1-3), in the float32 operations of Hugging Face transformers (integrations/bitnet.py, WeightQuant):
//
//	s = 1 / max(mean|W|, 1e-5)      Ŵ = clamp(round(W·s), -1, 1)      value = Ŵ / s
//
//	w  [rows, cols] row-major
//
// round is half to even, so |W·s| = 0.5 gives 0. The mean is summed in float64 (16 rows at a time, then
// the partial sums in order) and rounded once; torch sums float32 in an order of its own, which may move s by
// one unit in the last place and with it a code whose W·s lies within an ulp of ±0.5. The result does
// not depend on the number of cores. Scale[0] is 1/s rounded to float32.
//
// Masters that hold NaN or infinities give codes 0 and a scale that Check refuses.
func Quantize(w []float32, rows, cols int) *Matrix {
	checkLen(len(w), rows, cols)
	return quantize(rows, cols, func(u uint32) float32 { return math.Float32frombits(u) }, 0x7f7fffff,
		func(r int) float64 { return sumAbs(w[r*cols:][:cols]) },
		func(dst []byte, r int, top uint32) {
			for i, v := range w[r*cols:][:len(dst)] {
				u := math.Float32bits(v)
				dst[i] = code(u&0x7fffffff, u>>31, top)
			}
		})
}

// QuantizeBF16 is Quantize for bfloat16 masters (the upper half of a float32). transformers widens the
// weights to float32 before it quantises, so the codes are the same in a model loaded as bfloat16 and
// one loaded as float32; only the value Ŵ/s is then rounded to the model's type. Scale[0] here is the
// unrounded float32, as in a model loaded as float32.
func QuantizeBF16(w []uint16, rows, cols int) *Matrix {
	return quantize16(w, rows, cols, 16, 1, 0x7f7f)
}

// QuantizeF16 is QuantizeBF16 for IEEE half precision masters.
func QuantizeF16(w []uint16, rows, cols int) *Matrix {
	return quantize16(w, rows, cols, 13, 0x1p112, 0x7bff)
}

// quantize16 takes 16-bit floats whose magnitude is its bits, shifted, as a float32, times mul (exactly:
// 2¹¹² makes up for the exponent bias of a half, subnormals included); finite up to the bits limit.
func quantize16(w []uint16, rows, cols int, shift uint, mul float32, limit uint32) *Matrix {
	checkLen(len(w), rows, cols)
	return quantize(rows, cols, func(u uint32) float32 { return math.Float32frombits(u<<shift) * mul }, limit,
		func(r int) float64 { return sumAbs16(w[r*cols:][:cols], shift, mul, limit) },
		func(dst []byte, r int, top uint32) {
			for i, h := range w[r*cols:][:len(dst)] {
				dst[i] = code(uint32(h)&0x7fff, uint32(h)>>15, top)
			}
		})
}

func checkLen(n, rows, cols int) {
	if rows <= 0 || cols <= 0 || n != rows*cols {
		panic(fmt.Sprintf("ternary: %d weights for shape [%d, %d]", n, rows, cols))
	}
}

// quantize reads every row twice, through sum (Σ|w|) and codes. To the second pass a weight is its sign
// and the bits of its magnitude: those order as the magnitudes do and |w|·s grows with |w|, so that
// round(|w|·s) ≥ 1 exactly when the bits are above a number top, found once. value turns bits up to
// limit into a magnitude.
func quantize(rows, cols int, value func(bits uint32) float32, limit uint32, sum func(r int) float64, codes func(dst []byte, r int, top uint32)) *Matrix {
	m := newMatrix(rows, cols)
	sums := make([]float64, (rows+15)/16)
	parallel(rows, func(lo, hi int) {
		for r := lo; r < hi; r++ {
			sums[r/16] += sum(r)
		}
	})
	var total float64
	for _, s := range sums {
		total += s
	}
	mean := max(float32(total/(float64(rows)*float64(cols))), 1e-5)
	s := 1 / mean
	m.Scale = []float32{1 / s}
	if !goodScale(m.Scale[0]) {
		fill(m.T16, zeroByte)
		return m
	}
	top := uint32(sort.Search(int(limit), func(bits int) bool { return value(uint32(bits)+1)*s > 0.5 }))
	parallel(rows, func(lo, hi int) {
		buf := m.codeBuffer()
		for r := lo; r < hi; r++ {
			codes(buf[:cols], r, top)
			setWords(m.row(r), buf)
		}
	})
	return m
}

// code is 1 for a magnitude up to top, else 0 or 2 by the sign (1 is minus), without a branch.
func code(bits, sign, top uint32) byte {
	big := (top - bits) >> 31 // both below 2³¹
	return byte(1 + big - 2*(big&sign))
}

// sumAbs adds |w| in four interleaved float64 sums.
func sumAbs(w []float32) float64 {
	var a, b, c, d float64
	for ; len(w) >= 4; w = w[4:] {
		a += math.Abs(float64(w[0]))
		b += math.Abs(float64(w[1]))
		c += math.Abs(float64(w[2]))
		d += math.Abs(float64(w[3]))
	}
	for _, v := range w {
		a += math.Abs(float64(v))
	}
	return (a + b) + (c + d)
}

// sumAbs16 is sumAbs for quantize16; NaN when a weight is not finite.
func sumAbs16(w []uint16, shift uint, mul float32, limit uint32) float64 {
	var a, b float64
	var bad uint32
	value := func(h uint16) float64 {
		u := uint32(h) & 0x7fff
		bad |= limit - u
		return float64(math.Float32frombits(u<<(shift&31)) * mul)
	}
	for ; len(w) >= 2; w = w[2:] {
		a += value(w[0])
		b += value(w[1])
	}
	if len(w) > 0 {
		a += value(w[0])
	}
	if bad>>31 != 0 {
		return math.NaN()
	}
	return a + b
}

// f16 widens an IEEE 754 half. Its bits in a float32's place are 2¹¹² too small, exactly, subnormals included.
func f16(h uint16) float32 {
	u := uint32(h) & 0x7fff << 13
	v := math.Float32frombits(u) * 0x1p112
	if h&0x7c00 == 0x7c00 { // infinity, NaN
		v = math.Float32frombits(u | 0x7f800000)
	}
	return math.Float32frombits(math.Float32bits(v) | uint32(h)&0x8000<<16)
}

// toF16 rounds to IEEE 754 half, ties to even.
func toF16(f float32) uint16 {
	u := math.Float32bits(f)
	sign := uint16(u >> 16 & 0x8000)
	u &= 0x7fffffff
	switch {
	case u > 0x7f800000:
		return sign | 0x7e00
	case u >= 0x477ff000: // rounds to 2¹⁶ or more
		return sign | 0x7c00
	case u < 0x38800000: // below 2⁻¹⁴: a multiple of 2⁻²⁴
		return sign | uint16(math.RoundToEven(float64(math.Float32frombits(u))*0x1p24))
	}
	u += 0xfff + u>>13&1
	return sign | uint16((u-0x38000000)>>13)
}
