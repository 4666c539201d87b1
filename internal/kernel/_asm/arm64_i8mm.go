package main

import "fmt"

// SMMLA multiplies two rows of eight bytes with two columns of eight: of weights with two tokens, 32 products where SDOT
// has 16. It wants a row's eight columns side by side, so that a tile is unpacked to memory first, once for all tokens.
func i8mmARM(a *arm) {
	ternaryUnpackI8MM(a)
	ternaryTokensI8MM(a)
	a.peak("peakInt8NEONI8MM", "does 16·32 int8 multiply-adds a turn.", func(acc, x, y int) { a.smmla(acc, x, y) })
}

// smmla adds to word 2i+j of d the product of eight bytes 8i… of n with bytes 8j… of m.
func (a *arm) smmla(d, n, m int) { a.three(0x4e80a400, "smmla", "4s", "16b", d, n, m) }

// zip interleaves the elements of n and m, of their lower halves (which = 1) or upper ones (2); uzp takes the even (1) or
// the odd (2) elements of n and then m.
func (a *arm) zip(which int, size string, d, n, m int) {
	a.three(map[string]uint32{"16b": 0x4e003800, "8h": 0x4e403800, "4s": 0x4e803800, "2d": 0x4ec03800}[size]|uint32(which-1)<<14,
		fmt.Sprint("zip", which), size, size, d, n, m)
}

func (a *arm) uzp4s(which, d, n, m int) {
	a.three(0x4e801800|uint32(which-1)<<14, fmt.Sprint("uzp", which), "4s", "4s", d, n, m)
}

// Words of four columns interleaved with the same shifted by a field, so that masks and one shift more leave eight columns
// of a row side by side.
func ternaryUnpackI8MM(a *arm) {
	a.fn("ternaryUnpackI8MM", "(dst, w *byte, blocks int)", 0,
		"ternaryUnpackI8MM writes the codes of T16 blocks as bytes, 256 a block: [2 halves of the columns][8 pairs of rows][2 rows][8 columns].")
	a.arg("dst", "R0")
	a.arg("w", "R1")
	a.arg("blocks", "R2")
	const mask, v, u, lo, hi = 31, 0, 1, 2, 3
	a.movi16b(mask, 3)
	a.loop("block", "R2", func() {
		for q := range 4 {
			a.ld(v, "R1", 16*q)
			a.ushr16b(u, v, 2)
			a.zip(1, "4s", lo, v, u)
			a.zip(2, "4s", hi, v, u)
			for i, z := range []int{lo, hi} {
				a.and(v, z, mask)
				a.st(v, "R0", 32*q+16*i)
				a.ushr16b(z, z, 4)
				a.and(z, z, mask)
				a.st(z, "R0", 128+32*q+16*i)
			}
		}
		a.p("ADD $64, R1")
		a.p("ADD $256, R0")
	})
	a.p("RET")
}

// Eight pairs of rows by three, two or one pairs of tokens: 24 accumulators. Of a pair's two tokens the lower and upper
// halves of 16 columns are zipped. A last token that is alone is paired with itself.
func ternaryTokensI8MM(a *arm) {
	a.fn("ternaryTokensI8MM", "(y *int32, stride int, codes *byte, x *int8, cols, blocks, tokens int)", 0,
		"ternaryTokensI8MM adds to y[t][r] the products of a tile of 16 rows, unpacked by ternaryUnpackI8MM, with so many tokens.",
		"stride is the bytes from y[t] to y[t+1], cols those from x[t] to x[t+1].")
	a.arg("y", "R0")
	a.arg("stride", "R1")
	a.arg("x", "R3")
	a.arg("cols", "R4")
	a.arg("tokens", "R6")
	acc := func(p, i int) int { return 8*p + i }
	for _, pairs := range []int{3, 2, 1} {
		label := fmt.Sprintf("pairs%d", pairs)
		a.p("%s:", label)
		if pairs > 1 {
			a.p("CMP $%d, R6", 2*pairs)
			a.p("BLT %s_done", label)
		} else {
			a.p("CBZ R6, %s_done", label)
			a.p("CMP $2, R6")
			a.p("CSEL LT, ZR, R4, R4") // alone
			a.p("CSEL LT, ZR, R1, R1")
		}
		for i := range 8 * pairs {
			a.zero(i)
		}
		a.arg("codes", "R2")
		a.arg("blocks", "R7")
		for t := range 2 * pairs { // R8… are the tokens' rows
			if t == 0 {
				a.p("MOVD R3, R8")
			} else {
				a.p("ADD R4, R%d, R%d", 7+t, 8+t)
			}
		}
		a.loop(label+"_block", "R7", func() {
			free := 30
			var half [2][3]int
			for p := range pairs {
				x0, x1 := 24+2*p, 25+2*p
				a.p("FMOVQ.P 16(R%d), F%d", 8+2*p, x0)
				a.p("FMOVQ.P 16(R%d), F%d", 9+2*p, x1)
				a.zip(1, "2d", free, x0, x1)
				a.zip(2, "2d", x1, x0, x1)
				half[0][p], half[1][p], free = free, x1, x0
			}
			for h := range 2 {
				for i := 0; i < 8; i += 2 {
					a.p("FLDPQ.P 32(R2), (F31, F%d)", free)
					for p := range pairs {
						a.smmla(acc(p, i), 31, half[h][p])
						a.smmla(acc(p, i+1), free, half[h][p])
					}
				}
			}
		})
		for p := range pairs {
			for t := range 2 {
				for q := range 4 {
					const sum, old = 30, 31
					a.uzp4s(t+1, sum, acc(p, 2*q), acc(p, 2*q+1))
					a.ld(old, "R0", 16*q)
					a.add4s(sum, sum, old)
					a.st(sum, "R0", 16*q)
				}
				if pairs == 1 && t == 0 {
					a.p("CBZ R1, %s_done", label)
				}
				a.p("ADD R1, R0")
				a.p("ADD R4, R3")
			}
		}
		a.p("SUB $%d, R6", 2*pairs)
		a.p("B %s", label)
		a.p("%s_done:", label)
	}
	a.p("RET")
}
