package grammar

import (
	"bytes"
	"slices"
)

// A Piece is part of a grammar that a caller composes: the form in which a model writes calls of tools, say.
type Piece func(*builder) frag

// Literal is exactly this text.
func Literal(text string) Piece { return func(b *builder) frag { return b.lit(text) } }

// Sequence is the pieces one after the other.
func Sequence(pieces ...Piece) Piece {
	return func(b *builder) frag { return b.cat(b.all(pieces)...) }
}

// Either is one of the pieces.
func Either(pieces ...Piece) Piece {
	return func(b *builder) frag { return b.alt(b.all(pieces)...) }
}

// Optional is the piece or nothing.
func Optional(p Piece) Piece { return func(b *builder) frag { return b.opt(p(b)) } }

// Any is the piece any number of times, or not at all.
func Any(p Piece) Piece { return func(b *builder) frag { return b.star(p(b)) } }

// Expression is what a regular expression matches as a whole; see Regex.
func Expression(expr string) Piece {
	return func(b *builder) frag { return b.regex(expr, false, (*builder).runes) }
}

// Named makes a rule of its own of a piece: it is built once, however often the result is used.
func Named(name string, p Piece) Piece {
	var made struct {
		b    *builder
		rule int32
	}
	return func(b *builder) frag {
		if made.b != b {
			made.b, made.rule = b, b.addRule(name)
			b.rules[made.rule] = p(b)
		}
		return b.call(made.rule)
	}
}

// Schema is a JSON document that is valid by the schema; see JSONSchema. name is for errors.
func Schema(name string, src []byte) Piece {
	return Named(name, func(b *builder) frag {
		before := b.err
		f := newSchema(b, src).root()
		if b.err != nil && before == nil {
			b.err = errorf("%s: %w", name, b.err)
		}
		return f
	})
}

// Superset is Schema without the words that cannot be kept; see JSONSchemaSuperset.
func Superset(name string, src []byte) Piece {
	return Named(name, func(b *builder) frag {
		before := b.err
		s := newSchema(b, src)
		if b.err != nil {
			return b.empty()
		}
		s.loose = true
		f := s.root()
		if b.err != nil && before == nil && isGrammar(b.err) {
			s.dropped = []Dropped{{"#", "schema", b.err.Error()}}
			b.err = nil
			f = schemaOf(b, plainer(s.doc)).root()
		}
		return f
	})
}

// Until is any text up to the first place where end stands, and end. The text is UTF-8.
func Until(end string) Piece {
	return func(b *builder) frag {
		// The automaton of Knuth, Morris and Pratt: state i has read the first i bytes of end.
		states := make([]int32, len(end)+1)
		for i := range states {
			states[i] = b.state()
		}
		for i := range len(end) {
			for c := range 256 {
				n := 0
				for k := min(i+1, len(end)); k > 0; k-- { // the longest beginning of end that what was read ends with
					read := append([]byte(end[:i]), byte(c))
					if bytes.HasSuffix(read, []byte(end[:k])) {
						n = k
						break
					}
				}
				edges := &b.n[states[i]].edges
				if m := len(*edges); m > 0 && (*edges)[m-1].to == states[n] && int((*edges)[m-1].hi) == c-1 {
					(*edges)[m-1].hi = byte(c)
				} else {
					*edges = append(*edges, edge{lo: byte(c), hi: byte(c), to: states[n]})
				}
			}
		}
		return frag{states[0], states[len(end)]}
	}
}

func (b *builder) all(pieces []Piece) []frag {
	var fs []frag
	for _, p := range pieces {
		fs = append(fs, p(b))
	}
	return fs
}

// Compile compiles a composed grammar: the whole text is p.
func Compile(v *Vocab, p Piece) (*Grammar, error) {
	b := &builder{v: v}
	top := b.addRule("root")
	b.rules[top] = p(b)
	return compile(v, b)
}

// Check reports what JSONSchema would refuse of a schema, without compiling all of it: nil if nothing.
func Check(v *Vocab, src []byte) error {
	b := &builder{v: v}
	newSchema(b, src).root()
	return b.err
}

// Feed moves past text that did not come as tokens: the trigger of a grammar that is used only from there on. It
// reports whether the text is one that the grammar may begin with; if not, the matcher is done.
func (m *Matcher) Feed(text string) bool {
	m.fresh = false
	if text == "" {
		return true
	}
	m.tops = slices.Clone(m.run(m.tops, []byte(text))) // none of it is a token that the grammar names
	return len(m.tops) > 0 || m.accept
}
