package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func screen(a *asm) {
	for _, queries := range []int{4, 2, 1} {
		screen4VNNI(a, queries)
	}
	screen4AVX2(a)
}

// Per 8 columns 64 bytes hold 16 rows × 4 bytes: the low nibbles meet the first four activations, the high ones the other
// four. VNNI sums 16·code·x̂ for the high nibbles (unshifted, ≤ 240 as unsigned bytes) and divides the block's sum by
// 16 at the end, exactly. What depends on the codes alone is shared by 4, 2 or 1 queries.
func screen4VNNI(a *asm, queries int) {
	name := fmt.Sprintf("screen4x%dVNNI", queries)
	a.fn(name, "(y, v *float32, stride, tiles int, codes *byte, scales *uint16, x *int8, cols int, xs, off, sq *float32)",
		fmt.Sprintf("%s is Screen4 of so many queries; stride is bytes.", name))
	codes, scales, cols := a.arg("codes"), a.arg("scales"), a.arg("cols")
	blocks := a.copy(cols)
	a.SHRQ(Imm(6), blocks)
	bs := a.times(blocks, 4) // bytes of a query's xs
	cols3, bs3 := a.GP64(), a.GP64()
	a.LEAQ(at(cols, cols, 2, 0), cols3)
	a.LEAQ(at(bs, bs, 2, 0), bs3)
	query := func(base, s, s3 reg.GPVirtual, q, disp int) Mem {
		switch q {
		case 0:
			return mem(base, disp)
		case 3:
			return at(base, s3, 1, disp)
		}
		return at(base, s, uint8(q), disp)
	}
	low, high := a.ZMM(), a.ZMM()
	a.splatByte(0x0f, low)
	a.splatByte(0xf0, high)
	vectors := func(n int) (v []reg.VecVirtual) {
		for range n {
			v = append(v, a.ZMM())
		}
		return v
	}
	turns := 1 // sets of accumulators, so that VPDPBUSD's latency is hidden
	if queries == 1 {
		turns = 2
	}
	lo, hi, yacc, vacc := vectors(queries*turns), vectors(queries*turns), vectors(queries), vectors(queries)
	done := a.GP64() // bytes of y
	a.XORQ(done, done)
	a.Label("tile")
	for q := range queries {
		a.zero(yacc[q])
		a.zero(vacc[q])
	}
	x, xs, off, sq := a.arg("x"), a.arg("xs"), a.arg("off"), a.arg("sq")
	n := a.copy(bs)
	a.SHRQ(Imm(2), n)
	a.loop("block", n, func() {
		for i := range lo {
			a.zero(lo[i])
			a.zero(hi[i])
		}
		for s := range 8 {
			f, g := a.ZMM(), a.ZMM()
			a.VPANDD(mem(codes, 64*s), low, f)
			a.VPANDD(mem(codes, 64*s), high, g)
			for q := range queries {
				i := s%turns*queries + q
				a.VPDPBUSD_BCST(query(x, cols, cols3, q, 8*s), f, lo[i])
				a.VPDPBUSD_BCST(query(x, cols, cols3, q, 8*s+4), g, hi[i])
			}
		}
		s, s2 := a.ZMM(), a.ZMM()
		a.VCVTPH2PS(mem(scales, 0), s)
		a.VMULPS(s, s, s2)
		for q := range queries {
			if turns == 2 {
				a.VPADDD(lo[1], lo[0], lo[0])
				a.VPADDD(hi[1], hi[0], hi[0])
			}
			a.VPSRAD(Imm(4), hi[q], hi[q])
			a.VPADDD(lo[q], hi[q], hi[q])
			a.VCVTDQ2PS(hi[q], hi[q])
			t := a.ZMM()
			a.VBROADCASTSS(query(off, bs, bs3, q, 0), t)
			a.VFMADD231PS_BCST(query(xs, bs, bs3, q, 0), hi[q], t)
			a.VFMADD231PS(t, s, yacc[q])
			a.VFMADD231PS_BCST(query(sq, bs, bs3, q, 0), s2, vacc[q])
		}
		a.add(codes, 512)
		a.add(scales, 32)
		a.add(x, 64)
		a.add(xs, 4)
		a.add(off, 4)
		a.add(sq, 4)
	})
	y, v := a.arg("y"), a.arg("v")
	for q := range queries {
		a.VMOVUPS(yacc[q], at(y, done, 1, 0))
		a.VMOVUPS(vacc[q], at(v, done, 1, 0))
		if q+1 < queries {
			a.ADDQ(a.addr("stride"), y)
			a.ADDQ(a.addr("stride"), v)
		}
	}
	a.add(done, 64)
	a.DECQ(a.addr("tiles"))
	a.JNZ(LabelRef("tile"))
	a.ret()
}

// AVX2 adds int16 pairs ≤ 2·15·128 = 3,840, eight of them a block: 30,720 fits.
func screen4AVX2(a *asm) {
	a.fn("screen4AVX2", "(y, v []float32, codes []byte, scales []uint16, x []int8, xs, off, sq []float32)",
		"screen4AVX2 is Screen4 of one query, one tile of 16 rows at a time.")
	y, v, codes, scales := a.ptr("y"), a.ptr("v"), a.ptr("codes"), a.ptr("scales")
	tiles := a.n("y")
	a.SHRQ(Imm(4), tiles)
	low, one := a.YMM(), a.YMM()
	a.splatByte(0x0f, low)
	a.onesWord(one)
	a.loop("tile", tiles, func() {
		var yacc, vacc [2]reg.VecVirtual
		for h := range 2 {
			yacc[h], vacc[h] = a.YMM(), a.YMM()
			a.zero(yacc[h])
			a.zero(vacc[h])
		}
		x, xs, off, sq := a.ptr("x"), a.ptr("xs"), a.ptr("off"), a.ptr("sq")
		blocks := a.n("xs")
		a.loop("block", blocks, func() {
			for h := range 2 {
				lo, hi := a.YMM(), a.YMM()
				a.zero(lo)
				a.zero(hi)
				for s := range 8 {
					b0, b1, w, f, g := a.YMM(), a.YMM(), a.YMM(), a.YMM(), a.YMM()
					a.VPBROADCASTD(mem(x, 8*s), b0)
					a.VPBROADCASTD(mem(x, 8*s+4), b1)
					a.VMOVDQU(mem(codes, 64*s+32*h), w)
					a.VPAND(w, low, f)
					a.VPSRLW(Imm(4), w, g)
					a.VPAND(g, low, g)
					a.VPMADDUBSW(b0, f, f)
					a.VPMADDUBSW(b1, g, g)
					a.VPADDW(f, lo, lo)
					a.VPADDW(g, hi, hi)
				}
				a.VPMADDWD(one, lo, lo)
				a.VPMADDWD(one, hi, hi)
				a.VPADDD(lo, hi, hi)
				f, s, t := a.YMM(), a.YMM(), a.YMM()
				a.VCVTDQ2PS(hi, f)
				a.VBROADCASTSS(mem(off, 0), t)
				m := a.YMM()
				a.VBROADCASTSS(mem(xs, 0), m)
				a.VFMADD231PS(m, f, t)
				a.VCVTPH2PS(mem(scales, 16*h), s)
				a.VFMADD231PS(t, s, yacc[h])
				a.VMULPS(s, s, s)
				a.VBROADCASTSS(mem(sq, 0), m)
				a.VFMADD231PS(m, s, vacc[h])
			}
			a.add(codes, 512)
			a.add(scales, 32)
			a.add(x, 64)
			a.add(xs, 4)
			a.add(off, 4)
			a.add(sq, 4)
		})
		for h := range 2 {
			a.VMOVUPS(yacc[h], mem(y, 32*h))
			a.VMOVUPS(vacc[h], mem(v, 32*h))
		}
		a.add(y, 64)
		a.add(v, 64)
	})
	a.ret()
}
