package cpu

import (
	"math"
	"math/rand/v2"
	"slices"
	"sync/atomic"
	"unsafe"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/engine"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/weights"
)

// screen finds the best tokens without reading the whole head in full precision. It keeps every row at 5.5 bits a
// weight and reads 3.25 of them to estimate all scores. Those that can still be among the best are refined by the lower
// bits of their codes, and what then still can is computed exactly. What comes out is exact.
//
// The 5-bit codes are rounded with subtractive dither: column j of every row is shifted by the same random d_j, of up to
// four steps, before it is rounded down, and the estimate takes d_j out again. So whatever the weights are, the error of
// each is uniform over one step s, of the code or of its upper three bits, and independent of the other columns'
// errors. A row's estimate for activations x̂ then has an error of mean 0 that is sub-Gaussian with variance proxy
// Σ(s·x̂)²/12: it exceeds t with a probability of at most 2·exp(-6t²/Σ(s·x̂)²). missed is that probability for one row
// and token. The activations' own rounding is bounded by Cauchy and Schwarz, ‖w‖·‖x-x̂‖, and the float32 arithmetic by
// slack·‖w‖·‖x‖. (Dither: Schuchman 1964; Gray and Stockham 1993. Rounding at random without taking the dither out costs
// √3 of the bound.)
type screen struct {
	head  *weights.Dense
	cols  int // D rounded up to kernel.ScreenBlock
	upper []byte
	lower []byte
	scale []uint16  // s of the upper bits
	norm  []float32 // [V] ‖w‖ of each row, rounded up

	dither []float32 // [cols] d_j in [0, 4)
	origin []float32 // [cols] 3+d_j/4: the upper bits that stand for 0

	// Of the pass under way, of n tokens that ask.
	query       []screenQuery // [n]
	q           []int8        // [n, cols] their activations as the screen reads them
	xs, off, sq []float32     // [n, cols/64]
	eighth      []float32     // [n, cols/64] xs/8
	margin      []float32     // [n] what rounding x adds to the bound of a row of norm 1
	est, high   []float32     // [n, V16] estimate; the most that the exact score can be, -∞ when that is known
	top         []screenTop   // [n, panels]

	tasks   []screenTask
	first   []model.Scored // see promising
	workers []screenWorker
	pass    func(i, worker int)
	refine  func(i, worker int)
	exact   func(i, worker int)

	tokens, rescored atomic.Int64 // since loading
}

// screenWorker is what a worker needs to refine rows, and for an exact score.
type screenWorker struct {
	index [refinePanels * screenRows]int32
	est   [refinePanels * screenRows]float32
	row   []byte    // of the head
	wide  []float32 // the same, where it is stored in blocks
}

// screenQuery is a token that asks for the best scores.
type screenQuery struct {
	x     []float32      // [D] exact
	found []model.Scored // exact scores so far, best first
	bar   float32        // the last of as many of them as are asked for
}

// screenTop has the largest estimate and bound of a panel.
type screenTop struct{ est, high float32 }

// screenTask is one exact score.
type screenTask struct {
	query int
	model.Scored
}

const (
	screenRows    = 256 // of a panel that a worker takes
	refinePanels  = 16  // panels refined together
	screenFirst   = 8   // estimates refined for the first bar
	screenQueries = 64  // most tokens of a pass: each needs room for two numbers a row
	// screenMinVocab: below it the head is too small for a screen to pay.
	screenMinVocab = 8192
	missed         = 1e-15
	slack          = 1e-5
)

// width is t/√Σ(s·x̂)² for the probability missed.
var width = float32(math.Sqrt(math.Log(2/missed) / 6))

// newScreen makes the screen of a head, or takes it from the packed copy.
func newScreen(head *weights.Dense, st *store) *screen {
	rows := kernel.Pad16(head.Rows)
	s := &screen{head: head, cols: (head.Cols + kernel.ScreenBlock - 1) / kernel.ScreenBlock * kernel.ScreenBlock}
	s.pass, s.refine, s.exact = s.estimate, s.refineSome, s.rescore
	s.workers = make([]screenWorker, st.pool.Threads())
	for i := range s.workers {
		s.workers[i].row, s.workers[i].wide = weights.RowBuffer(head), make([]float32, head.Cols)
	}
	rng := rand.NewPCG(0x7472_6974, 4)
	s.dither, s.origin = make([]float32, s.cols), make([]float32, s.cols)
	for j := range s.dither {
		s.dither[j] = float32(rng.Uint64()>>40) / (1 << 22)
		s.origin[j] = 3 + s.dither[j]/4
	}
	nu, ns, nl := kernel.ScreenSizes(rows, s.cols)
	names := [4]string{"screen.upper", "screen.lower", "screen.scale", "screen.norm"}
	var data [len(names)][]byte
	found := 0
	for i, size := range [len(names)]int{nu, nl, 2 * ns, 4 * rows} {
		var ok bool
		if data[i], _, ok = st.piece(names[i], screenKind, rows, s.cols, size); ok {
			found++
		}
	}
	s.upper, s.lower = data[0], data[1]
	s.scale = unsafe.Slice((*uint16)(unsafe.Pointer(&data[2][0])), ns)
	s.norm = unsafe.Slice((*float32)(unsafe.Pointer(&data[3][0])), rows)
	head.Scatter()
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
const screenKind = "screen 3+2"

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
		// The grid of quarter steps, s/4·(code-14), must reach ±top, after s is rounded to binary16.
		h := kernel.ToF16(top / 3.5)
		for kernel.F16(h)*3.5 < top {
			h++
		}
		inv := float32(0)
		if h != 0 {
			inv = 4 / kernel.F16(h)
		}
		var code [kernel.ScreenBlock]byte
		d := s.dither[b:][:len(code)]
		for i, w := range block {
			code[i] = byte(min(max(int32(float32(w*inv)+14+d[i]), 0), 31))
		}
		kernel.ScreenPack(s.upper, s.scale, s.lower, s.cols, r, b, h, &code)
	}
	s.norm[r] = float32(math.Sqrt(square) * (1 + 1e-6))
}

// ScreenBytes is what the screen of the model's head takes in memory, and how much of it a decoded token reads at least;
// 0 where there is none, and the head is read as it is.
func ScreenBytes(c *model.Config) (kept, read int64) {
	if c.Pooling != "" || c.Head.Arithmetic != part.Dense {
		return 0, 0
	}
	return screenBytes(c.Head.Out, c.Head.In)
}

func screenBytes(vocab, width int) (kept, read int64) {
	if vocab < screenMinVocab {
		return 0, 0
	}
	rows, cols := kernel.Pad16(vocab), (width+kernel.ScreenBlock-1)/kernel.ScreenBlock*kernel.ScreenBlock
	upper, scales, lower := kernel.ScreenSizes(rows, cols)
	read = int64(upper) + 2*int64(scales) + 4*int64(rows)
	return read + int64(lower), read
}

// HeadStats counts what the screen of an engine's head did since loading: tokens answered, and rows of the head that
// were computed exactly for them. ok is false for an engine without a screen.
func HeadStats(e model.Engine) (tokens, rows int64, ok bool) {
	x, ok := e.(*engine.Engine)
	if !ok {
		return 0, 0, false
	}
	p, ok := x.Products().(*cpuProducts)
	if !ok || p.screen == nil {
		return 0, 0, false
	}
	return p.screen.tokens.Load(), p.screen.rescored.Load(), true
}

// add quantises the activations x of a token that asks.
func (s *screen) add(x []float32) {
	i, blocks := len(s.query), s.cols/kernel.ScreenBlock
	if i == cap(s.query) {
		s.query = append(s.query, screenQuery{})
	}
	s.query = s.query[:i+1]
	q := &s.query[i]
	q.x, q.found = append(q.x[:0], x...), q.found[:0]
	s.q = extend(s.q, s.cols)
	s.xs, s.off, s.sq, s.eighth = extend(s.xs, blocks), extend(s.off, blocks), extend(s.sq, blocks), extend(s.eighth, blocks)
	code, xs, off, sq, eighth := s.q[i*s.cols:], s.xs[i*blocks:], s.off[i*blocks:], s.sq[i*blocks:], s.eighth[i*blocks:]
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
		xs[b], eighth[b] = scale, scale/8
		off[b] = float32(-zero * float64(scale))
		sq[b] = width * width * scale * scale * float32(square)
	}
	s.margin = append(s.margin, float32(math.Sqrt(rounding)+slack*math.Sqrt(length)))
}

// extend adds n zeros.
func extend[T any](x []T, n int) []T {
	x = slices.Grow(x, n)[:len(x)+n]
	clear(x[len(x)-n:])
	return x
}

// panels is how many pieces the rows make.
func (s *screen) panels() int { return (len(s.norm) + screenRows - 1) / screenRows }

// rows are those of panel i, those of the head without what they are padded to.
func (s *screen) rows(i int) (lo, hi int) {
	return i * screenRows, min((i+1)*screenRows, s.head.Rows)
}

// estimate scores one panel of rows for every query.
func (s *screen) estimate(i, _ int) {
	V := len(s.norm)
	lo, hi := i*screenRows, min((i+1)*screenRows, V)
	upper := s.upper[lo*s.cols/8*3 : hi*s.cols/8*3]
	scale := s.scale[lo*s.cols/kernel.ScreenBlock : hi*s.cols/kernel.ScreenBlock]
	kernel.Screen(s.est[lo:], s.high[lo:], V, upper, scale, s.norm[lo:hi], s.q, s.xs, s.off, s.sq, s.margin)
	for j := range s.query {
		s.setTop(i, j)
	}
}

// setTop finds the largest estimate and bound of panel i for query j.
func (s *screen) setTop(i, j int) {
	lo, hi := s.rows(i)
	base := j * len(s.norm)
	s.top[j*s.panels()+i] = screenTop{kernel.Max(s.est[base+lo : base+hi]), kernel.Max(s.high[base+lo : base+hi])}
}

// refineSome takes the lower bits into account in those rows of some panels that can reach the bar: the part of their
// bounds that comes from the weights' rounding is a quarter then.
func (s *screen) refineSome(i, worker int) {
	V, panels, blocks, w := len(s.norm), s.panels(), s.cols/kernel.ScreenBlock, &s.workers[worker]
	from, to := i*refinePanels, min((i+1)*refinePanels, panels)
	for j := range s.query {
		bar := math.Nextafter32(s.query[j].bar, float32(math.Inf(-1)))
		est, high := s.est[j*V:], s.high[j*V:]
		n := 0
		for p := from; p < to; p++ {
			if !(s.top[j*panels+p].high > bar) {
				continue
			}
			lo, hi := s.rows(p)
			list := w.index[n:]
			list = list[:kernel.Above(list, high[lo:hi], bar)]
			for k, r := range list {
				list[k] += int32(lo)
				w.est[n+k] = est[int32(lo)+r]
			}
			n += len(list)
		}
		kernel.ScreenRefine(w.est[:n], w.index[:n], s.lower, s.q[j*s.cols:][:s.cols], s.eighth[j*blocks:][:blocks])
		for k, r := range w.index[:n] {
			high[r] = w.est[k] + (high[r]-est[r]+3*s.norm[r]*s.margin[j])/4
			est[r] = w.est[k]
		}
		for p := from; p < to; p++ {
			if s.top[j*panels+p].high > bar {
				s.setTop(p, j)
			}
		}
	}
}

// best fills the answers of the queries added since the last time, exactly.
func (s *screen) best(pool *par.Pool, dst [][]model.Scored) {
	n, V, panels := len(s.query), len(s.norm), s.panels()
	if len(s.top) < n*panels {
		s.est, s.high, s.top = make([]float32, n*V), make([]float32, n*V), make([]screenTop, n*panels)
	}
	pool.Run(panels, s.pass)
	s.raiseBars(pool, dst, true)
	pool.Run((panels+refinePanels-1)/refinePanels, s.refine)
	s.raiseBars(pool, dst, false)
	s.tasks = s.tasks[:0]
	for j := range s.query {
		bar := s.query[j].bar
		for i, top := range s.top[j*panels:][:panels] {
			if !(top.high >= bar) {
				continue
			}
			lo, hi := s.rows(i)
			for r, high := range s.high[j*V+lo : j*V+hi] {
				if high >= bar && !math.IsInf(float64(high), -1) {
					s.tasks = append(s.tasks, screenTask{j, model.Scored{ID: int32(lo + r)}})
				}
			}
		}
	}
	s.score(pool)
	for j := range s.query {
		q := &s.query[j]
		slices.SortFunc(q.found, byScore)
		copy(dst[j], q.found)
		s.rescored.Add(int64(len(q.found)))
	}
	s.query, s.q, s.xs, s.off, s.sq, s.eighth, s.margin = s.query[:0], s.q[:0], s.xs[:0], s.off[:0], s.sq[:0], s.eighth[:0], s.margin[:0]
	s.tokens.Add(int64(n))
}

// raiseBars computes the exact scores of the best estimates: a bar that the others must be able to reach. The first time
// it refines more of them than are asked for, and takes the best of these.
func (s *screen) raiseBars(pool *par.Pool, dst [][]model.Scored, first bool) {
	s.tasks = s.tasks[:0]
	for j := range dst {
		list := dst[j]
		if first {
			list = s.promising(j, len(list))
		} else {
			s.bestEstimates(list, j)
		}
		for _, c := range list {
			if !math.IsInf(float64(s.high[j*len(s.norm)+int(c.ID)]), -1) {
				s.tasks = append(s.tasks, screenTask{j, c})
			}
		}
	}
	s.score(pool)
	for j := range dst {
		q := &s.query[j]
		slices.SortFunc(q.found, byScore)
		q.bar = float32(math.Inf(-1))
		if k := len(dst[j]); len(q.found) >= k {
			q.bar = q.found[k-1].Logit
		}
	}
}

// promising refines the best estimates of query j, at least screenFirst of them, and returns the n best.
func (s *screen) promising(j, n int) []model.Scored {
	s.first = slices.Grow(s.first[:0], max(n, screenFirst))[:min(max(n, screenFirst), s.head.Rows)]
	s.bestEstimates(s.first, j)
	w, blocks := &s.workers[0], s.cols/kernel.ScreenBlock
	for some := range slices.Chunk(s.first, screenRows) {
		index, est := w.index[:len(some)], w.est[:len(some)]
		for i, c := range some {
			index[i], est[i] = c.ID, c.Logit
		}
		kernel.ScreenRefine(est, index, s.lower, s.q[j*s.cols:][:s.cols], s.eighth[j*blocks:][:blocks])
		for i := range some {
			some[i].Logit = est[i]
		}
	}
	slices.SortFunc(s.first, byScore)
	return s.first[:n]
}

// score computes the tasks, and notes that their scores are known.
func (s *screen) score(pool *par.Pool) {
	pool.Run(len(s.tasks), s.exact)
	for _, t := range s.tasks {
		q := &s.query[t.query]
		q.found = append(q.found, t.Scored)
		i := t.query*len(s.norm) + int(t.ID)
		s.est[i], s.high[i] = t.Logit, float32(math.Inf(-1))
	}
}

// bestEstimates is best over the estimates of query i, panels that hold none of them left out.
func (s *screen) bestEstimates(dst []model.Scored, i int) {
	n, est, panels := 0, s.est[i*len(s.norm):], s.panels()
	for p, top := range s.top[i*panels:][:panels] {
		if n < len(dst) || top.est > dst[n-1].Logit {
			lo, hi := s.rows(p)
			n = model.AddBest(dst, n, int32(lo), est[lo:hi])
		}
	}
}

// byScore orders the best first, equal scores by lower id.
func byScore(a, b model.Scored) int {
	switch {
	case a.Logit > b.Logit:
		return -1
	case a.Logit < b.Logit:
		return 1
	}
	return int(a.ID) - int(b.ID)
}

// rescore computes exact scores, as densePanel would.
func (s *screen) rescore(i, worker int) {
	w, t := &s.workers[worker], &s.tasks[i]
	x := s.query[t.query].x
	row := s.head.ReadRow(w.row, int(t.ID))
	at := unsafe.Pointer(&row[0])
	switch s.head.Type {
	case gguf.F32:
		t.Logit = kernel.Dot(unsafe.Slice((*float32)(at), s.head.Cols), x)
	case gguf.BF16:
		t.Logit = kernel.DotBF16(unsafe.Slice((*uint16)(at), s.head.Cols), x)
	case gguf.F16:
		t.Logit = kernel.DotF16(unsafe.Slice((*uint16)(at), s.head.Cols), x)
	default:
		s.head.Widen(w.wide, row)
		t.Logit = kernel.Dot(w.wide, x)
	}
}
