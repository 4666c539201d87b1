package kernel

// Max returns the largest element, with -0 taken for +0; -Inf of none. With a NaN in x the result is open.
func Max(x []float32) float32 { return active.max(x) + 0 }

// Add computes y += x.
func Add(y, x []float32) {
	if len(y) != len(x) {
		badLength("Add(y, x)", len(y), len(x))
	}
	active.add(y, x)
}

// Scale computes y *= s.
func Scale(y []float32, s float32) { active.scale(y, s) }

// SiLUMul computes y = (gate / (1 + Exp(-gate))) · up, each step rounded. y may be gate or up.
func SiLUMul(y, gate, up []float32) {
	if len(y) != len(gate) || len(y) != len(up) {
		badLength("SiLUMul(y, gate, up)", len(y), len(gate), len(up))
	}
	active.siluMul(y, gate, up)
}

// ReLU2Mul computes y = (max(gate, 0)·max(gate, 0)) · up, each step rounded. y may be gate or up.
func ReLU2Mul(y, gate, up []float32) {
	if len(y) != len(gate) || len(y) != len(up) {
		badLength("ReLU2Mul(y, gate, up)", len(y), len(gate), len(up))
	}
	active.relu2Mul(y, gate, up)
}

// GELUTanh computes y = x/2·(1 + tanh(√(2/π)(x + 0.044715x³))), the approximation that GPT-2 was trained
// with (Hendrycks and Gimpel 2016, arXiv:1606.08415), as x / (1 + Exp(-2√(2/π)(x + 0.044715x³))). y may be x.
func GELUTanh(y, x []float32) {
	if len(y) != len(x) {
		badLength("GELUTanh(y, x)", len(y), len(x))
	}
	active.geluTanh(y, x)
}

// GELU computes y = x·Φ(x), Φ(x) = (1 + erf(x/√2))/2 (Hendrycks and Gimpel 2016, arXiv:1606.08415), to about
// 1e-7 of the value, 2e-6 where |x| > 5. y may be x.
func GELU(y, x []float32) {
	if len(y) != len(x) {
		badLength("GELU(y, x)", len(y), len(x))
	}
	active.gelu(y, x)
}

// Rope rotates heads by their position (Su et al. 2021, arXiv:2104.09864) in the NEOX order, where
// element i of a head pairs with element i+half:
//
//	x[i], x[i+half] = x[i]·cos[i] - x[i+half]·sin[i], x[i+half]·cos[i] + x[i]·sin[i]
//
// products rounded before the sum, as transformers does.
//
//	x         [heads, 2·half]
//	cos, sin  [half] of the position
func Rope(x, cos, sin []float32) {
	if len(cos) != len(sin) || len(cos) == 0 && len(x) != 0 || len(cos) != 0 && len(x)%(2*len(cos)) != 0 {
		badLength("Rope(x, cos, sin)", len(x), len(cos), len(sin))
	}
	if len(x) != 0 {
		active.rope(x, cos, sin)
	}
}
