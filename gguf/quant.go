package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// decoders of the types that Dequantize takes.
var decoders = map[Type]func([]float32, []byte){
	F32: fromF32, F16: fromF16, BF16: fromBF16,
	Q4_0: fromQ4, Q4_1: fromQ41, Q5_0: fromQ50, Q5_1: fromQ51, Q8_0: fromQ8, IQ4_NL: fromIQ4NL,
	Q2_K: fromQ2K, Q3_K: fromQ3K, Q4_K: fromQ4K, Q5_K: fromQ5K, Q6_K: fromQ6K,
}

// Dequantize writes the float values of src, whole blocks of type t: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, IQ4_NL and
// Q2_K to Q6_K, to the last bit as the Python package gguf does. Ternary types are package ternary's; others fail with
// errors.ErrUnsupported.
//
//	dst  [n] float32
//	src  n/block·bytes; a wrong length panics, since Read has bounded every tensor
func Dequantize(dst []float32, t Type, src []byte) error {
	fn := decoders[t]
	if fn == nil {
		return fmt.Errorf("gguf: %s cannot be decoded to float here: %w", t, errors.ErrUnsupported)
	}
	checkLen("Dequantize", t, len(dst), len(src))
	fn(dst, src)
	return nil
}

// Quantize is the inverse, for F32, F16, BF16, Q8_0, Q4_0 and Q6_K. Results equal those of ggml's
// reference quantisers (its quantize_row_*_ref) for F16, BF16, Q8_0 and Q4_0; Q6_K searches scales in a
// way of its own. Values must be finite: NaN has no defined code in the block types.
func Quantize(dst []byte, t Type, src []float32) error {
	fn := map[Type]func([]byte, []float32){
		F32: toF32, F16: toF16, BF16: toBF16, Q8_0: toQ8, Q4_0: toQ4, Q6_K: toQ6K,
	}[t]
	if fn == nil {
		return fmt.Errorf("gguf: floats cannot be stored as %s: %w", t, errors.ErrUnsupported)
	}
	checkLen("Quantize", t, len(src), len(dst))
	fn(dst, src)
	return nil
}

func checkLen(what string, t Type, floats, bytes int) {
	i := typeInfos[t]
	if int64(floats)%i.block != 0 || int64(floats)/i.block*i.bytes != int64(bytes) {
		panic(fmt.Sprintf("gguf: %s: %d floats and %d bytes of %s", what, floats, bytes, t))
	}
}

func fromF32(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(binary.LittleEndian.Uint32(src[4*i:]))
	}
}

func toF32(dst []byte, src []float32) {
	for i, v := range src {
		binary.LittleEndian.PutUint32(dst[4*i:], math.Float32bits(v))
	}
}

func fromF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = half(src[2*i:])
	}
}

func toF16(dst []byte, src []float32) {
	for i, v := range src {
		putHalf(dst[2*i:], v)
	}
}

func fromBF16(dst []float32, src []byte) {
	for i := range dst {
		dst[i] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src[2*i:])) << 16)
	}
}

// toBF16 rounds to nearest, ties to even; a NaN stays one.
func toBF16(dst []byte, src []float32) {
	for i, v := range src {
		u := math.Float32bits(v)
		if u&0x7fffffff > 0x7f800000 {
			u |= 1 << 22
		} else {
			u += 0x7fff + u>>16&1
		}
		binary.LittleEndian.PutUint16(dst[2*i:], uint16(u>>16))
	}
}

// Q8_0: 32 weights, f16 d, int8[32]; value = d·q.
func fromQ8(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[34:] {
		d := half(src)
		for i, b := range src[2:34] {
			dst[i] = float32(int8(b)) * d
		}
	}
}

// toQ8 has d = max|x|/127 and rounds x/d half away from zero, with d not yet rounded to f16.
func toQ8(dst []byte, src []float32) {
	for ; len(src) > 0; dst, src = dst[34:], src[32:] {
		var top float32
		for _, v := range src[:32] {
			top = max(top, float32(math.Abs(float64(v))))
		}
		d := top / 127
		inv := float32(0)
		if d != 0 {
			inv = 1 / d
		}
		putHalf(dst, d)
		for i, v := range src[:32] {
			dst[2+i] = byte(int8(math.Round(float64(v * inv))))
		}
	}
}

// Q4_0: 32 weights, f16 d, 16 bytes; weight i < 16 in the low half of byte i, weight 16+i in the high
// one; value = d·(q-8).
func fromQ4(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[18:] {
		d := half(src)
		for i, b := range src[2:18] {
			dst[i] = float32(int(b&15)-8) * d
			dst[16+i] = float32(int(b>>4)-8) * d
		}
	}
}

// toQ4 has d = x/-8 for the x of largest magnitude.
func toQ4(dst []byte, src []float32) {
	for ; len(src) > 0; dst, src = dst[18:], src[32:] {
		var top, signed float32
		for _, v := range src[:32] {
			if a := float32(math.Abs(float64(v))); a > top {
				top, signed = a, v
			}
		}
		d := signed / -8
		inv := float32(0)
		if d != 0 {
			inv = 1 / d
		}
		putHalf(dst, d)
		q := func(v float32) byte { return byte(min(15, int(float32(v*inv)+8.5))) }
		for i := range 16 {
			dst[2+i] = q(src[i]) | q(src[16+i])<<4
		}
	}
}

// Q6_K: 256 weights in 16 groups of 16: ql[128], qh[64], int8 scales[16], f16 d;
// value = d·scale·(q-32), q of 6 bits: four in ql, two in qh. Halves of 128 weights use 64 bytes of
// ql and 32 of qh each: weights l, l+32, l+64, l+96 (l < 32) are the low halves of ql[l] and ql[l+32],
// then their high halves, with bits 0-1, 2-3, 4-5, 6-7 of qh[l].
func fromQ6K(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[210:] {
		d := half(src[208:])
		for h := range 2 {
			ql, qh, sc, out := src[64*h:], src[128+32*h:], src[192+8*h:], dst[128*h:]
			for l := range 32 {
				for k := range 4 {
					q := ql[l+k%2*32]>>(k/2*4)&15 | qh[l]>>(2*k)&3<<4
					s := float32(int8(sc[2*k+l/16]))
					out[32*k+l] = d * s * float32(int(q)-32)
				}
			}
		}
	}
}

// toQ6K gives every group the scale with the least squared error among a few around max|x|/-32, and
// the block the d that makes the largest of them -128.
func toQ6K(dst []byte, src []float32) {
	for ; len(src) > 0; dst, src = dst[210:], src[256:] {
		var scales [16]float32
		var top, signed float32
		for g := range scales {
			scales[g] = bestScale(src[16*g:16*g+16], 32)
			if a := float32(math.Abs(float64(scales[g]))); a > top {
				top, signed = a, scales[g]
			}
		}
		clear(dst[:210])
		if top == 0 {
			continue
		}
		putHalf(dst[208:], signed/-128)
		d := half(dst[208:])
		if d == 0 {
			continue
		}
		for g := range scales {
			s := int(math.RoundToEven(float64(scales[g] / d)))
			s = max(-128, min(127, s))
			dst[192+g] = byte(int8(s))
			h, k, l0 := g/8, g%8/2, g%2*16
			for i, v := range src[16*g : 16*g+16] {
				q := 32
				if s != 0 {
					q = max(0, min(63, int(math.RoundToEven(float64(v/(d*float32(s)))))+32))
				}
				l := l0 + i
				dst[64*h+l+k%2*32] |= byte(q&15) << (k / 2 * 4)
				dst[128+32*h+l] |= byte(q>>4) << (2 * k)
			}
		}
	}
}

// bestScale finds s so that s·clamp(round(x/s), -n, n-1) is near x: of a few candidates for 1/s, the one
// whose codes q fit best. For fixed q the error Σ(x-sq)² is least at s = Σxq/Σq², where it is
// Σx² - (Σxq)²/Σq².
func bestScale(x []float32, n float32) float32 {
	var top, signed float32
	for _, v := range x {
		if a := float32(math.Abs(float64(v))); a > top {
			top, signed = a, v
		}
	}
	if top < 1e-30 {
		return 0
	}
	var best, bestFit float32
	for _, step := range [...]float32{0, -9, -8, -7, -6, -5, -4, -3, -2, -1, 1, 2, 3, 4, 5, 6, 7, 8, 9} {
		inv := -(n + step/10) / signed
		var xq, qq float32
		for _, v := range x {
			const round = 3 << 22 // adding it to |q| < 2²² rounds to even
			q := float32(float32(v*inv)+round) - round
			if q < -n {
				q = -n
			} else if q > n-1 {
				q = n - 1
			}
			xq += float32(v * q) // the conversions forbid fused multiply-add: the same bytes on every machine
			qq += float32(q * q)
		}
		if fit := xq * (xq / qq); qq > 0 && fit > bestFit {
			best, bestFit = xq/qq, fit
		}
	}
	return best
}

// half reads an IEEE 754 half. Its bits in a float32's place are 2¹¹² too small, exactly, subnormals included.
func half(b []byte) float32 {
	h := uint32(binary.LittleEndian.Uint16(b))
	v := math.Float32frombits(h&0x7fff<<13) * 0x1p112
	if h&0x7c00 == 0x7c00 { // infinity, NaN
		v = math.Float32frombits(h&0x7fff<<13 | 0x7f800000)
	}
	return math.Float32frombits(math.Float32bits(v) | h&0x8000<<16)
}

// putHalf rounds to IEEE 754 half, ties to even.
func putHalf(b []byte, f float32) {
	u := math.Float32bits(f)
	h := u >> 16 & 0x8000
	switch u &= 0x7fffffff; {
	case u > 0x7f800000:
		h |= 0x7e00
	case u >= 0x477ff000: // rounds to 2¹⁶ or more
		h |= 0x7c00
	case u < 0x38800000: // below 2⁻¹⁴: a multiple of 2⁻²⁴
		h |= uint32(math.RoundToEven(float64(math.Float32frombits(u)) * 0x1p24))
	default:
		h |= (u + 0xfff + u>>13&1 - 0x38000000) >> 13
	}
	binary.LittleEndian.PutUint16(b, uint16(h))
}
