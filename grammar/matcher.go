package grammar

import (
	"math"
	"slices"
)

// A Matcher follows one text. It implements sample.Mask. It is not safe for concurrent use.
type Matcher struct {
	g       *Grammar
	nodes   []node // stacks, sharing their tails; 0 is the bottom, 1 a bottom that is not known
	index   map[[3]int32]int32
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

// node is a frame of the stack: a state of a rule, what the rule has counted, and the frame below.
type node struct {
	state, k, up int32
	seen         int64 // the last stamp that met it
	dist         int64 // bytes to the end of the text
}

const bottom, unknown = 0, 1

// NewMatcher starts a text.
func (g *Grammar) NewMatcher() *Matcher {
	m := &Matcher{g: g, index: map[[3]int32]int32{}, left: -1}
	m.nodes = []node{{state: -1}, {state: -1}}
	m.begin()
	m.tops = m.add(nil, g.rules[0].start, 0, bottom)
	return m
}

// Limit says how many tokens may still come, the ending one not counted: from here on Allowed
// leaves only tokens after which an end can be reached, if it can be reached at all.
func (m *Matcher) Limit(tokens int) { m.left = max(tokens, 0) }

// MayEnd reports whether the text is complete as it stands.
func (m *Matcher) MayEnd() bool { return m.accept }

// Rest is how many bytes the shortest way to the text's end has.
func (m *Matcher) Rest() int { return int(min(m.dist(m.tops, m.accept), math.MaxInt32)) }

// Done reports that nothing can follow: the text is complete, or a forbidden token was accepted.
func (m *Matcher) Done() bool { return len(m.tops) == 0 }

func (m *Matcher) intern(state, k, up int32) int32 {
	x := [3]int32{state, k, up}
	id, ok := m.index[x]
	if !ok {
		id = int32(len(m.nodes))
		m.nodes = append(m.nodes, node{state: state, k: k, up: up, dist: int64(m.g.distance(state, k)) + m.nodes[up].dist})
		m.index[x] = id
	}
	return id
}

// release forgets the nodes made after mark.
func (m *Matcher) release(mark int) {
	for _, n := range m.nodes[mark:] {
		delete(m.index, [3]int32{n.state, n.k, n.up})
	}
	m.nodes = m.nodes[:mark]
}

// begin starts the closure of a new configuration.
func (m *Matcher) begin() {
	m.stamp++
	m.accept, m.escaped = false, false
}

// add puts the stack state·up into the configuration: itself if it reads something, what it calls, and
// what it returns to if its rule may end here.
func (m *Matcher) add(tops []int32, state, k, up int32) []int32 {
	id := m.intern(state, k, up)
	if m.nodes[id].seen == m.stamp {
		return tops
	}
	m.nodes[id].seen = m.stamp
	s := &m.g.states[state]
	if len(s.edges)+len(s.tokens) > 0 {
		tops = append(tops, id)
	}
	if s.final && (s.count == nil || s.count.met(k)) {
		switch up {
		case bottom:
			m.accept = true
		case unknown:
			m.escaped = true
		default:
			n := &m.nodes[up]
			tops = m.add(tops, n.state, n.k, n.up)
		}
	}
	for _, c := range s.calls {
		then, ok := s.advance(c.to, k, c.tick)
		if !ok {
			continue
		}
		to := up
		if !m.g.states[c.to].leaf() {
			to = m.intern(c.to, then, up)
		}
		tops = m.add(tops, m.g.rules[c.rule].start, 0, to)
	}
	return tops
}

// advance is the count with which a rule goes on in state to; not ok if it could not end from there.
func (s *state) advance(to, k int32, tick bool) (int32, bool) {
	if s.count == nil {
		return 0, true
	}
	if tick {
		k = s.count.next(k, 1)
	}
	return k, s.count.at(to, k) < math.MaxInt32
}

// step reads one byte from the configuration from into into.
func (m *Matcher) step(into, from []int32, c byte) []int32 {
	m.begin()
	into = into[:0]
	for _, t := range from {
		n := &m.nodes[t]
		s := &m.g.states[n.state]
		if e := s.next(c); e != nil {
			if k, ok := s.advance(e.to, n.k, e.tick); ok {
				into = m.add(into, e.to, k, n.up)
			}
		}
	}
	return into
}

// reads reports that a token edge of the configuration may read the token.
func (e *tokenEdge) reads(v *Vocab, id int32) bool {
	if e.not {
		return len(v.token[id]) > 0 && !slices.Contains(e.ids, id)
	}
	return slices.Contains(e.ids, id)
}

// take reads a token: its bytes, and what names it. The result is valid until the next run.
func (m *Matcher) take(tops []int32, id int32) []int32 {
	type target struct{ state, up int32 }
	var whole []target
	for _, t := range tops {
		n := &m.nodes[t]
		for i := range m.g.states[n.state].tokens {
			if e := &m.g.states[n.state].tokens[i]; e.reads(m.g.v, id) {
				whole = append(whole, target{e.to, n.up})
			}
		}
	}
	var out []int32
	m.accept = false
	if b := m.g.v.token[id]; len(b) > 0 {
		out = m.run(tops, b)
	}
	if len(whole) == 0 {
		return out
	}
	accept := m.accept
	m.begin()
	m.accept = accept
	var all []int32
	for _, t := range out {
		n := m.nodes[t]
		all = m.add(all, n.state, n.k, n.up)
	}
	for _, t := range whole { // a rule that counts has calls and bytes only
		all = m.add(all, t.state, 0, t.up)
	}
	return all
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
	m.tops = append(m.tops[:0:0], m.take(m.tops, id)...)
	m.last += len(v.token[id]) + 1
	if m.last > 4096 { // forget the stacks of the text so far
		m.last = 0
		m.compact()
	}
}

// compact keeps only the nodes that the configuration reaches.
func (m *Matcher) compact() {
	old := m.nodes
	m.nodes = append([]node(nil), old[:2]...)
	m.index = map[[3]int32]int32{}
	to := make([]int32, len(old))
	to[unknown] = unknown
	var path []int32
	for i, t := range m.tops {
		path = path[:0]
		for n := t; n > unknown && to[n] == 0; n = old[n].up {
			path = append(path, n)
		}
		for _, n := range slices.Backward(path) {
			to[n] = m.intern(old[n].state, old[n].k, to[old[n].up])
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
	d := m.dist(m.take(m.tops, id), m.accept)
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
