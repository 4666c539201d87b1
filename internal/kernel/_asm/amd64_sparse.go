package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func sparse(a *asm) {
	ternaryRows(a, "ternaryRowsVNNI")
	ternaryRows(a, "ternaryRowsAVX2")
	ternaryColumnsVNNI(a)
}

// A row's 32 bytes meet four vectors of 32 activations, one a field. VNNI sums 4ᵍ·code·x̂ of field g in an
// accumulator each; AVX2 sums as ternaryMatVecAVX2 does, and widens after 8 groups, 1024 columns. The row four
// places on is asked for meanwhile: where the next one lies the prefetcher cannot know.
func ternaryRows(a *asm, name string) {
	const ahead = 4
	a.fn(name, "(y []int32, w []byte, index []int32, x []int8, xsum int32)", name+" is TernaryRows, one row at a time.")
	y, w, index, n := a.ptr("y"), a.ptr("w"), a.ptr("index"), a.n("y")
	size := a.n("x") // bytes of a row
	a.SHRQ(Imm(2), size)
	last := a.GP64() // of the index, for looking ahead
	a.LEAQ(at(index, n, 4, -4), last)
	masks := []byte{0x03, 0x0c}
	if a.avx512 {
		masks = []byte{0x03, 0x0c, 0x30, 0xc0}
	}
	var mask []reg.VecVirtual
	for _, m := range masks {
		v := a.YMM()
		a.splatByte(m, v)
		mask = append(mask, v)
	}
	a.loop("row", n, func() {
		row := func(at reg.GPVirtual) reg.GPVirtual {
			r := a.GP64()
			a.MOVLQSX(mem(at, 0), r)
			a.IMULQ(size, r)
			a.ADDQ(w, r)
			return r
		}
		far := a.GP64()
		a.LEAQ(mem(index, 4*ahead), far)
		a.CMPQ(far, last)
		a.CMOVQHI(last, far)
		next := row(far)
		wp, xp, groups := row(index), a.ptr("x"), a.copy(size)
		a.SHRQ(Imm(5), groups)

		var sum reg.VecVirtual
		if a.avx512 {
			var acc [4]reg.VecVirtual
			for g := range acc {
				acc[g] = a.YMM()
				a.zero(acc[g])
			}
			a.loop("group", groups, func() {
				v := a.YMM()
				a.PREFETCHT0(mem(next, 0))
				a.VMOVDQU32(mem(wp, 0), v)
				for g := range 4 {
					f := a.YMM()
					a.VPANDD(v, mask[g], f)
					a.VPDPBUSD(mem(xp, 32*g), f, acc[g])
				}
				a.add(wp, 32)
				a.add(next, 32)
				a.add(xp, 128)
			})
			for g := 1; g < 4; g++ {
				a.VPSRAD(Imm(uint64(2*g)), acc[g], acc[g])
				a.VPADDD(acc[g], acc[0], acc[0])
			}
			sum = acc[0]
		} else {
			sum = a.YMM()
			acc1, acc4, one, four := a.YMM(), a.YMM(), a.YMM(), a.YMM()
			a.onesWord(one)
			a.VPSLLW(Imm(2), one, four)
			a.zero(sum)
			a.Label("widen")
			a.zero(acc1)
			a.zero(acc4)
			eight := a.GP64()
			a.MOVQ(U32(8), eight)
			a.CMPQ(groups, eight)
			a.CMOVQLT(groups, eight)
			a.SUBQ(eight, groups)
			a.loop("group", eight, func() {
				v := a.YMM()
				a.PREFETCHT0(mem(next, 0))
				a.VMOVDQU(mem(wp, 0), v)
				for g := 0; g < 4; g += 2 {
					f, h := a.YMM(), a.YMM()
					if g == 2 {
						a.VPSRLW(Imm(4), v, v)
					}
					a.VPAND(v, mask[0], f)
					a.VPAND(v, mask[1], h)
					a.VPMADDUBSW(mem(xp, 32*g), f, f)
					a.VPMADDUBSW(mem(xp, 32*g+32), h, h)
					a.VPADDW(f, acc1, acc1)
					a.VPADDW(h, acc4, acc4)
				}
				a.add(wp, 32)
				a.add(next, 32)
				a.add(xp, 128)
			})
			a.VPMADDWD(four, acc1, acc1)
			a.VPMADDWD(one, acc4, acc4)
			a.VPADDD(acc1, sum, sum)
			a.VPADDD(acc4, sum, sum)
			a.TESTQ(groups, groups)
			a.JNZ(LabelRef("widen"))
			a.VPSRAD(Imm(2), sum, sum)
		}
		t, x := a.XMM(), sum.AsX()
		a.VEXTRACTI128(Imm(1), sum, t)
		a.VPADDD(t, x, x)
		a.VPSHUFD(Imm(0x4e), x, t)
		a.VPADDD(t, x, x)
		a.VPSHUFD(Imm(0xb1), x, t)
		a.VPADDD(t, x, x)
		r := a.GP32()
		a.VMOVD(x, r)
		a.SUBL(a.addr("xsum"), r)
		a.MOVL(r, mem(y, 0))
		a.add(y, 4)
		a.add(index, 4)
	})
	a.ret()
}

// 64 bytes of four columns, interleaved while still packed, are four vectors whose 32-bit lanes hold four
// columns of 16·4 rows: a mask each, as in the dense product, and the four activations broadcast. 16 accumulators
// take 256 rows through all columns of a call; they lie four to a vector i, field g by field, and scaled by 4ᵍ.
// The next call's columns are asked for as they are needed then, into L2.
func ternaryColumnsVNNI(a *asm) {
	a.fn("ternaryColumnsVNNI", "(y *int32, w *byte, stride int, index, next *int32, x *int8, groups, blocks int)",
		"ternaryColumnsVNNI adds to y the products of 4·groups columns with their activations, 256·blocks rows.",
		"next are as many columns that will be needed soon.")
	y, w, stride, blocks := a.arg("y"), a.arg("w"), a.arg("stride"), a.arg("blocks")
	var mask [4]reg.VecVirtual
	for g := range mask {
		mask[g] = a.ZMM()
		a.splatByte(3<<(2*g), mask[g])
	}
	var acc [4][4]reg.VecVirtual
	for i := range 4 {
		for g := range 4 {
			acc[i][g] = a.ZMM()
		}
	}
	a.loop("block", blocks, func() {
		for i := range 4 {
			for g := range 4 {
				a.zero(acc[i][g])
			}
		}
		index, next, x, groups := a.arg("index"), a.arg("next"), a.arg("x"), a.arg("groups")
		a.loop("group", groups, func() {
			var c [4]reg.VecVirtual
			for j := range 4 {
				p := a.GP64()
				a.MOVLQSX(mem(next, 4*j), p)
				a.IMULQ(stride, p)
				a.PREFETCHT1(at(w, p, 1, 0))
				q := a.GP64()
				a.MOVLQSX(mem(index, 4*j), q)
				a.IMULQ(stride, q)
				c[j] = a.ZMM()
				a.VMOVDQU32(at(w, q, 1, 0), c[j])
			}
			b := a.ZMM()
			a.VPBROADCASTD(mem(x, 0), b)
			var t, u, v [4]reg.VecVirtual
			for j := range 2 {
				t[j], u[j] = a.ZMM(), a.ZMM()
				a.VPUNPCKLBW(c[2*j+1], c[2*j], t[j])
				a.VPUNPCKHBW(c[2*j+1], c[2*j], u[j])
			}
			for i := range v {
				v[i] = a.ZMM()
			}
			a.VPUNPCKLWD(t[1], t[0], v[0])
			a.VPUNPCKHWD(t[1], t[0], v[1])
			a.VPUNPCKLWD(u[1], u[0], v[2])
			a.VPUNPCKHWD(u[1], u[0], v[3])
			for i := range 4 {
				for g := range 4 {
					f := a.ZMM()
					a.VPANDD(v[i], mask[g], f)
					a.VPDPBUSD(b, f, acc[i][g])
				}
			}
			a.add(index, 16)
			a.add(next, 16)
			a.add(x, 4)
		})
		for i := range 4 {
			for g := range 4 {
				if g > 0 {
					a.VPSRAD(Imm(uint64(2*g)), acc[i][g], acc[i][g])
				}
				m := mem(y, 256*i+64*g)
				a.VPADDD(m, acc[i][g], acc[i][g])
				a.VMOVDQU32(acc[i][g], m)
			}
		}
		a.add(y, 1024)
		a.add(w, 64)
	})
	a.ret()
}
