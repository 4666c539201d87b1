package tilemodel

import (
	"encoding/binary"
	"math"
)

// Step runs one instruction of a core, unless that waits.
func (m *Tile) Step(c *Core) {
	m.steps++
	if m.rng.IntN(64) == 0 { // now and then a region's stores are done by themselves
		m.flush(c, []region{inL1, inNIU, inConfig, inOther}[m.rng.IntN(4)])
	}
	w := binary.LittleEndian.Uint32(c.code[c.pc-c.base:])
	if w&3 != 3 { // a coprocessor instruction, rotated
		t := w>>2 | w<<30
		if m.blocked(c, t) {
			return
		}
		m.insn(c, t)
		c.pc += 4
		return
	}
	rd, f3, rs1, rs2, f7 := w>>7&31, w>>12&7, w>>15&31, w>>20&31, w>>25
	a, b := c.x[rs1], c.x[rs2]
	immI := uint32(int32(w) >> 20)
	next := c.pc + 4
	set := func(v uint32) {
		if rd != 0 {
			c.x[rd] = v
		}
	}
	switch w & 0x7F {
	case 0x37:
		set(w &^ 0xFFF)
	case 0x17:
		set(c.pc + w&^0xFFF)
	case 0x6F:
		imm := uint32(int32(w)>>31)<<20 | w&0xFF000 | w>>20&1<<11 | w>>21&0x3FF<<1
		set(next)
		next = c.pc + imm
	case 0x67:
		set(next)
		next = (a + immI) &^ 1
	case 0x63:
		take := false
		switch f3 {
		case 0:
			take = a == b
		case 1:
			take = a != b
		case 4:
			take = int32(a) < int32(b)
		case 5:
			take = int32(a) >= int32(b)
		case 6:
			take = a < b
		case 7:
			take = a >= b
		}
		if take {
			next = c.pc + (uint32(int32(w)>>31)<<12 | w>>7&1<<11 | w>>25&0x3F<<5 | w>>8&0xF<<1)
		}
	case 0x03:
		addr := a + immI
		switch {
		case f3 == 2:
			set(m.load(c, addr))
		case f3 == 4 && addr >= c.base && addr < c.base+uint32(len(c.code)): // a table of libgcc's
			set(uint32(c.code[addr-c.base]))
		default:
			m.Breaks("%s: a load that is not of a word at %#x", c.name, c.pc)
		}
	case 0x23:
		if f3 != 2 {
			m.Breaks("%s: a store that is not of a word at %#x", c.name, c.pc)
		}
		m.store(c, a+(uint32(int32(w)>>25)<<5|rd), b)
	case 0x07:
		c.f[rd] = m.load(c, a+immI)
	case 0x27:
		m.store(c, a+(uint32(int32(w)>>25)<<5|rd), c.f[rs2])
	case 0x13, 0x33:
		if w&0x7F == 0x13 {
			b = immI
			if f3 != 1 && f3 != 5 {
				f7 = 0
			}
		}
		set(alu(f3, f7, a, b))
	case 0x43:
		x, y, z := math.Float32frombits(c.f[rs1]), math.Float32frombits(c.f[rs2]), math.Float32frombits(c.f[w>>27])
		c.f[rd] = math.Float32bits(fma(x, y, z))
	case 0x53:
		x, y := math.Float32frombits(c.f[rs1]), math.Float32frombits(c.f[rs2])
		switch f7 {
		case 0x00:
			c.f[rd] = math.Float32bits(x + y)
		case 0x04:
			c.f[rd] = math.Float32bits(x - y)
		case 0x08:
			c.f[rd] = math.Float32bits(float32(x * y))
		case 0x10: // fsgnj, as fmv
			c.f[rd] = c.f[rs1]&0x7FFFFFFF | c.f[rs2]&0x80000000
		case 0x50: // flt, fle
			set(0)
			if f3 == 1 && x < y || f3 == 0 && x <= y {
				set(1)
			}
		case 0x60:
			set(uint32(int32(math.RoundToEven(float64(x)))))
		case 0x68:
			if rs2 == 1 {
				c.f[rd] = math.Float32bits(float32(a))
			} else {
				c.f[rd] = math.Float32bits(float32(int32(a)))
			}
		case 0x70:
			set(c.f[rs1])
		case 0x78:
			c.f[rd] = a
		default:
			m.Breaks("%s: float instruction %#08x at %#x", c.name, w, c.pc)
		}
	case 0x0F:
		clear(c.l0)
	case 0x73: // csrrs, csrrc of the core's own configuration
		if w>>20 != 0x7C0 || rd != 0 || f3 != 2 && f3 != 3 {
			m.Breaks("%s: system instruction %#08x at %#x", c.name, w, c.pc)
		}
		if f3 == 2 {
			c.csr |= a
		} else {
			c.csr &^= a
		}
	default:
		m.Breaks("%s: instruction %#08x at %#x is not RV32IM", c.name, w, c.pc)
	}
	c.pc = next
}

func alu(f3, f7, a, b uint32) uint32 {
	if f7 == 1 {
		switch f3 {
		case 0:
			return a * b
		case 3:
			return uint32(uint64(a) * uint64(b) >> 32)
		case 5:
			return a / b
		case 7:
			return a % b
		}
		panic("multiplication")
	}
	switch f3 {
	case 0:
		if f7 == 0x20 {
			return a - b
		}
		return a + b
	case 1:
		return a << (b & 31)
	case 2:
		if int32(a) < int32(b) {
			return 1
		}
		return 0
	case 3:
		if a < b {
			return 1
		}
		return 0
	case 4:
		return a ^ b
	case 5:
		if f7 == 0x20 {
			return uint32(int32(a) >> (b & 31))
		}
		return a >> (b & 31)
	case 6:
		return a | b
	}
	return a & b
}

// fma is x·y+z with one rounding: the sum rounded to odd in float64, then to float32.
func fma(x, y, z float32) float32 {
	p, a := float64(x)*float64(y), float64(z) // the product is exact
	s := p + a
	t := s - p
	if e := (p - (s - t)) + (a - t); e != 0 && math.Float64bits(s)&1 == 0 {
		if (e > 0) == (s > 0) {
			s = math.Float64frombits(math.Float64bits(s) + 1)
		} else {
			s = math.Float64frombits(math.Float64bits(s) - 1)
		}
	}
	return float32(s)
}
