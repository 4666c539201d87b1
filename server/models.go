package server

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/tritlm/trit/grammar"
	"github.com/tritlm/trit/tokenizer"
)

// served is a model with what the handlers need of it.
type served struct {
	Model
	sched   *scheduler
	calls   tokenizer.CallFormat
	thought *tokenizer.ThoughtFormat // nil: the model has no thoughts
	fill    *fillMarks               // nil: it cannot write what stands between two texts
	marks   []int32                  // control tokens that are part of calls or thoughts

	grammars  *grammar.Cache        // shared by all models
	vocab     func() *grammar.Vocab // of answers
	callVocab func() *grammar.Vocab // of calls, which may have marks in them
}

func newServed(m Model, o Options, mm *modelMetrics, grammars *grammar.Cache) *served {
	v := &served{Model: m, grammars: grammars, calls: m.Tokenizer.CallFormat(), fill: newFillMarks(m.Tokenizer)}
	if f, ok := m.Tokenizer.ThoughtFormat(); ok {
		v.thought = &f
	}
	f := &v.calls
	around := strings.Join([]string{f.Begin, f.Open, f.Middle, f.AfterID, f.Close, f.Separator, f.End, f.ParamOpen, f.ParamMiddle, f.ParamClose}, "\x00")
	if v.thought != nil {
		around += "\x00" + v.thought.Open + "\x00" + v.thought.Close
	}
	for id := range int32(m.Tokenizer.VocabSize()) {
		if t := m.Tokenizer.Token(id); t != "" && m.Tokenizer.IsSpecial(id) && !m.Tokenizer.IsEOS(id) && strings.Contains(around, t) {
			v.marks = append(v.marks, id)
		}
	}
	v.vocab = sync.OnceValue(func() *grammar.Vocab { return v.vocabulary(nil) })
	v.callVocab = sync.OnceValue(func() *grammar.Vocab { return v.vocabulary(v.marks) })
	v.sched = newScheduler(m, o, mm)
	return v
}

// vocabulary spells the model's tokens for grammars; marks are control tokens that count as their names.
func (m *served) vocabulary(marks []int32) *grammar.Vocab {
	t := m.Tokenizer
	v := grammar.NewVocab(m.sched.vocab, func(id int32) []byte {
		switch {
		case int(id) >= t.VocabSize():
			return nil
		case slices.Contains(marks, id):
			return []byte(t.Token(id))
		case t.IsSpecial(id):
			return nil
		}
		return t.Bytes(id)
	}, t.EOS())
	v.Named = t.ID
	return v
}

// encode turns a text prompt into tokens.
func (m *served) encode(text, param string, special bool) ([]int32, error) {
	if err := m.Tokenizer.Check(text); err != nil {
		return nil, invalid(param, "%v", err)
	}
	return m.Tokenizer.Encode(text, tokenizer.EncodeOptions{AddSpecial: special, ParseSpecial: true}), nil
}

// fit checks a prompt against the context; as much is written as has room after it.
func (m *served) fit(j *job, prompt []int32, param string) error {
	for _, id := range prompt {
		if id < 0 || int(id) >= m.sched.vocab {
			return invalid(param, "token %d is not one of the model's %d", id, m.sched.vocab)
		}
	}
	if len(prompt) == 0 {
		return invalid(param, "the prompt is empty, and this model has no token to begin with")
	}
	room := m.MaxContext - len(prompt)
	if room < 0 || room < 1 && j.max > 0 {
		return &apiError{
			status: 400, Type: "invalid_request_error", Param: param, Code: "context_length_exceeded",
			Message: fmt.Sprintf("the prompt has %d tokens; the context holds %d, with what is to be written", len(prompt), m.MaxContext),
		}
	}
	j.max = min(j.max, room)
	j.prompt = prompt
	return nil
}

// tokenText is the text of a logprob's token.
func (m *served) tokenText(id int32) string {
	if m.Tokenizer.IsSpecial(id) {
		return m.Tokenizer.Token(id)
	}
	b := m.Tokenizer.Bytes(id)
	if s := string(b); strings.ToValidUTF8(s, "") == s {
		return s
	}
	var out strings.Builder
	out.WriteString("bytes:")
	for _, c := range b {
		fmt.Fprintf(&out, "\\x%02x", c)
	}
	return out.String()
}

// fillMarks are the control tokens around the text before and behind a gap that a model fills.
type fillMarks struct{ prefix, suffix, middle int32 }

func newFillMarks(t *tokenizer.Tokenizer) *fillMarks {
	for _, names := range [][3]string{
		{"<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>"}, // Qwen2.5-Coder
		{"<fim_prefix>", "<fim_suffix>", "<fim_middle>"},       // StarCoder
		{"<fim-prefix>", "<fim-suffix>", "<fim-middle>"},       // SantaCoder
		{"<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"},       // DeepSeek
		{"<|code_prefix|>", "<|code_suffix|>", "<|code_middle|>"},
		{"▁<PRE>", "▁<SUF>", "▁<MID>"}, // Code Llama
	} {
		p, ok1 := t.ID(names[0])
		s, ok2 := t.ID(names[1])
		m, ok3 := t.ID(names[2])
		if ok1 && ok2 && ok3 {
			return &fillMarks{p, s, m}
		}
	}
	return nil
}

// between is the prompt for what stands between two texts.
func (m *served) between(before, behind string) ([]int32, error) {
	if m.fill == nil {
		return nil, invalid("suffix", "%s has no tokens for filling in a text between a prompt and a suffix", m.ID)
	}
	ids, err := m.encodeText(before)
	if err != nil {
		return nil, err
	}
	rest, err := m.encodeText(behind)
	if err != nil {
		return nil, err
	}
	var out []int32
	if bos, ok := m.Tokenizer.BOS(); ok && len(m.Tokenizer.Encode("", tokenizer.EncodeOptions{AddSpecial: true})) > 0 {
		out = append(out, bos)
	}
	out = append(append(out, m.fill.prefix), ids...)
	out = append(append(out, m.fill.suffix), rest...)
	return append(out, m.fill.middle), nil
}

// encodeText encodes text in which control tokens are text.
func (m *served) encodeText(text string) ([]int32, error) {
	if err := m.Tokenizer.Check(text); err != nil {
		return nil, invalid("prompt", "%v", err)
	}
	return m.Tokenizer.Encode(text, tokenizer.EncodeOptions{}), nil
}
