package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// CPUs with AVX-VNNI and without AVX-512 have VPDPBUSD and 16 registers of 256 bits. See vex for the two encodings.
func avxVNNI(a *asm) {
	for _, encoding := range []string{"AVXVNNI", "EVEX"} {
		ternaryMatVecY(a, "ternaryMatVec"+encoding)
		ternaryMatMulY(a, "ternaryMatMul"+encoding)
		for planes := 1; planes <= 2; planes++ {
			for _, l := range []string{"T2", "B1", "T5"} {
				groupVecY(a, l, planes, encoding)
			}
			groupTokensY(a, planes, encoding)
		}
		screenY(a, "screen"+encoding)
		peakInt8Y(a, "peakInt8"+encoding)
	}
}

// As ternaryMatVecVNNI, with one set of accumulators, as that is all the registers; eight of them hide the latency of 4
// or 5 at nearly two VPDPBUSD a cycle.
func ternaryMatVecY(a *asm, name string) {
	a.fn(name, "(y []int32, w []byte, x []int8, xsum int32)", name+" is TernaryMatVec: one tile of 16 rows at a time, 16 columns a turn.")
	y, w, x := a.ptr("y"), a.ptr("w"), a.ptr("x")
	tiles, steps := a.n("y"), a.n("x")
	a.SHRQ(Imm(4), tiles)
	a.SHRQ(Imm(4), steps)
	var mask [4]reg.VecVirtual
	var acc [2][4]reg.VecVirtual // of a half of the rows; of a field
	for g := range mask {
		mask[g] = a.YMM()
		a.splatByte(3<<(2*g), mask[g])
		acc[0][g], acc[1][g] = a.YMM(), a.YMM()
	}
	a.loop("tile", tiles, func() {
		for g := range 4 {
			for h := range 2 {
				a.zero(acc[h][g])
			}
		}
		xp, n := a.copy(x), a.copy(steps)
		a.loop("step", n, func() {
			v := [2]reg.VecVirtual{a.YMM(), a.YMM()}
			a.VMOVDQU(mem(w, 0), v[0])
			a.VMOVDQU(mem(w, 32), v[1])
			for g := range 4 {
				b := a.YMM()
				a.VPBROADCASTD(mem(xp, 4*g), b)
				for h := range 2 {
					f := a.YMM()
					a.VPAND(v[h], mask[g], f)
					a.VPDPBUSD(b, f, acc[h][g])
				}
			}
			a.add(w, 64)
			a.add(xp, 16)
		})
		xsum := a.YMM()
		a.splat(a.Load(a.Param("xsum"), a.GP32()).(reg.GPVirtual), xsum)
		for h := range 2 {
			sum := acc[h]
			for g := 1; g < 4; g++ {
				a.VPSRAD(Imm(uint64(2*g)), sum[g], sum[g])
				a.VPADDD(sum[g], sum[0], sum[0])
			}
			a.VPSUBD(xsum, sum[0], sum[0])
			a.VMOVDQU(sum[0], mem(y, 32*h))
		}
		a.add(y, 64)
	})
	a.ret()
}

// A tile by up to five tokens: ten accumulators, which is what hides a latency of 5 at two VPDPBUSD a cycle; two tokens
// have two sets of them. A block is unpacked in registers for all of its tokens.
func ternaryMatMulY(a *asm, name string) {
	a.fn(name, "(y *int32, stride int, w *byte, x *int8, cols int, xsum *int32, tokens int)",
		name+" is TernaryMatMul for one tile, all its columns: 5, 4, 3, 2 or 1 tokens at a time.",
		"stride is the bytes from one token's outputs to the next one's.")
	mask := a.YMM()
	a.splatByte(3, mask)
	cols := a.arg("cols")
	c3 := a.GP64()
	a.LEAQ(at(cols, cols, 2, 0), c3)
	token := func(x reg.GPVirtual, t, disp int) Mem {
		switch t {
		case 0:
			return mem(x, disp)
		case 3:
			return at(x, c3, 1, disp)
		}
		return at(x, cols, uint8(t), disp)
	}
	y, x, xsum, left := a.arg("y"), a.arg("x"), a.arg("xsum"), a.arg("tokens")
	// Five, unless that leaves one or three: 6 is 4 and 2, 8 is 4 and 4.
	a.Label("tokens")
	for _, c := range []struct{ n, tokens int }{{1, 1}, {2, 2}, {3, 3}, {4, 4}, {5, 5}, {6, 4}, {8, 4}} {
		a.CMPQ(left, Imm(uint64(c.n)))
		if c.n == 1 {
			a.JL(LabelRef("done"))
		}
		a.JE(LabelRef(fmt.Sprintf("tokens%d", c.tokens)))
	}
	for _, n := range []int{5, 4, 3, 2, 1} {
		label := fmt.Sprintf("tokens%d", n)
		a.Label(label)
		sets := 1
		if n <= 2 {
			sets = 2
		}
		var acc [2][5][2]reg.VecVirtual
		for s := range sets {
			for t := range n {
				for h := range 2 {
					acc[s][t][h] = a.YMM()
					a.zero(acc[s][t][h])
				}
			}
		}
		w, xp, steps := a.arg("w"), a.copy(x), a.copy(cols)
		a.SHRQ(Imm(4), steps)
		x4 := a.GP64() // of the fifth token
		if n == 5 {
			a.LEAQ(at(x, cols, 4, 0), x4)
		}
		a.loop(label+"_step", steps, func() {
			v := [2]reg.VecVirtual{a.YMM(), a.YMM()}
			a.VMOVDQU(mem(w, 0), v[0])
			a.VMOVDQU(mem(w, 32), v[1])
			for g := range 4 {
				f := [2]reg.VecVirtual{a.YMM(), a.YMM()}
				for h := range 2 {
					if g > 0 {
						a.VPSRLW(Imm(2), v[h], v[h])
					}
					a.VPAND(v[h], mask, f[h])
				}
				for t := range n {
					b := a.YMM()
					if t == 4 {
						a.VPBROADCASTD(mem(x4, 4*g), b)
					} else {
						a.VPBROADCASTD(token(xp, t, 4*g), b)
					}
					for h := range 2 {
						a.VPDPBUSD(b, f[h], acc[g%sets][t][h])
					}
				}
			}
			a.add(w, 64)
			a.add(xp, 16)
			if n == 5 {
				a.add(x4, 16)
			}
		})
		for t := range n {
			s := a.YMM()
			a.VPBROADCASTD(mem(xsum, 4*t), s)
			for h := range 2 {
				sum := acc[0][t][h]
				if sets == 2 {
					a.VPADDD(acc[1][t][h], sum, sum)
				}
				a.VPSUBD(s, sum, sum)
				a.VMOVDQU(sum, mem(y, 32*h))
			}
			a.ADDQ(a.addr("stride"), y)
		}
		a.add(xsum, 4*n)
		for range n {
			a.ADDQ(cols, x)
		}
		a.SUBQ(Imm(uint64(n)), left)
		a.JMP(LabelRef("tokens"))
	}
	a.Label("done")
	a.ret()
}

// As screenVNNI of one query, half of a tile's rows at a time in each block, as that is all the registers: codes in bits 3–5
// are summed where they lie. Two sets of accumulators in turn.
func screenY(a *asm, name string) {
	a.fn(name, "(y, high []float32, upper []byte, scales []uint16, norm []float32, x []int8, xs, off, sq []float32, margin float32)",
		name+" is Screen of one query, one tile of 16 rows at a time.")
	y, high, upper, scales, norm := a.ptr("y"), a.ptr("high"), a.ptr("upper"), a.ptr("scales"), a.ptr("norm")
	tiles := a.n("y")
	a.SHRQ(Imm(4), tiles)
	low, middle, two := a.YMM(), a.YMM(), a.YMM()
	a.splatByte(7, low)
	a.splatByte(7<<3, middle)
	a.splatByte(3, two)
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
				var lo, hi [2]reg.VecVirtual
				for i := range 2 {
					lo[i], hi[i] = a.YMM(), a.YMM()
					a.zero(lo[i])
					a.zero(hi[i])
				}
				for half := range 2 {
					meet := func(acc, codes reg.VecVirtual, group int) {
						xb := a.YMM()
						a.VPBROADCASTD(mem(x, 32*half+4*group), xb)
						a.VPDPBUSD(xb, codes, acc)
					}
					var b [3]reg.VecVirtual
					for i := range b {
						b[i] = a.YMM()
						f := a.YMM()
						a.VMOVDQU(mem(upper, 192*half+64*i+32*h), b[i])
						a.VPAND(b[i], low, f)
						meet(lo[i%2], f, 2*i)
						a.VPAND(b[i], middle, f)
						meet(hi[i%2], f, 2*i+1)
						if i < 2 { // bits 6–7
							a.VPSRLW(Imm(6), b[i], b[i])
							a.VPAND(b[i], two, b[i])
						}
					}
					for i := range 2 { // with bit 6 or 7 of b2
						g := a.YMM()
						a.VPSRLW(Imm(uint64(4+i)), b[2], g)
						a.VPAND(g, low, g)
						a.VPANDN(g, two, g) // bit 2 alone
						a.VPOR(g, b[i], g)
						meet(lo[1-i], g, 6+i)
					}
				}
				a.VPADDD(lo[1], lo[0], lo[0])
				a.VPADDD(hi[1], hi[0], hi[0])
				a.VPSRAD(Imm(3), hi[0], hi[0])
				f, s, t, m := a.YMM(), a.YMM(), a.YMM(), a.YMM()
				a.VPADDD(lo[0], hi[0], f)
				a.VCVTDQ2PS(f, f)
				a.VBROADCASTSS(mem(off, 0), t)
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

func peakInt8Y(a *asm, name string) {
	a.peak(name, "does 12·32 int8 multiply-adds a turn.", a.YMM, func(acc, x, y reg.VecVirtual) { a.VPDPBUSD(x, y, acc) })
}
