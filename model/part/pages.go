package part

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"github.com/tritlm/trit/internal/arena"
	"github.com/tritlm/trit/internal/kernel"
)

// KVType is how keys and values are kept. All but KVFloat32 round them.
type KVType uint8

const (
	KVFloat32 KVType = iota
	KVFloat16
	KVInt8 // with a float32 scale for each token and head
)

var kvNames = [...]string{"f32", "f16", "int8"}

func (t KVType) String() string { return kvNames[t] }

// MarshalText and UnmarshalText write and read f32, f16 and int8.
func (t KVType) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

func (t *KVType) UnmarshalText(text []byte) error {
	i := slices.Index(kvNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("part: keys and values in %q; want f32, f16 or int8", text)
	}
	*t = KVType(i)
	return nil
}

// Bytes is the size of one token's keys and values of a layer with that many heads of hd elements.
func (t KVType) Bytes(heads, hd int) int64 { return int64(heads) * 2 * int64(t.headBytes(hd)) }

// headBytes is the size of one token's key, or value, of a head of hd elements.
func (t KVType) headBytes(hd int) int {
	switch t {
	case KVFloat16:
		return 2 * hd
	case KVInt8:
		return hd + 4
	}
	return 4 * hd
}

// PageTokens is how many tokens a page of the cache holds. Sequences share whole pages.
const PageTokens = kernel.KeyTile

const pageTokens = PageTokens

// page holds the keys and values of pageTokens tokens, of all attention layers: see place.
//
// Where a device runs attention it has a copy: the first onDevice tokens of device page number slot-1. Those from onHost on
// are nowhere else.
type page struct {
	refs  atomic.Int32
	pages *Pages
	data  []byte

	slot             int
	onHost, onDevice int
}

// Pages recycles pages, so that a server in balance allocates none. They lie in huge pages: a decoded token walks
// through all of its sequence's.
type Pages struct {
	kv    KVType
	size  int // bytes of a page
	state int // numbers of a sequence's state

	mu    sync.Mutex
	arena arena.Arena
	free  []*page
	snaps []*snapshot // oldest first

	device PageDevice // has copies of pages, or nil
}

// PageDevice has copies of pages in its own memory.
type PageDevice interface {
	// NewPage reserves memory for a page; FreePage gives it back, and is called from any goroutine.
	NewPage() (page int, err error)
	FreePage(page int)
	// WritePage brings a page to the device, ReadPage back.
	//
	//	data  [L, KV] of: keys, [hd, PageTokens]; then values, [PageTokens, hd]
	WritePage(page int, data []float32) error
	ReadPage(page int, data []float32) error
}

// NewPages are pages for a model whose attention layers take their place before the first page is made.
func NewPages(kv KVType) *Pages { return &Pages{kv: kv} }

// OnDevice has a device keep copies of pages.
func (p *Pages) OnDevice(d PageDevice) { p.device = d }

// Bytes is the size of a page.
func (p *Pages) Bytes() int { return p.size }

// place is where a page has the keys and values of one attention layer.
//
//	[KV] of: a tile of keys, [hd, pageTokens], and in int8 their scales, [pageTokens] float32;
//	     then the values, [pageTokens, hd], and their scales
type place struct {
	at   int // byte
	half int // bytes of one head's keys, or values
	hd   int
	kv   KVType
}

// place makes room for a layer of that many heads of hd values.
func (p *Pages) place(heads, hd int) place {
	l := place{p.size, pageTokens * p.kv.headBytes(hd), hd, p.kv}
	p.size += 2 * l.half * heads
	return l
}

func (p *Pages) get() *page {
	p.mu.Lock()
	defer p.mu.Unlock()
	var pg *page
	if n := len(p.free); n > 0 {
		pg = p.free[n-1]
		p.free = p.free[:n-1]
	} else {
		pg = &page{pages: p, data: p.arena.Alloc(p.size)}
	}
	pg.refs.Store(1)
	pg.onHost, pg.onDevice = 0, 0
	return pg
}

// put gives one reference back.
func (p *Pages) put(pg *page) {
	if pg.refs.Add(-1) > 0 {
		return
	}
	if pg.slot > 0 {
		p.device.FreePage(pg.slot - 1)
		pg.slot = 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	const keep = 64 // beyond that the system has their memory until they are needed
	if len(p.free) >= keep {
		p.arena.Discard(pg.data)
	}
	p.free = append(p.free, pg)
}

// Close gives all memory back; no page may be read or written afterwards.
func (p *Pages) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = nil
	p.arena.Release()
}

// pageHead is one layer's and KV head's part of a page.
type pageHead struct {
	place
	k, v []byte
}

func (p *page) of(l place, head int) pageHead {
	b := p.data[l.at+head*2*l.half:][: 2*l.half : 2*l.half]
	return pageHead{l, b[:l.half:l.half], b[l.half:]}
}

// store puts the key and value of one token into a place of the page.
//
//	k, v   [hd]
//	codes  [at least hd rounded up to a multiple of 16] scratch
func (h pageHead) store(at int, k, v []float32, codes []int8) {
	n := len(k)
	switch h.kv {
	case KVFloat32:
		scatter(as[float32](h.k)[at:], k)
		copy(as[float32](h.v)[at*n:], v)
	case KVFloat16:
		keys, values := as[uint16](h.k)[at:], as[uint16](h.v)[at*n:]
		for d := range k {
			keys[d*pageTokens], values[d] = kernel.ToF16(k[d]), kernel.ToF16(v[d])
		}
	case KVInt8:
		codes = codes[:kernel.Pad16(n)]
		h.scales(h.k)[at], _ = kernel.QuantizeRow(codes, k)
		scatter(as[int8](h.k)[at:], codes[:n])
		h.scales(h.v)[at], _ = kernel.QuantizeRow(codes, v)
		copy(as[int8](h.v)[at*n:], codes[:n])
	}
}

// scatter writes x into every pageTokens-th element of dst.
func scatter[T any](dst, x []T) {
	for i, v := range x {
		dst[i*pageTokens] = v
	}
}

// codes and scales are the two parts of a tile in int8.
func (h pageHead) codes(tile []byte) []int8 { return as[int8](tile)[:pageTokens*h.hd] }

func (h pageHead) scales(tile []byte) []float32 {
	return as[float32](tile[pageTokens*h.hd:])
}

// scores computes those of all the page's tokens: see kernel.AttnScores. What is read next is the keys or values of
// another page, nil when nothing is.
func (h pageHead) scores(s []float32, stride int, q []float32, queries int, scale float32, next []byte) {
	switch h.kv {
	case KVFloat32:
		kernel.AttnScores(s, stride, q, as[float32](h.k), queries, scale, as[float32](next))
	case KVFloat16:
		kernel.AttnScoresF16(s, stride, q, as[uint16](h.k), queries, scale, as[uint16](next))
	case KVInt8:
		kernel.AttnScoresI8(s, stride, q, h.codes(h.k), h.scales(h.k), queries, scale, as[int8](next))
	}
}

// mix adds the values of tokens [lo, hi) of the page: see kernel.AttnMix.
func (h pageHead) mix(out, p []float32, stride, lo, hi, queries int, next []byte) {
	n := h.hd
	switch h.kv {
	case KVFloat32:
		kernel.AttnMix(out, p, stride, as[float32](h.v)[lo*n:hi*n], queries, as[float32](next))
	case KVFloat16:
		kernel.AttnMixF16(out, p, stride, as[uint16](h.v)[lo*n:hi*n], queries, as[uint16](next))
	case KVInt8:
		kernel.AttnMixI8(out, p, stride, h.codes(h.v)[lo*n:hi*n], h.scales(h.v)[lo:hi], queries, as[int8](next))
	}
}

// as sees bytes, aligned, as numbers.
func as[T int8 | uint16 | float32](b []byte) []T {
	return unsafe.Slice((*T)(unsafe.Pointer(unsafe.SliceData(b))), len(b)/int(unsafe.Sizeof(*new(T))))
}

// Cache is the paged cache of one sequence. Its methods are those of model.Cache.
type Cache struct {
	from      *Pages
	pages     []*page
	n         int
	mark      int // length before the forward pass under way
	limit     int
	recurrent recurrent
}

// NewCache is a cache for at most limit tokens.
func (p *Pages) NewCache(limit int) *Cache {
	return &Cache{from: p, limit: limit, pages: make([]*page, 0, (limit+pageTokens-1)/pageTokens)}
}

// Len is how many tokens it holds, Cap how many fit.
func (c *Cache) Len() int { return c.n }
func (c *Cache) Cap() int { return c.limit }

// Of says whether the cache's pages are these.
func (c *Cache) Of(p *Pages) bool { return c.from == p }

// Truncate forgets the tokens from n on.
func (c *Cache) Truncate(n int) {
	if n < 0 || n > c.n {
		panic(fmt.Sprintf("part: truncate a cache of %d tokens to %d", c.n, n))
	}
	c.n = n
	c.recurrent.truncate(c, n)
	keep := (n + pageTokens - 1) / pageTokens
	for _, pg := range c.pages[keep:] {
		c.from.put(pg)
	}
	clear(c.pages[keep:])
	c.pages = c.pages[:keep]
}

// Fork makes a cache that starts with the first n tokens of this one and shares their pages.
func (c *Cache) Fork(n int) (*Cache, error) {
	if n < 0 || n > c.n {
		return nil, fmt.Errorf("part: fork %d tokens of a cache of %d", n, c.n)
	}
	f := c.from.NewCache(c.limit)
	f.n = n
	f.pages = f.pages[:(n+pageTokens-1)/pageTokens]
	for i := range f.pages {
		c.pages[i].refs.Add(1)
		f.pages[i] = c.pages[i]
	}
	c.recurrent.fork(c, f, n)
	return f, nil
}

// Close gives all pages back.
func (c *Cache) Close() { c.Truncate(0) }

// grow makes the pages of tokens [c.n, n) present and this cache's own. A shared last page is copied.
func (c *Cache) grow(n int) error {
	if i := c.n / pageTokens; i < len(c.pages) && c.pages[i].refs.Load() > 1 {
		if err := c.from.toHost(c.pages[i], c.n%pageTokens); err != nil {
			return err
		}
		own := c.from.get()
		own.onHost = c.n % pageTokens
		copy(own.data, c.pages[i].data)
		c.from.put(c.pages[i])
		c.pages[i] = own
	}
	for len(c.pages)*pageTokens < n {
		c.pages = append(c.pages, c.from.get())
	}
	return nil
}

// toHost makes a page's first n tokens present in this machine's memory.
func (p *Pages) toHost(pg *page, n int) error {
	if p.device == nil || pg.onHost >= n {
		return nil
	}
	if err := p.device.ReadPage(pg.slot-1, as[float32](pg.data)); err != nil {
		return err
	}
	pg.onHost = pg.onDevice
	return nil
}

// toDevice makes them present in the device's.
func (p *Pages) toDevice(pg *page, n int) error {
	if pg.slot == 0 {
		slot, err := p.device.NewPage()
		if err != nil {
			return err
		}
		pg.slot, pg.onDevice = slot+1, 0
	}
	if pg.onDevice >= n {
		return nil
	}
	if err := p.device.WritePage(pg.slot-1, as[float32](pg.data)); err != nil {
		return err
	}
	pg.onDevice = n
	return nil
}

// wrote notes that token i of a page is written, by the device or the host. What the other has from there on is old.
func (pg *page) wrote(i int, byDevice bool) {
	if byDevice {
		pg.onDevice, pg.onHost = i+1, min(pg.onHost, i)
	} else {
		pg.onHost, pg.onDevice = i+1, min(pg.onDevice, i)
	}
}

// Begin marks where Rollback returns to.
func (c *Cache) Begin() { c.mark = c.n }

// Rollback forgets the tokens since Begin.
func (c *Cache) Rollback() {
	c.rollback()
	c.Truncate(c.mark)
}
