package kernel

import "math"

func maxGeneric(x []float32) float32 {
	m := float32(math.Inf(-1))
	for _, v := range x {
		if v > m {
			m = v
		}
	}
	return m
}

func addGeneric(y, x []float32) {
	for i, v := range x {
		y[i] += v
	}
}

func scaleGeneric(y []float32, s float32) {
	for i := range y {
		y[i] *= s
	}
}

// Exp's range reduction and polynomial: x = n·ln2 + r, eˣ = 2ⁿ·eʳ, |r| ≤ ln2/2.
// The coefficients are a minimax fit of (eʳ-1-r)/r² for the relative error of eʳ: 0.05 ulp before rounding.
const (
	expMin   = -87.5 // below about -86.99 the result is 0
	expMax   = 88.75 // above 88.73 it is infinite
	log2e    = 1.4426950408889634
	ln2Hi    = 0.693147182464599609375    // float32(ln 2)
	ln2Lo    = -1.90465429995776804525e-9 // ln 2 - ln2Hi
	expRound = 0x1.8p23                   // adding it rounds to an integer, kept in the low bits
	expC2    = 0.4999999403953552
	expC3    = 0.1666652113199234
	expC4    = 0.04166838899254799
	expC5    = 0.00836874544620514
	expC6    = 0.0013814539415761828
)

// Exp returns eˣ to within 1 ulp: the one exponential of every tier. A result below 1.7e-38, where float32
// is about to lose precision, is 0; above the largest float32 it is infinite; NaN stays NaN.
func Exp(x float32) float32 {
	if x < expMin {
		x = expMin
	}
	if x > expMax {
		x = expMax
	}
	t := fma32(x, log2e, expRound)
	n := t - expRound
	r := fma32(n, -ln2Hi, x)
	r = fma32(n, -ln2Lo, r)
	p := fma32(expC6, r, expC5)
	p = fma32(p, r, expC4)
	p = fma32(p, r, expC3)
	p = fma32(p, r, expC2)
	p = fma32(p, r, 1)
	p = fma32(p, r, 1)
	// p·2ⁿ⁻¹·2, as 2ⁿ may be out of range; n = -126 gives 0.
	p = float32(p * math.Float32frombits((math.Float32bits(t)+126)<<23))
	return p + p
}

func siluMulGeneric(y, gate, up []float32) {
	for i, g := range gate {
		y[i] = float32(g/(1+Exp(-g))) * up[i]
	}
}

func relu2MulGeneric(y, gate, up []float32) {
	for i, g := range gate {
		if g < 0 {
			g = 0
		}
		y[i] = float32(g*g) * up[i]
	}
}

const (
	geluA = -1.5957691216057308    // -2√(2/π)
	geluB = -0.0713548162726002527 // -2√(2/π)·0.044715
)

func geluTanhGeneric(y, x []float32) {
	for i, v := range x {
		y[i] = v / (1 + Exp(v*fma32(geluB, v*v, geluA)))
	}
}

// geluC are the coefficients of Φ(-z)·exp(z²/2) ≈ Σ geluC[i]·tⁱ, t = 1/(1+0.3z), z in [0, 13.3]: a minimax fit
// to 6e-8 of the value.
var geluC = [9]float32{
	6.683365427306853e-06, 0.1194959431886673, 0.12186159193515778, 0.09491278976202011, 0.14199785888195038,
	-0.07572860270738602, 0.22798022627830505, -0.1688370406627655, 0.03831058368086815,
}

func geluGeneric(y, x []float32) {
	for i, v := range x {
		z := math.Float32frombits(math.Float32bits(v) &^ (1 << 31))
		t := 1 / fma32(0.3, z, 1)
		p := geluC[8]
		for c := 7; c >= 0; c-- {
			p = fma32(p, t, geluC[c])
		}
		p = float32(p * Exp(float32(z*z)*-0.5)) // Φ(-|x|)
		if math.Float32bits(v)>>31 == 0 {
			p = 1 - p
		}
		y[i] = v * p
	}
}

func ropeGeneric(x, cos, sin []float32) {
	half := len(cos)
	for ; len(x) != 0; x = x[2*half:] {
		for i, c := range cos {
			a, b := x[i], x[i+half]
			x[i] = float32(a*c) - float32(b*sin[i])
			x[i+half] = float32(b*c) + float32(a*sin[i])
		}
	}
}
