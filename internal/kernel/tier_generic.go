package kernel

// generic is every kernel's definition; other tiers replace what they do faster.
var generic = tier{
	name: "generic",
	peak: peaks{int8: peakInt8Generic, int8Turn: 1, f32: peakF32Generic, f32Turn: 1, read: readGeneric},

	ternaryMatVec:   ternaryMatVecGeneric,
	ternaryMatMul:   ternaryMatMulGeneric,
	ternaryMatVecT5: ternaryMatVecT5Generic,
	ternaryMatMulT5: ternaryMatMulT5Generic,
	t5FromT16:       t5FromT16Generic,
	t16FromT5:       t16FromT5Generic,
	screen:          screenQueries(screenGeneric),
	screenRefine:    screenRefineGeneric,
	rowsFromT16:     rowsFromT16Generic,
	ternaryRows:     ternaryRowsGeneric,
	ternaryColumns:  ternaryColumnsGeneric,
	groupMatMul:     groupMatMulGeneric,
	quantizeGroups:  quantizeGroupsGeneric,
	hadamard:        hadamardGeneric,
	nonzeros:        nonzerosGeneric,
	above:           aboveGeneric,
	quantizeRow:     quantizeRowGeneric,

	dotF32:     dotF32Generic,
	dotBF16:    dotBF16Generic,
	dotF16:     dotF16Generic,
	matMulF32:  matMulF32Generic,
	matMulBF16: matMulBF16Generic,
	matMulF16:  matMulF16Generic,

	softmaxExp: softmaxExpGeneric,

	attnScoresF32: attnScoresF32Generic,
	attnScoresF16: attnScoresF16Generic,
	attnScoresI8:  attnScoresI8Generic,
	attnMixF32:    attnMixF32Generic,
	attnMixF16:    attnMixF16Generic,
	attnMixI8:     attnMixI8Generic,

	max:      maxGeneric,
	sum:      sumGeneric,
	rmsScale: rmsScaleGeneric,
	siluMul:  siluMulGeneric,
	relu2Mul: relu2MulGeneric,
	geluTanh: geluTanhGeneric,
	gelu:     geluGeneric,
	rope:     ropeGeneric,
	add:      addGeneric,
	scale:    scaleGeneric,
	scaleRow: scaleRowGeneric,
}
