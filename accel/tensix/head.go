package tensix

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/weights"
)

// head finds the best tokens of a hidden state with the output head's rows in int8 on the tiles, exactly:
//
//	logit(v) = w_v·x;  w_v = s_v·r_v + d_v,  x = s·q + e,  r_v and q int8
//	|w_v·x - s_v·s·(r_v·q)| ≤ ‖d_v‖·‖s·q‖ + ‖w_v‖·‖e‖
//
// The tiles compute every r_v·q. A row whose upper bound reaches the k-th best lower bound is scored again on the
// host, as the CPU engine would score it; so the answer is the CPU engine's to the last bit. The float32 rounding
// of that score is at most roundings·‖w_v‖·‖x‖ and is part of the bound.
type head struct {
	d     *Device
	pool  *par.Pool
	m     *Matrix
	w     *weights.Dense
	scale []float32 // [V] s_v
	norm  []float32 // [V] ‖w_v‖, rounded up
	rest  []float32 // [V] ‖d_v‖, rounded up

	q       []int8
	y       []int32
	Rescore uint64 // rows scored again, of
	Rows    uint64 // so many
}

// roundings bounds the error of the canonical float32 dot product over ‖w‖·‖x‖: a lane's 8064/32 = 252 fused
// multiply-adds and five foldings, half a unit in the last place each.
const roundings = 257.0 / (1 << 24)

// maxTop is how many best tokens the tiles are asked for; more come from the host.
const maxTop = 1024

// newHead quantises the rows and uploads them.
//
//	s_v = max|w_v|/127, r_v = round(w_v/s_v)
func newHead(d *Device, pool *par.Pool, w *weights.Dense) (*head, error) {
	h := &head{d: d, pool: pool, w: w, scale: make([]float32, w.Rows), norm: make([]float32, w.Rows), rest: make([]float32, w.Rows)}
	rows := sync.Pool{New: func() any { b := make([]float32, w.Cols); return &b }}
	var err error
	h.m, err = d.LoadInt8("output head", w.Rows, w.Cols, func(dst []int8, r int) {
		p := rows.Get().(*[]float32)
		defer rows.Put(p)
		row := *p
		w.Row(row, r)
		var largest float32
		for _, v := range row {
			largest = max(largest, v, -v)
		}
		s := largest / 127
		if s == 0 || math.IsInf(float64(1/s), 0) { // zeros, or so small that all of it is rest
			s = math.MaxFloat32
		}
		var norm, rest float64
		for i, v := range row {
			q := math.RoundToEven(float64(v) / float64(s))
			dst[i] = int8(max(-127, min(127, q)))
			e := float64(v) - float64(dst[i])*float64(s)
			norm += float64(v) * float64(v)
			rest += e * e
		}
		h.scale[r], h.norm[r], h.rest[r] = s, roundUp(math.Sqrt(norm)), roundUp(math.Sqrt(rest))
	})
	if err != nil {
		return nil, err
	}
	return h, nil
}

// roundUp is a float32 no smaller than x, with room for the float64 sums' own rounding.
func roundUp(x float64) float32 {
	return math.Nextafter32(float32(x*(1+1e-9)), math.MaxFloat32)
}

// top fills each dst with the best tokens of its hidden state: best first, equal ones by lower id.
//
//	x    [len(dst), D]  hidden states after the final norm
func (h *head) top(ctx context.Context, dst [][]model.Scored, x []float32) error {
	n, D, V := len(dst), h.w.Cols, h.w.Rows
	c16 := (D + 15) &^ 15
	h.q = slices.Grow(h.q[:0], n*c16)[:n*c16]
	h.y = slices.Grow(h.y[:0], n*V)[:n*V]
	scales := make([]float32, n)
	for i := range n {
		scales[i], _ = kernel.QuantizeRow(h.q[i*c16:][:c16], x[i*D:][:D])
	}
	if err := h.d.MatMul(ctx, h.q, n, c16, Product{M: h.m, Y: h.y}); err != nil {
		return err
	}
	counts := make([]int, n)
	h.pool.For(n, 1, func(lo, hi int) {
		row := make([]float32, D)
		for i := lo; i < hi; i++ {
			counts[i] = h.pick(dst[i], h.y[i*V:][:V], x[i*D:][:D], h.q[i*c16:][:D], scales[i], row)
		}
	})
	for _, c := range counts {
		h.Rescore += uint64(c)
	}
	h.Rows += uint64(n * V)
	return nil
}

// pick answers one request from the screen's sums and returns how many rows it scored again.
func (h *head) pick(dst []model.Scored, y []int32, x []float32, q []int8, scale float32, row []float32) int {
	var nq, ne, nx float64
	for i, v := range x {
		a := float64(q[i]) * float64(scale)
		e := float64(v) - a
		nq, ne, nx = nq+a*a, ne+e*e, nx+float64(v)*float64(v)
	}
	const slack = 1 + 1e-9 // for the float64 sums
	nq, ne, nx = math.Sqrt(nq)*slack, math.Sqrt(ne)*slack, math.Sqrt(nx)*slack
	approx := func(v int) (score, bound float64) {
		score = float64(h.scale[v]) * float64(scale) * float64(y[v])
		return score, (float64(h.rest[v])*nq + float64(h.norm[v])*(ne+roundings*nx)) * slack
	}
	// The k best lower bounds, the worst of them first: a small heap.
	lower := make([]float64, 0, len(dst))
	for v := range y {
		s, b := approx(v)
		switch l := s - b; {
		case len(lower) < len(dst):
			at, _ := slices.BinarySearch(lower, l)
			lower = slices.Insert(lower, at, l)
		case l > lower[0]:
			at, _ := slices.BinarySearch(lower, l)
			copy(lower, lower[1:at])
			lower[at-1] = l
		}
	}
	var found []model.Scored
	for v := range y {
		if s, b := approx(v); s+b >= lower[0] {
			h.w.Row(row, v)
			found = append(found, model.Scored{ID: int32(v), Logit: kernel.Dot(row, x)})
		}
	}
	slices.SortFunc(found, func(a, b model.Scored) int {
		if c := cmp.Compare(b.Logit, a.Logit); c != 0 {
			return c
		}
		return cmp.Compare(a.ID, b.ID)
	})
	copy(dst, found)
	return len(found)
}

// engine is the decoder with its products on the tiles, plus the head.
type engine struct {
	model.Engine
	head *head
}

// Forward takes requests for the best tokens away from the decoder: it asks it for the hidden states and lets the
// tiles screen the head. Requests for logits are the decoder's.
func (e *engine) Forward(ctx context.Context, batch []model.Input) error {
	D := e.Config().HiddenSize
	var which []int
	for i := range batch {
		if k := len(batch[i].Top); k > 0 && k <= min(maxTop, e.Config().VocabSize) && len(batch[i].Logits) == 0 {
			which = append(which, i)
		}
	}
	if len(which) == 0 {
		return e.Engine.Forward(ctx, batch)
	}
	inner := slices.Clone(batch)
	x := make([]float32, len(which)*D)
	for n, i := range which {
		inner[i].Top = nil
		if len(batch[i].Hidden) == 0 {
			inner[i].Hidden = x[n*D:][:D]
		}
	}
	lens := make([]int, len(batch))
	for i := range batch {
		if batch[i].Cache != nil {
			lens[i] = batch[i].Cache.Len()
		}
	}
	if err := e.Engine.Forward(ctx, inner); err != nil {
		return err
	}
	tops := make([][]model.Scored, len(which))
	for n, i := range which {
		copy(x[n*D:][:D], inner[i].Hidden[len(inner[i].Hidden)-D:])
		tops[n] = batch[i].Top
	}
	if err := e.head.top(ctx, tops, x); err != nil {
		for i := range batch {
			batch[i].Cache.Truncate(lens[i])
		}
		return fmt.Errorf("tensix: output head: %w", err)
	}
	return nil
}
