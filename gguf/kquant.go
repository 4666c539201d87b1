package gguf

import "encoding/binary"

// The block types of llama.cpp that are read and not written. In all of them a block has a float16 d, and a weight is d, or d
// times a small scale of its group, times its code; some take a minimum off or add one. Every product and sum is rounded to
// float32, so that no machine fuses them. Source: ggml-quants.c, dequantize_row_*; ggml-common.h for the layouts.

// Q4_1: 32 weights, f16 d, f16 m, 16 bytes as in Q4_0; value = d·q + m.
func fromQ41(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[20:] {
		d, m := half(src), half(src[2:])
		for i, b := range src[4:20] {
			dst[i] = float32(float32(b&15)*d) + m
			dst[16+i] = float32(float32(b>>4)*d) + m
		}
	}
}

// Q5_0: 32 weights, f16 d, 32 fifth bits, 16 bytes as in Q4_0; value = d·(q-16).
func fromQ50(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[22:] {
		d, high := half(src), binary.LittleEndian.Uint32(src[2:])
		for i, b := range src[6:22] {
			dst[i] = float32(fiveBits(b&15, high>>i)-16) * d
			dst[16+i] = float32(fiveBits(b>>4, high>>(16+i))-16) * d
		}
	}
}

// Q5_1: 32 weights, f16 d, f16 m, 32 fifth bits, 16 bytes as in Q4_0; value = d·q + m.
func fromQ51(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[24:] {
		d, m, high := half(src), half(src[2:]), binary.LittleEndian.Uint32(src[4:])
		for i, b := range src[8:24] {
			dst[i] = float32(float32(fiveBits(b&15, high>>i))*d) + m
			dst[16+i] = float32(float32(fiveBits(b>>4, high>>(16+i)))*d) + m
		}
	}
}

func fiveBits(low byte, high uint32) int { return int(low) | int(high&1)<<4 }

// iq4Values are what the codes of IQ4_NL stand for: closer to each other where weights are more frequent.
var iq4Values = [16]float32{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}

// IQ4_NL: 32 weights, f16 d, 16 bytes as in Q4_0; value = d·iq4Values[q].
func fromIQ4NL(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[32:], src[18:] {
		d := half(src)
		for i, b := range src[2:18] {
			dst[i] = d * iq4Values[b&15]
			dst[16+i] = d * iq4Values[b>>4]
		}
	}
}

// Q2_K: 256 weights in 16 groups of 16: scales[16], each a 4-bit scale and, above it, a 4-bit minimum; qs[64]; f16 d, f16 m;
// value = d·scale·q - m·min. Halves of 128 weights use 32 bytes of qs each: weights 32k+l (k < 4, l < 32) of a half are bits
// 2k and 2k+1 of its byte l.
func fromQ2K(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[84:] {
		d, m := half(src[80:]), half(src[82:])
		for g, sc := range src[:16] {
			scale, least := d*float32(sc&15), m*float32(sc>>4)
			q, shift := src[16+g/8*32+g%2*16:], g%8/2*2
			for i := range 16 {
				dst[16*g+i] = float32(scale*float32(q[i]>>shift&3)) - least
			}
		}
	}
}

// Q3_K: 256 weights in 16 groups of 16: hmask[32], qs[64] as in Q2_K, 16 scales of 6 bits in 12 bytes, f16 d;
// value = d·(scale-32)·(q-4), q of 3 bits: two in qs, the third of weight 32k+l (k < 8) is bit k of hmask[l]. Of the scales the
// lower four bits are in bytes 0 to 7, scale 8+i above scale i, and the upper two of scale 4k+i in bits 2k and 2k+1 of byte 8+i.
func fromQ3K(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[110:] {
		d, packed := half(src[108:]), src[96:108]
		for g := range 16 {
			sc := packed[g%8]>>(g/8*4)&15 | packed[8+g%4]>>(g/4*2)&3<<4
			scale := d * float32(int(sc)-32)
			q, high, shift := src[32+g/8*32+g%2*16:], src[g%2*16:], g%8/2*2
			for i := range 16 {
				v := int(q[i]>>shift&3) | int(high[i]>>(g/2)&1)<<2
				dst[16*g+i] = scale * float32(v-4)
			}
		}
	}
}

// scaleMin unpacks scale and minimum j of the eight in the 12 bytes of Q4_K and Q5_K, 6 bits each: of the first four the
// scales are in bytes 0 to 3 and the minima in 4 to 7; of the others the lower four bits are in bytes 8 to 11, scale below
// minimum, and the upper two in what is left of bytes 0 to 3 and 4 to 7.
func scaleMin(b []byte, j int) (scale, least float32) {
	if j < 4 {
		return float32(b[j] & 63), float32(b[j+4] & 63)
	}
	return float32(b[j+4]&15 | b[j-4]>>6<<4), float32(b[j+4]>>4 | b[j]>>6<<4)
}

// Q4_K: 256 weights in 8 groups of 32: f16 d, f16 m, 12 bytes (scaleMin), qs[128]; value = d·scale·q - m·min. Two groups share
// 32 bytes of qs: the first is in the low halves.
func fromQ4K(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[144:] {
		d, m := half(src), half(src[2:])
		for g := range 8 {
			sc, mn := scaleMin(src[4:], g)
			scale, least := d*sc, m*mn
			q, shift := src[16+g/2*32:], g%2*4
			for i := range 32 {
				dst[32*g+i] = float32(scale*float32(q[i]>>shift&15)) - least
			}
		}
	}
}

// Q5_K: Q4_K with qh[32] in front of qs: the fifth bit of weight i of group g is bit g of qh[i].
func fromQ5K(dst []float32, src []byte) {
	for ; len(dst) > 0; dst, src = dst[256:], src[176:] {
		d, m, high := half(src), half(src[2:]), src[16:48]
		for g := range 8 {
			sc, mn := scaleMin(src[4:], g)
			scale, least := d*sc, m*mn
			q, shift := src[48+g/2*32:], g%2*4
			for i := range 32 {
				v := q[i]>>shift&15 | high[i]>>g&1<<4
				dst[32*g+i] = float32(scale*float32(v)) - least
			}
		}
	}
}
