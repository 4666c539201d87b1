package ternary

import "encoding/binary"

// Layouts of 2-bit fields become T16 words without a byte per weight in between: sixteen bytes of
// four fields are a 4×4 matrix (which four bytes, which field) of 2-bit numbers in each byte position,
// and T16 is its transpose.

// transpose takes bytes 0-7 and 8-15 and returns the words of the four fields: field 0 (bits 0 and 1)
// in the lower half of x, field 1 in its upper half, fields 2 and 3 in y. It is its own inverse.
func transpose(x, y uint64) (uint64, uint64) {
	// Exchange bit 1 of the quad number (x or y) with bit 1 of the field number (shift 4),
	t := (x>>4 ^ y) & 0x0f0f0f0f0f0f0f0f
	x, y = x^t<<4, y^t
	// then bit 0 of the quad number (shift 32) with bit 0 of the field number (shift 2).
	t = (x ^ x>>30) & 0x00000000cccccccc
	x ^= t | t<<30
	t = (y ^ y>>30) & 0x00000000cccccccc
	y ^= t | t<<30
	return x, y
}

// wordsPlanes stores the words of four planes of src, plane i being field i, or field 3-i when
// topFirst: the same as decodePlanes and setRow. Word w goes to dst[64·w:]. len(src) is a multiple of
// 16. The result has a bit set for each code 3.
func wordsPlanes(dst, src []byte, topFirst bool) (bad uint64) {
	step := len(src) / 16 * 64 // from a plane's words to the next plane's
	order := [4]int{0, step, 2 * step, 3 * step}
	if topFirst {
		order = [4]int{3 * step, 2 * step, step, 0}
	}
	for at := 0; len(src) >= 16; at, src = at+64, src[16:] {
		x, y := transpose(binary.LittleEndian.Uint64(src), binary.LittleEndian.Uint64(src[8:]))
		binary.LittleEndian.PutUint32(dst[at+order[0]:], uint32(x))
		binary.LittleEndian.PutUint32(dst[at+order[1]:], uint32(x>>32))
		binary.LittleEndian.PutUint32(dst[at+order[2]:], uint32(y))
		binary.LittleEndian.PutUint32(dst[at+order[3]:], uint32(y>>32))
		bad |= x&(x>>1) | y&(y>>1)
	}
	return bad & 0x5555555555555555
}

// wordsRows stores one row of bytes as four rows of a matrix, field i in the row that starts at
// dst[i] (nil: there is no such row). Columns past len(src) become zeros.
func wordsRows(dst *[4][]byte, src []byte) (bad uint64) {
	for at := 0; len(src) > 0; at += 64 {
		if len(src) < 16 {
			tail := [16]byte{zeroByte, zeroByte, zeroByte, zeroByte, zeroByte, zeroByte, zeroByte, zeroByte, zeroByte, zeroByte, zeroByte, zeroByte, zeroByte, zeroByte, zeroByte, zeroByte}
			copy(tail[:], src)
			src = tail[:]
		}
		x, y := transpose(binary.LittleEndian.Uint64(src), binary.LittleEndian.Uint64(src[8:]))
		if d := dst[0]; d != nil {
			binary.LittleEndian.PutUint32(d[at:], uint32(x))
			bad |= x & (x >> 1) & 0x55555555
		}
		if d := dst[1]; d != nil {
			binary.LittleEndian.PutUint32(d[at:], uint32(x>>32))
			bad |= x & (x >> 1) & 0x5555555500000000
		}
		if d := dst[2]; d != nil {
			binary.LittleEndian.PutUint32(d[at:], uint32(y))
			bad |= y & (y >> 1) & 0x55555555
		}
		if d := dst[3]; d != nil {
			binary.LittleEndian.PutUint32(d[at:], uint32(y>>32))
			bad |= y & (y >> 1) & 0x5555555500000000
		}
		src = src[16:]
	}
	return bad
}

// wordsQuads stores the words of a layout with four consecutive weights a byte, the first in the
// bottom bits. len(src) is a multiple of 4.
func wordsQuads(dst, src []byte) (bad uint64) {
	for at := 0; len(src) >= 4; at, src = at+64, src[4:] {
		// The transpose of (byte, field) in one word.
		w := binary.LittleEndian.Uint32(src)
		t := (w ^ w>>6) & 0x00cc00cc
		w ^= t | t<<6
		t = (w ^ w>>12) & 0x0000f0f0
		w ^= t | t<<12
		binary.LittleEndian.PutUint32(dst[at:], w)
		bad |= uint64(w & (w >> 1) & 0x55555555)
	}
	return bad
}
