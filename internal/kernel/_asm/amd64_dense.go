package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// A kind is a storage type of dense weights, with the instructions that load a vector of them as float32.
type kind struct {
	name string // in function names
	typ  string // in Go
	size int    // bytes
}

var kinds = []kind{{"F32", "float32", 4}, {"BF16", "uint16", 2}, {"F16", "uint16", 2}}

// load widens a vector of weights into dst.
func (k kind) load(a *asm, m Mem, dst reg.VecVirtual) {
	switch k.name {
	case "F32":
		a.VMOVUPS(m, dst)
	case "BF16":
		a.VPMOVZXWD(m, dst)
		a.VPSLLD(Imm(16), dst, dst)
	case "F16":
		a.VCVTPH2PS(m, dst)
	case "I8":
		a.VPMOVSXBD(m, dst)
		a.VCVTDQ2PS(dst, dst)
	}
}

// loadMasked is load for the lanes of mask; the others become 0 and are not touched in memory.
func (k kind) loadMasked(a *asm, m Mem, mask reg.Register, dst reg.VecVirtual) {
	switch k.name {
	case "F32":
		a.VMOVUPS_Z(m, mask, dst)
	case "BF16":
		a.VPMOVZXWD_Z(m, mask, dst)
		a.VPSLLD(Imm(16), dst, dst)
	case "F16":
		a.VCVTPH2PS_Z(m, mask, dst)
	}
}

func dense(a *asm) {
	for _, k := range kinds {
		matVecVNNI(a, k)
		matMulVNNI(a, k)
		matVecAVX2(a, k)
		matMulAVX2(a, k)
	}
}

// rowsDoc describes the parameters that the functions below share.
const rowsDoc = "rows and cols are those of w, cols > 0; strides are in floats."

// tailMasks returns cols/32 and, for the last cols%32 elements, the masks of lanes 0…15 and 16…31.
func (a *asm) tailMasks(cols reg.GPVirtual) (blocks reg.GPVirtual, lo, hi reg.Register) {
	rem, ones := a.GP32(), a.GP32()
	lo, hi = a.K(), a.K()
	a.MOVL(cols.As32(), rem)
	a.ANDL(Imm(31), rem)
	a.MOVL(U32(0xffffffff), ones)
	a.BZHIL(rem, ones, ones)
	a.KMOVW(ones, lo)
	a.SHRL(Imm(16), ones)
	a.KMOVW(ones, hi)
	blocks = a.copy(cols)
	a.SHRQ(Imm(5), blocks)
	return blocks, lo, hi
}

// foldZ ends the canonical sum of one output: 16 lanes to 1, in lane 0.
func (a *asm) foldZ(v reg.VecVirtual) {
	t := a.YMM()
	a.VEXTRACTF64X4(Imm(1), v, t)
	a.VADDPS(t, v.AsY(), v.AsY())
	a.foldY(v)
}

// foldY is foldZ from 8 lanes.
func (a *asm) foldY(v reg.VecVirtual) {
	t, x := a.XMM(), v.AsX()
	if a.avx512 {
		a.VEXTRACTF32X4(Imm(1), v.AsY(), t)
	} else {
		a.VEXTRACTF128(Imm(1), v.AsY(), t)
	}
	a.VADDPS(t, x, x)
	a.VPERMILPS(Imm(0x4e), x, t)
	a.VADDPS(t, x, x)
	a.VPERMILPS(Imm(0xb1), x, t)
	a.VADDPS(t, x, x)
}

// One row at a time: a single stream is what memory delivers fastest, and the two chains of FMAs still take
// 32 weights every 4 cycles.
func matVecVNNI(a *asm, k kind) {
	a.fn("matVec"+k.name+"VNNI", "(y *float32, w *"+k.typ+", x *float32, cols, rows int)",
		"matVec"+k.name+"VNNI computes y[r] = Dot(w[r], x), a row at a time. "+rowsDoc)
	y, w, x, cols, rows := a.arg("y"), a.arg("w"), a.arg("x"), a.arg("cols"), a.arg("rows")
	blocks, lo, hi := a.tailMasks(cols)
	a.loop("row", rows, func() {
		acc := [2]reg.VecVirtual{a.ZMM(), a.ZMM()}
		a.zero(acc[0])
		a.zero(acc[1])
		xp, n := a.copy(x), a.copy(blocks)
		fma := func(i int, load func(v, u reg.VecVirtual)) {
			v, u := a.ZMM(), a.ZMM()
			load(v, u)
			a.VFMADD231PS(u, v, acc[i])
		}
		a.loop("block", n, func() {
			for i := range 2 {
				fma(i, func(v, u reg.VecVirtual) {
					k.load(a, mem(w, 16*k.size*i), v)
					a.VMOVUPS(mem(xp, 64*i), u)
				})
			}
			a.add(w, 32*k.size)
			a.add(xp, 128)
		})
		rem := a.copy(cols)
		a.ANDQ(Imm(31), rem)
		a.JZ(LabelRef("whole"))
		for i, mask := range []reg.Register{lo, hi} {
			fma(i, func(v, u reg.VecVirtual) {
				k.loadMasked(a, mem(w, 16*k.size*i), mask, v)
				a.VMOVUPS_Z(mem(xp, 64*i), mask, u)
			})
		}
		a.LEAQ(at(w, rem, uint8(k.size), 0), w)
		a.Label("whole")
		a.VADDPS(acc[1], acc[0], acc[0])
		a.foldZ(acc[0])
		a.VMOVSS(acc[0].AsX(), mem(y, 0))
		a.add(y, 4)
	})
	a.ret()
}

// Four rows by 3, 2 or 1 tokens, 32 lanes each, in registers. The four rows' sums are folded together: after
// 16 → 8 → 4 lanes each row has a quarter of one register.
func matMulVNNI(a *asm, k kind) {
	a.fn("matMul"+k.name+"VNNI", "(y *float32, stride int, w *"+k.typ+", x *float32, cols, rows, tokens int)",
		"matMul"+k.name+"VNNI computes y[t·stride+r] = Dot(w[r], x[t]), four rows at a time; rows is a multiple of 4.",
		rowsDoc)
	y, w, cols := a.arg("y"), a.arg("w"), a.arg("cols")
	blocks, lo, hi := a.tailMasks(cols)
	ws, ws3, xs := a.times(cols, k.size), a.GP64(), a.times(cols, 4) // bytes of a row, of three, of a token
	a.LEAQ(at(ws, ws, 2, 0), ws3)
	row := func(p reg.GPVirtual, r, disp int) Mem {
		switch r {
		case 0:
			return mem(p, disp)
		case 3:
			return at(p, ws3, 1, disp)
		}
		return at(p, ws, uint8(r), disp)
	}
	token := func(p reg.GPVirtual, t, disp int) Mem {
		if t == 0 {
			return mem(p, disp)
		}
		return at(p, xs, uint8(t), disp)
	}
	// pick is the permutation that gathers lane 0 of each quarter.
	pick := a.ZMM()
	a.VMOVDQU32(a.data("quarters", 0, 4, 8, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0), pick)

	a.Label("rows")
	a.CMPQ(a.addr("rows"), Imm(4))
	a.JL(LabelRef("done"))
	x, yt, left := a.arg("x"), a.copy(y), a.arg("tokens")
	a.Label("tokens")
	a.CMPQ(left, Imm(1))
	a.JL(LabelRef("next"))
	a.JE(LabelRef("tokens1"))
	a.CMPQ(left, Imm(2))
	a.JE(LabelRef("tokens2"))
	a.CMPQ(left, Imm(4)) // 4 is 2 and 2
	a.JE(LabelRef("tokens2"))
	for _, n := range []int{3, 2, 1} {
		label := fmt.Sprintf("tokens%d", n)
		a.Label(label)
		var acc [3][4][2]reg.VecVirtual
		for t := range n {
			for r := range 4 {
				for i := range 2 {
					acc[t][r][i] = a.ZMM()
					a.zero(acc[t][r][i])
				}
			}
		}
		block := func(wp, xp reg.GPVirtual, mask []reg.Register) {
			if k.size == 2 && mask == nil {
				// Four streams are more than the prefetcher follows: the next four rows are asked for here, into
				// L2. (float32 weights, which come from L2 in training, lose by it.)
				next := a.GP64()
				a.LEAQ(at(wp, ws, 4, 0), next)
				for r := range 4 {
					a.PREFETCHT1(row(next, r, 0))
				}
			}
			for i := range 2 {
				var u [3]reg.VecVirtual
				for t := range n {
					u[t] = a.ZMM()
					if mask != nil {
						a.VMOVUPS_Z(token(xp, t, 64*i), mask[i], u[t])
					} else {
						a.VMOVUPS(token(xp, t, 64*i), u[t])
					}
				}
				for r := range 4 {
					m := row(wp, r, 16*k.size*i)
					if k.name == "F32" && n == 1 && mask == nil {
						a.VFMADD231PS(m, u[0], acc[0][r][i])
						continue
					}
					v := a.ZMM()
					if mask != nil {
						k.loadMasked(a, m, mask[i], v)
					} else {
						k.load(a, m, v)
					}
					for t := range n {
						a.VFMADD231PS(u[t], v, acc[t][r][i])
					}
				}
			}
		}
		wp, xp, c := a.copy(w), a.copy(x), a.copy(blocks)
		a.loop(label+"_block", c, func() {
			block(wp, xp, nil)
			a.add(wp, 32*k.size)
			a.add(xp, 128)
		})
		a.TESTQ(U32(31), cols)
		a.JZ(LabelRef(label + "_whole"))
		block(wp, xp, []reg.Register{lo, hi})
		a.Label(label + "_whole")
		for t := range n {
			var s [4]reg.VecVirtual
			for r := range 4 {
				s[r] = acc[t][r][0]
				a.VADDPS(acc[t][r][1], s[r], s[r])
			}
			for r := range 2 { // 8 lanes each: rows 0 and 1 in one, 2 and 3 in the other
				p := a.ZMM()
				a.VSHUFF64X2(Imm(0x44), s[2*r+1], s[2*r], p)
				a.VSHUFF64X2(Imm(0xee), s[2*r+1], s[2*r], s[2*r])
				a.VADDPS(p, s[2*r], s[2*r])
			}
			p := a.ZMM() // 4 lanes each
			a.VSHUFF32X4(Imm(0x88), s[2], s[0], p)
			a.VSHUFF32X4(Imm(0xdd), s[2], s[0], s[0])
			a.VADDPS(p, s[0], s[0])
			a.VPERMILPS(Imm(0x4e), s[0], p)
			a.VADDPS(p, s[0], s[0])
			a.VPERMILPS(Imm(0xb1), s[0], p)
			a.VADDPS(p, s[0], s[0])
			a.VPERMPS(s[0], pick, p)
			a.VMOVUPS(p.AsX(), mem(yt, 0))
			stride := a.arg("stride")
			a.LEAQ(at(yt, stride, 4, 0), yt)
		}
		for range n {
			a.ADDQ(xs, x)
		}
		a.SUBQ(Imm(uint64(n)), left)
		a.JMP(LabelRef("tokens"))
	}
	a.Label("next")
	a.LEAQ(at(w, ws, 4, 0), w)
	a.add(y, 16)
	a.SUBQ(Imm(4), a.addr("rows"))
	a.JMP(LabelRef("rows"))
	a.Label("done")
	a.ret()
}

func matVecAVX2(a *asm, k kind) {
	a.fn("matVec"+k.name+"AVX2", "(y *float32, w *"+k.typ+", x *float32, cols, rows int)",
		"matVec"+k.name+"AVX2 computes y[r] = Dot(w[r], x), a row at a time. "+rowsDoc)
	y, w, x, cols, rows := a.arg("y"), a.arg("w"), a.arg("x"), a.arg("cols"), a.arg("rows")
	// A row's last cols%32 weights and activations are copied to the stack and filled up with zeros: AVX2 has
	// no masked load of 16-bit elements.
	wTail, xTail := a.AllocLocal(32*k.size), a.AllocLocal(128)
	zero := a.YMM()
	a.zero(zero)
	for i := 0; i < 32*k.size; i += 32 {
		a.VMOVDQU(zero, wTail.Offset(i))
	}
	for i := 0; i < 128; i += 32 {
		a.VMOVDQU(zero, xTail.Offset(i))
	}
	blocks, rem := a.copy(cols), a.copy(cols)
	a.SHRQ(Imm(5), blocks)
	a.ANDQ(Imm(31), rem)
	last, t := a.GP64(), a.GP32()
	a.MOVQ(cols, last)
	a.SUBQ(rem, last)
	a.LEAQ(at(x, last, 4, 0), last)
	i := a.GP64()
	a.MOVQ(rem, i)
	a.loop("xtail", i, func() {
		a.MOVL(at(last, i, 4, -4), t)
		a.MOVL(t, Mem{Base: xTail.Base, Disp: xTail.Disp - 4, Index: i, Scale: 4})
	})
	var acc [4]reg.VecVirtual
	for i := range acc {
		acc[i] = a.YMM()
	}
	a.loop("row", rows, func() {
		for i := range acc {
			a.zero(acc[i])
		}
		block := func(w, x Mem) {
			for i := range acc {
				v := a.YMM()
				k.load(a, w.Offset(8*k.size*i), v)
				a.VFMADD231PS(x.Offset(32*i), v, acc[i])
			}
		}
		xp, n := a.copy(x), a.copy(blocks)
		a.loop("block", n, func() {
			block(mem(w, 0), mem(xp, 0))
			a.add(w, 32*k.size)
			a.add(xp, 128)
		})
		i := a.GP64()
		a.MOVQ(rem, i)
		a.TESTQ(i, i)
		a.JZ(LabelRef("whole"))
		a.Label("wtail")
		if k.size == 4 {
			a.MOVL(at(w, i, 4, -4), t)
			a.MOVL(t, Mem{Base: wTail.Base, Disp: wTail.Disp - 4, Index: i, Scale: 4})
		} else {
			a.MOVW(at(w, i, 2, -2), t.As16())
			a.MOVW(t.As16(), Mem{Base: wTail.Base, Disp: wTail.Disp - 2, Index: i, Scale: 2})
		}
		a.DECQ(i)
		a.JNZ(LabelRef("wtail"))
		block(wTail, xTail)
		a.LEAQ(at(w, rem, uint8(k.size), 0), w)
		a.Label("whole")
		a.VADDPS(acc[2], acc[0], acc[0])
		a.VADDPS(acc[3], acc[1], acc[1])
		a.VADDPS(acc[1], acc[0], acc[0])
		a.foldY(acc[0])
		a.VMOVSS(acc[0].AsX(), mem(y, 0))
		a.add(y, 4)
	})
	a.ret()
}

// Two rows by 3, 2 or 1 tokens. An output's 32 lanes are 4 registers, too many for a good block, so that two
// passes go over the columns: lanes 0…15, then lanes 16…31, which lie in cache lines of their own. 12
// accumulators, 10 loads for 12 FMAs.
func matMulAVX2(a *asm, k kind) {
	a.fn("matMul"+k.name+"AVX2", "(y *float32, stride int, w *"+k.typ+", x *float32, cols, rows, tokens int)",
		"matMul"+k.name+"AVX2 computes y[t·stride+r] = Dot(w[r], x[t]), two rows at a time; rows is even, cols a multiple of 32.",
		rowsDoc)
	y, w, cols := a.arg("y"), a.arg("w"), a.arg("cols")
	blocks := a.copy(cols)
	a.SHRQ(Imm(5), blocks)
	ws, xs := a.times(cols, k.size), a.times(cols, 4) // bytes of a row, of a token
	row := func(p reg.GPVirtual, r, disp int) Mem {
		if r == 0 {
			return mem(p, disp)
		}
		return at(p, ws, 1, disp)
	}
	token := func(p reg.GPVirtual, t, disp int) Mem {
		if t == 0 {
			return mem(p, disp)
		}
		return at(p, xs, uint8(t), disp)
	}
	saved := a.AllocLocal(3 * 2 * 64)
	a.Label("rows")
	a.CMPQ(a.addr("rows"), Imm(2))
	a.JL(LabelRef("done"))
	x, yt, left := a.arg("x"), a.copy(y), a.arg("tokens")
	a.Label("tokens")
	a.CMPQ(left, Imm(1))
	a.JL(LabelRef("next"))
	a.JE(LabelRef("tokens1"))
	a.CMPQ(left, Imm(2))
	a.JE(LabelRef("tokens2"))
	a.CMPQ(left, Imm(4)) // 4 is 2 and 2
	a.JE(LabelRef("tokens2"))
	for _, n := range []int{3, 2, 1} {
		label := fmt.Sprintf("tokens%d", n)
		a.Label(label)
		for pass := range 2 {
			var acc [3][2][2]reg.VecVirtual
			for t := range n {
				for r := range 2 {
					for i := range 2 {
						acc[t][r][i] = a.YMM()
						a.zero(acc[t][r][i])
					}
				}
			}
			wp, xp, c := a.copy(w), a.copy(x), a.copy(blocks)
			a.loop(fmt.Sprintf("%s_pass%d", label, pass), c, func() {
				for i := range 2 {
					var v [2]reg.VecVirtual
					for r := range 2 {
						v[r] = a.YMM()
						k.load(a, row(wp, r, 8*k.size*(2*pass+i)), v[r])
					}
					for t := range n {
						u := a.YMM()
						a.VMOVUPS(token(xp, t, 32*(2*pass+i)), u)
						for r := range 2 {
							a.VFMADD231PS(u, v[r], acc[t][r][i])
						}
					}
				}
				a.add(wp, 32*k.size)
				a.add(xp, 128)
			})
			for t := range n {
				for r := range 2 {
					for i := range 2 {
						m := saved.Offset(((t*2+r)*2 + i) * 32)
						if pass == 0 {
							a.VMOVUPS(acc[t][r][i], m)
						} else {
							a.VADDPS(m, acc[t][r][i], acc[t][r][i])
						}
					}
				}
				if pass == 0 {
					continue
				}
				r0, r1, p := acc[t][0][0], acc[t][1][0], a.YMM()
				a.VADDPS(acc[t][0][1], r0, r0)
				a.VADDPS(acc[t][1][1], r1, r1)
				a.VPERM2F128(Imm(0x20), r1, r0, p) // 4 lanes each: row 0, row 1
				a.VPERM2F128(Imm(0x31), r1, r0, r0)
				a.VADDPS(p, r0, r0)
				a.VPERMILPS(Imm(0x4e), r0, p)
				a.VADDPS(p, r0, r0)
				a.VPERMILPS(Imm(0xb1), r0, p)
				a.VADDPS(p, r0, r0)
				a.VEXTRACTF128(Imm(1), r0, p.AsX())
				a.VMOVSS(r0.AsX(), mem(yt, 0))
				a.VMOVSS(p.AsX(), mem(yt, 4))
				stride := a.arg("stride")
				a.LEAQ(at(yt, stride, 4, 0), yt)
			}
		}
		for range n {
			a.ADDQ(xs, x)
		}
		a.SUBQ(Imm(uint64(n)), left)
		a.JMP(LabelRef("tokens"))
	}
	a.Label("next")
	a.LEAQ(at(w, ws, 2, 0), w)
	a.add(y, 8)
	a.SUBQ(Imm(2), a.addr("rows"))
	a.JMP(LabelRef("rows"))
	a.Label("done")
	a.ret()
}
