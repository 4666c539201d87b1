package model

import (
	"fmt"
	"sync"
	"sync/atomic"
	"unsafe"
)

// PageTokens is how many tokens a page of the cache holds. Sequences share whole pages.
const PageTokens = 32

const pageTokens = PageTokens

// page holds the keys and values of pageTokens tokens, all layers.
//
//	k, v  [L, KV, pageTokens, hd] float32
//
// Where a device runs attention it has a copy: the first onDevice tokens of device page number slot-1. Those from onHost on
// are nowhere else.
type page struct {
	refs atomic.Int32
	k, v []float32

	slot             int
	onHost, onDevice int
}

// pagePool recycles pages, so that a server in balance allocates none. They lie in huge pages: a decoded token walks
// through all of its sequence's.
type pagePool struct {
	mu    sync.Mutex
	arena arena
	free  []*page
	size  int // floats of k, and of v

	device StepRunner // has copies of pages, or nil
}

func newPagePool(c *Config) *pagePool {
	return &pagePool{size: c.NumLayers * c.NumKVHeads * pageTokens * c.HeadDim}
}

func (p *pagePool) get() *page {
	p.mu.Lock()
	defer p.mu.Unlock()
	var pg *page
	if n := len(p.free); n > 0 {
		pg = p.free[n-1]
		p.free = p.free[:n-1]
	} else {
		both := floats(p.arena.alloc(2 * 4 * p.size))
		pg = &page{k: both[:p.size:p.size], v: both[p.size : 2*p.size]}
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
		p.arena.discard(bytesOf(pg.k))
		p.arena.discard(bytesOf(pg.v))
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

func floats(b []byte) []float32 { return unsafe.Slice((*float32)(unsafe.Pointer(&b[0])), len(b)/4) }

func bytesOf(x []float32) []byte { return unsafe.Slice((*byte)(unsafe.Pointer(&x[0])), 4*len(x)) }

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
		copy(own.k, c.pages[i].k)
		copy(own.v, c.pages[i].v)
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
	if err := p.device.ReadPage(pg.slot-1, pg.onDevice, pg.k, pg.v); err != nil {
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
	if err := p.device.WritePage(pg.slot-1, n, pg.k, pg.v); err != nil {
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

// head cuts the keys (or values) of one layer and one KV head out of a page: [pageTokens, hd].
func head(kv []float32, c *Config, layer, h int) []float32 {
	n := pageTokens * c.HeadDim
	return kv[(layer*c.NumKVHeads+h)*n:][:n]
}

// begin marks where rollback returns to.
func (c *kvCache) begin() { c.mark = c.n }

// rollback forgets the tokens since begin.
func (c *kvCache) rollback() { c.Truncate(c.mark) }
