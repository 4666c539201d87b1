package ternary

// Q1_0: f16, then a bit a weight, the first in the bottom bit: 1 is +1, 0 is -1. There is no 0.
func decodeQ1(codes, src []byte) {
	for i := range codes {
		codes[i] = src[2+i/8] >> (i % 8) & 1 << 1
	}
}

func encodeQ1(dst, codes []byte) {
	for i, c := range codes {
		dst[2+i/8] |= c >> 1 << (i % 8)
	}
}

// notBinary is the first code that Q1_0 cannot hold.
func notBinary(codes []byte) int {
	for i, c := range codes {
		if c == 1 {
			return i
		}
	}
	return -1
}

// STQ1_0 (Sherry, arXiv:2601.07892): one weight of four is 0. qs[32] has a 4-bit number for each of 64 groups of four weights,
// the first in the bottom bits, sign[8] a bit that turns the signs round; then f16. Weight 64c+16p+i of a block is
// weight p of group 16c+i.
// Source: llama.cpp pull request 22836, ggml-common.h.
func decodeSTQ1(codes, src []byte) {
	for g := range 64 {
		q := sparseCodes[src[32+g/8]>>(g%8)&1<<4|src[g/2]>>(g%2*4)&15]
		for p := range 4 {
			codes[g/16*64+p*16+g%16] = q >> (2 * p) & 3
		}
	}
}

func encodeSTQ1(dst, codes []byte) {
	for g := range 64 {
		n := sparseNumber[sparseGroup(codes, g)]
		dst[g/2] |= n & 15 << (g % 2 * 4)
		dst[32+g/8] |= n >> 4 << (g % 8)
	}
}

func sparseGroup(codes []byte, g int) (q byte) {
	for p := range 4 {
		q |= codes[g/16*64+p*16+g%16] << (2 * p)
	}
	return q
}

// notSparse is the first weight of a group that STQ1_0 cannot hold.
func notSparse(codes []byte) int {
	for g := range 64 {
		if q := sparseGroup(codes, g); sparseCodes[sparseNumber[q]] != q {
			return g/16*64 + g%16
		}
	}
	return -1
}

// sparseCodes has the four codes ŵ+1 of each number, and sparseNumber is its inverse. The second half has the signs of the
// first turned round.
var sparseCodes, sparseNumber = func() (codes [32]byte, number [256]byte) {
	n := 0
	for zero := range 4 { // which weight is 0
		for signs := range 4 { // of the last two of the others; the first is +1
			q := byte(1) << (2 * zero)
			for p, rest := 0, 0; p < 4; p++ {
				if p == zero {
					continue
				}
				plus := rest == 0 || signs>>(rest-1)&1 == 0
				rest++
				if plus {
					q |= 2 << (2 * p)
				}
			}
			codes[n], codes[16+n] = q, 0xaa-q
			n++
		}
	}
	for i, q := range codes {
		number[q] = byte(i)
	}
	return codes, number
}()

// wordsBits makes a Binary1 word of 32 weights, a bit each in order: bit b of byte j is weight 4b+j.
func wordsBits(w uint32) (out uint32) {
	for j := range 4 {
		v := w >> j & 0x11111111
		v = (v | v>>3) & 0x03030303
		v = (v | v>>6) & 0x000f000f
		v = (v | v>>12) & 0xff
		out |= v << (8 * j)
	}
	return out
}
