package main

import (
	"fmt"
	"strconv"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func screen(a *asm) {
	for _, queries := range []int{4, 2, 1} {
		screenVNNI(a, queries)
	}
	screenAVX2(a)
	refineVNNI(a)
	refineAVX2(a)
}

// Per 32 columns three vectors hold 16 rows' eight codes of 3 bits, each for four activations: see ScreenPack. VNNI
// sums 8·code·x̂ where a code lies in bits 3–5 (unshifted, ≤ 56 as unsigned bytes) and divides the block's sum by 8 at the
// end, exactly. What depends on the codes alone is shared by 4, 2 or 1 queries.
func screenVNNI(a *asm, queries int) {
	name := fmt.Sprintf("screen%dVNNI", queries)
	a.fn(name, "(y, high *float32, stride, tiles int, upper *byte, scales *uint16, norm *float32, x *int8, cols int, xs, off, sq, margin *float32)",
		fmt.Sprintf("%s is Screen of so many queries; stride is bytes.", name))
	upper, scales, cols := a.arg("upper"), a.arg("scales"), a.arg("cols")
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
	low, middle, two := a.ZMM(), a.ZMM(), a.ZMM()
	a.splatByte(7, low)
	a.splatByte(7<<3, middle)
	a.splatByte(3, two)
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
		for half := range 2 {
			meet := func(acc []reg.VecVirtual, codes reg.VecVirtual, group int) {
				for q := range queries {
					a.VPDPBUSD_BCST(query(x, cols, cols3, q, 32*half+4*group), codes, acc[group/2%turns*queries+q])
				}
			}
			var b [3]reg.VecVirtual
			for i := range b {
				b[i] = a.ZMM()
				f, g := a.ZMM(), a.ZMM()
				if queries == 1 {
					a.ahead(upper, 192*half+64*i)
				}
				a.VMOVDQU64(mem(upper, 192*half+64*i), b[i])
				a.VPANDD(b[i], low, f)
				a.VPANDD(b[i], middle, g)
				meet(lo, f, 2*i)
				meet(hi, g, 2*i+1)
			}
			for i := range 2 { // bits 6–7 of b0 or b1, and bit 6 or 7 of b2
				f, g := a.ZMM(), a.ZMM()
				a.VPSRLD(Imm(6), b[i], f)
				a.VPSRLD(Imm(uint64(4+i)), b[2], g)
				a.VPTERNLOGD(Imm(0xe4), two, g, f) // f where two is set, else g
				a.VPANDD(f, low, f)
				meet(lo, f, 6+i)
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
			a.VPSRAD(Imm(3), hi[q], hi[q])
			a.VPADDD(lo[q], hi[q], hi[q])
			a.VCVTDQ2PS(hi[q], hi[q])
			t := a.ZMM()
			a.VBROADCASTSS(query(off, bs, bs3, q, 0), t)
			a.VFMADD231PS_BCST(query(xs, bs, bs3, q, 0), hi[q], t)
			a.VFMADD231PS(t, s, yacc[q])
			a.VFMADD231PS_BCST(query(sq, bs, bs3, q, 0), s2, vacc[q])
		}
		a.add(upper, 384)
		a.add(scales, 32)
		a.add(x, 64)
		a.add(xs, 4)
		a.add(off, 4)
		a.add(sq, 4)
	})
	y, high, norm, margin := a.arg("y"), a.arg("high"), a.arg("norm"), a.arg("margin")
	norms := a.ZMM()
	a.VMOVUPS(at(norm, done, 1, 0), norms)
	for q := range queries {
		a.VMOVUPS(yacc[q], at(y, done, 1, 0))
		a.VSQRTPS(vacc[q], vacc[q])
		a.VFMADD231PS_BCST(mem(margin, 4*q), norms, vacc[q])
		a.VADDPS(vacc[q], yacc[q], yacc[q])
		a.VMOVUPS(yacc[q], at(high, done, 1, 0))
		if q+1 < queries {
			a.ADDQ(a.addr("stride"), y)
			a.ADDQ(a.addr("stride"), high)
		}
	}
	a.add(done, 64)
	a.DECQ(a.addr("tiles"))
	a.JNZ(LabelRef("tile"))
	a.ret()
}

// AVX2 adds int16 pairs ≤ 2·7·128 = 1,792, eight of them a block and half of its codes: 14,336.
func screenAVX2(a *asm) {
	a.fn("screenAVX2", "(y, high []float32, upper []byte, scales []uint16, norm []float32, x []int8, xs, off, sq []float32, margin float32)",
		"screenAVX2 is Screen of one query, one tile of 16 rows at a time.")
	y, high, upper, scales, norm := a.ptr("y"), a.ptr("high"), a.ptr("upper"), a.ptr("scales"), a.ptr("norm")
	tiles := a.n("y")
	a.SHRQ(Imm(4), tiles)
	low, two, one := a.YMM(), a.YMM(), a.YMM()
	a.splatByte(7, low)
	a.splatByte(3, two)
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
				acc := [2]reg.VecVirtual{a.YMM(), a.YMM()}
				a.zero(acc[0])
				a.zero(acc[1])
				for half := range 2 {
					meet := func(codes reg.VecVirtual, group int) {
						xb := a.YMM()
						a.VPBROADCASTD(mem(x, 32*half+4*group), xb)
						a.VPMADDUBSW(xb, codes, codes)
						a.VPADDW(codes, acc[group%2], acc[group%2])
					}
					var b [3]reg.VecVirtual
					for i := range b {
						b[i] = a.YMM()
						f, g := a.YMM(), a.YMM()
						a.VMOVDQU(mem(upper, 192*half+64*i+32*h), b[i])
						a.VPAND(b[i], low, f)
						a.VPSRLW(Imm(3), b[i], g)
						a.VPAND(g, low, g)
						meet(f, 2*i)
						meet(g, 2*i+1)
					}
					for i := range 2 {
						f, g := a.YMM(), a.YMM()
						a.VPSRLW(Imm(6), b[i], f)
						a.VPAND(f, two, f)
						a.VPSRLW(Imm(uint64(4+i)), b[2], g)
						a.VPAND(g, low, g)
						a.VPANDN(g, two, g) // bit 2 alone
						a.VPOR(f, g, f)
						meet(f, 6+i)
					}
				}
				lo, hi := acc[0], acc[1]
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
			a.add(upper, 384)
			a.add(scales, 32)
			a.add(x, 64)
			a.add(xs, 4)
			a.add(off, 4)
			a.add(sq, 4)
		})
		for h := range 2 {
			m := a.YMM()
			a.VBROADCASTSS(a.addr("margin"), m)
			a.VMOVUPS(yacc[h], mem(y, 32*h))
			a.VSQRTPS(vacc[h], vacc[h])
			a.VFMADD231PS(mem(norm, 32*h), m, vacc[h])
			a.VADDPS(vacc[h], yacc[h], yacc[h])
			a.VMOVUPS(yacc[h], mem(high, 32*h))
		}
		a.add(y, 64)
		a.add(high, 64)
		a.add(norm, 64)
	})
	a.ret()
}

// refineRows writes a loop over rows and one over their blocks; sum leaves the fold of the lanes in lane 0. Rows lie here
// and there, so those ahead are asked for.
func refineRows(a *asm, name string, constants, clear func(), block func(lower, scales, x, xs reg.GPVirtual), sum func() reg.VecVirtual) {
	const ahead = 8
	a.fn(name, "(y []float32, index []int32, lower []byte, x []int8, xs []float32)", name+" is ScreenRefine, one row at a time.")
	y, index, n, bits := a.ptr("y"), a.ptr("index"), a.n("y"), a.n("x")
	a.SHRQ(Imm(2), bits) // bytes of a row's bits
	size := a.copy(bits) // and with its scales
	a.SHRQ(Imm(3), size)
	a.ADDQ(bits, size)
	base := a.ptr("lower")
	last := a.GP64() // of the index
	a.LEAQ(at(index, n, 4, -4), last)
	fetch := func(label string, from reg.GPVirtual) { // the lines of the row that from points at
		line, left := a.GP64(), a.GP64()
		a.MOVLQSX(mem(from, 0), line)
		a.IMULQ(size, line)
		a.ADDQ(base, line)
		a.LEAQ(mem(size, 63+63), left) // it may begin and end within a line
		a.SHRQ(Imm(6), left)
		a.Label(label)
		a.PREFETCHT0(mem(line, 0))
		a.add(line, 64)
		a.DECQ(left)
		a.JNZ(LabelRef(label))
	}
	next := a.copy(index)
	for i := range ahead {
		fetch("first"+strconv.Itoa(i), next)
		a.CMPQ(next, last)
		a.JEQ(LabelRef("fetched"))
		a.add(next, 4)
	}
	a.Label("fetched")
	constants()
	a.loop("row", n, func() {
		scales, x, xs, blocks := a.GP64(), a.ptr("x"), a.ptr("xs"), a.n("xs")
		lower := a.GP64()
		fetch("ahead", next)
		a.CMPQ(next, last)
		a.JEQ(LabelRef("lastOne"))
		a.add(next, 4)
		a.Label("lastOne")
		a.MOVLQSX(mem(index, 0), lower)
		a.IMULQ(size, lower)
		a.ADDQ(base, lower)
		a.LEAQ(at(lower, bits, 1, 0), scales)
		clear()
		a.loop("block", blocks, func() {
			block(lower, scales, x, xs)
			a.add(lower, 16)
			a.add(scales, 2)
			a.add(x, 64)
			a.add(xs, 4)
		})
		v := sum().AsX()
		a.VADDSS(mem(y, 0), v, v)
		a.VMOVSS(v, mem(y, 0))
		a.add(y, 4)
		a.add(index, 4)
	})
	a.ret()
}

func refineVNNI(a *asm) {
	var three, shift, acc reg.VecVirtual
	refineRows(a, "screenRefineVNNI", func() {
		three, shift, acc = a.ZMM(), a.ZMM(), a.ZMM()
		a.splatByte(3, three)
		a.VMOVDQU32(a.data("fields", 0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6), shift)
	}, func() { a.zero(acc) }, func(lower, scales, x, xs reg.GPVirtual) {
		v, xv, sum, part, s := a.ZMM(), a.ZMM(), a.ZMM(), a.ZMM(), a.ZMM()
		a.VBROADCASTI32X4(mem(lower, 0), v)
		a.VPSRLVD(shift, v, v)
		a.VPANDD(three, v, v)
		a.VPADDB(v, v, v)
		a.VMOVDQU64(mem(x, 0), xv)
		a.zero(sum)
		a.zero(part)
		a.VPDPBUSD(xv, v, sum)
		a.VPDPBUSD(xv, three, part)
		a.VPSUBD(part, sum, sum)
		a.VCVTDQ2PS(sum, sum)
		h := a.YMM()
		a.VPBROADCASTW(mem(scales, 0), h)
		a.VCVTPH2PS(h, s)
		a.VMULPS_BCST(mem(xs, 0), s, s)
		a.VFMADD231PS(s, sum, acc)
	}, func() reg.VecVirtual {
		a.foldZ(acc)
		return acc
	})
}

func refineAVX2(a *asm) {
	var three, ones reg.VecVirtual
	var shift, acc [2]reg.VecVirtual
	refineRows(a, "screenRefineAVX2", func() {
		three, ones = a.YMM(), a.YMM()
		a.splatByte(3, three)
		a.onesWord(ones)
		for h := range 2 {
			shift[h], acc[h] = a.YMM(), a.YMM()
			a.VMOVDQU(a.data("fields", 0, 0, 0, 0, 2, 2, 2, 2, 4, 4, 4, 4, 6, 6, 6, 6).Offset(32*h), shift[h])
		}
	}, func() {
		a.zero(acc[0])
		a.zero(acc[1])
	}, func(lower, scales, x, xs reg.GPVirtual) {
		s, t := a.XMM(), a.GP32()
		a.MOVWLZX(mem(scales, 0), t)
		a.VMOVD(t, s)
		a.VCVTPH2PS(s, s)
		a.VMULSS(mem(xs, 0), s, s)
		m := a.YMM()
		a.VBROADCASTSS(s, m)
		for h := range 2 {
			v, w, xv := a.YMM(), a.YMM(), a.YMM()
			a.VBROADCASTI128(mem(lower, 0), v)
			a.VPSRLVD(shift[h], v, v)
			a.VPAND(three, v, v)
			a.VPADDB(v, v, v)
			a.VMOVDQU(mem(x, 32*h), xv)
			a.VPMADDUBSW(xv, v, v)
			a.VPMADDUBSW(xv, three, w)
			a.VPSUBW(w, v, v)
			a.VPMADDWD(ones, v, v)
			a.VCVTDQ2PS(v, v)
			a.VFMADD231PS(m, v, acc[h])
		}
	}, func() reg.VecVirtual {
		a.VADDPS(acc[1], acc[0], acc[0])
		a.foldY(acc[0])
		return acc[0]
	})
}
