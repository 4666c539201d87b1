package server

import (
	"slices"
	"strings"

	"github.com/tritlm/trit/grammar"
	"github.com/tritlm/trit/tokenizer"
)

// plan is what a request says about the form of its texts. Each text has a guide that follows it.
//
// A text is a thought, if the model has one, and an answer. Nothing restricts a thought but its budget. The
// grammar holds for the answer: from its first token, or, lazily, from the first trigger in it.
type plan struct {
	grammar  *grammar.Grammar
	triggers []string // that the grammar waits for; none: it holds at once
	anywhere bool     // triggers count behind other text too

	thought *thoughtPlan // nil: the model has no thoughts
	show    []int32      // control tokens whose names are text: the marks of thoughts and calls
	special bool         // all control tokens are text

	allowed []uint64  // tokens that may be written at all, nil for all
	bad     [][]int32 // sequences of tokens that are not written
	min     int       // tokens before the text may end
}

// thoughtPlan says how a thought begins and ends in tokens.
type thoughtPlan struct {
	format tokenizer.ThoughtFormat
	open   int32   // the token that is the opening mark, −1 if it has several
	begun  bool    // the prompt ends inside a thought
	none   bool    // the prompt ends behind one: there is none to come
	budget int     // tokens of a thought, −1 for as many as it takes
	end    []int32 // what closes a thought before its time
	gap    []int32 // what stands between the closing mark and the answer
}

// phase is where in a text a guide is.
type phase int

const (
	start     phase = iota // nothing but white space is written: a thought may begin
	inThought              // inside a thought
	answering
)

// guide says what may come next in one text. The tokens that it has the sequence write
// itself (forced) close a thought.
type guide struct {
	*plan
	spell   func(id int32) string // as it stands in the text
	isEOS   func(id int32) bool
	vocab   int
	phase   phase
	matcher *grammar.Matcher // once the grammar holds
	tail    string           // the end of the text of this phase, as far as a mark may begin in it
	waits   bool             // a trigger may still come
	forced  []int32
	thought int // tokens of it
	written []int32

	bits  []uint64
	fresh bool
}

func newGuide(p *plan, t *tokenizer.Tokenizer, vocab int) *guide {
	shown := map[int32]bool{}
	for _, id := range p.show {
		shown[id] = true
	}
	g := &guide{plan: p, vocab: vocab, isEOS: t.IsEOS, spell: func(id int32) string {
		if t.IsSpecial(id) {
			if shown[id] || p.special {
				return t.Token(id)
			}
			return ""
		}
		return string(t.Bytes(id))
	}}
	switch {
	case p.thought == nil || p.thought.none:
		g.answer("")
	case p.thought.begun:
		g.phase = inThought
		g.spend()
	}
	return g
}

// answer begins the answer; rest is text of it that is written already.
func (g *guide) answer(rest string) {
	g.phase, g.tail, g.fresh = answering, "", false
	g.waits = g.grammar != nil && len(g.triggers) > 0
	if g.grammar != nil && !g.waits {
		g.matcher = g.grammar.NewMatcher()
		if rest = strings.TrimLeft(rest, " \n"); rest != "" {
			g.matcher.Feed(rest)
		}
		return
	}
	if g.waits && rest != "" {
		g.look(strings.TrimLeft(rest, " \n"))
	}
}

// spend closes a thought whose budget is used up.
func (g *guide) spend() {
	if b := g.plan.thought.budget; b >= 0 && g.thought >= b && len(g.forced) == 0 {
		g.forced = slices.Clone(g.plan.thought.end)
	}
}

// look searches for a trigger in the answer with more text at its end. It reports whether the grammar takes what
// follows the trigger.
func (g *guide) look(more string) bool {
	text, fits := g.found(more)
	if text == "" {
		g.tail, g.waits = g.keep(more)
		return true
	}
	g.waits, g.tail = false, ""
	g.matcher = g.grammar.NewMatcher()
	g.matcher.Feed(text)
	return fits
}

// found is the answer's text from its first trigger on, "" if there is none, and whether the grammar begins so.
func (g *guide) found(more string) (text string, fits bool) {
	all := g.tail + more
	first := -1
	for _, t := range g.triggers {
		i := strings.Index(all, t)
		if i >= 0 && (first < 0 || i < first) && (g.anywhere || strings.TrimSpace(all[:i]) == "") {
			first = i
		}
	}
	if first < 0 {
		return "", true
	}
	m := g.grammar.NewMatcher()
	return all[first:], m.Feed(all[first:])
}

// keep is what of the answer's text a trigger may still begin in, and whether one may come at all.
func (g *guide) keep(more string) (tail string, waits bool) {
	all := g.tail + more
	if !g.anywhere {
		all = strings.TrimLeft(all, " \n")
		for _, t := range g.triggers {
			if strings.HasPrefix(t, all) {
				return all, true
			}
		}
		return "", all == ""
	}
	n := 0
	for _, t := range g.triggers {
		n = max(n, len(t)-1)
	}
	return all[max(len(all)-n, 0):], true
}

// begins reports whether id opens a thought here.
func (g *guide) begins(id int32) bool {
	return g.phase == start && g.plan.thought.open >= 0 && id == g.plan.thought.open
}

// restricts reports whether anything forbids a token now.
func (g *guide) restricts() bool {
	return g.matcher != nil || g.allowed != nil || len(g.bad) > 0 || len(g.written) < g.min || g.eager()
}

// eager reports that the grammar holds unless a thought begins.
func (g *guide) eager() bool { return g.phase == start && g.grammar != nil && len(g.triggers) == 0 }

// A mask is a guide as the sampler sees it; the scheduler tells the guide itself what was chosen.
type mask struct{ *guide }

func (mask) Accept(int32) {}

// Allowed is the tokens that may come next, as sample.Mask has it.
func (g *guide) Allowed() []uint64 {
	if g.fresh {
		return g.bits
	}
	if g.bits == nil {
		g.bits = make([]uint64, (g.vocab+63)/64)
	}
	g.fresh = true
	if g.matcher == nil && g.eager() {
		g.matcher = g.grammar.NewMatcher() // what is no thought is the answer
	}
	if g.matcher != nil && g.phase != inThought {
		clear(g.bits)
		copy(g.bits, g.matcher.Allowed())
	} else {
		for i := range g.bits {
			g.bits[i] = ^uint64(0)
		}
	}
	for i := range g.bits {
		if g.allowed != nil {
			g.bits[i] &= g.allowed[i]
		}
	}
	for _, b := range g.bad {
		if n := len(b) - 1; len(g.written) >= n && slices.Equal(g.written[len(g.written)-n:], b[:n]) {
			g.Forbid(b[n])
		}
	}
	if len(g.written) < g.min {
		for id := range int32(g.vocab) {
			if g.isEOS(id) {
				g.Forbid(id)
			}
		}
	}
	return g.bits
}

// Forbid takes a token out of what Allowed returned.
func (g *guide) Forbid(id int32) {
	if id >= 0 && int(id) < g.vocab {
		g.bits[id/64] &^= 1 << (id % 64)
	}
}

// Narrow leaves in what Allowed returned only the tokens that fit.
func (g *guide) Narrow() {
	for id := range int32(g.vocab) {
		if g.bits[id/64]>>(id%64)&1 == 1 && !g.fits(id) {
			g.Forbid(id)
		}
	}
}

// limit says how many tokens may still come.
func (g *guide) limit(n int) {
	if g.matcher != nil {
		g.matcher.Limit(n)
	}
}

// fits reports what Allowed does not look at: that with id next the text can still end in time, and that what
// stands in the same token behind a trigger is what the grammar wants there.
func (g *guide) fits(id int32) bool {
	if g.matcher != nil {
		return g.matcher.Fits(id)
	}
	if g.waits && g.phase != inThought {
		_, ok := g.found(g.spell(id))
		return ok
	}
	return true
}

// Accept moves past a token.
func (g *guide) Accept(id int32) {
	g.fresh = false
	g.written = append(g.written, id)
	own := len(g.forced) > 0 && g.forced[0] == id
	if own {
		g.forced = g.forced[1:]
	}
	text := g.spell(id)
	switch g.phase {
	case start:
		g.tail += text
		head := strings.TrimLeft(g.tail, " \n")
		open := g.plan.thought.format.Open
		switch {
		case strings.HasPrefix(head, open):
			g.phase, g.tail, g.matcher = inThought, head[len(open):], nil
			g.spend()
		case strings.HasPrefix(open, head) && g.matcher == nil:
		default:
			m := g.matcher
			if g.answer(g.tail); m != nil { // it is asked before it is told
				g.matcher = m
				m.Accept(id)
			}
		}
	case inThought:
		g.thought++
		g.tail += text
		mark := g.plan.thought.format.Close
		i := strings.Index(g.tail, mark)
		if i < 0 {
			g.tail = g.tail[max(len(g.tail)-len(mark), 0):]
			g.spend()
			return
		}
		rest := g.tail[i+len(mark):]
		if rest == "" && len(g.forced) == 0 && g.grammar != nil && len(g.triggers) == 0 {
			g.forced = slices.Clone(g.plan.thought.gap) // the grammar has no place for it
		}
		g.answer(rest)
	case answering:
		switch {
		case own: // the gap behind the thought
		case g.matcher != nil:
			g.matcher.Accept(id)
		case g.waits:
			g.look(text)
		}
	}
}

func (g *guide) mayEnd() bool {
	return g.matcher != nil && g.matcher.MayEnd()
}

// done reports that nothing can follow.
func (g *guide) done() bool { return g.matcher != nil && g.matcher.Done() }
