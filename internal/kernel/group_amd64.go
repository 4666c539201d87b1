//go:build !purego

package kernel

type groupVecFunc = func(y *float32, tiles int, w *byte, scales *uint16, scaleBytes, shift int, x *byte, group, groups int)

func groupAVX2() *groupProducts {
	p := &groupProducts{tiles: 1, unpackT2: ternaryUnpackAVX2, unpackB1: groupUnpackB1AVX2, unpackT5: groupUnpackT5AVX2}
	p.vec = [groupLayouts][2]groupVecFunc{
		Ternary2: {groupVecT2Planes1AVX2, groupVecT2Planes2AVX2},
		Ternary5: {groupVecT5Planes1AVX2, groupVecT5Planes2AVX2},
		Binary1:  {groupVecB1Planes1AVX2, groupVecB1Planes2AVX2},
	}
	p.tokens[0], p.tokens[1] = groupTokensPlanes1AVX2, groupTokensPlanes2AVX2
	return p
}

func groupAVXVNNI() *groupProducts {
	p := groupAVX2()
	p.vec = [groupLayouts][2]groupVecFunc{
		Ternary2: {groupVecT2Planes1AVXVNNI, groupVecT2Planes2AVXVNNI},
		Ternary5: {groupVecT5Planes1AVXVNNI, groupVecT5Planes2AVXVNNI},
		Binary1:  {groupVecB1Planes1AVXVNNI, groupVecB1Planes2AVXVNNI},
	}
	p.few = [groupLayouts]int{Ternary2: 3, Binary1: 3}
	p.tokens[0], p.tokens[1] = groupTokensPlanes1AVXVNNI, groupTokensPlanes2AVXVNNI
	return p
}

// groupEVEX is groupAVXVNNI in the other encoding, also what AVX-512 has for Ternary5 where there is no VBMI.
func groupEVEX() *groupProducts {
	p := groupAVX2()
	p.vec = [groupLayouts][2]groupVecFunc{
		Ternary2: {groupVecT2Planes1EVEX, groupVecT2Planes2EVEX},
		Ternary5: {groupVecT5Planes1EVEX, groupVecT5Planes2EVEX},
		Binary1:  {groupVecB1Planes1EVEX, groupVecB1Planes2EVEX},
	}
	p.few = [groupLayouts]int{Ternary2: 3, Binary1: 3}
	p.tokens[0], p.tokens[1] = groupTokensPlanes1EVEX, groupTokensPlanes2EVEX
	return p
}

func groupVNNI(vbmi bool) *groupProducts {
	p := groupEVEX()
	p.tiles, p.unpackT2, p.unpackB1 = 2, groupUnpackT2VNNI, groupUnpackB1VNNI
	p.vec[Ternary2] = [2]groupVecFunc{groupVecT2Planes1VNNI, groupVecT2Planes2VNNI}
	p.vec[Binary1] = [2]groupVecFunc{groupVecB1Planes1VNNI, groupVecB1Planes2VNNI}
	p.tokens[0], p.tokens[1] = groupTokensPlanes1VNNI, groupTokensPlanes2VNNI
	if vbmi {
		p.few[Ternary5] = 3
		p.vec[Ternary5] = [2]groupVecFunc{withTable(groupVecT5Planes1VBMI), withTable(groupVecT5Planes2VBMI)}
		p.unpackT5 = func(dst, w *byte, group int) { groupUnpackT5VBMI(dst, w, group, &t5Field[0]) }
	}
	return p
}

func withTable(f func(y *float32, tiles int, w *byte, scales *uint16, scaleBytes, shift int, x *byte, group, groups int, table *byte)) groupVecFunc {
	return func(y *float32, tiles int, w *byte, scales *uint16, scaleBytes, shift int, x *byte, group, groups int) {
		f(y, tiles, w, scales, scaleBytes, shift, x, group, groups, &t5Field[0])
	}
}
