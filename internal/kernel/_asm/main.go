// Command _asm writes the assembly of package kernel: a .s file per group of kernels and, per port, one Go file
// with their declarations. Run it with go generate ./internal/kernel.
//
// Facts that hold for all amd64 functions: no legacy SSE mnemonic (mixing it with VEX code costs a state change),
// VZEROUPPER before every RET, unaligned loads throughout, and nothing is read or written past the end of
// a slice: tails go through masked moves.
package main

import (
	"bytes"
	"fmt"
	"go/format"
	"log"
	"math/bits"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/mmcloughlin/avo/attr"
	"github.com/mmcloughlin/avo/build"
	"github.com/mmcloughlin/avo/ir"
	. "github.com/mmcloughlin/avo/operand"
	"github.com/mmcloughlin/avo/pass"
	"github.com/mmcloughlin/avo/printer"
	"github.com/mmcloughlin/avo/reg"
	"github.com/mmcloughlin/avo/x86"
)

// asm is the function being written; avo's context has a method per instruction.
type asm struct {
	*build.Context
	consts map[string]Mem
	avx512 bool // the function may use 32 registers, in EVEX instructions only
}

// suffix says which tier a function's name ends in.
func suffix(name string) string {
	for _, s := range []string{"AVXVNNI", "EVEX", "VNNI", "VBMI"} { // the longer first
		if strings.HasSuffix(name, s) {
			return s
		}
	}
	return "AVX2"
}

var groups = []struct {
	file  string
	write func(*asm)
}{
	{"ternary_amd64.s", ternary},
	{"avxvnni_amd64.s", avxVNNI},
	{"t5_amd64.s", t5},
	{"group_amd64.s", group},
	{"screen_amd64.s", screen},
	{"dense_amd64.s", dense},
	{"attention_amd64.s", attention},
	{"elementwise_amd64.s", elementwise},
	{"sparse_amd64.s", sparse},
	{"peak_amd64.s", peak},
}

func main() {
	log.SetFlags(0)
	dir := os.Args[1]
	writeDecls(filepath.Join(dir, "decl_amd64.go"), writeAMD(dir))
	writeDecls(filepath.Join(dir, "decl_arm64.go"), writeARM(dir))
}

var (
	config  = printer.Config{Name: "go generate ./internal/kernel", Pkg: "kernel"}
	warning = config.GeneratedWarning()
)

// writeAMD writes the amd64 kernels and returns their declarations.
func writeAMD(dir string) []byte {
	var decls bytes.Buffer
	for _, g := range groups {
		ctx := build.NewContext()
		ctx.ConstraintExpr("!purego")
		g.write(&asm{Context: ctx, consts: map[string]Mem{}})
		file, err := ctx.Result()
		if err != nil {
			log.Fatalf("%s: %v", g.file, err)
		}
		if err := pass.Compile.Execute(file); err != nil {
			log.Fatalf("%s: %v", g.file, err)
		}
		for _, f := range file.Functions() {
			checkISA(f)
			if suffix(f.Name) == "AVXVNNI" { // see vex
				f.ISA = append(slices.DeleteFunc(f.ISA, func(isa string) bool { return strings.HasPrefix(isa, "AVX512") }), "AVXVNNI")
			}
			fmt.Fprintf(&decls, "\n")
			for _, line := range f.Doc {
				fmt.Fprintf(&decls, "// %s\n", line)
			}
			fmt.Fprintf(&decls, "//\n//go:noescape\n%s\n", f.Stub())
		}
		text, err := printer.NewGoAsm(config).Print(file)
		if err != nil {
			log.Fatalf("%s: %v", g.file, err)
		}
		write(filepath.Join(dir, g.file), vex(text))
	}
	return decls.Bytes()
}

func writeDecls(name string, decls []byte) {
	text, err := format.Source(fmt.Appendf(nil, "// %s\n\n//go:build !purego\n\npackage kernel\n%s", warning, decls))
	if err != nil {
		log.Fatal(err)
	}
	write(name, text)
}

func write(name string, text []byte) {
	if err := os.WriteFile(name, text, 0o644); err != nil {
		log.Fatal(err)
	}
}

// checkISA stops when a function needs more than the CPU check of its tier asks for.
func checkISA(f *ir.Function) {
	has := []string{"MMX+", "CMOV" /* PREFETCHT0, CMOVQ: on every amd64 */, "AVX", "AVX2", "FMA3", "F16C"}
	vectors := 16
	switch suffix(f.Name) {
	case "VBMI":
		has = append(has, "AVX512VBMI")
		fallthrough
	case "VNNI":
		has = append(has, "AVX512F", "AVX512BW", "AVX512DQ", "AVX512VL", "AVX512VNNI", "BMI2", "POPCNT")
		vectors = 32
	}
	for _, i := range f.Instructions() {
		if i.Opcode == "VPDPBUSD" && vectors == 16 {
			continue // see vex
		}
		for _, isa := range i.ISA {
			if !slices.Contains(has, isa) {
				log.Fatalf("%s needs %s, which its tier does not check for", f.Name, isa)
			}
		}
	}
	for _, i := range f.Instructions() {
		for _, r := range i.Registers() {
			if p, ok := r.(reg.Physical); ok && r.Kind() == reg.KindVector && int(p.PhysicalIndex()) >= vectors {
				log.Fatalf("%s uses more than %d vector registers", f.Name, vectors)
			}
		}
	}
}

// fn starts a function.
func (a *asm) fn(name, signature string, doc ...string) {
	a.avx512 = suffix(name) == "VNNI" || suffix(name) == "VBMI"
	a.Function(name)
	a.Attributes(attr.NOSPLIT)
	a.SignatureExpr("func" + signature)
	a.Doc(doc...)
}

// ptr loads the address of a slice parameter, n its length, arg an integer or pointer parameter.
func (a *asm) ptr(name string) reg.GPVirtual {
	return a.Load(a.Param(name).Base(), a.GP64()).(reg.GPVirtual)
}

func (a *asm) n(name string) reg.GPVirtual {
	return a.Load(a.Param(name).Len(), a.GP64()).(reg.GPVirtual)
}

func (a *asm) arg(name string) reg.GPVirtual { return a.Load(a.Param(name), a.GP64()).(reg.GPVirtual) }

// addr is where a scalar parameter lies.
func (a *asm) addr(name string) Mem {
	b, err := a.Param(name).Resolve()
	if err != nil {
		log.Fatal(err)
	}
	return b.Addr
}

// ret ends the function.
func (a *asm) ret() {
	a.VZEROUPPER()
	a.RET()
}

// loop runs body count times (none for 0), counting down; count is used up.
func (a *asm) loop(label string, count reg.GPVirtual, body func()) {
	a.TESTQ(count, count)
	a.JZ(LabelRef(label + "_end"))
	a.Label(label)
	body()
	a.DECQ(count)
	a.JNZ(LabelRef(label))
	a.Label(label + "_end")
}

func (a *asm) copy(r reg.GPVirtual) reg.GPVirtual {
	c := a.GP64()
	a.MOVQ(r, c)
	return c
}

// times returns r·n, n a power of two.
func (a *asm) times(r reg.GPVirtual, n int) reg.GPVirtual {
	c := a.copy(r)
	a.SHLQ(Imm(uint64(bits.TrailingZeros(uint(n)))), c)
	return c
}

// mem is a memory operand at a base register.
func mem(base reg.Register, disp int) Mem { return Mem{Base: base, Disp: disp} }

// at is base + index·scale + disp.
func at(base, index reg.Register, scale uint8, disp int) Mem {
	return Mem{Base: base, Index: index, Scale: scale, Disp: disp}
}

// splatByte fills a YMM or ZMM register with a byte.
func (a *asm) splatByte(b byte, dst reg.VecVirtual) {
	t := a.GP32()
	a.MOVL(U32(uint32(b)*0x01010101), t)
	a.splat(t, dst)
}

func (a *asm) splat(t reg.GPVirtual, dst reg.VecVirtual) {
	if a.avx512 {
		a.VPBROADCASTD(t, dst)
		return
	}
	x := a.XMM()
	a.VMOVD(t, x)
	a.VPBROADCASTD(x, dst)
}

// add moves a pointer.
func (a *asm) add(r reg.GPVirtual, n int) { a.ADDQ(U32(uint32(n)), r) }

func hex(u uint32) string { return strconv.FormatUint(uint64(u), 16) }

// zero clears a register. avo does not know that VPXORD of a register with itself reads nothing.
func (a *asm) zero(v reg.VecVirtual) {
	if !a.avx512 {
		a.VPXOR(v, v, v)
		return
	}
	i, err := x86.VPXORD(v, v, v)
	if err != nil {
		log.Fatal(err)
	}
	i.Inputs = nil
	a.Instruction(i)
}

// data is a constant of the file, of 32-bit words.
func (a *asm) data(name string, words ...uint32) Mem {
	if m, ok := a.consts[name]; ok {
		return m
	}
	m := a.StaticGlobal(name)
	a.DataAttributes(attr.RODATA | attr.NOPTR)
	for i, w := range words {
		a.AddDatum(4*i, U32(w))
	}
	a.consts[name] = m
	return m
}
