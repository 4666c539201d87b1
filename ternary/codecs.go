package ternary

import "encoding/binary"

// The block codecs. Each decode writes one byte per weight, the code ŵ+1; each encode is its inverse.

// decodePlanes splits bytes into four planes of their length: plane g is the 2-bit field at shift g of
// every byte. I2_S puts plane 0 in the top bits, TQ2_0 and IQ2_BN in the bottom ones.
func decodePlanes(codes, src []byte, s0, s1, s2, s3 uint) {
	n := len(src)
	field(codes[:n], src, s0)
	field(codes[n:2*n], src, s1)
	field(codes[2*n:3*n], src, s2)
	field(codes[3*n:4*n], src, s3)
}

func encodePlanes(dst, codes []byte, s0, s1, s2, s3 uint) {
	n := len(dst)
	orField(dst, codes[:n], s0)
	orField(dst, codes[n:2*n], s1)
	orField(dst, codes[2*n:3*n], s2)
	orField(dst, codes[3*n:4*n], s3)
}

// I2_S: planes of 32 bytes (x86) or 16 (ARM), the first in the top bits.
// Source: microsoft/BitNet src/ggml-bitnet-mad.cpp, quantize_i2_s.
func decodeI2S(codes, src []byte)     { decodePlanes(codes, src, 6, 4, 2, 0) }
func encodeI2S(dst, codes []byte)     { encodePlanes(dst, codes, 6, 4, 2, 0) }
func wordsI2S(dst, src []byte) uint64 { return wordsPlanes(dst, src, true) }

// IQ2_BN: planes of 16 bytes, the first in the bottom bits.
// Source: ik_llama.cpp ggml/src/iqk/iqk_quantize.cpp, quantize_one_row_2bn.
func decodeIQ2BN(codes, src []byte)     { decodePlanes(codes, src, 0, 2, 4, 6) }
func encodeIQ2BN(dst, codes []byte)     { encodePlanes(dst, codes, 0, 2, 4, 6) }
func wordsIQ2BN(dst, src []byte) uint64 { return wordsPlanes(dst, src, false) }

// TQ2_0: qs[64], f16. Two halves of 32 bytes, four planes of 32 weights each.
// Source: llama.cpp ggml-quants.c, dequantize_row_tq2_0.
func decodeTQ2(codes, src []byte) {
	decodePlanes(codes[:128], src[:32], 0, 2, 4, 6)
	decodePlanes(codes[128:256], src[32:64], 0, 2, 4, 6)
}

func encodeTQ2(dst, codes []byte) {
	encodePlanes(dst[:32], codes[:128], 0, 2, 4, 6)
	encodePlanes(dst[32:64], codes[128:256], 0, 2, 4, 6)
}

func wordsTQ2(dst, src []byte) uint64 {
	return wordsPlanes(dst, src[:32], false) | wordsPlanes(dst[512:], src[32:64], false)
}

// Q2_0, PQ2_0: f16, then four consecutive weights a byte, the first in the bottom bits.
func decodeQ2(codes, src []byte) {
	for i, b := range src[2:] {
		// The four fields, spread to the four bytes of a word.
		w := uint32(b)
		w = (w | w<<12) & 0x000f000f
		w = (w | w<<6) & 0x03030303
		binary.LittleEndian.PutUint32(codes[4*i:], w)
	}
}

func wordsQ2(dst, src []byte) uint64 { return wordsQuads(dst, src[2:]) }

func encodeQ2(dst, codes []byte) {
	for i := range dst[2:] {
		dst[2+i] = codes[4*i] | codes[4*i+1]<<2 | codes[4*i+2]<<4 | codes[4*i+3]<<6
	}
}

// Base 3. A byte holds five trits as the fraction b/256 ≥ q/243 (q the number, first trit most
// significant): multiplying by 3 moves the next trit into bits 8 and 9. So trit n of b is
// ((b·3ⁿ mod 256)·3) >> 8, always 0..2. The digits of eight bytes are computed at once, in two
// words of four 16-bit lanes.

const lanes = 0x00ff00ff00ff00ff

// decodeTrits writes the first n trits of every byte of src: trit i of byte j at codes[i·stride+j].
// len(src) is a multiple of 8.
func decodeTrits(codes, src []byte, n, stride int) {
	for j := 0; j+8 <= len(src); j += 8 {
		v := binary.LittleEndian.Uint64(src[j:])
		even, odd := v&lanes, v>>8&lanes
		for i := range n {
			even, odd = even*3, odd*3
			binary.LittleEndian.PutUint64(codes[i*stride+j:], even>>8&lanes|odd&^lanes)
			even, odd = even&lanes, odd&lanes
		}
	}
}

// trit is digit n of byte b.
func trit(b byte, n int) byte {
	for range n {
		b *= 3
	}
	return byte(uint16(b) * 3 >> 8)
}

// tritByte packs five codes, the first most significant, so that trit finds them.
func tritByte(a, b, c, d, e byte) byte {
	q := (((uint(a)*3+uint(b))*3+uint(c))*3+uint(d))*3 + uint(e)
	return byte((q*256 + 242) / 243)
}

// encodeTrits is the inverse of decodeTrits for n = 5.
func encodeTrits(dst, codes []byte, stride int) {
	for j := range dst {
		dst[j] = tritByte(codes[j], codes[stride+j], codes[2*stride+j], codes[3*stride+j], codes[4*stride+j])
	}
}

// TQ1_0: qs[48], qh[4], f16. qs[0:32] holds five planes of 32 weights, qs[32:48] five of 16, qh four of 4.
// Source: llama.cpp ggml-quants.c, dequantize_row_tq1_0.
func decodeTQ1(codes, src []byte) {
	decodeTrits(codes[:160], src[:32], 5, 32)
	decodeTrits(codes[160:240], src[32:48], 5, 16)
	for j, b := range src[48:52] {
		for n := range 4 {
			codes[240+4*n+j] = trit(b, n)
		}
	}
}

func encodeTQ1(dst, codes []byte) {
	encodeTrits(dst[:32], codes[:160], 32)
	encodeTrits(dst[32:48], codes[160:240], 16)
	for j := range 4 {
		dst[48+j] = tritByte(codes[240+j], codes[244+j], codes[248+j], codes[252+j], 0)
	}
}

// PTQ1_0: qs[24], qh[2], f16. qs[0:16] holds five planes of 16 weights, qs[16:24] five of 8, qh four of 2.
func decodePTQ1(codes, src []byte) {
	decodeTrits(codes[:80], src[:16], 5, 16)
	decodeTrits(codes[80:120], src[16:24], 5, 8)
	for j, b := range src[24:26] {
		for n := range 4 {
			codes[120+2*n+j] = trit(b, n)
		}
	}
}

func encodePTQ1(dst, codes []byte) {
	encodeTrits(dst[:16], codes[:80], 16)
	encodeTrits(dst[16:24], codes[80:120], 8)
	for j := range 2 {
		dst[24+j] = tritByte(codes[120+j], codes[122+j], codes[124+j], codes[126+j], 0)
	}
}

// IQ1_BN: ql[12], extra. Sixteen weights are five trits in each of three bytes and one trit of
// extra; here the first weight is the least significant digit, so trit 4-j is weight j, and the
// last weight of group i is trit 4-i of extra.
// Source: ik_llama.cpp ggml/src/iqk/iqk_quantize.cpp, quantize_one_row_1bn.
func decodeIQ1BN(codes, src []byte) {
	extra := tritTable[src[12]]
	for i := range 4 {
		c := codes[16*i : 16*i+16 : 16*i+16]
		q := src[3*i : 3*i+3 : 3*i+3]
		// Little-endian words of five codes; each store's spill is overwritten by the next.
		binary.LittleEndian.PutUint64(c[0:], tritTable[q[0]])
		binary.LittleEndian.PutUint64(c[5:], tritTable[q[1]])
		last := tritTable[q[2]]
		binary.LittleEndian.PutUint32(c[10:], uint32(last))
		c[14] = byte(last >> 32)
		c[15] = byte(extra >> (8 * i))
	}
}

// tritTable holds the five trits of a byte, last digit first, one to a byte.
var tritTable = func() (t [256]uint64) {
	for b := range t {
		for j := range 5 {
			t[b] |= uint64(trit(byte(b), 4-j)) << (8 * j)
		}
	}
	return t
}()

func encodeIQ1BN(dst, codes []byte) {
	for i := range 4 {
		c := codes[16*i:]
		for k := range 3 {
			dst[3*i+k] = tritByte(c[5*k+4], c[5*k+3], c[5*k+2], c[5*k+1], c[5*k])
		}
	}
	dst[12] = tritByte(0, codes[63], codes[47], codes[31], codes[15])
}
