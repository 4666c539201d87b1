package grammar

import (
	"encoding/binary"
	"math"
	"slices"
)

// A Matcher follows one text. It implements sample.Mask. It is not safe for concurrent use.
type Matcher struct {
	g       *Grammar
	nodes   []node // stacks, sharing their tails; 0 is the bottom, 1 a bottom that is not known
	index   map[[2]int32]int32
	tops    []int32 // the parse: every stack's top has bytes to read
	accept  bool    // the text may end here
	left    int     // tokens left, or −1
	last    int     // bytes accepted
	bits    []uint64
	scratch [][]int32 // configurations along a walk of the trie, by depth
	stamp   int64
	escaped bool
	fresh   bool // bits are those of the present configuration
}

type node struct {
	state, up int32
	seen      int64 // the last stamp that met it
	dist      int64 // bytes to the end of the text
}

const bottom, unknown = 0, 1

// NewMatcher starts a text.
func (g *Grammar) NewMatcher() *Matcher {
	m := &Matcher{g: g, index: map[[2]int32]int32{}, left: -1}
	m.nodes = []node{{state: -1}, {state: -1}}
	m.begin()
	m.tops = m.add(nil, g.rules[0], bottom)
	return m
}

// Limit says how many tokens may still come, the ending one not counted: from here on Allowed
// leaves only tokens after which an end can be reached, if it can be reached at all.
func (m *Matcher) Limit(tokens int) { m.left = max(tokens, 0) }

// MayEnd reports whether the text is complete as it stands.
func (m *Matcher) MayEnd() bool { return m.accept }

// Done reports that nothing can follow: the text is complete, or a forbidden token was accepted.
func (m *Matcher) Done() bool { return len(m.tops) == 0 }

func (m *Matcher) intern(state, up int32) int32 {
	k := [2]int32{state, up}
	id, ok := m.index[k]
	if !ok {
		id = int32(len(m.nodes))
		m.nodes = append(m.nodes, node{state: state, up: up, dist: int64(m.g.states[state].dist) + m.nodes[up].dist})
		m.index[k] = id
	}
	return id
}

// release forgets the nodes made after mark.
func (m *Matcher) release(mark int) {
	for _, n := range m.nodes[mark:] {
		delete(m.index, [2]int32{n.state, n.up})
	}
	m.nodes = m.nodes[:mark]
}

// begin starts the closure of a new configuration.
func (m *Matcher) begin() {
	m.stamp++
	m.accept, m.escaped = false, false
}

// add puts the stack state·up into the configuration: itself if it reads bytes, what it calls, and
// what it returns to if its rule may end here.
func (m *Matcher) add(tops []int32, state, up int32) []int32 {
	id := m.intern(state, up)
	if m.nodes[id].seen == m.stamp {
		return tops
	}
	m.nodes[id].seen = m.stamp
	s := &m.g.states[state]
	if len(s.edges) > 0 {
		tops = append(tops, id)
	}
	if s.final {
		switch up {
		case bottom:
			m.accept = true
		case unknown:
			m.escaped = true
		default:
			tops = m.add(tops, m.nodes[up].state, m.nodes[up].up)
		}
	}
	for _, c := range s.calls {
		to := up
		if !m.g.states[c.to].leaf() {
			to = m.intern(c.to, up)
		}
		tops = m.add(tops, m.g.rules[c.rule], to)
	}
	return tops
}

// step reads one byte from the configuration from into into.
func (m *Matcher) step(into, from []int32, c byte) []int32 {
	m.begin()
	into = into[:0]
	for _, t := range from {
		n := m.nodes[t]
		if to := m.g.states[n.state].next(c); to >= 0 {
			into = m.add(into, to, n.up)
		}
	}
	return into
}

// run reads b; the result is valid until the next run.
func (m *Matcher) run(tops []int32, b []byte) []int32 {
	for i, c := range b {
		if tops = m.step(m.level(i), tops, c); len(tops) == 0 && (i < len(b)-1 || !m.accept) {
			m.accept = false
			return nil
		}
		m.scratch[i] = tops
	}
	return tops
}

func (m *Matcher) level(i int) []int32 {
	for len(m.scratch) <= i {
		m.scratch = append(m.scratch, nil)
	}
	return m.scratch[i]
}

// dist is the length in bytes of the shortest rest.
func (m *Matcher) dist(tops []int32, accept bool) int64 {
	if accept {
		return 0
	}
	d := int64(math.MaxInt64)
	for _, t := range tops {
		d = min(d, m.nodes[t].dist)
	}
	return d
}

// Accept moves past a token. A token that ends the text changes nothing; one that was not allowed
// leaves the matcher done.
func (m *Matcher) Accept(id int32) {
	if m.left > 0 {
		m.left--
	}
	v := m.g.v
	if id < 0 || int(id) >= v.size || v.stops[id/64]>>(id%64)&1 == 1 {
		return
	}
	m.fresh = false
	t := v.token[id]
	if len(t) == 0 {
		m.tops, m.accept = nil, false
		return
	}
	m.tops = append(m.tops[:0:0], m.run(m.tops, t)...)
	m.last += len(t)
	if m.last > 4096 { // forget the stacks of the text so far
		m.last = 0
		m.compact()
	}
}

// compact keeps only the nodes that the configuration reaches.
func (m *Matcher) compact() {
	old := m.nodes
	m.nodes = append([]node(nil), old[:2]...)
	m.index = map[[2]int32]int32{}
	to := make([]int32, len(old))
	to[unknown] = unknown
	var path []int32
	for i, t := range m.tops {
		path = path[:0]
		for n := t; n > unknown && to[n] == 0; n = old[n].up {
			path = append(path, n)
		}
		for _, n := range slices.Backward(path) {
			to[n] = m.intern(old[n].state, to[old[n].up])
		}
		m.tops[i] = to[t]
	}
}

// Fits reports whether, with the token id next, the text can still end within the limit. It is what
// Allowed does not look at: computing it for every token would be slow, and a sampler that has
// chosen one can ask, forbid it and choose again.
func (m *Matcher) Fits(id int32) bool {
	v := m.g.v
	if m.left < 0 || id < 0 || int(id) >= v.size || v.stops[id/64]>>(id%64)&1 == 1 {
		return true
	}
	if m.dist(m.tops, m.accept) > int64(m.left) {
		return true // it cannot end in time anyway
	}
	accept, mark := m.accept, len(m.nodes)
	d := m.dist(m.run(m.tops, v.token[id]), m.accept)
	m.accept = accept
	m.release(mark)
	return d <= int64(m.left-1)
}

// Forbid takes a token out of what the last Allowed returned.
func (m *Matcher) Forbid(id int32) {
	if int(id) < m.g.v.size && id >= 0 {
		m.bits[id/64] &^= 1 << (id % 64)
	}
}

// Narrow leaves in what the last Allowed returned exactly the tokens that fit the limit.
func (m *Matcher) Narrow() []uint64 {
	for w, word := range m.bits {
		for b := range 64 {
			if id := int32(w*64 + b); word>>b&1 == 1 && !m.Fits(id) {
				m.bits[w] &^= 1 << b
			}
		}
	}
	return m.bits
}

// Allowed returns the tokens that may come next, as a bit set that the next call overwrites.
// As long as no token is accepted, what Forbid and Narrow took out stays out.
func (m *Matcher) Allowed() []uint64 {
	if m.fresh {
		return m.bits
	}
	if m.bits == nil {
		m.bits = make([]uint64, len(m.g.v.stops))
	}
	m.mask()
	m.fresh = true
	if m.accept {
		for i, w := range m.g.v.stops {
			m.bits[i] |= w
		}
	}
	return m.bits
}

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
		s := m.g.stateMask(m, m.nodes[t].state)
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
			if k = binary.AppendUvarint(k, uint64(m.nodes[n].state)+1); len(k) > 400 {
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
	alive := 0 // of path, those that read something
	for _, n := range maybe {
		chain = chain[:0]
		for i := n; i >= 0; i = v.up[i] {
			if d := int(v.depth[i]); d <= len(path) && path[d-1] == i {
				break
			}
			chain = append(chain, i)
		}
		from := int(v.depth[n]) - len(chain)
		path = path[:from]
		alive = min(alive, from)
		ok := false
		for _, i := range slices.Backward(chain) {
			d := len(path)
			path = append(path, i)
			if alive < d {
				continue
			}
			cfg := tops
			if d > 0 {
				cfg = m.scratch[d-1]
			}
			cfg = m.step(m.level(d), cfg, v.char[i])
			m.scratch[d] = cfg
			if len(cfg) > 0 {
				alive = d + 1
			}
			ok = len(cfg) > 0 || m.accept
		}
		if ok && alive >= int(v.depth[n])-1 {
			yes(n)
		}
	}
}

// stateMask says for a state, whatever is below it on the stack, which tokens it can read (bits)
// and which end its rule and go on (maybe: their trie nodes, in order).
type stateMask struct {
	bits  []uint64
	maybe []int32
}

func (g *Grammar) stateMask(m *Matcher, q int32) *stateMask {
	g.mu.Lock()
	s := g.masks[q]
	g.mu.Unlock()
	if s != nil {
		return s
	}
	s = &stateMask{bits: make([]uint64, len(g.v.stops))}
	if g.plain[g.states[q].rule] {
		g.scanPlain(s, q)
	} else {
		m.scan(s, q)
	}
	g.keep(8*len(s.bits) + 4*len(s.maybe))
	g.mu.Lock()
	g.masks[q] = s
	g.mu.Unlock()
	return s
}

// yes and maybe note the tokens of trie node n.
func (s *stateMask) yes(v *Vocab, n int32) {
	for _, id := range v.ids[v.first[n]:v.first[n+1]] {
		s.bits[id/64] |= 1 << (id % 64)
	}
}

func (s *stateMask) perhaps(v *Vocab, n int32) {
	if v.first[n] < v.first[n+1] {
		s.maybe = append(s.maybe, n)
	}
}

// scanPlain walks the trie in a rule without calls, where the configuration is one state.
func (g *Grammar) scanPlain(s *stateMask, q int32) {
	v := g.v
	at := []int32{q} // state by depth; −1 if nothing can be read
	ended := []bool{false}
	for n := int32(0); n < int32(len(v.char)); {
		d := int(v.depth[n])
		at, ended = at[:d], ended[:d]
		to := int32(-1)
		if at[d-1] >= 0 {
			to = g.states[at[d-1]].next(v.char[n])
		}
		if to < 0 && !ended[d-1] {
			n = v.end[n]
			continue
		}
		end := ended[d-1]
		if to >= 0 {
			s.yes(v, n)
			end = end || g.states[to].final
		} else {
			s.perhaps(v, n)
		}
		at, ended = append(at, to), append(ended, end)
		n++
	}
}

// scan walks the trie with the whole machinery, on a stack whose bottom is unknown.
func (m *Matcher) scan(s *stateMask, q int32) {
	v := m.g.v
	mark := len(m.nodes)
	start := []int32{m.intern(q, unknown)}
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
		switch {
		case len(out) > 0 || m.escaped:
			s.yes(v, n)
			end = end || m.escaped
		case end:
			s.perhaps(v, n)
		default:
			n = v.end[n]
			continue
		}
		ended = append(ended, end)
		n++
	}
	m.release(mark)
}
