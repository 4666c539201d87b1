//go:build !purego

package kernel

func groupNEON() *groupProducts {
	p := &groupProducts{tiles: 1, unpackT2: groupUnpackT2NEON, unpackB1: groupUnpackB1NEON}
	p.unpackT5 = func(dst, w *byte, group int) { groupUnpackT5NEON(dst, w, group, &t5Field[0]) }
	p.tokens[0], p.tokens[1] = groupTokensPlanes1NEON, groupTokensPlanes2NEON
	return p
}

func groupNEONDot() *groupProducts {
	p := groupNEON()
	p.tokens[0], p.tokens[1] = groupTokensPlanes1NEONDot, groupTokensPlanes2NEONDot
	return p
}

func groupNEONI8MM() *groupProducts {
	p := &groupProducts{tiles: 1, unpackT2: ternaryUnpackI8MM, unpackB1: groupUnpackB1NEONI8MM}
	p.unpackT5 = func(dst, w *byte, group int) { groupUnpackT5NEONI8MM(dst, w, group, &t5Field[0]) }
	p.tokens[0], p.tokens[1] = groupTokensPlanes1NEONI8MM, groupTokensPlanes2NEONI8MM
	return p
}
