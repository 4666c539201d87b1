package tokenizer

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// A normalizer rewrites text before it is cut into pieces.
type normalizer func(string) string

// rewriting is one stage of a normalizer or a decoder.
type rewriting struct {
	apply normalizer
	grow  func(after growth) growth
}

// growth is how many bytes each byte of a text may become at most, by its value. A stage that comes
// first multiplies what the later ones do, so it is worked out from the last stage to the first.
type growth [256]float64

const (
	maxStages   = 256 // rewritings
	maxCuts     = 32  // stages of a pre-tokenizer; published ones have 5
	maxGrowth   = 64  // of a text by the normalizer; NFKC alone may make 11 bytes of one
	maxDecoding = 8   // of a token's text by the decoder
)

// most is how often the stages may lengthen a text.
func most(list []rewriting) float64 {
	var g growth
	for i := range g {
		g[i] = 1
	}
	for i := len(list) - 1; i >= 0; i-- {
		g = list[i].grow(g)
	}
	return slices.Max(g[:])
}

// text is what a text becomes; it is added wherever a stage writes it.
func (g *growth) text(s string) (sum float64) {
	for i := range len(s) {
		sum += g[s[i]]
	}
	return sum
}

// spread is the growth of a stage that writes up to factor bytes, any, for one past ASCII.
func (g growth) spread(factor float64) growth {
	top := factor * slices.Max(g[:])
	for b := utf8.RuneSelf; b < len(g); b++ {
		g[b] = top
	}
	return g
}

func same(g growth) growth { return g }

func chain(list []rewriting) normalizer {
	if len(list) == 0 {
		return nil
	}
	return func(s string) string {
		for _, r := range list {
			s = r.apply(s)
		}
		return s
	}
}

func normForm(f norm.Form, factor float64) rewriting {
	return rewriting{func(s string) string {
		if f.IsNormalString(s) {
			return s
		}
		return f.String(s)
	}, func(g growth) growth { return g.spread(factor) }}
}

// normLower is Rust's to_lowercase of each character: one capital letter has two small ones.
var normLower = rewriting{func(s string) string {
	return strings.ToLower(strings.ReplaceAll(s, "İ", "i\u0307"))
}, func(g growth) growth {
	after := g.spread(2)
	for b := 'A'; b <= 'Z'; b++ {
		after[b] = g[b+'a'-'A']
	}
	return after
}}

func normReplace(p finder, with string) rewriting {
	return rewriting{replacer(p, with), func(g growth) growth {
		sum := g.text(with)
		switch p := p.(type) {
		case literal:
			if n := float64(len(p)); n > 0 {
				before := g
				for i := range len(p) {
					before[p[i]] = max(g[p[i]], sum/n)
				}
				return before
			}
		case *pattern:
			if n := float64(p.table.shortest()); n > 0 {
				for b := range g {
					g[b] = max(g[b], sum/n)
				}
				return g
			}
		}
		for b := range g { // it may match between all characters, and at both ends
			g[b] += 2 * sum
		}
		return g
	}}
}

func replacer(p finder, with string) normalizer {
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

func normPrepend(prefix string) rewriting {
	return rewriting{func(s string) string {
		if s == "" {
			return s
		}
		return prefix + s
	}, func(g growth) growth { // the parts between added tokens may be of one byte each
		sum := g.text(prefix)
		for b := range g {
			g[b] += sum
		}
		return g
	}}
}

func normStrip(left, right bool) rewriting {
	return rewriting{func(s string) string {
		if left {
			s = strings.TrimLeftFunc(s, unicode.IsSpace)
		}
		if right {
			s = strings.TrimRightFunc(s, unicode.IsSpace)
		}
		return s
	}, same}
}

var normStripAccents = rewriting{func(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.Is(unicode.M, r) {
			return -1
		}
		return r
	}, s)
}, same}
