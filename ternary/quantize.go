package ternary

import (
	"fmt"
	"math"
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
	return quantize(rows, cols, func(_ []float32, r int) []float32 { return w[r*cols:][:cols] })
}

// QuantizeBF16 is Quantize for bfloat16 masters (the upper half of a float32). transformers widens the
// weights to float32 before it quantises, so the codes are the same in a model loaded as bfloat16 and
// one loaded as float32; only the value Ŵ/s is then rounded to the model's type. Scale[0] here is the
// unrounded float32, as in a model loaded as float32.
func QuantizeBF16(w []uint16, rows, cols int) *Matrix {
	checkLen(len(w), rows, cols)
	return quantize(rows, cols, func(buf []float32, r int) []float32 {
		for i, v := range w[r*cols:][:len(buf)] {
			buf[i] = math.Float32frombits(uint32(v) << 16)
		}
		return buf
	})
}

// QuantizeF16 is QuantizeBF16 for IEEE half precision masters.
func QuantizeF16(w []uint16, rows, cols int) *Matrix {
	checkLen(len(w), rows, cols)
	return quantize(rows, cols, func(buf []float32, r int) []float32 {
		for i, v := range w[r*cols:][:len(buf)] {
			buf[i] = f16(v)
		}
		return buf
	})
}

func checkLen(n, rows, cols int) {
	if T16Bytes(rows, cols) == 0 || n != rows*cols {
		panic(fmt.Sprintf("ternary: %d weights for shape [%d, %d]", n, rows, cols))
	}
}

// quantize reads each row twice: for the mean and for the codes. row returns row r, in buf (len cols)
// or elsewhere.
func quantize(rows, cols int, row func(buf []float32, r int) []float32) *Matrix {
	m := newMatrix(rows, cols)
	sums := make([]float64, (rows+15)/16)
	parallel(rows, func(lo, hi int) {
		buf := make([]float32, cols)
		for r := lo; r < hi; r++ {
			sums[r/16] += sumAbs(row(buf, r))
		}
	})
	var sum float64
	for _, s := range sums {
		sum += s
	}
	mean := max(float32(sum/(float64(rows)*float64(cols))), 1e-5)
	s := 1 / mean
	m.Scale = []float32{1 / s}
	if !goodScale(m.Scale[0]) {
		fill(m.T16, zeroByte)
		return m
	}
	parallel(rows, func(lo, hi int) {
		buf, codes := make([]float32, cols), m.codeBuffer()
		for r := lo; r < hi; r++ {
			dst := codes[:cols]
			for c, v := range row(buf, r) {
				dst[c] = code(v * s)
			}
			setWords(m.row(r), codes)
		}
	})
	return m
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

// code is clamp(round(x), -1, 1) + 1 without a branch: 1 where |x| ≤ 0.5, else 0 or 2 by the sign.
// x must not be NaN.
func code(x float32) byte {
	u := math.Float32bits(x)
	big := uint32(0x3f000000-int32(u&0x7fffffff)) >> 31 // 1 when |x| > 0.5
	return byte(1 + big - 2*(big&(u>>31)))
}

// f16 widens an IEEE 754 half.
func f16(h uint16) float32 {
	sign, exp, frac := uint32(h&0x8000)<<16, uint32(h>>10&31), uint32(h&0x3ff)
	switch exp {
	case 0: // zero and subnormals: frac·2⁻²⁴ is exact
		return math.Float32frombits(sign | math.Float32bits(float32(frac)*0x1p-24))
	case 31:
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
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
