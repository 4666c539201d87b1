// Package grammar constrains generation: a JSON schema, a regular expression or a GBNF grammar
// becomes a byte-level pushdown automaton, and the automaton says, before each token, which tokens
// of a vocabulary may come next.
//
// What it promises, for every model and every way of sampling:
//   - a finished text is in the language: it parses, and it is valid by the schema;
//   - there is always a next token: states from which the vocabulary cannot reach an end are cut
//     away when the grammar is compiled, and a grammar of which nothing is left is an error;
//   - with Matcher.Limit, the text also ends within that many tokens, if any text can.
//
// The construction: each rule becomes a deterministic automaton over bytes and rule calls; a parse
// is a set of stacks of its states. The mask of a state is computed once by walking a trie of the
// vocabulary; tokens that run past the end of the rule depend on the stack below and are checked
// each time (the split is that of Dong et al. 2024, XGrammar, arXiv:2411.15100 §3.1). The bound on
// length is the shortest distance to an end, in bytes, each of which some token spells.
//
// What a schema may say is in schema.go; where the whole language of a keyword cannot be had, the
// grammar describes part of it, never more.
package grammar

import (
	"errors"
	"fmt"
	"math"
	"sync"
)

// ErrGrammar is wrapped by every error about a grammar, schema or expression.
var ErrGrammar = errors.New("grammar")

func errorf(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{ErrGrammar}, a...)...)
}

// Bounds on what a compilation may build: about 50 MB and half a second at the worst.
const (
	maxNFA      = 600_000
	maxStates   = 60_000  // of one automaton
	maxTotal    = 200_000 // of all of a grammar
	maxSubset   = 1 << 20 // members of all subsets of one determinisation
	maxDistance = 1 << 24 // bytes of the shortest text
	maxMasks    = 24 << 20
)

// A Grammar is a compiled automaton for one vocabulary. It is safe for concurrent use; matchers
// share the masks that they compute.
type Grammar struct {
	v      *Vocab
	states []state
	rules  []rule // rule 0 is the whole text

	dropped []Dropped

	columns int64 // numbers in the tables of all counters

	mu    sync.Mutex
	masks map[[2]int32]*stateMask // by state and class of its count
	whole map[string][]uint64
	bytes int
}

// rule is a part of the language with a frame of its own on the stack.
type rule struct {
	start, end int32  // its states, the first of which it begins in
	plain      bool   // it makes no calls
	count      *count // nil if it counts nothing
	key        string // of its spreads
}

// state is a state of a rule's deterministic automaton.
type state struct {
	edges  []edge // sorted, disjoint
	calls  []call
	tokens []tokenEdge
	rule   int32
	final  bool   // the rule may end here, if its counter allows
	dist   int32  // shortest way to the rule's end in bytes; of all counts, if it counts
	count  *count // the rule's
}

type edge struct {
	lo, hi byte
	tick   bool // it is counted
	to     int32
}

type call struct {
	rule, to int32
	tick     bool
}

// tokenEdge reads a whole token: one of ids, or any but those.
type tokenEdge struct {
	ids []int32
	not bool
	to  int32
}

// leaf reports that nothing follows s: a call that returns there need not return.
func (s *state) leaf() bool { return s.final && len(s.edges)+len(s.calls)+len(s.tokens) == 0 }

// next is the edge that reads b, nil for none.
func (s *state) next(b byte) *edge {
	for i := range s.edges {
		if e := &s.edges[i]; b <= e.hi {
			if b >= e.lo {
				return e
			}
			break
		}
	}
	return nil
}

// MinBytes is the length of the shortest text of the language that v can spell.
func (g *Grammar) MinBytes() int { return int(g.distance(g.rules[0].start, 0)) }

// Dropped lists the words that the grammar does not keep, where that was allowed.
func (g *Grammar) Dropped() []Dropped { return g.dropped }

func isGrammar(err error) bool { return errors.Is(err, ErrGrammar) }

// compile determinises the rules of b, cuts what cannot end, and checks that it is not recursive on
// the left.
func compile(v *Vocab, b *builder) (*Grammar, error) {
	if b.err != nil {
		return nil, b.err
	}
	g := &Grammar{v: v, masks: map[[2]int32]*stateMask{}, whole: map[string][]uint64{}}
	for i, r := range b.rules {
		if err := g.determinise(b, int32(i), r); err != nil {
			return nil, err
		}
	}
	if err := g.measure(); err != nil {
		return nil, err
	}
	if g.MinBytes() == math.MaxInt32 {
		return nil, errorf("nothing matches it, or nothing that this vocabulary can spell")
	}
	g.trim()
	return g, g.checkLeft(b)
}

// determinise adds the states of one rule: the subset construction, with a call as one more symbol.
func (g *Grammar) determinise(b *builder, id int32, r frag) error {
	d, err := b.subsets(r, g.v.alphabet)
	if err != nil {
		return err
	}
	base := int32(len(g.states))
	if len(g.states)+len(d) > maxTotal {
		return errorf("needs more than %d states: shorten its repetitions", maxTotal)
	}
	x := rule{start: base, end: base + int32(len(d)), plain: true}
	if c := b.count[id]; c != nil {
		x.count = &count{counter: *c, first: base, n: int32(len(d))}
	}
	for _, s := range d {
		for i := range s.edges {
			s.edges[i].to += base
		}
		for i := range s.calls {
			s.calls[i].to += base
			x.plain = false
		}
		for i := range s.tokens {
			s.tokens[i].to += base
			x.plain = false
		}
		s.rule, s.count = id, x.count
		g.states = append(g.states, s)
	}
	g.rules = append(g.rules, x)
	return nil
}

// measure computes every state's dist: Knuth's generalisation of Dijkstra's algorithm to grammars
// (Information Processing Letters 6, 1977). MaxInt32 means that no text ends from there. A state of a rule that
// counts has a node for every column of its table; other states have one.
func (g *Grammar) measure() error {
	type site struct{ from, to, rule int32 } // nodes, and the rule that is called between them
	nodes := int32(len(g.states))
	base := make([]int32, len(g.rules)) // first node of a counting rule's table
	for r := range g.rules {
		x := &g.rules[r]
		for i := x.start; i < x.end; i++ {
			g.states[i].dist = math.MaxInt32
		}
		if x.count == nil {
			continue
		}
		base[r] = nodes
		if x.plain {
			if err := g.measurePlain(x.count); err != nil {
				return err
			}
			continue
		}
		if err := g.layout(x.count, x.count.n); err != nil {
			return err
		}
		nodes += int32(len(x.count.dist))
	}
	back := make([][]int32, nodes) // by a byte or a token
	returns := make([][]site, nodes)
	starts := make([][]site, len(g.rules))
	dist := make([]int32, nodes)
	for i := range dist {
		dist[i] = math.MaxInt32
	}
	begin := make([]int32, len(g.rules)) // the node that a rule begins in
	ruleOf := map[int32]int32{}
	var heap distHeap
	for r := range g.rules {
		x := &g.rules[r]
		columns := int32(1)
		begin[r] = x.start
		if x.count != nil && x.plain { // known already
			ruleOf[x.start] = int32(r)
			if d := x.count.at(x.start, 0); d < math.MaxInt32 {
				heap.push(d, x.start)
			}
			continue
		}
		if x.count != nil {
			columns = x.count.columns()
			begin[r] = base[r] + x.count.column(0)*x.count.n
		}
		ruleOf[begin[r]] = int32(r)
		for col := range columns {
			node := func(q int32, tick bool) int32 {
				if x.count == nil {
					return q
				}
				to := col
				if tick {
					if to = x.count.after(col); to < 0 {
						return -1
					}
				}
				return base[r] + to*x.count.n + q - x.start
			}
			for q := x.start; q < x.end; q++ {
				s := &g.states[q]
				from := node(q, false)
				for _, e := range s.edges {
					if to := node(e.to, e.tick); to >= 0 {
						back[to] = append(back[to], from)
					}
				}
				for _, t := range s.tokens {
					back[node(t.to, false)] = append(back[node(t.to, false)], from)
				}
				for _, c := range s.calls {
					if to := node(c.to, c.tick); to >= 0 {
						y := site{from, to, c.rule}
						returns[to] = append(returns[to], y)
						starts[c.rule] = append(starts[c.rule], y)
					}
				}
				if s.final && (x.count == nil || col >= x.count.low) {
					heap.push(0, from)
				}
			}
		}
	}
	for n := 1; len(heap) > 0; n++ {
		if n%4096 == 0 {
			if err := g.v.cancelled(); err != nil {
				return err
			}
		}
		d, i := heap.pop()
		if dist[i] <= d {
			continue
		}
		dist[i] = d
		relax := func(from int32, d int64) {
			if d < maxDistance && int64(dist[from]) > d {
				heap.push(int32(d), from)
			}
		}
		for _, p := range back[i] {
			relax(p, int64(d)+1)
		}
		for _, y := range returns[i] {
			relax(y.from, int64(d)+int64(dist[begin[y.rule]]))
		}
		if r, ok := ruleOf[i]; ok {
			for _, y := range starts[r] {
				relax(y.from, int64(d)+int64(dist[y.to]))
			}
		}
	}
	for r := range g.rules {
		x := &g.rules[r]
		if x.count == nil {
			for q := x.start; q < x.end; q++ {
				g.states[q].dist = dist[q]
			}
			continue
		}
		if !x.plain {
			copy(x.count.dist, dist[base[r]:])
		}
		for i, d := range x.count.dist {
			s := &g.states[x.start+int32(i)%x.count.n]
			s.dist = min(s.dist, d)
		}
		g.classify(x.count)
	}
	return nil
}

// trim removes what leads to states that cannot end.
func (g *Grammar) trim() {
	dead := func(i int32) bool { return g.states[i].dist == math.MaxInt32 }
	for i := range g.states {
		s := &g.states[i]
		edges := s.edges[:0]
		for _, e := range s.edges {
			if !dead(e.to) {
				edges = append(edges, e)
			}
		}
		calls := s.calls[:0]
		for _, c := range s.calls {
			if x := g.rules[c.rule].start; !dead(c.to) && g.distance(x, 0) < math.MaxInt32 {
				calls = append(calls, c)
			}
		}
		tokens := s.tokens[:0]
		for _, t := range s.tokens {
			if !dead(t.to) {
				tokens = append(tokens, t)
			}
		}
		s.edges, s.calls, s.tokens = edges, calls, tokens
	}
}

// checkLeft fails if a rule can come back to itself before it reads a byte: its stack would grow
// without end. These are the call edges inside a strongly connected component of "reaches without
// reading".
func (g *Grammar) checkLeft(b *builder) error {
	n := len(g.states)
	order, low := make([]int32, n), make([]int32, n)
	comp := make([]int32, n)
	var stack []int32
	var clock, comps int32
	var visit func(int32)
	follow := func(i int32, f func(to int32)) {
		for _, c := range g.states[i].calls {
			f(g.rules[c.rule].start)
			if g.distance(g.rules[c.rule].start, 0) == 0 {
				f(c.to)
			}
		}
	}
	visit = func(i int32) { // Tarjan 1972
		clock++
		order[i], low[i] = clock, clock
		stack = append(stack, i)
		follow(i, func(to int32) {
			if order[to] == 0 {
				visit(to)
				low[i] = min(low[i], low[to])
			} else if comp[to] == 0 {
				low[i] = min(low[i], order[to])
			}
		})
		if low[i] == order[i] {
			comps++
			for {
				top := stack[len(stack)-1]
				stack = stack[:len(stack)-1]
				comp[top] = comps
				if top == i {
					return
				}
			}
		}
	}
	for i := range g.states {
		if order[i] == 0 {
			visit(int32(i))
		}
	}
	for i := range g.states {
		for _, c := range g.states[i].calls {
			start := g.rules[c.rule].start
			if comp[i] == comp[start] {
				return errorf("rule %q refers to itself before it reads anything: put what it reads first", b.names[c.rule])
			}
			if c.tick && g.distance(start, 0) == 0 {
				return errorf("%q is repeated up to %d times, but may be empty: repeat what is not", b.names[c.rule], g.states[i].count.max)
			}
		}
	}
	return nil
}

// distHeap is a binary heap of (dist, state).
type distHeap []struct{ d, i int32 }

func (h *distHeap) push(d, i int32) {
	*h = append(*h, struct{ d, i int32 }{d, i})
	q := *h
	for c := len(q) - 1; c > 0; {
		p := (c - 1) / 2
		if q[p].d <= q[c].d {
			break
		}
		q[p], q[c] = q[c], q[p]
		c = p
	}
}

func (h *distHeap) pop() (d, i int32) {
	q := *h
	top := q[0]
	q[0] = q[len(q)-1]
	q = q[:len(q)-1]
	for p := 0; ; {
		c := 2*p + 1
		if c >= len(q) {
			break
		}
		if c+1 < len(q) && q[c+1].d < q[c].d {
			c++
		}
		if q[p].d <= q[c].d {
			break
		}
		q[p], q[c] = q[c], q[p]
		p = c
	}
	*h = q
	return top.d, top.i
}
