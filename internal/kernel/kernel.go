// Package kernel holds trit's inner loops: plain slices in, plain slices out.
//
// Every function has a definition in plain Go (the *_generic.go files) and, where the machine
// offers more, a tier of SIMD code that returns the same bits; AllTiers lists them.
//
// Ternary products are integers, hence exact. Float32 work is exact too in the sense that matters:
// each sum has one order (see Dot), each multiply-add is fused and rounded once, and Exp is one
// polynomial, so that a tier, a batch size or a thread count never changes a bit of a model's output.
// Only the sign and payload of a NaN are left open.
//
// Wrong slice lengths panic: files are checked when they are opened, so a bad length here is a bug
// in the caller. Nothing allocates.
package kernel

//go:generate go -C _asm run . ..

import (
	"fmt"
	"slices"
	"strings"
)

// tier is one implementation of every kernel. Lengths have been checked when its functions run.
type tier struct {
	name string
	peak peaks

	ternaryMatVec   func(y []int32, w []byte, x []int8, xsum int32)
	ternaryMatMul   func(y []int32, w []byte, x []int8, xsum []int32, scratch []byte)
	ternaryMatVecT5 func(y []int32, w []byte, x []int8, xsum int32)
	ternaryMatMulT5 func(y []int32, w []byte, x []int8, xsum []int32)
	t5FromT16       func(dst, src []byte, rows, cols int)
	t16FromT5       func(dst, src []byte, rows, cols int)
	preferT5        bool
	screen          screenFunc
	screenRefine    func(y []float32, index []int32, lower []byte, x []int8, xs []float32)
	rowsFromT16     func(dst, w []byte, rows, cols int)
	ternaryRows     func(y []int32, w []byte, index []int32, x []int8, xsum int32)
	ternaryColumns  func(y []int32, w []byte, stride int, index []int32, x []int8, xsum int32)
	groupMatMul     func(y []float32, stride int, w *GroupMatrix, x *Planes, scratch []byte)
	quantizeGroups  func(dst []byte, x []float32, group, count int)
	hadamard        func(x []float32, block int, before, after []float32)
	nonzeros        func(index []int32, value, x []int8) int
	above           func(index []int32, g []float32, bar float32) int
	quantizeRow     func(q []int8, x []float32) (scale float32, sum int32)

	dotF32     func(w, x []float32) float32
	dotBF16    func(w []uint16, x []float32) float32
	dotF16     func(w []uint16, x []float32) float32
	matMulF32  func(y []float32, stride int, w, x []float32, tokens int)
	matMulBF16 func(y []float32, stride int, w []uint16, x []float32, tokens int)
	matMulF16  func(y []float32, stride int, w []uint16, x []float32, tokens int)

	softmaxExp func(s []float32, max float32) (sum float32)

	attnScoresF32 func(s []float32, stride int, q, k []float32, queries int, scale float32, ahead int)
	attnScoresF16 func(s []float32, stride int, q []float32, k []uint16, queries int, scale float32, ahead int)
	attnScoresI8  func(s []float32, stride int, q []float32, k []int8, scales []float32, queries int, scale float32, ahead int)
	attnMixF32    func(out, p []float32, stride int, v []float32, queries int, ahead int)
	attnMixF16    func(out, p []float32, stride int, v []uint16, queries int, ahead int)
	attnMixI8     func(out, p []float32, stride int, v []int8, scales []float32, queries int, ahead int)

	max      func(x []float32) float32
	sum      func(x []float32) float32
	rmsScale func(y, x, w []float32, inv float32)
	siluMul  func(y, gate, up []float32)
	relu2Mul func(y, gate, up []float32)
	geluTanh func(y, x []float32)
	gelu     func(y, x []float32)
	rope     func(x, cos, sin []float32)
	add      func(y, x []float32)
	scale    func(y []float32, s float32)
	scaleRow func(y []float32, acc []int32, s float32)
}

type screenFunc = func(y, high []float32, stride int, upper []byte, scales []uint16, norm []float32, x []int8, xs, off, sq, margin []float32)

var (
	available = tiers()                     // what this CPU runs, slowest first
	active    = available[len(available)-1] // what the exported functions call
)

// Tier names the implementation in use.
func Tier() string { return active.name }

// Tiers names the implementations this CPU can run, slowest first; the last one is the default.
func Tiers() []string {
	names := make([]string, len(available))
	for i, t := range available {
		names[i] = t.name
	}
	return names
}

// TierInfo is a tier of any machine.
type TierInfo struct {
	Name  string `json:"tier"`
	Needs string `json:"needs"` // of the processor
	Here  bool   `json:"here"`  // whether this CPU can run it
}

// AllTiers lists the tiers of all machines, those of one kind slowest first.
func AllTiers() []TierInfo {
	list := []TierInfo{
		{Name: "generic", Needs: "any"},
		{Name: "avx2", Needs: "amd64 with AVX2, FMA and F16C"},
		{Name: "avxvnni", Needs: "amd64 with AVX2, FMA, F16C and AVX-VNNI"},
		{Name: "avx512vnni", Needs: "amd64 with AVX2, FMA, F16C, BMI2 and AVX-512 F, BW, DQ, VL and VNNI; layout T5 where there is VBMI too"},
		{Name: "neon", Needs: "arm64"},
		{Name: "neondot", Needs: "arm64 with DotProd (SDOT)"},
		{Name: "neoni8mm", Needs: "arm64 with DotProd and I8MM (SMMLA)"},
	}
	here := Tiers()
	for i := range list {
		list[i].Here = slices.Contains(here, list[i].Name)
	}
	return list
}

// SetTier selects an implementation by name. It is for tests and for the --kernels flag: it must not
// run while another goroutine uses this package.
func SetTier(name string) error {
	for _, t := range available {
		if t.name == name {
			active = t
			return nil
		}
	}
	return fmt.Errorf("kernel: no tier %q on this CPU; it has %s", name, strings.Join(Tiers(), ", "))
}

// badLength reports a caller's bug. It is apart so that the checks inline.
func badLength(name string, lengths ...int) {
	panic(fmt.Sprintf("kernel: %s: lengths %v do not fit together", name, lengths))
}
