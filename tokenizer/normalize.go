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
	if l, ok := p.(literal); ok && l != "" {
		return func(s string) string { return strings.ReplaceAll(s, string(l), with) }
	}
	return func(s string) string {
		if s == "" { // without looking for empty matches in it, as Hugging Face tokenizers
			return s
		}
		var b strings.Builder
		at := 0
		p.each(s, func(i, j int) {
			b.WriteString(s[at:i])
			b.WriteString(with)
			at = j
		})
		if at == 0 && b.Len() == 0 {
			return s
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
