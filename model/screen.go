package model

import (
	"math"
	"math/rand/v2"
	"slices"
	"unsafe"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/weights"
)

// screen finds the best tokens without reading the whole head in full precision. It keeps every row at 4.25 bits a
// weight, estimates all scores from them, and computes exactly those that can still be among the best. What comes
// out is exact.
//
// The 4-bit codes are rounded with subtractive dither: column j of every row is shifted by the same random part of a
// step v_j before it is rounded down, and the estimate takes v_j out again. So whatever the weights are, the error of
// each is uniform over one step s, and independent of the other columns' errors. A row's estimate for activations x̂
// then has an error of mean 0 that is sub-Gaussian with variance proxy Σ(s·x̂)²/12: it exceeds t with a probability of
// at most 2·exp(-6t²/Σ(s·x̂)²). missed is that probability for one row and token. The activations' own rounding is
// bounded by Cauchy and Schwarz, ‖w‖·‖x-x̂‖, and the float32 arithmetic by slack·‖w‖·‖x‖. (Dither: Schuchman 1964;
// Gray and Stockham 1993. Rounding at random without taking the dither out costs √3 of the bound.)
type screen struct {
	head  *weights.Dense
	cols  int // D rounded up to kernel.ScreenBlock
	codes []byte
	scale []uint16
	norm  []float32 // [V] ‖w‖ of each row, rounded up

	dither []float32 // [cols] v_j in [0, 1)
	origin []float32 // [cols] 7+v_j: the code that stands for 0

	// Of the pass under way, of n tokens that ask.
	query       []screenQuery // [n]
	q           []int8        // [n, cols] their activations as the screen reads them
	xs, off, sq []float32     // [n, cols/64]
	est, high   []float32     // [n, V16] estimate; the most that the exact score can be
	top         []screenTop   // [n, panels]

	tasks []screenTask
	fn    func(i, worker int)
	exact func(lo, hi int)

	tokens, rescored int64 // since loading
	looked           int   // rows since the last release
}

// screenQuery is a token that asks for the best scores.
type screenQuery struct {
	x        []float32 // [D] exact
	rounding float32   // ‖x-x̂‖
	length   float32   // ‖x‖
}

// screenTop has the largest estimate and bound of a panel.
type screenTop struct{ est, high float32 }

// screenTask is one exact score.
type screenTask struct {
	query int
	Scored
}

const (
	screenRows    = 256 // of a panel that a worker takes
	screenQueries = 64  // most tokens of a pass: each needs room for two numbers a row
	releaseRows   = 640 // looked at between releases
	// screenMinVocab: below it the head is too small for a screen to pay.
	screenMinVocab = 8192
	missed         = 1e-15
	slack          = 1e-5
)

// width is t/√Σ(s·x̂)² for the probability missed.
var width = float32(math.Sqrt(math.Log(2/missed) / 6))

// newScreen makes the screen of a head, or takes it from the packed copy.
func newScreen(head *weights.Dense, st *store) *screen {
	rows := roundUp16(head.Rows)
	s := &screen{head: head, cols: (head.Cols + kernel.ScreenBlock - 1) / kernel.ScreenBlock * kernel.ScreenBlock}
	s.fn, s.exact = s.panel, s.rescore
	rng := rand.NewPCG(0x7472_6974, 4)
	s.dither, s.origin = make([]float32, s.cols), make([]float32, s.cols)
	for j := range s.dither {
		s.dither[j] = float32(rng.Uint64()>>40) / (1 << 24)
		s.origin[j] = 7 + s.dither[j]
	}
	nc, ns := kernel.ScreenSizes(rows, s.cols)
	names := [3]string{"screen.codes", "screen.scale", "screen.norm"}
	var data [3][]byte
	found := 0
	for i, size := range [3]int{nc, 2 * ns, 4 * rows} {
		var ok bool
		if data[i], _, ok = st.piece(names[i], screenKind, rows, s.cols, size); ok {
			found++
		}
	}
	s.codes = data[0]
	s.scale = unsafe.Slice((*uint16)(unsafe.Pointer(&data[1][0])), ns)
	s.norm = unsafe.Slice((*float32)(unsafe.Pointer(&data[2][0])), rows)
	if found == len(names) {
		return s
	}
	if st.packed != nil {
		st.packed.forget(screenKind)
	}
	st.pool.For(rows/16, 16, func(lo, hi int) {
		row := make([]float32, s.cols)
		for r := lo * 16; r < min(hi*16, head.Rows); r++ {
			head.Row(row, r)
			s.encode(r, row)
			if r%256 == 255 {
				head.Release(r-255, r+1)
			}
		}
	})
	for i, name := range names {
		st.made(name, screenKind, rows, s.cols, nil, data[i])
	}
	return s
}

// screenKind is the layout of the screen in the packed copy.
const screenKind = "screen4 2"

// encode writes row r.
func (s *screen) encode(r int, w []float32) {
	var square float64
	for b := 0; b < s.cols; b += kernel.ScreenBlock {
		block := w[b : b+kernel.ScreenBlock]
		top := float32(0)
		for _, v := range block {
			top = max(top, max(v, -v))
			square += float64(v) * float64(v)
		}
		// The grid s·(code-7.5) must reach ±top, after s is rounded to binary16.
		h := kernel.ToF16(top / 7.5)
		for kernel.F16(h)*7.5 < top {
			h++
		}
		s.scale[kernel.ScreenScaleIndex(s.cols, r, b)] = h
		inv := float32(0)
		if h != 0 {
			inv = 1 / kernel.F16(h)
		}
		for step := 0; step < kernel.ScreenBlock; step += 8 {
			at, _ := kernel.ScreenIndex(s.cols, r, b+step)
			dst, src, v := s.codes[at:at+4], block[step:step+8], s.dither[b+step:b+step+8]
			for i := range dst { // columns i and 4+i share a byte
				dst[i] = grid(src[i], inv, v[i]) | grid(src[4+i], inv, v[4+i])<<4
			}
		}
	}
	s.norm[r] = float32(math.Sqrt(square) * (1 + 1e-6))
}

// grid is the code of w: the grid's step, dithered.
func grid(w, inv, dither float32) byte {
	return byte(min(max(int32(float32(w*inv)+7.5+dither), 0), 15))
}

// ScreenBytes is what the screen of the model's head takes in memory, and what a decoded token reads of the head then;
// 0 where there is none, and the head is read as it is.
func (c *Config) ScreenBytes() int64 {
	if c.Pooling != "" || c.VocabSize < screenMinVocab || !c.TiedHead && !c.floatLinear(headName) {
		return 0
	}
	rows, cols := roundUp16(c.VocabSize), (c.HiddenSize+kernel.ScreenBlock-1)/kernel.ScreenBlock*kernel.ScreenBlock
	codes, scales := kernel.ScreenSizes(rows, cols)
	return int64(codes) + 2*int64(scales) + 4*int64(rows)
}

// HeadStats counts what the screen of an engine's head did since loading: tokens answered, and rows of the head that
// were computed exactly for them. ok is false for an engine without a screen.
func HeadStats(e Engine) (tokens, rows int64, ok bool) {
	d, ok := e.(*decoder)
	if !ok || d.screen == nil {
		return 0, 0, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.screen.tokens, d.screen.rescored, true
}

// add quantises the activations x of a token that asks.
func (s *screen) add(x []float32) {
	i, blocks := len(s.query), s.cols/kernel.ScreenBlock
	if i == cap(s.query) {
		s.query = append(s.query, screenQuery{})
	}
	s.query = s.query[:i+1]
	q := &s.query[i]
	q.x = append(q.x[:0], x...)
	s.q = extend(s.q, s.cols)
	s.xs, s.off, s.sq = extend(s.xs, blocks), extend(s.off, blocks), extend(s.sq, blocks)
	code, xs, off, sq := s.q[i*s.cols:], s.xs[i*blocks:], s.off[i*blocks:], s.sq[i*blocks:]
	var rounding, length float64
	for b := range xs {
		block := x[min(b*kernel.ScreenBlock, len(x)):min((b+1)*kernel.ScreenBlock, len(x))]
		top := float32(0)
		for _, v := range block {
			top = max(top, max(v, -v))
		}
		scale := top / 127
		if scale == 0 {
			scale = 1
		}
		var square int32
		var zero float64 // Σ (what code 0 is off by)·x̂, in steps
		for j, v := range block {
			c := int32(math.RoundToEven(float64(v / scale)))
			code[b*kernel.ScreenBlock+j] = int8(c)
			zero += float64(s.origin[b*kernel.ScreenBlock+j]) * float64(c)
			square += c * c
			d := float64(v) - float64(c)*float64(scale)
			rounding += d * d
			length += float64(v) * float64(v)
		}
		xs[b] = scale
		off[b] = float32(-zero * float64(scale))
		sq[b] = scale * scale * float32(square)
	}
	q.rounding, q.length = float32(math.Sqrt(rounding)), float32(math.Sqrt(length))
}

// extend adds n zeros.
func extend[T any](x []T, n int) []T {
	x = slices.Grow(x, n)[:len(x)+n]
	clear(x[len(x)-n:])
	return x
}

// panels is how many pieces the rows make.
func (s *screen) panels() int { return (len(s.norm) + screenRows - 1) / screenRows }

// panel estimates one panel of rows for every query.
func (s *screen) panel(i, _ int) {
	V := len(s.norm)
	lo := i * screenRows
	hi := min(lo+screenRows, V)
	codes := s.codes[lo*s.cols/2 : hi*s.cols/2]
	scale := s.scale[lo*s.cols/kernel.ScreenBlock : hi*s.cols/kernel.ScreenBlock]
	kernel.Screen4(s.est[lo:], s.high[lo:], V, codes, scale, s.q, s.xs, s.off, s.sq, len(s.query))
	for j := range s.query {
		q := &s.query[j]
		est, high := s.est[j*V+lo:][:hi-lo], s.high[j*V+lo:][:hi-lo]
		top, margin := screenTop{float32(math.Inf(-1)), float32(math.Inf(-1))}, q.rounding+slack*q.length
		for r, norm := range s.norm[lo:min(hi, s.head.Rows)] {
			high[r] = est[r] + width*float32(math.Sqrt(float64(high[r]))) + norm*margin
			top.est, top.high = max(top.est, est[r]), max(top.high, high[r])
		}
		s.top[j*s.panels()+i] = top
	}
}

// best fills the answers of the queries added since the last time, exactly.
func (s *screen) best(pool *par.Pool, dst [][]Scored) {
	n, V, panels := len(s.query), len(s.norm), s.panels()
	if len(s.top) < n*panels {
		s.est, s.high, s.top = make([]float32, n*V), make([]float32, n*V), make([]screenTop, n*panels)
	}
	pool.Run(panels, s.fn)

	// The exact scores of the best estimates are a bar that the others must be able to reach.
	s.tasks = s.tasks[:0]
	for i := range dst {
		s.bestEstimates(dst[i], i)
		for _, c := range dst[i] {
			s.tasks = append(s.tasks, screenTask{i, c})
		}
	}
	pool.For(len(s.tasks), 4, s.exact)
	first := 0
	for i := range dst {
		k := len(dst[i])
		got := s.tasks[first : first+k]
		slices.SortFunc(got, byScore)
		bar := got[k-1].Logit
		for p, top := range s.top[i*panels:][:panels] {
			if top.high < bar {
				continue
			}
			lo := p * screenRows
			for r, high := range s.high[i*V:][lo:min(lo+screenRows, s.head.Rows)] {
				id := int32(lo + r)
				if high >= bar && !slices.ContainsFunc(got, func(t screenTask) bool { return t.ID == id }) {
					s.tasks = append(s.tasks, screenTask{i, Scored{ID: id}})
				}
			}
		}
		first += k
	}
	all := s.tasks
	s.tasks = all[first:]
	pool.For(len(s.tasks), 4, s.exact)
	s.tasks = all
	slices.SortFunc(all, byScore)
	for i := range dst {
		k := 0
		for _, t := range all {
			if t.query == i && k < len(dst[i]) {
				dst[i][k] = t.Scored
				k++
			}
		}
	}
	s.query, s.q, s.xs, s.off, s.sq = s.query[:0], s.q[:0], s.xs[:0], s.off[:0], s.sq[:0]
	s.tokens += int64(n)
	s.rescored += int64(len(all))
	// The rows that were looked at lie here and there in the mapped file and drag their neighbours into this process's
	// memory; let go of them now and then. They stay in the system's cache.
	if s.looked += len(all); s.looked >= releaseRows {
		s.head.Release(0, s.head.Rows)
		s.looked = 0
	}
}

// bestEstimates is best over the estimates of query i, panels that hold none of them left out.
func (s *screen) bestEstimates(dst []Scored, i int) {
	n, est, panels := 0, s.est[i*len(s.norm):], s.panels()
	for p, top := range s.top[i*panels:][:panels] {
		if n < len(dst) || top.est > dst[n-1].Logit {
			lo := p * screenRows
			n = addBest(dst, n, int32(lo), est[lo:min(lo+screenRows, s.head.Rows)])
		}
	}
}

// byScore orders the best first, equal scores by lower id.
func byScore(a, b screenTask) int {
	switch {
	case a.Logit > b.Logit:
		return -1
	case a.Logit < b.Logit:
		return 1
	}
	return int(a.ID) - int(b.ID)
}

// rescore computes exact scores, as densePanel would.
func (s *screen) rescore(lo, hi int) {
	var row []float32
	for i := lo; i < hi; i++ {
		t := &s.tasks[i]
		r, cols, x := int(t.ID), s.head.Cols, s.query[t.query].x
		switch s.head.Type {
		case gguf.F32:
			t.Logit = kernel.Dot(s.head.F32[r*cols:][:cols], x)
		case gguf.BF16:
			t.Logit = kernel.DotBF16(s.head.U16[r*cols:][:cols], x)
		case gguf.F16:
			t.Logit = kernel.DotF16(s.head.U16[r*cols:][:cols], x)
		default:
			if row == nil {
				row = make([]float32, cols)
			}
			s.head.Row(row, r)
			t.Logit = kernel.Dot(row, x)
		}
	}
}
