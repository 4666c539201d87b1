package main

import "fmt"

func ternaryARM(a *arm) {
	ternaryMatVecNEON(a)
	ternaryMatVecNEONDot(a)
	ternaryMatMulNEONDot(a)
}

// SDOT by element multiplies the four bytes of each word, a row's four columns, with the four activations in one
// word of another register: a T16 block is 16 SDOT. Fields 1 and 2 are masked where they lie, as 4·code ≤ 8 and
// 16·code ≤ 32; field 3 would be negative there, so it is shifted, and shares field 0's accumulators.
func ternaryMatVecNEONDot(a *arm) {
	a.fn("ternaryMatVecNEONDot", "(y []int32, w []byte, x []int8, xsum int32)", 0,
		"ternaryMatVecNEONDot is TernaryMatVec: one tile of 16 rows at a time, 16 columns a turn.")
	a.ptr("y", "R0")
	a.ptr("w", "R1")
	a.ptr("x", "R2")
	a.length("y", "R3")
	a.length("x", "R4")
	a.argW("xsum", "R5")
	a.p("LSR $4, R3")
	a.p("LSR $4, R4")
	acc1, acc4, acc16 := seq(0, 4), seq(4, 4), seq(8, 4)
	w, x, f := seq(12, 4), 16, seq(17, 4)
	const mask1, mask4, mask16, xsum = 28, 29, 30, 31
	a.movi16b(mask1, 0x03)
	a.movi16b(mask4, 0x0c)
	a.movi16b(mask16, 0x30)
	a.dupW(xsum, 5)
	a.loop("tile", "R3", func() {
		for i := range 12 {
			a.zero(i)
		}
		a.p("MOVD R2, R6")
		a.p("MOVD R4, R7")
		a.loop("block", "R7", func() {
			a.ld(x, "R6", 0)
			for q := range 4 {
				a.ld(w[q], "R1", 16*q)
			}
			for q := range 4 {
				a.and(f[0], w[q], mask1)
				a.and(f[1], w[q], mask4)
				a.and(f[2], w[q], mask16)
				a.ushr16b(f[3], w[q], 6)
				a.sdot(acc1[q], f[0], x, 0)
				a.sdot(acc4[q], f[1], x, 1)
				a.sdot(acc16[q], f[2], x, 2)
				a.sdot(acc1[q], f[3], x, 3)
			}
			a.p("ADD $64, R1")
			a.p("ADD $16, R6")
		})
		for q := range 4 {
			a.sshr4s(acc4[q], acc4[q], 2)
			a.sshr4s(acc16[q], acc16[q], 4)
			a.add4s(acc1[q], acc1[q], acc4[q])
			a.add4s(acc1[q], acc1[q], acc16[q])
			a.sub4s(acc1[q], acc1[q], xsum)
			a.st(acc1[q], "R0", 16*q)
		}
		a.p("ADD $64, R0")
	})
	a.p("RET")
}

// One tile by 4, 2 or 1 tokens: a block is unpacked once for all of them.
func ternaryMatMulNEONDot(a *arm) {
	a.fn("ternaryMatMulNEONDot", "(y *int32, stride int, w *byte, x *int8, cols int, xsum *int32, tokens int)", 0,
		"ternaryMatMulNEONDot is TernaryMatMul for one tile, all its columns: 4, 2 or 1 tokens at a time.",
		"stride is the bytes from one token's outputs to the next one's.")
	a.arg("y", "R0")
	a.arg("stride", "R1")
	a.arg("x", "R3")
	a.arg("cols", "R4")
	a.arg("xsum", "R5")
	a.arg("tokens", "R6")
	const mask = 31
	a.movi16b(mask, 0x03)
	for _, n := range []int{4, 2, 1} {
		label := fmt.Sprintf("tokens%d", n)
		acc := func(t, q int) int { return 4*t + q }
		x, w, f := seq(16, 4), 20, seq(21, 4)
		a.p("%s:", label)
		a.p("CMP $%d, R6", n)
		a.p("BLT %s_done", label)
		for i := range 4 * n {
			a.zero(i)
		}
		a.arg("w", "R2")
		a.p("LSR $4, R4, R7")
		for t := range n { // R8… are the tokens' rows
			if t == 0 {
				a.p("MOVD R3, R8")
			} else {
				a.p("ADD R4, R%d, R%d", 7+t, 8+t)
			}
		}
		a.loop(label+"_block", "R7", func() {
			for t := range n {
				a.ld(x[t], fmt.Sprintf("R%d", 8+t), 0)
			}
			for q := range 4 {
				a.ld(w, "R2", 16*q)
				a.ushr16b(f[1], w, 2)
				a.ushr16b(f[2], w, 4)
				a.ushr16b(f[3], w, 6)
				a.and(f[0], w, mask)
				a.and(f[1], f[1], mask)
				a.and(f[2], f[2], mask)
				for g := range 4 {
					for t := range n {
						a.sdot(acc(t, q), f[g], x[t], g)
					}
				}
			}
			a.p("ADD $64, R2")
			for t := range n {
				a.p("ADD $16, R%d", 8+t)
			}
		})
		for t := range n {
			a.p("MOVW %d(R5), R7", 4*t)
			a.dupW(w, 7)
			for q := range 4 {
				a.sub4s(acc(t, q), acc(t, q), w)
				a.st(acc(t, q), "R0", 16*q)
			}
			a.p("ADD R1, R0")
			a.p("ADD R4, R3")
		}
		a.p("ADD $%d, R5", 4*n)
		a.p("SUB $%d, R6", n)
		a.p("B %s", label)
		a.p("%s_done:", label)
	}
	a.p("RET")
}

// Without SDOT, SMLAL adds eight products of bytes to int16 lanes. A lane gets four a block, each ≤ 2·127 or
// ≥ -2·128, so that 32 blocks reach 32512 or -32768: then SADALP adds pairs of lanes to int32.
func ternaryMatVecNEON(a *arm) {
	a.fn("ternaryMatVecNEON", "(y []int32, w []byte, x []int8, xsum int32)", 0,
		"ternaryMatVecNEON is TernaryMatVec: one tile of 16 rows at a time, widened every 512 columns.")
	a.ptr("y", "R0")
	a.ptr("w", "R1")
	a.ptr("x", "R2")
	a.length("y", "R3")
	a.length("x", "R4")
	a.argW("xsum", "R5")
	a.p("LSR $4, R3")
	a.p("LSR $4, R4")
	short, acc, xb := seq(0, 8), seq(8, 8), seq(16, 4) // of rows 2i and 2i+1
	const x, w, mask, xsum = 20, 21, 30, 31
	f := seq(22, 4)
	a.movi16b(mask, 0x03)
	a.dupW(xsum, 5)
	a.loop("tile", "R3", func() {
		for i := range 8 {
			a.zero(acc[i])
		}
		a.p("MOVD R2, R6")
		a.p("MOVD R4, R7")
		a.p("chunk:")
		for i := range 8 {
			a.zero(short[i])
		}
		a.p("MOVD $32, R8")
		a.p("CMP R8, R7")
		a.p("CSEL LT, R7, R8, R8")
		a.p("SUB R8, R7")
		a.loop("block", "R8", func() {
			a.ld(x, "R6", 0)
			for g := range 4 {
				a.dup4s(xb[g], x, g)
			}
			for q := range 4 {
				a.ld(w, "R1", 16*q)
				a.ushr16b(f[1], w, 2)
				a.ushr16b(f[2], w, 4)
				a.ushr16b(f[3], w, 6)
				a.and(f[0], w, mask)
				a.and(f[1], f[1], mask)
				a.and(f[2], f[2], mask)
				for g := range 4 {
					a.smlal(short[2*q], f[g], xb[g])
					a.smlal2(short[2*q+1], f[g], xb[g])
				}
			}
			a.p("ADD $64, R1")
			a.p("ADD $16, R6")
		})
		for i := range 8 {
			a.sadalp(acc[i], short[i])
		}
		a.p("CBNZ R7, chunk")
		for q := range 4 {
			a.addp4s(acc[2*q], acc[2*q], acc[2*q+1])
			a.sub4s(acc[2*q], acc[2*q], xsum)
			a.st(acc[2*q], "R0", 16*q)
		}
		a.p("ADD $64, R0")
	})
	a.p("RET")
}
