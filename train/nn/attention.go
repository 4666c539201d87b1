package nn

import (
	"math"

	"github.com/tritlm/trit/internal/gemm"
)

// Attention is causal softmax attention of B sequences of S tokens each, KV heads shared by H/KV query heads
// (Ainslie et al. 2023, arXiv:2305.13245):
//
//	P = softmax(Q·Kᵀ/√hd, causal)    O = P·V
type Attention struct {
	H, KV, HD int
}

// Forward writes o [T, H·HD] and keeps the probabilities.
//
//	q     [T, H·HD]
//	k, v  [T, KV·HD]
//	p     [B, H, S, S]
func (a *Attention) Forward(e *Env, o, p, q, k, v []float32, B, S int) {
	e.Stage("attention forward")
	hd, dq, dk := a.HD, a.H*a.HD, a.KV*a.HD
	scale := float32(1 / math.Sqrt(float64(hd)))
	e.Pool.Run(B*a.H, func(job, worker int) {
		w := &e.work[worker]
		b, h := job/a.H, job%a.H
		qh, oh := q[b*S*dq+h*hd:], o[b*S*dq+h*hd:]
		g := h / (a.H / a.KV)
		kh, vh := k[b*S*dk+g*hd:], v[b*S*dk+g*hd:]
		ph := p[job*S*S : (job+1)*S*S]
		w.rows(qh, dq, kh, dk, S, S, hd)
		w.causal(ph, S, hd)
		for t := range S {
			row := ph[t*S : t*S+t+1]
			gemm.Scale(row, scale)
			gemm.ExpSub(row, gemm.RowMax(row))
			gemm.Scale(row, 1/gemm.Sum(row))
			clear(ph[t*S+t+1 : (t+1)*S])
		}
		w.rowsCols(ph, S, vh, dk, S, hd, S)
		gemm.F32(nil, oh, dq, S, hd, S, gemm.F32s(w.a), gemm.F32s(w.b), false)
	})
}

// Backward writes dq, dk and dv.
//
//	do  [T, H·HD]
func (a *Attention) Backward(e *Env, dq, dk, dv, do, p, q, k, v []float32, B, S int) {
	e.Stage("attention backward")
	hd, sq, sk := a.HD, a.H*a.HD, a.KV*a.HD
	group := a.H / a.KV
	scale := float32(1 / math.Sqrt(float64(hd)))
	e.Pool.Run(B*a.KV, func(job, worker int) {
		w := &e.work[worker]
		b, g := job/a.KV, job%a.KV
		kh, vh := k[b*S*sk+g*hd:], v[b*S*sk+g*hd:]
		dkh, dvh := dk[b*S*sk+g*hd:], dv[b*S*sk+g*hd:]
		ds := grow(&w.f, S*S)
		for i := range group {
			h := g*group + i
			qh, doh, dqh := q[b*S*sq+h*hd:], do[b*S*sq+h*hd:], dq[b*S*sq+h*hd:]
			ph := p[(b*a.H+h)*S*S : (b*a.H+h+1)*S*S]
			// dV += Pᵀ·dO
			w.cols(ph, S, doh, sq, S, hd, S)
			gemm.F32(nil, dvh, sk, S, hd, S, gemm.F32s(w.a), gemm.F32s(w.b), i > 0)
			// dP = dO·Vᵀ, dS = P·(dP − Σ P·dP)/√hd
			w.rows(doh, sq, vh, sk, S, S, hd)
			w.causal(ds, S, hd)
			for t := range S {
				d, r := ds[t*S:t*S+t+1], ph[t*S:t*S+t+1]
				gemm.SoftmaxGrad(d, r, gemm.Dot(d, r), scale)
				clear(ds[t*S+t+1 : (t+1)*S])
			}
			// dQ = dS·K, dK += dSᵀ·Q
			w.rowsCols(ds, S, kh, sk, S, hd, S)
			gemm.F32(nil, dqh, sq, S, hd, S, gemm.F32s(w.a), gemm.F32s(w.b), false)
			w.cols(ds, S, qh, sq, S, hd, S)
			gemm.F32(nil, dkh, sk, S, hd, S, gemm.F32s(w.a), gemm.F32s(w.b), i > 0)
		}
	})
}

// causal multiplies what rows packed, in blocks of rows that stop at the diagonal.
func (w *workspace) causal(c []float32, S, depth int) {
	const block = 64
	for m := 0; m < S; m += block {
		m1 := min(m+block, S)
		gemm.F32Block(c, S, m, m1, 0, m1, depth, gemm.F32s(w.a), gemm.F32s(w.b), false)
	}
}

// rows packs x [m, depth] and y [n, depth].
func (w *workspace) rows(x []float32, sx int, y []float32, sy, m, n, depth int) {
	a, b := grow(&w.a, gemm.ASize(m, depth)), grow(&w.b, gemm.BSize(n, depth))
	w.a, w.b = a, b
	gemm.PackA(a, gemm.Units(x), sx, m, depth, 0, gemm.Steps(m, gemm.MR))
	gemm.PackB(b, gemm.Units(y), sy, n, depth, 0, gemm.Steps(n, gemm.NR), 0)
}

// rowsCols packs x [m, depth] and y [depth, n].
func (w *workspace) rowsCols(x []float32, sx int, y []float32, sy, m, n, depth int) {
	a, b := grow(&w.a, gemm.ASize(m, depth)), grow(&w.b, gemm.BSize(n, depth))
	w.a, w.b = a, b
	gemm.PackA(a, gemm.Units(x), sx, m, depth, 0, gemm.Steps(m, gemm.MR))
	gemm.PackF32Cols(b, y, sy, n, depth, gemm.NR, 0, depth)
}

// cols packs x [depth, m] and y [depth, n].
func (w *workspace) cols(x []float32, sx int, y []float32, sy, m, n, depth int) {
	a, b := grow(&w.a, gemm.ASize(m, depth)), grow(&w.b, gemm.BSize(n, depth))
	w.a, w.b = a, b
	gemm.PackF32Cols(a, x, sx, m, depth, gemm.MR, 0, depth)
	gemm.PackF32Cols(b, y, sy, n, depth, gemm.NR, 0, depth)
}

// Rope holds the tables of rotary positions (Su et al. 2021, arXiv:2104.09864), pairs half a head
// apart (NEOX order, rotate_half of transformers).
type Rope struct {
	hd       int
	cos, sin []float32 // [S, hd/2]
}

// NewRope makes tables for positions below n.
func NewRope(hd, n int, theta float64) *Rope {
	r := &Rope{hd: hd, cos: make([]float32, n*hd/2), sin: make([]float32, n*hd/2)}
	for s := range n {
		for i := range hd / 2 {
			f := float32(1 / math.Pow(theta, float64(2*i)/float64(hd)))
			sin, cos := math.Sincos(float64(float32(s) * f))
			r.cos[s*hd/2+i], r.sin[s*hd/2+i] = float32(cos), float32(sin)
		}
	}
	return r
}

// Turn rotates x [T, heads·hd] in place by its tokens' positions; dir −1 is the backward pass.
func (r *Rope) Turn(e *Env, x []float32, T, S, heads int, dir float32) {
	e.Stage("rotary positions")
	half := r.hd / 2
	e.Pool.For(T, 8, func(lo, hi int) {
		for t := lo; t < hi; t++ {
			s := t % S
			cos, sin := r.cos[s*half:(s+1)*half], r.sin[s*half:(s+1)*half]
			for h := range heads {
				v := x[(t*heads+h)*r.hd:][:r.hd]
				gemm.Rotate(v[:half], v[half:], cos, sin, dir)
			}
		}
	})
}
