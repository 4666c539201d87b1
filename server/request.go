package server

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/tritlm/trit/sample"
)

// request is what every protocol's request is translated into. One of chat and prompts says what is read.
type request struct {
	options
	chat    *conversation
	prompts prompts
	special *bool   // with prompts: put the model's first tokens in front; nil: yes
	suffix  *string // with prompts: what follows the gap that is to be filled
	echo    bool    // with prompts: the prompt is part of the answer

	best     int // texts per prompt that are written, of which n are kept; 0: n
	logprobs int // the k likeliest of every token, −1 for none
}

// options are the fields that say how to write, in the words of OpenAI's protocol and of its extensions by vLLM and
// llama.cpp. Pointers tell "not given" from zero.
type options struct {
	Model             string             `json:"model"`
	MaxTokens         *int               `json:"max_tokens"` // −1: as many as fit
	MinTokens         int                `json:"min_tokens"`
	Temperature       *float32           `json:"temperature"`
	TopP              *float32           `json:"top_p"`
	TopK              int                `json:"top_k"`
	MinP              float32            `json:"min_p"`
	N                 *int               `json:"n"`
	Stop              oneOrMore          `json:"stop"`
	StopTokenIDs      []int32            `json:"stop_token_ids"`
	IgnoreEOS         bool               `json:"ignore_eos"`
	PresencePenalty   float32            `json:"presence_penalty"`
	FrequencyPenalty  float32            `json:"frequency_penalty"`
	RepetitionPenalty float32            `json:"repetition_penalty"`
	RepeatPenalty     float32            `json:"repeat_penalty"` // llama.cpp's name for it
	RepeatLastN       int                `json:"repeat_last_n"`
	LogitBias         logitBias          `json:"logit_bias"`
	AllowedTokenIDs   []int32            `json:"allowed_token_ids"`
	BadWords          []string           `json:"bad_words"`
	Seed              *int64             `json:"seed"`
	SkipSpecial       *bool              `json:"skip_special_tokens"`
	ResponseFormat    *responseFormat    `json:"response_format"`
	Grammar           string             `json:"grammar"`        // GBNF
	JSONSchema        json.RawMessage    `json:"json_schema"`    // llama.cpp
	GuidedJSON        json.RawMessage    `json:"guided_json"`    // vLLM
	GuidedRegex       string             `json:"guided_regex"`   // vLLM
	GuidedChoice      []string           `json:"guided_choice"`  // vLLM
	GuidedGrammar     string             `json:"guided_grammar"` // vLLM
	Structured        *structuredOutputs `json:"structured_outputs"`
}

// structuredOutputs is how vLLM has had guided_* since 0.11.
type structuredOutputs struct {
	JSON       json.RawMessage `json:"json"`
	Regex      string          `json:"regex"`
	Choice     []string        `json:"choice"`
	Grammar    string          `json:"grammar"`
	JSONObject bool            `json:"json_object"`
	Tag        json.RawMessage `json:"structural_tag"`
}

type responseFormat struct {
	Type       string `json:"type"`
	JSONSchema *struct {
		Name   string          `json:"name"`
		Schema json.RawMessage `json:"schema"`
		Strict *bool           `json:"strict"`
	} `json:"json_schema"`
	Schema  json.RawMessage `json:"schema"`  // of types json_object and json_schema, as llama.cpp has it
	Pattern string          `json:"pattern"` // of type "regex"
	Grammar string          `json:"grammar"` // of type "grammar"
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

// logitBias is an object of token numbers, or llama.cpp's list of pairs, in which false forbids a token.
type logitBias map[string]float32

func (l *logitBias) UnmarshalJSON(b []byte) error {
	var object map[string]float32
	if err := json.Unmarshal(b, &object); err == nil {
		*l = object
		return nil
	}
	var pairs [][2]json.RawMessage
	if json.Unmarshal(b, &pairs) != nil {
		return invalid("logit_bias", "logit_bias is an object of token numbers and numbers, or a list of such pairs")
	}
	*l = logitBias{}
	for _, p := range pairs {
		var bias float32
		if string(p[1]) == "false" {
			bias = -100
		} else if json.Unmarshal(p[1], &bias) != nil {
			return invalid("logit_bias", "the bias of %s is neither a number nor false", clip(string(p[0]), 40))
		}
		(*l)[string(p[0])] = bias
	}
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

// n is how many texts the request wants of each prompt.
func (o *options) n() int {
	if o.N == nil {
		return 1
	}
	return *o.N
}

// job checks the options and makes a job without a prompt of them.
func (s *Server) job(m *served, o *options) (*job, error) {
	if m.Engine.Config().Pooling != "" {
		return nil, invalid("model", "%s makes vectors of texts and writes none: ask /v1/embeddings or /api/embed", m.ID)
	}
	j := &job{
		max: s.o.MaxTokens, stop: o.Stop, stopTokens: o.StopTokenIDs, ignoreEOS: o.IgnoreEOS, logprobs: -1, plan: &plan{},
		sampling: sample.Options{
			Temperature: 1, TopP: 1, TopK: max(o.TopK, 0), MinP: o.MinP, RepetitionPenalty: o.RepetitionPenalty, RepeatLastN: o.RepeatLastN,
			FrequencyPenalty: o.FrequencyPenalty, PresencePenalty: o.PresencePenalty, Seed: rand.Uint64(),
		},
	}
	if o.RepeatPenalty != 0 {
		j.sampling.RepetitionPenalty = o.RepeatPenalty
	}
	if o.MaxTokens != nil {
		if j.max = *o.MaxTokens; j.max == -1 {
			j.max = m.MaxContext
		} else if j.max < 0 {
			return nil, invalid("max_tokens", "max_tokens must not be negative, except −1 for as many as fit; is %d", j.max)
		}
	}
	if o.MinTokens < 0 || o.MinTokens > j.max && o.MaxTokens != nil {
		return nil, invalid("min_tokens", "min_tokens must be from 0 to max_tokens (%d), is %d", j.max, o.MinTokens)
	}
	j.plan.min = o.MinTokens
	if o.Temperature != nil {
		j.sampling.Temperature = *o.Temperature
	}
	if o.TopP != nil {
		j.sampling.TopP = *o.TopP
	}
	if o.Seed != nil && *o.Seed != -1 { // −1 is any, for llama.cpp and Ollama
		j.sampling.Seed = uint64(*o.Seed)
	}
	if o.N != nil && (*o.N < 1 || *o.N > s.o.MaxSequences) {
		return nil, invalid("n", "n must be from 1 to %d, is %d", s.o.MaxSequences, *o.N)
	}
	if len(o.Stop) > 16 {
		return nil, invalid("stop", "at most 16 stop strings, not %d", len(o.Stop))
	}
	for _, t := range o.Stop {
		if t == "" || len(t) > 1000 {
			return nil, invalid("stop", "a stop string has 1 to 1000 bytes, not %d", len(t))
		}
	}
	if len(o.StopTokenIDs) > 100 {
		return nil, invalid("stop_token_ids", "at most 100, not %d", len(o.StopTokenIDs))
	}
	if len(o.LogitBias) > 1024 {
		return nil, invalid("logit_bias", "at most 1024 tokens, not %d", len(o.LogitBias))
	}
	for k, b := range o.LogitBias {
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
	j.plan.special = o.SkipSpecial != nil && !*o.SkipSpecial
	return j, m.restrict(j.plan, o)
}

// restrict translates what forbids tokens.
func (m *served) restrict(p *plan, o *options) error {
	if o.AllowedTokenIDs != nil {
		if len(o.AllowedTokenIDs) == 0 {
			return invalid("allowed_token_ids", "allowed_token_ids is empty: nothing could be written")
		}
		p.allowed = make([]uint64, (m.sched.vocab+63)/64)
		for _, id := range o.AllowedTokenIDs {
			if id < 0 || int(id) >= m.sched.vocab {
				return invalid("allowed_token_ids", "token %d is not one of the model's %d", id, m.sched.vocab)
			}
			p.allowed[id/64] |= 1 << (id % 64)
		}
	}
	if len(o.BadWords) > 1024 {
		return invalid("bad_words", "at most 1024, not %d", len(o.BadWords))
	}
	for _, w := range o.BadWords {
		if strings.TrimSpace(w) == "" {
			return invalid("bad_words", "a bad word is empty")
		}
		for _, text := range []string{w, " " + strings.TrimLeft(w, " ")} { // at the start of a line, and behind another word
			ids, err := m.encodeText(text)
			if err != nil {
				return about("bad_words", err)
			}
			if len(ids) > 0 && !slices.ContainsFunc(p.bad, func(b []int32) bool { return slices.Equal(b, ids) }) {
				p.bad = append(p.bad, ids)
			}
		}
	}
	return nil
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

// jobs are the sequences of a request: best of each prompt.
func (s *Server) jobs(ctx context.Context, client string, m *served, q *request) (list []*job, a *answer, err error) {
	base, err := s.job(m, &q.options)
	if err != nil {
		return nil, nil, err
	}
	if q.logprobs > 20 || q.logprobs < -1 {
		return nil, nil, invalid("logprobs", "logprobs must be from 0 to 20, is %d", q.logprobs)
	}
	n := q.n()
	best := max(q.best, n)
	base.ctx, base.client, base.logprobs = ctx, client, q.logprobs
	if best > n {
		base.logprobs = max(base.logprobs, 0)
	}
	a = &answer{m: m, q: q, n: n, best: best}
	form, err := q.form()
	if err != nil {
		return nil, nil, err
	}
	if q.chat != nil {
		if err := s.chatPlan(ctx, m, q, form, base, a); err != nil {
			return nil, nil, err
		}
	} else if base.plan.grammar, err = s.formGrammar(ctx, client, m, form); err != nil {
		return nil, nil, err
	}
	if base.plan.empty() {
		base.plan = nil
	}
	add := func(shape job) {
		for k := range best {
			j := shape
			j.sampling.Seed += uint64(k)
			j.echo = q.echo && q.logprobs >= 0
			list = append(list, &j)
		}
	}
	if q.chat != nil {
		if best > s.o.MaxSequences {
			return nil, nil, invalid("n", "%d texts are more than %d", best, s.o.MaxSequences)
		}
		add(*base)
		return list, a, nil
	}
	if q.prompts.len() == 0 {
		return nil, nil, invalid("prompt", "prompt is missing")
	}
	if q.prompts.len()*best > s.o.MaxSequences {
		return nil, nil, invalid("prompt", "%d prompts × %d texts are more than %d", q.prompts.len(), best, s.o.MaxSequences)
	}
	for i := range q.prompts.len() {
		ids, text, err := m.prompt(q, i)
		if err != nil {
			return nil, nil, err
		}
		shape := *base
		if err := m.fit(&shape, ids, "prompt"); err != nil {
			return nil, nil, err
		}
		a.prompts = append(a.prompts, text)
		add(shape)
	}
	return list, a, nil
}

// prompt is the i-th of the request's prompts, as tokens and as text.
func (m *served) prompt(q *request, i int) (ids []int32, text string, err error) {
	if i >= len(q.prompts.texts) {
		if q.suffix != nil {
			return nil, "", invalid("suffix", "with a suffix the prompt is text")
		}
		ids = q.prompts.tokens[i-len(q.prompts.texts)]
		return ids, m.Tokenizer.Decode(ids), nil
	}
	text = q.prompts.texts[i]
	if q.suffix != nil {
		ids, err = m.between(text, *q.suffix)
		return ids, text, err
	}
	ids, err = m.encode(text, "prompt", q.special == nil || *q.special)
	return ids, text, err
}

// empty reports that the plan asks for nothing.
func (p *plan) empty() bool {
	return p.grammar == nil && p.thought == nil && len(p.show) == 0 && !p.special && p.allowed == nil && len(p.bad) == 0 && p.min == 0
}
