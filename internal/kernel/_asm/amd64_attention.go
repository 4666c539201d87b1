package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

func attention(a *asm) {
	for _, k := range kinds {
		if k.name != "BF16" {
			attnMix(a, k, "VNNI", 64, a.ZMM, []int{4, 8, 8})
			attnMix(a, k, "AVX2", 32, a.YMM, []int{2, 4, 8})
		}
	}
}

// The mix of values is a product whose sums run along the rows, so that a lane is a column: no fold. 4, 2 or 1
// queries share the loads of v, which are blocks of so many vectors wide; what is left of a row goes one vector
// at a time.
func attnMix(a *asm, k kind, tier string, width int, vec func() reg.VecVirtual, blocks []int) {
	name := "attnMix" + k.name + tier
	lanes := width / 4
	a.fn(name, "(out, p *float32, stride int, v *"+k.typ+", n, hd, queries int)",
		name+" computes out[g][d] = fma(p[g·stride+j], v[j][d], out[g][d]) for all j < n in turn.",
		fmt.Sprintf("hd is a multiple of %d, n > 0.", lanes))
	out, p, hd := a.arg("out"), a.arg("p"), a.arg("hd")
	vs := a.times(hd, k.size) // bytes of a row of v
	os := a.times(hd, 4)      // of a query's output
	stride := a.arg("stride")
	a.SHLQ(Imm(2), stride)
	os3, stride3 := a.GP64(), a.GP64()
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
		v0, o, left := a.arg("v"), a.copy(out), a.copy(hd)
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
			a.loop(l+"_row", n, func() {
				var pv [4]reg.VecVirtual
				for g := range queries {
					pv[g] = vec()
					a.VBROADCASTSS(query(pp, stride, stride3, g, 0), pv[g])
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
