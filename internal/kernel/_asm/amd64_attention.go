package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// kvKinds are the storage types of keys and values. Those in int8 have a float32 scale each.
var kvKinds = []kind{{"F32", "float32", 4}, {"F16", "uint16", 2}, {"I8", "int8", 1}}

func attention(a *asm) {
	for _, k := range kvKinds {
		attnScores(a, k, "VNNI", 64, a.ZMM, []int{4, 2, 1})
		attnScores(a, k, "AVX2", 32, a.YMM, []int{3, 2, 1})
		attnMix(a, k, "VNNI", 64, a.ZMM, []int{4, 8, 8})
		attnMix(a, k, "AVX2", 32, a.YMM, []int{2, 4, 8})
	}
}

const attnKeyTile = 32 // kernel.KeyTile

// prefetch asks for a line of the next tile. In int8 that and this one fit L1 together; the others are larger.
func prefetch(a *asm, k kind, m Mem) {
	if k.size == 1 {
		a.PREFETCHT0(m)
		return
	}
	a.PREFETCHT1(m)
}

// Lanes are keys, so that no sum runs across lanes: an element of each of some keys is loaded, an element of each
// query broadcast. Some queries share the loads. AVX2 has registers for half a tile at a time.
func attnScores(a *asm, k kind, tier string, width int, vec func() reg.VecVirtual, blocks []int) {
	name := "attnScores" + k.name + tier
	scales := ""
	if k.size == 1 {
		scales = "scales *float32, "
	}
	a.fn(name, "(s *float32, stride int, q *float32, k *"+k.typ+", "+scales+"hd, queries int, scale float32, ahead int)",
		name+" is AttnScores"+k.name+" of a tile; hd > 0. What lies ahead bytes further is asked for.")
	const regs = 2
	lanes := width / 4
	s, q, qs := a.arg("s"), a.arg("q"), a.times(a.arg("hd"), 4)
	stride := a.times(a.arg("stride"), 4)
	qs3, ahead := a.GP64(), a.arg("ahead")
	a.LEAQ(at(qs, qs, 2, 0), qs3)
	for _, queries := range blocks {
		label := fmt.Sprintf("queries%d", queries)
		a.Label(label)
		a.CMPQ(a.addr("queries"), Imm(uint64(queries)))
		a.JL(LabelRef(label + "_end"))
		if queries == 3 { // 4 is 2 and 2
			a.CMPQ(a.addr("queries"), Imm(4))
			a.JE(LabelRef(label + "_end"))
		}
		for first := 0; first < attnKeyTile; first += regs * lanes {
			l := fmt.Sprintf("%s_from%d", label, first)
			var acc [4][regs][2]reg.VecVirtual
			for g := range queries {
				for i := range regs {
					for chain := range 2 {
						acc[g][i][chain] = vec()
						a.zero(acc[g][i][chain])
					}
				}
			}
			qp, kp, n := a.copy(q), a.arg("k"), a.arg("hd")
			element := func(d int) {
				var x [regs]reg.VecVirtual
				for i := range regs {
					x[i] = vec()
					k.load(a, mem(kp, (d*attnKeyTile+first+i*lanes)*k.size), x[i])
				}
				for g := range queries {
					m := mem(qp, 4*d)
					switch g {
					case 1, 2:
						m = at(qp, qs, uint8(g), 4*d)
					case 3:
						m = at(qp, qs3, 1, 4*d)
					}
					u := vec()
					a.VBROADCASTSS(m, u)
					for i := range regs {
						a.VFMADD231PS(u, x[i], acc[g][i][d])
					}
				}
			}
			a.SHRQ(Imm(1), n)
			a.loop(l+"_pair", n, func() {
				if first == 0 {
					for line := 0; line < 2*attnKeyTile*k.size; line += 64 {
						prefetch(a, k, at(kp, ahead, 1, line))
					}
				}
				element(0)
				element(1)
				a.add(kp, 2*attnKeyTile*k.size)
				a.add(qp, 8)
			})
			a.TESTQ(U32(4), qs)
			a.JZ(LabelRef(l + "_even"))
			element(0)
			a.Label(l + "_even")
			var by [regs]reg.VecVirtual
			for i := range regs {
				by[i] = vec()
				a.VBROADCASTSS(a.addr("scale"), by[i])
			}
			if k.size == 1 {
				sp := a.arg("scales")
				for i := range regs {
					a.VMULPS(mem(sp, 4*first+i*width), by[i], by[i])
				}
			}
			sp := a.copy(s)
			for g := range queries {
				for i := range regs {
					a.VADDPS(acc[g][i][1], acc[g][i][0], acc[g][i][0])
					a.VMULPS(by[i], acc[g][i][0], acc[g][i][0])
					a.VMOVUPS(acc[g][i][0], mem(sp, 4*first+i*width))
				}
				a.ADDQ(stride, sp)
			}
		}
		for range queries {
			a.ADDQ(stride, s)
			a.ADDQ(qs, q)
		}
		a.SUBQ(Imm(uint64(queries)), a.addr("queries"))
		a.JMP(LabelRef(label))
		a.Label(label + "_end")
	}
	a.ret()
}

// The mix of values is a product whose sums run along the rows, so that a lane is a column: no fold. 4, 2 or 1
// queries share the loads of v, which are blocks of so many vectors wide; what is left of a row goes one vector
// at a time.
func attnMix(a *asm, k kind, tier string, width int, vec func() reg.VecVirtual, blocks []int) {
	name := "attnMix" + k.name + tier
	lanes := width / 4
	scales, by := "", "p[g·stride+j]"
	if k.size == 1 {
		scales, by = "scales *float32, ", "p[g·stride+j]·scales[j]"
	}
	a.fn(name, "(out, p *float32, stride int, v *"+k.typ+", "+scales+"n, hd, queries, ahead int)",
		name+" computes out[g][d] = fma("+by+", v[j][d], out[g][d]) for all j < n in turn.",
		fmt.Sprintf("hd is a multiple of %d, n > 0. What lies ahead bytes further than v is asked for.", lanes))
	out, p, hd := a.arg("out"), a.arg("p"), a.arg("hd")
	vs := a.times(hd, k.size) // bytes of a row of v
	os := a.times(hd, 4)      // of a query's output
	stride := a.arg("stride")
	a.SHLQ(Imm(2), stride)
	os3, stride3, ahead := a.GP64(), a.GP64(), a.arg("ahead")
	a.LEAQ(at(os, os, 2, 0), os3)
	a.LEAQ(at(stride, stride, 2, 0), stride3)
	query := func(base, s, s3 reg.GPVirtual, g, disp int) Mem {
		switch g {
		case 0:
			return mem(base, disp)
		case 3:
			return at(base, s3, 1, disp)
		}
		return at(base, s, uint8(g), disp)
	}
	for qi, queries := range []int{4, 2, 1} {
		label := fmt.Sprintf("queries%d", queries)
		a.Label(label)
		a.CMPQ(a.addr("queries"), Imm(uint64(queries)))
		a.JL(LabelRef(label + "_end"))
		v0, o, left := a.arg("v"), a.copy(out), a.arg("hd")
		for _, block := range []int{blocks[qi], 1} {
			l := fmt.Sprintf("%s_by%d", label, block)
			a.Label(l)
			a.CMPQ(left, U32(uint32(block*lanes)))
			a.JL(LabelRef(l + "_end"))
			var acc [4][8]reg.VecVirtual
			for g := range queries {
				for d := range block {
					acc[g][d] = vec()
					a.VMOVUPS(query(o, os, os3, g, d*width), acc[g][d])
				}
			}
			pp, vp, n := a.copy(p), a.copy(v0), a.arg("n")
			var sp reg.GPVirtual
			if k.size == 1 {
				sp = a.arg("scales")
			}
			a.loop(l+"_row", n, func() {
				if block > 1 {
					for line := 0; line < block*lanes*k.size; line += 64 {
						prefetch(a, k, at(vp, ahead, 1, line))
					}
				}
				var pv [4]reg.VecVirtual
				for g := range queries {
					pv[g] = vec()
					a.VBROADCASTSS(query(pp, stride, stride3, g, 0), pv[g])
				}
				if k.size == 1 {
					scale := vec()
					a.VBROADCASTSS(mem(sp, 0), scale)
					for g := range queries {
						a.VMULPS(scale, pv[g], pv[g])
					}
					a.add(sp, 4)
				}
				for d := range block {
					m := mem(vp, d*lanes*k.size)
					if k.name == "F32" && queries == 1 {
						a.VFMADD231PS(m, pv[0], acc[0][d])
						continue
					}
					x := vec()
					k.load(a, m, x)
					for g := range queries {
						a.VFMADD231PS(x, pv[g], acc[g][d])
					}
				}
				a.add(pp, 4)
				a.ADDQ(vs, vp)
			})
			for g := range queries {
				for d := range block {
					a.VMOVUPS(acc[g][d], query(o, os, os3, g, d*width))
				}
			}
			a.add(v0, block*lanes*k.size)
			a.add(o, block*width)
			a.SUBQ(U32(uint32(block*lanes)), left)
			a.JMP(LabelRef(l))
			a.Label(l + "_end")
		}
		for range queries {
			a.ADDQ(os, out)
			a.ADDQ(stride, p)
		}
		a.SUBQ(Imm(uint64(queries)), a.addr("queries"))
		a.JMP(LabelRef(label))
		a.Label(label + "_end")
	}
	a.ret()
}
