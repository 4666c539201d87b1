package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// A preTokenizer cuts text into the pieces that the model encodes one by one. first says that
// s begins the whole input; pieces are appended to dst.
type preTokenizer interface {
	split(dst []string, s string, first bool) []string
}

// finder finds the next match of a pattern in s at or after from; start < 0: none. Matches may
// be empty.
type finder interface {
	find(s string, from int) (start, end int)
}

// literal is the finder of {"String": "…"}.
type literal string

func (l literal) find(s string, from int) (int, int) {
	i := strings.Index(s[from:], string(l))
	if i < 0 {
		return -1, -1
	}
	return from + i, from + i + len(l)
}

// runeFinder finds single characters.
type runeFinder func(rune) bool

func (f runeFinder) find(s string, from int) (int, int) {
	for i := from; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if f(r) {
			return i, i + n
		}
		i += n
	}
	return -1, -1
}

// behavior says what becomes of the matches of a split.
type behavior uint8

const (
	removed behavior = iota
	isolated
	mergedWithPrevious
	mergedWithNext
	contiguous
)

var behaviors = map[string]behavior{
	"Removed": removed, "Isolated": isolated, "MergedWithPrevious": mergedWithPrevious,
	"MergedWithNext": mergedWithNext, "Contiguous": contiguous,
}

// splitter cuts at the matches of a pattern; invert cuts at what lies between them.
type splitter struct {
	pattern  finder
	behavior behavior
	invert   bool
}

type segment struct {
	start, end int
	match      bool
}

// segments lists matches and the text between them, in order.
func (p *splitter) segments(s string) []segment {
	var list []segment
	at := 0
	for from := 0; from <= len(s); {
		a, b := p.pattern.find(s, from)
		if a < 0 {
			break
		}
		if a == b { // an empty match cuts nothing
			if a >= len(s) {
				break
			}
			_, n := utf8.DecodeRuneInString(s[a:])
			from = a + n
			continue
		}
		if at < a {
			list = append(list, segment{at, a, p.invert})
		}
		list = append(list, segment{a, b, !p.invert})
		at, from = b, b
	}
	if at < len(s) {
		list = append(list, segment{at, len(s), p.invert})
	}
	return list
}

func (p *splitter) split(dst []string, s string, _ bool) []string {
	segs := p.segments(s)
	base := len(dst)
	switch p.behavior {
	case removed:
		for _, g := range segs {
			if !g.match {
				dst = append(dst, s[g.start:g.end])
			}
		}
	case isolated:
		for _, g := range segs {
			dst = append(dst, s[g.start:g.end])
		}
	case contiguous:
		for i := 0; i < len(segs); {
			j := i + 1
			for j < len(segs) && segs[j].match == segs[i].match {
				j++
			}
			dst = append(dst, s[segs[i].start:segs[j-1].end])
			i = j
		}
	case mergedWithPrevious:
		prev := false // whether the segment before was a match
		for _, g := range segs {
			if g.match && !prev && len(dst) > base {
				last := dst[len(dst)-1]
				dst[len(dst)-1] = s[g.start-len(last) : g.end]
			} else {
				dst = append(dst, s[g.start:g.end])
			}
			prev = g.match
		}
	case mergedWithNext:
		for i := 0; i < len(segs); i++ {
			if segs[i].match && i+1 < len(segs) && !segs[i+1].match {
				dst = append(dst, s[segs[i].start:segs[i+1].end])
				i++
			} else {
				dst = append(dst, s[segs[i].start:segs[i].end])
			}
		}
	}
	return dst
}

// split runs a scanner over the whole text.
func (f scanner) split(dst []string, s string, _ bool) []string {
	for s != "" {
		n := f(s)
		dst = append(dst, s[:n])
		s = s[n:]
	}
	return dst
}

// byteLevelPre is ByteLevel: an optional space in front, and GPT-2's expression. Writing the
// bytes in the byte-level alphabet is left to the model's tables unless more stages follow.
type byteLevelPre struct {
	addSpace bool
	regex    bool
	alphabet bool
}

func (p *byteLevelPre) split(dst []string, s string, _ bool) []string {
	if p.addSpace && !strings.HasPrefix(s, " ") {
		s = " " + s
	}
	at := len(dst)
	if p.regex {
		dst = scanner(scanGPT2).split(dst, s, false)
	} else {
		dst = append(dst, s)
	}
	if p.alphabet {
		for i := at; i < len(dst); i++ {
			dst[i] = byteLevelText(dst[i])
		}
	}
	return dst
}

// metaspace is Metaspace: spaces become the replacement, one is put in front, and pieces start
// at each replacement.
type metaspace struct {
	replacement string
	prepend     string // "always", "first", "never"
	cut         bool
}

func (p *metaspace) split(dst []string, s string, first bool) []string {
	s = strings.ReplaceAll(s, " ", p.replacement)
	if (p.prepend == "always" || p.prepend == "first" && first) && !strings.HasPrefix(s, p.replacement) {
		s = p.replacement + s
	}
	if !p.cut {
		return append(dst, s)
	}
	return (&splitter{pattern: literal(p.replacement), behavior: mergedWithNext}).split(dst, s, false)
}

// sequence runs stages one after the other on the pieces of the stage before.
type sequence []preTokenizer

func (q sequence) split(dst []string, s string, first bool) []string {
	if len(q) == 0 {
		return append(dst, s)
	}
	base := len(dst)
	dst = q[0].split(dst, s, first)
	for _, stage := range q[1:] {
		pieces := append([]string(nil), dst[base:]...)
		dst = dst[:base]
		for i, p := range pieces {
			if p != "" {
				dst = stage.split(dst, p, first && i == 0)
			}
		}
	}
	return dst
}

// fromAlphabet ends a sequence in which stages follow ByteLevel: they saw the byte-level alphabet,
// the model takes bytes.
type fromAlphabet struct{}

func (fromAlphabet) split(dst []string, s string, _ bool) []string {
	if raw, ok := byteLevelBytes(s); ok {
		s = raw
	}
	return append(dst, s)
}
