package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// T5 (internal/kernel/t5.go): VPERMB turns a code into three 2-bit fields. It looks at an index's low 6 bits alone, and
// the table says every entry twice, so that of each byte the low 5 bits count and nothing needs masking.

func t5(a *asm) {
	ternaryMatVecT5VBMI(a)
	ternaryMatMulT5VBMI(a)
	t16FromT5VBMI(a)
	t5FromT16VNNI(a)
}

type t5Masks struct{ low3, low4 reg.VecVirtual }

func (a *asm) t5Masks() (m t5Masks) {
	m.low3, m.low4 = a.ZMM(), a.ZMM()
	a.splatByte(0x07, m.low3)
	a.splatByte(0x0f, m.low4)
	return m
}

// choose is mask ? yes : no, bit by bit; yes is used up.
func (a *asm) choose(mask, no, yes reg.VecVirtual) { a.VPTERNLOGD(U8(0xe4), mask, no, yes) }

// t5Codes loads the five vectors at w and gives the eight of codes, each in the low 5 bits of its bytes.
func (a *asm) t5Codes(w reg.GPVirtual, m t5Masks) (c [8]reg.VecVirtual) {
	for i := range 8 {
		c[i] = a.ZMM()
		if i < 5 {
			a.VMOVDQU32(mem(w, 64*i), c[i])
		}
	}
	t := a.ZMM()
	a.VPSRLD(Imm(5), c[0], c[5])
	a.VPSRLD(Imm(2), c[3], t)
	a.choose(m.low3, t, c[5])
	a.VPSRLD(Imm(5), c[1], c[6])
	t = a.ZMM()
	a.VPSRLD(Imm(4), c[3], t)
	a.choose(m.low3, t, c[6])
	t = a.ZMM()
	a.VPSRLD(Imm(3), c[4], t)
	a.choose(m.low4, t, c[6])
	a.VPSRLD(Imm(5), c[2], c[7])
	t = a.ZMM()
	a.VPSRLD(Imm(2), c[4], t)
	a.choose(m.low3, t, c[7])
	return c
}

// The fields are summed where they lie, 4ⁱ·code·x̂ in an accumulator each and two sets in turn, as in the product from T16.
func ternaryMatVecT5VBMI(a *asm) {
	a.fn("ternaryMatVecT5VBMI", "(y *int32, tiles int, w *byte, x *int8, groups, rest int, xsum int32, table *byte)",
		"ternaryMatVecT5VBMI is TernaryMatVecT5: one tile at a time, groups of 96 columns and rest T16 blocks.")
	y, tiles, w := a.arg("y"), a.arg("tiles"), a.arg("w")
	table := a.ZMM()
	a.VMOVDQU32(mem(a.arg("table"), 0), table)
	masks := a.t5Masks()
	var field [4]reg.VecVirtual
	for i := range field {
		field[i] = a.ZMM()
		a.splatByte(3<<(2*i), field[i])
	}
	var acc [2][4]reg.VecVirtual // the fourth is of the rest alone
	for i := range 4 {
		acc[0][i], acc[1][i] = a.ZMM(), a.ZMM()
	}
	xsum := a.ZMM()
	a.VPBROADCASTD(a.Load(a.Param("xsum"), a.GP32()), xsum)
	a.loop("tile", tiles, func() {
		for i := range 4 {
			a.zero(acc[0][i])
			a.zero(acc[1][i])
		}
		x, groups, rest := a.arg("x"), a.arg("groups"), a.arg("rest")
		a.loop("group", groups, func() {
			for i := range 5 {
				a.ahead(w, 64*i)
			}
			for k, c := range a.t5Codes(w, masks) {
				a.VPERMB(table, c, c)
				for i := range 3 {
					f := a.ZMM()
					a.VPANDD(field[i], c, f)
					a.VPDPBUSD_BCST(mem(x, 12*k+4*i), f, acc[k%2][i])
				}
			}
			a.add(w, 5*64)
			a.add(x, 96)
		})
		a.loop("rest", rest, func() {
			v := a.ZMM()
			a.VMOVDQU32(mem(w, 0), v)
			for i := range 4 {
				f := a.ZMM()
				a.VPANDD(field[i], v, f)
				a.VPDPBUSD_BCST(mem(x, 4*i), f, acc[0][i])
			}
			a.add(w, 64)
			a.add(x, 16)
		})
		sum := acc[0]
		for i := range 4 {
			a.VPADDD(acc[1][i], sum[i], sum[i])
			if i > 0 {
				a.VPSRAD(Imm(uint64(2*i)), sum[i], sum[i])
			}
		}
		a.VPADDD(sum[1], sum[0], sum[0])
		a.VPADDD(sum[3], sum[2], sum[2])
		a.VPADDD(sum[2], sum[0], sum[0])
		a.VPSUBD(xsum, sum[0], sum[0])
		a.VMOVDQU32(sum[0], mem(y, 0))
		a.add(y, 64)
	})
	a.ret()
}

// One tile × 8 tokens, each with an accumulator for each of a code's fields, are in registers; codes are unpacked as they
// are met, on the ports that VPDPBUSD leaves free, once for the 8.
func ternaryMatMulT5VBMI(a *asm) {
	a.fn("ternaryMatMulT5VBMI", "(y *int32, stride int, w *byte, x *int8, cols, groups, rest int, xsum *int32, tokens int, table *byte)",
		"ternaryMatMulT5VBMI is TernaryMatMulT5 for one tile: 8, 4, 2 or 1 tokens at a time.",
		"stride is the bytes from one token's outputs to the next one's.")
	table := a.ZMM()
	a.VMOVDQU32(mem(a.arg("table"), 0), table)
	var field [3]reg.VecVirtual
	for i := range field {
		field[i] = a.ZMM()
		a.splatByte(3<<(2*i), field[i])
	}
	low3, low4, field3 := a.data("low3", 0x07070707), a.data("low4", 0x0f0f0f0f), a.data("field3", 0xc0c0c0c0)
	cols := a.arg("cols")
	_, token := a.eightTokens(cols)
	y, x, xsum, left := a.arg("y"), a.arg("x"), a.arg("xsum"), a.arg("tokens")
	for _, n := range []int{8, 4, 2, 1} {
		label := fmt.Sprintf("tokens%d", n)
		a.Label(label)
		a.CMPQ(left, Imm(uint64(n)))
		a.JL(LabelRef(label + "_end"))
		var acc [3][8]reg.VecVirtual
		for i := range acc {
			for t := range n {
				acc[i][t] = a.ZMM()
				a.zero(acc[i][t])
			}
		}
		w, xp, groups, rest := a.arg("w"), a.copy(x), a.arg("groups"), a.arg("rest")
		a.loop(label+"_group", groups, func() {
			shifted := func(vector, by int) reg.VecVirtual {
				v := a.ZMM()
				a.VMOVDQU32(mem(w, 64*vector), v)
				if by > 0 {
					a.VPSRLD(Imm(uint64(by)), v, v)
				}
				return v
			}
			for k := range 8 {
				var c reg.VecVirtual
				switch k { // see t5Codes
				case 5:
					c = shifted(0, 5)
					a.VPTERNLOGD_BCST(U8(0xe4), low3, shifted(3, 2), c)
				case 6:
					c = shifted(1, 5)
					a.VPTERNLOGD_BCST(U8(0xe4), low3, shifted(3, 4), c)
					a.VPTERNLOGD_BCST(U8(0xe4), low4, shifted(4, 3), c)
				case 7:
					c = shifted(2, 5)
					a.VPTERNLOGD_BCST(U8(0xe4), low3, shifted(4, 2), c)
				default:
					c = shifted(k, 0)
				}
				a.VPERMB(table, c, c)
				for i := range 3 {
					f := a.ZMM()
					a.VPANDD(field[i], c, f)
					for t := range n {
						a.VPDPBUSD_BCST(token(xp, t, 12*k+4*i), f, acc[i][t])
					}
				}
			}
			a.add(w, 5*64)
			a.add(xp, 96)
		})
		a.loop(label+"_rest", rest, func() {
			for i := range 4 {
				f := a.ZMM()
				at := i
				if i < 3 {
					a.VPANDD(mem(w, 0), field[i], f)
				} else { // down to where field 2 lies
					a.VMOVDQU32(mem(w, 0), f)
					a.VPANDD_BCST(field3, f, f)
					a.VPSRLD(Imm(2), f, f)
					at = 2
				}
				for t := range n {
					a.VPDPBUSD_BCST(token(xp, t, 4*i), f, acc[at][t])
				}
			}
			a.add(w, 64)
			a.add(xp, 16)
		})
		for t := range n {
			a.VPSRAD(Imm(2), acc[1][t], acc[1][t])
			a.VPSRAD(Imm(4), acc[2][t], acc[2][t])
			a.VPADDD(acc[1][t], acc[0][t], acc[0][t])
			a.VPADDD(acc[2][t], acc[0][t], acc[0][t])
			a.VPSUBD_BCST(mem(xsum, 4*t), acc[0][t], acc[0][t])
			a.VMOVDQU32(acc[0][t], mem(y, 0))
			a.ADDQ(a.addr("stride"), y)
		}
		a.add(xsum, 4*n)
		a.LEAQ(at(x, cols, uint8(n), 0), x)
		a.SUBQ(Imm(uint64(n)), left)
		a.JMP(LabelRef(label))
		a.Label(label + "_end")
	}
	a.ret()
}

// Four vectors of three fields make three of four.
func t16FromT5VBMI(a *asm) {
	a.fn("t16FromT5VBMI", "(dst, src *byte, tiles, groups, rest int, table *byte)", "t16FromT5VBMI is T16FromT5.")
	dst, src, tiles := a.arg("dst"), a.arg("src"), a.arg("tiles")
	table := a.ZMM()
	a.VMOVDQU32(mem(a.arg("table"), 0), table)
	masks := a.t5Masks()
	low2, low6 := a.ZMM(), a.ZMM()
	a.splatByte(0x03, low2)
	a.splatByte(0x3f, low6)
	a.loop("tile", tiles, func() {
		groups, rest := a.arg("groups"), a.arg("rest")
		a.loop("group", groups, func() {
			c := a.t5Codes(src, masks)
			for _, v := range c {
				a.VPERMB(table, v, v)
			}
			for h := range 2 {
				u := c[4*h : 4*h+4]
				t := a.ZMM()
				a.VPSLLD(Imm(6), u[1], t)
				a.choose(low6, t, u[0])
				a.VMOVDQU32(u[0], mem(dst, 192*h))
				t = a.ZMM()
				a.VPSRLD(Imm(2), u[1], u[1])
				a.VPSLLD(Imm(4), u[2], t)
				a.choose(masks.low4, t, u[1])
				a.VMOVDQU32(u[1], mem(dst, 192*h+64))
				a.VPSRLD(Imm(4), u[2], u[2])
				a.VPSLLD(Imm(2), u[3], u[3])
				a.choose(low2, u[3], u[2])
				a.VMOVDQU32(u[2], mem(dst, 192*h+128))
			}
			a.add(src, 5*64)
			a.add(dst, 6*64)
		})
		a.loop("rest", rest, func() {
			v := a.ZMM()
			a.VMOVDQU32(mem(src, 0), v)
			a.VMOVDQU32(v, mem(dst, 0))
			a.add(src, 64)
			a.add(dst, 64)
		})
	})
	a.ret()
}

// A code is t₀+3(t₁+3t₂), added up byte by byte.
func t5FromT16VNNI(a *asm) {
	a.fn("t5FromT16VNNI", "(dst, src *byte, tiles, groups, rest int)", "t5FromT16VNNI is T5FromT16.")
	dst, src, tiles := a.arg("dst"), a.arg("src"), a.arg("tiles")
	one, three, seven := a.ZMM(), a.ZMM(), a.ZMM()
	a.splatByte(1, one)
	a.splatByte(3, three)
	a.splatByte(7, seven)
	a.loop("tile", tiles, func() {
		groups, rest := a.arg("groups"), a.arg("rest")
		a.loop("group", groups, func() {
			field := func(g int) reg.VecVirtual {
				f := a.ZMM()
				a.VMOVDQU32(mem(src, g/4*64), f)
				if g%4 > 0 {
					a.VPSRLD(Imm(uint64(g%4*2)), f, f)
				}
				a.VPANDD(three, f, f)
				return f
			}
			triple := func(v reg.VecVirtual) {
				t := a.ZMM()
				a.VPADDB(v, v, t)
				a.VPADDB(t, v, v)
			}
			var k [8]reg.VecVirtual
			for i := range k {
				k[i] = field(3*i + 2)
				for _, g := range []int{3*i + 1, 3 * i} {
					triple(k[i])
					a.VPADDB(field(g), k[i], k[i])
				}
			}
			// part is (code >> from & mask) << to.
			part := func(k reg.VecVirtual, from int, mask reg.VecVirtual, to int) reg.VecVirtual {
				t := a.ZMM()
				a.VPSRLD(Imm(uint64(from)), k, t)
				a.VPANDD(mask, t, t)
				a.VPSLLD(Imm(uint64(to)), t, t)
				return t
			}
			for i, parts := range [5][]reg.VecVirtual{
				{part(k[5], 0, seven, 5)},
				{part(k[6], 0, seven, 5)},
				{part(k[7], 0, seven, 5)},
				{part(k[5], 3, three, 5), part(k[6], 3, one, 7)},
				{part(k[7], 3, three, 5), part(k[6], 4, one, 7)},
			} {
				for _, p := range parts {
					a.VPORD(p, k[i], k[i])
				}
				a.VMOVDQU32(k[i], mem(dst, 64*i))
			}
			a.add(src, 6*64)
			a.add(dst, 5*64)
		})
		a.loop("rest", rest, func() {
			v := a.ZMM()
			a.VMOVDQU32(mem(src, 0), v)
			a.VMOVDQU32(v, mem(dst, 0))
			a.add(src, 64)
			a.add(dst, 64)
		})
	})
	a.ret()
}
