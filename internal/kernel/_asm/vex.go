package main

import (
	"bytes"
	"fmt"
	"log"
	"regexp"
	"strconv"
)

// AVX-VNNI is VPDPBUSD in VEX encoding, which Go's assembler lacks: it encodes the mnemonic for AVX-512, as EVEX. So
// vex replaces each VPDPBUSD of the functions whose names end in AVXVNNI by its bytes. The generator writes these
// functions a second time, with names ending in EVEX and the mnemonic left as it is: the same code for CPUs with
// AVX-512 VL and VNNI, there to be tested where the other one cannot run.
var (
	vexFunc  = regexp.MustCompile(`(?m)^TEXT ·\w+AVXVNNI\(SB\)[^\0]*?^\tRET$`)
	vpdpbusd = regexp.MustCompile(`(?m)^\tVPDPBUSD +(.*)$`)
	threeY   = regexp.MustCompile(`^Y(\d+), Y(\d+), Y(\d+)$`)
)

func vex(text []byte) []byte {
	return vexFunc.ReplaceAllFunc(text, func(f []byte) []byte {
		return vpdpbusd.ReplaceAllFunc(f, func(line []byte) []byte {
			operands := vpdpbusd.FindSubmatch(line)[1]
			m := threeY.FindSubmatch(operands)
			if m == nil {
				log.Fatalf("%s: only registers are encoded", bytes.TrimSpace(line))
			}
			var r [3]int
			for i := range r {
				r[i], _ = strconv.Atoi(string(m[i+1]))
			}
			out := []byte("\t")
			for _, b := range vexVPDPBUSD(r[0], r[1], r[2]) {
				out = fmt.Appendf(out, "BYTE $0x%02x; ", b)
			}
			return fmt.Appendf(out[:len(out)-2], " // VPDPBUSD %s", operands)
		})
	})
}

// vexVPDPBUSD encodes VPDPBUSD Ym, Yn, Yd, in Go's order: d += n (unsigned bytes) · m (signed bytes).
// Intel SDM volume 2: VEX.256.66.0F38.W0 50 /r, with d in ModRM.reg, n in VEX.vvvv and m in ModRM.rm.
func vexVPDPBUSD(m, n, d int) [5]byte {
	inverted := func(r int) byte { return byte(^r >> 3 & 1) } // bit 3 of a register, as VEX wants it
	return [5]byte{
		0xc4, // VEX, three bytes
		inverted(d)<<7 | 1<<6 | inverted(m)<<5 | 2, // R, X, B; map 0F38
		byte(^n&15)<<3 | 1<<2 | 1,                  // W 0, vvvv, L 256 bits, prefix 66
		0x50,
		0xc0 | byte(d&7)<<3 | byte(m&7),
	}
}
