package main

func screenARM(a *arm) {
	screen4NEON(a, "screen4NEON", false)
	screen4NEON(a, "screen4NEONDot", true)
}

// Per 8 columns four registers hold 4 rows × 4 bytes each: the low nibbles meet the first four activations, the high
// ones the other four. Without SDOT, an int16 lane takes 16 products ≤ 15·128 in a block of 64 columns: 30,720 fits.
func screen4NEON(a *arm, name string, dot bool) {
	a.fn(name, "(y, v []float32, codes []byte, scales []uint16, x []int8, xs, off, sq []float32)", 0,
		name+" is Screen4, one tile of 16 rows at a time.")
	for i, p := range []string{"y", "v", "codes", "scales"} {
		a.ptr(p, []string{"R0", "R1", "R2", "R3"}[i])
	}
	a.length("y", "R4")
	a.length("xs", "R5")
	a.p("LSR $4, R4")
	yacc, vacc := seq(0, 4), seq(4, 4)
	short, sum := seq(8, 8), seq(16, 4) // of rows 2i and 2i+1; of rows 4q…4q+3
	const x, w, lo, hi, b0, b1, mask = 20, 21, 22, 23, 24, 25, 31
	a.movi16b(mask, 0x0f)
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
			for s := range 8 {
				if s%2 == 0 {
					a.p("FMOVQ.P 16(R6), F%d", x)
				}
				e := s % 2 * 2
				if !dot {
					a.dup4s(b0, x, e)
					a.dup4s(b1, x, e+1)
				}
				for q := range 4 {
					a.p("FMOVQ.P 16(R2), F%d", w)
					a.and(lo, w, mask)
					a.ushr16b(hi, w, 4)
					if dot {
						a.sdot(sum[q], lo, x, e)
						a.sdot(sum[q], hi, x, e+1)
						continue
					}
					a.smlal(short[2*q], lo, b0)
					a.smlal2(short[2*q+1], lo, b0)
					a.smlal(short[2*q], hi, b1)
					a.smlal2(short[2*q+1], hi, b1)
				}
			}
			a.p("FMOVS.P 4(R7), F26")
			a.p("FMOVS.P 4(R8), F27")
			a.p("FMOVS.P 4(R9), F28")
			for q := range 4 {
				if !dot {
					const wide, other = 29, 30
					a.zero(wide)
					a.zero(other)
					a.sadalp(wide, short[2*q])
					a.sadalp(other, short[2*q+1])
					a.addp4s(sum[q], wide, other)
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
		for q := range 4 {
			a.p("FMOVQ.P F%d, 16(R0)", yacc[q])
			a.p("FMOVQ.P F%d, 16(R1)", vacc[q])
		}
	})
	a.p("RET")
}
