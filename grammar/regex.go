package grammar

import (
	"regexp/syntax"
	"unicode"
	"unicode/utf8"
)

// Regex compiles a regular expression that the whole text must match: Go's syntax without word
// boundaries and multi-line mode. Any character is any but a line end (\n, \r, U+2028, U+2029).
func Regex(v *Vocab, expr string) (*Grammar, error) {
	b := &builder{v: v}
	r := b.addRule("regex")
	b.counts = true
	b.rules[r] = b.regex(expr, false, (*builder).runes)
	return compile(v, b)
}

// A class turns a set of characters into automaton: plain UTF-8, or as JSON spells them in strings.
type class func(*builder, []runeRange) frag

// regex is expr as automaton; with search it may match anywhere, as in JSON schema patterns.
func (b *builder) regex(expr string, search bool, c class) frag {
	re, err := syntax.Parse(expr, syntax.Perl)
	if err != nil {
		return b.fail("regular expression %q: %v", expr, err)
	}
	f := b.regexNode(re, expr, c)
	if search {
		f = b.anywhere(f, c)
	}
	return f
}

// anywhere is f with any text before and after it.
func (b *builder) anywhere(f frag, c class) frag {
	anything := func() frag { return b.star(c(b, []runeRange{{0, utf8.MaxRune}})) }
	return b.cat(anything(), f, anything())
}

func (b *builder) regexNode(re *syntax.Regexp, expr string, c class) frag {
	if b.err != nil {
		return b.empty()
	}
	subs := func() []frag {
		fs := make([]frag, len(re.Sub))
		for i, s := range re.Sub {
			fs[i] = b.regexNode(s, expr, c)
		}
		return fs
	}
	again := func() frag { return b.regexNode(re.Sub[0], expr, c) }
	switch re.Op {
	case syntax.OpNoMatch:
		return b.nothing()
	case syntax.OpEmptyMatch:
		return b.empty()
	case syntax.OpLiteral:
		f := b.empty()
		for _, r := range re.Rune {
			set := []runeRange{{r, r}}
			if re.Flags&syntax.FoldCase != 0 {
				for o := unicode.SimpleFold(r); o != r; o = unicode.SimpleFold(o) {
					set = append(set, runeRange{o, o})
				}
			}
			f = b.cat(f, c(b, set))
		}
		return f
	case syntax.OpCharClass:
		var set []runeRange
		for i := 0; i+1 < len(re.Rune); i += 2 {
			set = append(set, runeRange{re.Rune[i], re.Rune[i+1]})
		}
		return c(b, set)
	case syntax.OpAnyCharNotNL:
		return c(b, []runeRange{{0, '\n' - 1}, {'\n' + 1, '\r' - 1}, {'\r' + 1, 0x2027}, {0x202a, utf8.MaxRune}})
	case syntax.OpAnyChar:
		return c(b, []runeRange{{0, utf8.MaxRune}})
	case syntax.OpBeginText:
		f := frag{b.state(), b.state()}
		b.n[f.in].begin = append(b.n[f.in].begin, f.out)
		return f
	case syntax.OpEndText:
		f := frag{b.state(), b.state()}
		b.n[f.in].end = append(b.n[f.in].end, f.out)
		return f
	case syntax.OpCapture:
		if c, big := repetition(re.Name); big {
			return b.repeat(again, int(c.min), int(c.max))
		}
		return again()
	case syntax.OpStar:
		return b.star(again())
	case syntax.OpPlus:
		return b.cat(again(), b.star(again()))
	case syntax.OpQuest:
		return b.opt(again())
	case syntax.OpRepeat:
		if w, ok := width(re.Sub[0]); b.counts && ok && w == 1 && max(re.Min, re.Max) > 16 && re.Sub[0].Op != syntax.OpConcat {
			if x := again(); len(b.n[x.in].eps) == 0 {
				return b.counted(x, counter{int32(re.Min), int32(re.Max)}, true)
			}
		}
		return b.repeat(again, re.Min, re.Max)
	case syntax.OpConcat:
		return b.cat(subs()...)
	case syntax.OpAlternate:
		return b.alt(subs()...)
	}
	return b.fail("regular expression %q: %v is not supported", expr, re.Op)
}

// Choice compiles a grammar of exactly these texts.
func Choice(v *Vocab, texts []string) (*Grammar, error) {
	b := &builder{v: v}
	r := b.addRule("choice")
	var fs []frag
	for _, t := range texts {
		fs = append(fs, b.lit(t))
	}
	b.rules[r] = b.alt(fs...)
	return compile(v, b)
}
