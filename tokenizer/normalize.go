package tokenizer

import (
	"strings"
	"unicode"

	"golang.org/x/text/unicode/norm"
)

// A normalizer rewrites text before it is cut into pieces.
type normalizer func(string) string

func normForm(f norm.Form) normalizer {
	return func(s string) string {
		if f.IsNormalString(s) {
			return s
		}
		return f.String(s)
	}
}

func normSequence(list []normalizer) normalizer {
	return func(s string) string {
		for _, n := range list {
			s = n(s)
		}
		return s
	}
}

func normReplace(p finder, with string) normalizer {
	if l, ok := p.(literal); ok {
		return func(s string) string { return strings.ReplaceAll(s, string(l), with) }
	}
	return func(s string) string {
		var b strings.Builder
		at := 0
		for from := 0; from <= len(s); {
			i, j := p.find(s, from)
			if i < 0 {
				break
			}
			b.WriteString(s[at:i])
			b.WriteString(with)
			at, from = j, j
			if i == j {
				if i == len(s) {
					break
				}
				b.WriteByte(s[i])
				at, from = i+1, i+1
			}
		}
		b.WriteString(s[at:])
		return b.String()
	}
}

func normPrepend(prefix string) normalizer {
	return func(s string) string {
		if s == "" {
			return s
		}
		return prefix + s
	}
}

func normStrip(left, right bool) normalizer {
	return func(s string) string {
		if left {
			s = strings.TrimLeftFunc(s, unicode.IsSpace)
		}
		if right {
			s = strings.TrimRightFunc(s, unicode.IsSpace)
		}
		return s
	}
}

func normStripAccents(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.Is(unicode.M, r) {
			return -1
		}
		return r
	}, s)
}
