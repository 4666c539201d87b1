package main

import "fmt"

func denseARM(a *arm) {
	for _, k := range kinds {
		matVecNEON(a, k)
		matMulNEON(a, k)
	}
	for _, k := range kvKinds {
		attnScoresNEON(a, k)
		attnMixNEON(a, k)
	}
}

// loadPair loads 8 weights at base + off into lo and hi, as float32.
func (k kind) loadPair(a *arm, lo, hi int, base string, off int) {
	a.ldBits(lo, base, off, min(8*k.size, 16))
	switch k.name {
	case "F32":
		a.ld(hi, base, off+16)
	case "BF16":
		a.shll16hi(hi, lo)
		a.shll16(lo, lo)
	case "F16":
		a.fcvtl2(hi, lo)
		a.fcvtl(lo, lo)
	case "I8":
		a.sxtl8h(lo, lo)
		a.sxtl4sHi(hi, lo)
		a.sxtl4s(lo, lo)
		a.scvtf(hi, hi)
		a.scvtf(lo, lo)
	}
}

// fold ends a canonical sum of 4 lanes.
func (a *arm) fold(v, tmp int) {
	a.ext(tmp, v, v, 8)
	a.fadd(v, v, tmp)
	a.faddp(v, v)
}

// copyTail copies R-count elements of size bytes from src to dst; both and count are used up.
func (a *arm) copyTail(label, src, dst, count string, size int) {
	mov := map[int]string{4: "MOVWU", 2: "MOVHU"}[size]
	a.loop(label, count, func() {
		a.p("%s.P %d(%s), R16", mov, size, src)
		a.p("%s.P R16, %d(%s)", mov[:4], size, dst)
	})
}

func matVecNEON(a *arm, k kind) {
	a.fn("matVec"+k.name+"NEON", "(y *float32, w *"+k.typ+", x *float32, cols, rows int)", 256,
		"matVec"+k.name+"NEON computes y[r] = Dot(w[r], x), a row at a time. "+rowsDoc)
	a.arg("y", "R0")
	a.arg("w", "R1")
	a.arg("x", "R2")
	a.arg("cols", "R3")
	a.arg("rows", "R4")
	acc, w, x := seq(0, 8), seq(8, 8), seq(16, 8)
	// A row's last cols%32 elements are copied to the stack and filled up with zeros.
	a.p("MOVD $xtail-128(SP), R10")
	a.p("MOVD $wtail-256(SP), R11")
	a.zero(0)
	for i := range 8 {
		a.st(0, "R10", 16*i)
		a.st(0, "R11", 16*i)
	}
	a.p("LSR $5, R3, R5") // blocks
	a.p("AND $31, R3, R6")
	a.p("LSL $7, R5, R7")
	a.p("ADD R2, R7")
	a.p("MOVD R10, R8")
	a.p("MOVD R6, R9")
	a.copyTail("xtail", "R7", "R8", "R9", 4)
	block := func(wp, xp string) {
		for i := 0; i < 8; i += 2 {
			k.loadPair(a, w[i], w[i+1], wp, 4*i*k.size)
			a.ld(x[i], xp, 16*i)
			a.ld(x[i+1], xp, 16*i+16)
		}
		for i := range 8 {
			a.fmla(acc[i], w[i], x[i])
		}
	}
	a.loop("row", "R4", func() {
		for i := range 8 {
			a.zero(acc[i])
		}
		a.p("MOVD R2, R7")
		a.p("MOVD R5, R9")
		a.loop("block", "R9", func() {
			block("R1", "R7")
			a.p("ADD $%d, R1", 32*k.size)
			a.p("ADD $128, R7")
		})
		a.p("CBZ R6, whole")
		a.p("MOVD R11, R8")
		a.p("MOVD R6, R9")
		a.copyTail("wtail", "R1", "R8", "R9", k.size)
		block("R11", "R10")
		a.p("whole:")
		for half := 4; half > 0; half /= 2 {
			for i := range half {
				a.fadd(acc[i], acc[i], acc[i+half])
			}
		}
		a.fold(0, 1)
		a.p("FMOVS F0, (R0)")
		a.p("ADD $4, R0")
	})
	a.p("RET")
}

// As in the AVX2 product, two passes go over the columns, lanes 0…15 and lanes 16…31: two rows by 3, 2 or 1
// tokens, 24 accumulators.
func matMulNEON(a *arm, k kind) {
	a.fn("matMul"+k.name+"NEON", "(y *float32, stride int, w *"+k.typ+", x *float32, cols, rows, tokens int)", 384,
		"matMul"+k.name+"NEON computes y[t·stride+r] = Dot(w[r], x[t]), two rows at a time; rows is even, cols a multiple of 32.",
		rowsDoc)
	a.arg("y", "R0")
	a.arg("stride", "R1")
	a.arg("w", "R2")
	a.arg("cols", "R3")
	a.arg("rows", "R4")
	a.p("LSL $2, R1")
	a.p("LSL $%d, R3, R5", k.size/2) // bytes of a row: 4 is <<2, 2 is <<1
	a.p("LSL $2, R3, R6")            // bytes of a token
	a.p("LSR $5, R3")
	a.p("MOVD $saved-384(SP), R19")
	wp, xp := []string{"R10", "R11"}, []string{"R12", "R13", "R14"}
	a.p("rows:")
	a.p("CMP $2, R4")
	a.p("BLT done")
	a.arg("x", "R7")
	a.p("MOVD R0, R8")
	a.arg("tokens", "R9")
	a.p("tokens:")
	a.p("CBZ R9, next")
	a.p("CMP $1, R9")
	a.p("BEQ tokens1")
	a.p("CMP $2, R9")
	a.p("BEQ tokens2")
	a.p("CMP $4, R9") // 4 is 2 and 2
	a.p("BEQ tokens2")
	for _, n := range []int{3, 2, 1} {
		acc := func(t, r, i int) int { return t*8 + r*4 + i }
		label := fmt.Sprintf("tokens%d", n)
		a.p("%s:", label)
		for pass := range 2 {
			for i := range 8 * n {
				a.zero(i)
			}
			a.p("MOVD R2, R10")
			a.p("ADD R5, R2, R11")
			a.p("MOVD R7, R12")
			a.p("ADD R6, R7, R13")
			a.p("ADD R6, R13, R14")
			a.p("MOVD R3, R15")
			a.loop(fmt.Sprintf("%s_pass%d", label, pass), "R15", func() {
				for i := 0; i < 4; i += 2 {
					w := [2][2]int{{24, 25}, {26, 27}}
					for r := range 2 {
						k.loadPair(a, w[r][0], w[r][1], wp[r], 4*k.size*(4*pass+i))
					}
					for t := range n {
						for h := range 2 {
							x := 28 + h
							a.ld(x, xp[t], 16*(4*pass+i+h))
							for r := range 2 {
								a.fmla(acc(t, r, i+h), w[r][h], x)
							}
						}
					}
				}
				for r := range 2 {
					a.p("ADD $%d, %s", 32*k.size, wp[r])
				}
				for t := range n {
					a.p("ADD $128, %s", xp[t])
				}
			})
			if pass == 0 {
				for i := range 8 * n {
					a.st(i, "R19", 16*i)
				}
				continue
			}
			for i := range 8 * n { // 16 lanes
				a.ld(24+i%4, "R19", 16*i)
				a.fadd(i, i, 24+i%4)
			}
			for t := range n {
				for r := range 2 {
					v := acc(t, r, 0)
					a.fadd(v, v, v+2)
					a.fadd(v+1, v+1, v+3)
					a.fadd(v, v, v+1)
					a.fold(v, v+1)
					a.p("FMOVS F%d, %d(R8)", v, 4*r)
				}
				a.p("ADD R1, R8")
				a.p("ADD R6, R7")
			}
		}
		a.p("SUB $%d, R9", n)
		a.p("B tokens")
	}
	a.p("next:")
	a.p("ADD R5<<1, R2")
	a.p("ADD $8, R0")
	a.p("SUB $2, R4")
	a.p("B rows")
	a.p("done:")
	a.p("RET")
}

// See attnScores for amd64; half a tile at a time.
func attnScoresNEON(a *arm, k kind) {
	name, scales := "attnScores"+k.name+"NEON", ""
	if k.size == 1 {
		scales = "scales *float32, "
	}
	a.fn(name, "(s *float32, stride int, q *float32, k *"+k.typ+", "+scales+"hd, queries int, scale float32, ahead int)", 0,
		name+" is AttnScores"+k.name+" of a tile; hd > 0. What lies ahead bytes further is asked for.")
	const regs = attnKeyTile / 8
	a.arg("s", "R0")
	a.arg("stride", "R1")
	a.arg("q", "R2")
	a.arg("hd", "R5")
	a.arg("queries", "R6")
	a.arg("ahead", "R14")
	a.p("LSL $2, R1")
	a.p("LSL $2, R5, R7") // bytes of a query
	for _, queries := range []int{2, 1} {
		acc := func(g, i, chain int) int { return (g*regs+i)*2 + chain }
		label := fmt.Sprintf("queries%d", queries)
		a.p("%s:", label)
		a.p("CMP $%d, R6", queries)
		a.p("BLT %s_done", label)
		for first := 0; first < attnKeyTile; first += 4 * regs {
			l := fmt.Sprintf("%s_from%d", label, first)
			for i := range queries * regs * 2 {
				a.zero(i)
			}
			a.arg("k", "R3")
			a.p("MOVD R2, R9")
			a.p("ADD R7, R2, R10")
			a.p("LSR $1, R5, R8")
			element := func(chain int) {
				for i := 0; i < regs; i += 2 {
					k.loadPair(a, 16+i, 17+i, "R3", (first+4*i)*k.size)
				}
				for g := range queries {
					a.p("FMOVS (R%d), F%d", 9+g, 24+g)
					a.p("ADD $4, R%d", 9+g)
					for i := range regs {
						a.fmlaBy(acc(g, i, chain), 16+i, 24+g, 0)
					}
				}
				a.p("ADD $%d, R3", attnKeyTile*k.size)
			}
			a.loop(l+"_pair", "R8", func() {
				if first == 0 {
					for line := 0; line < 2*attnKeyTile*k.size; line += 64 {
						a.p("ADD $%d, R3, R13", line)
						a.p("ADD R14, R13")
						a.p("PRFM (R13), PLDL1KEEP")
					}
				}
				element(0)
				element(1)
			})
			a.p("TBZ $0, R5, %s_even", l)
			element(0)
			a.p("%s_even:", l)
			a.argW("scale", "R8")
			a.dupW(26, 8)
			if k.size == 1 {
				a.arg("scales", "R8")
			}
			a.p("MOVD R0, R11")
			a.p("ADD R1, R0, R12")
			for i := range regs {
				by := 26
				if k.size == 1 {
					by = 27
					a.ld(by, "R8", 4*first+16*i)
					a.fmul(by, by, 26)
				}
				for g := range queries {
					sum := acc(g, i, 0)
					a.fadd(sum, sum, acc(g, i, 1))
					a.fmul(sum, sum, by)
					a.st(sum, fmt.Sprintf("R%d", 11+g), 4*first+16*i)
				}
			}
		}
		for range queries {
			a.p("ADD R1, R0")
			a.p("ADD R7, R2")
		}
		a.p("SUB $%d, R6", queries)
		a.p("B %s", label)
		a.p("%s_done:", label)
	}
	a.p("RET")
}

// See attnMix for amd64.
func attnMixNEON(a *arm, k kind) {
	name := "attnMix" + k.name + "NEON"
	scales, by := "", "p[g·stride+j]"
	if k.size == 1 {
		scales, by = "scales *float32, ", "p[g·stride+j]·scales[j]"
	}
	a.fn(name, "(out, p *float32, stride int, v *"+k.typ+", "+scales+"n, hd, queries, ahead int)", 0,
		name+" computes out[g][d] = fma("+by+", v[j][d], out[g][d]) for all j < n in turn.",
		"hd is a multiple of 8, n > 0. What lies ahead bytes further than v is asked for.")
	a.arg("out", "R0")
	a.arg("p", "R1")
	a.arg("stride", "R2")
	a.arg("n", "R4")
	a.arg("hd", "R5")
	a.arg("queries", "R6")
	a.arg("ahead", "R20")
	a.p("LSL $2, R2")
	a.p("LSL $2, R5, R7")            // bytes of a query's output
	a.p("LSL $%d, R5, R8", k.size/2) // of a row of v
	for _, queries := range []int{4, 2, 1} {
		label := fmt.Sprintf("queries%d", queries)
		a.p("%s:", label)
		a.p("CMP $%d, R6", queries)
		a.p("BLT %s_done", label)
		a.arg("v", "R3")
		a.p("MOVD R0, R9")
		a.p("MOVD R5, R10")
		for _, cols := range []int{64 / queries, 8} {
			l := fmt.Sprintf("%s_by%d", label, cols)
			regs := cols / 4
			acc := func(g, d int) int { return g*regs + d }
			each := func(f func(g int, base string)) {
				a.p("MOVD R9, R11")
				for g := range queries {
					f(g, "R11")
					if g+1 < queries {
						a.p("ADD R7, R11")
					}
				}
			}
			a.p("%s:", l)
			a.p("CMP $%d, R10", cols)
			a.p("BLT %s_done", l)
			each(func(g int, base string) {
				for d := range regs {
					a.ld(acc(g, d), base, 16*d)
				}
			})
			a.p("MOVD R1, R12")
			a.p("MOVD R3, R13")
			a.p("MOVD R4, R14")
			if k.size == 1 {
				a.arg("scales", "R19")
			}
			a.loop(l+"_row", "R14", func() {
				for line := 0; line < cols*k.size; line += 64 {
					a.p("ADD $%d, R13, R15", line)
					a.p("ADD R20, R15")
					a.p("PRFM (R15), PLDL1KEEP")
				}
				a.p("MOVD R12, R15")
				for g := range queries {
					a.p("FMOVS (R15), F%d", 28+g)
					if g+1 < queries {
						a.p("ADD R2, R15")
					}
				}
				if k.size == 1 {
					a.p("FMOVS (R19), F24")
					for g := range queries {
						a.p("FMULS F24, F%d", 28+g)
					}
					a.p("ADD $4, R19")
				}
				for d := 0; d < regs; d += 2 {
					lo, hi := 16+d%8, 17+d%8
					k.loadPair(a, lo, hi, "R13", 4*d*k.size)
					for g := range queries {
						a.fmlaBy(acc(g, d), lo, 28+g, 0)
						a.fmlaBy(acc(g, d+1), hi, 28+g, 0)
					}
				}
				a.p("ADD $4, R12")
				a.p("ADD R8, R13")
			})
			each(func(g int, base string) {
				for d := range regs {
					a.st(acc(g, d), base, 16*d)
				}
			})
			a.p("ADD $%d, R3", cols*k.size)
			a.p("ADD $%d, R9", cols*4)
			a.p("SUB $%d, R10", cols)
			a.p("B %s", l)
			a.p("%s_done:", l)
		}
		for range queries {
			a.p("ADD R7, R0")
			a.p("ADD R2, R1")
		}
		a.p("SUB $%d, R6", queries)
		a.p("B %s", label)
		a.p("%s_done:", label)
	}
	a.p("RET")
}
