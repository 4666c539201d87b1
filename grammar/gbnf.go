package grammar

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// GBNF compiles a grammar in the notation of llama.cpp; the rule named root is the whole text.
//
//	root  ::= "yes" | "no" | list
//	list  ::= item ("," item)*       # ( ) groups; * + ? {2} {2,} {2,5} repeat
//	item  ::= [a-z0-9_]+ | [^\n"]    # a set of characters, or all but those; . is any
//	think ::= <[10]> !<[11]>* <[11]> # tokens by number, <name> by text; with ! any that adds text but this
//
// Escapes: \n \r \t \\ \" \[ \] \- \^ \xNN \uNNNN \UNNNNNNNN. A rule must not refer to itself before it
// reads something.
func GBNF(v *Vocab, src string) (*Grammar, error) {
	p := &gbnf{src: src, b: &builder{v: v}, rules: map[string]int32{}, defined: map[string]bool{}}
	p.rule("root")
	for p.space(true); p.at < len(p.src) && p.b.err == nil; p.space(true) {
		p.definition()
	}
	if p.b.err == nil {
		for name := range p.rules {
			if !p.defined[name] {
				p.fail("rule %q is not defined", name)
			}
		}
	}
	return compile(v, p.b)
}

type gbnf struct {
	src     string
	at      int
	depth   int
	b       *builder
	rules   map[string]int32
	defined map[string]bool
}

func (p *gbnf) fail(format string, a ...any) frag {
	line := 1 + strings.Count(p.src[:min(p.at, len(p.src))], "\n")
	return p.b.fail("line %d: "+format, append([]any{line}, a...)...)
}

func (p *gbnf) peek() byte {
	if p.at < len(p.src) && p.b.err == nil {
		return p.src[p.at]
	}
	return 0
}

func (p *gbnf) take(s string) bool {
	if strings.HasPrefix(p.src[p.at:], s) {
		p.at += len(s)
		return true
	}
	return false
}

// space skips blanks and comments, and with lines also line ends.
func (p *gbnf) space(lines bool) {
	for p.at < len(p.src) {
		switch c := p.src[p.at]; {
		case c == ' ' || c == '\t' || lines && (c == '\n' || c == '\r'):
			p.at++
		case c == '#':
			for p.at < len(p.src) && p.src[p.at] != '\n' {
				p.at++
			}
		default:
			return
		}
	}
}

func nameByte(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' || c == '_'
}

func (p *gbnf) name() string {
	from := p.at
	for p.at < len(p.src) && nameByte(p.src[p.at]) {
		p.at++
	}
	return p.src[from:p.at]
}

func (p *gbnf) rule(name string) int32 {
	r, ok := p.rules[name]
	if !ok {
		r = p.b.addRule(name)
		p.rules[name] = r
	}
	return r
}

func (p *gbnf) definition() {
	name := p.name()
	if name == "" {
		p.fail("expected a rule's name, found %q", p.src[p.at])
		return
	}
	p.space(false)
	if !p.take("::=") {
		p.fail("expected ::= after %q", name)
		return
	}
	if p.defined[name] {
		p.fail("rule %q is defined twice", name)
		return
	}
	p.defined[name] = true
	r := p.rule(name)
	p.space(true)
	p.b.rules[r] = p.alternatives()
	p.space(false)
	if c := p.peek(); c != 0 && c != '\n' && c != '\r' {
		p.fail("unexpected %q in rule %q", c, name)
	}
}

func (p *gbnf) alternatives() frag {
	p.depth++
	defer func() { p.depth-- }()
	if p.depth > 200 {
		return p.fail("nested more than 200 deep")
	}
	fs := []frag{p.sequence()}
	for p.peek() == '|' {
		p.at++
		p.space(true)
		fs = append(fs, p.sequence())
	}
	if len(fs) == 1 {
		return fs[0]
	}
	return p.b.alt(fs...)
}

func (p *gbnf) sequence() frag {
	f := p.b.empty()
	for p.b.err == nil {
		from := p.at
		item := p.item()
		if item == nil {
			return f
		}
		again := func() frag { // repeats are parsed again: fragments cannot be copied
			at := p.at
			p.at = from
			defer func() { p.at = at }()
			if item := p.item(); item != nil {
				return item()
			}
			return p.b.empty()
		}
		var x frag
		switch p.peek() {
		case '*':
			p.at++
			x = p.b.star(item())
		case '+':
			p.at++
			first := item()
			x = p.b.cat(first, p.b.star(again()))
		case '?':
			p.at++
			x = p.b.opt(item())
		case '{':
			lo, hi := p.counts()
			if p.b.err != nil {
				return f
			}
			end := p.at
			if max(lo, hi) <= 16 {
				x = p.b.repeat(again, lo, hi)
			} else {
				x = p.b.counted(item(), counter{int32(lo), int32(hi)}, p.src[from] == '[' || p.src[from] == '.')
			}
			p.at = end
		default:
			x = item()
		}
		f = p.b.cat(f, x)
		p.space(p.depth > 1)
		// In a rule's own line a line end ends it, unless an alternative follows.
		if at := p.at; p.depth == 1 {
			p.space(true)
			if p.peek() != '|' {
				p.at = at
			}
		}
	}
	return f
}

func (p *gbnf) counts() (lo, hi int) {
	p.at++
	num := func() int {
		p.space(false)
		from := p.at
		for p.at < len(p.src) && p.src[p.at] >= '0' && p.src[p.at] <= '9' {
			p.at++
		}
		n, err := strconv.Atoi(p.src[from:p.at])
		if err != nil || n > maxCount {
			p.fail("a repetition needs a number up to %d", maxCount)
		}
		p.space(false)
		return n
	}
	if p.space(false); p.peek() != ',' {
		lo = num()
	}
	hi = lo
	if p.take(",") {
		hi = -1
		if p.space(false); p.peek() != '}' {
			hi = num()
		}
	}
	if !p.take("}") {
		p.fail("expected } after a repetition")
	}
	if hi >= 0 && hi < lo {
		p.fail("repetition {%d,%d} is backwards", lo, hi)
	}
	return lo, hi
}

// item parses one element and returns what builds it, or nil if there is none.
func (p *gbnf) item() func() frag {
	b := p.b
	switch c := p.peek(); {
	case c == '"':
		p.at++
		var s []byte
		for p.peek() != '"' {
			r, ok := p.char()
			if !ok {
				return b.empty
			}
			s = utf8.AppendRune(s, r)
		}
		p.at++
		return func() frag { return b.lit(string(s)) }
	case c == '[':
		p.at++
		set := p.set()
		return func() frag { return b.runes(set) }
	case c == '.':
		p.at++
		return func() frag { return b.runes([]runeRange{{0, utf8.MaxRune}}) }
	case c == '(':
		p.at++
		p.space(true)
		f := p.alternatives()
		p.space(true)
		if !p.take(")") {
			p.fail("expected )")
		}
		return func() frag { return f }
	case c == '<', c == '!':
		not := p.take("!")
		id, ok := p.token()
		if !ok {
			return b.empty
		}
		return func() frag { return b.token([]int32{id}, not) }
	case nameByte(c):
		at := p.at
		name := p.name()
		end := p.at
		p.space(false)
		if p.take("::=") { // the next rule
			p.at = at
			return nil
		}
		p.at = end
		r := p.rule(name)
		return func() frag { return b.call(r) }
	}
	return nil
}

// token parses <[number]> or <name>.
func (p *gbnf) token() (int32, bool) {
	v := p.b.v
	end := strings.IndexByte(p.src[p.at:], '>')
	if p.peek() != '<' || end < 0 {
		p.fail("a token is written <[number]> or <name>")
		return 0, false
	}
	name := p.src[p.at : p.at+end+1]
	p.at += end + 1
	id := int32(-1)
	if n, ok := strings.CutPrefix(name, "<["); ok {
		i, err := strconv.Atoi(strings.TrimSuffix(n, "]>"))
		if err != nil || !strings.HasSuffix(n, "]>") || i < 0 || i >= v.size {
			p.fail("%s is not one of the vocabulary's %d tokens", name, v.size)
			return 0, false
		}
		id = int32(i)
	} else {
		ok := false
		if v.Named != nil {
			id, ok = v.Named(name)
		}
		for i := int32(0); !ok && i < int32(v.size); i++ {
			if string(v.token[i]) == name {
				id, ok = i, true
			}
		}
		if !ok || id < 0 || int(id) >= v.size {
			p.fail("the vocabulary has no token %s", name)
			return 0, false
		}
	}
	if v.stops[id/64]>>(id%64)&1 == 1 {
		p.fail("%s ends a text: it comes by itself where the grammar ends", name)
		return 0, false
	}
	return id, true
}

// set parses the rest of a [set].
func (p *gbnf) set() []runeRange {
	negated := p.take("^")
	var in []runeRange
	for p.peek() != ']' {
		lo, ok := p.char()
		if !ok {
			return nil
		}
		hi := lo
		if p.peek() == '-' && p.at+1 < len(p.src) && p.src[p.at+1] != ']' {
			p.at++
			if hi, ok = p.char(); !ok {
				return nil
			}
		}
		if hi < lo {
			p.fail("range %q-%q is backwards", lo, hi)
		}
		in = append(in, runeRange{lo, hi})
	}
	p.at++
	if !negated {
		return in
	}
	return complement(in)
}

// complement is every character that is not in rs.
func complement(rs []runeRange) []runeRange {
	out := []runeRange{{0, utf8.MaxRune}}
	for _, r := range rs {
		var next []runeRange
		for _, o := range out {
			if o.lo < r.lo {
				next = append(next, runeRange{o.lo, min(o.hi, r.lo-1)})
			}
			if o.hi > r.hi {
				next = append(next, runeRange{max(o.lo, r.hi+1), o.hi})
			}
		}
		out = next
	}
	return out
}

// char reads one character or escape.
func (p *gbnf) char() (rune, bool) {
	if p.at >= len(p.src) || p.b.err != nil || p.src[p.at] == '\n' {
		p.fail("a string or set does not end")
		return 0, false
	}
	r, n := utf8.DecodeRuneInString(p.src[p.at:])
	if r == utf8.RuneError && n <= 1 {
		p.fail("not UTF-8")
		return 0, false
	}
	p.at += n
	if r != '\\' {
		return r, true
	}
	if p.at >= len(p.src) {
		p.fail("a string or set does not end")
		return 0, false
	}
	c := p.src[p.at]
	p.at++
	digits := 0
	switch c {
	case 'n':
		return '\n', true
	case 'r':
		return '\r', true
	case 't':
		return '\t', true
	case '\\', '"', '[', ']', '-', '^':
		return rune(c), true
	case 'x':
		digits = 2
	case 'u':
		digits = 4
	case 'U':
		digits = 8
	default:
		p.fail("unknown escape \\%c", c)
		return 0, false
	}
	if p.at+digits > len(p.src) {
		p.fail("\\%c needs %d hexadecimal digits", c, digits)
		return 0, false
	}
	u, err := strconv.ParseUint(p.src[p.at:p.at+digits], 16, 32)
	if err != nil || !utf8.ValidRune(rune(u)) {
		p.fail("\\%c%s is not a character", c, p.src[p.at:p.at+digits])
		return 0, false
	}
	p.at += digits
	return rune(u), true
}
