//go:build !purego

package kernel

import "golang.org/x/sys/cpu"

func tiers() []*tier {
	list := []*tier{&generic}
	x := &cpu.X86
	if !(x.HasAVX2 && x.HasFMA && x.HasF16C) {
		return list
	}
	avx2 := generic
	avx2.name = "avx2"
	avx2.peak = peaks{int8: peakInt8AVX2, int8Turn: 12 * 32, f32: peakF32AVX2, f32Turn: 12 * 8, read: readAVX2}
	avx2.ternaryMatVec = ternaryMatVecAVX2
	avx2.ternaryMatMul = ternaryMatMulAVX2
	avx2.screen4 = screen4AVX2
	list = append(list, &avx2)
	if !(x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL && x.HasAVX512VNNI) {
		return list
	}
	vnni := avx2
	vnni.name = "avx512vnni"
	vnni.peak = peaks{int8: peakInt8VNNI, int8Turn: 12 * 64, f32: peakF32VNNI, f32Turn: 12 * 16, read: readAVX2}
	vnni.ternaryMatVec = ternaryMatVecVNNI
	vnni.ternaryMatMul = ternaryMatMulPairs
	vnni.screen4 = screen4VNNI
	return append(list, &vnni)
}
