package main

import "fmt"

func sparseARM(a *arm) {
	ternaryRowsARM(a, "ternaryRowsNEON", false)
	ternaryRowsARM(a, "ternaryRowsNEONDot", true)
	ternaryColumnsARM(a, "ternaryColumnsNEON", false)
	ternaryColumnsARM(a, "ternaryColumnsNEONDot", true)
}

// dotRow adds to the words of acc products of the bytes of n and m. Without SDOT they go through words of two
// products each, ≤ 2·32·128 in size, in register tmp.
func (a *arm) dotRow(dot bool, acc, n, m, tmp int) {
	if dot {
		a.three(0x4e809400, "sdot", "4s", "16b", acc, n, m)
		return
	}
	a.three(0x0e20c000, "smull", "8h", "8b", tmp, n, m)
	a.smlal2(tmp, n, m)
	a.sadalp(acc, tmp)
}

// dotRows adds to word r of acc the four products of bytes 4r… of n with those of m. Without SDOT, tmp and tmp+1 hold
// the products, added in pairs.
func (a *arm) dotRows(dot bool, acc, n, m, tmp int) {
	if dot {
		a.three(0x4e809400, "sdot", "4s", "16b", acc, n, m)
		return
	}
	a.three(0x0e20c000, "smull", "8h", "8b", tmp, n, m)
	a.three(0x4e20c000, "smull2", "8h", "16b", tmp+1, n, m)
	a.three(0x4e60bc00, "addp", "8h", "8h", tmp, tmp, tmp+1)
	a.sadalp(acc, tmp)
}

// fields unpacks a register of codes: field 0 in f[0], 4·field 1, 16·field 2, field 3.
func (a *arm) fields(f []int, w, mask1, mask4, mask16 int) {
	a.and(f[0], w, mask1)
	a.and(f[1], w, mask4)
	a.and(f[2], w, mask16)
	a.ushr16b(f[3], w, 6)
}

// See ternaryRows for amd64. Accumulators of code, 4·code and 16·code, two of each.
func ternaryRowsARM(a *arm, name string, dot bool) {
	const ahead = 12
	a.fn(name, "(y []int32, w []byte, index []int32, x []int8, xsum int32, hop int)", 0,
		name+" is TernaryRows, one row at a time. Of a row's whole cache lines every hop bytes are next, modulo their size.")
	for i, p := range []string{"y", "w", "index"} {
		a.ptr(p, fmt.Sprintf("R%d", i))
	}
	a.length("y", "R3")
	a.length("x", "R4")
	a.argW("xsum", "R5")
	a.arg("hop", "R6")
	a.p("LSR $2, R4")       // bytes of a row
	a.p("AND $~63, R4, R7") // of its whole lines
	a.p("ADD R3<<2, R2, R8")
	a.p("SUB $4, R8") // the last index
	const mask1, mask4, mask16 = 29, 30, 31
	a.movi16b(mask1, 0x03)
	a.movi16b(mask4, 0x0c)
	a.movi16b(mask16, 0x30)
	f, w, x := seq(8, 4), seq(12, 2), seq(16, 8)
	a.loop("row", "R3", func() {
		a.p("ADD $%d, R2, R9", 4*ahead)
		a.p("CMP R8, R9")
		a.p("CSEL HI, R8, R9, R9")
		a.p("MOVW (R9), R9")
		a.p("MADD R4, R1, R9, R9") // next = w + size·index
		a.p("MOVW.P 4(R2), R10")
		a.p("MADD R4, R1, R10, R10")
		for i := range 6 {
			a.zero(i)
		}
		group := func() { // 32 bytes at R12 with activations at R13, both moved on
			for h := range 2 {
				a.p("FMOVQ.P 16(R12), F%d", w[h])
			}
			for i := range 8 {
				a.p("FMOVQ.P 16(R13), F%d", x[i])
			}
			for h := range 2 {
				a.fields(f, w[h], mask1, mask4, mask16)
				for g, acc := range []int{0, 2, 4, 0} {
					a.dotRow(dot, acc+h, f[g], x[2*g+h], 24)
				}
			}
		}
		at := func(off string) {
			a.p("ADD %s, R10, R12", off)
			a.ptr("x", "R13")
			a.p("ADD %s<<2, R13", off)
		}
		a.p("MOVD ZR, R11")
		a.p("LSR $6, R4, R14")
		a.loop("line", "R14", func() {
			a.p("ADD R11, R9, R15")
			a.p("PRFM (R15), PLDL2KEEP")
			at("R11")
			group()
			group()
			a.p("ADD R6, R11")
			a.p("SUBS R7, R11, R15")
			a.p("CSEL HS, R15, R11, R11")
		})
		a.p("TBZ $5, R4, even")
		at("R7")
		group()
		a.p("even:")
		for i := 0; i < 6; i += 2 {
			a.add4s(i, i, i+1)
		}
		a.sshr4s(2, 2, 2)
		a.sshr4s(4, 4, 4)
		a.add4s(0, 0, 2)
		a.add4s(0, 0, 4)
		a.addv(0, 0)
		a.p("FMOVS F0, R15")
		a.p("SUB R5, R15")
		a.p("MOVW.P R15, 4(R0)")
	})
	a.p("RET")
}

// See ternaryColumns for amd64. 16 bytes of four columns at a time: 64 rows in 16 accumulators, 16 bytes further on
// the next.
func ternaryColumnsARM(a *arm, name string, dot bool) {
	a.fn(name, "(y *int32, w *byte, stride int, index, next *int32, x *int8, groups, blocks int)", 0,
		name+" adds to y the products of 4·groups columns with their activations, 256·blocks rows.",
		"next are as many columns that will be needed soon.")
	a.arg("y", "R0")
	a.arg("w", "R1")
	a.arg("stride", "R2")
	a.arg("blocks", "R3")
	const mask1, mask4, mask16 = 29, 30, 31
	a.movi16b(mask1, 0x03)
	a.movi16b(mask4, 0x0c)
	a.movi16b(mask16, 0x30)
	acc := func(i, g int) int { return 4*i + g }
	v, f, t := seq(16, 4), seq(20, 4), seq(24, 4)
	const b = 28
	zip := func(which int, size string, d, n, m int) {
		code := map[string]uint32{"16b": 0x4e003800, "8h": 0x4e403800}[size]
		a.three(code|uint32(which-1)<<14, fmt.Sprint("zip", which), size, size, d, n, m)
	}
	a.loop("block", "R3", func() {
		for l := range 4 {
			for i := range 16 {
				a.zero(i)
			}
			a.arg("index", "R4")
			a.arg("next", "R5")
			a.arg("x", "R6")
			a.arg("groups", "R7")
			a.loop(fmt.Sprint("group", l), "R7", func() {
				for j := range 4 {
					if l == 0 {
						a.p("MOVW.P 4(R5), R8")
						a.p("MADD R2, R1, R8, R8")
						a.p("PRFM (R8), PLDL2KEEP")
					}
					a.p("MOVW.P 4(R4), R9")
					a.p("MADD R2, R1, R9, R9")
					a.ld(v[j], "R9", 16*l)
				}
				a.p("FMOVS.P 4(R6), F%d", b)
				a.dup4s(b, b, 0)
				zip(1, "16b", t[0], v[0], v[1])
				zip(2, "16b", t[1], v[0], v[1])
				zip(1, "16b", t[2], v[2], v[3])
				zip(2, "16b", t[3], v[2], v[3])
				zip(1, "8h", v[0], t[0], t[2])
				zip(2, "8h", v[1], t[0], t[2])
				zip(1, "8h", v[2], t[1], t[3])
				zip(2, "8h", v[3], t[1], t[3])
				for i := range 4 {
					a.fields(f, v[i], mask1, mask4, mask16)
					for g := range 4 {
						a.dotRows(dot, acc(i, g), f[g], b, t[0])
					}
				}
			})
			for i := range 4 {
				for g := range 4 {
					r := acc(i, g)
					if g == 1 || g == 2 {
						a.sshr4s(r, r, 2*g)
					}
					off := 4 * (64*i + 16*g + 4*l)
					a.ld(t[0], "R0", off)
					a.add4s(r, r, t[0])
					a.st(r, "R0", off)
				}
			}
		}
		a.p("ADD $1024, R0")
		a.p("ADD $64, R1")
	})
	a.p("RET")
}
