//go:build purego || !amd64

package gemm

func siluMul(h, g, u []float32)                     { siluMulGeneric(h, g, u) }
func siluMulGrad(dg, du, dh, g, u []float32)        { siluMulGradGeneric(dg, du, dh, g, u) }
func relu2Mul(h, g, u []float32)                    { relu2MulGeneric(h, g, u) }
func relu2MulGrad(dg, du, dh, g, u []float32)       { relu2MulGradGeneric(dg, du, dh, g, u) }
func gelu(y, x []float32)                           { geluGeneric(y, x) }
func geluGrad(dx, dy, x []float32)                  { geluGradGeneric(dx, dy, x) }
func expSub(x []float32, m float32)                 { expSubGeneric(x, m) }
func softmaxGrad(ds, p []float32, dot, s float32)   { softmaxGradGeneric(ds, p, dot, s) }
func scaleMul(y, x, w []float32, s float32)         { scaleMulGeneric(y, x, w, s) }
func normGrad(dx, dy, w, x []float32, a, b float32) { normGradGeneric(dx, dy, w, x, a, b) }
func mulAdd(y, a, b []float32, s float32)           { mulAddGeneric(y, a, b, s) }
func axpy(y, x []float32, s float32)                { axpyGeneric(y, x, s) }
func scale(x []float32, s float32)                  { scaleGeneric(x, s) }
func rotate(x, y, cos, sin []float32, s float32)    { rotateGeneric(x, y, cos, sin, s) }
func adamw(p, g, m, v []float32, gs, b1, c1, b2, c2, keep, step, rv, eps float32) {
	adamwGeneric(p, g, m, v, gs, b1, c1, b2, c2, keep, step, rv, eps)
}
func sum(x []float32) float32        { return sumGeneric(x) }
func rowMax(x []float32) float32     { return rowMaxGeneric(x) }
func dot(x, y []float32) float32     { return dotGeneric(x, y) }
func dot3(x, y, z []float32) float32 { return dot3Generic(x, y, z) }
