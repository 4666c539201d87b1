package grammar

import (
	"encoding/binary"
	"slices"
	"unicode/utf8"
)

// builder makes the nondeterministic automata of all rules, which determinise then reads.
type builder struct {
	n        []nstate
	v        *Vocab
	rules    []frag
	count    []*counter // [rule], nil where nothing is counted
	names    []string
	patterns map[pattern]automaton
	shared   *jsonRules
	counts   bool  // long repetitions of a character may become rules
	err      error // the first one; building goes on with rubbish
	mark     []int32
	stamp    int32
}

type nstate struct {
	eps        []int32
	begin, end []int32 // crossed only at the text's first, or after its last byte
	edges      []edge
	calls      []call
	tokens     []tokenEdge
}

// frag is a piece of automaton with one way in and one way out.
type frag struct{ in, out int32 }

func (b *builder) fail(format string, a ...any) frag {
	if b.err == nil {
		b.err = errorf(format, a...)
		b.n = append(b.n, nstate{}) // so that state 0 is there
	}
	return frag{}
}

func (b *builder) state() int32 {
	if len(b.n) >= maxNFA {
		b.fail("needs more than %d states: shorten its repetitions", maxNFA)
		return 0
	}
	if len(b.n)%4096 == 4095 && b.err == nil {
		if b.err = b.v.cancelled(); b.err != nil {
			return 0
		}
	}
	b.n = append(b.n, nstate{})
	return int32(len(b.n) - 1)
}

func (b *builder) link(from, to int32) { b.n[from].eps = append(b.n[from].eps, to) }
func (b *builder) addRule(name string) int32 {
	b.rules = append(b.rules, frag{})
	b.count = append(b.count, nil)
	b.names = append(b.names, name)
	return int32(len(b.rules) - 1)
}

func (b *builder) empty() frag {
	s := b.state()
	return frag{s, s}
}

// nothing matches no text at all.
func (b *builder) nothing() frag { return frag{b.state(), b.state()} }

func (b *builder) bytes(lo, hi byte) frag {
	f := frag{b.state(), b.state()}
	b.n[f.in].edges = append(b.n[f.in].edges, edge{lo: lo, hi: hi, to: f.out})
	return f
}

func (b *builder) lit(s string) frag {
	f := b.empty()
	for i := range len(s) {
		to := b.state()
		b.n[f.out].edges = append(b.n[f.out].edges, edge{lo: s[i], hi: s[i], to: to})
		f.out = to
	}
	return f
}

func (b *builder) call(rule int32) frag {
	f := frag{b.state(), b.state()}
	b.n[f.in].calls = append(b.n[f.in].calls, call{rule: rule, to: f.out})
	return f
}

// tick is a call that the rule's counter counts.
func (b *builder) tick(rule int32) frag {
	f := b.call(rule)
	b.n[f.in].calls[0].tick = true
	return f
}

// token is one token of the vocabulary: one of ids, or with not any that adds to the text and is not among them.
func (b *builder) token(ids []int32, not bool) frag {
	f := frag{b.state(), b.state()}
	b.n[f.in].tokens = append(b.n[f.in].tokens, tokenEdge{ids, not, f.out})
	return f
}

func (b *builder) cat(fs ...frag) frag {
	if len(fs) == 0 {
		return b.empty()
	}
	for i := 1; i < len(fs); i++ {
		b.link(fs[i-1].out, fs[i].in)
	}
	return frag{fs[0].in, fs[len(fs)-1].out}
}

func (b *builder) alt(fs ...frag) frag {
	f := frag{b.state(), b.state()}
	for _, x := range fs {
		b.link(f.in, x.in)
		b.link(x.out, f.out)
	}
	return f
}

func (b *builder) opt(x frag) frag { return b.alt(x, b.empty()) }

func (b *builder) star(x frag) frag {
	f := frag{b.state(), b.state()}
	b.link(f.in, x.in)
	b.link(x.out, f.in)
	b.link(f.in, f.out)
	return f
}

// repeat is make() from min to max times, max < 0 without end.
func (b *builder) repeat(make func() frag, min, max int) frag {
	f := b.empty()
	for range min {
		if b.err != nil {
			return f
		}
		f = b.cat(f, make())
	}
	if max < 0 {
		return b.cat(f, b.star(make()))
	}
	out := b.state()
	b.link(f.out, out)
	for range max - min {
		if b.err != nil {
			return f
		}
		f = b.cat(f, make())
		b.link(f.out, out)
	}
	return frag{f.in, out}
}

// counted is x from c.min to c.max times, as a rule that counts. char says that x is one character, of which the first
// byte can count; anything else becomes a rule that is called.
func (b *builder) counted(x frag, c counter, char bool) frag {
	r := b.addRule("repetition")
	b.count[r] = &c
	if char {
		edges := b.n[x.in].edges
		for i := range edges {
			edges[i].tick = true
		}
	} else {
		sub := b.addRule("repeated")
		b.rules[sub] = x
		x = b.tick(sub)
	}
	b.rules[r] = b.star(x)
	return b.call(r)
}

type runeRange struct{ lo, hi rune }

// runes matches one character of the ranges, in UTF-8; surrogates never.
func (b *builder) runes(rs []runeRange) frag {
	f := frag{b.state(), b.state()}
	for _, r := range rs {
		utf8Ranges(r.lo, r.hi, func(seq [][2]byte) {
			at := f.in
			for i, x := range seq {
				to := f.out
				if i < len(seq)-1 {
					to = b.state()
				}
				b.n[at].edges = append(b.n[at].edges, edge{lo: x[0], hi: x[1], to: to})
				at = to
			}
		})
	}
	return f
}

// utf8Ranges splits lo..hi into sequences of byte ranges whose products are exactly the encodings.
func utf8Ranges(lo, hi rune, emit func([][2]byte)) {
	lo, hi = max(lo, 0), min(hi, utf8.MaxRune)
	if lo > hi {
		return
	}
	if lo <= 0xdfff && hi >= 0xd800 {
		utf8Ranges(lo, 0xd7ff, emit)
		utf8Ranges(0xe000, hi, emit)
		return
	}
	for _, last := range []rune{0x7f, 0x7ff, 0xffff} { // of 1, 2 and 3 bytes
		if lo <= last && last < hi {
			utf8Ranges(lo, last, emit)
			utf8Ranges(last+1, hi, emit)
			return
		}
	}
	if n := utf8.RuneLen(lo); n > 1 {
		for i := 1; i < n; i++ {
			m := rune(1)<<(6*i) - 1 // the last i bytes
			if lo&^m == hi&^m {
				continue
			}
			if lo&m != 0 {
				utf8Ranges(lo, lo|m, emit)
				utf8Ranges((lo|m)+1, hi, emit)
				return
			}
			if hi&m != m {
				utf8Ranges(lo, hi&^m-1, emit)
				utf8Ranges(hi&^m, hi, emit)
				return
			}
		}
	}
	a, z := utf8.AppendRune(nil, lo), utf8.AppendRune(nil, hi)
	seq := make([][2]byte, len(a))
	for i := range a {
		seq[i] = [2]byte{a[i], z[i]}
	}
	emit(seq)
}

// subsets determinises one rule. State 0 is the start. Bytes outside the alphabet are left out.
func (b *builder) subsets(r frag, alphabet *[256]bool) ([]state, error) {
	if b.err != nil {
		return nil, b.err
	}
	if len(b.mark) < len(b.n) {
		b.mark = append(b.mark, make([]int32, len(b.n)-len(b.mark))...)
	}
	var (
		out   []state
		sets  [][]int32
		ids   = map[string]int32{}
		total int
		key   []byte
	)
	// closure follows what needs no byte; with first or last also what needs the text's edge.
	closure := func(set []int32, first, last bool) []int32 {
		b.stamp++
		c := make([]int32, 0, 2*len(set)+4)
		add := func(i int32) {
			if b.mark[i] != b.stamp {
				b.mark[i] = b.stamp
				c = append(c, i)
			}
		}
		for _, i := range set {
			add(i)
		}
		for k := 0; k < len(c); k++ {
			n := &b.n[c[k]]
			for _, to := range n.eps {
				add(to)
			}
			if first {
				for _, to := range n.begin {
					add(to)
				}
			}
			if last {
				for _, to := range n.end {
					add(to)
				}
			}
		}
		slices.Sort(c)
		return c
	}
	anchored := false
	intern := func(set []int32, first bool) int32 {
		c := closure(set, first, false)
		key = append(key[:0], 0)
		if first {
			key[0] = 1
		}
		for _, i := range c {
			key = binary.AppendUvarint(key, uint64(i))
		}
		if id, ok := ids[string(key)]; ok {
			return id
		}
		id := int32(len(out))
		ids[string(key)] = id
		final := slices.Contains(c, r.out)
		for _, i := range c {
			anchored = anchored || len(b.n[i].end) > 0
		}
		if !final && anchored {
			final = slices.Contains(closure(c, first, true), r.out)
		}
		out = append(out, state{final: final})
		sets = append(sets, c)
		total += len(c)
		return id
	}
	intern([]int32{r.in}, true)
	var edges []edge
	var set []int32
	for k := 0; k < len(out); k++ {
		if len(out) > maxStates || total > maxSubset {
			return nil, errorf("needs more than %d states: shorten its repetitions", maxStates)
		}
		if k%1024 == 0 {
			if err := b.v.cancelled(); err != nil {
				return nil, err
			}
		}
		var cuts [257]bool
		edges = edges[:0]
		type symbol struct {
			rule int32
			tick bool
		}
		var calls map[symbol][]int32
		var order []symbol
		for _, i := range sets[k] {
			for _, e := range b.n[i].edges {
				edges = append(edges, e)
				cuts[e.lo], cuts[int(e.hi)+1] = true, true
			}
			for _, c := range b.n[i].calls {
				y := symbol{c.rule, c.tick}
				if calls == nil {
					calls = map[symbol][]int32{}
				}
				if calls[y] == nil {
					order = append(order, y)
				}
				calls[y] = append(calls[y], c.to)
			}
			for _, t := range b.n[i].tokens {
				t.to = intern([]int32{t.to}, false)
				out[k].tokens = append(out[k].tokens, t)
			}
		}
		for x := range 256 {
			if x > 0 && alphabet[x] != alphabet[x-1] {
				cuts[x] = true
			}
		}
		if len(edges) > 0 {
			for lo := 0; lo < 256; {
				hi := lo
				for hi < 255 && !cuts[hi+1] {
					hi++
				}
				set = set[:0]
				tick := false
				for _, e := range edges {
					if int(e.lo) <= lo && hi <= int(e.hi) {
						if len(set) > 0 && e.tick != tick {
							panic("grammar: one byte both counts and does not")
						}
						tick = e.tick
						set = append(set, e.to)
					}
				}
				if len(set) > 0 && alphabet[lo] {
					to := intern(set, false)
					es := out[k].edges
					if n := len(es); n > 0 && es[n-1].to == to && es[n-1].tick == tick && int(es[n-1].hi)+1 == lo {
						es[n-1].hi = byte(hi)
					} else {
						out[k].edges = append(es, edge{byte(lo), byte(hi), tick, to})
					}
				}
				lo = hi + 1
			}
		}
		for _, y := range order {
			to := intern(calls[y], false)
			out[k].calls = append(out[k].calls, call{y.rule, to, y.tick})
		}
	}
	return out, nil
}

// embed copies a determinised automaton without calls back into the builder.
func (b *builder) embed(d []state) frag {
	f := frag{0, b.state()}
	base := int32(len(b.n))
	for range d {
		b.state()
	}
	if b.err != nil {
		return frag{}
	}
	f.in = base
	for i, s := range d {
		at := base + int32(i)
		for _, e := range s.edges {
			b.n[at].edges = append(b.n[at].edges, edge{e.lo, e.hi, e.tick, base + e.to})
		}
		if s.final {
			b.link(at, f.out)
		}
	}
	return f
}

// intersect is the product of two determinised automata without calls.
func (b *builder) intersect(x, y []state) ([]state, error) {
	ids := map[[2]int32]int32{{0, 0}: 0}
	pairs := [][2]int32{{0, 0}}
	var out []state
	for k := 0; k < len(pairs); k++ {
		if len(pairs) > maxStates {
			return nil, errorf("needs more than %d states: shorten its repetitions", maxStates)
		}
		if k%1024 == 1023 {
			if err := b.v.cancelled(); err != nil {
				return nil, err
			}
		}
		p, q := &x[pairs[k][0]], &y[pairs[k][1]]
		s := state{final: p.final && q.final}
		for _, e := range p.edges {
			for _, f := range q.edges {
				lo, hi := max(e.lo, f.lo), min(e.hi, f.hi)
				if lo > hi {
					continue
				}
				pair := [2]int32{e.to, f.to}
				id, ok := ids[pair]
				if !ok {
					id = int32(len(pairs))
					ids[pair] = id
					pairs = append(pairs, pair)
				}
				s.edges = append(s.edges, edge{lo: lo, hi: hi, to: id})
			}
		}
		out = append(out, s)
	}
	return out, nil
}

// everyByte is the alphabet before a vocabulary narrows it.
var everyByte = func() *[256]bool {
	var a [256]bool
	for i := range a {
		a[i] = true
	}
	return &a
}()
