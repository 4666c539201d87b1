//go:build !purego

package kernel

import "golang.org/x/sys/cpu"

func tiers() []*tier {
	neon := generic
	neon.name = "neon"
	neon.peak = peaks{int8: peakInt8NEON, int8Turn: 16 * 8, f32: peakF32NEON, f32Turn: 16 * 4, read: readNEON}
	neon.ternaryMatVec = ternaryMatVecNEON
	neon.ternaryMatMul = ternaryMatMulNEON
	neon.dotF32 = dotWith(matVecF32NEON)
	neon.matMulF32 = matMulWith(matVecF32NEON, matMulF32NEON, 2, 32, 4)
	neon.dotBF16 = dotWith(matVecBF16NEON)
	neon.matMulBF16 = matMulWith(matVecBF16NEON, matMulBF16NEON, 2, 32, 2)
	neon.dotF16 = dotWith(matVecF16NEON)
	neon.matMulF16 = matMulWith(matVecF16NEON, matMulF16NEON, 2, 32, 2)
	neon.attnMixF32 = attnMixWith(attnMixF32NEON, 8, attnMixF32Generic)
	neon.attnMixF16 = attnMixWith(attnMixF16NEON, 8, attnMixF16Generic)
	neon.attnMixI8 = attnMixI8With(attnMixI8NEON, 8, attnMixI8Generic)
	neon.attnScoresF32 = attnScoresWith(attnScoresF32NEON)
	neon.attnScoresF16 = attnScoresWith(attnScoresF16NEON)
	neon.attnScoresI8 = attnScoresI8With(attnScoresI8NEON)
	neon.groupMatMul = groupNEON().matMul
	neon.quantizeGroups = quantizeGroupsWith(quantizeGroupsNEON)
	neon.hadamard = hadamardWith(hadamardNearNEON, hadamardFarNEON, hadamardLastNEON, 4, mulNEON, scaleNEON)
	neon.ternaryRows = ternaryRowsWith(ternaryRowsNEON)
	neon.ternaryColumns = ternaryColumnsWith(ternaryColumnsNEON, 64)
	neon.screen = screenQueries(screenNEON)
	neon.screenRefine = screenRefineNEON
	neon.quantizeRow = quantizeRowWith(absMaxNEON, quantizeNEON)
	neon.softmaxExp = softmaxExpNEON
	neon.max = maxNEON
	neon.sum = sumNEON
	neon.rmsScale = rmsScaleNEON
	neon.siluMul = siluMulNEON
	neon.relu2Mul = relu2MulNEON
	neon.geluTanh = geluTanhNEON
	neon.gelu = geluNEON
	neon.rope = ropeNEON
	neon.add = addNEON
	neon.scale = scaleNEON
	neon.scaleRow = scaleRowNEON
	list := []*tier{&generic, &neon}
	if !cpu.ARM64.HasASIMDDP {
		return list
	}
	dot := neon
	dot.name = "neondot"
	dot.peak.int8, dot.peak.int8Turn = peakInt8NEONDot, 16*16
	dot.ternaryMatVec = ternaryMatVecNEONDot
	dot.ternaryMatMul = ternaryMatMulTiles(ternaryMatVecNEONDot, ternaryMatMulNEONDot)
	dot.ternaryRows = ternaryRowsWith(ternaryRowsNEONDot)
	dot.ternaryColumns = ternaryColumnsWith(ternaryColumnsNEONDot, 64)
	dot.groupMatMul = groupNEONDot().matMul
	dot.screen = screenQueries(screenNEONDot)
	list = append(list, &dot)
	if !cpu.ARM64.HasI8MM {
		return list
	}
	i8mm := dot
	i8mm.name = "neoni8mm"
	i8mm.peak.int8, i8mm.peak.int8Turn = peakInt8NEONI8MM, 16*32
	i8mm.ternaryMatMul = ternaryMatMulI8MM(dot.ternaryMatMul)
	i8mm.groupMatMul = groupNEONI8MM().matMul
	return append(list, &i8mm)
}

func softmaxExpNEON(s []float32, max float32) float32 {
	expSubNEON(s, max)
	return sumNEON(s)
}
