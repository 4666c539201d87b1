// Command gemm_amd64_asm writes gemm_amd64.s: the micro-kernels of the training products and the
// passes that quantise and lay out their operands. Run it through go generate in internal/gemm.
package main

import (
	"fmt"

	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

const (
	mr = 8  // rows of C a micro-kernel writes
	nr = 32 // columns
)

func main() {
	ConstraintExpr("!purego")
	tileF32AVX512()
	tileI16AVX512()
	tileI8AVX512()
	tileF32AVX2()
	tileI16AVX2()
	tileI8AVX2()
	transpose8()
	pairI8()
	pairF32()
	colMaxAbs()
	absMax()
	sumAbs()
	quantI8()
	quantI16()
	ternaryCodes()
	elementwise()
	Generate()
}

// text begins a function. Without the pragma everything it points at would come from the heap.
func text(name, signature string) {
	TEXT(name, NOSPLIT, signature)
	Pragma("noescape")
}

func mem(p reg.Register, disp int) operand.Mem { return operand.Mem{Base: p, Disp: disp} }

// cRow addresses row i of C: base + i·ldc bytes, kept in one register that moves down.
type tile struct{ c, ldc, a, b, k reg.GPVirtual }

func loadTile(count string) tile {
	var t tile
	t.c = Load(Param("c"), GP64()).(reg.GPVirtual)
	t.ldc = Load(Param("ldc"), GP64()).(reg.GPVirtual)
	SHLQ(operand.U8(2), t.ldc)
	t.a = Load(Param("a"), GP64()).(reg.GPVirtual)
	t.b = Load(Param("b"), GP64()).(reg.GPVirtual)
	t.k = Load(Param(count), GP64()).(reg.GPVirtual)
	return t
}

// tileF32AVX512: acc[8][2] zmm. Every element is one chain of fused multiply-adds in the order of k,
// begun from C when add ≠ 0, so blocking over k changes no bit.
func tileF32AVX512() {
	text("tileF32AVX512", "func(c *float32, ldc int, a, b *float32, k int, add int)")
	Doc("tileF32AVX512 is tileF32Generic with 16 lanes.")
	t := loadTile("k")
	add := Load(Param("add"), GP64())
	var acc [mr][2]reg.VecVirtual
	for i := range acc {
		for j := range acc[i] {
			acc[i][j] = ZMM()
			VPXORD(acc[i][j], acc[i][j], acc[i][j])
		}
	}
	TESTQ(add, add)
	JZ(operand.LabelRef("loop"))
	p := GP64()
	MOVQ(t.c, p)
	for i := range acc {
		VMOVUPS(mem(p, 0), acc[i][0])
		VMOVUPS(mem(p, 64), acc[i][1])
		ADDQ(t.ldc, p)
	}
	Label("loop")
	b0, b1, x := ZMM(), ZMM(), ZMM()
	step := func(u int) {
		VMOVUPS(mem(t.b, u*128), b0)
		VMOVUPS(mem(t.b, u*128+64), b1)
		for i := range acc {
			VBROADCASTSS(mem(t.a, u*32+4*i), x)
			VFMADD231PS(x, b0, acc[i][0])
			VFMADD231PS(x, b1, acc[i][1])
		}
	}
	CMPQ(t.k, operand.U8(2))
	JL(operand.LabelRef("tail"))
	Label("two")
	step(0)
	step(1)
	ADDQ(operand.U8(64), t.a)
	ADDQ(operand.U32(256), t.b)
	SUBQ(operand.U8(2), t.k)
	CMPQ(t.k, operand.U8(2))
	JGE(operand.LabelRef("two"))
	Label("tail")
	TESTQ(t.k, t.k)
	JZ(operand.LabelRef("done"))
	step(0)
	Label("done")
	for i := range acc {
		VMOVUPS(acc[i][0], mem(t.c, 0))
		VMOVUPS(acc[i][1], mem(t.c, 64))
		ADDQ(t.ldc, t.c)
	}
	VZEROUPPER()
	RET()
}

// storeScaled writes float32(acc)·s[i] to C, or adds it there when add ≠ 0: one multiplication and
// one addition, each rounded, as the plain definition does.
func storeScaledAVX512(t tile, acc [mr][2]reg.VecVirtual) {
	sm := Load(Param("s"), GP64())
	add := Load(Param("add"), GP64())
	s := ZMM()
	TESTQ(add, add)
	JNZ(operand.LabelRef("sum"))
	for i := range acc {
		VBROADCASTSS(mem(sm.(reg.GPVirtual), 4*i), s)
		for j := range acc[i] {
			VCVTDQ2PS(acc[i][j], acc[i][j])
			VMULPS(s, acc[i][j], acc[i][j])
			VMOVUPS(acc[i][j], mem(t.c, 64*j))
		}
		ADDQ(t.ldc, t.c)
	}
	VZEROUPPER()
	RET()
	Label("sum")
	for i := range acc {
		VBROADCASTSS(mem(sm.(reg.GPVirtual), 4*i), s)
		for j := range acc[i] {
			VCVTDQ2PS(acc[i][j], acc[i][j])
			VMULPS(s, acc[i][j], acc[i][j])
			VADDPS(mem(t.c, 64*j), acc[i][j], acc[i][j])
			VMOVUPS(acc[i][j], mem(t.c, 64*j))
		}
		ADDQ(t.ldc, t.c)
	}
	VZEROUPPER()
	RET()
}

// tileI16AVX512: one VPDPWSSD is 16 lanes of two int16 products, added to int32.
func tileI16AVX512() {
	text("tileI16AVX512", "func(c *float32, ldc int, a, b *uint32, steps int, s *float32, add int)")
	Doc("tileI16AVX512 is tileI16Generic with VPDPWSSD.")
	t := loadTile("steps")
	acc := zeroZ()
	b0, b1, x := ZMM(), ZMM(), ZMM()
	Label("loop")
	VMOVDQU32(mem(t.b, 0), b0)
	VMOVDQU32(mem(t.b, 64), b1)
	for i := range acc {
		VPBROADCASTD(mem(t.a, 4*i), x)
		VPDPWSSD(x, b0, acc[i][0])
		VPDPWSSD(x, b1, acc[i][1])
	}
	ADDQ(operand.U8(32), t.a)
	ADDQ(operand.U32(128), t.b)
	DECQ(t.k)
	JNZ(operand.LabelRef("loop"))
	storeScaledAVX512(t, acc)
}

func zeroZ() [mr][2]reg.VecVirtual {
	var acc [mr][2]reg.VecVirtual
	for i := range acc {
		for j := range acc[i] {
			acc[i][j] = ZMM()
			VPXORD(acc[i][j], acc[i][j], acc[i][j])
		}
	}
	return acc
}

// tileI8AVX512: one VPDPBUSD is 16 lanes of four products of a code 0..2 (ŵ+1, unsigned) and an int8
// activation; init holds −Σx̂ of the row, which turns ŵ+1 back into ŵ.
func tileI8AVX512() {
	text("tileI8AVX512", "func(c *float32, ldc int, a, b *uint32, steps int, s *float32, init *int32, add int)")
	Doc("tileI8AVX512 is tileI8Generic with VPDPBUSD.")
	t := loadTile("steps")
	init := Load(Param("init"), GP64()).(reg.GPVirtual)
	var acc [mr][2]reg.VecVirtual
	for i := range acc {
		for j := range acc[i] {
			acc[i][j] = ZMM()
			VPBROADCASTD(mem(init, 4*i), acc[i][j])
		}
	}
	b0, b1, x := ZMM(), ZMM(), ZMM()
	Label("loop")
	VMOVDQU32(mem(t.b, 0), b0)
	VMOVDQU32(mem(t.b, 64), b1)
	for i := range acc {
		VPBROADCASTD(mem(t.a, 4*i), x)
		VPDPBUSD(x, b0, acc[i][0])
		VPDPBUSD(x, b1, acc[i][1])
	}
	ADDQ(operand.U8(32), t.a)
	ADDQ(operand.U32(128), t.b)
	DECQ(t.k)
	JNZ(operand.LabelRef("loop"))
	storeScaledAVX512(t, acc)
}

// The AVX2 tiles walk the same panels in four quarters of 4 rows × 16 columns: 8 accumulators,
// enough to hide a fused multiply-add's latency, and 2+1+1 registers for operands.
func quarters(name string, f func(q int, c, a, b reg.GPVirtual, row, col int, t tile)) {
	t := loadTile(name)
	for q := range 4 {
		row, col := q/2*4, q%2*16
		c, a, b := GP64(), GP64(), GP64()
		MOVQ(t.c, c)
		for range row {
			ADDQ(t.ldc, c)
		}
		if col > 0 {
			ADDQ(operand.U8(64), c)
		}
		MOVQ(t.a, a)
		MOVQ(t.b, b)
		f(q, c, a, b, row, col, t)
	}
	VZEROUPPER()
	RET()
}

func tileF32AVX2() {
	text("tileF32AVX2", "func(c *float32, ldc int, a, b *float32, k int, add int)")
	Doc("tileF32AVX2 is tileF32Generic with 8 lanes.")
	quarters("k", func(q int, c, a, b reg.GPVirtual, row, col int, t tile) {
		var acc [4][2]reg.VecVirtual
		for i := range acc {
			for j := range acc[i] {
				acc[i][j] = YMM()
				VXORPS(acc[i][j], acc[i][j], acc[i][j])
			}
		}
		loop := fmt.Sprintf("loop%d", q)
		add := Load(Param("add"), GP64())
		TESTQ(add, add)
		k := GP64()
		MOVQ(t.k, k)
		JZ(operand.LabelRef(loop))
		p := GP64()
		MOVQ(c, p)
		for i := range acc {
			for j := range acc[i] {
				VMOVUPS(mem(p, 32*j), acc[i][j])
			}
			ADDQ(t.ldc, p)
		}
		Label(loop)
		b0, b1, x := YMM(), YMM(), YMM()
		VMOVUPS(mem(b, 4*col), b0)
		VMOVUPS(mem(b, 4*col+32), b1)
		for i := range acc {
			VBROADCASTSS(mem(a, 4*(row+i)), x)
			VFMADD231PS(x, b0, acc[i][0])
			VFMADD231PS(x, b1, acc[i][1])
		}
		ADDQ(operand.U8(32), a)
		ADDQ(operand.U32(128), b)
		DECQ(k)
		JNZ(operand.LabelRef(loop))
		for i := range acc {
			for j := range acc[i] {
				VMOVUPS(acc[i][j], mem(c, 32*j))
			}
			ADDQ(t.ldc, c)
		}
	})
}

func storeScaledAVX2(q int, c reg.GPVirtual, row int, t tile, acc [4][2]reg.VecVirtual) {
	sm := Load(Param("s"), GP64()).(reg.GPVirtual)
	add := Load(Param("add"), GP64())
	s := YMM()
	sum, end := fmt.Sprintf("sum%d", q), fmt.Sprintf("end%d", q)
	TESTQ(add, add)
	JNZ(operand.LabelRef(sum))
	for _, adding := range []bool{false, true} {
		if adding {
			Label(sum)
		}
		for i := range acc {
			VBROADCASTSS(mem(sm, 4*(row+i)), s)
			for j := range acc[i] {
				VCVTDQ2PS(acc[i][j], acc[i][j])
				VMULPS(s, acc[i][j], acc[i][j])
				if adding {
					VADDPS(mem(c, 32*j), acc[i][j], acc[i][j])
				}
				VMOVUPS(acc[i][j], mem(c, 32*j))
			}
			ADDQ(t.ldc, c)
		}
		if !adding {
			JMP(operand.LabelRef(end))
		}
	}
	Label(end)
}

func tileI16AVX2() {
	text("tileI16AVX2", "func(c *float32, ldc int, a, b *uint32, steps int, s *float32, add int)")
	Doc("tileI16AVX2 is tileI16Generic with VPMADDWD.")
	quarters("steps", func(q int, c, a, b reg.GPVirtual, row, col int, t tile) {
		acc := zeroY()
		loop := fmt.Sprintf("loop%d", q)
		k := GP64()
		MOVQ(t.k, k)
		Label(loop)
		b0, b1, x, y := YMM(), YMM(), YMM(), YMM()
		VMOVDQU(mem(b, 4*col), b0)
		VMOVDQU(mem(b, 4*col+32), b1)
		for i := range acc {
			VPBROADCASTD(mem(a, 4*(row+i)), x)
			VPMADDWD(x, b0, y)
			VPADDD(y, acc[i][0], acc[i][0])
			VPMADDWD(x, b1, y)
			VPADDD(y, acc[i][1], acc[i][1])
		}
		ADDQ(operand.U8(32), a)
		ADDQ(operand.U32(128), b)
		DECQ(k)
		JNZ(operand.LabelRef(loop))
		storeScaledAVX2(q, c, row, t, acc)
	})
}

func zeroY() [4][2]reg.VecVirtual {
	var acc [4][2]reg.VecVirtual
	for i := range acc {
		for j := range acc[i] {
			acc[i][j] = YMM()
			VPXOR(acc[i][j], acc[i][j], acc[i][j])
		}
	}
	return acc
}

// tileI8AVX2: VPMADDUBSW adds two products ≤ 2·128, VPMADDWD by ones two of those sums, so nothing
// can overflow an int16 on the way to int32.
func tileI8AVX2() {
	text("tileI8AVX2", "func(c *float32, ldc int, a, b *uint32, steps int, s *float32, init *int32, add int)")
	Doc("tileI8AVX2 is tileI8Generic with VPMADDUBSW and VPMADDWD.")
	quarters("steps", func(q int, c, a, b reg.GPVirtual, row, col int, t tile) {
		init := Load(Param("init"), GP64()).(reg.GPVirtual)
		var acc [4][2]reg.VecVirtual
		for i := range acc {
			for j := range acc[i] {
				acc[i][j] = YMM()
				VPBROADCASTD(mem(init, 4*(row+i)), acc[i][j])
			}
		}
		ones := YMM()
		VPCMPEQW(ones, ones, ones)
		VPABSW(ones, ones)
		loop := fmt.Sprintf("loop%d", q)
		k := GP64()
		MOVQ(t.k, k)
		Label(loop)
		b0, b1, x, y := YMM(), YMM(), YMM(), YMM()
		VMOVDQU(mem(b, 4*col), b0)
		VMOVDQU(mem(b, 4*col+32), b1)
		for i := range acc {
			VPBROADCASTD(mem(a, 4*(row+i)), x)
			VPMADDUBSW(x, b0, y)
			VPMADDWD(ones, y, y)
			VPADDD(y, acc[i][0], acc[i][0])
			VPMADDUBSW(x, b1, y)
			VPMADDWD(ones, y, y)
			VPADDD(y, acc[i][1], acc[i][1])
		}
		ADDQ(operand.U8(32), a)
		ADDQ(operand.U32(128), b)
		DECQ(k)
		JNZ(operand.LabelRef(loop))
		storeScaledAVX2(q, c, row, t, acc)
	})
}

// transpose8 turns 8 rows × 8·blocks columns of 32-bit units into column order: unit (r, k) goes to
// dst[k·dstStride + r]. Strides are in units. addb is added to every byte on the way.
func transpose8() {
	text("transpose8AVX2", "func(dst *uint32, dstStride int, src *uint32, srcStride int, blocks int, addb uint32)")
	Doc("transpose8AVX2 is transpose8Generic with 8×8 blocks in registers.")
	dst := Load(Param("dst"), GP64()).(reg.GPVirtual)
	ds := Load(Param("dstStride"), GP64()).(reg.GPVirtual)
	src := Load(Param("src"), GP64()).(reg.GPVirtual)
	ss := Load(Param("srcStride"), GP64()).(reg.GPVirtual)
	n := Load(Param("blocks"), GP64()).(reg.GPVirtual)
	add := YMM()
	addr, _ := Param("addb").Resolve()
	VBROADCASTSS(addr.Addr, add)
	SHLQ(operand.U8(2), ds)
	SHLQ(operand.U8(2), ss)
	Label("loop")
	p := GP64()
	MOVQ(src, p)
	var r [8]reg.VecVirtual
	for i := range r {
		r[i] = YMM()
		VMOVUPS(mem(p, 0), r[i])
		if i < 7 {
			ADDQ(ss, p)
		}
	}
	// 4×4 transposes inside the 128-bit halves, then exchange the halves.
	var u [8]reg.VecVirtual
	for i := 0; i < 8; i += 2 {
		lo, hi := YMM(), YMM()
		VUNPCKLPS(r[i+1], r[i], lo)
		VUNPCKHPS(r[i+1], r[i], hi)
		u[i], u[i+1] = lo, hi
	}
	var v [8]reg.VecVirtual
	for g := 0; g < 8; g += 4 {
		for i := range 2 {
			a, b := u[g+i], u[g+2+i]
			lo, hi := YMM(), YMM()
			VUNPCKLPD(b, a, lo)
			VUNPCKHPD(b, a, hi)
			v[g+2*i], v[g+2*i+1] = lo, hi
		}
	}
	for k := range 8 {
		o := YMM()
		if k < 4 {
			VINSERTF128(operand.U8(1), v[4+k].AsX(), v[k], o)
		} else {
			VPERM2F128(operand.U8(0x31), v[k], v[k-4], o)
		}
		VPADDB(add, o, o)
		VMOVDQU(o, mem(dst, 0))
		ADDQ(ds, dst)
	}
	ADDQ(operand.U8(32), src)
	DECQ(n)
	JNZ(operand.LabelRef("loop"))
	VZEROUPPER()
	RET()
}

// pair loops: panels of 8·groups columns, each panel `stride` units after the last.
func pairLoop(body func(col, out reg.GPVirtual)) {
	dst := Load(Param("dst"), GP64()).(reg.GPVirtual)
	stride := Load(Param("stride"), GP64()).(reg.GPVirtual)
	SHLQ(operand.U8(2), stride)
	groups := Load(Param("groups"), GP64()).(reg.GPVirtual)
	panels := Load(Param("panels"), GP64()).(reg.GPVirtual)
	col := GP64()
	XORQ(col, col)
	Label("panel")
	out, g := GP64(), GP64()
	MOVQ(dst, out)
	MOVQ(groups, g)
	Label("group")
	body(col, out)
	ADDQ(operand.U8(8), col)
	ADDQ(operand.U8(32), out)
	DECQ(g)
	JNZ(operand.LabelRef("group"))
	ADDQ(stride, dst)
	DECQ(panels)
	JNZ(operand.LabelRef("panel"))
	VZEROUPPER()
	RET()
}

func pairI8() {
	text("pairI8AVX2", "func(dst *uint32, stride, groups, panels int, r0, r1 *int8)")
	Doc("pairI8AVX2 is pairI8Generic, 8 columns at a time.")
	r0 := Load(Param("r0"), GP64()).(reg.GPVirtual)
	r1 := Load(Param("r1"), GP64()).(reg.GPVirtual)
	pairLoop(func(col, out reg.GPVirtual) {
		a, b := YMM(), YMM()
		VPMOVSXBD(operand.Mem{Base: r0, Index: col, Scale: 1}, a)
		VPMOVSXBD(operand.Mem{Base: r1, Index: col, Scale: 1}, b)
		VPSLLD(operand.U8(16), b, b)
		VPBLENDW(operand.U8(0xaa), b, a, a)
		VMOVDQU(a, mem(out, 0))
	})
}

func pairF32() {
	text("pairF32AVX2", "func(dst *uint32, stride, groups, panels int, r0, r1, inv *float32, s0, s1 float32)")
	Doc("pairF32AVX2 is pairF32Generic, 8 columns at a time.")
	r0 := Load(Param("r0"), GP64()).(reg.GPVirtual)
	r1 := Load(Param("r1"), GP64()).(reg.GPVirtual)
	inv := Load(Param("inv"), GP64()).(reg.GPVirtual)
	s0, s1 := YMM(), YMM()
	m0, _ := Param("s0").Resolve()
	m1, _ := Param("s1").Resolve()
	VBROADCASTSS(m0.Addr, s0)
	VBROADCASTSS(m1.Addr, s1)
	pairLoop(func(col, out reg.GPVirtual) {
		a, b, i := YMM(), YMM(), YMM()
		VMOVUPS(operand.Mem{Base: inv, Index: col, Scale: 4}, i)
		VMULPS(operand.Mem{Base: r0, Index: col, Scale: 4}, s0, a)
		VMULPS(operand.Mem{Base: r1, Index: col, Scale: 4}, s1, b)
		VMULPS(i, a, a)
		VMULPS(i, b, b)
		VCVTPS2DQ(a, a)
		VCVTPS2DQ(b, b)
		VPSLLD(operand.U8(16), b, b)
		VPBLENDW(operand.U8(0xaa), b, a, a)
		VMOVDQU(a, mem(out, 0))
	})
}

func absMask() reg.VecVirtual {
	m := YMM()
	VPCMPEQD(m, m, m)
	VPSRLD(operand.U8(1), m, m)
	return m
}

func colMaxAbs() {
	text("colMaxAbsAVX2", "func(m, x *float32, s float32, n int)")
	Doc("colMaxAbsAVX2 is colMaxAbsGeneric for n a multiple of 8.")
	m := Load(Param("m"), GP64()).(reg.GPVirtual)
	x := Load(Param("x"), GP64()).(reg.GPVirtual)
	n := Load(Param("n"), GP64()).(reg.GPVirtual)
	s := YMM()
	ms, _ := Param("s").Resolve()
	VBROADCASTSS(ms.Addr, s)
	mask := absMask()
	i := GP64()
	XORQ(i, i)
	Label("loop")
	v := YMM()
	VMULPS(operand.Mem{Base: x, Index: i, Scale: 4}, s, v)
	VANDPS(mask, v, v)
	VMAXPS(operand.Mem{Base: m, Index: i, Scale: 4}, v, v)
	VMOVUPS(v, operand.Mem{Base: m, Index: i, Scale: 4})
	ADDQ(operand.U8(8), i)
	CMPQ(i, n)
	JL(operand.LabelRef("loop"))
	VZEROUPPER()
	RET()
}

func scaled(name, doc, sig string) (dst, x, n reg.GPVirtual, s reg.VecVirtual) {
	text(name, sig)
	Doc(doc)
	dst = Load(Param("dst"), GP64()).(reg.GPVirtual)
	x = Load(Param("x"), GP64()).(reg.GPVirtual)
	n = Load(Param("n"), GP64()).(reg.GPVirtual)
	s = YMM()
	m, _ := Param("s").Resolve()
	VBROADCASTSS(m.Addr, s)
	return dst, x, n, s
}

// pack32 converts four vectors of eight int32 to 32 int8 in order: VPACKSSDW and VPACKSSWB work per
// 128-bit half, so one VPERMD puts the dwords back.
func pack32(v [4]reg.VecVirtual, order reg.VecVirtual) reg.VecVirtual {
	VPACKSSDW(v[1], v[0], v[0])
	VPACKSSDW(v[3], v[2], v[2])
	VPACKSSWB(v[2], v[0], v[0])
	VPERMD(v[0], order, v[0])
	return v[0]
}

var orderMem operand.Mem

func quantI8() {
	orderMem = GLOBL("packOrder", 8|16)
	for i, k := range []uint32{0, 4, 1, 5, 2, 6, 3, 7} {
		DATA(4*i, operand.U32(k))
	}
	dst, x, n, s := scaled("quantI8AVX2", "quantI8AVX2 is quantI8Generic for n a positive multiple of 32.", "func(dst *int8, x *float32, s float32, n int)")
	order := YMM()
	VMOVDQU(orderMem, order)
	Label("loop")
	var v [4]reg.VecVirtual
	for i := range v {
		v[i] = YMM()
		VMULPS(mem(x, 32*i), s, v[i])
		VCVTPS2DQ(v[i], v[i])
	}
	VMOVDQU(pack32(v, order), mem(dst, 0))
	ADDQ(operand.U32(128), x)
	ADDQ(operand.U8(32), dst)
	SUBQ(operand.U8(32), n)
	JNZ(operand.LabelRef("loop"))
	VZEROUPPER()
	RET()
}

func quantI16() {
	dst, x, n, s := scaled("quantI16AVX2", "quantI16AVX2 is quantI16Generic for n a positive multiple of 16.", "func(dst *int16, x *float32, s float32, n int)")
	Label("loop")
	a, b := YMM(), YMM()
	VMULPS(mem(x, 0), s, a)
	VMULPS(mem(x, 32), s, b)
	VCVTPS2DQ(a, a)
	VCVTPS2DQ(b, b)
	VPACKSSDW(b, a, a)
	VPERMQ(operand.U8(0xd8), a, a)
	VMOVDQU(a, mem(dst, 0))
	ADDQ(operand.U8(64), x)
	ADDQ(operand.U8(32), dst)
	SUBQ(operand.U8(16), n)
	JNZ(operand.LabelRef("loop"))
	VZEROUPPER()
	RET()
}

func ternaryCodes() {
	dst, x, n, s := scaled("ternaryCodesAVX2", "ternaryCodesAVX2 is ternaryCodesGeneric for n a positive multiple of 32.", "func(dst *int8, x *float32, s float32, n int)")
	order := YMM()
	VMOVDQU(orderMem, order)
	one, minus := YMM(), YMM()
	VPCMPEQD(minus, minus, minus)
	VPABSD(minus, one)
	Label("loop")
	var v [4]reg.VecVirtual
	for i := range v {
		v[i] = YMM()
		VMULPS(mem(x, 32*i), s, v[i])
		VCVTPS2DQ(v[i], v[i])
		VPMINSD(one, v[i], v[i])
		VPMAXSD(minus, v[i], v[i])
	}
	VMOVDQU(pack32(v, order), mem(dst, 0))
	ADDQ(operand.U32(128), x)
	ADDQ(operand.U8(32), dst)
	SUBQ(operand.U8(32), n)
	JNZ(operand.LabelRef("loop"))
	VZEROUPPER()
	RET()
}
