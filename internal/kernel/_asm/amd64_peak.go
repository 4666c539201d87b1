package main

import (
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/reg"
)

// The peaks are what a kernel's inner loop would do if its operands came for free: 12 independent
// accumulators, registers only.
func (a *asm) peak(name, doc string, vec func() reg.VecVirtual, body func(acc, x, y reg.VecVirtual)) {
	a.fn(name, "(turns int)", name+" "+doc)
	n := a.arg("turns")
	var acc [12]reg.VecVirtual
	for i := range acc {
		acc[i] = vec()
		a.zero(acc[i])
	}
	x, y := vec(), vec()
	a.zero(x)
	a.zero(y)
	a.loop("turn", n, func() {
		for i := range acc {
			body(acc[i], x, y)
		}
	})
	a.ret()
}

func peak(a *asm) {
	a.peak("peakInt8AVX2", "does 12·32 int8 multiply-adds a turn.", a.YMM, func(acc, x, y reg.VecVirtual) {
		p := a.YMM()
		a.VPMADDUBSW(x, y, p)
		a.VPADDW(p, acc, acc)
	})
	a.peak("peakInt8VNNI", "does 12·64 int8 multiply-adds a turn.", a.ZMM, func(acc, x, y reg.VecVirtual) {
		a.VPDPBUSD(x, y, acc)
	})
	a.peak("peakF32AVX2", "does 12·8 float32 multiply-adds a turn.", a.YMM, func(acc, x, y reg.VecVirtual) {
		a.VFMADD231PS(x, y, acc)
	})
	a.peak("peakF32VNNI", "does 12·16 float32 multiply-adds a turn.", a.ZMM, func(acc, x, y reg.VecVirtual) {
		a.VFMADD231PS(x, y, acc)
	})

	a.fn("readAVX2", "(b []byte)", "readAVX2 loads b in pieces of 256 bytes.")
	p, n := a.ptr("b"), a.n("b")
	a.SHRQ(Imm(8), n)
	a.loop("turn", n, func() {
		for i := range 8 {
			a.VMOVDQU(mem(p, 32*i), a.YMM())
		}
		a.add(p, 256)
	})
	a.ret()
}
