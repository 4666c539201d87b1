package gemm

// Element-wise passes of training. Lengths must agree; a wrong one panics.

func same(n int, xs ...[]float32) {
	for _, x := range xs {
		if len(x) != n {
			panic("gemm: lengths differ")
		}
	}
}

// SiLUMul writes h = g·σ(g)·u.
func SiLUMul(h, g, u []float32) { same(len(h), g, u); siluMul(h, g, u) }

// SiLUMulGrad writes the gradients of SiLUMul's inputs: dg = dh·u·(σ + gσ(1−σ)), du = dh·gσ. dg may be g, du may be u.
func SiLUMulGrad(dg, du, dh, g, u []float32) {
	same(len(dg), du, dh, g, u)
	siluMulGrad(dg, du, dh, g, u)
}

// ReLU2Mul writes h = max(g,0)²·u.
func ReLU2Mul(h, g, u []float32) { same(len(h), g, u); relu2Mul(h, g, u) }

// ReLU2MulGrad writes dg = dh·u·2max(g,0), du = dh·max(g,0)². dg may be g, du may be u.
func ReLU2MulGrad(dg, du, dh, g, u []float32) {
	same(len(dg), du, dh, g, u)
	relu2MulGrad(dg, du, dh, g, u)
}

// GELU writes y = x·Φ(x), Φ the normal distribution (Hendrycks and Gimpel 2016, arXiv:1606.08415): nn.GELU of PyTorch.
func GELU(y, x []float32) { same(len(y), x); gelu(y, x) }

// GELUGrad writes dx = dy·GELU'(x).
func GELUGrad(dx, dy, x []float32) { same(len(dx), dy, x); geluGrad(dx, dy, x) }

// ExpSub overwrites x with exp(x−m), the exponent clamped to ±87.
func ExpSub(x []float32, m float32) { expSub(x, m) }

// SoftmaxGrad overwrites ds with p·(ds − dot)·s.
func SoftmaxGrad(ds, p []float32, dot, s float32) { same(len(ds), p); softmaxGrad(ds, p, dot, s) }

// ScaleMul writes y = (x·s)·w.
func ScaleMul(y, x, w []float32, s float32) { same(len(y), x, w); scaleMul(y, x, w, s) }

// NormGrad adds dy·w·a + x·b to dx.
func NormGrad(dx, dy, w, x []float32, a, b float32) {
	same(len(dx), dy, w, x)
	normGrad(dx, dy, w, x, a, b)
}

// MulAdd adds a·b·s to y.
func MulAdd(y, a, b []float32, s float32) { same(len(y), a, b); mulAdd(y, a, b, s) }

// Axpy adds x·s to y.
func Axpy(y, x []float32, s float32) { same(len(y), x); axpy(y, x, s) }

// Scale multiplies x by s.
func Scale(x []float32, s float32) { scale(x, s) }

// Rotate turns each pair (x[i], y[i]) by the angle whose cosine and sine are given; s = −1 turns back.
func Rotate(x, y, cos, sin []float32, s float32) {
	same(len(x), y, cos, sin)
	rotate(x, y, cos, sin, s)
}

// Adam holds one step's factors of AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101).
type Adam struct {
	GradScale    float32 // clipping and accumulation
	Beta1, Beta2 float32
	Keep         float32 // 1 − lr·weight decay
	Step         float32 // lr/(1 − β1ᵗ)
	RootV        float32 // 1/√(1 − β2ᵗ)
	Eps          float32
}

// AdamW does one step in one pass:
//
//	m = β1·m + (1−β1)·g    v = β2·v + (1−β2)·g²    p = keep·p − step·m/(rootV·√v + ε)
func AdamW(p, g, m, v []float32, a Adam) {
	same(len(p), g, m, v)
	adamw(p, g, m, v, a.GradScale, a.Beta1, 1-a.Beta1, a.Beta2, 1-a.Beta2, a.Keep, a.Step, a.RootV, a.Eps)
}

// Reductions run in 32 lanes, lane i taking the elements ≡ i mod 32, folded 32→16→8→4→2→1; the
// tail past the last multiple of 32 follows one by one.

// Sum returns Σx.
func Sum(x []float32) float32 {
	n := len(x) &^ 31
	var s float32
	if n > 0 {
		s = sum(x[:n])
	}
	for _, v := range x[n:] {
		s += v
	}
	return s
}

// RowMax returns the largest of x, which must not be empty.
func RowMax(x []float32) float32 {
	n := len(x) &^ 31
	m := x[0]
	if n > 0 {
		m = rowMax(x[:n])
	}
	for _, v := range x[n:] {
		m = max(m, v)
	}
	return m
}

// Dot returns Σx·y.
func Dot(x, y []float32) float32 {
	same(len(x), y)
	n := len(x) &^ 31
	var s float32
	if n > 0 {
		s = dot(x[:n], y[:n])
	}
	for i := n; i < len(x); i++ {
		s += float32(x[i] * y[i])
	}
	return s
}

// Dot3 returns Σx·y·z.
func Dot3(x, y, z []float32) float32 {
	same(len(x), y, z)
	n := len(x) &^ 31
	var s float32
	if n > 0 {
		s = dot3(x[:n], y[:n], z[:n])
	}
	for i := n; i < len(x); i++ {
		s += float32(float32(x[i]*y[i]) * z[i])
	}
	return s
}
