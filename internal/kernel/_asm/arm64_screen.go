package main

func screenARM(a *arm) {
	screenNEON(a, "screenNEON", false)
	screenNEON(a, "screenNEONDot", true)
	refineNEON(a)
}

// Per 32 columns three vectors hold 16 rows' eight codes of 3 bits, each for four activations (see ScreenPack), of which
// a register takes four rows. Without SDOT, an int16 lane takes 32 products ≤ 7·128 in a block of 64 columns: 28,672 fits.
func screenNEON(a *arm, name string, dot bool) {
	a.fn(name, "(y, high []float32, upper []byte, scales []uint16, norm []float32, x []int8, xs, off, sq []float32, margin float32)", 0,
		name+" is Screen, one tile of 16 rows at a time.")
	for i, p := range []string{"y", "high", "upper", "scales", "norm"} {
		a.ptr(p, []string{"R0", "R1", "R2", "R3", "R11"}[i])
	}
	a.length("y", "R4")
	a.length("xs", "R5")
	a.p("LSR $4, R4")
	yacc, vacc := seq(0, 4), seq(4, 4)
	short, sum := seq(8, 8), seq(16, 4)                                  // of rows 2i and 2i+1; of rows 4q…4q+3
	const x, w, code, xb, other, three, low = 20, 22, 25, 28, 29, 30, 31 // x is two registers, w three
	a.movi16b(low, 7)
	a.movi16b(three, 3)
	a.loop("tile", "R4", func() {
		for i := range 8 {
			a.zero(i)
		}
		for i, p := range []string{"x", "xs", "off", "sq"} {
			a.ptr(p, []string{"R6", "R7", "R8", "R9"}[i])
		}
		a.p("MOVD R5, R10")
		a.loop("block", "R10", func() {
			for i := range 12 {
				a.zero(short[0] + i)
			}
			for half := range 2 {
				a.ld(x, "R6", 32*half)
				a.ld(x+1, "R6", 32*half+16)
				for q := range 4 {
					meet := func(group int) {
						from, e := x+group/4, group%4
						if dot {
							a.sdot(sum[q], code, from, e)
							return
						}
						a.dup4s(xb, from, e)
						a.smlal(short[2*q], code, xb)
						a.smlal2(short[2*q+1], code, xb)
					}
					for i := range 3 {
						a.ld(w+i, "R2", 192*half+64*i+16*q)
					}
					for i := range 3 {
						a.and(code, w+i, low)
						meet(2 * i)
						a.ushr16b(code, w+i, 3)
						a.and(code, code, low)
						meet(2*i + 1)
					}
					for i := range 2 { // bits 6–7 of the first or second, and bit 6 or 7 of the third
						a.ushr16b(code, w+i, 6)
						a.ushr16b(other, w+2, 4+i)
						a.bit(other, code, three)
						a.and(code, other, low)
						meet(6 + i)
					}
				}
			}
			a.p("ADD $384, R2")
			a.p("ADD $64, R6")
			a.p("FMOVS.P 4(R7), F26")
			a.p("FMOVS.P 4(R8), F27")
			a.p("FMOVS.P 4(R9), F28")
			for q := range 4 {
				if !dot {
					a.zero(code)
					a.zero(other)
					a.sadalp(code, short[2*q])
					a.sadalp(other, short[2*q+1])
					a.addp4s(sum[q], code, other)
				}
				const f, t, s = 21, 22, 23
				a.scvtf(f, sum[q])
				a.dup4s(t, 27, 0)
				a.fmlaBy(t, f, 26, 0)
				a.p("FMOVD.P 8(R3), F%d", s)
				a.fcvtl(s, s)
				a.fmla(yacc[q], s, t)
				a.fmul(s, s, s)
				a.fmlaBy(vacc[q], s, 28, 0)
			}
		})
		a.p("FMOVS %s, F%d", a.addr(a.sig.Params().Lookup("margin")), xb)
		for q := range 4 {
			a.p("FMOVQ.P F%d, 16(R0)", yacc[q])
			a.p("FMOVQ.P 16(R11), F%d", w)
			a.fsqrt(vacc[q], vacc[q])
			a.fmlaBy(vacc[q], w, xb, 0)
			a.fadd(yacc[q], yacc[q], vacc[q])
			a.p("FMOVQ.P F%d, 16(R1)", yacc[q])
		}
	})
	a.p("RET")
}

// Sixteen activations a register, and sixteen codes of two bits.
func refineNEON(a *arm) {
	a.fn("screenRefineNEON", "(y []float32, index []int32, lower []byte, x []int8, xs []float32)", 0,
		"screenRefineNEON is ScreenRefine, one row at a time.")
	a.ptr("y", "R0")
	a.ptr("index", "R1")
	a.length("y", "R2")
	a.length("xs", "R3")
	acc := seq(0, 4)
	const bits, m, x, v, p, three = 4, 5, 6, 7, 16, 20
	a.movi16b(three, 3)
	a.loop("row", "R2", func() {
		a.p("MOVW.P 4(R1), R4") // row
		a.ptr("lower", "R5")
		a.p("LSL $4, R3, R6") // bytes of a row's bits, and with its scales
		a.p("ADD R3<<1, R6, R7")
		a.p("MADD R7, R5, R4, R5")
		a.p("ADD R5, R6")
		a.ptr("x", "R7")
		a.ptr("xs", "R8")
		for _, r := range acc {
			a.zero(r)
		}
		a.p("MOVD R3, R9")
		a.loop("block", "R9", func() {
			a.p("FMOVQ.P 16(R5), F%d", bits)
			a.p("MOVHU.P 2(R6), R10")
			a.dupW(m, 10)
			a.fcvtl(m, m)
			a.p("FMOVS.P 4(R8), F%d", v)
			a.fmulBy(m, m, v, 0)
			for q := range 4 {
				if q == 0 {
					a.and(v, bits, three)
				} else {
					a.ushr16b(v, bits, 2*q)
					a.and(v, v, three)
				}
				a.add16b(v, v, v)
				a.sub16b(v, v, three)
				a.p("FMOVQ.P 16(R7), F%d", x)
				a.smull(p, v, x)
				a.smull2(p+1, v, x)
				a.addp8h(p, p, p+1)
				a.saddlp4s(p, p)
				a.scvtf(p, p)
				a.fmlaBy(acc[q], p, m, 0)
			}
		})
		a.fadd(acc[0], acc[0], acc[2])
		a.fadd(acc[1], acc[1], acc[3])
		a.fadd(acc[0], acc[0], acc[1])
		a.fold(acc[0], v)
		a.p("FMOVS (R0), F%d", v)
		a.p("FADDS F%d, F%d", v, acc[0])
		a.p("FMOVS.P F%d, 4(R0)", acc[0])
	})
	a.p("RET")
}
