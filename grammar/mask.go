package grammar

import (
	"encoding/binary"
	"math"
	"slices"
)

// mask computes the tokens that the configuration reads into bits.
func (m *Matcher) mask() {
	key, short := m.key()
	if short {
		m.g.mu.Lock()
		w := m.g.whole[key]
		m.g.mu.Unlock()
		if w != nil {
			copy(m.bits, w)
			return
		}
	}
	clear(m.bits)
	accept, mark := m.accept, len(m.nodes)
	var parts []*stateMask
	for _, t := range m.tops {
		s := m.g.stateMask(m, m.nodes[t].state, m.nodes[t].k)
		parts = append(parts, s)
		for i, w := range s.bits {
			m.bits[i] |= w
		}
	}
	v := m.g.v
	for i, s := range parts {
		m.walk(m.tops[i:i+1], s.maybe, func(n int32) {
			for _, id := range v.ids[v.first[n]:v.first[n+1]] {
				m.bits[id/64] |= 1 << (id % 64)
			}
		})
	}
	m.accept = accept
	m.release(mark)
	if short {
		m.g.keep(len(key) + 8*len(m.bits))
		m.g.mu.Lock()
		m.g.whole[key] = slices.Clone(m.bits)
		m.g.mu.Unlock()
	}
}

// keep makes room for n bytes of masks, by forgetting all of them when they would be too many.
func (g *Grammar) keep(n int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.bytes += n; g.bytes > maxMasks {
		clear(g.masks)
		clear(g.whole)
		g.bytes = n
	}
}

// key spells the configuration, if it is short.
func (m *Matcher) key() (string, bool) {
	var k []byte
	slices.Sort(m.tops)
	for _, t := range m.tops {
		for n := t; n > unknown; n = m.nodes[n].up {
			x := &m.nodes[n]
			k = binary.AppendUvarint(k, uint64(x.state)+1)
			if m.g.states[x.state].count != nil {
				k = binary.AppendUvarint(k, uint64(m.g.class(x.state, x.k)))
			}
			if len(k) > 400 {
				return "", false
			}
		}
		k = append(k, 0)
	}
	return string(k), true
}

// walk calls yes for each of the trie nodes in maybe, which are in order, whose bytes can be read
// from tops. Nodes with a common beginning share the reading of it.
func (m *Matcher) walk(tops []int32, maybe []int32, yes func(n int32)) {
	v := m.g.v
	var path []int32 // nodes whose configurations are in scratch
	var chain []int32
	for len(maybe) > 0 {
		n := maybe[0]
		maybe = maybe[1:]
		chain = chain[:0]
		for i := n; i >= 0; i = v.up[i] {
			if d := int(v.depth[i]); d <= len(path) && path[d-1] == i {
				break
			}
			chain = append(chain, i)
		}
		path = path[:int(v.depth[n])-len(chain)]
		for _, i := range slices.Backward(chain) {
			d := len(path)
			cfg := tops
			if d > 0 {
				cfg = m.scratch[d-1]
			}
			cfg = m.step(m.level(d), cfg, v.char[i])
			m.scratch[d] = cfg
			path = append(path, i)
			if i == n && (len(cfg) > 0 || m.accept) {
				yes(n)
			}
			if len(cfg) == 0 { // nothing below i reads
				at, _ := slices.BinarySearch(maybe, v.end[i])
				maybe = maybe[at:]
				path = path[:d]
				break
			}
		}
	}
}

// stateMask says for a state, whatever is below it on the stack, which tokens it can read (bits)
// and which end its rule and go on (maybe: their trie nodes, in order).
type stateMask struct {
	bits  []uint64
	maybe []int32
}

func (g *Grammar) stateMask(m *Matcher, q, k int32) *stateMask {
	key := [2]int32{q, g.class(q, k)}
	g.mu.Lock()
	s := g.masks[key]
	g.mu.Unlock()
	if s != nil {
		return s
	}
	s = &stateMask{bits: make([]uint64, len(g.v.stops))}
	if g.rules[g.states[q].rule].plain {
		g.gather(s, q, k)
	} else {
		m.scan(s, q, k)
		for i := range g.states[q].tokens {
			s.named(g.v, &g.states[q].tokens[i])
		}
	}
	g.keep(8*len(s.bits) + 4*len(s.maybe))
	g.mu.Lock()
	g.masks[key] = s
	g.mu.Unlock()
	return s
}

func (s *stateMask) named(v *Vocab, e *tokenEdge) {
	if !e.not {
		for _, id := range e.ids {
			s.bits[id/64] |= 1 << (id % 64)
		}
		return
	}
	for id := range int32(v.size) {
		if e.reads(v, id) {
			s.bits[id/64] |= 1 << (id % 64)
		}
	}
}

// A spread says what every token does to a state of a rule that calls nothing, whatever the bounds of the rule's
// counter: it is computed once for all of them, and for all grammars with such a rule.
type spread []*group

// group is the tokens that one state treats alike.
type group struct {
	how
	nodes []int32  // of the trie, in order
	bits  []uint64 // the tokens, where they are many
	v     *Vocab
}

// how a token is read. Of rules that do not count only the signs of to and of first are kept.
type how struct {
	to          int32 // the state in which the token ends, from the rule's first; −1: the rule ends before
	ticks       int32 // counted until there
	first, last int32 // counted where the rule could have ended within the token; first −1: nowhere
}

func (s spread) size() int {
	n := 0
	for _, x := range s {
		n += 4*len(x.nodes) + 8*len(x.bits) + 100
	}
	return n
}

// gather makes the mask of a state of a rule that calls nothing.
func (g *Grammar) gather(s *stateMask, q, k int32) {
	r := &g.rules[g.states[q].rule]
	mixed := false
	for _, x := range *g.spread(q) {
		c := r.count
		if x.to >= 0 && (c == nil || c.at(r.start+x.to, c.next(k, x.ticks)) < math.MaxInt32) {
			x.add(s.bits)
			continue
		}
		if x.first >= 0 && (c == nil || c.next(k, x.last) >= c.min && (c.max < 0 || k+x.first <= c.max)) {
			mixed = mixed || s.maybe != nil
			s.maybe = append(s.maybe, x.nodes...)
		}
	}
	if mixed {
		slices.Sort(s.maybe)
	}
}

func (x *group) add(bits []uint64) {
	if x.bits != nil {
		for i, w := range x.bits {
			bits[i] |= w
		}
		return
	}
	for _, n := range x.nodes {
		for _, id := range x.v.ids[x.v.first[n]:x.v.first[n+1]] {
			bits[id/64] |= 1 << (id % 64)
		}
	}
}

// spread finds the spread of a state, or walks the trie for it.
func (g *Grammar) spread(q int32) *spread {
	r := &g.rules[g.states[q].rule]
	g.mu.Lock()
	if r.key == "" {
		r.key = string(g.spell(r))
	}
	key := string(binary.AppendUvarint(nil, uint64(q-r.start))) + r.key
	g.mu.Unlock()
	shared := len(key) < 1<<14
	if shared {
		if s := g.v.spreads.get(key); s != nil {
			return s
		}
	}
	v := g.v
	var s spread
	groups := map[how]*group{}
	at := []how{{to: q - r.start, first: -1, last: -1}}
	for n := int32(0); n < int32(len(v.char)); {
		d := int(v.depth[n])
		at = at[:d]
		h := at[d-1]
		if h.to >= 0 {
			if e := g.states[r.start+h.to].next(v.char[n]); e != nil {
				h.to = e.to - r.start
				if e.tick {
					h.ticks++
				}
			} else {
				h.to = -1
			}
		}
		if h.to < 0 && h.first < 0 {
			n = v.end[n]
			continue
		}
		if v.first[n] < v.first[n+1] {
			x := h
			if r.count == nil {
				x = how{to: min(h.to, 0), first: -1}
				if h.to < 0 {
					x.first = 0
				}
			} else if h.to < 0 {
				x.ticks = 0
			}
			p := groups[x]
			if p == nil {
				p = &group{how: x, v: v}
				groups[x] = p
				s = append(s, p)
			}
			p.nodes = append(p.nodes, n)
		}
		if h.to >= 0 && g.states[r.start+h.to].final {
			if h.first < 0 {
				h.first = h.ticks
			}
			h.last = h.ticks
		}
		at = append(at, h)
		n++
	}
	for _, x := range s {
		if len(x.nodes) > len(v.stops) {
			bits := make([]uint64, len(v.stops))
			x.add(bits)
			x.bits = bits
			if x.first < 0 {
				x.nodes = nil
			}
		}
	}
	if shared {
		v.spreads.put(key, &s)
	}
	return &s
}

// scan walks the trie with the whole machinery, on a stack whose bottom is unknown.
func (m *Matcher) scan(s *stateMask, q, k int32) {
	v := m.g.v
	mark := len(m.nodes)
	start := []int32{m.intern(q, k, unknown)}
	ended := []bool{false}
	for n := int32(0); n < int32(len(v.char)); {
		d := int(v.depth[n])
		ended = ended[:d]
		cfg := start
		if d > 1 {
			cfg = m.scratch[d-2]
		}
		out := m.step(m.level(d-1), cfg, v.char[n])
		m.scratch[d-1] = out
		end := ended[d-1]
		has := v.first[n] < v.first[n+1]
		switch {
		case len(out) > 0 || m.escaped:
			if has {
				for _, id := range v.ids[v.first[n]:v.first[n+1]] {
					s.bits[id/64] |= 1 << (id % 64)
				}
			}
			end = end || m.escaped
		case end:
			if has {
				s.maybe = append(s.maybe, n)
			}
		default:
			n = v.end[n]
			continue
		}
		ended = append(ended, end)
		n++
	}
	m.release(mark)
}
