package kernel

import (
	"encoding/binary"
	"math"
)

// rowCodes writes ŵ+1 of row r < 16 of the first tile, group g: byte j of dst[k] is column 4k+j of the group.
func (w *GroupMatrix) rowCodes(dst []uint32, r, g int) {
	const three = 0x03030303
	codes := w.Codes[4*r:]
	switch super := g / 3; {
	case w.Layout == Binary1:
		for k := range dst {
			bits := binary.LittleEndian.Uint32(codes[(g*w.Group/32+k/8)*TileBytes:])
			dst[k] = bits >> (k % 8) & 0x01010101 << 1
		}
	case w.Layout == Ternary5 && super < w.Cols/w.Group/3:
		for k := range dst {
			v := codes[(super*(w.Group/32)+k/8)*t5Bytes:]
			at := func(i int) uint32 { return binary.LittleEndian.Uint32(v[i*TileBytes:]) }
			var c uint32
			switch k % 8 {
			case 5:
				c = at(0)>>5&(7*ones) | at(3)>>5&three<<3
			case 6:
				c = at(1)>>5&(7*ones) | at(3)>>7&ones<<3 | at(4)>>7&ones<<4
			case 7:
				c = at(2)>>5&(7*ones) | at(4)>>5&three<<3
			default:
				c = at(k%8) & (31 * ones)
			}
			for j := range 4 {
				dst[k] = dst[k]&^(0xff<<(8*j)) | uint32(t5Field[c>>(8*j)&31]>>(2*(g%3))&3)<<(8*j)
			}
		}
	default: // T16, behind what is squeezed
		if w.Layout == Ternary5 {
			codes = codes[super*(w.Group/32)*t5Bytes:]
			g %= 3
		}
		for k := range dst {
			dst[k] = binary.LittleEndian.Uint32(codes[(g*w.Group/16+k/4)*TileBytes:]) >> (k % 4 * 2) & three
		}
	}
}

const ones = 0x01010101

// groupMatMulGeneric defines GroupMatMul: row by row, group by group, token by token.
func groupMatMulGeneric(y []float32, stride int, w *GroupMatrix, x *Planes, _ []byte) {
	var codes [128 / 4]uint32
	group, shift := w.Group, w.scaleShift()
	for r := range w.Rows {
		tile := w.Panel(r&^15, r&^15+16)
		for t := range x.Tokens {
			y[t*stride+r] = 0
		}
		for g := range w.Cols / group {
			tile.rowCodes(codes[:group/4], r%TileRows, g)
			d := float32(1)
			if w.Scales != nil {
				d = F16(tile.Scales[g>>shift*TileRows+r%TileRows])
			}
			for t := range x.Tokens {
				data := x.Data[t*x.rowBytes()+g*x.groupBytes():][:x.groupBytes()]
				scale := math.Float32frombits(binary.LittleEndian.Uint32(data[x.Count*group:]))
				sum := int32(binary.LittleEndian.Uint32(data[x.Count*group+4:]))
				dot := dotCodes(codes[:group/4], data)
				if x.Count == 2 {
					dot = dot<<8 + dotCodes(codes[:group/4], data[group:])
				}
				sum += dot
				y[t*stride+r] = fma32(float32(sum), float32(d*scale), y[t*stride+r])
			}
		}
	}
}

// dotCodes is the sum of codes, four in a word, times int8.
func dotCodes(codes []uint32, x []byte) (sum int32) {
	x = x[:4*len(codes)]
	for i, c := range codes {
		sum += int32(c&3)*int32(int8(x[4*i])) + int32(c>>8&3)*int32(int8(x[4*i+1])) +
			int32(c>>16&3)*int32(int8(x[4*i+2])) + int32(c>>24)*int32(int8(x[4*i+3]))
	}
	return sum
}

// PutGroupTile packs a tile of 16 rows from T16, its 4·cols bytes, or from blocks of bits as Binary1 has them.
func PutGroupTile(dst []byte, l GroupLayout, src []byte, cols, group int) {
	if len(dst) != groupTileBytes(l, cols, group) || l == Binary1 && len(src) != len(dst) || l != Binary1 && len(src) != 4*cols {
		badLength("PutGroupTile(dst, layout, src, cols, group)", len(dst), int(l), len(src), cols, group)
	}
	if l != Ternary5 {
		copy(dst, src)
		return
	}
	const each = 0x0101010101010101
	for range cols / group / 3 {
		for q := range group / 32 { // eight codes of the three groups
			for p := 0; p < TileBytes; p += 8 { // eight byte positions in a word
				var k [8]uint64
				for i, weight := range [3]uint64{1, 3, 9} {
					block := src[i*group*4+q*2*TileBytes+p:]
					lo, hi := binary.LittleEndian.Uint64(block), binary.LittleEndian.Uint64(block[TileBytes:])
					for f := range 4 {
						k[f] += lo >> (2 * f) & (3 * each) * weight
						k[4+f] += hi >> (2 * f) & (3 * each) * weight
					}
				}
				for i, v := range [5]uint64{
					k[0] | k[5]&(7*each)<<5,
					k[1] | k[6]&(7*each)<<5,
					k[2] | k[7]&(7*each)<<5,
					k[3] | k[5]>>3&(3*each)<<5 | k[6]>>3&each<<7,
					k[4] | k[7]>>3&(3*each)<<5 | k[6]>>4&each<<7,
				} {
					binary.LittleEndian.PutUint64(dst[q*t5Bytes+i*TileBytes+p:], v)
				}
			}
		}
		dst, src = dst[group/32*t5Bytes:], src[3*group*4:]
	}
	copy(dst, src)
}
