// Package kernels lays numbers out the way the tiles' units want them, and describes a matrix product to the firmware.
//
// # Why the product is exact
//
// A ternary weight is stored as BFP2, a sign and one magnitude bit, with the exponent forced to 2⁰ by the unpacker:
// 2.000 bits a weight. An int8 activation is carried as bf16, which holds |q| ≤ 128 exactly. The matrix unit
// multiplies the top five bits of a weight's significand by the top seven of an activation's in its first fidelity
// phase, so one phase already has the whole product. Products are summed in groups of eight aligned to the largest
// exponent (nothing is shifted out: the largest is 2⁷, the smallest bit 2⁰) into an fp32 accumulator, exact while
// |sum| < 2²⁴. An int8 head runs in the unit's integer mode: four phases, int32 accumulator.
//
// CheckTernary and CheckInt8 hold those conditions.
package kernels

import (
	"encoding/binary"
	"fmt"
	"math"
)

const (
	ChunkRows = 32   // outputs in a chunk
	kStep     = 128  // K is padded to this: four 32-wide tiles share one load of activations
	MaxK      = 8064 // the unpacker's z counter has 8 bits: at most 255 tiles of 32, in fours
	MaxBatch  = 32
)

// PadK is the K the tiles work with.
func PadK(cols int) int { return (cols + kStep - 1) / kStep * kStep }

// Chunks is the number of 32-output chunks of a matrix with so many rows.
func Chunks(rows int) int { return (rows + ChunkRows - 1) / ChunkRows }

// CheckTernary says whether a ternary matrix with so many columns has exact products with int8 activations.
func CheckTernary(cols int) error {
	switch {
	case cols <= 0:
		return fmt.Errorf("kernels: a matrix with %d columns", cols)
	case cols >= 1<<24:
		return fmt.Errorf("kernels: %d columns: sums could pass 2^31; this model needs the CPU engine", cols)
	case 128*MaxK >= 1<<24: // of one segment, in fp32
		panic("kernels: a segment's sums could pass 2^24")
	}
	return nil
}

// CheckInt8 is CheckTernary for an int8 matrix.
func CheckInt8(cols int) error {
	switch {
	case cols <= 0:
		return fmt.Errorf("kernels: a matrix with %d columns", cols)
	case 127*127*cols >= 1<<31:
		return fmt.Errorf("kernels: %d columns of int8: sums could pass 2^31; leave the head to the host", cols)
	}
	return nil
}

// Segments cuts a matrix's columns into runs that the unpackers reach; the host adds their sums.
func Segments(cols int) (first []int) {
	n := (PadK(cols) + MaxK - 1) / MaxK
	step := PadK((cols + n - 1) / n)
	for c := 0; c < cols; c += step {
		first = append(first, c)
	}
	return first
}

// TernaryChunkBytes and Int8ChunkBytes are what one chunk takes in GDDR: 2 and 8 bits a weight, padding included.
func TernaryChunkBytes(cols int) int { return ChunkRows * PadK(cols) / 4 }

// Int8ChunkBytes is what one chunk of an int8 matrix takes.
func Int8ChunkBytes(cols int) int { return ChunkRows * PadK(cols) }

// PackTernary lays out chunk g of a ternary matrix.
//
//	dst   [TernaryChunkBytes(cols)]  32×32 tiles in order of k; in a tile four 16×16 faces (k lo n lo, k lo n hi,
//	                                 k hi n lo, k hi n hi); in a face row k, column n; two bits each, 01 = +1, 11 = -1
//	t16   a matrix [rows, all] in layout T16 (see internal/kernel): 64 bytes for 16 rows × 16 columns, byte 4r+j
//	      has code+1 of row r, column 4i+j in bits 2i, 2i+1
//	col   the first of the cols columns that are wanted, a multiple of 16
//
// A 16×16 face is the transpose of a T16 block. Rows and columns past the matrix become 0.
func PackTernary(dst, t16 []byte, rows, all, col, cols, g int) {
	if len(dst) != TernaryChunkBytes(cols) || col%16 != 0 || col+cols > all {
		panic("kernels: wrong chunk")
	}
	row, first, steps := (all+15)/16, col/16, (cols+15)/16
	for half := range 2 { // n lo, n hi
		tile := 2*g + half
		for s := range PadK(cols) / 16 {
			face := dst[s/2*256+s%2*128+half*64:][:64]
			if 16*tile >= rows || s >= steps {
				clear(face)
				continue
			}
			transpose(face, t16[(tile*row+first+s)*64:][:64])
		}
	}
}

// transpose turns a T16 block into a BFP2 face. Four rows of one j make a word: byte i of it is row 4q+i, whose field
// f is column 4f+j. Exchanging bytes and fields gives, for each column, the four rows side by side.
func transpose(face, block []byte) {
	_ = face[63]
	for q := range 4 {
		b := block[16*q:][:16]
		for j := range 4 {
			x := uint32(b[j]) | uint32(b[4+j])<<8 | uint32(b[8+j])<<16 | uint32(b[12+j])<<24
			t := (x ^ x>>6) & 0x00CC00CC // a 4×4 transpose: inside 2×2 blocks, then the blocks
			x ^= t ^ t<<6
			t = (x ^ x>>12) & 0x0000F0F0
			x ^= t ^ t<<12
			// code 0, 1, 2 means -1, 0, +1; BFP2 wants 11, 00, 01
			x = ^x&0x55555555 | (^(x|x>>1)&0x55555555)<<1
			face[j*4+q] = byte(x)
			face[16+j*4+q] = byte(x >> 8)
			face[32+j*4+q] = byte(x >> 16)
			face[48+j*4+q] = byte(x >> 24)
		}
	}
}

// PackInt8 lays out a chunk of an int8 matrix, one sign-and-magnitude byte a weight, in PackTernary's order.
//
//	dst  [Int8ChunkBytes(cols)]
//	w    [≤ 32, cols]  the chunk's rows, -127 to 127; those that are missing become 0
func PackInt8(dst []byte, w []int8, cols int) error {
	if len(dst) != Int8ChunkBytes(cols) {
		panic("kernels: wrong chunk length")
	}
	clear(dst)
	for n := range len(w) / cols {
		for k, v := range w[n*cols:][:cols] {
			if v == -128 {
				return fmt.Errorf("kernels: weight %d of row %d is -128, which has no sign-and-magnitude byte", k, n)
			}
			dst[k/32*1024+k%32/16*512+n/16*256+k%16*16+n%16] = signMagnitude(v)
		}
	}
	return nil
}

func signMagnitude(v int8) byte {
	if v < 0 {
		return 0x80 | byte(-v)
	}
	return byte(v)
}

// Rows is the number of tokens a pass runs with for a batch of n: the three shapes the firmware has.
func Rows(n int) int {
	switch {
	case n < 1 || n > MaxBatch:
		panic(fmt.Sprintf("kernels: a batch of %d", n))
	case n == 1:
		return 1
	case n <= 8:
		return 8
	}
	return 32
}

// XBytes is the size of the activations of one pass in L1.
func XBytes(kind Kind, cols, rows int) int {
	n := PadK(cols) * max(rows, 8)
	if kind == Ternary {
		n *= 2
	}
	return n
}

// xIndex is where activation k of token r lies: [k/16][8][16] up to 8 tokens, [k/32][r/8][k half][8][16] for 32.
func xIndex(rows, r, k int) int {
	if rows == 32 {
		return k/32*1024 + r/8*256 + k%32/16*128 + r%8*16 + k%16
	}
	return k/16*128 + r*16 + k%16
}

// PackX lays out activations.
//
//	dst  [XBytes(kind, cols, rows)]
//	x    [tokens, stride]  the first cols of each row; bf16 for ternary weights, sign and magnitude for int8
//
// -128 has no sign-and-magnitude byte: an error with int8 weights, exact with ternary ones.
func PackX(dst []byte, kind Kind, x []int8, tokens, cols, stride int) error {
	rows := Rows(tokens)
	dst = dst[:XBytes(kind, cols, rows)]
	clear(dst)
	for r := range tokens {
		row := x[r*stride:][:cols]
		for k0 := 0; k0 < cols; k0 += 16 {
			at := xIndex(rows, r, k0)
			part := row[k0:min(k0+16, cols)]
			if kind == Int8 {
				for i, v := range part {
					if v == -128 {
						return fmt.Errorf("kernels: activation %d of token %d is -128, which has no sign-and-magnitude byte", k0+i, r)
					}
					dst[at+i] = signMagnitude(v)
				}
				continue
			}
			for i, v := range part {
				binary.LittleEndian.PutUint16(dst[2*(at+i):], bf16[uint8(v)])
			}
		}
	}
	return nil
}

// bf16 of every int8.
var bf16 = func() (t [256]uint16) {
	for i := range t {
		t[i] = uint16(math.Float32bits(float32(int8(i))) >> 16)
	}
	return
}()

// OutBytes is the size of one chunk of results.
func OutBytes(rows int) int { return 4 * ChunkRows * rows }

// Int32 is a sum of an int8 matrix, which the card has as sign and magnitude.
func Int32(v uint32) int32 {
	m := int32(v & 0x7FFFFFFF)
	if v>>31 != 0 {
		m = -m
	}
	return m
}

// UnpackOut turns some of a chunk's results into integers.
//
//	y    [tokens, stride]  receives outputs first to first+n of the chunk in its first n columns; with add on top of
//	     what is there
//	src  [OutBytes]  fp32 or sign-and-magnitude int32: one token contiguous, else [r/8][n half][8][16]
//
// A result that is not an integer is an error: the device did not do what it should.
func UnpackOut(y []int32, stride int, kind Kind, src []byte, tokens, first, n int, add bool) error {
	rows := Rows(tokens)
	for r := range tokens {
		out := y[r*stride:][:n]
		for i := range out {
			o := first + i
			at := o
			if rows > 1 {
				at = r/8*256 + o/16*128 + r%8*16 + o%16
			}
			v := binary.LittleEndian.Uint32(src[4*at:])
			if kind == Int8 {
				m := Int32(v)
				if add {
					m += out[i]
				}
				out[i] = m
				continue
			}
			f := math.Float32frombits(v)
			m := int32(f)
			if float32(m) != f || m > 1<<24 || m < -1<<24 {
				return fmt.Errorf("kernels: the device returned %v (%#08x) for output %d of token %d, which is no integer", f, v, o, r)
			}
			if add {
				m += out[i]
			}
			out[i] = m
		}
	}
	return nil
}
