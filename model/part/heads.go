package part

import (
	"github.com/tritlm/trit/internal/kernel"
)

// Attention is kernel.Attention of every token and head; where a layer has a window, spans lie by position all the same and
// what is outside it is left out. The heads of a group of up to tileRows neighbouring tokens share
// what they load.
const (
	spanTokens = kernel.SpanTokens
	tileRows   = 8

	// When there are fewer tiles for each thread, whose heads may not come out even, as 5 on 2, threads share spans.
	splitTiles = 8
)

// queryTile is neighbouring rows of one sequence.
type queryTile struct{ row, n int }

// cutTiles cuts the block's rows into tiles.
func (b *Block) cutTiles() {
	b.tiles, b.most = b.tiles[:0], 0
	longest := 0
	for _, r := range b.runs {
		for row, n := r.row, 0; row < r.row+r.n; row += n {
			pos := b.rows[row].pos
			n = min(tileRows-pos%tileRows, r.row+r.n-row) // by position, so that a tile spans no two pages
			b.tiles = append(b.tiles, queryTile{row, n})
			b.most = max(b.most, n)
			longest = max(longest, pos+n)
		}
	}
	b.spans = (longest + spanTokens - 1) / spanTokens
}

// attendAll computes the output's input from q and the cache.
func (a *attention) attendAll() {
	b := a.b
	heads, queries := len(b.tiles)*a.KVHeads, b.most*a.group()
	for i := range b.workers {
		b.workers[i].grow(queries, a.HeadDim)
	}
	if len(b.tiles)*a.KVHeads >= splitTiles*b.pool.Threads() || b.spans == 1 {
		b.pool.Run(heads, a.attend)
		return
	}
	for len(b.parts) < heads*b.spans {
		b.parts = append(b.parts, attnSums{})
	}
	for i := range heads * b.spans {
		b.parts[i].grow(queries, a.HeadDim)
	}
	b.pool.Run(heads*b.spans, a.attendSpan)
	b.pool.Run(heads, a.attendJoin)
}

// attendTile runs the attention of one tile and one KV head.
func (a *attention) attendTile(i, worker int) {
	t := &a.b.workers[worker]
	h := a.headTile(i, t)
	for b := h.first / spanTokens; b*spanTokens < h.end; b++ {
		if b == h.first/spanTokens {
			h.span(b, t.scores, &t.sums)
			continue
		}
		h.span(b, t.scores, &t.part)
		h.join(&t.sums, &t.part)
	}
	h.done(&t.sums)
}

// attendOneSpan runs one span of it.
func (a *attention) attendOneSpan(i, worker int) {
	t := &a.b.workers[worker]
	h, b := a.headTile(i/a.b.spans, t), i%a.b.spans
	if b >= h.first/spanTokens && b*spanTokens < h.end {
		h.span(b, t.scores, &a.b.parts[i])
	}
}

// joinSpans joins the spans.
func (a *attention) joinSpans(i, worker int) {
	h := a.headTile(i, &a.b.workers[worker])
	parts := a.b.parts[i*a.b.spans:][:a.b.spans]
	sums := &parts[h.first/spanTokens]
	for b := h.first/spanTokens + 1; b*spanTokens < h.end; b++ {
		h.join(sums, &parts[b])
	}
	h.done(sums)
}

// tileScratch is what a worker needs for a tile.
type tileScratch struct {
	q          []float32 // [queries, hd]
	scores     []float32 // [queries, spanTokens]
	sums, part attnSums
}

func (t *tileScratch) grow(queries, hd int) {
	if len(t.q) < queries*hd {
		t.q, t.scores = make([]float32, queries*hd), make([]float32, queries*spanTokens)
	}
	t.sums.grow(queries, hd)
	t.part.grow(queries, hd)
}

// attnSums is what the spans that were joined so far come to; l is 0 where a query saw nothing of them.
type attnSums struct {
	m, l []float32 // [queries]
	o    []float32 // [queries, hd]
}

func (a *attnSums) grow(queries, hd int) {
	if len(a.o) < queries*hd {
		a.m, a.l, a.o = make([]float32, queries), make([]float32, queries), make([]float32, queries*hd)
	}
}

// headTile is one tile and one KV head: the queries of each of the tile's rows that share it.
type headTile struct {
	cache       *Cache
	at          place
	kvHead      int
	rows, group int
	hd          int
	pos         int // of the first row
	window      int // how many tokens a row sees, 0 for all
	first, end  int // the tokens that some row sees, from the beginning of a page
	scale       float32

	q    []float32 // [rows·group, hd]
	out  []float32 // where the first row's heads go; the next row's are step further
	step int
}

// headTile prepares the i-th one. A head's tiles follow each other, so that its keys and values stay in L2; the
// longest ones come first.
func (a *attention) headTile(i int, t *tileScratch) headTile {
	b, hd, group := a.b, a.HeadDim, a.group()
	kvHead, tile := i/len(b.tiles), b.tiles[len(b.tiles)-1-i%len(b.tiles)]
	row := b.rows[tile.row]
	h := headTile{
		cache: row.cache, at: a.at, kvHead: kvHead, rows: tile.n, group: group, hd: hd, pos: row.pos,
		window: a.Window, scale: a.scale, step: a.Heads * hd,
	}
	begin, _ := h.sees(0)
	_, h.end = h.sees(h.rows - 1)
	h.first = begin / pageTokens * pageTokens
	own := (tile.row*a.Heads + kvHead*h.group) * hd
	h.out = b.h[own:]
	h.q = b.q[own:][:h.group*hd]
	if h.rows > 1 {
		h.q = t.q[:h.rows*h.group*hd]
		for r := range h.rows {
			copy(h.q[r*h.group*hd:][:h.group*hd], b.q[own+r*h.step:])
		}
	}
	return h
}

// sees gives the tokens that a row sees, [begin, end).
func (h *headTile) sees(row int) (begin, end int) {
	end = h.pos + row + 1
	if h.window > 0 {
		begin = max(0, end-h.window)
	}
	return begin, end
}

// page is where the keys and values of token from, and those behind it, are; nothing where no row sees them.
func (h *headTile) page(from int) pageHead {
	if from >= h.end {
		return pageHead{}
	}
	return h.cache.pages[from/pageTokens].of(h.at, h.kvHead)
}

// span computes the sums of span b.
//
//	scores  [rows·group, spanTokens] scratch
func (h *headTile) span(b int, scores []float32, sums *attnSums) {
	queries, hd := h.rows*h.group, h.hd
	first, end := max(h.first, b*spanTokens), min(h.end, (b+1)*spanTokens)
	for from := first; from < end; from += pageTokens {
		next := h.page(first).v
		if from+pageTokens < end {
			next = h.page(from + pageTokens).k
		}
		g := max(0, from-h.pos) * h.group // rows before do not see this page
		h.page(from).scores(scores[g*spanTokens+from-first:], spanTokens, h.q[g*hd:queries*hd], queries-g, h.scale, next)
	}
	all, none := [2]int{first, end}, true // what all rows see of the span
	for r := range h.rows {
		lo, hi := h.sees(r)
		lo, hi = max(lo, first), min(hi, end)
		all[0], all[1] = max(all[0], lo), min(all[1], hi)
		for g := r * h.group; g < (r+1)*h.group; g++ {
			if sums.l[g] = 0; lo < hi {
				e := scores[g*spanTokens:][lo-first : hi-first]
				sums.m[g] = kernel.Max(e)
				sums.l[g] = kernel.SoftmaxExp(e, sums.m[g])
				none = false
			}
		}
	}
	o := sums.o[:queries*hd]
	clear(o)
	if none {
		return
	}
	for from := first; from < end; from += pageTokens {
		page, next := h.page(from), h.page(end).k
		if from+pageTokens < end {
			next = h.page(from + pageTokens).v
		}
		if from >= all[0] && from+pageTokens <= all[1] {
			page.mix(o, scores[from-first:], spanTokens, 0, pageTokens, queries, next)
			continue
		}
		for r := range h.rows {
			lo, hi := h.sees(r)
			if lo, hi = max(lo, from), min(hi, from+pageTokens); lo < hi {
				g := r * h.group
				page.mix(o[g*hd:(g+h.group)*hd], scores[g*spanTokens+lo-first:], spanTokens, lo-from, hi-from, h.group, next)
			}
		}
	}
}

// join adds the sums of a later span, which are used up.
func (h *headTile) join(sums, later *attnSums) {
	for g := range h.rows * h.group {
		o, p := sums.o[g*h.hd:][:h.hd], later.o[g*h.hd:][:h.hd]
		switch {
		case later.l[g] == 0:
		case sums.l[g] == 0:
			sums.m[g], sums.l[g] = later.m[g], later.l[g]
			copy(o, p)
		default:
			m := max(sums.m[g], later.m[g])
			a := kernel.Exp(sums.m[g] - m)
			b := later.m[g : g+1] // from here on its factor
			b[0] = kernel.Exp(b[0] - m)
			sums.m[g], sums.l[g] = m, float32(a*sums.l[g])+float32(b[0]*later.l[g])
			if a != 1 {
				kernel.Scale(o, a)
			}
			kernel.AttnMix(o, b, 1, p, 1, nil)
		}
	}
}

// done puts the outputs where they belong.
func (h *headTile) done(sums *attnSums) {
	for r := range h.rows {
		for g := range h.group {
			out, from := h.out[r*h.step+g*h.hd:][:h.hd], r*h.group+g
			copy(out, sums.o[from*h.hd:])
			kernel.Scale(out, 1/sums.l[from])
		}
	}
}
