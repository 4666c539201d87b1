package nn

import (
	"math"

	"github.com/tritlm/trit/internal/gemm"
)

// Embedding looks rows up: y[t] = W[ids[t]], plus P[t mod S] when positions are learned.
type Embedding struct {
	D int
	W *Param // [V, D]
	P *Param // [S, D] or nil

	// G takes the gradient of W instead of W.G when it is there: the head that shares W then has a gradient of its own.
	G []float32
}

// Forward writes y [T, D].
func (m *Embedding) Forward(e *Env, y []float32, ids []int32, S int) {
	e.Stage("embedding")
	D := m.D
	e.Pool.For(len(ids), 8, func(lo, hi int) {
		for t := lo; t < hi; t++ {
			row := y[t*D : (t+1)*D]
			copy(row, m.W.W[int(ids[t])*D:])
			if m.P != nil {
				gemm.Axpy(row, m.P.W[t%S*D:(t%S+1)*D], 1)
			}
		}
	})
}

// Backward adds dy to the rows that were looked up.
func (m *Embedding) Backward(e *Env, dy []float32, ids []int32, S int) {
	if m.W.G == nil {
		return
	}
	e.Stage("embedding")
	g := m.W.G
	if m.G != nil {
		g = m.G
	}
	e.scatter(g, dy, m.W.Shape[0], m.D, len(ids), func(t int) int { return int(ids[t]) })
	if m.P != nil {
		e.scatter(m.P.G, dy, m.P.Shape[0], m.D, len(ids), func(t int) int { return t % S })
	}
}

// CrossEntropy is the head and its loss in one pass over pieces of the batch, so that the logits of a large
// vocabulary never exist all at once:
//
//	logits = x·Wᵀ    loss = −mean_t log softmax(logits[t])[target[t]]
//
// It returns the summed loss in float64. With dx it also runs the backward pass: dlogits =
// (softmax − onehot)·scale, dx = dlogits·W, dW += dlogitsᵀ·x.
//
//	x, dx   [T, D]
//	target  [T]; negative: the token does not count
func (l *Linear) CrossEntropy(e *Env, dx, x []float32, target []int32, T int, scale float32) float64 {
	e.Stage("head and loss")
	V, D := l.Out, l.In
	const piece = 512
	losses := make([]float64, T)
	var in Input
	in.x = e.f32[fDenseX]
	run := func(g []float32, t0, n int, add bool) {
		logits := grow(&e.f32[fLogits], n*V)
		in.prepare(e, x[t0*D:(t0+n)*D], n, D, false)
		l.forward(e, logits, &in)
		e.Pool.For(n, 4, func(lo, hi int) {
			for t := lo; t < hi; t++ {
				row := logits[t*V : (t+1)*V]
				y := target[t0+t]
				if y < 0 {
					clear(row)
					continue
				}
				m, ly := gemm.RowMax(row), row[y]
				gemm.ExpSub(row, m)
				s := gemm.Sum(row)
				losses[t0+t] = math.Log(float64(s)) + float64(m) - float64(ly)
				if dx != nil {
					gemm.Scale(row, scale/s)
					row[y] -= scale
				}
			}
		})
		if dx != nil {
			l.dxF32(e, dx[t0*D:(t0+n)*D], logits, n, l.W.W, false)
		}
		if dx != nil && g != nil {
			l.dwF32(e, g, logits, in.x, n, add)
		}
	}
	leaf := func(g []float32, lo, hi int, add bool) {
		for t := lo; t < hi; t += piece {
			run(g, t, min(piece, hi-t), add || t > lo)
		}
	}
	if dx != nil && l.W.G != nil {
		e.tree(l.W.G, T, leaf)
	} else {
		leaf(nil, 0, T, false)
	}
	e.f32[fDenseX] = in.x
	var sum float64
	for _, v := range losses {
		sum += v
	}
	return sum
}
