package server

import (
	"slices"

	"github.com/tritlm/trit/model"
)

// ledgerPage is the granularity in which memory is counted: that of the CPU engine's cache.
const ledgerPage = 32

func pagesOf(tokens int) int { return (tokens + ledgerPage - 1) / ledgerPage }

// ledger counts the pages that caches hold, those that forks share only once.
type ledger struct{ used, limit int }

// cache is an engine's cache with the pages it holds.
type cache struct {
	model.Cache
	l     *ledger
	pages []*page
}

type page struct{ refs int }

func (l *ledger) new(e model.Engine, tokens int) (*cache, error) {
	c, err := e.NewCache(tokens)
	if err != nil {
		return nil, err
	}
	return &cache{Cache: c, l: l}, nil
}

// fork shares the first n tokens.
func (c *cache) fork(n int) (*cache, error) {
	f, err := c.Cache.Fork(n)
	if err != nil {
		return nil, err
	}
	out := &cache{Cache: f, l: c.l, pages: slices.Clone(c.pages[:pagesOf(n)])}
	for _, p := range out.pages {
		p.refs++
	}
	return out, nil
}

// growth is how many pages more it takes to hold n tokens.
func (c *cache) growth(n int) int {
	g := pagesOf(n) - len(c.pages)
	if n > c.Len() && c.Len()%ledgerPage != 0 && c.pages[len(c.pages)-1].refs > 1 {
		g++ // a shared page that is begun is copied
	}
	return g
}

// reserve counts the pages for n tokens.
func (c *cache) reserve(n int) {
	if k := c.Len() / ledgerPage; n > c.Len() && k < len(c.pages) && c.pages[k].refs > 1 {
		c.pages[k].refs--
		c.pages[k] = &page{refs: 1}
		c.l.used++
	}
	for len(c.pages) < pagesOf(n) {
		c.pages = append(c.pages, &page{refs: 1})
		c.l.used++
	}
}

func (c *cache) close() {
	c.Close()
	for _, p := range c.pages {
		if p.refs--; p.refs == 0 {
			c.l.used--
		}
	}
	c.pages = nil
}

// own is how many of the pages nobody else holds.
func (c *cache) own() int {
	n := 0
	for _, p := range c.pages {
		if p.refs == 1 {
			n++
		}
	}
	return n
}

// prefixes are the caches of texts that ended, for requests that begin like them.
type prefixes struct {
	entries []*entry // least recently used first
}

type entry struct {
	tokens []int32
	cache  *cache
}

const maxPrefixes = 256

// common is the length of the common beginning.
func common(a, b []int32) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// match is the length of the longest prefix of tokens that an entry holds.
func (p *prefixes) match(tokens []int32) int {
	best := 0
	for _, e := range p.entries {
		best = max(best, common(e.tokens, tokens))
	}
	return best
}

// find returns the cache with the longest prefix of tokens and its length, and makes it recent.
func (p *prefixes) find(tokens []int32) (*cache, int) {
	best, at := 0, -1
	for i, e := range p.entries {
		if n := common(e.tokens, tokens); n > best {
			best, at = n, i
		}
	}
	if at < 0 {
		return nil, 0
	}
	e := p.entries[at]
	p.entries = append(slices.Delete(p.entries, at, at+1), e)
	return e.cache, best
}

// put keeps a cache, instead of entries that are a beginning of it.
func (p *prefixes) put(tokens []int32, c *cache) {
	for _, e := range p.entries {
		if len(e.tokens) >= len(tokens) && common(e.tokens, tokens) == len(tokens) {
			c.close()
			return
		}
	}
	p.entries = slices.DeleteFunc(p.entries, func(e *entry) bool {
		if len(e.tokens) < len(tokens) && common(e.tokens, tokens) == len(e.tokens) {
			e.cache.close()
			return true
		}
		return false
	})
	if len(p.entries) >= maxPrefixes {
		p.forget()
	}
	p.entries = append(p.entries, &entry{slices.Clone(tokens), c})
}

// forget drops the least recently used one.
func (p *prefixes) forget() bool {
	if len(p.entries) == 0 {
		return false
	}
	p.entries[0].cache.close()
	p.entries = slices.Delete(p.entries, 0, 1)
	return true
}

func (p *prefixes) clear() {
	for p.forget() {
	}
}

// own is how many pages would be free without any entry, at least.
func (p *prefixes) own() int {
	n := 0
	for _, e := range p.entries {
		n += e.cache.own()
	}
	return n
}

func (p *prefixes) pages() int {
	n := 0
	for _, e := range p.entries {
		n += len(e.cache.pages)
	}
	return n
}
