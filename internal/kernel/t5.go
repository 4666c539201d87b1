package kernel

import "encoding/binary"

// T5 is T16 squeezed to 1.67 bits a weight: three weights in five bits. A machine that unpacks it faster than memory
// delivers it multiplies from it (PreferT5).
//
// As in T16, rows are padded to 16 and columns too, and tiles of 16 rows follow each other. Within a tile each 96 columns
// take 320 bytes, five vectors b0…b4 of 64 in whose lanes the rows lie as in T16; the columns left over (less than 96)
// follow as T16 blocks. The 24 fields of a byte position, groups of four columns 4G+j, make eight codes
// c_k = t₀+3t₁+9t₂ < 27 of groups 3k, 3k+1, 3k+2. Bits 0–4 of b0…b4 are c0…c4. The other bits are c5, c6 and c7:
//
//	b0 5–7 c5 bits 0–2   b1 5–7 c6 bits 0–2   b2 5–7 c7 bits 0–2
//	b3 5–6 c5 bits 3–4   b3 7   c6 bit 3      b4 5–6 c7 bits 3–4   b4 7 c6 bit 4
const (
	T5Cols  = 96
	t5Bytes = 5 * 64
)

// T5Bytes is the size of a T5 matrix of rows by cols weights.
func T5Bytes(rows, cols int) int {
	c := Pad16(cols)
	return Pad16(rows) / 16 * (c/T5Cols*t5Bytes + c%T5Cols/TileCols*TileBytes)
}

// PreferT5 says whether the active tier multiplies faster from T5 than from T16, memory being what limits one token.
func PreferT5() bool { return active.preferT5 }

// t5Field has the three 2-bit fields of a code, by the low 5 bits.
var t5Field = func() (t [64]byte) {
	for c := range byte(27) {
		t[c] = c%3 | c/3%3<<2 | c/9<<4
		t[c+32] = t[c]
	}
	return t
}()

// T5FromT16 squeezes rows by cols weights, rows a multiple of 16. A slice of whole tiles is a matrix.
func T5FromT16(dst, src []byte, rows, cols int) {
	if rows%16 != 0 || len(dst) != T5Bytes(rows, cols) || len(src) != T16Bytes(rows, cols) {
		badLength("T5FromT16(dst, src, rows, cols)", len(dst), len(src), rows, cols)
	}
	if len(dst) != 0 {
		active.t5FromT16(dst, src, rows, cols)
	}
}

func t5FromT16Generic(dst, src []byte, rows, cols int) {
	c := Pad16(cols)
	groups, rest := c/T5Cols, c%T5Cols/TileCols*TileBytes
	const each = 0x0101010101010101
	for range rows / 16 {
		for range groups {
			for p := 0; p < TileBytes; p += 8 { // eight byte positions in a word
				var k [8]uint64
				for i := range k {
					for j, weight := range [3]uint64{1, 3, 9} {
						g := 3*i + j
						k[i] += binary.LittleEndian.Uint64(src[g/4*TileBytes+p:]) >> (g % 4 * 2) & (3 * each) * weight
					}
				}
				for i, v := range [5]uint64{
					k[0] | k[5]&(7*each)<<5,
					k[1] | k[6]&(7*each)<<5,
					k[2] | k[7]&(7*each)<<5,
					k[3] | k[5]>>3&(3*each)<<5 | k[6]>>3&each<<7,
					k[4] | k[7]>>3&(3*each)<<5 | k[6]>>4&each<<7,
				} {
					binary.LittleEndian.PutUint64(dst[i*TileBytes+p:], v)
				}
			}
			dst, src = dst[t5Bytes:], src[6*TileBytes:]
		}
		copy(dst[:rest], src)
		dst, src = dst[rest:], src[rest:]
	}
}

// T16FromT5 is the inverse.
func T16FromT5(dst, src []byte, rows, cols int) {
	if rows%16 != 0 || len(src) != T5Bytes(rows, cols) || len(dst) != T16Bytes(rows, cols) {
		badLength("T16FromT5(dst, src, rows, cols)", len(dst), len(src), rows, cols)
	}
	if len(dst) != 0 {
		active.t16FromT5(dst, src, rows, cols)
	}
}

func t16FromT5Generic(dst, src []byte, rows, cols int) {
	c := Pad16(cols)
	groups, rest := c/T5Cols, c%T5Cols/TileCols*TileBytes
	for range rows / 16 {
		for range groups {
			for p := range TileBytes {
				b := [5]byte{src[p], src[64+p], src[128+p], src[192+p], src[256+p]}
				k := [8]byte{
					b[0], b[1], b[2], b[3], b[4],
					b[0]>>5 | b[3]>>5<<3, b[1]>>5 | b[3]>>7<<3 | b[4]>>7<<4, b[2]>>5 | b[4]>>5<<3,
				}
				var v uint64
				for i, code := range k {
					v |= uint64(t5Field[code&31]) << (6 * i)
				}
				var bytes [8]byte
				binary.LittleEndian.PutUint64(bytes[:], v)
				for i := range 6 {
					dst[i*TileBytes+p] = bytes[i]
				}
			}
			dst, src = dst[6*TileBytes:], src[t5Bytes:]
		}
		copy(dst, src[:rest])
		dst, src = dst[rest:], src[rest:]
	}
}

// TernaryMatVecT5 is TernaryMatVec of a matrix in T5.
func TernaryMatVecT5(y []int32, w []byte, x []int8, xsum int32) {
	if len(y)%16 != 0 || len(x)%16 != 0 || len(x) > MaxCols || len(w) != T5Bytes(len(y), len(x)) {
		badLength("TernaryMatVecT5(y, w, x)", len(y), len(w), len(x))
	}
	active.ternaryMatVecT5(y, w, x, xsum)
}

// TernaryMatMulT5 is TernaryMatMul of a matrix in T5.
func TernaryMatMulT5(y []int32, w []byte, x []int8, xsum []int32) {
	tokens := max(len(xsum), 1)
	rows, cols := len(y)/tokens, len(x)/tokens
	if len(y)%tokens != 0 || len(x)%tokens != 0 || rows%16 != 0 || cols%16 != 0 || cols > MaxCols || len(w) != T5Bytes(rows, cols) || len(xsum) == 0 && len(y)+len(x) > 0 {
		badLength("TernaryMatMulT5(y, w, x, xsum)", len(y), len(w), len(x), len(xsum))
	}
	if len(y) != 0 {
		active.ternaryMatMulT5(y, w, x, xsum)
	}
}

// ternaryMatMulT5Generic defines TernaryMatMulT5: a token at a time.
func ternaryMatMulT5Generic(y []int32, w []byte, x []int8, xsum []int32) {
	rows, cols := len(y)/len(xsum), len(x)/len(xsum)
	for t, s := range xsum {
		ternaryMatVecT5Generic(y[t*rows:][:rows], w, x[t*cols:][:cols], s)
	}
}

// ternaryMatVecT5Generic defines TernaryMatVecT5: a tile's T16 columns, 96 at a time.
func ternaryMatVecT5Generic(y []int32, w []byte, x []int8, xsum int32) {
	var block [6 * TileBytes]byte
	for t := 0; t < len(y); t += TileRows {
		sum, part := y[t:t+TileRows], [TileRows]int32{}
		for r := range sum {
			sum[r] = -xsum
		}
		for c := 0; c < len(x); c += T5Cols {
			n := min(T5Cols, len(x)-c)
			size := T5Bytes(TileRows, n)
			t16FromT5Generic(block[:n*4], w[:size], TileRows, n)
			w = w[size:]
			ternaryMatVecGeneric(part[:], block[:n*4], x[c:c+n], 0)
			for r, v := range part {
				sum[r] += v
			}
		}
	}
}
