package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func screen(a *asm) {
	screen4(a, "screen4VNNI")
	screen4(a, "screen4AVX2")
}

// Per 8 columns a YMM holds 8 rows × 4 bytes: the low nibbles meet the first four activations, the high ones the other
// four. VNNI sums 16·code·x̂ for the high nibbles (unshifted, ≤ 240 as unsigned bytes) and divides the block's sum by
// 16 at the end, exactly. AVX2 adds int16 pairs ≤ 2·15·128 = 3,840, eight of them a block: 30,720 fits.
func screen4(a *asm, name string) {
	a.fn(name, "(y, v []float32, codes []byte, scales []uint16, x []int8, xs, off, sq []float32)",
		name+" is Screen4, one tile of 16 rows at a time.")
	y, v, codes, scales := a.ptr("y"), a.ptr("v"), a.ptr("codes"), a.ptr("scales")
	tiles := a.n("y")
	a.SHRQ(Imm(4), tiles)
	low := a.YMM()
	a.splatByte(0x0f, low)
	other := a.YMM() // VNNI: the high nibbles; AVX2: ones
	if a.avx512 {
		a.splatByte(0xf0, other)
	} else {
		t := a.GP32()
		a.MOVL(U32(0x00010001), t)
		a.splat(t, other)
	}
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
					if a.avx512 {
						a.VMOVDQU32(mem(codes, 64*s+32*h), w)
						a.VPANDD(w, low, f)
						a.VPANDD(w, other, g)
						a.VPDPBUSD(b0, f, lo)
						a.VPDPBUSD(b1, g, hi)
						continue
					}
					a.VMOVDQU(mem(codes, 64*s+32*h), w)
					a.VPAND(w, low, f)
					a.VPSRLW(Imm(4), w, g)
					a.VPAND(g, low, g)
					a.VPMADDUBSW(b0, f, f)
					a.VPMADDUBSW(b1, g, g)
					a.VPADDW(f, lo, lo)
					a.VPADDW(g, hi, hi)
				}
				if a.avx512 {
					a.VPSRAD(Imm(4), hi, hi)
				} else {
					a.VPMADDWD(other, lo, lo)
					a.VPMADDWD(other, hi, hi)
				}
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
