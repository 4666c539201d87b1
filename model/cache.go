package model

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

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
		return fmt.Errorf("model: keys and values in %q; want f32, f16 or int8", text)
	}
	*t = KVType(i)
	return nil
}

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

// page holds the keys and values of pageTokens tokens, all layers.
//
//	data  [L, KV] of: a tile of keys, [hd, pageTokens], and in int8 their scales, [pageTokens] float32;
//	      then the values, [pageTokens, hd], and their scales
//
// Where a device runs attention it has a copy: the first onDevice tokens of device page number slot-1. Those from onHost on
// are nowhere else.
type page struct {
	refs atomic.Int32
	pool *pagePool
	data []byte

	slot             int
	onHost, onDevice int
}

// pagePool recycles pages, so that a server in balance allocates none. They lie in huge pages: a decoded token walks
// through all of its sequence's.
type pagePool struct {
	kv    KVType
	heads int // of a layer
	hd    int
	half  int // bytes of one head's keys, or values, in a page
	size  int // bytes of a page

	mu    sync.Mutex
	arena arena
	free  []*page

	device StepRunner // has copies of pages, or nil
}

func newPagePool(c *Config) *pagePool {
	half := pageTokens * c.KV.headBytes(c.HeadDim)
	return &pagePool{kv: c.KV, heads: c.NumKVHeads, hd: c.HeadDim, half: half, size: 2 * half * c.NumLayers * c.NumKVHeads}
}

func (p *pagePool) get() *page {
	p.mu.Lock()
	defer p.mu.Unlock()
	var pg *page
	if n := len(p.free); n > 0 {
		pg = p.free[n-1]
		p.free = p.free[:n-1]
	} else {
		pg = &page{pool: p, data: p.arena.alloc(p.size)}
	}
	pg.refs.Store(1)
	pg.onHost, pg.onDevice = 0, 0
	return pg
}

// put gives one reference back.
func (p *pagePool) put(pg *page) {
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
		p.arena.discard(pg.data)
	}
	p.free = append(p.free, pg)
}

// close gives all memory back; no page may be read or written afterwards.
func (p *pagePool) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.free = nil
	p.arena.release()
}

// pageHead is one layer's and KV head's part of a page.
type pageHead struct {
	pool *pagePool
	k, v []byte
}

func (p *page) of(layer, head int) pageHead {
	half := p.pool.half
	b := p.data[(layer*p.pool.heads+head)*2*half:][: 2*half : 2*half]
	return pageHead{p.pool, b[:half:half], b[half:]}
}

// store puts the key and value of one token into a place of the page.
//
//	k, v   [hd]
//	codes  [at least hd rounded up to a multiple of 16] scratch
func (h pageHead) store(at int, k, v []float32, codes []int8) {
	n := len(k)
	switch h.pool.kv {
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
func (h pageHead) codes(tile []byte) []int8 { return as[int8](tile)[:pageTokens*h.pool.hd] }

func (h pageHead) scales(tile []byte) []float32 {
	return as[float32](tile[pageTokens*h.pool.hd:])
}

// scores computes those of all the page's tokens: see kernel.AttnScores. What is read next is the keys or values of
// another page, nil when nothing is.
func (h pageHead) scores(s []float32, stride int, q []float32, queries int, scale float32, next []byte) {
	switch h.pool.kv {
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
	n := h.pool.hd
	switch h.pool.kv {
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

// kvCache is the paged cache of one sequence.
type kvCache struct {
	pool  *pagePool
	pages []*page
	n     int
	mark  int // length before the forward pass under way
	limit int
}

func newKVCache(pool *pagePool, limit int) *kvCache {
	return &kvCache{pool: pool, limit: limit, pages: make([]*page, 0, (limit+pageTokens-1)/pageTokens)}
}

func (c *kvCache) Len() int { return c.n }
func (c *kvCache) Cap() int { return c.limit }

func (c *kvCache) Truncate(n int) {
	if n < 0 || n > c.n {
		panic(fmt.Sprintf("model: truncate a cache of %d tokens to %d", c.n, n))
	}
	c.n = n
	keep := (n + pageTokens - 1) / pageTokens
	for _, pg := range c.pages[keep:] {
		c.pool.put(pg)
	}
	clear(c.pages[keep:])
	c.pages = c.pages[:keep]
}

func (c *kvCache) Fork(n int) (Cache, error) {
	if n < 0 || n > c.n {
		return nil, fmt.Errorf("model: fork %d tokens of a cache of %d", n, c.n)
	}
	f := newKVCache(c.pool, c.limit)
	f.n = n
	f.pages = f.pages[:(n+pageTokens-1)/pageTokens]
	for i := range f.pages {
		c.pages[i].refs.Add(1)
		f.pages[i] = c.pages[i]
	}
	return f, nil
}

func (c *kvCache) Close() { c.Truncate(0) }

// grow makes the pages of tokens [c.n, n) present and this cache's own. A shared last page is copied.
func (c *kvCache) grow(n int) error {
	if i := c.n / pageTokens; i < len(c.pages) && c.pages[i].refs.Load() > 1 {
		if err := c.pool.toHost(c.pages[i], c.n%pageTokens); err != nil {
			return err
		}
		own := c.pool.get()
		own.onHost = c.n % pageTokens
		copy(own.data, c.pages[i].data)
		c.pool.put(c.pages[i])
		c.pages[i] = own
	}
	for len(c.pages)*pageTokens < n {
		c.pages = append(c.pages, c.pool.get())
	}
	return nil
}

// toHost makes a page's first n tokens present in this machine's memory.
func (p *pagePool) toHost(pg *page, n int) error {
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
func (p *pagePool) toDevice(pg *page, n int) error {
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

// begin marks where rollback returns to.
func (c *kvCache) begin() { c.mark = c.n }

// rollback forgets the tokens since begin.
func (c *kvCache) rollback() { c.Truncate(c.mark) }
