package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"time"

	"github.com/tritlm/trit/grammar"
	"github.com/tritlm/trit/sample"
	"github.com/tritlm/trit/tokenizer"
)

// common fields of completions and chat completions. Pointers tell "not given" from zero.
type generate struct {
	Model             string             `json:"model"`
	Stream            bool               `json:"stream"`
	StreamOptions     *streamOptions     `json:"stream_options"`
	MaxTokens         *int               `json:"max_tokens"`
	Temperature       *float32           `json:"temperature"`
	TopP              *float32           `json:"top_p"`
	N                 *int               `json:"n"`
	Stop              oneOrMore          `json:"stop"`
	PresencePenalty   float32            `json:"presence_penalty"`
	FrequencyPenalty  float32            `json:"frequency_penalty"`
	LogitBias         map[string]float32 `json:"logit_bias"`
	Seed              *int64             `json:"seed"`
	ResponseFormat    *responseFormat    `json:"response_format"`
	TopK              int                `json:"top_k"`
	MinP              float32            `json:"min_p"`
	RepetitionPenalty float32            `json:"repetition_penalty"`
	RepeatLastN       int                `json:"repeat_last_n"`
	IgnoreEOS         bool               `json:"ignore_eos"`
	StopTokenIDs      []int32            `json:"stop_token_ids"`
	Grammar           string             `json:"grammar"`       // GBNF
	Regex             string             `json:"guided_regex"`  // as vLLM calls it
	Choice            []string           `json:"guided_choice"` // as vLLM calls it
	JSONSchema        json.RawMessage    `json:"guided_json"`   // as vLLM calls it
}

type streamOptions struct {
	IncludeUsage bool `json:"include_usage"`
}

type responseFormat struct {
	Type       string `json:"type"`
	JSONSchema *struct {
		Name   string          `json:"name"`
		Schema json.RawMessage `json:"schema"`
	} `json:"json_schema"`
	Pattern string `json:"pattern"` // of type "regex"
	Grammar string `json:"grammar"` // of type "grammar"
}

// oneOrMore is a string or a list of strings.
type oneOrMore []string

func (s *oneOrMore) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	var one string
	if json.Unmarshal(b, &one) == nil {
		*s = oneOrMore{one}
		return nil
	}
	var many []string
	if json.Unmarshal(b, &many) != nil {
		return invalid("", "expected a string or a list of strings, found %s", clip(string(b), 40))
	}
	*s = many
	return nil
}

// prompts is a string, a list of strings, a list of tokens or a list of lists of tokens.
type prompts struct {
	texts  []string
	tokens [][]int32
}

func (p *prompts) UnmarshalJSON(b []byte) error {
	var err error
	b = bytes.TrimLeft(b, " \t\r\n")
	switch rest := bytes.TrimLeft(bytes.TrimPrefix(b, []byte("[")), " \t\r\n"); {
	case len(b) > 0 && b[0] == '"':
		p.texts = make([]string, 1)
		err = json.Unmarshal(b, &p.texts[0])
	case len(b) > 0 && b[0] != '[', len(rest) == 0:
		err = fmt.Errorf("neither text nor tokens")
	case rest[0] == '"':
		err = json.Unmarshal(b, &p.texts)
	case rest[0] == '[':
		err = json.Unmarshal(b, &p.tokens)
	default:
		p.tokens = make([][]int32, 1)
		err = json.Unmarshal(b, &p.tokens[0])
	}
	if err != nil {
		return invalid("prompt", "expected a string, a list of strings, a list of token numbers or a list of such lists, found %s", clip(string(b), 40))
	}
	return nil
}

func (p *prompts) len() int { return len(p.texts) + len(p.tokens) }

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

// job checks the common fields and makes a job without a prompt of them.
func (s *Server) job(ctx context.Context, m *served, g *generate) (*job, error) {
	if m.Engine.Config().Pooling != "" {
		return nil, invalid("model", "%s makes vectors of texts and writes none: ask /v1/embeddings or /api/embed", m.ID)
	}
	j := &job{
		max: s.o.MaxTokens, stop: g.Stop, stopTokens: g.StopTokenIDs, ignoreEOS: g.IgnoreEOS, logprobs: -1,
		sampling: sample.Options{
			Temperature: 1, TopP: 1, TopK: max(g.TopK, 0), MinP: g.MinP, RepetitionPenalty: g.RepetitionPenalty, RepeatLastN: g.RepeatLastN,
			FrequencyPenalty: g.FrequencyPenalty, PresencePenalty: g.PresencePenalty, Seed: rand.Uint64(),
		},
	}
	if g.MaxTokens != nil {
		if j.max = *g.MaxTokens; j.max < 0 {
			return nil, invalid("max_tokens", "max_tokens must not be negative, is %d", j.max)
		}
	}
	if g.Temperature != nil {
		j.sampling.Temperature = *g.Temperature
	}
	if g.TopP != nil {
		j.sampling.TopP = *g.TopP
	}
	if g.Seed != nil {
		j.sampling.Seed = uint64(*g.Seed)
	}
	if g.N != nil && (*g.N < 1 || *g.N > s.o.MaxSequences) {
		return nil, invalid("n", "n must be from 1 to %d, is %d", s.o.MaxSequences, *g.N)
	}
	if len(g.Stop) > 16 {
		return nil, invalid("stop", "at most 16 stop strings, not %d", len(g.Stop))
	}
	for _, t := range g.Stop {
		if t == "" || len(t) > 1000 {
			return nil, invalid("stop", "a stop string has 1 to 1000 bytes, not %d", len(t))
		}
	}
	if len(g.StopTokenIDs) > 100 {
		return nil, invalid("stop_token_ids", "at most 100, not %d", len(g.StopTokenIDs))
	}
	if len(g.LogitBias) > 1024 {
		return nil, invalid("logit_bias", "at most 1024 tokens, not %d", len(g.LogitBias))
	}
	for k, b := range g.LogitBias {
		id, err := strconv.ParseInt(k, 10, 32)
		if err != nil {
			return nil, invalid("logit_bias", "%q is not a token number", clip(k, 40))
		}
		if j.sampling.LogitBias == nil {
			j.sampling.LogitBias = map[int32]float32{}
		}
		j.sampling.LogitBias[int32(id)] = b
	}
	if err := j.sampling.Validate(m.sched.vocab); err != nil {
		return nil, err
	}
	var err error
	j.grammar, err = s.constraint(ctx, m, g)
	return j, err
}

// constraint compiles what the request says about the form of its answer.
func (s *Server) constraint(ctx context.Context, m *served, g *generate) (*grammar.Grammar, error) {
	var found []string
	var kind, src string
	add := func(name, k, text string) {
		found = append(found, name)
		kind, src = k, text
	}
	if f := g.ResponseFormat; f != nil {
		switch f.Type {
		case "text", "":
		case "json_object":
			add("response_format", "object", "")
		case "json_schema":
			if f.JSONSchema == nil || len(f.JSONSchema.Schema) == 0 {
				return nil, invalid("response_format.json_schema", "response_format of type json_schema needs json_schema.schema")
			}
			add("response_format", "schema", string(f.JSONSchema.Schema))
		case "regex":
			add("response_format", "regex", f.Pattern)
		case "grammar":
			add("response_format", "gbnf", f.Grammar)
		default:
			return nil, invalid("response_format.type", "response_format.type %q is not text, json_object, json_schema, regex or grammar", clip(f.Type, 40))
		}
	}
	if g.Grammar != "" {
		add("grammar", "gbnf", g.Grammar)
	}
	if g.Regex != "" {
		add("guided_regex", "regex", g.Regex)
	}
	if len(g.JSONSchema) > 0 && string(g.JSONSchema) != "null" {
		text := string(g.JSONSchema)
		var quoted string
		if json.Unmarshal(g.JSONSchema, &quoted) == nil {
			text = quoted
		}
		add("guided_json", "schema", text)
	}
	if len(g.Choice) > 0 {
		b, err := json.Marshal(g.Choice)
		if err != nil {
			return nil, err
		}
		add("guided_choice", "choice", string(b))
	}
	if len(found) == 0 {
		return nil, nil
	}
	if len(found) > 1 {
		return nil, invalid(found[1], "%s cannot be used together", strings.Join(found, " and "))
	}
	gr, err := s.grammar(ctx, m, kind, src, func(v *grammar.Vocab) (*grammar.Grammar, error) {
		switch kind {
		case "object":
			return grammar.JSONObject(v)
		case "schema":
			return grammar.JSONSchema(v, []byte(src))
		case "regex":
			return grammar.Regex(v, src)
		case "choice":
			return grammar.Choice(v, g.Choice)
		}
		return grammar.GBNF(v, src)
	})
	if err != nil {
		api := *asAPIError(err)
		api.Param = found[0]
		return nil, &api
	}
	return gr, nil
}

// schema is the JSON schema of a response_format of type json_object or json_schema, nil where there is none.
func (g *generate) schema() []byte {
	switch f := g.ResponseFormat; {
	case f != nil && f.Type == "json_object":
		return []byte(`{"type":"object"}`)
	case f != nil && f.Type == "json_schema" && f.JSONSchema != nil:
		return f.JSONSchema.Schema
	}
	return nil
}

// grammar returns the compiled grammar for a source, from the cache if it was compiled lately.
func (s *Server) grammar(ctx context.Context, m *served, kind, src string, compile func(*grammar.Vocab) (*grammar.Grammar, error)) (*grammar.Grammar, error) {
	key := kind + "\x00" + src
	look := func() (compiled, *grammar.Vocab, bool) {
		m.mu.Lock()
		defer m.mu.Unlock()
		c, ok := m.grammars[key]
		return c, m.vocab, ok
	}
	if c, _, ok := look(); ok {
		return c.g, c.err
	}
	wait := time.NewTimer(10 * time.Second)
	defer wait.Stop()
	select {
	case s.compile <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-wait.C: // many others are before us
		return nil, errQueueFull
	}
	defer func() { <-s.compile }()
	c, v, ok := look()
	if ok {
		return c.g, c.err
	}
	if v == nil {
		t := m.Tokenizer
		v = grammar.NewVocab(m.sched.vocab, func(id int32) []byte {
			if int(id) >= t.VocabSize() || t.IsSpecial(id) {
				return nil
			}
			return t.Bytes(id)
		}, t.EOS())
	}
	c.g, c.err = compile(v)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.vocab = v
	if len(m.grammars) >= 16 {
		clear(m.grammars)
	}
	m.grammars[key] = c
	return c.g, c.err
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

// encode turns a text prompt into tokens.
func (m *served) encode(text, param string, special bool) ([]int32, error) {
	if err := m.Tokenizer.Check(text); err != nil {
		return nil, invalid(param, "%v", err)
	}
	return m.Tokenizer.Encode(text, tokenizer.EncodeOptions{AddSpecial: special, ParseSpecial: true}), nil
}

// texts of a logprob's token.
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
