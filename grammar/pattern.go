package grammar

import (
	"fmt"
	"regexp"
	"regexp/syntax"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// expression is a pattern of JSON schema, ECMA-262's syntax, in Go's.
type expression struct {
	expr  string
	ahead []lookahead // at the beginning of the text
	err   error
}

type lookahead struct {
	expr string
	not  bool
}

// What \s, \w and \d mean differs: in ECMA-262 \s has Unicode's spaces, in Python's validators \w and \d have all of
// Unicode's letters and digits. A class is written with what all agree on, and its opposite without what any has.
var (
	spaceAll = ranged(unicode.White_Space, &unicode.RangeTable{R16: []unicode.Range16{{0x1c, 0x1f, 1}, {0x85, 0x85, 1}, {0x200b, 0x200b, 1}, {0xfeff, 0xfeff, 1}}})
	wordAll  = ranged(unicode.L, unicode.N, unicode.M, unicode.Pc)
	digitAll = ranged(unicode.Nd, unicode.Nl, unicode.No)
	classes  = map[byte]struct{ least, most []runeRange }{
		's': {[]runeRange{{'\t', '\n'}, {'\f', '\r'}, {' ', ' '}}, spaceAll},
		'w': {[]runeRange{{'0', '9'}, {'A', 'Z'}, {'_', '_'}, {'a', 'z'}}, wordAll},
		'd': {[]runeRange{{'0', '9'}}, digitAll},
	}
)

func ranged(tables ...*unicode.RangeTable) []runeRange {
	var out []runeRange
	for _, t := range tables {
		for _, r := range t.R16 {
			for c := rune(r.Lo); c <= rune(r.Hi); c += rune(r.Stride) {
				hi := c
				if r.Stride == 1 {
					hi = rune(r.Hi)
				}
				out = append(out, runeRange{c, hi})
				c = max(c, hi)
			}
		}
		for _, r := range t.R32 {
			for c := rune(r.Lo); c <= rune(r.Hi); c += rune(r.Stride) {
				hi := c
				if r.Stride == 1 {
					hi = rune(r.Hi)
				}
				out = append(out, runeRange{c, hi})
				c = max(c, hi)
			}
		}
	}
	return out
}

// escaped spells ranges for the inside of [ ].
func escaped(rs []runeRange) string {
	var b strings.Builder
	for _, r := range rs {
		fmt.Fprintf(&b, `\x{%x}-\x{%x}`, r.lo, r.hi)
	}
	return b.String()
}

// classRanges spells \s, \S and so on for the inside of [ ]; with negated the set around it is turned round.
func classRanges(c byte, negated bool) string {
	x := classes[c|0x20]
	upper := c < 'a'
	switch {
	case !upper && !negated:
		return escaped(x.least)
	case !upper:
		return escaped(x.most)
	case !negated:
		return escaped(complement(x.most))
	}
	return escaped(complement(x.least))
}

// translate turns a pattern into Go's syntax. A repetition of more than 100 becomes a group named Rmin_max.
// With most, its classes are as large as any reads them, for expressions that must not match.
func translate(src string, most bool) expression {
	t := translator{src: src, most: most}
	var x expression
	// Lookaheads at the beginning: what follows ^ must, or must not, also match them.
	t.at = strings.IndexFunc(src+".", func(r rune) bool { return r != '^' })
	anchor := src[:t.at]
	for anchor != "" && t.err == nil {
		not := strings.HasPrefix(src[t.at:], "(?!")
		if !not && !strings.HasPrefix(src[t.at:], "(?=") {
			break
		}
		t.at += 3
		t.most = most != not
		x.ahead = append(x.ahead, lookahead{`\A(?:` + t.alternatives() + ")", not})
		t.most = most
		if t.at >= len(src) || src[t.at] != ')' {
			t.fail("missing closing )")
			break
		}
		t.at++
	}
	if len(x.ahead) > 0 && strings.ContainsRune(topLevel(src[t.at:]), '|') {
		t.fail("a lookahead before alternatives: put them in a group")
	}
	if anchor != "" {
		anchor = `\A`
	}
	x.expr = anchor + t.alternatives()
	if t.at < len(src) {
		t.fail("unexpected )")
	}
	x.err = t.err
	return x
}

// topLevel is s without what is in groups and sets.
func topLevel(s string) string {
	var b strings.Builder
	depth, set := 0, false
	for i := 0; i < len(s); i++ {
		switch c := s[i]; {
		case c == '\\':
			i++
		case set:
			set = c != ']'
		case c == '[':
			set = true
		case c == '(':
			depth++
		case c == ')':
			depth--
		case depth == 0:
			b.WriteByte(c)
		}
	}
	return b.String()
}

type translator struct {
	src   string
	at    int
	err   error
	depth int
	most  bool
}

func (t *translator) fail(format string, a ...any) {
	if t.err == nil {
		t.err = fmt.Errorf(format, a...)
	}
	t.at = len(t.src)
}

func (t *translator) peek() byte {
	if t.at < len(t.src) {
		return t.src[t.at]
	}
	return 0
}

func (t *translator) alternatives() string {
	var b strings.Builder
	if t.depth++; t.depth > 100 {
		t.fail("nested more than 100 deep")
	}
	defer func() { t.depth-- }()
	for t.at < len(t.src) && t.src[t.at] != ')' {
		if t.src[t.at] == '|' {
			t.at++
			b.WriteByte('|')
			continue
		}
		b.WriteString(t.quantified(t.atom()))
	}
	return b.String()
}

func (t *translator) atom() string {
	c := t.src[t.at]
	switch c {
	case '(':
		rest := t.src[t.at:]
		open := "(?:"
		switch {
		case strings.HasPrefix(rest, "(?:"):
			t.at += 3
		case strings.HasPrefix(rest, "(?="), strings.HasPrefix(rest, "(?!"), strings.HasPrefix(rest, "(?<="), strings.HasPrefix(rest, "(?<!"):
			t.fail("a lookahead or lookbehind inside an expression is not supported: put it at the beginning, after ^")
			return ""
		case strings.HasPrefix(rest, "(?<"), strings.HasPrefix(rest, "(?P<"):
			end := strings.IndexByte(rest, '>')
			if end < 0 {
				t.fail("a group's name does not end")
				return ""
			}
			t.at += end + 1
		case strings.HasPrefix(rest, "(?"):
			end := strings.IndexAny(rest, ":)")
			if end < 0 {
				t.fail("missing closing )")
				return ""
			}
			open = rest[:end+1]
			t.at += end + 1
			if rest[end] == ')' {
				return open
			}
		default:
			t.at++
		}
		in := t.alternatives()
		if t.peek() != ')' {
			t.fail("missing closing )")
			return ""
		}
		t.at++
		return open + in + ")"
	case '[':
		return t.set()
	case '\\':
		return t.escape(false, false)
	case '^':
		t.at++
		return `\A`
	case '$':
		t.at++
		return `\z`
	case '.':
		t.at++
		return `[^\n\r\x{2028}\x{2029}]`
	case '{', '}', ']', '*', '+', '?':
		if _, _, ok := t.bounds(); c == '*' || c == '+' || c == '?' || ok {
			t.fail("a repetition of nothing")
			return ""
		}
		t.at++
		return `\` + string(c)
	}
	_, n := utf8.DecodeRuneInString(t.src[t.at:])
	t.at += n
	return t.src[t.at-n : t.at]
}

// bounds reads {m,n} at the present place without moving past it; ok if it is one.
func (t *translator) bounds() (lo, hi int, ok bool) {
	end := strings.IndexByte(t.src[t.at:], '}')
	if end < 0 || t.src[t.at] != '{' {
		return 0, 0, false
	}
	a, b, two := strings.Cut(t.src[t.at+1:t.at+end], ",")
	lo, err := strconv.Atoi(a)
	if err != nil || lo < 0 {
		return 0, 0, false
	}
	hi = lo
	if two {
		hi = -1
		if b != "" {
			if hi, err = strconv.Atoi(b); err != nil || hi < lo {
				return 0, 0, false
			}
		}
	}
	return lo, hi, true
}

func (t *translator) quantified(atom string) string {
	for t.err == nil && t.at < len(t.src) {
		q := ""
		switch c := t.src[t.at]; c {
		case '*', '+', '?':
			q = string(c)
			t.at++
		case '{':
			lo, hi, ok := t.bounds()
			if !ok {
				return atom
			}
			end := strings.IndexByte(t.src[t.at:], '}')
			t.at += end + 1
			if lo > maxCount || hi > maxCount {
				t.fail("a repetition of more than %d", maxCount)
			}
			if lo > 100 || hi > 100 {
				atom = fmt.Sprintf("(?P<R%d_%d>%s)", lo, max(hi, 0), atom)
				if hi < 0 {
					atom = fmt.Sprintf("(?P<R%d_>%s)", lo, atom)
				}
			} else {
				q = t.src[t.at-end-1 : t.at]
			}
		default:
			return atom
		}
		if t.peek() == '?' { // lazy: the same language
			t.at++
		}
		if q != "" {
			atom = "(?:" + atom + ")" + q
		}
	}
	return atom
}

// set translates [ ].
func (t *translator) set() string {
	t.at++
	negated := t.peek() == '^'
	if negated {
		t.at++
	}
	var b strings.Builder
	for t.peek() != ']' || t.at >= len(t.src) {
		if t.at >= len(t.src) {
			t.fail("missing closing ]")
			return ""
		}
		switch c := t.src[t.at]; c {
		case '\\':
			b.WriteString(t.escape(true, negated))
		case '[', '&', '~':
			b.WriteString(`\` + string(c))
			t.at++
		case '-':
			// A hyphen first, last, or next to a class is itself.
			next := byte(0)
			if t.at+1 < len(t.src) {
				next = t.src[t.at+1]
			}
			after := next == '\\' && t.at+2 < len(t.src) && strings.IndexByte("sSdDwW", t.src[t.at+2]) >= 0
			before := t.at >= 2 && t.src[t.at-2] == '\\' && strings.IndexByte("sSdDwW", t.src[t.at-1]) >= 0
			if b.Len() == 0 || next == ']' || after || before {
				b.WriteString(`\-`)
			} else {
				b.WriteByte('-')
			}
			t.at++
		default:
			_, n := utf8.DecodeRuneInString(t.src[t.at:])
			b.WriteString(t.src[t.at : t.at+n])
			t.at += n
		}
	}
	t.at++
	switch {
	case b.Len() == 0 && negated:
		return `[\x{0}-\x{10ffff}]`
	case b.Len() == 0:
		return `[^\x{0}-\x{10ffff}]`
	case negated:
		return "[^" + b.String() + "]"
	}
	return "[" + b.String() + "]"
}

// escape translates one that begins with a backslash.
func (t *translator) escape(inSet, negated bool) string {
	t.at++
	if t.at >= len(t.src) {
		t.fail("ends in a backslash")
		return ""
	}
	c := t.src[t.at]
	t.at++
	hex := func(n int) string {
		if t.at+n > len(t.src) {
			t.fail(`\%c needs %d hexadecimal digits`, c, n)
			return ""
		}
		d := t.src[t.at : t.at+n]
		u, err := strconv.ParseUint(d, 16, 32)
		if err != nil {
			t.fail(`\%c needs %d hexadecimal digits`, c, n)
			return ""
		}
		t.at += n
		if u >= 0xd800 && u < 0xe000 {
			t.fail(`\%c%s is half a character`, c, d)
		}
		return fmt.Sprintf(`\x{%x}`, u)
	}
	switch c {
	case 's', 'S', 'w', 'W', 'd', 'D':
		if in := classRanges(c, negated != t.most); inSet {
			return in
		}
		return "[" + classRanges(c, t.most) + "]"
	case 'n', 'r', 't', 'f', 'v':
		return `\` + string(c)
	case '0':
		return `\x{0}`
	case 'x':
		return hex(2)
	case 'u':
		if t.peek() == '{' {
			if end := strings.IndexByte(t.src[t.at:], '}'); end > 1 {
				d := t.src[t.at+1 : t.at+end]
				if u, err := strconv.ParseUint(d, 16, 32); err == nil && u <= unicode.MaxRune {
					t.at += end + 1
					return fmt.Sprintf(`\x{%x}`, u)
				}
			}
		}
		return hex(4)
	case 'p', 'P':
		if t.peek() == '{' {
			if end := strings.IndexByte(t.src[t.at:], '}'); end > 0 {
				name := t.src[t.at : t.at+end+1]
				for _, long := range []string{"Script=", "sc=", "General_Category=", "gc="} {
					name = strings.Replace(name, long, "", 1)
				}
				for long, short := range map[string]string{"{Letter}": "{L}", "{Number}": "{N}", "{Punctuation}": "{P}", "{Symbol}": "{S}", "{Uppercase_Letter}": "{Lu}", "{Lowercase_Letter}": "{Ll}", "{Alphabetic}": "{L}"} {
					if name == long && (c == 'p' || short != "{L}" || long == "{Letter}") {
						name = short
					}
				}
				t.at += end + 1
				return `\` + string(c) + name
			}
		}
		t.fail(`\%c needs a name in braces`, c)
		return ""
	case 'c':
		if l := t.peek() | 0x20; l >= 'a' && l <= 'z' {
			t.at++
			return fmt.Sprintf(`\x{%x}`, l-'a'+1)
		}
		t.fail(`\c needs a letter`)
		return ""
	case 'b':
		if inSet {
			return `\x{8}`
		}
		fallthrough
	case 'B':
		t.fail(`word boundaries (\%c) are not supported`, c)
		return ""
	case 'A', 'z', 'Z':
		if !inSet {
			return map[byte]string{'A': `\A`, 'z': `\z`, 'Z': `\z`}[c]
		}
	}
	if c >= '1' && c <= '9' || c == 'k' {
		t.fail(`references to groups (\%c) are not supported`, c)
		return ""
	}
	if c >= utf8.RuneSelf {
		t.at--
		_, n := utf8.DecodeRuneInString(t.src[t.at:])
		t.at += n
		return t.src[t.at-n : t.at]
	}
	if c < ' ' || c == 0x7f || c|0x20 >= 'a' && c|0x20 <= 'z' || c == '_' {
		return fmt.Sprintf(`\x{%x}`, c)
	}
	return `\` + string(c)
}

// parse reads an expression that translate wrote.
func parsePattern(expr string) (*syntax.Regexp, error) {
	return syntax.Parse(expr, syntax.Perl)
}

// repetition reads the name of a group that stands for a repetition.
func repetition(name string) (c counter, ok bool) {
	a, b, ok := strings.Cut(strings.TrimPrefix(name, "R"), "_")
	if !ok || !strings.HasPrefix(name, "R") {
		return c, false
	}
	lo, err := strconv.Atoi(a)
	hi := -1
	if b != "" && err == nil {
		hi, err = strconv.Atoi(b)
	}
	return counter{int32(lo), int32(hi)}, err == nil
}

// width is how many characters re matches, if that is always the same number.
func width(re *syntax.Regexp) (int32, bool) {
	sum := int32(0)
	switch re.Op {
	case syntax.OpEmptyMatch:
		return 0, true
	case syntax.OpLiteral:
		return int32(len(re.Rune)), true
	case syntax.OpCharClass, syntax.OpAnyChar, syntax.OpAnyCharNotNL:
		return 1, true
	case syntax.OpCapture:
		c, big := repetition(re.Name)
		w, ok := width(re.Sub[0])
		if big {
			return w * c.min, ok && c.min == c.max
		}
		return w, ok
	case syntax.OpRepeat:
		w, ok := width(re.Sub[0])
		return w * int32(re.Min), ok && re.Min == re.Max
	case syntax.OpConcat:
		for _, x := range re.Sub {
			w, ok := width(x)
			if !ok {
				return 0, false
			}
			sum += w
		}
		return sum, true
	case syntax.OpAlternate:
		for i, x := range re.Sub {
			w, ok := width(x)
			if !ok || i > 0 && w != sum {
				return 0, false
			}
			sum = w
		}
		return sum, true
	}
	return 0, false
}

// loosen takes the bounds of the one long repetition out of an expression that matches whole texts, and returns
// what they say of the length of the text. It changes re; not ok if there is no such repetition.
func loosen(re *syntax.Regexp) (c counter, ok bool) {
	parts := []*syntax.Regexp{re}
	if re.Op == syntax.OpConcat {
		parts = re.Sub
	}
	if len(parts) < 3 || parts[0].Op != syntax.OpBeginText || parts[len(parts)-1].Op != syntax.OpEndText {
		return c, false
	}
	var long *syntax.Regexp
	fixed := int32(0)
	for _, x := range parts[1 : len(parts)-1] {
		y := x
		for y.Op == syntax.OpCapture && y.Name == "" {
			y = y.Sub[0]
		}
		if y.Op == syntax.OpCapture {
			if _, big := repetition(y.Name); big && long == nil {
				long = y
				continue
			}
		}
		w, ok := width(x)
		if !ok {
			return c, false
		}
		fixed += w
	}
	if long == nil {
		return c, false
	}
	w, ok := width(long.Sub[0])
	if !ok || w == 0 {
		return c, false
	}
	c, _ = repetition(long.Name)
	c.min = fixed + w*c.min
	if c.max >= 0 {
		c.max = fixed + w*c.max
	}
	long.Op, long.Name, long.Sub = syntax.OpStar, "", []*syntax.Regexp{long.Sub[0]}
	return c, c.min <= maxCount && c.max <= maxCount
}

// automaton is a pattern over the characters of a JSON string, and what it says of their number.
type automaton struct {
	d      []state
	length counter
}

// patternAutomaton makes it, once for all places that have the pattern.
func (b *builder) patternAutomaton(x pattern) (automaton, error) {
	x.at = ""
	if a, ok := b.patterns[x]; ok {
		a.d = slices.Clone(a.d)
		for i := range a.d {
			a.d[i].edges = slices.Clone(a.d[i].edges)
		}
		return a, nil
	}
	a, err := b.newPattern(x)
	if err == nil {
		if b.patterns == nil {
			b.patterns = map[pattern]automaton{}
		}
		b.patterns[x] = a
		return b.patternAutomaton(x)
	}
	return a, err
}

func (b *builder) newPattern(x pattern) (automaton, error) {
	t := translate(x.expr, x.not)
	a := automaton{length: counter{0, -1}}
	if t.err != nil {
		return a, fmt.Errorf("pattern %q: %w", x.expr, t.err)
	}
	find := func(expr string, whole, counts bool) ([]state, error) {
		re, err := parsePattern(expr)
		if err != nil {
			return nil, fmt.Errorf("pattern %q: %w", x.expr, err)
		}
		if counts {
			if c, ok := loosen(re); ok {
				a.length = c
			}
		}
		f := b.regexNode(re, x.expr, (*builder).jsonRunes)
		if !whole {
			f = b.anywhere(f, (*builder).jsonRunes)
		}
		if b.err != nil {
			err, b.err = b.err, nil
			return nil, err
		}
		return b.subsets(f, everyByte)
	}
	var err error
	if a.d, err = find(t.expr, x.format, !x.not); err != nil {
		return a, err
	}
	for _, l := range t.ahead {
		d, err := find(l.expr, false, false)
		if err == nil && l.not {
			a.d, err = b.minus(a.d, d)
		} else if err == nil {
			a.d, err = b.intersect(a.d, d)
		}
		if err != nil {
			return a, err
		}
	}
	if x.not {
		all, err := b.subsets(b.star(b.jsonRunes([]runeRange{{0, utf8.MaxRune}})), everyByte)
		if err != nil {
			return a, err
		}
		if a.d, err = b.minus(all, a.d); err != nil {
			return a, err
		}
	}
	return a, nil
}

// matches reports that a text is as the pattern says; in doubt it is not.
func (s *schema) matches(x pattern, v string) bool {
	key := fmt.Sprint(x.format, x.not, x.expr)
	f, ok := s.match[key]
	if !ok {
		t := translate(x.expr, x.not)
		expr := t.expr
		if x.format {
			expr = `\A(?:` + expr + `)\z`
		}
		re, err := regexp.Compile(expr)
		if err == nil && t.err == nil && len(t.ahead) == 0 && !strings.Contains(expr, "(?P<R") {
			f = func(v string) bool { return re.MatchString(v) != x.not }
		} else if a, err := s.b.patternAutomaton(x); err == nil {
			f = func(v string) bool {
				n := int32(utf8.RuneCountInString(v))
				q := string(appendString(nil, v))
				return runs(a.d, q[1:len(q)-1]) && n >= a.length.min && (a.length.max < 0 || n <= a.length.max)
			}
		} else {
			f = func(string) bool { return false }
		}
		s.match[key] = f
	}
	return f(v)
}

// runs reports that the automaton reads the whole text.
func runs(d []state, text string) bool {
	q := int32(0)
	for i := range len(text) {
		e := d[q].next(text[i])
		if e == nil {
			return false
		}
		q = e.to
	}
	return d[q].final
}

// minus is what x reads and y does not.
func (b *builder) minus(x, y []state) ([]state, error) {
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
		p := &x[pairs[k][0]]
		var q state
		if i := pairs[k][1]; i >= 0 {
			q = y[i]
		}
		s := state{final: p.final && !q.final}
		to := func(lo, hi int, a, b int32) {
			if lo > hi {
				return
			}
			pair := [2]int32{a, b}
			id, ok := ids[pair]
			if !ok {
				id = int32(len(pairs))
				ids[pair] = id
				pairs = append(pairs, pair)
			}
			s.edges = append(s.edges, edge{lo: byte(lo), hi: byte(hi), to: id})
		}
		for _, e := range p.edges {
			at := int(e.lo)
			for _, f := range q.edges {
				lo, hi := max(at, int(f.lo)), min(int(e.hi), int(f.hi))
				if lo > hi {
					continue
				}
				to(at, lo-1, e.to, -1)
				to(lo, hi, e.to, f.to)
				at = hi + 1
			}
			to(at, int(e.hi), e.to, -1)
		}
		out = append(out, s)
	}
	return out, nil
}
