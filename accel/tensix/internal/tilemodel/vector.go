package tilemodel

import (
	"encoding/binary"
	"math"
)

// vectorModel is Dst as float32 and the vector unit. What is unpacked is there when the thread has waited for it, and so
// is what is packed.
type vectorModel struct {
	dst            [512][16]uint32
	reg            [16][32]uint32
	lanes          uint32 // that are off
	row, at        uint32 // of the packer: 1 + its next row
	unpacks, packs []transfer
}

type transfer struct{ row, l1, rows uint32 }

// word is where Dst has lane l of the vector at a row.
func (v *vectorModel) word(row, l uint32) *uint32 { return &v.dst[row&^3+l/8][2*(l&7)+row>>1&1] }

func (v *vectorModel) synced(l1 []byte) {
	for _, t := range v.unpacks {
		for i := range t.rows * 16 {
			v.dst[t.row+i/16][i%16] = binary.LittleEndian.Uint32(l1[t.l1+4*i:])
		}
	}
	for _, t := range v.packs {
		for i := range t.rows * 16 {
			binary.LittleEndian.PutUint32(l1[t.l1+4*i:], v.dst[t.row+i/16][i%16])
		}
	}
	v.unpacks, v.packs = v.unpacks[:0], v.packs[:0]
}

// do runs one instruction of the vector unit; its fused multiply-add rounds once, which is more than firmware counts on.
func (v *vectorModel) do(w uint32) {
	f := func(r, l uint32) float32 { return math.Float32frombits(v.reg[r][l]) }
	v.reg[10] = [32]uint32{}
	for l := range v.reg[10] {
		v.reg[9][l], v.reg[10][l] = 0, 0x3F800000
	}
	d, c, b, a := w>>4&15, w>>8&15, w>>12&15, w>>16&15
	imm := uint32(int32(w<<8) >> 20)
	for l := range uint32(32) {
		r := &v.reg[d][l]
		switch w >> 24 {
		case 0x8A:
			v.lanes = 0
			continue
		case 0x7B:
			if x := v.reg[c][l]; w&15 == 2 && x == 0 || w&15 == 0 && x>>31 == 0 {
				v.lanes |= 1 << l
			}
			continue
		case 0x91:
			v.reg[d][l] = v.reg[0][0]
			continue
		}
		if v.lanes>>l&1 != 0 {
			continue
		}
		switch w >> 24 {
		case 0x70:
			v.reg[w>>20&15][l] = *v.word(w&0x3FF, l)
		case 0x72:
			*v.word(w&0x3FF, l) = v.reg[w>>20&15][l]
		case 0x71:
			if r := &v.reg[w>>20&15][l]; w>>16&15 == 8 {
				*r = *r&0xFFFF | w<<16
			} else {
				*r = *r&^0xFFFF | w&0xFFFF
			}
		case 0x84, 0x85, 0x86:
			z := f(c, l)
			if w&2 != 0 {
				z = -z
			}
			*r = math.Float32bits(fma(f(a, l), f(b, l), z))
		case 0x7E:
			*r = v.reg[b][l] & v.reg[c][l]
		case 0x7F:
			*r = v.reg[b][l] | v.reg[c][l]
		case 0x8D:
			*r ^= v.reg[c][l]
		case 0x7A:
			if n := int32(imm); n >= 0 {
				*r <<= n
			} else {
				*r = uint32(int32(*r) >> -n)
			}
		case 0x79:
			if w&1 != 0 {
				*r = v.reg[c][l] + imm
			} else {
				*r += v.reg[c][l]
			}
		case 0x7C:
			*r = v.reg[c][l]
		}
	}
}
