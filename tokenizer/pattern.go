package tokenizer

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// pattern is a compiled regular expression of a pre-tokenizer. Those use what Go's regexp leaves
// out: look-around, possessive quantifiers, intersections of classes; Oniguruma is their engine,
// in Ruby syntax. Left out are back references, captures' contents, multi-character case
// folding, look-behind of varying length, and repeats of what may match nothing.
//
// Matching backtracks, which is fast on ordinary text, until it has taken more steps than a
// multiple of the text; from there a table answers (table.go), in time proportional to the text
// times the size of the program. Both find the same matches.
type pattern struct {
	prog  []inst
	subs  [][]inst // bodies of look-around and atomic groups
	table *table
}

type opcode uint8

const (
	opMatch  opcode = iota
	opSet           // one character of set
	opLoop          // min to max characters of set
	opSplit         // continue at x; should that fail, at y
	opJump          // continue at x
	opLook          // subs[x] matches here (neg: doesn't); behind: starting y characters back
	opAtomic        // subs[x], without coming back to its other ways of matching
	opAssert        // x is one of ^ $ A z Z b B
)

type inst struct {
	op       opcode
	neg      bool
	behind   bool
	lazy     bool
	atomic   bool // opLoop: possessive
	x, y     int
	min, max int
	set      *runeSet
}

// runeSet is a set of characters.
type runeSet struct {
	ascii [2]uint64
	other func(rune) bool // for characters past ASCII
}

func newRuneSet(in func(rune) bool) *runeSet {
	s := &runeSet{other: in}
	for r := range rune(utf8.RuneSelf) {
		if in(r) {
			s.ascii[r>>6] |= 1 << (r & 63)
		}
	}
	return s
}

func (s *runeSet) has(r rune) bool {
	if r < utf8.RuneSelf {
		return s.ascii[r>>6]>>(r&63)&1 != 0
	}
	return s.other(r)
}

const (
	maxProgram  = 1024 // steps of a table; published expressions have fewer than 200
	maxRepeat   = 1000
	maxNesting  = 100
	unlimited   = 1<<31 - 1
	maxLookBack = 64
	maxStack    = 1 << 15 // places to come back to
	stepsPer    = 64      // of backtracking, per byte of text
	maxSource   = 1 << 14 // bytes of an expression
)

func compilePattern(src string) (*pattern, error) {
	if len(src) > maxSource {
		return nil, errors.New("too large")
	}
	p := &reParser{src: src, sets: map[string]*runeSet{}}
	n, err := p.alternatives(0)
	if err == nil && p.at < len(src) {
		err = fmt.Errorf("unmatched ) at byte %d", p.at)
	}
	if err != nil {
		return nil, err
	}
	c := &reCompiler{p: new(pattern)}
	prog, err := c.program(n)
	if err != nil {
		return nil, err
	}
	c.p.prog = prog
	if c.p.table, err = newTable(c.p); err != nil {
		return nil, err
	}
	return c.p, nil
}

// each calls f for the matches in s, from left to right, as Oniguruma's own iteration: an empty
// match right behind another match is none.
func (p *pattern) each(s string, f func(start, end int)) {
	m := reMatcher{p: p, s: s, left: 4096 + stepsPer*len(s)}
	last := -1
	for from := 0; from <= len(s); {
		a, b := m.find(from)
		if a < 0 {
			return
		}
		if a == b && b == last {
			_, n := decodeAt(s, from)
			from += max(n, 1)
			continue
		}
		f(a, b)
		from, last = b, b
	}
}

// Matching.

type reFrame struct {
	pc, pos int
	min     int // ≥ 0: a greedy loop may give back characters down to this position
	count   int // a lazy loop has taken this many characters
}

// reMatcher finds matches in one text.
type reMatcher struct {
	p     *pattern
	s     string
	stack []reFrame
	left  int // steps of backtracking, for the whole text; afterwards the table answers

	ends []int32 // from the table: the end of the match at base+i, -1: none
	base int
}

const gaveUp = -2

// find returns the leftmost match at or after from; start is -1 when there is none.
func (m *reMatcher) find(from int) (start, end int) {
	at := from
	for m.ends == nil {
		switch e := m.run(m.p.prog, at); {
		case e == gaveUp:
			m.base, m.stack = at, nil
			m.ends = m.p.table.ends(m.s, at)
			continue
		case e >= 0:
			return at, e
		}
		_, n := decodeAt(m.s, at)
		if n == 0 {
			return -1, -1
		}
		at += n
	}
	for i := at - m.base; i < len(m.ends); i++ {
		if e := m.ends[i]; e >= 0 {
			return m.base + i, int(e)
		}
	}
	return -1, -1
}

// run matches prog at s[pos] and returns the end of the match, -1, or gaveUp.
func (m *reMatcher) run(prog []inst, pos int) int {
	base := len(m.stack)
	defer func() { m.stack = m.stack[:base] }()
	s := m.s
	pc := 0
	for {
		if m.left--; m.left < 0 || len(m.stack) > maxStack {
			return gaveUp
		}
		in := &prog[pc]
		ok := true
		switch in.op {
		case opMatch:
			return pos
		case opSet:
			r, n := decodeAt(s, pos)
			if ok = n > 0 && in.set.has(r); ok {
				pos += n
				pc++
			}
		case opLoop:
			n, first := 0, pos
			limit := in.max
			if in.lazy {
				limit = in.min
			}
			for n < limit {
				r, w := decodeAt(s, pos)
				if w == 0 || !in.set.has(r) {
					break
				}
				pos += w
				if n++; n == in.min {
					first = pos
				}
			}
			m.left -= n
			if ok = n >= in.min; ok {
				if in.lazy && !in.atomic {
					if in.max > n {
						m.stack = append(m.stack, reFrame{pc, pos, -1, n})
					}
				} else if !in.atomic && pos > first {
					m.stack = append(m.stack, reFrame{pc, pos, first, 0})
				}
				pc++
			}
		case opSplit:
			m.stack = append(m.stack, reFrame{in.y, pos, -1, -1})
			pc = in.x
		case opJump:
			pc = in.x
		case opLook:
			at := pos
			found := true
			if in.behind {
				at, found = back(s, pos, in.y)
			}
			if found {
				e := m.run(m.p.subs[in.x], at)
				if e == gaveUp {
					return gaveUp
				}
				found = e >= 0
			}
			if ok = found != in.neg; ok {
				pc++
			}
		case opAtomic:
			e := m.run(m.p.subs[in.x], pos)
			if e == gaveUp {
				return gaveUp
			}
			if ok = e >= 0; ok {
				pos = e
				pc++
			}
		case opAssert:
			if ok = assert(s, byte(in.x), pos); ok {
				pc++
			}
		}
		for !ok {
			if len(m.stack) == base {
				return -1
			}
			if m.left--; m.left < 0 {
				return gaveUp
			}
			f := &m.stack[len(m.stack)-1]
			switch {
			case f.count < 0: // the other branch of a split
				pc, pos = f.pc, f.pos
				m.stack = m.stack[:len(m.stack)-1]
				ok = true
			case f.min >= 0: // a greedy loop gives one character back
				_, n := utf8.DecodeLastRuneInString(s[:f.pos])
				f.pos -= n
				pc, pos = f.pc+1, f.pos
				if f.pos <= f.min {
					m.stack = m.stack[:len(m.stack)-1]
				}
				ok = true
			default: // a lazy loop takes one more
				loop := &prog[f.pc]
				r, n := decodeAt(s, f.pos)
				if n == 0 || !loop.set.has(r) {
					m.stack = m.stack[:len(m.stack)-1]
					break
				}
				f.pos += n
				f.count++
				pc, pos = f.pc+1, f.pos
				if f.count >= loop.max {
					m.stack = m.stack[:len(m.stack)-1]
				}
				ok = true
			}
		}
	}
}

// back returns the position n characters before pos; ok is false where the text begins sooner.
func back(s string, pos, n int) (at int, ok bool) {
	for at = pos; n > 0; n-- {
		if at == 0 {
			return 0, false
		}
		_, w := utf8.DecodeLastRuneInString(s[:at])
		at -= w
	}
	return at, true
}

func decodeAt(s string, i int) (rune, int) {
	if i >= len(s) {
		return 0, 0
	}
	if c := s[i]; c < utf8.RuneSelf {
		return rune(c), 1
	}
	return utf8.DecodeRuneInString(s[i:])
}

// assert reports whether ^ $ \A \z \Z \b or \B holds at s[pos].
func assert(s string, kind byte, pos int) bool {
	switch kind {
	case 'A':
		return pos == 0
	case 'z':
		return pos == len(s)
	case 'Z':
		return pos == len(s) || pos == len(s)-1 && s[pos] == '\n'
	case '^':
		return pos == 0 || s[pos-1] == '\n' && pos < len(s)
	case '$':
		return pos == len(s) || s[pos] == '\n'
	}
	before, _ := utf8.DecodeLastRuneInString(s[:pos])
	after, _ := utf8.DecodeRuneInString(s[pos:])
	edge := (pos > 0 && onigWord(before)) != (pos < len(s) && onigWord(after))
	return edge == (kind == 'b')
}

// Parsing.

type reKind uint8

const (
	reEmpty reKind = iota
	reSet
	reCat
	reAlt
	reRepeat
	reLook
	reAtomic
	reAssert
)

type reNode struct {
	kind       reKind
	set        *runeSet
	list       []*reNode
	min, max   int
	lazy       bool
	possessive bool
	neg        bool
	behind     bool
	assert     byte
}

type reParser struct {
	src  string
	at   int
	fold bool
	sets map[string]*runeSet // by their source: what is written twice is one set
}

var errPatternEnd = errors.New("ends too early")

func (p *reParser) more() bool { return p.at < len(p.src) }

func (p *reParser) eat(s string) bool {
	if strings.HasPrefix(p.src[p.at:], s) {
		p.at += len(s)
		return true
	}
	return false
}

func (p *reParser) rune() (rune, error) {
	if !p.more() {
		return 0, errPatternEnd
	}
	r, n := utf8.DecodeRuneInString(p.src[p.at:])
	p.at += n
	return r, nil
}

func (p *reParser) alternatives(depth int) (*reNode, error) {
	if depth > maxNesting {
		return nil, errors.New("groups nest too deeply")
	}
	fold := p.fold
	defer func() { p.fold = fold }()
	var alts []*reNode
	for {
		cat := &reNode{kind: reCat}
		for p.more() && p.src[p.at] != '|' && p.src[p.at] != ')' {
			n, err := p.term(depth)
			if err != nil {
				return nil, err
			}
			if n != nil {
				cat.list = append(cat.list, n)
			}
		}
		alts = append(alts, cat)
		if !p.eat("|") {
			break
		}
	}
	if len(alts) == 1 {
		return alts[0], nil
	}
	return &reNode{kind: reAlt, list: alts}, nil
}

// term reads one atom and its quantifiers.
func (p *reParser) term(depth int) (*reNode, error) {
	n, err := p.atom(depth)
	if err != nil || n == nil {
		return nil, err
	}
	for p.more() {
		lo, hi := 0, unlimited
		interval := false
		switch {
		case p.eat("*"):
		case p.eat("+"):
			lo = 1
		case p.eat("?"):
			hi = 1
		default:
			var ok bool
			if lo, hi, ok, err = p.interval(); err != nil {
				return nil, err
			} else if !ok {
				return n, nil
			}
			interval = true
		}
		q := &reNode{kind: reRepeat, list: []*reNode{n}, min: lo, max: hi}
		if p.eat("?") {
			q.lazy = true
		} else if !interval && p.eat("+") {
			q.possessive = true
		}
		n = q
	}
	return n, nil
}

// interval reads {n}, {n,}, {n,m} or {,m}; other text in braces is literal.
func (p *reParser) interval() (lo, hi int, ok bool, err error) {
	rest := p.src[p.at:]
	if !strings.HasPrefix(rest, "{") {
		return 0, 0, false, nil
	}
	end := strings.IndexByte(rest, '}')
	if end < 0 {
		return 0, 0, false, nil
	}
	a, b, comma := strings.Cut(rest[1:end], ",")
	if a == "" && b == "" {
		return 0, 0, false, nil
	}
	hi = unlimited
	if a != "" {
		if lo, err = strconv.Atoi(a); err != nil {
			return 0, 0, false, nil
		}
	}
	if !comma {
		hi = lo
	} else if b != "" {
		if hi, err = strconv.Atoi(b); err != nil {
			return 0, 0, false, nil
		}
	}
	if lo > maxRepeat || hi != unlimited && hi > maxRepeat || lo > hi {
		return 0, 0, false, fmt.Errorf("repeat count %s", rest[:end+1])
	}
	p.at += end + 1
	return lo, hi, true, nil
}

func (p *reParser) atom(depth int) (*reNode, error) {
	from := p.at
	r, err := p.rune()
	if err != nil {
		return nil, err
	}
	switch r {
	case '(':
		return p.group(depth)
	case '[':
		in, err := p.class(depth)
		if err != nil {
			return nil, err
		}
		return p.setNode(from, in), nil
	case '.':
		return p.setNode(from, func(r rune) bool { return r != '\n' }), nil
	case '^', '$':
		return &reNode{kind: reAssert, assert: byte(r)}, nil
	case '*', '+', '?':
		return nil, fmt.Errorf("nothing to repeat at byte %d", p.at-1)
	case '\\':
		if p.more() {
			switch c := p.src[p.at]; c {
			case 'A', 'z', 'Z', 'b', 'B':
				p.at++
				return &reNode{kind: reAssert, assert: c}, nil
			}
			if c := p.src[p.at]; c >= '1' && c <= '9' {
				return nil, errors.New("back reference")
			}
		}
		in, lit, err := p.escape()
		if err != nil {
			return nil, err
		}
		if in == nil {
			in = p.char(lit)
		}
		return p.setNode(from, in), nil
	}
	return p.setNode(from, p.char(r)), nil
}

// setNode is the set that the source from there on stands for.
func (p *reParser) setNode(from int, in func(rune) bool) *reNode {
	key := p.src[from:p.at]
	if p.fold {
		key = "(?i)" + key
	}
	set := p.sets[key]
	if set == nil {
		set = newRuneSet(in)
		p.sets[key] = set
	}
	return &reNode{kind: reSet, set: set}
}

// char is the set of r and, when case is folded, its other cases.
func (p *reParser) char(r rune) func(rune) bool {
	return p.folded(func(c rune) bool { return c == r })
}

func (p *reParser) folded(in func(rune) bool) func(rune) bool {
	if !p.fold {
		return in
	}
	return func(r rune) bool {
		if in(r) {
			return true
		}
		for c := unicode.SimpleFold(r); c != r; c = unicode.SimpleFold(c) {
			if in(c) {
				return true
			}
		}
		return false
	}
}

func (p *reParser) group(depth int) (*reNode, error) {
	n := &reNode{}
	switch {
	case p.eat("?:"), p.eat("?>"):
		if p.src[p.at-1] == '>' {
			n.kind = reAtomic
		}
	case p.eat("?="):
		n.kind = reLook
	case p.eat("?!"):
		n.kind, n.neg = reLook, true
	case p.eat("?<="):
		n.kind, n.behind = reLook, true
	case p.eat("?<!"):
		n.kind, n.behind, n.neg = reLook, true, true
	case p.eat("?#"):
		end := strings.IndexByte(p.src[p.at:], ')')
		if end < 0 {
			return nil, errPatternEnd
		}
		p.at += end + 1
		return nil, nil
	case p.eat("?<"), p.eat("?P<"):
		end := strings.IndexByte(p.src[p.at:], '>')
		if end < 0 {
			return nil, errPatternEnd
		}
		p.at += end + 1
	case p.eat("?"):
		on := true
		fold := p.fold
		for {
			r, err := p.rune()
			if err != nil {
				return nil, err
			}
			if r == '-' {
				on = false
				continue
			}
			if r == 'i' {
				fold = on
				continue
			}
			if r == ')' { // for the rest of the enclosing group
				p.fold = fold
				return nil, nil
			}
			if r == ':' {
				break
			}
			return nil, fmt.Errorf("option %q", r)
		}
		outer := p.fold
		p.fold = fold
		body, err := p.alternatives(depth + 1)
		p.fold = outer
		if err != nil {
			return nil, err
		}
		if !p.eat(")") {
			return nil, errPatternEnd
		}
		return body, nil
	}
	body, err := p.alternatives(depth + 1)
	if err != nil {
		return nil, err
	}
	if !p.eat(")") {
		return nil, errPatternEnd
	}
	if n.kind == reEmpty {
		return body, nil
	}
	n.list = []*reNode{body}
	return n, nil
}

// escape reads what follows a backslash: a class, or a character.
func (p *reParser) escape() (in func(rune) bool, lit rune, err error) {
	r, err := p.rune()
	if err != nil {
		return nil, 0, err
	}
	not := func(f func(rune) bool) func(rune) bool { return func(r rune) bool { return !f(r) } }
	switch r {
	case 's':
		return isSpace, 0, nil
	case 'S':
		return not(isSpace), 0, nil
	case 'd':
		return inAny(digits...), 0, nil
	case 'D':
		return not(inAny(digits...)), 0, nil
	case 'w':
		return onigWord, 0, nil
	case 'W':
		return not(onigWord), 0, nil
	case 'h':
		return isHex, 0, nil
	case 'H':
		return not(isHex), 0, nil
	case 'p', 'P':
		name := ""
		if p.eat("{") {
			end := strings.IndexByte(p.src[p.at:], '}')
			if end < 0 {
				return nil, 0, errPatternEnd
			}
			name = p.src[p.at : p.at+end]
			p.at += end + 1
		} else if c, err := p.rune(); err == nil {
			name = string(c)
		}
		neg := r == 'P'
		if strings.HasPrefix(name, "^") {
			neg, name = !neg, name[1:]
		}
		f := property(name)
		if f == nil {
			return nil, 0, fmt.Errorf("unknown property %q", name)
		}
		f = p.folded(f)
		if neg {
			f = not(f)
		}
		return f, 0, nil
	case 'n':
		return nil, '\n', nil
	case 'r':
		return nil, '\r', nil
	case 't':
		return nil, '\t', nil
	case 'f':
		return nil, '\f', nil
	case 'v':
		return nil, '\v', nil
	case 'a':
		return nil, '\a', nil
	case 'e':
		return nil, 0x1B, nil
	case '0':
		return nil, 0, nil
	case 'x', 'u':
		var hex string
		switch {
		case p.eat("{"):
			end := strings.IndexByte(p.src[p.at:], '}')
			if end < 0 {
				return nil, 0, errPatternEnd
			}
			hex = p.src[p.at : p.at+end]
			p.at += end + 1
		case r == 'u' && p.at+4 <= len(p.src):
			hex = p.src[p.at : p.at+4]
			p.at += 4
		case r == 'x' && p.at+2 <= len(p.src):
			hex = p.src[p.at : p.at+2]
			p.at += 2
		}
		v, err := strconv.ParseUint(hex, 16, 21)
		if err != nil {
			return nil, 0, fmt.Errorf("code point %q", hex)
		}
		return nil, rune(v), nil
	}
	if r < utf8.RuneSelf && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z') {
		return nil, 0, fmt.Errorf(`escape \%c`, r)
	}
	return nil, r, nil
}

// class reads a bracket expression after its [.
func (p *reParser) class(depth int) (func(rune) bool, error) {
	if depth > maxNesting {
		return nil, errors.New("classes nest too deeply")
	}
	neg := p.eat("^")
	var parts []func(rune) bool // joined by or
	var both []func(rune) bool  // joined by and
	or := func(list []func(rune) bool) func(rune) bool {
		return func(r rune) bool {
			for _, f := range list {
				if f(r) {
					return true
				}
			}
			return false
		}
	}
	for first := true; ; first = false {
		if p.eat("&&") {
			both = append(both, or(parts))
			parts = nil
			continue
		}
		if p.eat("[:") {
			end := strings.Index(p.src[p.at:], ":]")
			if end < 0 {
				return nil, errPatternEnd
			}
			name := p.src[p.at : p.at+end]
			p.at += end + 2
			not := strings.HasPrefix(name, "^")
			f := property(strings.TrimPrefix(name, "^"))
			if f == nil {
				return nil, fmt.Errorf("unknown class [:%s:]", name)
			}
			parts = append(parts, func(r rune) bool { return f(r) != not })
			continue
		}
		r, err := p.rune()
		if err != nil {
			return nil, err
		}
		if r == ']' && !first {
			break
		}
		if r == '[' {
			in, err := p.class(depth + 1)
			if err != nil {
				return nil, err
			}
			parts = append(parts, in)
			continue
		}
		if r == '\\' {
			if p.eat("b") {
				r = '\b'
			} else {
				in, lit, err := p.escape()
				if err != nil {
					return nil, err
				}
				if in != nil {
					parts = append(parts, in)
					continue
				}
				r = lit
			}
		}
		hi := r
		if rest := p.src[p.at:]; len(rest) > 1 && rest[0] == '-' && rest[1] != ']' {
			p.at++
			if hi, err = p.rune(); err != nil {
				return nil, err
			}
			if hi == '\\' {
				in, lit, err := p.escape()
				if err != nil {
					return nil, err
				}
				if in != nil {
					return nil, errors.New("range that ends in a class")
				}
				hi = lit
			}
			if hi < r {
				return nil, fmt.Errorf("range %q-%q", r, hi)
			}
		}
		lo := r
		parts = append(parts, p.folded(func(r rune) bool { return r >= lo && r <= hi }))
	}
	both = append(both, or(parts))
	return func(r rune) bool {
		in := true
		for _, f := range both {
			in = in && f(r)
		}
		return in != neg
	}, nil
}

func isSpace(r rune) bool { return unicode.Is(unicode.White_Space, r) }

func isHex(r rune) bool {
	return r >= '0' && r <= '9' || r >= 'a' && r <= 'f' || r >= 'A' && r <= 'F'
}

// property returns the set that a name in \p{…} stands for: a general category, script or
// property of Unicode, or a POSIX class.
func property(name string) func(rune) bool {
	key := func(s string) string {
		return strings.ToLower(strings.NewReplacer("_", "", " ", "", "-", "").Replace(s))
	}
	k := key(name)
	switch k {
	case "l", "letter":
		return classed(isL)
	case "n", "number":
		return classed(isN)
	case "m", "mark":
		return classed(isM)
	case "alpha", "alphabetic":
		return inAny(append(newer("L"), unicode.L, unicode.Nl, unicode.Other_Alphabetic)...)
	case "alnum":
		return inAny(slices.Concat(letters, digits, []*unicode.RangeTable{unicode.Nl, unicode.Other_Alphabetic})...)
	case "digit":
		return inAny(digits...)
	case "space", "whitespace":
		return isSpace
	case "upper", "uppercase":
		return inAny(append(newer("Lu"), unicode.Lu, unicode.Other_Uppercase)...)
	case "lower", "lowercase":
		return inAny(append(newer("Ll"), unicode.Ll, unicode.Other_Lowercase)...)
	case "punct": // in Oniguruma, unlike \p{P}, with symbols
		return inAny(slices.Concat(puncts, symbols)...)
	case "p", "punctuation":
		return inAny(puncts...)
	case "s", "symbol":
		return inAny(symbols...)
	case "separator":
		return func(r rune) bool { return unicode.Is(unicode.Z, r) }
	case "cntrl":
		return unicode.IsControl
	case "word":
		return onigWord
	case "rustword":
		return isWord
	case "xdigit":
		return isHex
	case "any":
		return func(rune) bool { return true }
	case "ascii":
		return func(r rune) bool { return r < utf8.RuneSelf }
	}
	k = strings.TrimPrefix(k, "is")
	for _, tables := range []map[string]*unicode.RangeTable{unicode.Categories, unicode.Scripts, unicode.Properties} {
		for have, t := range tables {
			if key(have) == k {
				return inAny(append(newer(have), t)...)
			}
		}
	}
	return nil
}

func classed(bit uint8) func(rune) bool {
	return func(r rune) bool {
		if r < pageClassLen {
			return pageClass()[r]&bit != 0
		}
		return slowClass(r)&bit != 0
	}
}

// Compiling.

type reCompiler struct {
	p    *pattern
	size int
}

func (c *reCompiler) program(n *reNode) ([]inst, error) {
	prog, err := c.compile(nil, n)
	if err != nil {
		return nil, err
	}
	return append(prog, inst{op: opMatch}), nil
}

func (c *reCompiler) compile(prog []inst, n *reNode) ([]inst, error) {
	if c.size++; c.size > maxProgram || len(prog) > maxProgram {
		return nil, errors.New("too large")
	}
	var err error
	switch n.kind {
	case reSet:
		prog = append(prog, inst{op: opSet, set: n.set})
	case reCat:
		for _, sub := range n.list {
			if prog, err = c.compile(prog, sub); err != nil {
				return nil, err
			}
		}
	case reAlt:
		var jumps []int
		for i, sub := range n.list {
			split := len(prog)
			if i < len(n.list)-1 {
				prog = append(prog, inst{op: opSplit, x: split + 1})
			}
			if prog, err = c.compile(prog, sub); err != nil {
				return nil, err
			}
			if i < len(n.list)-1 {
				jumps = append(jumps, len(prog))
				prog = append(prog, inst{op: opJump})
				prog[split].y = len(prog)
			}
		}
		for _, j := range jumps {
			prog[j].x = len(prog)
		}
	case reRepeat:
		return c.repeat(prog, n)
	case reLook, reAtomic:
		in := inst{op: opAtomic, neg: n.neg, behind: n.behind}
		if n.kind == reLook {
			in.op = opLook
			if n.behind {
				w, ok := width(n.list[0])
				if !ok || w > maxLookBack {
					return nil, errors.New("look-behind of varying length")
				}
				in.y = w
			}
		}
		sub, err := c.program(n.list[0])
		if err != nil {
			return nil, err
		}
		in.x = len(c.p.subs)
		c.p.subs = append(c.p.subs, sub)
		prog = append(prog, in)
	case reAssert:
		prog = append(prog, inst{op: opAssert, x: int(n.assert)})
	}
	return prog, nil
}

func (c *reCompiler) repeat(prog []inst, n *reNode) ([]inst, error) {
	body := n.list[0]
	for body.kind == reCat && len(body.list) == 1 {
		body = body.list[0]
	}
	if body.kind == reSet {
		return append(prog, inst{op: opLoop, set: body.set, min: n.min, max: n.max, lazy: n.lazy, atomic: n.possessive}), nil
	}
	if n.possessive {
		plain := *n
		plain.possessive = false
		return c.compile(prog, &reNode{kind: reAtomic, list: []*reNode{&plain}})
	}
	var err error
	for range n.min {
		if prog, err = c.compile(prog, body); err != nil {
			return nil, err
		}
	}
	split := func(at int) {
		if n.lazy {
			prog[at] = inst{op: opSplit, x: len(prog), y: at + 1}
		} else {
			prog[at] = inst{op: opSplit, x: at + 1, y: len(prog)}
		}
	}
	if n.max == unlimited {
		at := len(prog)
		prog = append(prog, inst{})
		if prog, err = c.compile(prog, body); err != nil {
			return nil, err
		}
		prog = append(prog, inst{op: opJump, x: at})
		split(at)
		return prog, nil
	}
	var at []int
	for range n.max - n.min {
		at = append(at, len(prog))
		prog = append(prog, inst{})
		if prog, err = c.compile(prog, body); err != nil {
			return nil, err
		}
	}
	for _, a := range at {
		split(a)
	}
	return prog, nil
}

// width is the number of characters that n matches, when that is always the same.
func width(n *reNode) (int, bool) {
	switch n.kind {
	case reSet:
		return 1, true
	case reCat:
		sum := 0
		for _, sub := range n.list {
			w, ok := width(sub)
			if !ok {
				return 0, false
			}
			sum += w
		}
		return sum, true
	case reAlt:
		w, ok := width(n.list[0])
		for _, sub := range n.list[1:] {
			w2, ok2 := width(sub)
			ok = ok && ok2 && w == w2
		}
		return w, ok
	case reRepeat:
		w, ok := width(n.list[0])
		return w * n.min, ok && n.min == n.max
	case reAtomic:
		return width(n.list[0])
	}
	return 0, true
}
