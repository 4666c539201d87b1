package gemm

import "math"

// expDef is the exponential of every tier: x = n·ln2 + r with n the nearest integer, the polynomial
// of Cephes' expf in r, then n added to the exponent.
func expDef(x float32) float32 {
	x = max(min(x, 87), -87)
	k := int32(math.RoundToEven(float64(float32(x * 1.44269504))))
	n := float32(k)
	x -= float32(n * 0.693359375)
	x -= float32(n * -2.12194440e-4)
	p := float32(1.9875691500e-4)
	for _, c := range [...]float32{1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1} {
		p = float32(p*x) + c
	}
	p = float32(p*float32(x*x)) + x
	p += 1
	return p * math.Float32frombits(uint32(k+127)<<23)
}

func sigmoid(x float32) float32 { return 1 / (expDef(-x) + 1) }

func siluMulGeneric(h, g, u []float32) {
	for i, x := range g {
		h[i] = float32(sigmoid(x)*x) * u[i]
	}
}

func siluMulGradGeneric(dg, du, dh, g, u []float32) {
	for i, x := range g {
		s, d, w := sigmoid(x), dh[i], u[i]
		y := float32(x * s)
		du[i] = y * d
		dg[i] = float32(float32(y*float32(1-s))+s) * float32(w*d)
	}
}

func relu2MulGeneric(h, g, u []float32) {
	for i, x := range g {
		x = max(x, 0)
		h[i] = float32(x*x) * u[i]
	}
}

func relu2MulGradGeneric(dg, du, dh, g, u []float32) {
	for i, x := range g {
		x = max(x, 0)
		d, w := dh[i], u[i]
		du[i] = float32(x*x) * d
		dg[i] = float32(w*d) * float32(2*x)
	}
}

// phi is the normal distribution Φ(x) and e^(−x²/2). Φ is 1 − q/2 or q/2 by the sign of x, q = erfc(|x|/√2) after
// Abramowitz and Stegun 7.1.26, whose error is below 1.5e-7.
func phi(x float32) (p, e float32) {
	t := 1 / (float32(0.3275911*float32(0.70710678*abs(x))) + 1)
	p = 1.061405429
	for _, a := range [...]float32{-1.453152027, 1.421413741, -0.284496736, 0.254829592} {
		p = float32(p*t) + a
	}
	p *= t
	e = expDef(-0.5 * float32(x*x))
	q := 0.5 * float32(e*p)
	if math.Signbit(float64(x)) {
		return q, e
	}
	return 1 - q, e
}

func geluGeneric(y, x []float32) {
	for i, v := range x {
		p, _ := phi(v)
		y[i] = v * p
	}
}

func geluGradGeneric(dx, dy, x []float32) {
	for i, v := range x {
		p, e := phi(v)
		dx[i] = dy[i] * float32(p+float32(v*float32(0.39894228*e)))
	}
}

func expSubGeneric(x []float32, m float32) {
	for i, v := range x {
		x[i] = expDef(v - m)
	}
}

func softmaxGradGeneric(ds, p []float32, dot, s float32) {
	for i, v := range ds {
		ds[i] = s * float32(p[i]*float32(v-dot))
	}
}

func scaleMulGeneric(y, x, w []float32, s float32) {
	for i, v := range x {
		y[i] = w[i] * float32(v*s)
	}
}

func normGradGeneric(dx, dy, w, x []float32, a, b float32) {
	for i, v := range dy {
		dx[i] += float32(a*float32(w[i]*v)) + float32(x[i]*b)
	}
}

func mulAddGeneric(y, a, b []float32, s float32) {
	for i, v := range a {
		y[i] += float32(s * float32(b[i]*v))
	}
}

func axpyGeneric(y, x []float32, s float32) {
	for i, v := range x {
		y[i] += float32(v * s)
	}
}

func scaleGeneric(x []float32, s float32) {
	for i := range x {
		x[i] *= s
	}
}

func rotateGeneric(x, y, cos, sin []float32, s float32) {
	for i, a := range x {
		b, c, d := y[i], cos[i], float32(sin[i]*s)
		x[i] = float32(c*a) - float32(d*b)
		y[i] = float32(c*b) + float32(d*a)
	}
}

func adamwGeneric(p, g, m, v []float32, gs, b1, c1, b2, c2, keep, step, rv, eps float32) {
	for i := range p {
		d := float32(g[i] * gs)
		m[i] = float32(m[i]*b1) + float32(d*c1)
		v[i] = float32(v[i]*b2) + float32(float32(d*d)*c2)
		r := float32(math.Sqrt(float64(v[i])))
		p[i] = float32(p[i]*keep) - float32(step*float32(m[i]/float32(float32(rv*r)+eps)))
	}
}

func fold(l *[32]float32, f func(a, b float32) float32) float32 {
	for h := 16; h > 0; h /= 2 {
		for i := range h {
			l[i] = f(l[i], l[i+h])
		}
	}
	return l[0]
}

func add32(a, b float32) float32 { return a + b }

func sumGeneric(x []float32) float32 {
	var l [32]float32
	for i, v := range x {
		l[i%32] += v
	}
	return fold(&l, add32)
}

func rowMaxGeneric(x []float32) float32 {
	m := x[0]
	for _, v := range x {
		m = max(m, v)
	}
	return m
}

func dotGeneric(x, y []float32) float32 {
	var l [32]float32
	for i, v := range x {
		l[i%32] += float32(v * y[i])
	}
	return fold(&l, add32)
}

func dot3Generic(x, y, z []float32) float32 {
	var l [32]float32
	for i, v := range x {
		l[i%32] += float32(float32(v*y[i]) * z[i])
	}
	return fold(&l, add32)
}
