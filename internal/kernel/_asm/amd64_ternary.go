package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func ternary(a *asm) {
	ternaryMatVecVNNI(a)
	ternaryMatMulVNNI(a)
	ternaryMatVecAVX2(a)
	ternaryFewAVX2(a)
	ternaryUnpackAVX2(a)
	ternaryTokensAVX2(a)
}

// A T16 block is two YMM: dword r of one holds bytes j = 0…3 of a row. Masked with 3<<2g it is 4ᵍ·code(r, 4g+j)
// as unsigned bytes ≤ 2·64, which VPDPBUSD multiplies with four broadcast activations and adds to an int32
// lane a row: no shift, no shuffle, no fold. Field g has its own accumulator, shifted right by 2g at the end,
// which is exact. |4³·2·128·cols/4| < 2³¹ for cols < 2¹⁹.
//
// Two YMM, not one ZMM, as Zen 4 loads a ZMM in the time of two YMM: here the halves share a broadcast. And
// one tile, not two, as two streams halve what the prefetcher gets from memory.
func ternaryMatVecVNNI(a *asm) {
	a.fn("ternaryMatVecVNNI", "(y []int32, w []byte, x []int8, xsum int32)",
		"ternaryMatVecVNNI is TernaryMatVec: one tile of 16 rows at a time, 32 columns a turn.")
	y, w, x := a.ptr("y"), a.ptr("w"), a.ptr("x")
	tiles, cols := a.n("y"), a.n("x")
	a.SHRQ(Imm(4), tiles)
	var mask [4]reg.VecVirtual
	var acc [2][2][4]reg.VecVirtual // of even and odd steps, to hide VPDPBUSD's latency; of a half; of a field
	for g := range mask {
		mask[g] = a.YMM()
		a.splatByte(3<<(2*g), mask[g])
		for h := range 2 {
			acc[0][h][g], acc[1][h][g] = a.YMM(), a.YMM()
		}
	}
	xsum := a.YMM()
	a.splat(a.Load(a.Param("xsum"), a.GP32()).(reg.GPVirtual), xsum)
	step := func(xp reg.GPVirtual, s int) {
		v := [2]reg.VecVirtual{a.YMM(), a.YMM()}
		a.ahead(w, 64*s)
		a.VMOVDQU32(mem(w, 64*s), v[0])
		a.VMOVDQU32(mem(w, 64*s+32), v[1])
		for g := range 4 {
			b := a.YMM()
			a.VPBROADCASTD(mem(xp, 16*s+4*g), b)
			for h := range 2 {
				f := a.YMM()
				a.VPANDD(v[h], mask[g], f)
				a.VPDPBUSD(b, f, acc[s%2][h][g])
			}
		}
	}
	a.loop("tile", tiles, func() {
		for g := range 4 {
			for h := range 2 {
				a.zero(acc[0][h][g])
				a.zero(acc[1][h][g])
			}
		}
		xp, n := a.copy(x), a.copy(cols)
		a.SHRQ(Imm(5), n)
		a.loop("two", n, func() {
			step(xp, 0)
			step(xp, 1)
			a.add(w, 2*64)
			a.add(xp, 2*16)
		})
		a.TESTQ(U32(16), cols)
		a.JZ(LabelRef("even"))
		step(xp, 0)
		a.add(w, 64)
		a.Label("even")
		for h := range 2 {
			sum := acc[0][h]
			for g := range 4 {
				a.VPADDD(acc[1][h][g], sum[g], sum[g])
				if g > 0 {
					a.VPSRAD(Imm(uint64(2*g)), sum[g], sum[g])
				}
			}
			a.VPADDD(sum[1], sum[0], sum[0])
			a.VPADDD(sum[3], sum[2], sum[2])
			a.VPADDD(sum[2], sum[0], sum[0])
			a.VPSUBD(xsum, sum[0], sum[0])
			a.VMOVDQU32(sum[0], mem(y, 32*h))
		}
		a.add(y, 64)
	})
	a.ret()
}

// eightTokens gives x[t·cols + disp] for t < 8, and 3·cols.
func (a *asm) eightTokens(cols reg.GPVirtual) (c3 reg.GPVirtual, token func(x reg.GPVirtual, t, disp int) Mem) {
	c5, c7 := a.GP64(), a.GP64()
	c3 = a.GP64()
	a.LEAQ(at(cols, cols, 2, 0), c3)
	a.LEAQ(at(cols, cols, 4, 0), c5)
	a.LEAQ(at(c3, cols, 4, 0), c7)
	return c3, func(x reg.GPVirtual, t, disp int) Mem {
		switch t {
		case 0:
			return mem(x, disp)
		case 1, 2, 4:
			return at(x, cols, uint8(t), disp)
		case 3, 6:
			return at(x, c3, uint8(t/3), disp)
		case 5:
			return at(x, c5, 1, disp)
		}
		return at(x, c7, 1, disp)
	}
}

// The product for many tokens keeps 2 tiles × 8 tokens in registers and unpacks each block once for the 8:
// shifts and masks run on the ports that VPDPBUSD leaves free.
func ternaryMatMulVNNI(a *asm) {
	a.fn("ternaryMatMulVNNI", "(y *int32, stride int, w *byte, x *int8, cols int, xsum *int32, tokens int)",
		"ternaryMatMulVNNI is TernaryMatMul for two tiles, all their columns: 8, 4, 3, 2 or 1 tokens at a time.",
		"stride is the bytes from one token's outputs to the next one's.")
	mask := a.ZMM()
	a.splatByte(3, mask)
	cols := a.arg("cols")
	c3, token := a.eightTokens(cols)
	y, x, xsum, left := a.arg("y"), a.arg("x"), a.arg("xsum"), a.arg("tokens")
	for _, n := range []int{8, 4, 3, 2, 1} {
		label := fmt.Sprintf("tokens%d", n)
		a.Label(label)
		a.CMPQ(left, Imm(uint64(n)))
		a.JL(LabelRef(label + "_end"))

		var acc [2][8]reg.VecVirtual
		for i := range 2 {
			for t := range n {
				acc[i][t] = a.ZMM()
				a.zero(acc[i][t])
			}
		}
		tile := a.copy(cols) // bytes of a tile: 4 a column
		a.SHLQ(Imm(2), tile)
		steps := a.copy(cols)
		a.SHRQ(Imm(4), steps)
		w, xp := a.arg("w"), a.copy(x)
		a.loop(label+"_step", steps, func() {
			// The prefetcher does not follow two streams well: the next pair is asked for here, into L2.
			next := a.GP64()
			a.LEAQ(at(w, tile, 2, 0), next)
			a.PREFETCHT1(mem(next, 0))
			a.PREFETCHT1(at(next, tile, 1, 0))
			v := [2]reg.VecVirtual{a.ZMM(), a.ZMM()}
			a.VMOVDQU32(mem(w, 0), v[0])
			a.VMOVDQU32(at(w, tile, 1, 0), v[1])
			for g := range 4 {
				f := [2]reg.VecVirtual{a.ZMM(), a.ZMM()}
				for i := range 2 {
					if g == 0 {
						a.VPANDD(v[i], mask, f[i])
					} else {
						a.VPSRLW(Imm(uint64(2*g)), v[i], f[i])
						a.VPANDD(f[i], mask, f[i])
					}
				}
				for t := range n {
					b := a.ZMM()
					a.VPBROADCASTD(token(xp, t, 4*g), b)
					a.VPDPBUSD(b, f[0], acc[0][t])
					a.VPDPBUSD(b, f[1], acc[1][t])
				}
			}
			a.add(w, 64)
			a.add(xp, 16)
		})
		for t := range n {
			s := a.ZMM()
			a.VPBROADCASTD(mem(xsum, 4*t), s)
			for i := range 2 {
				a.VPSUBD(s, acc[i][t], acc[i][t])
				a.VMOVDQU32(acc[i][t], mem(y, 64*i))
			}
			a.ADDQ(a.addr("stride"), y)
		}
		a.add(xsum, 4*n)
		if n == 3 {
			a.ADDQ(c3, x)
		} else {
			a.LEAQ(at(x, cols, uint8(n), 0), x)
		}
		a.SUBQ(Imm(uint64(n)), left)
		a.JMP(LabelRef(label))
		a.Label(label + "_end")
	}
	a.ret()
}

// AVX2 has no VPDPBUSD: VPMADDUBSW adds two products into an int16 lane, two such lanes to a row. Fields 0
// and 1 are masked where they lie, as codes and 4·codes; fields 2 and 3 after one shift by 4: one shift and
// four masks for 128 weights. Sums of codes and of 4·codes have an accumulator each. The latter grows by
// at most 2·(2·8·128) = 4096 a block of 16 columns, so that 8 blocks reach -32768 or 8·4064 = 32512: after 8
// VPMADDWD widens both into int32, codes times 4 and 4·codes times 1, and >>2 at the end is exact.
func ternaryMatVecAVX2(a *asm) {
	a.fn("ternaryMatVecAVX2", "(y []int32, w []byte, x []int8, xsum int32)",
		"ternaryMatVecAVX2 is TernaryMatVec: one tile of 16 rows at a time, widened every 128 columns.")
	y, w, x := a.ptr("y"), a.ptr("w"), a.ptr("x")
	tiles, steps := a.n("y"), a.n("x")
	a.SHRQ(Imm(4), tiles)
	a.SHRQ(Imm(4), steps)
	mask3, maskC := a.YMM(), a.YMM()
	a.splatByte(0x03, mask3)
	a.splatByte(0x0c, maskC)
	var acc1, acc4, acc [2]reg.VecVirtual // of codes, of 4·codes, widened; rows 0-7 and 8-15
	for h := range 2 {
		acc1[h], acc4[h], acc[h] = a.YMM(), a.YMM(), a.YMM()
	}
	clear := func(v [2]reg.VecVirtual) {
		for h := range 2 {
			a.zero(v[h])
		}
	}
	step := func(xp reg.GPVirtual, i int) {
		for pass := range 2 { // fields 0 and 1, then 2 and 3
			b0, b1 := a.YMM(), a.YMM()
			a.VPBROADCASTD(mem(xp, 16*i+8*pass), b0)
			a.VPBROADCASTD(mem(xp, 16*i+8*pass+4), b1)
			for h := range 2 {
				v, f := a.YMM(), a.YMM()
				a.VMOVDQU(mem(w, 64*i+32*h), v)
				if pass == 1 {
					a.VPSRLW(Imm(4), v, v)
				}
				a.VPAND(v, mask3, f)
				a.VPAND(v, maskC, v)
				a.VPMADDUBSW(b0, f, f)
				a.VPMADDUBSW(b1, v, v)
				a.VPADDW(f, acc1[h], acc1[h])
				a.VPADDW(v, acc4[h], acc4[h])
			}
		}
	}
	widen := func() {
		one, four := a.YMM(), a.YMM()
		a.onesWord(one)
		a.VPSLLW(Imm(2), one, four)
		for h := range 2 {
			a.VPMADDWD(four, acc1[h], acc1[h])
			a.VPMADDWD(one, acc4[h], acc4[h])
			a.VPADDD(acc1[h], acc[h], acc[h])
			a.VPADDD(acc4[h], acc[h], acc[h])
		}
	}
	a.loop("tile", tiles, func() {
		clear(acc)
		xp, n := a.copy(x), a.copy(steps)
		a.SHRQ(Imm(3), n)
		a.loop("eight", n, func() {
			clear(acc1)
			clear(acc4)
			for i := range 8 {
				step(xp, i)
			}
			widen()
			a.add(w, 8*64)
			a.add(xp, 8*16)
		})
		clear(acc1)
		clear(acc4)
		n = a.copy(steps)
		a.ANDQ(Imm(7), n)
		a.loop("one", n, func() {
			step(xp, 0)
			a.add(w, 64)
			a.add(xp, 16)
		})
		widen()
		xsum := a.YMM()
		a.splat(a.Load(a.Param("xsum"), a.GP32()).(reg.GPVirtual), xsum)
		for h := range 2 {
			a.VPSRAD(Imm(2), acc[h], acc[h])
			a.VPSUBD(xsum, acc[h], acc[h])
			a.VMOVDQU(acc[h], mem(y, 32*h))
		}
		a.add(y, 64)
	})
	a.ret()
}

// A few tokens do not pay for unpacking a tile to memory. Here half a tile, 8 rows, meets up to 4 tokens: what
// ternaryMatVecAVX2 does with a block's masks and shift, once for all of them.
func ternaryFewAVX2(a *asm) {
	a.fn("ternaryFewAVX2", "(y *int32, stride int, w *byte, x *int8, cols int, xsum *int32, tokens int)",
		"ternaryFewAVX2 is TernaryMatMul for one tile, all its columns: 4, 3, 2 or 1 tokens at a time.",
		"stride is the bytes from one token's outputs to the next one's.")
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
	for _, n := range []int{4, 3, 2, 1} {
		group := fmt.Sprintf("tokens%d", n)
		a.Label(group)
		a.CMPQ(left, Imm(uint64(n)))
		a.JL(LabelRef(group + "_end"))
		for h := range 2 {
			label := fmt.Sprintf("%s_half%d", group, h)
			var acc, acc1, acc4 [4]reg.VecVirtual
			for t := range n {
				acc[t], acc1[t], acc4[t] = a.YMM(), a.YMM(), a.YMM()
				a.zero(acc[t])
			}
			w, xp, steps := a.arg("w"), a.copy(x), a.copy(cols)
			a.SHRQ(Imm(4), steps)
			a.Label(label)
			eight := a.GP64()
			a.MOVQ(U32(8), eight)
			a.CMPQ(steps, eight)
			a.CMOVQLT(steps, eight)
			a.SUBQ(eight, steps)
			for t := range n {
				a.zero(acc1[t])
				a.zero(acc4[t])
			}
			a.loop(label+"_step", eight, func() {
				v := a.YMM()
				a.VMOVDQU(mem(w, 32*h), v)
				for g := range 4 {
					f, sum, mask := a.YMM(), acc1, byte(0x03)
					if g%2 == 1 {
						sum, mask = acc4, 0x0c
					}
					if g == 2 {
						a.VPSRLW(Imm(4), v, v)
					}
					a.VPAND(a.u32s(uint32(mask)*0x01010101), v, f)
					for t := range n {
						b := a.YMM()
						a.VPBROADCASTD(token(xp, t, 4*g), b)
						a.VPMADDUBSW(b, f, b)
						a.VPADDW(b, sum[t], sum[t])
					}
				}
				a.add(w, 64)
				a.add(xp, 16)
			})
			one, four := a.YMM(), a.YMM()
			a.onesWord(one)
			a.VPSLLW(Imm(2), one, four)
			for t := range n {
				a.VPMADDWD(four, acc1[t], acc1[t])
				a.VPMADDWD(one, acc4[t], acc4[t])
				a.VPADDD(acc1[t], acc[t], acc[t])
				a.VPADDD(acc4[t], acc[t], acc[t])
			}
			a.TESTQ(steps, steps)
			a.JNZ(LabelRef(label))
			yp := a.copy(y)
			for t := range n {
				s := a.YMM()
				a.VPBROADCASTD(mem(xsum, 4*t), s)
				a.VPSRAD(Imm(2), acc[t], acc[t])
				a.VPSUBD(s, acc[t], acc[t])
				a.VMOVDQU(acc[t], mem(yp, 32*h))
				a.ADDQ(a.addr("stride"), yp)
			}
			if h == 1 {
				a.MOVQ(yp, y)
			}
		}
		a.add(xsum, 4*n)
		for range n {
			a.ADDQ(cols, x)
		}
		a.SUBQ(Imm(uint64(n)), left)
		a.JMP(LabelRef(group))
		a.Label(group + "_end")
	}
	a.ret()
}

func ternaryUnpackAVX2(a *asm) {
	a.fn("ternaryUnpackAVX2", "(dst, w *byte, blocks int)",
		"ternaryUnpackAVX2 writes the codes of T16 blocks as bytes: field g of a block becomes bytes 64g…64g+63 of 256.")
	dst, w, n := a.arg("dst"), a.arg("w"), a.arg("blocks")
	mask := a.YMM()
	a.splatByte(3, mask)
	a.loop("block", n, func() {
		for h := range 2 {
			v := a.YMM()
			a.VMOVDQU(mem(w, 32*h), v)
			for g := range 4 {
				f := a.YMM()
				if g == 0 {
					a.VPAND(v, mask, f)
				} else {
					a.VPSRLW(Imm(uint64(2*g)), v, f)
					a.VPAND(f, mask, f)
				}
				a.VMOVDQU(f, mem(dst, 64*g+32*h))
			}
		}
		a.add(w, 64)
		a.add(dst, 256)
	})
	a.ret()
}

// VPMADDUBSW of codes adds two products ≤ 2·127 (or ≥ -2·128), so that an int16 lane holds 64 of them:
// 64·4 = 256 columns to -32768 or 32512. One call therefore does at most 256 columns.
func ternaryTokensAVX2(a *asm) {
	a.fn("ternaryTokensAVX2", "(y *int32, stride int, codes *byte, x *int8, groups, tokens int)",
		"ternaryTokensAVX2 adds to y[t][r] the products of an unpacked tile of 16 rows with so many tokens.",
		"",
		"\tcodes   [4·blocks][16 rows][4 columns] from ternaryUnpackAVX2",
		"\tx       [tokens][256] int8, of which 4·groups columns count, groups ≤ 64",
		"\tstride  bytes from y[t] to y[t+1]")
	y, x, left := a.arg("y"), a.arg("x"), a.arg("tokens")
	for _, n := range []int{4, 2, 1} {
		label := fmt.Sprintf("tokens%d", n)
		a.Label(label)
		a.CMPQ(left, Imm(uint64(n)))
		a.JL(LabelRef(label + "_end"))
		var acc [4][2]reg.VecVirtual
		for t := range n {
			for h := range 2 {
				acc[t][h] = a.YMM()
				a.zero(acc[t][h])
			}
		}
		codes, xp, groups := a.arg("codes"), a.copy(x), a.arg("groups")
		a.loop(label+"_group", groups, func() {
			f0, f1 := a.YMM(), a.YMM()
			a.VMOVDQU(mem(codes, 0), f0)
			a.VMOVDQU(mem(codes, 32), f1)
			for t := range n {
				b, p := a.YMM(), a.YMM()
				a.VPBROADCASTD(mem(xp, 256*t), b)
				a.VPMADDUBSW(b, f0, p)
				a.VPADDW(p, acc[t][0], acc[t][0])
				a.VPMADDUBSW(b, f1, b)
				a.VPADDW(b, acc[t][1], acc[t][1])
			}
			a.add(codes, 64)
			a.add(xp, 4)
		})
		one := a.YMM()
		a.onesWord(one)
		for t := range n {
			for h := range 2 {
				a.VPMADDWD(one, acc[t][h], acc[t][h])
				a.VPADDD(mem(y, 32*h), acc[t][h], acc[t][h])
				a.VMOVDQU(acc[t][h], mem(y, 32*h))
			}
			a.ADDQ(a.addr("stride"), y)
		}
		a.add(x, 256*n)
		a.SUBQ(Imm(uint64(n)), left)
		a.JMP(LabelRef(label))
		a.Label(label + "_end")
	}
	a.ret()
}

// onesWord fills a YMM register with the word 1 without a memory constant: -1 >> 15 in each.
func (a *asm) onesWord(dst reg.VecVirtual) {
	a.VPCMPEQW(dst, dst, dst)
	a.VPSRLW(Imm(15), dst, dst)
}
