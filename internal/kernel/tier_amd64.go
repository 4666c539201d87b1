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
	avx2.screen = screenQueries(screenAVX2)
	avx2.screenRefine = screenRefineAVX2
	avx2.dotF32 = dotWith(matVecF32AVX2)
	avx2.matMulF32 = matMulWith(matVecF32AVX2, matMulF32AVX2, 2, 32, 4)
	avx2.dotBF16 = dotWith(matVecBF16AVX2)
	avx2.matMulBF16 = matMulWith(matVecBF16AVX2, matMulBF16AVX2, 2, 32, 2)
	avx2.dotF16 = dotWith(matVecF16AVX2)
	avx2.matMulF16 = matMulWith(matVecF16AVX2, matMulF16AVX2, 2, 32, 2)
	avx2.attnMixF32 = attnMixWith(attnMixF32AVX2, 8, attnMixF32Generic)
	avx2.attnMixF16 = attnMixWith(attnMixF16AVX2, 8, attnMixF16Generic)
	avx2.attnMixI8 = attnMixI8With(attnMixI8AVX2, 8, attnMixI8Generic)
	avx2.attnScoresF32 = attnScoresWith(attnScoresF32AVX2)
	avx2.attnScoresF16 = attnScoresWith(attnScoresF16AVX2)
	avx2.attnScoresI8 = attnScoresI8With(attnScoresI8AVX2)
	avx2.groupMatMul = groupAVX2().matMul
	avx2.quantizeGroups = quantizeGroupsWith(quantizeGroupsAVX2)
	avx2.hadamard = hadamardWith(hadamardNearAVX2, hadamardFarAVX2, hadamardLastAVX2, 8, mulAVX2, scaleAVX2)
	avx2.ternaryRows = ternaryRowsWith(ternaryRowsAVX2)
	avx2.ternaryColumns = ternaryColumnsWith(ternaryColumnsAVX2, 32)
	avx2.quantizeRow = quantizeRowWith(absMaxAVX2, quantizeAVX2)
	avx2.softmaxExp = softmaxExpAVX2
	avx2.max = maxAVX2
	avx2.sum = sumAVX2
	avx2.rmsScale = rmsScaleAVX2
	avx2.siluMul = siluMulAVX2
	avx2.relu2Mul = relu2MulAVX2
	avx2.geluTanh = geluTanhAVX2
	avx2.gelu = geluAVX2
	avx2.rope = ropeAVX2
	avx2.add = addAVX2
	avx2.scale = scaleAVX2
	avx2.scaleRow = scaleRowAVX2
	list = append(list, &avx2)
	if x.HasAVXVNNI {
		avxvnni := avx2
		avxvnni.name = "avxvnni"
		avxvnni.peak.int8, avxvnni.peak.int8Turn = peakInt8AVXVNNI, 12*32
		avxvnni.ternaryMatVec = ternaryMatVecAVXVNNI
		avxvnni.ternaryMatMul = ternaryMatMulTiles(ternaryMatVecAVXVNNI, ternaryMatMulAVXVNNI)
		avxvnni.groupMatMul = groupAVXVNNI().matMul
		avxvnni.screen = screenQueries(screenAVXVNNI)
		list = append(list, &avxvnni)
	}
	if !(x.HasAVX512F && x.HasAVX512BW && x.HasAVX512DQ && x.HasAVX512VL && x.HasAVX512VNNI && x.HasBMI2 && x.HasPOPCNT) {
		return list
	}
	vnni := avx2
	vnni.name = "avx512vnni"
	vnni.peak = peaks{int8: peakInt8VNNI, int8Turn: 12 * 64, f32: peakF32VNNI, f32Turn: 12 * 16, read: readAVX2}
	vnni.ternaryMatVec = ternaryMatVecVNNI
	vnni.ternaryMatMul = ternaryMatMulPairs
	vnni.groupMatMul = groupVNNI(x.HasAVX512VBMI).matMul
	if x.HasAVX512VBMI {
		vnni.preferT5 = true
		vnni.ternaryMatVecT5 = ternaryMatVecT5With(ternaryMatVecT5VBMI)
		vnni.ternaryMatMulT5 = ternaryMatMulT5With(ternaryMatMulT5VBMI)
		vnni.t5FromT16 = t5FromT16With(t5FromT16VNNI)
		vnni.t16FromT5 = t16FromT5With(t16FromT5VBMI)
	}
	vnni.screen = screenTiles
	vnni.screenRefine = screenRefineVNNI
	vnni.dotF32 = dotWith(matVecF32VNNI)
	vnni.matMulF32 = matMulWith(matVecF32VNNI, matMulF32VNNI, 4, 1, 4)
	vnni.dotBF16 = dotWith(matVecBF16VNNI)
	vnni.matMulBF16 = matMulWith(matVecBF16VNNI, matMulBF16VNNI, 4, 1, 2)
	vnni.dotF16 = dotWith(matVecF16VNNI)
	vnni.matMulF16 = matMulWith(matVecF16VNNI, matMulF16VNNI, 4, 1, 2)
	vnni.attnMixF32 = attnMixWith(attnMixF32VNNI, 16, avx2.attnMixF32)
	vnni.attnMixF16 = attnMixWith(attnMixF16VNNI, 16, avx2.attnMixF16)
	vnni.attnMixI8 = attnMixI8With(attnMixI8VNNI, 16, avx2.attnMixI8)
	vnni.attnScoresF32 = attnScoresWith(attnScoresF32VNNI)
	vnni.attnScoresF16 = attnScoresWith(attnScoresF16VNNI)
	vnni.attnScoresI8 = attnScoresI8With(attnScoresI8VNNI)
	vnni.ternaryRows = ternaryRowsWith(ternaryRowsVNNI)
	vnni.rowsFromT16 = rowsFromT16With(rowsFromT16VNNI)
	vnni.nonzeros = nonzerosWith(nonzerosVNNI)
	vnni.above = aboveWith(aboveVNNI)
	vnni.ternaryColumns = ternaryColumnsWith(ternaryColumnsVNNI, 64)
	return append(list, &vnni)
}
