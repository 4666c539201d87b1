package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func sparse(a *asm) {
	ternaryRows(a, "ternaryRowsVNNI")
	ternaryRows(a, "ternaryRowsAVX2")
	ternaryColumnsVNNI(a)
	ternaryColumnsAVX2(a)
	nonzerosVNNI(a)
	aboveVNNI(a)
	rowsFromT16VNNI(a)
}

// list writes the positions that found puts in a mask, 16 a turn; keep writes what belongs to them. The store is of all
// 16 lanes, as compressing straight to memory is slow; what is too much is written over or lies in the room left.
func (a *asm) list(steps reg.GPVirtual, found func() reg.Register, keep func(k, n reg.Register)) {
	index, n := a.arg("index"), a.GP64()
	a.XORQ(n, n)
	at16, step := a.ZMM(), a.ZMM()
	a.VMOVDQU32(a.data("lanes", 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), at16)
	t := a.GP32()
	a.MOVL(U32(16), t)
	a.splat(t, step)
	a.loop("step", steps, func() {
		k := found()
		v, count := a.ZMM(), a.GP32()
		a.VPCOMPRESSD_Z(at16, k, v)
		a.VMOVDQU32(v, at(index, n, 4, 0))
		keep(k, n)
		a.KMOVW(k, count)
		a.POPCNTL(count, count)
		a.ADDQ(count.As64(), n)
		a.VPADDD(step, at16, at16)
	})
	a.Store(n, a.ReturnIndex(0))
	a.ret()
}

func nonzerosVNNI(a *asm) {
	a.fn("nonzerosVNNI", "(index *int32, value, x *int8, steps int) int", "nonzerosVNNI is Nonzeros for 16·steps values.")
	value, x := a.arg("value"), a.arg("x")
	v := a.XMM()
	a.list(a.arg("steps"), func() reg.Register {
		k := a.K()
		a.VMOVDQU32(mem(x, 0), v)
		a.VPTESTMB(v, v, k)
		a.add(x, 16)
		return k
	}, func(k, n reg.Register) {
		w, b := a.ZMM(), a.XMM()
		a.VPMOVZXBD(v, w)
		a.VPCOMPRESSD_Z(w, k, w)
		a.VPMOVDB(w, b)
		a.VMOVDQU32(b, at(value, n, 1, 0))
	})
}

func aboveVNNI(a *asm) {
	a.fn("aboveVNNI", "(index *int32, values *float32, bar float32, steps int) int", "aboveVNNI is Above for 16·steps values.")
	g, bar := a.arg("values"), a.ZMM()
	a.VBROADCASTSS(a.addr("bar"), bar)
	a.list(a.arg("steps"), func() reg.Register {
		v, k := a.ZMM(), a.K()
		a.VMOVUPS(mem(g, 0), v)
		a.VCMPPS(Imm(0x16), bar, v, k) // not less or equal, NaN included
		a.add(g, 64)
		return k
	}, func(k, n reg.Register) {})
}

// The lanes of a T16 block are rows: 128 columns are eight blocks, and each word of the 16 rows is made at once and
// scattered.
func rowsFromT16VNNI(a *asm) {
	a.fn("rowsFromT16VNNI", "(dst, w *byte, tiles, groups int)", "rowsFromT16VNNI is RowsFromT16 of whole tiles and groups of 128 columns.")
	dst, w, tiles, groups := a.arg("dst"), a.arg("w"), a.arg("tiles"), a.arg("groups")
	row := a.times(groups, 32) // bytes
	lanes, size := a.ZMM(), a.ZMM()
	a.VMOVDQU32(a.data("lanes", 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), lanes)
	a.VPBROADCASTD(row.As32(), size)
	a.VPMULLD(size, lanes, lanes) // where each row begins
	var mask [4]reg.VecVirtual
	for i := range mask {
		mask[i] = a.ZMM()
		a.splatByte(3<<(2*i), mask[i])
	}
	all := a.GP32()
	a.MOVL(U32(0xffff), all)
	a.SHLQ(Imm(4), row) // of a tile
	a.loop("tile", tiles, func() {
		to, n := a.copy(dst), a.copy(groups)
		a.loop("group", n, func() {
			var v [8]reg.VecVirtual
			for i := range v {
				v[i] = a.ZMM()
				a.VMOVDQU32(mem(w, 64*i), v[i])
			}
			for i := range 8 { // field i%4 of blocks i/4, i/4+2, …: to fields 0…3
				var out reg.VecVirtual
				for g := range 4 {
					f := a.ZMM()
					switch by := 2*g - 2*(i%4); {
					case by > 0:
						a.VPSLLD(Imm(uint64(by)), v[i/4+2*g], f)
						a.VPANDD(mask[g], f, f)
					case by < 0:
						a.VPSRLD(Imm(uint64(-by)), v[i/4+2*g], f)
						a.VPANDD(mask[g], f, f)
					default:
						a.VPANDD(mask[g], v[i/4+2*g], f)
					}
					if g == 0 {
						out = f
					} else {
						a.VPORD(f, out, out)
					}
				}
				k := a.K()
				a.KMOVW(all, k)
				a.VPSCATTERDD(out, k, at(to, lanes, 1, 4*i))
			}
			a.add(w, 512)
			a.add(to, 32)
		})
		a.ADDQ(row, dst)
	})
	a.ret()
}

// A row's 32 bytes meet four vectors of 32 activations, one a field. VNNI sums 4ᵍ·code·x̂ of field g in an
// accumulator each; AVX2 sums as ternaryMatVecAVX2 does, and widens after 4 lines, 1024 columns. The row some
// places on is asked for meanwhile, into L2: where the next one lies the prefetcher cannot know. What it does know
// hurts: it runs past the end of a row that is read in order, hence the hops.
func ternaryRows(a *asm, name string) {
	const ahead = 12
	a.fn(name, "(y []int32, w []byte, index []int32, x []int8, xsum int32, hop int)",
		name+" is TernaryRows, one row at a time. Of a row's whole cache lines every hop bytes are next, modulo their size.")
	y, w, index, n := a.ptr("y"), a.ptr("w"), a.ptr("index"), a.n("y")
	size := a.n("x") // bytes of a row
	a.SHRQ(Imm(2), size)
	whole := a.copy(size) // of its whole lines
	a.ANDQ(I32(-64), whole)
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
		next, wp, x := row(far), row(index), a.ptr("x")
		off, lines := a.GP64(), a.copy(size)
		a.XORQ(off, off)
		a.SHRQ(Imm(6), lines)
		// line does the 64 bytes at off and hops; half does the last 32 of a row that ends within a line.
		line := func(group func(off reg.GPVirtual, i int)) {
			a.PREFETCHT1(at(next, off, 1, 0))
			group(off, 0)
			group(off, 32)
			a.ADDQ(a.addr("hop"), off)
			wrapped := a.copy(off)
			a.SUBQ(whole, wrapped)
			a.CMOVQCC(wrapped, off)
		}
		half := func(group func(off reg.GPVirtual, i int)) {
			a.TESTQ(U32(32), size)
			a.JZ(LabelRef("even"))
			group(whole, 0)
			a.Label("even")
		}

		var sum reg.VecVirtual
		if a.avx512 {
			var acc [4]reg.VecVirtual
			for g := range acc {
				acc[g] = a.YMM()
				a.zero(acc[g])
			}
			group := func(off reg.GPVirtual, i int) {
				v := a.YMM()
				a.VMOVDQU32(at(wp, off, 1, i), v)
				for g := range 4 {
					f := a.YMM()
					a.VPANDD(v, mask[g], f)
					a.VPDPBUSD(at(x, off, 4, 4*i+32*g), f, acc[g])
				}
			}
			a.loop("line", lines, func() { line(group) })
			half(group)
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
			group := func(off reg.GPVirtual, i int) {
				v := a.YMM()
				a.VMOVDQU(at(wp, off, 1, i), v)
				for g := 0; g < 4; g += 2 {
					f, h := a.YMM(), a.YMM()
					if g == 2 {
						a.VPSRLW(Imm(4), v, v)
					}
					a.VPAND(v, mask[0], f)
					a.VPAND(v, mask[1], h)
					a.VPMADDUBSW(at(x, off, 4, 4*i+32*g), f, f)
					a.VPMADDUBSW(at(x, off, 4, 4*i+32*g+32), h, h)
					a.VPADDW(f, acc1, acc1)
					a.VPADDW(h, acc4, acc4)
				}
			}
			widen := func() {
				a.VPMADDWD(four, acc1, acc1)
				a.VPMADDWD(one, acc4, acc4)
				a.VPADDD(acc1, sum, sum)
				a.VPADDD(acc4, sum, sum)
			}
			a.Label("widen")
			a.zero(acc1)
			a.zero(acc4)
			four4 := a.GP64()
			a.MOVQ(U32(4), four4)
			a.CMPQ(lines, four4)
			a.CMOVQLT(lines, four4)
			a.SUBQ(four4, lines)
			a.loop("line", four4, func() { line(group) })
			widen()
			a.TESTQ(lines, lines)
			a.JNZ(LabelRef("widen"))
			a.zero(acc1)
			a.zero(acc4)
			half(group)
			widen()
			a.VPSRAD(Imm(2), sum, sum)
		}
		t, v := a.XMM(), sum.AsX()
		a.VEXTRACTI128(Imm(1), sum, t)
		a.VPADDD(t, v, v)
		a.VPSHUFD(Imm(0x4e), v, t)
		a.VPADDD(t, v, v)
		a.VPSHUFD(Imm(0xb1), v, t)
		a.VPADDD(t, v, v)
		r := a.GP32()
		a.VMOVD(v, r)
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

// Two columns interleaved are what VPMADDUBSW wants: words of two codes, a row each. Fields 0 and 1 are masked
// where they lie, 2 and 3 after a shift by 4. A pair of columns adds at most 2·8·127 or -2·8·128 to a word of the
// 4·codes, so that 16 pairs reach 32512 or -32768: a call does at most 8 groups of four columns and then widens.
func ternaryColumnsAVX2(a *asm) {
	a.fn("ternaryColumnsAVX2", "(y *int32, w *byte, stride int, index, next *int32, x *int8, groups, blocks int)",
		"ternaryColumnsAVX2 is ternaryColumnsVNNI, for at most 8 groups.")
	y, w, stride, blocks := a.arg("y"), a.arg("w"), a.arg("stride"), a.arg("blocks")
	mask3, maskC := a.YMM(), a.YMM()
	a.splatByte(0x03, mask3)
	a.splatByte(0x0c, maskC)
	a.loop("block", blocks, func() {
		for h := range 2 { // 128 rows
			var acc [2][4]reg.VecVirtual // of vectors 2k and 2k+1, as words; of a field
			for k := range acc {
				for g := range 4 {
					acc[k][g] = a.YMM()
					a.zero(acc[k][g])
				}
			}
			index, next, x, groups := a.arg("index"), a.arg("next"), a.arg("x"), a.arg("groups")
			a.loop([]string{"low", "high"}[h], groups, func() {
				for pair := range 2 {
					var c [2]reg.VecVirtual
					for j := range 2 {
						if h == 0 {
							p := a.GP64()
							a.MOVLQSX(mem(next, 8*pair+4*j), p)
							a.IMULQ(stride, p)
							a.PREFETCHT1(at(w, p, 1, 0))
						}
						q := a.GP64()
						a.MOVLQSX(mem(index, 8*pair+4*j), q)
						a.IMULQ(stride, q)
						c[j] = a.YMM()
						a.VMOVDQU(at(w, q, 1, 32*h), c[j])
					}
					b := a.YMM()
					a.VPBROADCASTW(mem(x, 2*pair), b)
					v := [2]reg.VecVirtual{a.YMM(), c[0]}
					a.VPUNPCKLBW(c[1], c[0], v[0])
					a.VPUNPCKHBW(c[1], c[0], v[1])
					for k := range v {
						for g := 0; g < 4; g += 2 {
							f := a.YMM()
							if g == 2 {
								a.VPSRLW(Imm(4), v[k], v[k])
							}
							a.VPAND(v[k], mask3, f)
							a.VPMADDUBSW(b, f, f)
							a.VPADDW(f, acc[k][g], acc[k][g])
							a.VPAND(v[k], maskC, f)
							a.VPMADDUBSW(b, f, f)
							a.VPADDW(f, acc[k][g+1], acc[k][g+1])
						}
					}
				}
				a.add(index, 16)
				a.add(next, 16)
				a.add(x, 4)
			})
			for k := range acc {
				for g := range 4 {
					v := acc[k][g]
					if g%2 == 1 {
						a.VPSRAW(Imm(2), v, v)
					}
					a.VPERMQ(Imm(0xd8), v, v) // the 8 rows of vector 2k, then those of 2k+1
					t, u := a.YMM(), a.XMM()
					a.VPMOVSXWD(v.AsX(), t)
					m := mem(y, 4*(64*2*k+16*g+8*h))
					a.VPADDD(m, t, t)
					a.VMOVDQU(t, m)
					a.VEXTRACTI128(Imm(1), v, u)
					a.VPMOVSXWD(u, t)
					m = m.Offset(4 * 64)
					a.VPADDD(m, t, t)
					a.VMOVDQU(t, m)
				}
			}
		}
		a.add(y, 1024)
		a.add(w, 64)
	})
	a.ret()
}
