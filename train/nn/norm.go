package nn

import (
	"math"

	"github.com/tritlm/trit/internal/gemm"
)

// Norm is RMSNorm, or LayerNorm when it has a bias:
//
//	RMSNorm    y = x/√(mean(x²) + ε)·w                       Zhang and Sennrich 2019, arXiv:1910.07467
//	LayerNorm  y = (x − mean(x))/√(var(x) + ε)·w + b         Ba et al. 2016, arXiv:1607.06450
type Norm struct {
	D    int
	Eps  float64
	W, B *Param
}

// Stat is what one pass through a Norm leaves for the backward pass.
type Stat struct {
	x    []float32 // [T, D], the caller's buffer: it must not change before the backward pass
	mean []float32 // [T], LayerNorm only
	rstd []float32 // [T]
}

// Forward writes y [T, D] from x, which may not be y.
func (n *Norm) Forward(e *Env, y, x []float32, s *Stat, T int) {
	e.Stage("norms")
	D := n.D
	s.x = x
	s.rstd, s.mean = grow(&s.rstd, T), grow(&s.mean, T)
	e.Pool.For(T, 8, func(lo, hi int) {
		for t := lo; t < hi; t++ {
			r, o := x[t*D:(t+1)*D], y[t*D:(t+1)*D]
			if n.B == nil {
				ss := float64(gemm.Dot(r, r))
				s.rstd[t] = float32(1 / math.Sqrt(ss/float64(D)+n.Eps))
				gemm.ScaleMul(o, r, n.W.W, s.rstd[t])
				continue
			}
			m := gemm.Sum(r) / float32(D)
			for i, v := range r {
				o[i] = v - m
			}
			v := float64(gemm.Dot(o, o)) / float64(D)
			s.mean[t], s.rstd[t] = m, float32(1/math.Sqrt(v+n.Eps))
			gemm.ScaleMul(o, o, n.W.W, s.rstd[t])
			gemm.Axpy(o, n.B.W, 1)
		}
	})
}

// Backward adds to dx [T, D] and to the gradients of w and b. With g = dy·w and x̃ the normalised x:
//
//	dx += rstd·(g − x̃·mean(g·x̃) [− mean(g)])    dw += Σ_t dy·x̃    db += Σ_t dy
func (n *Norm) Backward(e *Env, dx, dy []float32, s *Stat, T int) {
	e.Stage("norms")
	D, x := n.D, s.x
	pieces := e.numPieces()
	parts := grow(&e.f32[fPart], 2*pieces*D)
	e.pieces(T, func(c, lo, hi int) {
		dw, db := parts[c*D:(c+1)*D], parts[(pieces+c)*D:(pieces+c+1)*D]
		clear(dw)
		clear(db)
		var xc []float32
		if n.B != nil {
			xc = make([]float32, D)
		}
		for t := lo; t < hi; t++ {
			r, g, d := x[t*D:(t+1)*D], dy[t*D:(t+1)*D], dx[t*D:(t+1)*D]
			rs := s.rstd[t]
			if n.B != nil {
				for i, v := range r {
					xc[i] = v - s.mean[t]
				}
				r = xc
				gemm.Axpy(db, g, 1)
				mg := gemm.Dot(g, n.W.W) / float32(D) * rs
				for i := range d {
					d[i] -= mg
				}
			}
			if n.W.G != nil {
				gemm.MulAdd(dw, g, r, rs)
			}
			dot := gemm.Dot3(g, n.W.W, r)
			b := -float32(float64(dot) / float64(D) * float64(rs) * float64(rs) * float64(rs))
			gemm.NormGrad(d, g, n.W.W, r, rs, b)
		}
	})
	if n.W.G == nil {
		return
	}
	e.foldPieces(n.W.G, parts[:pieces*D])
	if n.B != nil {
		e.foldPieces(n.B.G, parts[pieces*D:])
	}
}
