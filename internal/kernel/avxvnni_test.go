//go:build amd64 && !purego

package kernel

import (
	"slices"

	"golang.org/x/sys/cpu"
)

// evex is what stands for tier avxvnni where a CPU has AVX-512 but not AVX-VNNI: the same functions with VPDPBUSD in
// the other encoding (see _asm/vex.go). Every test of every tier runs it then; the test of the generator compares the
// two encodings instruction by instruction.
const evex = "avxvnni as EVEX"

func init() {
	x := &cpu.X86
	i := slices.IndexFunc(available, func(t *tier) bool { return t.name == "avx2" })
	if i < 0 || !(x.HasAVX512F && x.HasAVX512VL && x.HasAVX512VNNI) {
		return
	}
	t := *available[i]
	t.name = evex
	t.peak.int8, t.peak.int8Turn = peakInt8EVEX, 12*32
	t.ternaryMatVec = ternaryMatVecEVEX
	t.ternaryMatMul = ternaryMatMulTiles(ternaryMatVecEVEX, ternaryMatMulEVEX)
	t.groupMatMul = groupEVEX().matMul
	t.screen = screenQueries(screenEVEX)
	available = slices.Insert(available, i+1, &t)
}
