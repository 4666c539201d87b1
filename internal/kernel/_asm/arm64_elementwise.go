package main

import "math"

func elementwiseARM(a *arm) {
	f32 := func(f float64) uint32 { return math.Float32bits(float32(f)) }
	// mapping gives f its inputs in registers 0, 1 and registers 16… for constants; 2…15 are free.
	a.mapping("addNEON", "(y, x []float32)", "addNEON is Add.", "y", "", []string{"y", "x"}, nil, func() { a.fadd(0, 0, 1) })
	a.mapping("scaleNEON", "(y []float32, s float32)", "scaleNEON is Scale.", "y", "s", []string{"y"}, nil, func() { a.fmul(0, 0, 31) })
	a.mapping("scaleRowNEON", "(y []float32, acc []int32, s float32)", "scaleRowNEON is ScaleRow.", "y", "s", []string{"acc"}, nil, func() {
		a.scvtf(0, 0)
		a.fmul(0, 0, 31)
	})
	a.mapping("rmsScaleNEON", "(y, x, w []float32, inv float32)", "rmsScaleNEON computes y = w·(x·inv).", "y", "inv", []string{"x", "w"}, nil, func() {
		a.fmul(0, 0, 31)
		a.fmul(0, 0, 1)
	})
	a.mapping("relu2MulNEON", "(y, gate, up []float32)", "relu2MulNEON is ReLU2Mul.", "y", "", []string{"gate", "up"}, []uint32{0}, func() {
		a.fmax(0, 0, 16) // NaN stays
		a.fmul(0, 0, 0)
		a.fmul(0, 0, 1)
	})
	a.mapping("expSubNEON", "(y []float32, max float32)", "expSubNEON replaces y by Exp(y-max).", "y", "max", []string{"y"}, expConsts, func() {
		a.fsub(0, 0, 31)
		a.exp(0)
	})
	a.mapping("siluMulNEON", "(y, gate, up []float32)", "siluMulNEON is SiLUMul.", "y", "", []string{"gate", "up"}, expConsts, func() {
		a.fneg(2, 0)
		a.exp(2)
		a.fadd(2, 2, expOne)
		a.fdiv(0, 0, 2)
		a.fmul(0, 0, 1)
	})
	a.mapping("geluTanhNEON", "(y, x []float32)", "geluTanhNEON is GELUTanh.", "y", "", []string{"x"},
		append(append([]uint32(nil), expConsts...), f32(geluA), f32(geluB)), func() {
			gA, gB := 16+len(expConsts), 17+len(expConsts)
			a.fmul(1, 0, 0)
			a.mov(2, gA)
			a.fmla(2, gB, 1)
			a.fmul(2, 0, 2)
			a.exp(2)
			a.fadd(2, 2, expOne)
			a.fdiv(0, 0, 2)
		})
	geluNEON(a)
	ropeNEON(a)
	maxNEON(a)
	sumNEON(a)
	absMaxNEON(a)
	quantizeNEON(a)
}

// The constants of exp lie in registers 16…; expOne is that of 1.
var expConsts = func() []uint32 {
	var c []uint32
	for _, f := range []float64{expMin, expMax, log2e, expRound, ln2Hi, ln2Lo, expC[6], expC[5], expC[4], expC[3], expC[2], 1} {
		c = append(c, math.Float32bits(float32(f)))
	}
	return append(c, 126)
}()

const expOne = 27

// exp replaces v by Exp of it, step by step as the definition does. It uses registers 4…6.
func (a *arm) exp(v int) {
	const t, p, q = 4, 5, 6
	a.fmax(v, v, 16)
	a.fmin(v, v, 17)
	a.mov(t, 19)
	a.fmla(t, v, 18)
	a.fsub(p, t, 19)
	a.fmls(v, p, 20)
	a.fmls(v, p, 21)
	a.mov(p, 23)
	a.fmla(p, 22, v)
	x, y := p, q
	for _, c := range []int{24, 25, 26, expOne, expOne} {
		a.mov(y, c)
		a.fmla(y, x, v)
		x, y = y, x
	}
	a.add4s(t, t, 28)
	a.shl4s(t, t, 23)
	a.fmul(x, x, t)
	a.fadd(v, x, x)
}

// mapping writes a function that computes out[i] = f(in[0][i], in[1][i]), 4 elements a turn, then one. A scalar
// parameter lies in all lanes of register 31.
func (a *arm) mapping(name, signature, doc, out, scalar string, in []string, consts []uint32, f func()) {
	a.fn(name, signature, 0, doc)
	regs := []string{"R1", "R2"}
	a.ptr(out, "R0")
	for i, p := range in {
		a.ptr(p, regs[i])
	}
	a.length(out, "R3")
	if scalar != "" {
		a.p("FMOVS %s, F31", a.addr(a.sig.Params().Lookup(scalar)))
		a.dup4s(31, 31, 0)
	}
	for i, c := range consts {
		a.constant(16+i, c)
	}
	a.p("AND $3, R3, R4")
	a.p("LSR $2, R3")
	a.loop("four", "R3", func() {
		for i := range in {
			a.p("FMOVQ.P 16(%s), F%d", regs[i], i)
		}
		f()
		a.p("FMOVQ.P F0, 16(R0)")
	})
	a.loop("one", "R4", func() {
		for i := range in {
			a.p("FMOVS.P 4(%s), F%d", regs[i], i)
		}
		f()
		a.p("FMOVS.P F0, 4(R0)")
	})
	a.p("RET")
}

// geluNEON has more constants than registers: the polynomial's are loaded into register 7 one by one.
func geluNEON(a *arm) {
	a.mapping("geluNEON", "(y, x []float32)", "geluNEON is GELU.", "y", "", []string{"x"},
		append(append([]uint32(nil), expConsts...), math.Float32bits(geluT), math.Float32bits(-0.5)), func() {
			const z, t, p, q, c = 1, 2, 8, 9, 7
			gT, half := 16+len(expConsts), 17+len(expConsts)
			a.fabs(z, 0)
			a.mov(t, expOne)
			a.fmla(t, gT, z)
			a.fdiv(t, expOne, t)
			x, y := p, q
			a.constant(x, math.Float32bits(float32(geluC[8])))
			for i := 7; i >= 0; i-- {
				a.constant(y, math.Float32bits(float32(geluC[i])))
				a.fmla(y, x, t)
				x, y = y, x
			}
			a.fmul(z, z, z)
			a.fmul(z, z, half)
			a.exp(z)
			a.fmul(x, x, z) // Φ(-|x|)
			a.fsub(t, expOne, x)
			a.sshr4s(c, 0, 31)
			a.bsl(c, x, t) // by x's sign
			a.fmul(0, 0, c)
		})
}

func ropeNEON(a *arm) {
	a.fn("ropeNEON", "(x, cos, sin []float32)", 0, "ropeNEON is Rope.")
	a.ptr("x", "R0")
	a.length("x", "R1")
	a.length("cos", "R2")
	a.p("LSL $2, R2, R3")
	rotate := func() {
		a.fmul(4, 0, 2)
		a.fmul(5, 1, 3)
		a.fmul(6, 1, 2)
		a.fmul(7, 0, 3)
		a.fsub(0, 4, 5)
		a.fadd(1, 6, 7)
	}
	a.p("head:")
	a.p("CBZ R1, done")
	a.ptr("cos", "R4")
	a.ptr("sin", "R5")
	a.p("ADD R3, R0, R6")
	a.p("LSR $2, R2, R7")
	a.p("AND $3, R2, R8")
	a.loop("four", "R7", func() {
		a.p("FMOVQ (R0), F0")
		a.p("FMOVQ (R6), F1")
		a.p("FMOVQ.P 16(R4), F2")
		a.p("FMOVQ.P 16(R5), F3")
		rotate()
		a.p("FMOVQ.P F0, 16(R0)")
		a.p("FMOVQ.P F1, 16(R6)")
	})
	a.loop("one", "R8", func() {
		a.p("FMOVS (R0), F0")
		a.p("FMOVS (R6), F1")
		a.p("FMOVS.P 4(R4), F2")
		a.p("FMOVS.P 4(R5), F3")
		rotate()
		a.p("FMOVS.P F0, 4(R0)")
		a.p("FMOVS.P F1, 4(R6)")
	})
	a.p("MOVD R6, R0")
	a.p("SUB R2<<1, R1")
	a.p("B head")
	a.p("done:")
	a.p("RET")
}

func maxNEON(a *arm) {
	a.fn("maxNEON", "(x []float32) float32", 0, "maxNEON is Max.")
	a.ptr("x", "R0")
	a.length("x", "R1")
	for i := range 4 {
		a.constant(i, math.Float32bits(float32(math.Inf(-1))))
	}
	a.p("AND $15, R1, R2")
	a.p("LSR $4, R1")
	a.loop("sixteen", "R1", func() {
		for i := range 4 {
			a.p("FMOVQ.P 16(R0), F%d", 4+i)
		}
		for i := range 4 {
			a.fmax(i, i, 4+i)
		}
	})
	a.loop("one", "R2", func() {
		a.p("FMOVS.P 4(R0), F4")
		a.dup4s(4, 4, 0)
		a.fmax(0, 0, 4)
	})
	a.fmax(0, 0, 1)
	a.fmax(2, 2, 3)
	a.fmax(0, 0, 2)
	a.fmaxv(0, 0)
	a.p("FMOVS F0, %s", a.result())
	a.p("RET")
}

func sumNEON(a *arm) {
	a.fn("sumNEON", "(x []float32) float32", 128, "sumNEON is Sum.")
	a.ptr("x", "R0")
	a.length("x", "R1")
	for i := range 8 {
		a.zero(i)
	}
	block := func(p string) {
		for i := range 8 {
			a.ld(8+i, p, 16*i)
		}
		for i := range 8 {
			a.fadd(i, i, 8+i)
		}
	}
	a.p("AND $31, R1, R2")
	a.p("LSR $5, R1")
	a.loop("block", "R1", func() {
		block("R0")
		a.p("ADD $128, R0")
	})
	a.p("MOVD $tail-128(SP), R3")
	a.zero(8)
	for i := range 8 {
		a.st(8, "R3", 16*i)
	}
	a.p("MOVD R3, R4")
	a.copyTail("tail", "R0", "R4", "R2", 4)
	block("R3")
	for half := 4; half > 0; half /= 2 {
		for i := range half {
			a.fadd(i, i, i+half)
		}
	}
	a.fold(0, 1)
	a.p("FMOVS F0, %s", a.result())
	a.p("RET")
}

func absMaxNEON(a *arm) {
	a.fn("absMaxNEON", "(x []float32) uint32", 0, "absMaxNEON returns the bits of the largest |x|, as integers: NaN is above infinity.")
	a.ptr("x", "R0")
	a.length("x", "R1")
	a.constant(31, 0x7fffffff)
	for i := range 4 {
		a.zero(i)
	}
	a.p("AND $15, R1, R2")
	a.p("LSR $4, R1")
	take := func(i, v int) {
		a.and(v, v, 31)
		a.umax4s(i, i, v)
	}
	a.loop("sixteen", "R1", func() {
		for i := range 4 {
			a.p("FMOVQ.P 16(R0), F%d", 4+i)
		}
		for i := range 4 {
			take(i, 4+i)
		}
	})
	a.loop("one", "R2", func() {
		a.p("FMOVS.P 4(R0), F4")
		take(0, 4)
	})
	a.umax4s(0, 0, 1)
	a.umax4s(2, 2, 3)
	a.umax4s(0, 0, 2)
	a.umaxv(0, 0)
	a.p("FMOVS F0, R3")
	a.p("MOVW R3, %s", a.result())
	a.p("RET")
}

// FCVTNS rounds half to even; finite x give |x·inv| ≤ 127, so that narrowing saturates nothing.
func quantizeNEON(a *arm) {
	a.fn("quantizeNEON", "(q []int8, x []float32, inv float32) int32", 64,
		"quantizeNEON sets q = round(x·inv), the rest of q to 0, and returns their sum. len(q) is Pad16(len(x)).")
	a.ptr("q", "R0")
	a.ptr("x", "R1")
	a.length("x", "R2")
	a.p("FMOVS %s, F31", a.addr(a.sig.Params().Lookup("inv")))
	a.dup4s(31, 31, 0)
	a.zero(30)
	sixteen := func(p string) {
		for i := range 4 {
			a.ld(i, p, 16*i)
			a.fmul(i, i, 31)
			a.fcvtns(i, i)
			a.add4s(30, 30, i)
		}
		a.sqxtn4h(4, 0)
		a.sqxtn8h(4, 1)
		a.sqxtn4h(5, 2)
		a.sqxtn8h(5, 3)
		a.sqxtn8b(6, 4)
		a.sqxtn16b(6, 5)
		a.p("FMOVQ.P F6, 16(R0)")
	}
	a.p("AND $15, R2, R3")
	a.p("LSR $4, R2")
	a.loop("sixteen", "R2", func() {
		sixteen("R1")
		a.p("ADD $64, R1")
	})
	a.p("CBZ R3, done")
	a.p("MOVD $tail-64(SP), R4")
	a.zero(8)
	for i := range 4 {
		a.st(8, "R4", 16*i)
	}
	a.p("MOVD R4, R5")
	a.copyTail("tail", "R1", "R5", "R3", 4)
	sixteen("R4")
	a.p("done:")
	a.addv(30, 30)
	a.p("FMOVS F30, R6")
	a.p("MOVW R6, %s", a.result())
	a.p("RET")
}
