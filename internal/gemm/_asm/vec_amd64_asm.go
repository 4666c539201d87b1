package main

import (
	"math"

	. "github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// Element-wise passes, 8 lanes, products and sums rounded one by one (no fused multiply-add), so that the
// definitions in vec_generic.go are the same arithmetic in plain Go.

type V = reg.VecVirtual

var (
	consts  operand.Mem
	constAt = map[uint32]int{}
)

// c returns the memory operand of a constant broadcast to 8 lanes.
func c(v float32) operand.Mem { return bits(math.Float32bits(v)) }

func bits(b uint32) operand.Mem {
	at, ok := constAt[b]
	if !ok {
		panic("constant is not in the table")
	}
	return consts.Offset(32 * at)
}

func constants() {
	list := []uint32{}
	for _, v := range []float32{
		1, 2, 0, 1.44269504, 0.693359375, -2.12194440e-4, 87, -87,
		1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1,
		0.5, 0.70710678, 0.3275911, 0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429, 0.39894228, -0.5,
	} {
		list = append(list, math.Float32bits(v))
	}
	list = append(list, 1<<31, 127)
	consts = GLOBL("vecConst", 8|16)
	for i, b := range list {
		if _, ok := constAt[b]; ok {
			panic("constant twice")
		}
		constAt[b] = i
		for l := range 8 {
			DATA(32*i+4*l, operand.U32(b))
		}
	}
}

// expV overwrites x with exp(x), x clamped to ±87: x = n·ln2 + r, a polynomial in r (Cephes expf), exponent added.
func expV(x V) {
	n, p, k := YMM(), YMM(), YMM()
	VMINPS(c(87), x, x)
	VMAXPS(c(-87), x, x)
	VMULPS(c(1.44269504), x, n)
	VCVTPS2DQ(n, k)
	VCVTDQ2PS(k, n)
	t := YMM()
	VMULPS(c(0.693359375), n, t)
	VSUBPS(t, x, x)
	VMULPS(c(-2.12194440e-4), n, t)
	VSUBPS(t, x, x)
	VMOVUPS(c(1.9875691500e-4), p)
	for _, v := range []float32{1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1} {
		VMULPS(x, p, p)
		VADDPS(c(v), p, p)
	}
	VMULPS(x, x, t)
	VMULPS(t, p, p)
	VADDPS(x, p, p)
	VADDPS(c(1), p, p)
	VPADDD(bits(127), k, k)
	VPSLLD(operand.U8(23), k, k)
	VMULPS(k, p, x)
}

// sigmoidV returns 1/(1+exp(−x)).
func sigmoidV(x V) V {
	s := YMM()
	VXORPS(bits(1<<31), x, s)
	expV(s)
	VADDPS(c(1), s, s)
	one := YMM()
	VMOVUPS(c(1), one)
	VDIVPS(s, one, s)
	return s
}

// loop runs body for 8 elements at a time; at(name) is the memory of a slice parameter.
func loop(name, doc, sig string, slices []string, scalars []string, body func(at func(string) operand.Mem, s map[string]V)) {
	text(name, sig)
	Doc(doc)
	p := map[string]reg.GPVirtual{}
	for _, n := range slices {
		p[n] = Load(Param(n), GP64()).(reg.GPVirtual)
	}
	n := Load(Param("n"), GP64()).(reg.GPVirtual)
	s := map[string]V{}
	for _, k := range scalars {
		s[k] = YMM()
		m, err := Param(k).Resolve()
		if err != nil {
			panic(err)
		}
		VBROADCASTSS(m.Addr, s[k])
	}
	i := GP64()
	XORQ(i, i)
	Label("loop")
	body(func(k string) operand.Mem { return operand.Mem{Base: p[k], Index: i, Scale: 4} }, s)
	ADDQ(operand.U8(8), i)
	CMPQ(i, n)
	JL(operand.LabelRef("loop"))
	VZEROUPPER()
	RET()
}

func ld(m operand.Mem) V {
	v := YMM()
	VMOVUPS(m, v)
	return v
}

func mul(a operand.Op, b V) V  { v := YMM(); VMULPS(a, b, v); return v }
func plus(a operand.Op, b V) V { v := YMM(); VADDPS(a, b, v); return v }

// minus returns a − b.
func minus(a V, b operand.Op) V { v := YMM(); VSUBPS(b, a, v); return v }

func elementwise() {
	constants()
	loop("siluMulAVX2", "siluMulAVX2 is siluMulGeneric.", "func(h, gate, u *float32, n int)", []string{"h", "gate", "u"}, nil,
		func(at func(string) operand.Mem, _ map[string]V) {
			g := ld(at("gate"))
			VMOVUPS(mul(at("u"), mul(sigmoidV(g), g)), at("h"))
		})
	loop("siluMulGradAVX2", "siluMulGradAVX2 is siluMulGradGeneric.", "func(dg, du, dh, gate, u *float32, n int)", []string{"dg", "du", "dh", "gate", "u"}, nil,
		func(at func(string) operand.Mem, _ map[string]V) {
			g := ld(at("gate"))
			s := sigmoidV(g)
			dh := ld(at("dh"))
			u := ld(at("u"))
			y := mul(g, s)
			VMOVUPS(mul(y, dh), at("du"))
			// d silu = s + y·(1−s)
			t := minus(ld(c(1)), s)
			t = plus(s, mul(y, t))
			VMOVUPS(mul(t, mul(u, dh)), at("dg"))
		})
	loop("relu2MulAVX2", "relu2MulAVX2 is relu2MulGeneric.", "func(h, gate, u *float32, n int)", []string{"h", "gate", "u"}, nil,
		func(at func(string) operand.Mem, _ map[string]V) {
			g := ld(at("gate"))
			VMAXPS(c(0), g, g)
			VMOVUPS(mul(at("u"), mul(g, g)), at("h"))
		})
	loop("relu2MulGradAVX2", "relu2MulGradAVX2 is relu2MulGradGeneric.", "func(dg, du, dh, gate, u *float32, n int)", []string{"dg", "du", "dh", "gate", "u"}, nil,
		func(at func(string) operand.Mem, _ map[string]V) {
			g, dh, u := ld(at("gate")), ld(at("dh")), ld(at("u"))
			VMAXPS(c(0), g, g)
			VMOVUPS(mul(mul(g, g), dh), at("du"))
			VMOVUPS(mul(mul(u, dh), mul(c(2), g)), at("dg"))
		})
	// GELU: x·Φ(x). Φ is 1 − q/2 or q/2 by the sign of x, q = erfc(|x|/√2) after Abramowitz and Stegun 7.1.26.
	phi := func(x V) (p, e V) {
		z := YMM()
		VANDPS(x, absMask(), z)
		t := plus(c(1), mul(c(0.3275911), mul(c(0.70710678), z)))
		one := ld(c(1))
		VDIVPS(t, one, t)
		p = ld(c(1.061405429))
		for _, a := range []float32{-1.453152027, 1.421413741, -0.284496736, 0.254829592} {
			VMULPS(t, p, p)
			VADDPS(c(a), p, p)
		}
		VMULPS(t, p, p)
		e = mul(c(-0.5), mul(x, x))
		expV(e)
		q := mul(c(0.5), mul(e, p))
		VBLENDVPS(x, q, minus(ld(c(1)), q), p)
		return p, e
	}
	loop("geluAVX2", "geluAVX2 is geluGeneric.", "func(y, x *float32, n int)", []string{"y", "x"}, nil,
		func(at func(string) operand.Mem, _ map[string]V) {
			x := ld(at("x"))
			p, _ := phi(x)
			VMOVUPS(mul(x, p), at("y"))
		})
	loop("geluGradAVX2", "geluGradAVX2 is geluGradGeneric.", "func(dx, dy, x *float32, n int)", []string{"dx", "dy", "x"}, nil,
		func(at func(string) operand.Mem, _ map[string]V) {
			x := ld(at("x"))
			p, e := phi(x)
			d := plus(p, mul(x, mul(c(0.39894228), e)))
			VMOVUPS(mul(at("dy"), d), at("dx"))
		})
	loop("expSubAVX2", "expSubAVX2 is expSubGeneric.", "func(x *float32, m float32, n int)", []string{"x"}, []string{"m"},
		func(at func(string) operand.Mem, s map[string]V) {
			x := minus(ld(at("x")), s["m"])
			expV(x)
			VMOVUPS(x, at("x"))
		})
	loop("softmaxGradAVX2", "softmaxGradAVX2 is softmaxGradGeneric.", "func(ds, p *float32, dot, s float32, n int)", []string{"ds", "p"}, []string{"dot", "s"},
		func(at func(string) operand.Mem, s map[string]V) {
			t := minus(ld(at("ds")), s["dot"])
			VMOVUPS(mul(s["s"], mul(at("p"), t)), at("ds"))
		})
	loop("scaleMulAVX2", "scaleMulAVX2 is scaleMulGeneric.", "func(y, x, w *float32, s float32, n int)", []string{"y", "x", "w"}, []string{"s"},
		func(at func(string) operand.Mem, s map[string]V) {
			VMOVUPS(mul(at("w"), mul(at("x"), s["s"])), at("y"))
		})
	loop("normGradAVX2", "normGradAVX2 is normGradGeneric.", "func(dx, dy, w, x *float32, a, b float32, n int)", []string{"dx", "dy", "w", "x"}, []string{"a", "b"},
		func(at func(string) operand.Mem, s map[string]V) {
			t := mul(s["a"], mul(at("w"), ld(at("dy"))))
			t = plus(t, mul(at("x"), s["b"]))
			VMOVUPS(plus(at("dx"), t), at("dx"))
		})
	loop("mulAddAVX2", "mulAddAVX2 is mulAddGeneric.", "func(y, a, b *float32, s float32, n int)", []string{"y", "a", "b"}, []string{"s"},
		func(at func(string) operand.Mem, s map[string]V) {
			t := mul(s["s"], mul(at("b"), ld(at("a"))))
			VMOVUPS(plus(at("y"), t), at("y"))
		})
	loop("axpyAVX2", "axpyAVX2 is axpyGeneric.", "func(y, x *float32, s float32, n int)", []string{"y", "x"}, []string{"s"},
		func(at func(string) operand.Mem, s map[string]V) {
			VMOVUPS(plus(at("y"), mul(at("x"), s["s"])), at("y"))
		})
	loop("scaleAVX2", "scaleAVX2 is scaleGeneric.", "func(x *float32, s float32, n int)", []string{"x"}, []string{"s"},
		func(at func(string) operand.Mem, s map[string]V) {
			VMOVUPS(mul(at("x"), s["s"]), at("x"))
		})
	// Rotation of NEOX pairs (x[i], x[i+half]) by (cos, ±sin): s is +1 or −1.
	loop("rotateAVX2", "rotateAVX2 is rotateGeneric.", "func(x, y, cos, sin *float32, s float32, n int)", []string{"x", "y", "cos", "sin"}, []string{"s"},
		func(at func(string) operand.Mem, s map[string]V) {
			x, y, co := ld(at("x")), ld(at("y")), ld(at("cos"))
			si := mul(at("sin"), s["s"])
			VMOVUPS(minus(mul(co, x), mul(si, y)), at("x"))
			VMOVUPS(plus(mul(co, y), mul(si, x)), at("y"))
		})
	// AdamW: see adamwGeneric for the names.
	loop("adamwAVX2", "adamwAVX2 is adamwGeneric.", "func(p, grad, m, v *float32, gs, b1, c1, b2, c2, keep, step, rv, eps float32, n int)", []string{"p", "grad", "m", "v"},
		[]string{"gs", "b1", "c1", "b2", "c2", "keep", "step", "rv", "eps"},
		func(at func(string) operand.Mem, s map[string]V) {
			g := mul(at("grad"), s["gs"])
			m := plus(mul(at("m"), s["b1"]), mul(g, s["c1"]))
			v := plus(mul(at("v"), s["b2"]), mul(mul(g, g), s["c2"]))
			VMOVUPS(m, at("m"))
			VMOVUPS(v, at("v"))
			VSQRTPS(v, v)
			v = plus(s["eps"], mul(s["rv"], v))
			VDIVPS(v, m, m)
			t := minus(mul(at("p"), s["keep"]), mul(s["step"], m))
			VMOVUPS(t, at("p"))
		})
	add := func(a, b, d reg.VecVirtual) { VADDPS(a, b, d) }
	maxF := func(a, b, d reg.VecVirtual) { VMAXPS(a, b, d) }
	lanes("sumAVX2", "sumAVX2 is sumGeneric for n a positive multiple of 32.", false, nil, func(v, acc, mask V, src operand.Mem, _ []operand.Mem) {
		VADDPS(src, acc, acc)
	}, add)
	lanes("rowMaxAVX2", "rowMaxAVX2 is rowMaxGeneric for n a positive multiple of 32.", true, nil, func(v, acc, mask V, src operand.Mem, _ []operand.Mem) {
		VMAXPS(src, acc, acc)
	}, maxF)
	lanes("dotAVX2", "dotAVX2 is dotGeneric for n a positive multiple of 32.", false, []string{"y"}, func(v, acc, mask V, src operand.Mem, more []operand.Mem) {
		VMOVUPS(src, v)
		VMULPS(more[0], v, v)
		VADDPS(v, acc, acc)
	}, add)
	lanes("dot3AVX2", "dot3AVX2 is dot3Generic for n a positive multiple of 32.", false, []string{"y", "z"}, func(v, acc, mask V, src operand.Mem, more []operand.Mem) {
		VMOVUPS(src, v)
		VMULPS(more[0], v, v)
		VMULPS(more[1], v, v)
		VADDPS(v, acc, acc)
	}, add)
}

// lanes is a reduction over n (a multiple of 32) values in 32 lanes, folded 32→16→8→4→2→1. The lanes
// begin at zero, or at the first values when first is set.
func lanes(name, doc string, first bool, more []string, f func(v, acc, mask V, src operand.Mem, more []operand.Mem), fold func(a, b, d V)) {
	sig := "func(x"
	for _, m := range more {
		sig += ", " + m
	}
	text(name, sig+" *float32, n int) float32")
	Doc(doc)
	ps := []reg.GPVirtual{}
	for _, m := range append([]string{"x"}, more...) {
		ps = append(ps, Load(Param(m), GP64()).(reg.GPVirtual))
	}
	n := Load(Param("n"), GP64()).(reg.GPVirtual)
	mask := absMask()
	var acc [4]V
	for i := range acc {
		acc[i] = YMM()
		if first {
			VMOVUPS(mem(ps[0], 32*i), acc[i])
		} else {
			VXORPS(acc[i], acc[i], acc[i])
		}
	}
	Label("loop")
	for i := range acc {
		var ms []operand.Mem
		for _, p := range ps[1:] {
			ms = append(ms, mem(p, 32*i))
		}
		f(YMM(), acc[i], mask, mem(ps[0], 32*i), ms)
	}
	for _, p := range ps {
		ADDQ(operand.U32(128), p)
	}
	SUBQ(operand.U8(32), n)
	JNZ(operand.LabelRef("loop"))
	fold(acc[2], acc[0], acc[0])
	fold(acc[3], acc[1], acc[1])
	fold(acc[1], acc[0], acc[0])
	hi, lo := XMM(), XMM()
	VEXTRACTF128(operand.U8(1), acc[0], hi)
	VEXTRACTF128(operand.U8(0), acc[0], lo)
	fold(hi, lo, lo)
	VMOVHLPS(lo, lo, hi)
	fold(hi, lo, lo)
	VPSHUFD(operand.U8(1), lo, hi)
	fold(hi, lo, lo)
	VZEROUPPER()
	ret, _ := ReturnIndex(0).Resolve()
	VMOVSS(lo, ret.Addr)
	RET()
}

func absMax() {
	lanes("absMaxAVX2", "absMaxAVX2 is absMaxGeneric for n a positive multiple of 32.", false, nil, func(v, acc, mask V, src operand.Mem, _ []operand.Mem) {
		VANDPS(src, mask, v)
		VMAXPS(v, acc, acc)
	}, func(a, b, d V) { VMAXPS(a, b, d) })
}

func sumAbs() {
	lanes("sumAbsAVX2", "sumAbsAVX2 is sumAbsGeneric for n a positive multiple of 32.", false, nil, func(v, acc, mask V, src operand.Mem, _ []operand.Mem) {
		VANDPS(src, mask, v)
		VADDPS(v, acc, acc)
	}, func(a, b, d V) { VADDPS(a, b, d) })
}
