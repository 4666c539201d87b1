package main

import (
	"bytes"
	"fmt"
	"log"
	"path/filepath"
	"strings"

	"github.com/mmcloughlin/avo/gotypes"
)

// arm writes arm64 functions. Go's assembler lacks most vector instructions of ARMv8 that compute in floating
// point or widen, so every vector instruction here is a WORD with its name beside it; loads, stores and scalar
// code are Go's. Vector registers are plain numbers; R0…R15 are free, R16 and R17 hold addresses.
type arm struct {
	body, decls bytes.Buffer
	sig         *gotypes.Signature
	name        string
}

// v numbers count registers from a base.
func seq(base, n int) []int {
	r := make([]int, n)
	for i := range r {
		r[i] = base + i
	}
	return r
}

// fn starts a function with so many bytes of local variables.
func (a *arm) fn(name, signature string, frame int, doc ...string) {
	sig, err := gotypes.ParseSignature("func" + signature)
	if err != nil {
		log.Fatal(err)
	}
	a.name, a.sig = name, sig
	fmt.Fprintf(&a.decls, "\n")
	for _, line := range doc {
		fmt.Fprintf(&a.decls, "// %s\n", line)
	}
	fmt.Fprintf(&a.decls, "//\n//go:noescape\nfunc %s%s\n", name, signature)
	fmt.Fprintf(&a.body, "\n// func %s%s\nTEXT ·%s(SB), NOSPLIT, $%d-%d\n", name, signature, name, frame, sig.Bytes())
}

// p prints one instruction or label.
func (a *arm) p(format string, args ...any) {
	line := fmt.Sprintf(format, args...)
	if strings.HasSuffix(line, ":") {
		fmt.Fprintf(&a.body, "%s\n", line)
		return
	}
	fmt.Fprintf(&a.body, "\t%s\n", line)
}

func (a *arm) addr(c gotypes.Component) string {
	b, err := c.Resolve()
	if err != nil {
		log.Fatalf("%s: %v", a.name, err)
	}
	return b.Addr.Asm()
}

// ptr, length and arg load a slice's address, its length, an integer or pointer parameter into a register.
func (a *arm) ptr(name, r string) { a.p("MOVD %s, %s", a.addr(a.sig.Params().Lookup(name).Base()), r) }

func (a *arm) length(name, r string) {
	a.p("MOVD %s, %s", a.addr(a.sig.Params().Lookup(name).Len()), r)
}
func (a *arm) arg(name, r string)  { a.p("MOVD %s, %s", a.addr(a.sig.Params().Lookup(name)), r) }
func (a *arm) argW(name, r string) { a.p("MOVW %s, %s", a.addr(a.sig.Params().Lookup(name)), r) }
func (a *arm) result() string      { return a.addr(a.sig.Results().At(0)) }

// loop runs body count times (none for 0), counting the register down.
func (a *arm) loop(label, count string, body func()) {
	a.p("CBZ %s, %s_end", count, label)
	a.p("%s:", label)
	body()
	a.p("SUB $1, %s", count)
	a.p("CBNZ %s, %s", count, label)
	a.p("%s_end:", label)
}

// w emits a vector instruction: its encoding and its name.
func (a *arm) w(code uint32, format string, args ...any) {
	a.p("WORD $0x%08x // %s", code, fmt.Sprintf(format, args...))
}

// Three registers: d = n op m, or d += n·m.
func (a *arm) three(code uint32, name, t, u string, d, n, m int) {
	a.w(code|uint32(m)<<16|uint32(n)<<5|uint32(d), "%s v%d.%s, v%d.%s, v%d.%s", name, d, t, n, u, m, u)
}

func (a *arm) two(code uint32, name, t, u string, d, n int) {
	a.w(code|uint32(n)<<5|uint32(d), "%s v%d.%s, v%d.%s", name, d, t, n, u)
}

func (a *arm) fadd(d, n, m int)   { a.three(0x4e20d400, "fadd", "4s", "4s", d, n, m) }
func (a *arm) fsub(d, n, m int)   { a.three(0x4ea0d400, "fsub", "4s", "4s", d, n, m) }
func (a *arm) fmul(d, n, m int)   { a.three(0x6e20dc00, "fmul", "4s", "4s", d, n, m) }
func (a *arm) fdiv(d, n, m int)   { a.three(0x6e20fc00, "fdiv", "4s", "4s", d, n, m) }
func (a *arm) fmla(d, n, m int)   { a.three(0x4e20cc00, "fmla", "4s", "4s", d, n, m) }
func (a *arm) fmls(d, n, m int)   { a.three(0x4ea0cc00, "fmls", "4s", "4s", d, n, m) }
func (a *arm) fmax(d, n, m int)   { a.three(0x4e20f400, "fmax", "4s", "4s", d, n, m) }
func (a *arm) fmin(d, n, m int)   { a.three(0x4ea0f400, "fmin", "4s", "4s", d, n, m) }
func (a *arm) add4s(d, n, m int)  { a.three(0x4ea08400, "add", "4s", "4s", d, n, m) }
func (a *arm) sub4s(d, n, m int)  { a.three(0x6ea08400, "sub", "4s", "4s", d, n, m) }
func (a *arm) addp4s(d, n, m int) { a.three(0x4ea0bc00, "addp", "4s", "4s", d, n, m) }
func (a *arm) umax4s(d, n, m int) { a.three(0x6ea06400, "umax", "4s", "4s", d, n, m) }
func (a *arm) and(d, n, m int)    { a.three(0x4e201c00, "and", "16b", "16b", d, n, m) }
func (a *arm) bit(d, n, m int)    { a.three(0x6ea01c00, "bit", "16b", "16b", d, n, m) }
func (a *arm) add16b(d, n, m int) { a.three(0x4e208400, "add", "16b", "16b", d, n, m) }
func (a *arm) sub16b(d, n, m int) { a.three(0x6e208400, "sub", "16b", "16b", d, n, m) }
func (a *arm) addp8h(d, n, m int) { a.three(0x4e60bc00, "addp", "8h", "8h", d, n, m) }
func (a *arm) smull(d, n, m int)  { a.three(0x0e20c000, "smull", "8h", "8b", d, n, m) }
func (a *arm) smull2(d, n, m int) { a.three(0x4e20c000, "smull2", "8h", "16b", d, n, m) }
func (a *arm) saddlp4s(d, n int)  { a.two(0x4e602800, "saddlp", "4s", "8h", d, n) }
func (a *arm) bsl(d, n, m int)    { a.three(0x6e601c00, "bsl", "16b", "16b", d, n, m) }
func (a *arm) zero(d int)         { a.three(0x6e201c00, "eor", "16b", "16b", d, d, d) }
func (a *arm) mov(d, n int)       { a.three(0x4ea01c00, "orr", "16b", "16b", d, n, n) }
func (a *arm) smlal(d, n, m int)  { a.three(0x0e208000, "smlal", "8h", "8b", d, n, m) }
func (a *arm) smlal2(d, n, m int) { a.three(0x4e208000, "smlal2", "8h", "16b", d, n, m) }
func (a *arm) sadalp(d, n int)    { a.two(0x4e606800, "sadalp", "4s", "8h", d, n) }
func (a *arm) scvtf(d, n int)     { a.two(0x4e21d800, "scvtf", "4s", "4s", d, n) }
func (a *arm) fcvtns(d, n int)    { a.two(0x4e21a800, "fcvtns", "4s", "4s", d, n) }
func (a *arm) fneg(d, n int)      { a.two(0x6ea0f800, "fneg", "4s", "4s", d, n) }
func (a *arm) fsqrt(d, n int)     { a.two(0x6ea1f800, "fsqrt", "4s", "4s", d, n) }
func (a *arm) fabs(d, n int)      { a.two(0x4ea0f800, "fabs", "4s", "4s", d, n) }
func (a *arm) fcvtl(d, n int)     { a.two(0x0e217800, "fcvtl", "4s", "4h", d, n) }
func (a *arm) fcvtl2(d, n int)    { a.two(0x4e217800, "fcvtl2", "4s", "8h", d, n) }
func (a *arm) sqxtn4h(d, n int)   { a.two(0x0e614800, "sqxtn", "4h", "4s", d, n) }
func (a *arm) sqxtn8h(d, n int)   { a.two(0x4e614800, "sqxtn2", "8h", "4s", d, n) }
func (a *arm) sqxtn8b(d, n int)   { a.two(0x0e214800, "sqxtn", "8b", "8h", d, n) }
func (a *arm) sqxtn16b(d, n int)  { a.two(0x4e214800, "sqxtn2", "16b", "8h", d, n) }
func (a *arm) shll16(d, n int)    { a.w(0x2e613800|uint32(n<<5|d), "shll v%d.4s, v%d.4h, #16", d, n) }

// sxtl8h, sxtl4s and sxtl4sHi widen signed integers: 8 bytes, the first 4 and the last 4 of 8 halfwords.
func (a *arm) sxtl8h(d, n int) { a.two(0x0f08a400, "sxtl", "8h", "8b", d, n) }

func (a *arm) sxtl4s(d, n int)   { a.two(0x0f10a400, "sxtl", "4s", "4h", d, n) }
func (a *arm) sxtl4sHi(d, n int) { a.two(0x4f10a400, "sxtl2", "4s", "8h", d, n) }

func (a *arm) shll16hi(d, n int) { a.w(0x6e613800|uint32(n<<5|d), "shll2 v%d.4s, v%d.8h, #16", d, n) }

func (a *arm) shl4s(d, n, s int) {
	a.w(0x4f005400|uint32((32+s)<<16|n<<5|d), "shl v%d.4s, v%d.4s, #%d", d, n, s)
}

func (a *arm) sshr4s(d, n, s int) {
	a.w(0x4f000400|uint32((64-s)<<16|n<<5|d), "sshr v%d.4s, v%d.4s, #%d", d, n, s)
}

func (a *arm) ushr16b(d, n, s int) {
	a.w(0x6f000400|uint32((16-s)<<16|n<<5|d), "ushr v%d.16b, v%d.16b, #%d", d, n, s)
}

func (a *arm) ext(d, n, m, b int) {
	a.w(0x6e000000|uint32(m<<16|b<<11|n<<5|d), "ext v%d.16b, v%d.16b, v%d.16b, #%d", d, n, m, b)
}

// dup4s repeats word i of n; dupW a general register.
func (a *arm) dup4s(d, n, i int) {
	a.w(0x4e000400|uint32((i<<3|4)<<16|n<<5|d), "dup v%d.4s, v%d.s[%d]", d, n, i)
}

func (a *arm) dupW(d, r int) { a.w(0x4e040c00|uint32(r<<5|d), "dup v%d.4s, w%d", d, r) }

// movi16b fills bytes.
func (a *arm) movi16b(d int, b uint32) {
	a.w(0x4f00e400|b>>5<<16|b&31<<5|uint32(d), "movi v%d.16b, #%d", d, b)
}

// faddp adds words 0 and 1 of n into a scalar, and likewise for the maxima of a whole register.
func (a *arm) faddp(d, n int) { a.w(0x7e30d800|uint32(n<<5|d), "faddp s%d, v%d.2s", d, n) }
func (a *arm) fmaxv(d, n int) { a.w(0x6e30f800|uint32(n<<5|d), "fmaxv s%d, v%d.4s", d, n) }
func (a *arm) umaxv(d, n int) { a.w(0x6eb0a800|uint32(n<<5|d), "umaxv s%d, v%d.4s", d, n) }
func (a *arm) addv(d, n int)  { a.w(0x4eb1b800|uint32(n<<5|d), "addv s%d, v%d.4s", d, n) }

// sdot adds to each word of d the products of its four bytes of n with word i of m.
func (a *arm) sdot(d, n, m, i int) {
	a.w(0x4f80e000|uint32(i&1<<21|i>>1<<11|m<<16|n<<5|d), "sdot v%d.4s, v%d.16b, v%d.4b[%d]", d, n, m, i)
}

// fmlaBy is fmla with one word of m.
func (a *arm) fmlaBy(d, n, m, i int) {
	a.w(0x4f801000|uint32(i&1<<21|i>>1<<11|m<<16|n<<5|d), "fmla v%d.4s, v%d.4s, v%d.s[%d]", d, n, m, i)
}

// fmulBy is fmul with one word of m.
func (a *arm) fmulBy(d, n, m, i int) {
	a.w(0x4f809000|uint32(i&1<<21|i>>1<<11|m<<16|n<<5|d), "fmul v%d.4s, v%d.4s, v%d.s[%d]", d, n, m, i)
}

// ld and st move 16 bytes at base + off, in reach of the scaled 12-bit offset.
func (a *arm) ld(d int, base string, off int) { a.p("FMOVQ %d(%s), F%d", off, base, d) }
func (a *arm) st(d int, base string, off int) { a.p("FMOVQ F%d, %d(%s)", d, off, base) }

// ldBits loads 8 or 16 bytes.
func (a *arm) ldBits(d int, base string, off, bytes int) {
	if bytes == 8 {
		a.p("FMOVD %d(%s), F%d", off, base, d)
		return
	}
	a.ld(d, base, off)
}

// constant broadcasts a 32-bit constant into a register, by way of R16.
func (a *arm) constant(d int, u uint32) {
	a.p("MOVW $0x%x, R16", u)
	a.dupW(d, 16)
}

var armGroups = []struct {
	file  string
	write func(*arm)
}{
	{"ternary_arm64.s", ternaryARM},
	{"i8mm_arm64.s", i8mmARM},
	{"dense_arm64.s", denseARM},
	{"elementwise_arm64.s", elementwiseARM},
	{"sparse_arm64.s", sparseARM},
	{"group_arm64.s", groupARM},
	{"screen_arm64.s", screenARM},
	{"peak_arm64.s", peakARM},
}

// writeARM writes the arm64 kernels and returns their declarations.
func writeARM(dir string) []byte {
	var decls bytes.Buffer
	for _, g := range armGroups {
		a := new(arm)
		g.write(a)
		text := fmt.Sprintf("// %s\n\n//go:build !purego\n\n#include \"textflag.h\"\n%s", warning, a.body.Bytes())
		write(filepath.Join(dir, g.file), []byte(text))
		decls.Write(a.decls.Bytes())
	}
	return decls.Bytes()
}
