package tensix

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/tritlm/trit/accel/tensix/kernels"
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
// of that score is at most roundings·‖w_v‖·‖x‖ and is part of the bound. Where only the best token is wanted the tiles
// drop the rows that cannot be it by themselves (Screen), and the others' sums never leave them.
type head struct {
	d     *Device
	pool  *par.Pool
	m     *Matrix
	s     *Screen // nil where the rows' scales are too small for the tiles' floats
	w     *weights.Dense
	scale []float32 // [V] s_v
	norm  []float32 // [V] ‖w_v‖, rounded up
	rest  []float32 // [V] ‖d_v‖, rounded up

	q []int8
	y []int32
}

// roundings bounds the error of the canonical float32 dot product over ‖w‖·‖x‖: a lane's 8064/32 = 252 fused
// multiply-adds and five foldings, half a unit in the last place each.
const roundings = 257.0 / (1 << 24)

// maxTop is how many best tokens are looked for by bounds; for more, every row is scored again.
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
	for _, v := range h.scale {
		if v < minScale {
			return h, nil
		}
	}
	h.s, err = d.NewScreen(h.m, func(r int) RowBound { return RowBound{h.scale[r], h.rest[r], h.norm[r]} })
	if errors.Is(err, ErrShape) {
		return h, nil
	}
	return h, err
}

// minScale: the tiles' cores flush what is below 2⁻¹²⁶, which must not matter.
const minScale = 1e-25

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
	qs := make([]query, n)
	one := h.s != nil
	for i := range qs {
		qs[i] = newQuery(h.q[i*c16:][:c16], x[i*D:][:D])
		one = one && len(dst[i]) == 1
	}
	rows, err := [][]Screened(nil), error(nil)
	if one {
		if rows, err = h.screen(ctx, qs, c16); err != nil {
			return err
		}
	}
	if rows == nil {
		h.y = slices.Grow(h.y[:0], n*V)[:n*V]
		if err := h.d.MatMul(ctx, h.q, n, c16, Product{M: h.m, Y: h.y}); err != nil {
			return err
		}
	}
	counts := make([]int, n)
	h.pool.For(n, 1, func(lo, hi int) {
		buf := make([]float32, D)
		for i := lo; i < hi; i++ {
			list, at := V, func(k int) (int, int32) { return k, h.y[i*V+k] }
			if rows != nil {
				list, at = len(rows[i]), func(k int) (int, int32) { return int(rows[i][k].Row), rows[i][k].Sum }
			}
			counts[i] = h.pick(dst[i], &qs[i], list, at, buf)
		}
	})
	h.d.mu.Lock()
	defer h.d.mu.Unlock()
	h.d.stats.HeadTokens += uint64(n)
	if rows != nil {
		h.d.stats.HeadAlone += uint64(n)
	}
	for i, c := range counts {
		if c < len(dst[i]) {
			return fmt.Errorf("tensix: output head: the tiles found %d rows for the best %d", c, len(dst[i]))
		}
		h.d.stats.HeadRescored += uint64(c)
	}
	return nil
}

// screen lets the tiles look for the rows that can be best; nil when they cannot.
func (h *head) screen(ctx context.Context, qs []query, c16 int) ([][]Screened, error) {
	var rows [][]Screened
	for t := 0; t < len(qs); t += kernels.MaxBatch {
		n := min(kernels.MaxBatch, len(qs)-t)
		a, b := make([]float32, n), make([]float32, n)
		for i := range n {
			a[i], b[i] = qs[t+i].forTiles()
		}
		list, ok, err := h.d.Screen(ctx, h.s, h.q[t*c16:][:n*c16], c16, a, b)
		if err != nil || !ok {
			return nil, err
		}
		rows = append(rows, list...)
	}
	return rows, nil
}

// query is a hidden state x = scale·q + e.
type query struct {
	x          []float32
	scale      float64
	nq, ne, nx float64 // ‖scale·q‖, ‖e‖, ‖x‖, rounded up
}

const slack = 1 + 1e-9 // for float64 sums

func newQuery(q []int8, x []float32) query {
	scale, _ := kernel.QuantizeRow(q, x)
	c := query{x: x, scale: float64(scale)}
	for i, v := range x {
		a := float64(q[i]) * c.scale
		e := float64(v) - a
		c.nq, c.ne, c.nx = c.nq+a*a, c.ne+e*e, c.nx+float64(v)*float64(v)
	}
	c.nq, c.ne, c.nx = math.Sqrt(c.nq)*slack, math.Sqrt(c.ne)*slack, math.Sqrt(c.nx)*slack
	return c
}

// bound of row v's score.
func (h *head) bound(c *query, v int) float64 {
	return (float64(h.rest[v])*c.nq + float64(h.norm[v])*(c.ne+roundings*c.nx)) * slack
}

// forTiles is bound over the activations' scale, as Screen wants it: a row's bound is rest·a + norm·b. The tiles
// compute score and bound in float32, with errors of at most 2⁻²² of |score| + bound; |score| ≤ (norm + rest)·nq.
func (c *query) forTiles() (a, b float32) {
	const margin = 1.0 / (1 << 20)
	return roundUp(c.nq / c.scale * (1 + 2*margin)), roundUp(((c.ne+roundings*c.nx)*(1+margin) + c.nq*margin) / c.scale)
}

// pick answers one request from n rows' sums and returns how many rows it scored again.
func (h *head) pick(dst []model.Scored, c *query, n int, at func(i int) (row int, sum int32), buf []float32) int {
	approx := func(i int) (row int, score, bound float64) {
		row, sum := at(i)
		return row, float64(h.scale[row]) * c.scale * float64(sum), h.bound(c, row)
	}
	// The k best lower bounds, the worst of them first: a small heap.
	least := math.Inf(-1)
	if len(dst) <= maxTop {
		lower := make([]float64, 0, len(dst))
		for i := range n {
			_, s, b := approx(i)
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
		if len(lower) == len(dst) {
			least = lower[0]
		}
	}
	var found []model.Scored
	for i := range n {
		if v, s, b := approx(i); s+b >= least {
			h.w.Row(buf, v)
			found = append(found, model.Scored{ID: int32(v), Logit: kernel.Dot(buf, c.x)})
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
