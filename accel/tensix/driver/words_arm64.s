//go:build !purego

#include "textflag.h"

// func storeWords(dst, src unsafe.Pointer, n int)
TEXT ·storeWords(SB), NOSPLIT, $0-24
	MOVD dst+0(FP), R0
	MOVD src+8(FP), R1
	MOVD n+16(FP), R2

loop:
	SUBS  $1, R2
	BLT   done
	MOVWU.P 4(R1), R3
	MOVW.P  R3, 4(R0)
	B     loop

done:
	RET

// func loadWords(dst, src unsafe.Pointer, n int)
TEXT ·loadWords(SB), NOSPLIT, $0-24
	MOVD dst+0(FP), R0
	MOVD src+8(FP), R1
	MOVD n+16(FP), R2

loop:
	SUBS  $1, R2
	BLT   done
	MOVWU.P 4(R1), R3
	MOVW.P  R3, 4(R0)
	B     loop

done:
	RET

// func storeFence()
TEXT ·storeFence(SB), NOSPLIT, $0-0
	DSB $0xE // stores, of the whole system
	RET
