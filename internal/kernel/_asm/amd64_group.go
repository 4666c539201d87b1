package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Weight-only products (internal/kernel/group.go). A group's sums of codes and rounded activations are integers; behind
// each group its scales turn them into float32 and one fused multiply-add a row joins them to the row's result.
//
// One token: a field of two bits (or one) is masked where it lies and meets the two planes of its four activations, so that
// one unpacking feeds two dot products. Only every other field is shifted: fields 0 and 2 are codes, fields 1 and 3 four
// times the codes (twice, of bits), in accumulators of their own, which are joined behind the group.
//
// More tokens: codes are unpacked to memory, a byte each, three groups of a tile at a time, which stay in L1 for all tokens
// (groupTokens…), and so every layout has the same product.
func group(a *asm) {
	for planes := 1; planes <= 2; planes++ {
		groupVecZ(a, "T2", planes)
		groupVecZ(a, "B1", planes)
		groupVecZ(a, "T5", planes)
		groupTokensZ(a, planes)
		for _, l := range []string{"T2", "B1", "T5"} {
			groupVecY(a, l, planes, "AVX2")
		}
		groupTokensY(a, planes, "AVX2")
	}
	groupUnpackZ(a)
	groupUnpackB1(a)
	groupUnpackT5(a)
	groupUnpackT5VBMI(a)
	quantizeGroupsAVX2(a)
	hadamardAVX2(a)
}

const groupVecArgs = "(y *float32, tiles int, w *byte, scales *uint16, scaleBytes, shift int, x *byte, group, groups int)"

func groupVecDoc(name, layout string, planes int) []string {
	return []string{
		fmt.Sprintf("%s is GroupMatMul of one token of %d planes from layout %s, a tile at a time.", name, planes, layout),
		"scaleBytes is from one tile's scales to the next one's; shift turns a group's number into its scale's.",
	}
}

// groupVec is what the products of one token share: registers, and where the parts of a group lie.
type groupVec struct {
	*asm
	layout                    string
	planes                    int
	y, tiles, w, scales       reg.GPVirtual
	xh, xl, meta, g, cnt, col reg.GPVirtual // hi, lo, scale and sum of a group; its number; loops; columns of a group
}

func (a *asm) groupVec(layout string, planes int) *groupVec {
	v := &groupVec{asm: a, layout: layout, planes: planes}
	v.y, v.tiles, v.w, v.scales = a.arg("y"), a.arg("tiles"), a.arg("w"), a.arg("scales")
	v.col = a.arg("group")
	a.MOVQ(a.addr("shift"), reg.RCX)
	v.xh, v.xl, v.meta, v.g, v.cnt = a.GP64(), a.GP64(), a.GP64(), a.GP64(), a.GP64()
	return v
}

// begin points at the group at xh.
func (v *groupVec) begin() {
	if v.planes == 2 {
		v.LEAQ(at(v.xh, v.col, 1, 0), v.xl)
		v.LEAQ(at(v.xh, v.col, 2, 0), v.meta)
	} else {
		v.LEAQ(at(v.xh, v.col, 1, 0), v.meta)
	}
}

// scale is where a group's scales lie.
func (v *groupVec) scale() Mem {
	t := v.copy(v.g)
	v.SHRQ(reg.CL, t)
	v.SHLQ(Imm(5), t)
	return at(v.scales, t, 1, 0)
}

// fields describes how a block of 64 bytes is taken apart: shifts of the block, and of each the fields by masks.
type fieldsOf struct {
	columns int // of a block
	step    int // columns from one field to the next in a shifted block
	shifts  []uint64
	masks   [2]byte
}

var groupFields = map[string]fieldsOf{
	"T2": {16, 4, []uint64{0, 4}, [2]byte{0x03, 0x0c}},
	"B1": {32, 4, []uint64{0, 2, 4, 6}, [2]byte{0x01, 0x02}},
}

// join adds up the two accumulators of a plane: codes, and four times the codes; or bits, and twice the bits, of which the
// sum of 2·bits is meant. Where -ΣX lies in the first (T2) or the second (B1) it is counted once.
func (a *asm) join(layout string, acc [2]reg.VecVirtual) reg.VecVirtual {
	if layout == "B1" {
		a.VPSLLD(Imm(1), acc[0], acc[0])
	} else {
		a.VPSRAD(Imm(2), acc[1], acc[1])
	}
	a.VPADDD(acc[1], acc[0], acc[0])
	return acc[0]
}

// initial is the accumulator that begins with -ΣX.
func initial(layout string) int {
	if layout == "B1" {
		return 1
	}
	return 0
}

func groupVecZ(a *asm, layout string, planes int) {
	name := fmt.Sprintf("groupVec%sPlanes%dVNNI", layout, planes)
	args := groupVecArgs
	if layout == "T5" {
		name = fmt.Sprintf("groupVec%sPlanes%dVBMI", layout, planes)
		args = args[:len(args)-1] + ", table *byte)"
	}
	a.fn(name, args, groupVecDoc(name, layout, planes)...)
	v := a.groupVec(layout, planes)
	block := layout
	if layout == "T5" {
		block = "T2" // of the groups left over
	}
	fields := groupFields[block]
	mask := [2]reg.VecVirtual{a.ZMM(), a.ZMM()}
	for i, m := range fields.masks {
		a.splatByte(m, mask[i])
	}
	var table reg.VecVirtual
	var masks t5Masks
	var field [3]reg.VecVirtual
	if layout == "T5" {
		table = a.ZMM()
		a.VMOVDQU32(mem(a.arg("table"), 0), table)
		masks = a.t5Masks()
		for i := range field {
			field[i] = a.ZMM()
			a.splatByte(3<<(2*i), field[i])
		}
	}
	sum := a.ZMM()
	a.loop("tile", v.tiles, func() {
		a.zero(sum)
		a.MOVQ(a.addr("x"), v.xh)
		a.XORQ(v.g, v.g)
		if layout == "T5" {
			groupVecT5Super(v, sum, table, masks, field)
			a.CMPQ(v.g, a.addr("groups"))
			a.JGE(LabelRef("whole"))
		}
		a.Label("group")
		v.begin()
		var acc [2][2]reg.VecVirtual // of a plane; of codes where they lie
		for p := range planes {
			for i := range 2 {
				acc[p][i] = a.ZMM()
				if p == planes-1 && i == initial(block) {
					a.VPBROADCASTD(mem(v.meta, 4), acc[p][i])
				} else {
					a.zero(acc[p][i])
				}
			}
		}
		a.MOVQ(v.col, v.cnt)
		a.SHRQ(Imm(5), v.cnt)
		a.loop("block", v.cnt, func() {
			for b := range 32 / fields.columns {
				a.ahead(v.w, 64*b)
				for s, shift := range fields.shifts {
					w := a.ZMM()
					if shift == 0 {
						a.VMOVDQU32(mem(v.w, 64*b), w)
					} else {
						a.VPSRLW(Imm(shift), mem(v.w, 64*b), w)
					}
					for i := range 2 {
						f := a.ZMM()
						a.VPANDD(mask[i], w, f)
						at := fields.columns*b + 4*(2*s+i)
						a.VPDPBUSD_BCST(mem(v.xh, at), f, acc[0][i])
						if planes == 2 {
							a.VPDPBUSD_BCST(mem(v.xl, at), f, acc[1][i])
						}
					}
				}
			}
			a.add(v.w, 64*32/fields.columns)
			a.add(v.xh, 32)
			if planes == 2 {
				a.add(v.xl, 32)
			}
		})
		dot := a.join(block, acc[0])
		if planes == 2 {
			lo := a.join(block, acc[1])
			a.VPSLLD(Imm(8), dot, dot)
			a.VPADDD(lo, dot, dot)
		}
		d := a.ZMM()
		a.VCVTPH2PS(v.scale(), d)
		a.VMULPS_BCST(mem(v.meta, 0), d, d)
		a.VCVTDQ2PS(dot, dot)
		a.VFMADD231PS(d, dot, sum)
		a.LEAQ(mem(v.meta, 8), v.xh)
		a.INCQ(v.g)
		a.CMPQ(v.g, a.addr("groups"))
		a.JLT(LabelRef("group"))
		a.Label("whole")
		a.VMOVUPS(sum, mem(v.y, 0))
		a.add(v.y, 64)
		a.ADDQ(a.addr("scaleBytes"), v.scales)
	})
	a.ret()
}

// Three groups at a time, an accumulator for each, in which its field of every code lies 4ⁱ high.
func groupVecT5Super(v *groupVec, sum, table reg.VecVirtual, masks t5Masks, field [3]reg.VecVirtual) {
	a := v.asm
	three := a.GP64()
	a.MOVQ(a.addr("groups"), three)
	a.SUBQ(Imm(3), three) // the last g with which three begin
	a.JL(LabelRef("rest"))
	a.Label("three")
	var acc [3][2]reg.VecVirtual
	x := [3]reg.GPVirtual{v.xh, v.xl, v.meta}
	for i := range 3 {
		for p := range v.planes {
			acc[i][p] = a.ZMM()
			a.zero(acc[i][p])
		}
		if i > 0 {
			a.LEAQ(at(x[i-1], v.col, uint8(v.planes), 8), x[i])
		}
	}
	a.MOVQ(v.col, v.cnt)
	a.SHRQ(Imm(5), v.cnt)
	a.loop("codes", v.cnt, func() {
		for k, c := range a.t5Codes(v.w, masks) {
			a.VPERMB(table, c, c)
			for i := range 3 {
				f := a.ZMM()
				a.VPANDD(field[i], c, f)
				a.VPDPBUSD_BCST(mem(x[i], 4*k), f, acc[i][0])
				if v.planes == 2 {
					a.VPDPBUSD_BCST(at(x[i], v.col, 1, 4*k), f, acc[i][1])
				}
			}
		}
		for i := range 5 {
			a.ahead(v.w, 64*i)
		}
		a.add(v.w, 5*64)
		for i := range 3 {
			a.add(x[i], 32)
		}
	})
	for i := range 3 {
		meta := func(disp int) Mem { // x has gone one plane ahead
			if v.planes == 2 {
				return at(x[i], v.col, 1, disp)
			}
			return mem(x[i], disp)
		}
		dot := acc[i][0]
		if v.planes == 2 {
			a.VPSLLD(Imm(8), dot, dot)
			a.VPADDD(acc[i][1], dot, dot)
		}
		if i > 0 {
			a.VPSRAD(Imm(uint64(2*i)), dot, dot)
		}
		a.VPADDD_BCST(meta(4), dot, dot)
		d := a.ZMM()
		a.VCVTPH2PS(v.scale(), d)
		a.VMULPS_BCST(meta(0), d, d)
		a.VCVTDQ2PS(dot, dot)
		a.VFMADD231PS(d, dot, sum)
		a.INCQ(v.g)
	}
	if v.planes == 2 {
		a.LEAQ(at(x[2], v.col, 1, 8), v.xh)
	} else {
		a.LEAQ(mem(x[2], 8), v.xh)
	}
	a.CMPQ(v.g, three)
	a.JLE(LabelRef("three"))
	a.Label("rest")
}

const groupTokensArgs = "(y *float32, stride int, codes *byte, scales *uint16, scaleBytes, shift, first int, x *byte, rowBytes, group, groups, tokens int)"

func groupTokensDoc(name string, planes int, tiles string) []string {
	return []string{
		fmt.Sprintf("%s adds to y[t] the products of so many groups of %s with tokens of %d planes.", name, tiles, planes),
		"",
		"\tcodes       [groups][group/4][16 rows][4 columns] bytes, a tile GroupScratch/2 bytes behind the other",
		"\tscaleBytes  from one tile's scales to the next one's; shift turns a group's number into its scale's",
		"\tfirst       the number of the first group",
		"\tstride      bytes from y[t] to y[t+1]; rowBytes those from x[t] to x[t+1]",
	}
}

// groupTile is GroupScratch/2 of package kernel.
const groupTile = 3 * 128 * 16

// Two tiles by four tokens of two planes (eight of one): 16 accumulators. An activation is broadcast once for both tiles.
func groupTokensZ(a *asm, planes int) {
	name := fmt.Sprintf("groupTokensPlanes%dVNNI", planes)
	a.fn(name, groupTokensArgs, groupTokensDoc(name, planes, "two tiles")...)
	a.MOVQ(a.addr("shift"), reg.RCX)
	stride := a.arg("rowBytes")
	s3 := a.GP64()
	a.LEAQ(at(stride, stride, 2, 0), s3)
	token := func(x reg.GPVirtual, t, disp int) Mem {
		switch t {
		case 0:
			return mem(x, disp)
		case 3:
			return at(x, s3, 1, disp)
		}
		return at(x, stride, uint8(t), disp)
	}
	y, x, left, col := a.arg("y"), a.arg("x"), a.arg("tokens"), a.arg("group")
	counts := []int{4, 2, 1}
	if planes == 1 {
		counts = []int{8, 4, 2, 1}
	}
	for _, n := range counts {
		label := fmt.Sprintf("tokens%d", n)
		a.Label(label)
		a.CMPQ(left, Imm(uint64(n)))
		a.JL(LabelRef(label + "_end"))
		codes, g, groups := a.arg("codes"), a.arg("first"), a.arg("groups")
		// One pointer for the plane hi and one for lo, or one for four tokens of one plane each.
		rows := []reg.GPVirtual{a.copy(x)}
		if planes == 2 || n == 8 {
			rows = append(rows, a.GP64())
		}
		if n == 8 {
			a.LEAQ(at(x, stride, 4, 0), rows[1])
		}
		at0 := func(p, t, disp int) Mem { return token(rows[p+t/4], t%4, disp) }
		a.loop(label+"_group", groups, func() {
			var acc [2][2][8]reg.VecVirtual // of a tile; of a plane; of a token
			if planes == 2 {
				a.LEAQ(at(rows[0], col, 1, 0), rows[1])
			}
			meta := a.GP64()
			for t := range n {
				if t%4 == 0 {
					a.LEAQ(at(rows[t/4], col, uint8(planes), 0), meta)
				}
				for i := range 2 {
					for p := range planes {
						acc[i][p][t] = a.ZMM()
						switch {
						case p < planes-1:
							a.zero(acc[i][p][t])
						case i == 0:
							a.VPBROADCASTD(token(meta, t%4, 4), acc[i][p][t])
						default:
							a.VMOVDQA32(acc[0][p][t], acc[i][p][t])
						}
					}
				}
			}
			cnt := a.copy(col)
			a.SHRQ(Imm(4), cnt)
			a.loop(label+"_block", cnt, func() {
				for k := range 4 {
					f := [2]reg.VecVirtual{a.ZMM(), a.ZMM()}
					a.VMOVDQU32(mem(codes, 64*k), f[0])
					a.VMOVDQU32(mem(codes, groupTile+64*k), f[1])
					for t := range n {
						for p := range planes {
							b := a.ZMM()
							a.VPBROADCASTD(at0(p, t, 4*k), b)
							for i := range 2 {
								a.VPDPBUSD(b, f[i], acc[i][p][t])
							}
						}
					}
				}
				a.add(codes, 256)
				for _, r := range rows {
					a.add(r, 16)
				}
			})
			// The last plane's pointer is now at the scale and the sum.
			sp := a.copy(g)
			a.SHRQ(reg.CL, sp)
			a.SHLQ(Imm(5), sp)
			a.ADDQ(a.addr("scales"), sp)
			d := [2]reg.VecVirtual{a.ZMM(), a.ZMM()}
			a.VCVTPH2PS(mem(sp, 0), d[0])
			a.ADDQ(a.addr("scaleBytes"), sp)
			a.VCVTPH2PS(mem(sp, 0), d[1])
			yp := a.copy(y)
			for t := range n {
				s := a.ZMM()
				a.VBROADCASTSS(at0(planes-1, t, 0), s)
				for i := range 2 {
					dot, m := acc[i][0][t], a.ZMM()
					if planes == 2 {
						a.VPSLLD(Imm(8), dot, dot)
						a.VPADDD(acc[i][1][t], dot, dot)
					}
					a.VMULPS(d[i], s, m)
					a.VCVTDQ2PS(dot, dot)
					a.VFMADD213PS(mem(yp, 64*i), m, dot)
					a.VMOVUPS(dot, mem(yp, 64*i))
				}
				if t < n-1 {
					a.ADDQ(a.addr("stride"), yp)
				}
			}
			if planes == 2 {
				a.LEAQ(mem(rows[1], 8), rows[0])
			} else {
				for _, r := range rows {
					a.add(r, 8)
				}
			}
			a.INCQ(g)
		})
		for range n {
			a.ADDQ(a.addr("stride"), y)
			a.ADDQ(stride, x)
		}
		a.SUBQ(Imm(uint64(n)), left)
		a.JMP(LabelRef(label))
		a.Label(label + "_end")
	}
	a.ret()
}

// The same on registers of 256 bits: AVX-VNNI in its own encoding and in AVX-512's (see vex), and AVX2.
//
// AVX2 has VPMADDUBSW, which adds two products to an int16 lane. Of a group a lane gets at most 32 sums of two products of codes
// ≤ 2·2·128, and in groupVec, where codes lie four times as high, 16 of ≤ 2·8·128: 32512 or -32768. So lanes are
// widened behind each group, by VPMADDWD with 256 (hi) and 1 (lo), which joins the planes too.
type dotY struct {
	*asm
	vnni bool
}

// dot adds the products of codes f with activations b. f is used up if last.
func (d dotY) dot(b, f, acc reg.VecVirtual, last bool) {
	if d.vnni {
		d.VPDPBUSD(b, f, acc)
		return
	}
	p := f
	if !last {
		p = d.YMM()
	}
	d.VPMADDUBSW(b, f, p)
	d.VPADDW(p, acc, acc)
}

// planesOf joins the planes' sums and -ΣX, which lies at meta+4, into int32 lanes.
func (d dotY) planesOf(acc [2]reg.VecVirtual, planes int, sum Mem) reg.VecVirtual {
	if !d.vnni {
		for p := range planes {
			if p == planes-1 {
				d.VPMADDWD(d.u32s(0x00010001), acc[p], acc[p])
			} else {
				d.VPMADDWD(d.u32s(0x01000100), acc[p], acc[p])
			}
		}
	} else if planes == 2 {
		d.VPSLLD(Imm(8), acc[0], acc[0])
	}
	if planes == 2 {
		d.VPADDD(acc[1], acc[0], acc[0])
	}
	s := d.YMM()
	d.VPBROADCASTD(sum, s)
	d.VPADDD(s, acc[0], acc[0])
	return acc[0]
}

// scaled adds float32(dot)·(d·s) to y.
func (d dotY) scaled(dot reg.VecVirtual, scales, s, y Mem) {
	h, m := d.YMM(), d.YMM()
	d.VCVTPH2PS(scales, h)
	d.VBROADCASTSS(s, m)
	d.VMULPS(m, h, m)
	d.VCVTDQ2PS(dot, dot)
	d.VFMADD213PS(y, m, dot)
	d.VMOVUPS(dot, y)
}

// joinY is join in lanes of 16 bits where there is no VNNI.
func (d dotY) joinY(layout string, acc [2]reg.VecVirtual) reg.VecVirtual {
	if d.vnni {
		return d.join(layout, acc)
	}
	if layout == "B1" {
		d.VPSLLW(Imm(1), acc[0], acc[0])
	} else {
		d.VPSRAW(Imm(2), acc[1], acc[1])
	}
	d.VPADDW(acc[1], acc[0], acc[0])
	return acc[0]
}

func groupVecY(a *asm, layout string, planes int, tier string) {
	name := fmt.Sprintf("groupVec%sPlanes%d%s", layout, planes, tier)
	a.fn(name, groupVecArgs, groupVecDoc(name, layout, planes)...)
	d := dotY{a, tier != "AVX2"}
	v := a.groupVec(layout, planes)
	block := layout
	if layout == "T5" {
		block = "T2"
	}
	fields := groupFields[block]
	a.loop("tile", v.tiles, func() {
		zero := a.YMM()
		a.zero(zero)
		a.VMOVDQU(zero, mem(v.y, 0))
		a.VMOVDQU(zero, mem(v.y, 32))
		a.MOVQ(a.addr("x"), v.xh)
		a.XORQ(v.g, v.g)
		if layout == "T5" {
			groupVecT5SuperY(v, d)
			a.CMPQ(v.g, a.addr("groups"))
			a.JGE(LabelRef("whole"))
		}
		a.Label("group")
		v.begin()
		var acc [2][2][2]reg.VecVirtual // of a half of the rows; of a plane; of codes where they lie
		for h := range 2 {
			for p := range planes {
				for i := range 2 {
					acc[h][p][i] = a.YMM()
					a.zero(acc[h][p][i])
				}
			}
		}
		a.MOVQ(v.col, v.cnt)
		a.SHRQ(Imm(5), v.cnt)
		a.loop("block", v.cnt, func() {
			for b := range 32 / fields.columns {
				for s, shift := range fields.shifts {
					var w [2]reg.VecVirtual
					for h := range 2 {
						w[h] = a.YMM()
						a.VMOVDQU(mem(v.w, 64*b+32*h), w[h])
						if shift > 0 {
							a.VPSRLW(Imm(shift), w[h], w[h])
						}
					}
					for i, m := range fields.masks {
						var x [2]reg.VecVirtual
						for p := range planes {
							x[p] = a.YMM()
							a.VPBROADCASTD(mem([]reg.GPVirtual{v.xh, v.xl}[p], fields.columns*b+4*(2*s+i)), x[p])
						}
						for h := range 2 {
							f := a.YMM()
							a.VPAND(a.u32s(uint32(m)*0x01010101), w[h], f)
							for p := range planes {
								d.dot(x[p], f, acc[h][p][i], p == planes-1)
							}
						}
					}
				}
			}
			a.add(v.w, 64*32/fields.columns)
			a.add(v.xh, 32)
			if planes == 2 {
				a.add(v.xl, 32)
			}
		})
		scales := v.scale()
		for h := range 2 {
			var sum [2]reg.VecVirtual
			for p := range planes {
				sum[p] = d.joinY(block, acc[h][p])
			}
			scales.Disp = 16 * h
			d.scaled(d.planesOf(sum, planes, mem(v.meta, 4)), scales, mem(v.meta, 0), mem(v.y, 32*h))
		}
		a.LEAQ(mem(v.meta, 8), v.xh)
		a.INCQ(v.g)
		a.CMPQ(v.g, a.addr("groups"))
		a.JLT(LabelRef("group"))
		a.Label("whole")
		a.add(v.y, 64)
		a.ADDQ(a.addr("scaleBytes"), v.scales)
	})
	a.ret()
}

// t5CodeY gives vector k of the eight codes in the five vectors at w, of half h of the rows.
func (a *asm) t5CodeY(w reg.GPVirtual, k, h int) reg.VecVirtual {
	part := func(vector, by int, mask byte) reg.VecVirtual {
		v := a.YMM()
		a.VMOVDQU(mem(w, 64*vector+32*h), v)
		if by > 0 {
			a.VPSRLW(Imm(uint64(by)), v, v)
		}
		a.VPAND(a.u32s(uint32(mask)*0x01010101), v, v)
		return v
	}
	var parts []reg.VecVirtual
	switch k {
	case 5:
		parts = []reg.VecVirtual{part(0, 5, 7), part(3, 2, 0x18)}
	case 6:
		parts = []reg.VecVirtual{part(1, 5, 7), part(3, 4, 8), part(4, 3, 0x10)}
	case 7:
		parts = []reg.VecVirtual{part(2, 5, 7), part(4, 2, 0x18)}
	default:
		return part(k, 0, 31)
	}
	for _, p := range parts[1:] {
		a.VPOR(p, parts[0], parts[0])
	}
	return parts[0]
}

// t5FieldsY replaces codes by their three fields of two bits: VPSHUFB looks up 16 entries, so that bit 4 chooses between two.
func (a *asm) t5FieldsY(c reg.VecVirtual) {
	lo, hi := a.YMM(), a.YMM()
	a.VMOVDQU(a.t5TableY(0), lo)
	a.VMOVDQU(a.t5TableY(1), hi)
	a.VPSHUFB(c, lo, lo)
	a.VPSHUFB(c, hi, hi)
	a.VPSLLW(Imm(3), c, c)
	a.VPBLENDVB(c, hi, lo, c)
}

func (a *asm) t5TableY(half int) Mem {
	var words [8]uint32
	for i := range 16 {
		c := uint32(16*half + i)
		if c < 27 {
			f := c%3 | c/3%3<<2 | c/9<<4
			words[i/4] |= f << (i % 4 * 8)
			words[4+i/4] |= f << (i % 4 * 8)
		}
	}
	return a.data(fmt.Sprint("t5fields", half), words[:]...)
}

// As groupVecT5Super, half of the rows at a time.
func groupVecT5SuperY(v *groupVec, d dotY) {
	a := v.asm
	a.Label("three")
	t := a.GP64()
	a.LEAQ(mem(v.g, 3), t)
	a.CMPQ(t, a.addr("groups"))
	a.JG(LabelRef("rest"))
	x0, w := a.GP64(), a.GP64()
	x := [3]reg.GPVirtual{x0, v.xl, v.meta}
	for h := range 2 {
		var acc [3][2]reg.VecVirtual
		a.MOVQ(v.xh, x[0])
		a.MOVQ(v.w, w)
		for i := range 3 {
			for p := range v.planes {
				acc[i][p] = a.YMM()
				a.zero(acc[i][p])
			}
			if i > 0 {
				a.LEAQ(at(x[i-1], v.col, uint8(v.planes), 8), x[i])
			}
		}
		a.MOVQ(v.col, v.cnt)
		a.SHRQ(Imm(5), v.cnt)
		a.loop(fmt.Sprint("codes", h), v.cnt, func() {
			for k := range 8 {
				c := a.t5CodeY(w, k, h)
				a.t5FieldsY(c)
				for i := range 3 {
					f := c
					if i < 2 {
						f = a.YMM()
					}
					switch {
					case d.vnni:
						a.VPAND(a.u32s(0x03030303<<(2*i)), c, f)
					case i > 0:
						a.VPSRLW(Imm(uint64(2*i)), c, f)
						a.VPAND(a.u32s(0x03030303), f, f)
					default:
						a.VPAND(a.u32s(0x03030303), c, f)
					}
					for p := range v.planes {
						b := a.YMM()
						if p == 0 {
							a.VPBROADCASTD(mem(x[i], 4*k), b)
						} else {
							a.VPBROADCASTD(at(x[i], v.col, 1, 4*k), b)
						}
						d.dot(b, f, acc[i][p], p == v.planes-1)
					}
				}
			}
			a.add(w, 5*64)
			for i := range 3 {
				a.add(x[i], 32)
			}
		})
		for i := range 3 {
			meta := func(disp int) Mem {
				if v.planes == 2 {
					return at(x[i], v.col, 1, disp)
				}
				return mem(x[i], disp)
			}
			for p := range v.planes {
				if d.vnni && i > 0 {
					a.VPSRAD(Imm(uint64(2*i)), acc[i][p], acc[i][p])
				}
			}
			scales := v.scale()
			scales.Disp = 16 * h
			d.scaled(d.planesOf(acc[i], v.planes, meta(4)), scales, meta(0), mem(v.y, 32*h))
			a.INCQ(v.g)
		}
		if h == 0 {
			a.SUBQ(Imm(3), v.g)
		}
	}
	a.MOVQ(w, v.w)
	if v.planes == 2 {
		a.LEAQ(at(x[2], v.col, 1, 8), v.xh)
	} else {
		a.LEAQ(mem(x[2], 8), v.xh)
	}
	a.JMP(LabelRef("three"))
	a.Label("rest")
}

// A tile by three tokens of two planes (six of one): twelve accumulators, which hide VPDPBUSD's latency; two (four) where AVX2
// needs registers for products.
func groupTokensY(a *asm, planes int, tier string) {
	name := fmt.Sprintf("groupTokensPlanes%d%s", planes, tier)
	a.fn(name, groupTokensArgs, groupTokensDoc(name, planes, "a tile")...)
	d := dotY{a, tier != "AVX2"}
	a.MOVQ(a.addr("shift"), reg.RCX)
	stride := a.arg("rowBytes")
	s3 := a.GP64()
	a.LEAQ(at(stride, stride, 2, 0), s3)
	token := func(x reg.GPVirtual, t, disp int) Mem {
		switch t {
		case 0:
			return mem(x, disp)
		case 3:
			return at(x, s3, 1, disp)
		}
		return at(x, stride, uint8(t), disp)
	}
	y, x, left, col := a.arg("y"), a.arg("x"), a.arg("tokens"), a.arg("group")
	counts := map[bool][]int{false: {4, 2, 1}, true: {6, 4, 2, 1}}[d.vnni]
	if planes == 2 {
		counts = map[bool][]int{false: {2, 1}, true: {3, 2, 1}}[d.vnni]
	}
	for _, n := range counts {
		label := fmt.Sprintf("tokens%d", n)
		a.Label(label)
		a.CMPQ(left, Imm(uint64(n)))
		a.JL(LabelRef(label + "_end"))
		codes, g, groups := a.arg("codes"), a.arg("first"), a.arg("groups")
		// One pointer for the plane hi and one for lo, or one for four tokens of one plane each.
		rows := []reg.GPVirtual{a.copy(x)}
		if planes == 2 || n > 4 {
			rows = append(rows, a.GP64())
		}
		if n > 4 {
			a.LEAQ(at(x, stride, 4, 0), rows[1])
		}
		at0 := func(p, t, disp int) Mem { return token(rows[p+t/4], t%4, disp) }
		a.loop(label+"_group", groups, func() {
			var acc [6][2][2]reg.VecVirtual // of a token; of a half; of a plane
			for t := range n {
				for h := range 2 {
					for p := range planes {
						acc[t][h][p] = a.YMM()
						a.zero(acc[t][h][p])
					}
				}
			}
			if planes == 2 {
				a.LEAQ(at(rows[0], col, 1, 0), rows[1])
			}
			cnt := a.copy(col)
			a.SHRQ(Imm(4), cnt)
			a.loop(label+"_block", cnt, func() {
				for k := range 4 {
					f := [2]reg.VecVirtual{a.YMM(), a.YMM()}
					a.VMOVDQU(mem(codes, 64*k), f[0])
					a.VMOVDQU(mem(codes, 64*k+32), f[1])
					for t := range n {
						for p := range planes {
							b := a.YMM()
							a.VPBROADCASTD(at0(p, t, 4*k), b)
							for h := range 2 {
								d.dot(b, f[h], acc[t][h][p], false)
							}
						}
					}
				}
				a.add(codes, 256)
				for _, r := range rows {
					a.add(r, 16)
				}
			})
			sp := a.copy(g)
			a.SHRQ(reg.CL, sp)
			a.SHLQ(Imm(5), sp)
			a.ADDQ(a.addr("scales"), sp)
			yp := a.copy(y)
			for t := range n {
				for h := range 2 {
					d.scaled(d.planesOf(acc[t][h], planes, at0(planes-1, t, 4)), mem(sp, 16*h), at0(planes-1, t, 0), mem(yp, 32*h))
				}
				if t < n-1 {
					a.ADDQ(a.addr("stride"), yp)
				}
			}
			if planes == 2 {
				a.LEAQ(mem(rows[1], 8), rows[0])
			} else {
				for _, r := range rows {
					a.add(r, 8)
				}
			}
			a.INCQ(g)
		})
		for range n {
			a.ADDQ(a.addr("stride"), y)
			a.ADDQ(stride, x)
		}
		a.SUBQ(Imm(uint64(n)), left)
		a.JMP(LabelRef(label))
		a.Label(label + "_end")
	}
	a.ret()
}

// groupUnpackZ is ternaryUnpackAVX2 and groupUnpackB1AVX2 on 512 bits.
func groupUnpackZ(a *asm) {
	for _, layout := range []string{"T2", "B1"} {
		name := "groupUnpack" + layout + "VNNI"
		fields, codes, doc := 4, byte(3), " writes the codes of T16 blocks as bytes: field g of a block becomes bytes 64g…64g+63 of 256."
		if layout == "B1" {
			fields, codes, doc = 8, 2, " writes the codes 0 and 2 of Binary1 blocks as bytes: bit b of a block becomes bytes 64b…64b+63 of 512."
		}
		a.fn(name, "(dst, w *byte, blocks int)", name+doc)
		dst, w, n := a.arg("dst"), a.arg("w"), a.arg("blocks")
		mask := a.ZMM()
		a.splatByte(codes, mask)
		a.loop("block", n, func() {
			a.ahead(w, 0)
			for f := range fields {
				v, shift := a.ZMM(), 2*f
				if layout == "B1" {
					shift = f - 1
				}
				switch {
				case shift < 0:
					a.VMOVDQU32(mem(w, 0), v)
					a.VPADDB(v, v, v)
					a.VPANDD(mask, v, v)
				case shift == 0:
					a.VPANDD(mem(w, 0), mask, v)
				default:
					a.VPSRLW(Imm(uint64(shift)), mem(w, 0), v)
					a.VPANDD(mask, v, v)
				}
				a.VMOVDQU32(v, mem(dst, 64*f))
			}
			a.add(w, 64)
			a.add(dst, 64*fields)
		})
		a.ret()
	}
}

func groupUnpackB1(a *asm) {
	a.fn("groupUnpackB1AVX2", "(dst, w *byte, blocks int)",
		"groupUnpackB1AVX2 writes the codes 0 and 2 of Binary1 blocks as bytes: bit b of a block becomes bytes 64b…64b+63 of 512.")
	dst, w, n := a.arg("dst"), a.arg("w"), a.arg("blocks")
	mask := a.YMM()
	a.splatByte(2, mask)
	a.loop("block", n, func() {
		for h := range 2 {
			v := a.YMM()
			a.VMOVDQU(mem(w, 32*h), v)
			for b := range 8 {
				f := a.YMM()
				switch {
				case b == 0:
					a.VPADDB(v, v, f)
					a.VPAND(mask, f, f)
				case b == 1:
					a.VPAND(mask, v, f)
				default:
					a.VPSRLW(Imm(uint64(b-1)), v, f)
					a.VPAND(mask, f, f)
				}
				a.VMOVDQU(f, mem(dst, 64*b+32*h))
			}
		}
		a.add(w, 64)
		a.add(dst, 512)
	})
	a.ret()
}

const groupUnpackT5Doc = " writes the codes of three groups in Ternary5 as bytes, [3][group/4][16 rows][4 columns]."

func groupUnpackT5(a *asm) {
	a.fn("groupUnpackT5AVX2", "(dst, w *byte, group int)", "groupUnpackT5AVX2"+groupUnpackT5Doc)
	dst, w, n := a.arg("dst"), a.arg("w"), a.arg("group")
	size := a.times(n, 16)
	a.SHRQ(Imm(5), n)
	a.loop("codes", n, func() {
		for h := range 2 {
			for k := range 8 {
				c := a.t5CodeY(w, k, h)
				a.t5FieldsY(c)
				for i := range 3 {
					f := a.YMM()
					if i > 0 {
						a.VPSRLW(Imm(uint64(2*i)), c, f)
						a.VPAND(a.u32s(0x03030303), f, f)
						a.VMOVDQU(f, at(dst, size, uint8(i), 64*k+32*h))
					} else {
						a.VPAND(a.u32s(0x03030303), c, f)
						a.VMOVDQU(f, mem(dst, 64*k+32*h))
					}
				}
			}
		}
		a.add(w, 5*64)
		a.add(dst, 8*64)
	})
	a.ret()
}

func groupUnpackT5VBMI(a *asm) {
	a.fn("groupUnpackT5VBMI", "(dst, w *byte, group int, table *byte)", "groupUnpackT5VBMI"+groupUnpackT5Doc)
	dst, w, n := a.arg("dst"), a.arg("w"), a.arg("group")
	table, mask := a.ZMM(), a.ZMM()
	a.VMOVDQU32(mem(a.arg("table"), 0), table)
	masks := a.t5Masks()
	a.splatByte(3, mask)
	size := a.times(n, 16)
	a.SHRQ(Imm(5), n)
	a.loop("codes", n, func() {
		for i := range 5 {
			a.ahead(w, 64*i)
		}
		for k, c := range a.t5Codes(w, masks) {
			a.VPERMB(table, c, c)
			for i := range 3 {
				f := a.ZMM()
				if i > 0 {
					a.VPSRLW(Imm(uint64(2*i)), c, f)
					a.VPANDD(mask, f, f)
					a.VMOVDQU32(f, at(dst, size, uint8(i), 64*k))
				} else {
					a.VPANDD(mask, c, f)
					a.VMOVDQU32(f, mem(dst, 64*k))
				}
			}
		}
		a.add(w, 5*64)
		a.add(dst, 8*64)
	})
	a.ret()
}

// Two passes over a group: the largest |x|, and the planes. A group that is not finite is masked to 0.
func quantizeGroupsAVX2(a *asm) {
	a.fn("quantizeGroupsAVX2", "(dst *byte, x *float32, group, groups, planes int, largest, least float32)",
		"quantizeGroupsAVX2 is QuantizeGroups of so many groups: X are at most largest, scales at least least/largest.")
	dst, x, group, groups, planes := a.arg("dst"), a.arg("x"), a.arg("group"), a.arg("groups"), a.arg("planes")
	order := a.YMM()
	a.VMOVDQU(a.data("packorder", 0, 4, 1, 5, 2, 6, 3, 7), order)
	a.loop("group", groups, func() {
		abs := a.YMM()
		a.VMOVUPS(a.u32s(0x7fffffff), abs)
		var m [4]reg.VecVirtual
		for i := range m {
			m[i] = a.YMM()
			a.zero(m[i])
		}
		xp, cnt := a.copy(x), a.copy(group)
		a.SHRQ(Imm(5), cnt)
		a.loop("most", cnt, func() {
			for i := range m {
				v := a.YMM()
				a.VPAND(mem(xp, 32*i), abs, v)
				a.VPMAXUD(v, m[i], m[i])
			}
			a.add(xp, 128)
		})
		a.VPMAXUD(m[1], m[0], m[0])
		a.VPMAXUD(m[3], m[2], m[2])
		a.VPMAXUD(m[2], m[0], m[0])
		t, most := a.XMM(), m[0].AsX()
		a.VEXTRACTI128(Imm(1), m[0], t)
		a.VPMAXUD(t, most, most)
		a.VPSHUFD(Imm(0x4e), most, t)
		a.VPMAXUD(t, most, most)
		a.VPSHUFD(Imm(0xb1), most, t)
		a.VPMAXUD(t, most, most)
		bits := a.GP32()
		a.VMOVD(most, bits)
		scale, mask, inv, sum := a.XMM(), a.YMM(), a.YMM(), a.YMM()
		a.zero(mask)
		a.zero(inv)
		a.zero(sum)
		a.CMPL(bits, U32(0x7f800000))
		a.JAE(LabelRef("infinite"))
		a.VPCMPEQD(mask, mask, mask)
		a.VMAXSS(a.addr("least"), most, most)
		a.VMOVSS(a.addr("largest"), inv.AsX())
		a.VDIVSS(inv.AsX(), most, scale)
		a.VDIVSS(most, inv.AsX(), inv.AsX())
		a.VBROADCASTSS(inv.AsX(), inv)
		a.JMP(LabelRef("finite"))
		a.Label("infinite")
		a.VMOVSS(a.u32s(0x7fc00000), scale)
		a.Label("finite")
		a.MOVQ(group, cnt)
		a.SHRQ(Imm(5), cnt)
		a.loop("round", cnt, func() {
			var v [4]reg.VecVirtual
			for i := range v {
				v[i] = a.YMM()
				a.VANDPS(mem(x, 32*i), mask, v[i])
				a.VMULPS(inv, v[i], v[i])
				a.VCVTPS2DQ(v[i], v[i])
			}
			s, t := a.YMM(), a.YMM()
			a.VPADDD(v[1], v[0], s)
			a.VPADDD(v[3], v[2], t)
			a.VPADDD(t, s, s)
			a.VPADDD(s, sum, sum)
			a.VPACKSSDW(v[1], v[0], v[0])
			a.VPACKSSDW(v[3], v[2], v[2])
			a.CMPQ(planes, Imm(1))
			a.JE(LabelRef("one"))
			var lo [2]reg.VecVirtual
			for i, w := range []reg.VecVirtual{v[0], v[2]} {
				lo[i] = a.YMM()
				a.VPSLLW(Imm(8), w, lo[i])
				a.VPSRAW(Imm(8), lo[i], lo[i])
				a.VPADDW(a.u32s(0x00800080), w, w)
				a.VPSRAW(Imm(8), w, w)
			}
			a.VPACKSSWB(lo[1], lo[0], lo[0])
			a.VPERMD(lo[0], order, lo[0])
			a.VMOVDQU(lo[0], at(dst, group, 1, 0))
			a.Label("one")
			a.VPACKSSWB(v[2], v[0], v[0])
			a.VPERMD(v[0], order, v[0])
			a.VMOVDQU(v[0], mem(dst, 0))
			a.add(x, 128)
			a.add(dst, 32)
		})
		// dst is behind the plane hi.
		a.CMPQ(planes, Imm(1))
		a.JE(LabelRef("last"))
		a.ADDQ(group, dst)
		a.Label("last")
		a.VMOVSS(scale, mem(dst, 0))
		u, s := a.XMM(), sum.AsX()
		a.VEXTRACTI128(Imm(1), sum, u)
		a.VPADDD(u, s, s)
		a.VPSHUFD(Imm(0x4e), s, u)
		a.VPADDD(u, s, s)
		a.VPSHUFD(Imm(0xb1), s, u)
		a.VPADDD(u, s, s)
		a.VMOVD(s, bits)
		a.NEGL(bits)
		a.MOVL(bits, mem(dst, 4))
		a.add(dst, 8)
	})
	a.ret()
}

// Sums of distance 1, 2 and 4 lie inside a register: a lane's partner is permuted beside it, and where the difference is
// meant the lane itself is negated. Longer ones are two steps in a pass: four registers, distances h and 2h.
func hadamardAVX2(a *asm) {
	a.fn("hadamardNearAVX2", "(x *float32, n int)", "hadamardNearAVX2 does Hadamard's steps of distance 1, 2 and 4 of n floats, a multiple of 8.")
	x, n := a.arg("x"), a.arg("n")
	const minus = 0x80000000
	sign := [3]reg.VecVirtual{a.YMM(), a.YMM(), a.YMM()}
	a.VMOVUPS(a.data("minus1", 0, minus, 0, minus, 0, minus, 0, minus), sign[0])
	a.VMOVUPS(a.data("minus2", 0, 0, minus, minus, 0, 0, minus, minus), sign[1])
	a.VMOVUPS(a.data("minus4", 0, 0, 0, 0, minus, minus, minus, minus), sign[2])
	a.SHRQ(Imm(3), n)
	a.loop("eight", n, func() {
		v := a.YMM()
		a.VMOVUPS(mem(x, 0), v)
		for i := range 3 {
			other := a.YMM()
			switch i {
			case 0:
				a.VPERMILPS(Imm(0xb1), v, other)
			case 1:
				a.VPERMILPS(Imm(0x4e), v, other)
			case 2:
				a.VPERM2F128(Imm(1), v, v, other)
			}
			a.VXORPS(sign[i], v, v)
			a.VADDPS(v, other, v)
		}
		a.VMOVUPS(v, mem(x, 0))
		a.add(x, 32)
	})
	a.ret()

	a.fn("hadamardFarAVX2", "(x *float32, n, h int)", "hadamardFarAVX2 does Hadamard's steps of distance h and 2h of n floats; h a multiple of 8, n one of 4h.")
	x, n = a.arg("x"), a.arg("n")
	h := a.arg("h")
	a.SHLQ(Imm(2), h) // bytes
	a.SHLQ(Imm(2), n)
	end := a.GP64()
	a.LEAQ(at(x, n, 1, 0), end)
	h3 := a.GP64()
	a.LEAQ(at(h, h, 2, 0), h3)
	a.CMPQ(x, end)
	a.JGE(LabelRef("done"))
	a.Label("block")
	cnt := a.copy(h)
	a.SHRQ(Imm(5), cnt)
	a.loop("eight", cnt, func() {
		p := [4]Mem{mem(x, 0), at(x, h, 1, 0), at(x, h, 2, 0), at(x, h3, 1, 0)}
		var v, s [4]reg.VecVirtual
		for i := range v {
			v[i], s[i] = a.YMM(), a.YMM()
			a.VMOVUPS(p[i], v[i])
		}
		a.VADDPS(v[1], v[0], s[0])
		a.VSUBPS(v[1], v[0], s[1])
		a.VADDPS(v[3], v[2], s[2])
		a.VSUBPS(v[3], v[2], s[3])
		a.VADDPS(s[2], s[0], v[0])
		a.VADDPS(s[3], s[1], v[1])
		a.VSUBPS(s[2], s[0], v[2])
		a.VSUBPS(s[3], s[1], v[3])
		for i := range v {
			a.VMOVUPS(v[i], p[i])
		}
		a.add(x, 32)
	})
	a.ADDQ(h3, x)
	a.CMPQ(x, end)
	a.JL(LabelRef("block"))
	a.Label("done")
	a.ret()

	a.fn("hadamardLastAVX2", "(x *float32, n, h int)", "hadamardLastAVX2 does Hadamard's step of distance h of n floats; h a multiple of 8, n one of 2h.")
	x, n = a.arg("x"), a.arg("n")
	h = a.arg("h")
	a.SHLQ(Imm(2), h)
	a.SHLQ(Imm(2), n)
	end = a.GP64()
	a.LEAQ(at(x, n, 1, 0), end)
	a.CMPQ(x, end)
	a.JGE(LabelRef("done"))
	a.Label("block")
	cnt = a.copy(h)
	a.SHRQ(Imm(5), cnt)
	a.loop("eight", cnt, func() {
		v, u, s := a.YMM(), a.YMM(), a.YMM()
		a.VMOVUPS(mem(x, 0), v)
		a.VMOVUPS(at(x, h, 1, 0), u)
		a.VADDPS(u, v, s)
		a.VSUBPS(u, v, v)
		a.VMOVUPS(s, mem(x, 0))
		a.VMOVUPS(v, at(x, h, 1, 0))
		a.add(x, 32)
	})
	a.ADDQ(h, x)
	a.CMPQ(x, end)
	a.JL(LabelRef("block"))
	a.Label("done")
	a.ret()

	a.mapping("mulAVX2", "(y, x []float32)", "mulAVX2 computes y *= x.", "y", []string{"y", "x"}, func() func(v ...reg.VecVirtual) {
		return func(v ...reg.VecVirtual) { a.VMULPS(v[1], v[0], v[0]) }
	})
}

// ahead asks for memory 4 KiB ahead of w. A core of Emerald Rapids then reads 13 GB/s, all that it can, instead of 7;
// Zen 4 gained nothing by it when that was tried with T16.
func (a *asm) ahead(w reg.GPVirtual, disp int) { a.PREFETCHT0(mem(w, disp+4096)) }
