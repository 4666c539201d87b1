//go:build !purego

package gemm

// Multiples of 8 (reductions: of 32) go to the assembly, the rest to the definition; element-wise both are the same.

func siluMul(h, g, u []float32) {
	k := 0
	if useAVX2 {
		if k = len(h) &^ 7; k > 0 {
			siluMulAVX2(&h[0], &g[0], &u[0], k)
		}
	}
	siluMulGeneric(h[k:], g[k:], u[k:])
}

func siluMulGrad(dg, du, dh, g, u []float32) {
	k := 0
	if useAVX2 {
		if k = len(dg) &^ 7; k > 0 {
			siluMulGradAVX2(&dg[0], &du[0], &dh[0], &g[0], &u[0], k)
		}
	}
	siluMulGradGeneric(dg[k:], du[k:], dh[k:], g[k:], u[k:])
}

func relu2Mul(h, g, u []float32) {
	k := 0
	if useAVX2 {
		if k = len(h) &^ 7; k > 0 {
			relu2MulAVX2(&h[0], &g[0], &u[0], k)
		}
	}
	relu2MulGeneric(h[k:], g[k:], u[k:])
}

func relu2MulGrad(dg, du, dh, g, u []float32) {
	k := 0
	if useAVX2 {
		if k = len(dg) &^ 7; k > 0 {
			relu2MulGradAVX2(&dg[0], &du[0], &dh[0], &g[0], &u[0], k)
		}
	}
	relu2MulGradGeneric(dg[k:], du[k:], dh[k:], g[k:], u[k:])
}

func gelu(y, x []float32) {
	k := 0
	if useAVX2 {
		if k = len(y) &^ 7; k > 0 {
			geluAVX2(&y[0], &x[0], k)
		}
	}
	geluGeneric(y[k:], x[k:])
}

func geluGrad(dx, dy, x []float32) {
	k := 0
	if useAVX2 {
		if k = len(dx) &^ 7; k > 0 {
			geluGradAVX2(&dx[0], &dy[0], &x[0], k)
		}
	}
	geluGradGeneric(dx[k:], dy[k:], x[k:])
}

func expSub(x []float32, m float32) {
	k := 0
	if useAVX2 {
		if k = len(x) &^ 7; k > 0 {
			expSubAVX2(&x[0], m, k)
		}
	}
	expSubGeneric(x[k:], m)
}

func softmaxGrad(ds, p []float32, dot, s float32) {
	k := 0
	if useAVX2 {
		if k = len(ds) &^ 7; k > 0 {
			softmaxGradAVX2(&ds[0], &p[0], dot, s, k)
		}
	}
	softmaxGradGeneric(ds[k:], p[k:], dot, s)
}

func scaleMul(y, x, w []float32, s float32) {
	k := 0
	if useAVX2 {
		if k = len(y) &^ 7; k > 0 {
			scaleMulAVX2(&y[0], &x[0], &w[0], s, k)
		}
	}
	scaleMulGeneric(y[k:], x[k:], w[k:], s)
}

func normGrad(dx, dy, w, x []float32, a, b float32) {
	k := 0
	if useAVX2 {
		if k = len(dx) &^ 7; k > 0 {
			normGradAVX2(&dx[0], &dy[0], &w[0], &x[0], a, b, k)
		}
	}
	normGradGeneric(dx[k:], dy[k:], w[k:], x[k:], a, b)
}

func mulAdd(y, a, b []float32, s float32) {
	k := 0
	if useAVX2 {
		if k = len(y) &^ 7; k > 0 {
			mulAddAVX2(&y[0], &a[0], &b[0], s, k)
		}
	}
	mulAddGeneric(y[k:], a[k:], b[k:], s)
}

func axpy(y, x []float32, s float32) {
	k := 0
	if useAVX2 {
		if k = len(y) &^ 7; k > 0 {
			axpyAVX2(&y[0], &x[0], s, k)
		}
	}
	axpyGeneric(y[k:], x[k:], s)
}

func scale(x []float32, s float32) {
	k := 0
	if useAVX2 {
		if k = len(x) &^ 7; k > 0 {
			scaleAVX2(&x[0], s, k)
		}
	}
	scaleGeneric(x[k:], s)
}

func rotate(x, y, cos, sin []float32, s float32) {
	k := 0
	if useAVX2 {
		if k = len(x) &^ 7; k > 0 {
			rotateAVX2(&x[0], &y[0], &cos[0], &sin[0], s, k)
		}
	}
	rotateGeneric(x[k:], y[k:], cos[k:], sin[k:], s)
}

func adamw(p, g, m, v []float32, gs, b1, c1, b2, c2, keep, step, rv, eps float32) {
	k := 0
	if useAVX2 {
		if k = len(p) &^ 7; k > 0 {
			adamwAVX2(&p[0], &g[0], &m[0], &v[0], gs, b1, c1, b2, c2, keep, step, rv, eps, k)
		}
	}
	adamwGeneric(p[k:], g[k:], m[k:], v[k:], gs, b1, c1, b2, c2, keep, step, rv, eps)
}

func sum(x []float32) float32 {
	if useAVX2 {
		return sumAVX2(&x[0], len(x))
	}
	return sumGeneric(x)
}

func rowMax(x []float32) float32 {
	if useAVX2 {
		return rowMaxAVX2(&x[0], len(x))
	}
	return rowMaxGeneric(x)
}

func dot(x, y []float32) float32 {
	if useAVX2 {
		return dotAVX2(&x[0], &y[0], len(x))
	}
	return dotGeneric(x, y)
}

func dot3(x, y, z []float32) float32 {
	if useAVX2 {
		return dot3AVX2(&x[0], &y[0], &z[0], len(x))
	}
	return dot3Generic(x, y, z)
}
