package main

import (
	"fmt"
	"strings"
)

// Weight-only products, as in amd64_group.go: a tile's codes are unpacked to memory, three groups at a time, and meet all
// tokens there; one token too. A group's integer sums are joined to y behind it.
func groupARM(a *arm) {
	for _, mm := range []bool{false, true} {
		groupUnpackB1ARM(a, mm)
		groupUnpackT5ARM(a, mm)
	}
	groupUnpackT2NEON(a)
	for planes := 1; planes <= 2; planes++ {
		for _, tier := range []string{"NEON", "NEONDot", "NEONI8MM"} {
			groupTokensARM(a, planes, tier)
		}
	}
	quantizeGroupsNEON(a)
	hadamardNEON(a)
}

func (a *arm) orr(d, n, m int)   { a.three(0x4ea01c00, "orr", "16b", "16b", d, n, m) }
func (a *arm) eor(d, n, m int)   { a.three(0x6e201c00, "eor", "16b", "16b", d, n, m) }
func (a *arm) add8h(d, n, m int) { a.three(0x4e608400, "add", "8h", "8h", d, n, m) }
func (a *arm) xtn8b(d, n int)    { a.two(0x0e212800, "xtn", "8b", "8h", d, n) }
func (a *arm) xtn16b(d, n int)   { a.two(0x4e212800, "xtn2", "16b", "8h", d, n) }
func (a *arm) rev64(d, n int)    { a.two(0x4ea00800, "rev64", "4s", "4s", d, n) }

// shrn8b and shrn16b keep the upper byte of each halfword.
func (a *arm) shrn8b(d, n int) { a.w(0x0f088400|uint32(n<<5|d), "shrn v%d.8b, v%d.8h, #8", d, n) }

func (a *arm) shrn16b(d, n int) { a.w(0x4f088400|uint32(n<<5|d), "shrn2 v%d.16b, v%d.8h, #8", d, n) }

// tbl2 looks bytes m up in the 32 bytes of registers n and n+1.
func (a *arm) tbl2(d, n, m int) {
	a.w(0x4e002000|uint32(m<<16|n<<5|d), "tbl v%d.16b, {v%d.16b, v%d.16b}, v%d.16b", d, n, n+1, m)
}

// storeCodes writes the codes of two neighbouring fields of four rows: [field][16 rows][4 columns], or for SMMLA
// [two fields][8 pairs of rows][2 rows][8 columns]. q says which rows, even is the number of the first field. t is free.
func (a *arm) storeCodes(mm bool, f0, f1, t int, base string, even, q int) {
	if !mm {
		a.st(f0, base, 64*even+16*q)
		a.st(f1, base, 64*even+64+16*q)
		return
	}
	a.zip(1, "4s", t, f0, f1)
	a.zip(2, "4s", f0, f0, f1)
	a.st(t, base, 64*even+32*q)
	a.st(f0, base, 64*even+32*q+16)
}

func unpackName(layout string, mm bool) string {
	if mm {
		return "groupUnpack" + layout + "NEONI8MM"
	}
	return "groupUnpack" + layout + "NEON"
}

func groupUnpackT2NEON(a *arm) {
	name := unpackName("T2", false)
	a.fn(name, "(dst, w *byte, blocks int)", 0, name+" writes the codes of T16 blocks as bytes: field g of a block becomes bytes 64g…64g+63 of 256.")
	a.arg("dst", "R0")
	a.arg("w", "R1")
	a.arg("blocks", "R2")
	const v, mask = 0, 31
	f := seq(1, 4)
	a.movi16b(mask, 3)
	a.loop("block", "R2", func() {
		for q := range 4 {
			a.ld(v, "R1", 16*q)
			a.and(f[0], v, mask)
			for g := 1; g < 4; g++ {
				a.ushr16b(f[g], v, 2*g)
				if g < 3 {
					a.and(f[g], f[g], mask)
				}
			}
			for g := range 4 {
				a.st(f[g], "R0", 64*g+16*q)
			}
		}
		a.p("ADD $64, R1")
		a.p("ADD $256, R0")
	})
	a.p("RET")
}

func groupUnpackB1ARM(a *arm, mm bool) {
	name := unpackName("B1", mm)
	a.fn(name, "(dst, w *byte, blocks int)", 0, name+" writes the codes 0 and 2 of Binary1 blocks as bytes, 512 a block.")
	a.arg("dst", "R0")
	a.arg("w", "R1")
	a.arg("blocks", "R2")
	const v, f0, f1, t, mask = 0, 1, 2, 3, 31
	a.movi16b(mask, 2)
	a.loop("block", "R2", func() {
		for q := range 4 {
			a.ld(v, "R1", 16*q)
			for b := 0; b < 8; b += 2 {
				if b == 0 {
					a.add16b(f0, v, v)
					a.and(f1, v, mask)
				} else {
					a.ushr16b(f0, v, b-1)
					a.ushr16b(f1, v, b)
					a.and(f1, f1, mask)
				}
				a.and(f0, f0, mask)
				a.storeCodes(mm, f0, f1, t, "R0", b, q)
			}
		}
		a.p("ADD $64, R1")
		a.p("ADD $512, R0")
	})
	a.p("RET")
}

// TBL looks up all 32 codes at once.
func groupUnpackT5ARM(a *arm, mm bool) {
	name := unpackName("T5", mm)
	a.fn(name, "(dst, w *byte, group int, table *byte)", 0, name+" writes the codes of three groups in Ternary5 as bytes, those of one group behind those of another.")
	a.arg("dst", "R0")
	a.arg("w", "R1")
	a.arg("group", "R2")
	a.arg("table", "R3")
	const table, m5, m3, m8, m16, m18 = 30, 25, 26, 27, 28, 29
	a.ld(table, "R3", 0)
	a.ld(table+1, "R3", 16)
	for _, c := range [][2]int{{m5, 31}, {m3, 3}, {m8, 8}, {m16, 16}, {m18, 0x18}} {
		a.movi16b(c[0], uint32(c[1]))
	}
	a.p("LSL $4, R2, R4") // bytes of a group
	a.p("LSR $5, R2")
	b, c := seq(0, 5), seq(5, 8)
	const f0, f1, t, u = 13, 14, 15, 16
	a.loop("codes", "R2", func() {
		for q := range 4 {
			for i := range 5 {
				a.ld(b[i], "R1", 64*i+16*q)
				a.and(c[i], b[i], m5)
			}
			or := func(d, n, shift, mask int) {
				a.ushr16b(u, n, shift)
				a.and(u, u, mask)
				a.orr(d, d, u)
			}
			for i := range 3 {
				a.ushr16b(c[5+i], b[i], 5)
			}
			or(c[5], b[3], 2, m18)
			or(c[6], b[3], 4, m8)
			or(c[6], b[4], 3, m16)
			or(c[7], b[4], 2, m18)
			for k := range 8 {
				a.tbl2(c[k], table, c[k])
			}
			a.p("MOVD R0, R5")
			for i := range 3 {
				for k := 0; k < 8; k += 2 {
					for n, f := range []int{f0, f1} {
						if i > 0 {
							a.ushr16b(f, c[k+n], 2*i)
							a.and(f, f, m3)
						} else {
							a.and(f, c[k+n], m3)
						}
					}
					a.storeCodes(mm, f0, f1, t, "R5", k, q)
				}
				if i < 2 {
					a.p("ADD R4, R5")
				}
			}
		}
		a.p("ADD $%d, R1", 5*64)
		a.p("ADD $%d, R0", 8*64)
	})
	a.p("RET")
}

// A tile by some tokens. Where there is SDOT, four rows of four columns are an instruction with one word of activations,
// and 16 accumulators are two tokens of two planes or four of one. Without it SMLAL fills int16 lanes, one product of
// ≤ 2·128 a field, ≤ 8192 a group, of one token of two planes or two of one. SMMLA multiplies two rows with two columns: the
// planes of one token, or two tokens of one plane, the last one paired with itself.
func groupTokensARM(a *arm, planes int, tier string) {
	name := fmt.Sprintf("groupTokensPlanes%d%s", planes, tier)
	doc := groupTokensDoc(name, planes, "a tile")
	if tier == "NEONI8MM" {
		doc[2] = "\tcodes       [groups][group/8][8 pairs of rows][2 rows][8 columns] bytes"
	} else {
		doc[2] = strings.Split(doc[2], " bytes,")[0] + " bytes"
	}
	a.fn(name, groupTokensArgs, 0, doc...)
	a.arg("y", "R0")
	a.arg("stride", "R1")
	a.arg("x", "R3")
	a.arg("rowBytes", "R4")
	a.arg("group", "R5")
	a.arg("tokens", "R6")
	a.arg("shift", "R15")
	a.arg("scales", "R19")
	row := []string{"R9", "R10", "R11", "R12", "R20", "R21"} // of a token's plane; [token][plane]

	// counts are the tokens at a time. Of SMMLA and one plane the last, 1, has two rows, the same one twice.
	counts := map[string][]int{"NEON": {2 / planes}, "NEONDot": {4 / planes, 2 / planes}, "NEONI8MM": {6 / planes, 4 / planes, 2 / planes}}[tier]
	if counts[len(counts)-1] > 1 {
		counts = append(counts, 1)
	}
	for _, n := range counts {
		label := fmt.Sprintf("tokens%d", n)
		a.p("%s:", label)
		a.p("CMP $%d, R6", n)
		a.p("BLT %s_done", label)
		a.arg("codes", "R2")
		a.arg("groups", "R7")
		a.arg("first", "R13")
		rows := n * planes
		twice := tier == "NEONI8MM" && rows == 1
		if twice {
			rows = 2
		}
		for t := range n {
			if t == 0 {
				a.p("MOVD R3, %s", row[0])
			} else {
				a.p("ADD R4, %s, %s", row[(t-1)*planes], row[t*planes])
			}
		}
		if twice {
			a.p("MOVD R3, %s", row[1])
		}
		a.loop(label+"_group", "R7", func() {
			if planes == 2 {
				for t := range n {
					a.p("ADD R5, %s, %s", row[2*t], row[2*t+1])
				}
			}
			a.p("LSR $4, R5, R8")
			// dot leaves the sums of row i (of row above) for rows 4q… in a register, which may be d.
			var dot func(d, i, q int) int
			switch tier {
			case "NEONDot":
				acc := func(i, q int) int { return 4*i + q }
				x, w := seq(16, 4), seq(20, 4)
				for i := range 4 * rows {
					a.zero(i)
				}
				a.loop(label+"_block", "R8", func() {
					for i := range rows {
						a.p("FMOVQ.P 16(%s), F%d", row[i], x[i])
					}
					for g := range 4 {
						for q := range 4 {
							a.ld(w[q], "R2", 64*g+16*q)
						}
						for q := range 4 {
							for i := range rows {
								a.sdot(acc(i, q), w[q], x[i], g)
							}
						}
					}
					a.p("ADD $256, R2")
				})
				dot = func(_, i, q int) int { return acc(i, q) }
			case "NEON":
				acc := func(i, h int) int { return 8*i + h } // of rows 2h and 2h+1
				x, w := []int{16, 17}, seq(26, 4)
				xb := func(i, g int) int { return 18 + 4*i + g }
				for i := range 8 * rows {
					a.zero(i)
				}
				a.loop(label+"_block", "R8", func() {
					for i := range rows {
						a.p("FMOVQ.P 16(%s), F%d", row[i], x[i])
						for g := range 4 {
							a.dup4s(xb(i, g), x[i], g)
						}
					}
					for g := range 4 {
						for q := range 4 {
							a.ld(w[q], "R2", 64*g+16*q)
						}
						for q := range 4 {
							for i := range rows {
								a.smlal(acc(i, 2*q), w[q], xb(i, g))
								a.smlal2(acc(i, 2*q+1), w[q], xb(i, g))
							}
						}
					}
					a.p("ADD $256, R2")
				})
				dot = func(d, i, q int) int {
					a.saddlp4s(acc(i, 2*q), acc(i, 2*q))
					a.saddlp4s(acc(i, 2*q+1), acc(i, 2*q+1))
					a.addp4s(acc(i, 2*q), acc(i, 2*q), acc(i, 2*q+1))
					return acc(i, 2*q)
				}
			case "NEONI8MM":
				acc := func(p, i int) int { return 8*p + i } // of a pair of rows of x; of rows 2i and 2i+1
				for i := range 4 * rows {
					a.zero(i)
				}
				a.loop(label+"_block", "R8", func() {
					free := 30
					var half [2][3]int
					for p := range rows / 2 {
						x0, x1 := 24+2*p, 25+2*p
						a.p("FMOVQ.P 16(%s), F%d", row[2*p], x0)
						a.p("FMOVQ.P 16(%s), F%d", row[2*p+1], x1)
						a.zip(1, "2d", free, x0, x1)
						a.zip(2, "2d", x1, x0, x1)
						half[0][p], half[1][p], free = free, x1, x0
					}
					for h := range 2 {
						for i := 0; i < 8; i += 2 {
							a.p("FLDPQ.P 32(R2), (F31, F%d)", free)
							for p := range rows / 2 {
								a.smmla(acc(p, i), 31, half[h][p])
								a.smmla(acc(p, i+1), free, half[h][p])
							}
						}
					}
				})
				dot = func(d, i, q int) int {
					a.uzp4s(i%2+1, d, acc(i/2, 2*q), acc(i/2, 2*q+1))
					return d
				}
			}
			// The last plane's rows are now at the scale and the sum.
			a.p("LSR R15, R13, R16")
			a.p("ADD R16<<5, R19, R16")
			const h0, e, s, sum, yv, d0, d1 = 24, 26, 27, 28, 29, 30, 31
			a.ld(h0, "R16", 0)
			a.ld(h0+1, "R16", 16)
			a.p("MOVD R0, R14")
			for t := range n {
				meta := row[t*planes+planes-1]
				a.p("MOVW (%s), R16", meta)
				a.dupW(s, 16)
				a.p("MOVW 4(%s), R16", meta)
				a.dupW(sum, 16)
				for q := range 4 {
					d := dot(d0, t*planes, q)
					if planes == 2 {
						a.shl4s(d, d, 8)
						a.add4s(d, d, dot(d1, 2*t+1, q))
					}
					a.add4s(d, d, sum)
					a.scvtf(d, d)
					if q%2 == 0 {
						a.fcvtl(e, h0+q/2)
					} else {
						a.fcvtl2(e, h0+q/2)
					}
					a.fmul(e, e, s)
					a.ld(yv, "R14", 16*q)
					a.fmla(yv, d, e)
					a.st(yv, "R14", 16*q)
				}
				a.p("ADD R1, R14")
				if planes == 2 {
					a.p("ADD $8, %s, %s", meta, row[2*t])
				} else {
					a.p("ADD $8, %s", meta)
				}
			}
			if twice {
				a.p("ADD $8, %s", row[1])
			}
			a.p("ADD $1, R13")
		})
		for range n {
			a.p("ADD R1, R0")
			a.p("ADD R4, R3")
		}
		a.p("SUB $%d, R6", n)
		a.p("B %s", label)
		a.p("%s_done:", label)
	}
	a.p("RET")
}

// As quantizeGroupsAVX2.
func quantizeGroupsNEON(a *arm) {
	a.fn("quantizeGroupsNEON", "(dst *byte, x *float32, group, groups, planes int, largest, least float32)", 0,
		"quantizeGroupsNEON is QuantizeGroups of so many groups: X are at most largest, scales at least least/largest.")
	a.arg("dst", "R0")
	a.arg("x", "R1")
	a.arg("group", "R2")
	a.arg("groups", "R3")
	a.arg("planes", "R4")
	scalar := func(name string) string { return a.addr(a.sig.Params().Lookup(name)) }
	const inv, mask, sum, abs, half = 20, 21, 22, 23, 24
	m := seq(8, 4)
	a.constant(abs, 0x7fffffff)
	a.constant(half, 0x00800080)
	a.loop("group", "R3", func() {
		for _, r := range m {
			a.zero(r)
		}
		a.p("MOVD R1, R5")
		a.p("LSR $4, R2, R6")
		a.loop("most", "R6", func() {
			for i := range 4 {
				a.p("FMOVQ.P 16(R5), F%d", i)
				a.and(i, i, abs)
				a.umax4s(m[i], m[i], i)
			}
		})
		a.umax4s(m[0], m[0], m[1])
		a.umax4s(m[2], m[2], m[3])
		a.umax4s(m[0], m[0], m[2])
		a.umaxv(0, m[0])
		a.p("FMOVS F0, R7")
		a.zero(inv)
		a.zero(mask)
		a.zero(sum)
		a.p("MOVW $0x7fc00000, R8") // the scale's bits
		a.p("MOVW $0x7f800000, R9")
		a.p("CMPW R9, R7")
		a.p("BHS infinite")
		a.p("FMOVS %s, F1", scalar("least"))
		a.p("FMAXS F1, F0, F0")
		a.p("FMOVS %s, F2", scalar("largest"))
		a.p("FDIVS F2, F0, F3") // a/M
		a.p("FMOVS F3, R8")
		a.p("FDIVS F0, F2, F4") // M/a
		a.dup4s(inv, 4, 0)
		a.movi16b(mask, 0xff)
		a.p("infinite:")
		a.p("LSR $4, R2, R6")
		a.p("ADD R2, R0, R5") // the plane lo
		a.loop("round", "R6", func() {
			for i := range 4 {
				a.p("FMOVQ.P 16(R1), F%d", i)
				a.and(i, i, mask)
				a.fmul(i, i, inv)
				a.fcvtns(i, i)
				a.add4s(sum, sum, i)
			}
			a.sqxtn4h(4, 0)
			a.sqxtn8h(4, 1)
			a.sqxtn4h(5, 2)
			a.sqxtn8h(5, 3)
			a.p("CMP $1, R4")
			a.p("BEQ one")
			a.xtn8b(6, 4)
			a.xtn16b(6, 5)
			a.p("FMOVQ.P F6, 16(R5)")
			a.add8h(4, 4, half)
			a.add8h(5, 5, half)
			a.shrn8b(6, 4)
			a.shrn16b(6, 5)
			a.p("B both")
			a.p("one:")
			a.xtn8b(6, 4)
			a.xtn16b(6, 5)
			a.p("both:")
			a.p("FMOVQ.P F6, 16(R0)")
		})
		a.p("CMP $1, R4")
		a.p("CSEL EQ, R0, R5, R0") // behind the last plane
		a.p("MOVW R8, (R0)")
		a.addv(0, sum)
		a.p("FMOVS F0, R7")
		a.p("NEGW R7, R7")
		a.p("MOVW R7, 4(R0)")
		a.p("ADD $8, R0")
	})
	a.p("RET")
}

// As hadamardAVX2; distances 1 and 2 lie inside a register.
func hadamardNEON(a *arm) {
	a.fn("hadamardNearNEON", "(x *float32, n int)", 0, "hadamardNearNEON does Hadamard's steps of distance 1 and 2 of n floats, a multiple of 4.")
	a.arg("x", "R0")
	a.arg("n", "R1")
	const v, other, sign1, sign2, zero = 0, 1, 2, 3, 4
	a.constant(v, 0x80000000)
	a.zero(zero)
	a.zip(1, "4s", sign1, zero, v) // 0 - 0 -
	a.zip(1, "2d", sign2, zero, v) // 0 0 - -
	a.p("LSR $2, R1")
	a.loop("four", "R1", func() {
		a.ld(v, "R0", 0)
		a.rev64(other, v)
		a.eor(v, v, sign1)
		a.fadd(v, other, v)
		a.ext(other, v, v, 8)
		a.eor(v, v, sign2)
		a.fadd(v, other, v)
		a.p("FMOVQ.P F%d, 16(R0)", v)
	})
	a.p("RET")

	for _, far := range []bool{true, false} {
		name, doc, parts := "hadamardLastNEON", "hadamardLastNEON does Hadamard's step of distance h of n floats; h a multiple of 4, n one of 2h.", 2
		if far {
			name, doc, parts = "hadamardFarNEON", "hadamardFarNEON does Hadamard's steps of distance h and 2h of n floats; h a multiple of 4, n one of 4h.", 4
		}
		a.fn(name, "(x *float32, n, h int)", 0, doc)
		a.arg("x", "R0")
		a.arg("n", "R1")
		a.arg("h", "R2")
		a.p("LSL $2, R2")
		a.p("ADD R1<<2, R0, R1") // the end
		a.p("block:")
		a.p("CMP R1, R0")
		a.p("BHS done")
		for i := range parts {
			if i == 0 {
				a.p("MOVD R0, R4")
			} else {
				a.p("ADD R2, R%d, R%d", 3+i, 4+i)
			}
		}
		a.p("LSR $4, R2, R3")
		a.loop("four", "R3", func() {
			for i := range parts {
				a.ld(i, fmt.Sprintf("R%d", 4+i), 0)
			}
			out := seq(4, 2)
			a.fadd(4, 0, 1)
			a.fsub(5, 0, 1)
			if far {
				a.fadd(6, 2, 3)
				a.fsub(7, 2, 3)
				a.fadd(0, 4, 6)
				a.fadd(1, 5, 7)
				a.fsub(2, 4, 6)
				a.fsub(3, 5, 7)
				out = seq(0, 4)
			}
			for i, r := range out {
				a.p("FMOVQ.P F%d, 16(R%d)", r, 4+i)
			}
		})
		a.p("MOVD R%d, R0", 3+parts)
		a.p("B block")
		a.p("done:")
		a.p("RET")
	}
	a.mapping("mulNEON", "(y, x []float32)", "mulNEON computes y *= x.", "y", "", []string{"y", "x"}, nil, func() { a.fmul(0, 0, 1) })
}
