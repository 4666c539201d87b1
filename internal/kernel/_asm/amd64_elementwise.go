package main

import (
	"math"

	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// elementwise kernels are for AVX2 only: they take microseconds a token and wait for memory, where twice the
// width gains nothing.
func elementwise(a *asm) {
	a.mapping("addAVX2", "(y, x []float32)", "addAVX2 is Add.", "y", []string{"y", "x"}, func() func(v ...reg.VecVirtual) {
		return func(v ...reg.VecVirtual) { a.VADDPS(v[1], v[0], v[0]) }
	})
	a.mapping("scaleAVX2", "(y []float32, s float32)", "scaleAVX2 is Scale.", "y", []string{"y"}, func() func(v ...reg.VecVirtual) {
		s := a.broadcastArg("s")
		return func(v ...reg.VecVirtual) { a.VMULPS(s, v[0], v[0]) }
	})
	a.mapping("scaleRowAVX2", "(y []float32, acc []int32, s float32)", "scaleRowAVX2 is ScaleRow.", "y", []string{"acc"}, func() func(v ...reg.VecVirtual) {
		s := a.broadcastArg("s")
		return func(v ...reg.VecVirtual) {
			a.VCVTDQ2PS(v[0], v[0])
			a.VMULPS(s, v[0], v[0])
		}
	})
	a.mapping("rmsScaleAVX2", "(y, x, w []float32, inv float32)", "rmsScaleAVX2 computes y = w·(x·inv).", "y", []string{"x", "w"}, func() func(v ...reg.VecVirtual) {
		inv := a.broadcastArg("inv")
		return func(v ...reg.VecVirtual) {
			a.VMULPS(inv, v[0], v[0])
			a.VMULPS(v[1], v[0], v[0])
		}
	})
	a.mapping("relu2MulAVX2", "(y, gate, up []float32)", "relu2MulAVX2 is ReLU2Mul.", "y", []string{"gate", "up"}, func() func(v ...reg.VecVirtual) {
		zero := a.YMM()
		a.zero(zero)
		return func(v ...reg.VecVirtual) {
			a.VMAXPS(v[0], zero, v[0]) // 0 > g ? 0 : g, so that NaN stays
			a.VMULPS(v[0], v[0], v[0])
			a.VMULPS(v[1], v[0], v[0])
		}
	})
	a.mapping("siluMulAVX2", "(y, gate, up []float32)", "siluMulAVX2 is SiLUMul.", "y", []string{"gate", "up"}, func() func(v ...reg.VecVirtual) {
		return func(v ...reg.VecVirtual) {
			e := a.YMM()
			a.VXORPS(a.f32s(negZero), v[0], e)
			a.exp(e)
			a.VADDPS(a.f32s(1), e, e)
			a.VDIVPS(e, v[0], v[0])
			a.VMULPS(v[1], v[0], v[0])
		}
	})
	a.mapping("geluTanhAVX2", "(y, x []float32)", "geluTanhAVX2 is GELUTanh.", "y", []string{"x"}, func() func(v ...reg.VecVirtual) {
		return func(v ...reg.VecVirtual) {
			e, b := a.YMM(), a.YMM()
			a.VMULPS(v[0], v[0], e)
			a.VMOVUPS(a.f32s(geluB), b)
			a.VFMADD213PS(a.f32s(geluA), b, e)
			a.VMULPS(v[0], e, e)
			a.exp(e)
			a.VADDPS(a.f32s(1), e, e)
			a.VDIVPS(e, v[0], v[0])
		}
	})
	a.mapping("geluAVX2", "(y, x []float32)", "geluAVX2 is GELU.", "y", []string{"x"}, func() func(v ...reg.VecVirtual) {
		return func(v ...reg.VecVirtual) {
			z, t, p, one := a.YMM(), a.YMM(), a.YMM(), a.YMM()
			a.VMOVUPS(a.f32s(1), one)
			a.VANDPS(a.u32s(0x7fffffff), v[0], z)
			a.VMOVUPS(a.f32s(geluT), t)
			a.VFMADD213PS(one, z, t)
			a.VDIVPS(t, one, t)
			a.VMOVUPS(a.f32s(geluC[8]), p)
			for i := 7; i >= 0; i-- {
				a.VFMADD213PS(a.f32s(geluC[i]), t, p)
			}
			a.VMULPS(z, z, z)
			a.VMULPS(a.f32s(-0.5), z, z)
			a.exp(z)
			a.VMULPS(z, p, p) // Φ(-|x|)
			a.VSUBPS(p, one, t)
			a.VBLENDVPS(v[0], p, t, t) // by x's sign
			a.VMULPS(t, v[0], v[0])
		}
	})
	rope(a)
	maxAVX2(a)
	sumAVX2(a)
	softmaxExpAVX2(a)
	absMaxAVX2(a)
	quantizeAVX2(a)
}

// The constants are those of elementwise_generic.go.
const (
	expMin, expMax = -87.5, 88.75
	log2e          = 1.4426950408889634
	ln2Hi          = 0.693147182464599609375
	ln2Lo          = -1.90465429995776804525e-9
	expRound       = 0x1.8p23
	geluA, geluB   = -1.5957691216057308, -0.0713548162726002527
	geluT          = 0.3
)

var (
	negZero = math.Copysign(0, -1)
	expC    = []float64{1, 1, 0.4999999403953552, 0.1666652113199234, 0.04166838899254799, 0.00836874544620514, 0.0013814539415761828}
	geluC   = []float64{
		6.683365427306853e-06, 0.1194959431886673, 0.12186159193515778, 0.09491278976202011, 0.14199785888195038,
		-0.07572860270738602, 0.22798022627830505, -0.1688370406627655, 0.03831058368086815,
	}
)

// f32s and u32s are constants repeated in 8 lanes.
func (a *asm) f32s(f float64) Mem { return a.u32s(math.Float32bits(float32(f))) }

func (a *asm) u32s(u uint32) Mem {
	return a.data("c"+hex(u), u, u, u, u, u, u, u, u)
}

// exp replaces v by Exp of it, step by step as the definition does.
func (a *asm) exp(v reg.VecVirtual) {
	t, n, p := a.YMM(), a.YMM(), a.YMM()
	a.VMOVUPS(a.f32s(expMin), t)
	a.VMAXPS(v, t, v) // expMin > v ? expMin : v, so that NaN stays
	a.VMOVUPS(a.f32s(expMax), t)
	a.VMINPS(v, t, v)
	a.VMOVUPS(a.f32s(log2e), t)
	a.VFMADD213PS(a.f32s(expRound), v, t)
	a.VSUBPS(a.f32s(expRound), t, n)
	a.VFNMADD231PS(a.f32s(ln2Hi), n, v)
	a.VFNMADD231PS(a.f32s(ln2Lo), n, v)
	a.VMOVUPS(a.f32s(expC[6]), p)
	for i := 5; i >= 0; i-- {
		a.VFMADD213PS(a.f32s(expC[i]), v, p)
	}
	a.VPADDD(a.u32s(126), t, t)
	a.VPSLLD(Imm(23), t, t)
	a.VMULPS(t, p, p)
	a.VADDPS(p, p, v)
}

// tailTable is 32 words of ones, then 32 of zeros: loaded at word 32-n+8i it masks vector i of n elements.
func (a *asm) tailTable() Mem {
	var t [64]uint32
	for i := range 32 {
		t[i] = 0xffffffff
	}
	return a.data("tailmask", t[:]...)
}

// tailMask loads the masks for the 8·len(dst) elements of which the first n exist.
func (a *asm) tailMask(n reg.GPVirtual, dst ...reg.VecVirtual) {
	p, off := a.GP64(), a.copy(n)
	a.LEAQ(a.tailTable(), p)
	a.SHLQ(Imm(2), off)
	a.SUBQ(off, p)
	for i, d := range dst {
		a.VMOVDQU(mem(p, 128+32*i), d)
	}
}

// broadcastArg fills a register with a float32 parameter.
func (a *asm) broadcastArg(name string) reg.VecVirtual {
	v := a.YMM()
	a.VBROADCASTSS(a.addr(name), v)
	return v
}

// mapping writes a function that computes out[i] = f(in[0][i], in[1][i], …), 16 elements a turn, then 8, then
// the rest through masked moves. f leaves its result in v[0]; its constants are set up once.
func (a *asm) mapping(name, signature, doc, out string, in []string, setup func() func(v ...reg.VecVirtual)) {
	a.fn(name, signature, doc)
	f := setup()
	n := a.n(out)
	ptrs := map[string]reg.GPVirtual{out: a.ptr(out)}
	for _, i := range in {
		if _, ok := ptrs[i]; !ok {
			ptrs[i] = a.ptr(i)
		}
	}
	advance := func(bytes int) {
		a.add(ptrs[out], bytes)
		for i, p := range in {
			if p != out && (i == 0 || in[i-1] != p) {
				a.add(ptrs[p], bytes)
			}
		}
	}
	one := func(off int, mask reg.VecVirtual) {
		v := make([]reg.VecVirtual, len(in))
		for i, p := range in {
			v[i] = a.YMM()
			if mask != nil {
				a.VMASKMOVPS(mem(ptrs[p], off), mask, v[i])
			} else {
				a.VMOVUPS(mem(ptrs[p], off), v[i])
			}
		}
		f(v...)
		if mask != nil {
			a.VMASKMOVPS(v[0], mask, mem(ptrs[out], off))
		} else {
			a.VMOVUPS(v[0], mem(ptrs[out], off))
		}
	}
	c := a.copy(n)
	a.SHRQ(Imm(4), c)
	a.loop("sixteen", c, func() {
		one(0, nil)
		one(32, nil)
		advance(64)
	})
	a.TESTQ(U32(8), n)
	a.JZ(LabelRef("tail"))
	one(0, nil)
	advance(32)
	a.Label("tail")
	a.ANDQ(Imm(7), n)
	a.JZ(LabelRef("done"))
	mask := a.YMM()
	a.tailMask(n, mask)
	one(0, mask)
	a.Label("done")
	a.ret()
}

func rope(a *asm) {
	a.fn("ropeAVX2", "(x, cos, sin []float32)", "ropeAVX2 is Rope.")
	x, heads, half := a.ptr("x"), a.n("x"), a.n("cos")
	step := a.times(half, 4)
	mask, t := a.YMM(), a.copy(half)
	a.ANDQ(Imm(7), t)
	a.tailMask(t, mask)
	a.Label("head")
	a.CMPQ(heads, Imm(0))
	a.JLE(LabelRef("done"))
	cos, sin := a.ptr("cos"), a.ptr("sin")
	rotate := func(m reg.VecVirtual) {
		load := func(p Mem) reg.VecVirtual {
			v := a.YMM()
			if m != nil {
				a.VMASKMOVPS(p, m, v)
			} else {
				a.VMOVUPS(p, v)
			}
			return v
		}
		store := func(v reg.VecVirtual, p Mem) {
			if m != nil {
				a.VMASKMOVPS(v, m, p)
			} else {
				a.VMOVUPS(v, p)
			}
		}
		v, u, c, s := load(mem(x, 0)), load(at(x, step, 1, 0)), load(mem(cos, 0)), load(mem(sin, 0))
		vc, us, uc, vs := a.YMM(), a.YMM(), a.YMM(), a.YMM()
		a.VMULPS(c, v, vc)
		a.VMULPS(s, u, us)
		a.VMULPS(c, u, uc)
		a.VMULPS(s, v, vs)
		a.VSUBPS(us, vc, vc)
		a.VADDPS(vs, uc, uc)
		store(vc, mem(x, 0))
		store(uc, at(x, step, 1, 0))
	}
	c := a.copy(half)
	a.SHRQ(Imm(3), c)
	a.loop("eight", c, func() {
		rotate(nil)
		a.add(x, 32)
		a.add(cos, 32)
		a.add(sin, 32)
	})
	a.MOVQ(half, c)
	a.ANDQ(Imm(7), c)
	a.JZ(LabelRef("whole"))
	rotate(mask)
	a.LEAQ(at(x, c, 4, 0), x)
	a.Label("whole")
	a.ADDQ(step, x)
	a.SUBQ(half, heads)
	a.SUBQ(half, heads)
	a.JMP(LabelRef("head"))
	a.Label("done")
	a.ret()
}

// maxAVX2 starts every lane with -Inf.
func maxAVX2(a *asm) {
	a.fn("maxAVX2", "(x []float32) float32", "maxAVX2 is Max.")
	x, n := a.ptr("x"), a.n("x")
	var acc [4]reg.VecVirtual
	for i := range acc {
		acc[i] = a.YMM()
		a.VMOVUPS(a.f32s(math.Inf(-1)), acc[i])
	}
	c := a.copy(n)
	a.SHRQ(Imm(5), c)
	a.loop("block", c, func() {
		for i := range acc {
			a.VMAXPS(mem(x, 32*i), acc[i], acc[i])
		}
		a.add(x, 128)
	})
	a.ANDQ(Imm(31), n)
	a.loop("one", n, func() {
		v := a.YMM()
		a.VBROADCASTSS(mem(x, 0), v)
		a.VMAXPS(v, acc[0], acc[0])
		a.add(x, 4)
	})
	a.VMAXPS(acc[1], acc[0], acc[0])
	a.VMAXPS(acc[3], acc[2], acc[2])
	a.VMAXPS(acc[2], acc[0], acc[0])
	t, v := a.XMM(), acc[0].AsX()
	a.VEXTRACTF128(Imm(1), acc[0], t)
	a.VMAXPS(t, v, v)
	a.VPERMILPS(Imm(0x4e), v, t)
	a.VMAXPS(t, v, v)
	a.VPERMILPS(Imm(0xb1), v, t)
	a.VMAXPS(t, v, v)
	a.VMOVSS(v, a.result())
	a.ret()
}

// foldSum folds the four accumulators of a canonical sum and returns it.
func (a *asm) foldSum(acc [4]reg.VecVirtual) {
	a.VADDPS(acc[2], acc[0], acc[0])
	a.VADDPS(acc[3], acc[1], acc[1])
	a.VADDPS(acc[1], acc[0], acc[0])
	a.foldY(acc[0])
	a.VMOVSS(acc[0].AsX(), a.result())
	a.ret()
}

func (a *asm) result() Mem {
	b, err := a.ReturnIndex(0).Resolve()
	if err != nil {
		panic(err)
	}
	return b.Addr
}

func sumAVX2(a *asm) {
	a.fn("sumAVX2", "(x []float32) float32", "sumAVX2 is Sum.")
	x, n := a.ptr("x"), a.n("x")
	var acc, m [4]reg.VecVirtual
	for i := range acc {
		acc[i], m[i] = a.YMM(), a.YMM()
		a.zero(acc[i])
	}
	c := a.copy(n)
	a.SHRQ(Imm(5), c)
	a.loop("block", c, func() {
		for i := range acc {
			a.VADDPS(mem(x, 32*i), acc[i], acc[i])
		}
		a.add(x, 128)
	})
	a.ANDQ(Imm(31), n)
	a.tailMask(n, m[:]...)
	for i := range acc {
		v := a.YMM()
		a.VMASKMOVPS(mem(x, 32*i), m[i], v)
		a.VADDPS(v, acc[i], acc[i])
	}
	a.foldSum(acc)
}

func softmaxExpAVX2(a *asm) {
	a.fn("softmaxExpAVX2", "(s []float32, max float32) float32", "softmaxExpAVX2 is SoftmaxExp.")
	s, n := a.ptr("s"), a.n("s")
	maxv := a.broadcastArg("max")
	var acc [4]reg.VecVirtual
	for i := range acc {
		acc[i] = a.YMM()
		a.zero(acc[i])
	}
	c := a.copy(n)
	a.SHRQ(Imm(5), c)
	a.loop("block", c, func() {
		for i := range acc {
			v := a.YMM()
			a.VMOVUPS(mem(s, 32*i), v)
			a.VSUBPS(maxv, v, v)
			a.exp(v)
			a.VMOVUPS(v, mem(s, 32*i))
			a.VADDPS(v, acc[i], acc[i])
		}
		a.add(s, 128)
	})
	a.ANDQ(Imm(31), n)
	a.JZ(LabelRef("fold"))
	for i := range acc {
		v, m := a.YMM(), a.YMM()
		a.tailMask(n, m)
		a.VMASKMOVPS(mem(s, 32*i), m, v)
		a.VSUBPS(maxv, v, v)
		a.exp(v)
		a.VMASKMOVPS(v, m, mem(s, 32*i))
		a.VANDPS(m, v, v)
		a.VADDPS(v, acc[i], acc[i])
		a.SUBQ(Imm(8), n)
		if i < 3 {
			a.JLE(LabelRef("fold"))
		}
	}
	a.Label("fold")
	a.foldSum(acc)
}

func absMaxAVX2(a *asm) {
	a.fn("absMaxAVX2", "(x []float32) uint32", "absMaxAVX2 returns the bits of the largest |x|, as integers: NaN is above infinity.")
	x, n := a.ptr("x"), a.n("x")
	mask := a.YMM()
	a.VMOVUPS(a.u32s(0x7fffffff), mask)
	var acc [4]reg.VecVirtual
	for i := range acc {
		acc[i] = a.YMM()
		a.zero(acc[i])
	}
	take := func(i int, v reg.VecVirtual) {
		a.VPAND(mask, v, v)
		a.VPMAXUD(v, acc[i], acc[i])
	}
	c := a.copy(n)
	a.SHRQ(Imm(5), c)
	a.loop("block", c, func() {
		for i := range acc {
			v := a.YMM()
			a.VMOVDQU(mem(x, 32*i), v)
			take(i, v)
		}
		a.add(x, 128)
	})
	a.ANDQ(Imm(31), n)
	m := [4]reg.VecVirtual{a.YMM(), a.YMM(), a.YMM(), a.YMM()}
	a.tailMask(n, m[:]...)
	for i := range acc {
		v := a.YMM()
		a.VMASKMOVPS(mem(x, 32*i), m[i], v)
		take(i, v)
	}
	a.VPMAXUD(acc[1], acc[0], acc[0])
	a.VPMAXUD(acc[3], acc[2], acc[2])
	a.VPMAXUD(acc[2], acc[0], acc[0])
	t, v := a.XMM(), acc[0].AsX()
	a.VEXTRACTI128(Imm(1), acc[0], t)
	a.VPMAXUD(t, v, v)
	a.VPSHUFD(Imm(0x4e), v, t)
	a.VPMAXUD(t, v, v)
	a.VPSHUFD(Imm(0xb1), v, t)
	a.VPMAXUD(t, v, v)
	r := a.GP32()
	a.VMOVD(v, r)
	a.MOVL(r, a.result())
	a.ret()
}

// VCVTPS2DQ rounds half to even; finite x give |x·inv| ≤ 127, so that packing saturates nothing.
func quantizeAVX2(a *asm) {
	a.fn("quantizeAVX2", "(q []int8, x []float32, inv float32) int32",
		"quantizeAVX2 sets q = round(x·inv), the rest of q to 0, and returns their sum. len(q) is Pad16(len(x)).")
	q, x, n := a.ptr("q"), a.ptr("x"), a.n("x")
	inv := a.broadcastArg("inv")
	order, sum := a.YMM(), a.YMM()
	a.VMOVDQU(a.data("packorder", 0, 4, 1, 5, 2, 6, 3, 7), order)
	a.zero(sum)
	var v [4]reg.VecVirtual
	convert := func() {
		for i := range v {
			a.VMULPS(inv, v[i], v[i])
			a.VCVTPS2DQ(v[i], v[i])
		}
		s, t := a.YMM(), a.YMM()
		a.VPADDD(v[1], v[0], s)
		a.VPADDD(v[3], v[2], t)
		a.VPADDD(t, s, s)
		a.VPADDD(s, sum, sum)
		a.VPACKSSDW(v[1], v[0], v[0]) // within 128-bit halves, hence order
		a.VPACKSSDW(v[3], v[2], v[2])
		a.VPACKSSWB(v[2], v[0], v[0])
		a.VPERMD(v[0], order, v[0])
	}
	for i := range v {
		v[i] = a.YMM()
	}
	c := a.copy(n)
	a.SHRQ(Imm(5), c)
	a.loop("block", c, func() {
		for i := range v {
			a.VMOVUPS(mem(x, 32*i), v[i])
		}
		convert()
		a.VMOVDQU(v[0], mem(q, 0))
		a.add(x, 128)
		a.add(q, 32)
	})
	a.ANDQ(Imm(31), n)
	a.JZ(LabelRef("done"))
	m := [4]reg.VecVirtual{a.YMM(), a.YMM(), a.YMM(), a.YMM()}
	a.tailMask(n, m[:]...)
	for i := range v {
		a.VMASKMOVPS(mem(x, 32*i), m[i], v[i])
	}
	convert()
	a.VMOVDQU(v[0].AsX(), mem(q, 0))
	a.CMPQ(n, Imm(16))
	a.JLE(LabelRef("done"))
	a.VEXTRACTI128(Imm(1), v[0], v[0].AsX())
	a.VMOVDQU(v[0].AsX(), mem(q, 16))
	a.Label("done")
	t, s := a.XMM(), sum.AsX()
	a.VEXTRACTI128(Imm(1), sum, t)
	a.VPADDD(t, s, s)
	a.VPSHUFD(Imm(0x4e), s, t)
	a.VPADDD(t, s, s)
	a.VPSHUFD(Imm(0xb1), s, t)
	a.VPADDD(t, s, s)
	r := a.GP32()
	a.VMOVD(s, r)
	a.MOVL(r, a.result())
	a.ret()
}
