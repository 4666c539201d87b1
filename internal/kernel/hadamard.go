package kernel

import (
	"math"
	"math/bits"
)

// Hadamard transforms each block of x in place by the normalised Walsh–Hadamard matrix in Sylvester's order: H₁ = 1,
// H₂ₙ = [[Hₙ, Hₙ], [Hₙ, -Hₙ]], divided by √n. It is its own inverse.
//
//	x       [n·block] float32, block a power of two up to 2²⁴
//	before  [len(x)] ±1, multiplied with x in front of the transform, or nil
//	after   [len(x)] ±1, multiplied with the result, or nil
//
// The order is fixed: steps of distance 1, 2, 4, … block/2, each element one rounded sum or difference, then one product
// with the rounded 1/√block.
func Hadamard(x []float32, block int, before, after []float32) {
	if block <= 0 || block > 1<<24 || block&(block-1) != 0 || len(x)%block != 0 || before != nil && len(before) != len(x) || after != nil && len(after) != len(x) {
		badLength("Hadamard(x, block, before, after)", len(x), block, len(before), len(after))
	}
	active.hadamard(x, block, before, after)
}

// hadamardScale is 1/√block, rounded once.
func hadamardScale(block int) float32 {
	s := 1 / float64(int(1)<<(bits.TrailingZeros(uint(block))/2))
	if bits.TrailingZeros(uint(block))%2 == 1 {
		s *= math.Sqrt(0.5)
	}
	return float32(s)
}

func hadamardGeneric(x []float32, block int, before, after []float32) {
	for i, s := range before {
		x[i] *= s
	}
	scale := hadamardScale(block)
	for h := 1; h < block; h *= 2 {
		for i := 0; i < len(x); i += 2 * h {
			lo, hi := x[i:i+h], x[i+h:i+2*h]
			for j, b := range hi {
				a := lo[j]
				lo[j], hi[j] = a+b, a-b
			}
		}
	}
	for i := range x {
		x[i] *= scale
	}
	for i, s := range after {
		x[i] *= s
	}
}
