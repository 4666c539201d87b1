package model

import (
	"math"

	"github.com/tritlm/trit/internal/kernel"
)

// Attention is computed for tiles: the heads of one group of up to tileRows neighbouring tokens of a sequence share what
// they load of keys and values. What each of them sums, and in which order, does not depend on the others:
//
//	s[j] = (Σ q[d]·k[j][d])·scale       over d in turn, by fused multiply-add
//	e[j] = exp(s[j] - max s)            for the tokens j that it sees
//	out  = (Σ e[j]·v[j])·(1/Σ e[j])     over j in turn, by fused multiply-add; Σ e[j] in the canonical order
//
// so a token's attention is the same however the prompt was cut, and whatever else is in the batch.
const (
	tileRows   = 8
	tileScores = 64 << 10 // of a tile at most, so that they stay in L2: longer contexts have fewer rows in a tile
)

// queryTile is neighbouring rows of one sequence.
type queryTile struct{ row, n int }

// planAttention cuts the block's rows into tiles.
func (d *decoder) planAttention() {
	c, s := d.cfg, &d.s
	group := c.NumHeads / c.NumKVHeads
	s.tiles = s.tiles[:0]
	queries, scores := 0, 0
	for _, r := range s.runs {
		for row, n := r.row, 0; row < r.row+r.n; row += n {
			pos := s.rows[row].pos
			n = max(1, min(tileRows, tileScores/(group*roundUp32(pos+tileRows))))
			n = min(n-pos%n, r.row+r.n-row) // tiles begin at multiples of their height, so that few span two pages
			s.tiles = append(s.tiles, queryTile{row, n})
			queries = max(queries, n*group)
			scores = max(scores, n*group*(roundUp32(pos+n)+pageTokens))
		}
	}
	for i := range d.workers {
		d.workers[i].tile.grow(queries, c.HeadDim, scores)
	}
}

// tileScratch is what a tile's attention needs.
type tileScratch struct {
	q, out  []float32 // [queries, hd]
	scores  []float32 // [queries, stride]
	inverse []float32 // [queries]
}

func (t *tileScratch) grow(queries, hd, scores int) {
	if len(t.inverse) < queries {
		t.q, t.out, t.inverse = make([]float32, queries*hd), make([]float32, queries*hd), make([]float32, queries)
	}
	if len(t.scores) < scores {
		t.scores = make([]float32, max(scores, min(2*len(t.scores), tileScores)))
	}
}

// attention computes h from q and the cache.
func (d *decoder) attention() {
	c, st := d.cfg, &d.stages
	d.pool.Run(st.share.plan(len(d.s.tiles)*c.NumKVHeads, c.NumHeads/c.NumKVHeads, d.pool.Threads()), st.attend)
}

// headShare shares heads out among workers. Where they are few and do not come out even, as 5 heads on 2 threads, the
// last ones are cut into parts of their queries, one for each worker at the end of its own heads: so that nobody waits,
// and the parts of a head read its keys and values at about the same time, from memory once.
type headShare struct {
	threads, whole, parts int // heads that are whole; parts of each other one
	each                  int // pieces a thread begins with
}

// plan sets out heads, whose queries may be cut into any power of two that divides group, and returns how many pieces
// they make.
func (h *headShare) plan(heads, group, threads int) int {
	*h = headShare{threads: threads, whole: heads, parts: 1}
	left := heads % threads
	if left == 0 || heads > 4*threads {
		return heads
	}
	parts := 1
	for left*parts%threads != 0 {
		if parts *= 2; group%parts != 0 {
			return heads
		}
	}
	h.whole, h.parts = heads-left, parts
	h.each = h.whole/threads + left*parts/threads
	return h.each * threads
}

// piece says which head piece i is of, and which part of it among how many.
func (h *headShare) piece(i int) (head, part, parts int) {
	if h.parts == 1 {
		return i, 0, 1
	}
	thread, j := i/h.each, i%h.each
	own := h.whole / h.threads
	if j < own {
		return thread*own + j, 0, 1
	}
	p := thread*(h.each-own) + j - own
	return h.whole + p/h.parts, p % h.parts, h.parts
}

// attend runs the attention of one tile and one KV head, for all the query heads that share it or an equal part of
// them. Where the layer has a window, tokens before it are left out.
func (d *decoder) attend(i, worker int) {
	c, s, t := d.cfg, &d.s, &d.workers[worker].tile
	i, part, parts := d.stages.share.piece(i)
	// A head's tiles follow each other, so that its keys and values stay in L2; the longest ones come first.
	kvHead, tile := i/len(s.tiles), s.tiles[len(s.tiles)-1-i%len(s.tiles)]
	hd, group := c.HeadDim, c.NumHeads/c.NumKVHeads/parts
	at, layer := s.rows[tile.row], d.stages.number
	queries := tile.n * group
	sees := func(row int) (begin, end int) { // positions
		end = at.pos + row + 1
		if w := d.stages.layer.window; w > 0 {
			begin = max(0, end-w)
		}
		return begin, end
	}
	begin, _ := sees(0)
	_, end := sees(tile.n - 1)
	first := begin / pageTokens * pageTokens
	stride := roundUp32(end - first)
	scalar := c.QueryScalar
	if scalar == 0 {
		scalar = float64(hd)
	}
	scale := float32(1 / math.Sqrt(scalar))

	heads := func(x []float32, row int) []float32 {
		return x[((tile.row+row)*c.NumHeads+(kvHead*parts+part)*group)*hd:][:group*hd]
	}
	q, out := heads(s.q, 0), heads(s.h, 0)
	if tile.n > 1 {
		q, out = t.q[:queries*hd], t.out[:queries*hd]
		for r := range tile.n {
			copy(q[r*group*hd:], heads(s.q, r))
		}
	}
	scores := t.scores[:queries*stride]
	page := func(from int) pageHead {
		if from >= end {
			return pageHead{}
		}
		return at.cache.pages[from/pageTokens].of(layer, kvHead)
	}
	for from := first; from < end; from += pageTokens {
		r := max(0, from-at.pos) // rows before it do not see this page
		g := r * group
		next := page(from + pageTokens).k
		if next == nil {
			next = page(first).v
		}
		page(from).scores(scores[g*stride+from-first:], stride, q[g*hd:], queries-g, scale, next)
	}
	for r := range tile.n {
		begin, end := sees(r)
		for g := r * group; g < (r+1)*group; g++ {
			e := scores[g*stride:][begin-first : end-first]
			t.inverse[g] = 1 / kernel.SoftmaxExp(e, kernel.Max(e))
		}
	}
	clear(out)
	lastBegin, firstEnd := begin, end
	if tile.n > 1 {
		lastBegin, _ = sees(tile.n - 1)
		_, firstEnd = sees(0)
	}
	for from := first; from < end; from += pageTokens {
		kv, next := page(from), page(from+pageTokens).v
		if from >= lastBegin && from+pageTokens <= firstEnd { // all rows see the whole page
			kv.mix(out, scores[from-first:], stride, 0, pageTokens, queries, next)
			continue
		}
		for r := range tile.n {
			begin, end := sees(r)
			lo, hi := max(begin, from), min(end, from+pageTokens)
			if lo < hi {
				g := r * group
				kv.mix(out[g*hd:(g+group)*hd], scores[g*stride+lo-first:], stride, lo-from, hi-from, group, next)
			}
		}
	}
	for g := range queries {
		kernel.Scale(out[g*hd:][:hd], t.inverse[g])
	}
	if tile.n > 1 {
		for r := range tile.n {
			copy(heads(s.h, r), out[r*group*hd:])
		}
	}
}
