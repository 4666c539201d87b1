package server

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tritlm/trit/grammar"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/tokenizer"
)

// A Model to serve. The server does not close it.
type Model struct {
	ID         string // what requests call it
	Engine     model.Engine
	Tokenizer  *tokenizer.Tokenizer
	MaxContext int       // tokens of a sequence; 0: what the engine's Config says
	Created    time.Time // for listings
	Bytes      int64     // size on disk, for listings
	Format     string    // "gguf" or "safetensors", for listings
}

// served is a model with what the handlers need of it.
type served struct {
	Model
	sched   *scheduler
	calls   tokenizer.CallFormat
	thought *tokenizer.ThoughtFormat // nil: the model has no thoughts
	fill    *fillMarks               // nil: it cannot write what stands between two texts
	marks   []int32                  // control tokens that are part of calls or thoughts

	vocab     func() *grammar.Vocab // of answers
	callVocab func() *grammar.Vocab // of calls, which may have marks in them
}

func newServed(m Model, o Options, mm *modelMetrics) *served {
	v := &served{Model: m, calls: m.Tokenizer.CallFormat(), fill: newFillMarks(m.Tokenizer)}
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

// find is the model that is called id, nil if there is none.
func (s *Server) find(id string) *served {
	for _, m := range s.models {
		if m.ID == id || m.ID+":latest" == id {
			return m
		}
	}
	return nil
}

// model finds the model that a request names.
func (s *Server) model(id string) (*served, error) {
	if m := s.find(id); m != nil {
		return m, nil
	}
	if id == "" || s.o.AnyModel {
		return s.models[0], nil
	}
	var names []string
	for _, m := range s.models {
		names = append(names, m.ID)
	}
	return nil, &apiError{status: 404, Type: "invalid_request_error", Param: "model", Code: "model_not_found", Message: fmt.Sprintf("there is no model %q here; there is %s", clip(id, 100), strings.Join(names, ", "))}
}

// encode turns a text prompt into tokens.
func (m *served) encode(text, param string, special bool) ([]int32, error) {
	if err := m.Tokenizer.Check(text); err != nil {
		return nil, invalid(param, "%v", err)
	}
	return m.Tokenizer.Encode(text, tokenizer.EncodeOptions{AddSpecial: special, ParseSpecial: true}), nil
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
