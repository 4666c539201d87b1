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
	maxNFA      = 200_000
	maxStates   = 60_000
	maxSubset   = 1 << 20 // members of all subsets of one determinisation
	maxDistance = 1 << 24 // bytes of the shortest text
	maxMasks    = 32 << 20
)

// A Grammar is a compiled automaton for one vocabulary. It is safe for concurrent use; matchers
// share the masks that they compute.
type Grammar struct {
	v      *Vocab
	states []state
	rules  []int32 // start state of each rule; rule 0 is the whole text
	plain  []bool  // [rule] makes no calls

	mu    sync.Mutex
	masks map[int32]*stateMask
	whole map[string][]uint64
	bytes int
}

// state is a state of a rule's deterministic automaton.
type state struct {
	edges []edge // sorted, disjoint
	calls []call
	rule  int32
	final bool
	dist  int32 // shortest way to the rule's end in bytes
}

type edge struct {
	lo, hi byte
	to     int32
}

type call struct{ rule, to int32 }

// leaf reports that nothing follows s: a call that returns there need not return.
func (s *state) leaf() bool { return s.final && len(s.edges) == 0 && len(s.calls) == 0 }

func (s *state) next(b byte) int32 {
	for i := range s.edges {
		if e := &s.edges[i]; b <= e.hi {
			if b >= e.lo {
				return e.to
			}
			break
		}
	}
	return -1
}

// MinBytes is the length of the shortest text of the language that v can spell.
func (g *Grammar) MinBytes() int { return int(g.states[g.rules[0]].dist) }

// compile determinises the rules of b, cuts what cannot end, and checks that it is not recursive on
// the left.
func compile(v *Vocab, b *builder) (*Grammar, error) {
	if b.err != nil {
		return nil, b.err
	}
	g := &Grammar{v: v, masks: map[int32]*stateMask{}, whole: map[string][]uint64{}}
	for i, r := range b.rules {
		if err := g.determinise(b, int32(i), r); err != nil {
			return nil, err
		}
	}
	g.measure()
	if g.states[g.rules[0]].dist == math.MaxInt32 {
		return nil, errorf("nothing matches it, or nothing that this vocabulary can spell")
	}
	g.trim()
	return g, g.checkLeft(b)
}

// determinise adds the states of one rule: the subset construction, with a call as one more symbol.
func (g *Grammar) determinise(b *builder, rule int32, r frag) error {
	d, err := b.subsets(r, g.v.alphabet)
	if err != nil {
		return err
	}
	base := int32(len(g.states))
	if len(g.states)+len(d) > maxStates {
		return errorf("needs more than %d states: shorten its repetitions", maxStates)
	}
	plain := true
	for _, s := range d {
		for i := range s.edges {
			s.edges[i].to += base
		}
		for i := range s.calls {
			s.calls[i].to += base
			plain = false
		}
		s.rule = rule
		g.states = append(g.states, s)
	}
	g.rules = append(g.rules, base)
	g.plain = append(g.plain, plain)
	return nil
}

// measure computes every state's dist: Knuth's generalisation of Dijkstra's algorithm to grammars
// (Information Processing Letters 6, 1977). MaxInt32 means that no text ends from there.
func (g *Grammar) measure() {
	type site struct{ from, rule, to int32 }
	back := make([][]int32, len(g.states)) // by byte
	returns := make([][]site, len(g.states))
	starts := make([][]site, len(g.rules))
	startOf := make(map[int32]int32, len(g.rules))
	for r, s := range g.rules {
		startOf[s] = int32(r)
	}
	var heap distHeap
	for i := range g.states {
		s := &g.states[i]
		s.dist = math.MaxInt32
		for _, e := range s.edges {
			back[e.to] = append(back[e.to], int32(i))
		}
		for _, c := range s.calls {
			x := site{int32(i), c.rule, c.to}
			returns[c.to] = append(returns[c.to], x)
			starts[c.rule] = append(starts[c.rule], x)
		}
		if s.final {
			heap.push(0, int32(i))
		}
	}
	for len(heap) > 0 {
		d, i := heap.pop()
		if g.states[i].dist <= d {
			continue
		}
		g.states[i].dist = d
		relax := func(from int32, d int64) {
			if d < maxDistance && int64(g.states[from].dist) > d {
				heap.push(int32(d), from)
			}
		}
		for _, p := range back[i] {
			relax(p, int64(d)+1)
		}
		for _, x := range returns[i] {
			relax(x.from, int64(d)+int64(g.states[g.rules[x.rule]].dist))
		}
		if r, ok := startOf[i]; ok {
			for _, x := range starts[r] {
				relax(x.from, int64(d)+int64(g.states[x.to].dist))
			}
		}
	}
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
			if !dead(c.to) && !dead(g.rules[c.rule]) {
				calls = append(calls, c)
			}
		}
		s.edges, s.calls = edges, calls
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
			f(g.rules[c.rule])
			if g.states[g.rules[c.rule]].dist == 0 {
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
			if comp[i] == comp[g.rules[c.rule]] {
				return errorf("rule %q refers to itself before it reads anything: put what it reads first", b.names[c.rule])
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
