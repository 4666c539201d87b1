package nn

import "github.com/tritlm/trit/internal/gemm"

// Lora is a low-rank adapter beside a Linear that does not change (Hu et al. 2021, arXiv:2106.09685):
//
//	y += s·B·(A·x)    s = alpha/rank
//
// x is the layer's input before its activations are rounded to int8, as Hugging Face's peft has it for AutoBitLinear.
//
//	A  [R, In]
//	B  [Out, R]
type Lora struct {
	R     int
	Scale float32
	A, B  *Param
}

// down writes u [T, R] = s·A·x.
func (a *Lora) down(e *Env, in *Input) []float32 {
	T, In := in.T, in.In
	u := grow(&e.f32[fLora], T*a.R)
	xs, as := grow(&e.units[uLoraA], gemm.ASize(T, In)), grow(&e.units[uLoraB], gemm.BSize(a.R, In))
	e.Pool.For(gemm.Steps(T, gemm.MR), 1, func(lo, hi int) { gemm.PackA(xs, gemm.Units(in.x), In, T, In, lo, hi) })
	gemm.PackB(as, gemm.Units(a.A.W), In, a.R, In, 0, gemm.Steps(a.R, gemm.NR), 0)
	gemm.F32(e.Pool, u, a.R, T, a.R, In, gemm.F32s(xs), gemm.F32s(as), false)
	gemm.Scale(u, a.Scale)
	return u
}

// forward adds s·B·(A·x) to y [T, Out].
func (a *Lora) forward(e *Env, y []float32, in *Input, Out int) {
	u := a.down(e, in)
	e.addProduct(y, u, a.B.W, in.T, Out, a.R)
}

// addProduct adds x·wᵀ to y: x [T, depth], w [n, depth], y [T, n].
func (e *Env) addProduct(y, x, w []float32, T, n, depth int) {
	p, q := grow(&e.units[uLoraA], gemm.ASize(T, depth)), grow(&e.units[uLoraB], gemm.BSize(n, depth))
	e.Pool.For(gemm.Steps(T, gemm.MR), 1, func(lo, hi int) { gemm.PackA(p, gemm.Units(x), depth, T, depth, lo, hi) })
	e.Pool.For(gemm.Steps(n, gemm.NR), 1, func(lo, hi int) { gemm.PackB(q, gemm.Units(w), depth, n, depth, lo, hi, 0) })
	gemm.F32(e.Pool, y, n, T, n, depth, gemm.F32s(p), gemm.F32s(q), true)
}

// addOuter adds xᵀ·y to g [m, n]: x [T, m], y [T, n].
func (e *Env) addOuter(g, x, y []float32, T, m, n int) {
	e.tree(g, T, func(g []float32, t0, t1 int, add bool) {
		T, x, y := t1-t0, x[t0*m:], y[t0*n:]
		p, q := grow(&e.units[uLoraA], gemm.ASize(m, T)), grow(&e.units[uLoraB], gemm.BSize(n, T))
		e.Pool.For(T, 8, func(lo, hi int) {
			gemm.PackF32Cols(p, x, m, m, T, gemm.MR, lo, hi)
			gemm.PackF32Cols(q, y, n, n, T, gemm.NR, lo, hi)
		})
		gemm.F32(e.Pool, g, n, m, n, T, gemm.F32s(p), gemm.F32s(q), add)
	})
}

// backward adds to the gradients of A and B and to dx, for dy [T, Out]:
//
//	dB += dyᵀ·u    du = s·dy·B    dA += duᵀ·x    dx += du·A
func (a *Lora) backward(e *Env, dx, dy []float32, in *Input, Out int) {
	T, In, R := in.T, in.In, a.R
	u := a.down(e, in)
	e.addOuter(a.B.G, dy, u, T, Out, R)
	du := grow(&e.f32[fLoraD], T*R)
	p, q := grow(&e.units[uLoraA], gemm.ASize(T, Out)), grow(&e.units[uLoraB], gemm.BSize(R, Out))
	e.Pool.For(gemm.Steps(T, gemm.MR), 1, func(lo, hi int) { gemm.PackA(p, gemm.Units(dy), Out, T, Out, lo, hi) })
	e.Pool.For(Out, 8, func(lo, hi int) { gemm.PackF32Cols(q, a.B.W, R, R, Out, gemm.NR, lo, hi) })
	gemm.F32(e.Pool, du, R, T, R, Out, gemm.F32s(p), gemm.F32s(q), false)
	gemm.Scale(du, a.Scale)
	e.addOuter(a.A.G, du, in.x, T, R, In)
	if dx == nil {
		return
	}
	p, q = grow(&e.units[uLoraA], gemm.ASize(T, R)), grow(&e.units[uLoraB], gemm.BSize(In, R))
	e.Pool.For(gemm.Steps(T, gemm.MR), 1, func(lo, hi int) { gemm.PackA(p, gemm.Units(du), R, T, R, lo, hi) })
	e.Pool.For(R, 1, func(lo, hi int) { gemm.PackF32Cols(q, a.A.W, In, In, R, gemm.NR, lo, hi) })
	gemm.F32(e.Pool, dx, In, T, In, R, gemm.F32s(p), gemm.F32s(q), true)
}
