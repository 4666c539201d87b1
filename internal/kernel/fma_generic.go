package kernel

import "math"

// fma32 returns a·b+c rounded once, as the FMA instructions of every tier do.
//
// The product of two float32 values is exact in float64. The sum p+c is rounded to odd there: where it
// is inexact its last bit is set to 1, which keeps "not a tie" visible, so that the final rounding to
// float32 sees what it would have seen of the exact sum (Boldo and Melquiond, Emulation of FMA and
// correctly rounded sums, IEEE Trans. Computers 57(4), 2008: 53 ≥ 24+2 bits suffice).
//
// Go may fuse x*y+z on some ports; the explicit conversions forbid it.
func fma32(a, b, c float32) float32 {
	p := float64(float64(a) * float64(b))
	z := float64(c)
	s := float64(p + z)
	// TwoSum (Knuth): e is the exact rounding error of s.
	t := float64(s - p)
	e := float64(float64(p-float64(s-t)) + float64(z-t))
	if e != 0 && e == e && !math.IsInf(s, 0) {
		u := math.Float64bits(s)
		if u&1 == 0 {
			if (e > 0) == (s > 0) {
				u++
			} else {
				u--
			}
			s = math.Float64frombits(u)
		}
	}
	return float32(s)
}
