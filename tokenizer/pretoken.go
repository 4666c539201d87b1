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

// finder calls f for the matches of a pattern in s, from left to right. Matches may be empty.
type finder interface {
	each(s string, f func(start, end int))
}

// literal is the finder of {"String": "…"}; an empty one matches between all characters.
type literal string

func (l literal) each(s string, f func(start, end int)) {
	for at := 0; ; {
		i := strings.Index(s[at:], string(l))
		if i < 0 {
			return
		}
		f(at+i, at+i+len(l))
		at += i + len(l)
		if l == "" {
			if at == len(s) {
				return
			}
			_, n := utf8.DecodeRuneInString(s[at:])
			at += n
		}
	}
}

// runeFinder finds single characters.
type runeFinder func(rune) bool

func (in runeFinder) each(s string, f func(start, end int)) {
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		if in(r) {
			f(i, i+n)
		}
		i += n
	}
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

// split cuts as Hugging Face tokenizers does: matches and what lies between them are pieces, which
// the behavior joins or leaves out. An empty match is an empty piece, which is dropped at the end,
// but parts its neighbours.
func (p *splitter) split(dst []string, s string, _ bool) []string {
	from, to := -1, 0 // the piece that may still grow; from < 0: none
	open := false     // whether it is a match
	flush := func() {
		if from >= 0 && from < to {
			dst = append(dst, s[from:to])
		}
		from = -1
	}
	add := func(a, b int, match bool) {
		match = match != p.invert
		join := false
		switch p.behavior {
		case removed:
			if match {
				return
			}
		case contiguous:
			join = match == open
		case mergedWithPrevious:
			join = match && !open
		case mergedWithNext:
			join = open && !match
		}
		if !join || from < 0 {
			flush()
			from = a
		}
		to, open = b, match
	}
	at := 0
	p.pattern.each(s, func(a, b int) {
		if at < a {
			add(at, a, false)
		}
		add(a, b, true)
		at = b
	})
	if at < len(s) {
		add(at, len(s), false)
	}
	flush()
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
