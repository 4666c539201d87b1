package server

import (
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"math"
	"net/http"
	"time"
	"unicode/utf8"
)

// OpenAI's protocol: chat completions, completions, embeddings, models. With the fields that vLLM and llama.cpp add.

type usage struct {
	Prompt     int `json:"prompt_tokens"`
	Completion int `json:"completion_tokens"`
	Total      int `json:"total_tokens"`
	Details    struct {
		Cached int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
	Written *writtenDetails `json:"completion_tokens_details,omitempty"`
}

type writtenDetails struct {
	Reasoning int `json:"reasoning_tokens"`
}

func openaiUsage(c counts) *usage {
	u := &usage{Prompt: c.prompt, Completion: c.written, Total: c.prompt + c.written}
	u.Details.Cached = c.cached
	if c.thought > 0 {
		u.Written = &writtenDetails{c.thought}
	}
	return u
}

type streamOptions struct {
	IncludeUsage    bool `json:"include_usage"`
	ContinuousUsage bool `json:"continuous_usage_stats"`
}

// ---- chat completions

type chatRequest struct {
	options
	Stream              bool            `json:"stream"`
	StreamOptions       *streamOptions  `json:"stream_options"`
	Messages            []chatMessage   `json:"messages"`
	MaxCompletionTokens *int            `json:"max_completion_tokens"`
	NPredict            *int            `json:"n_predict"`
	Logprobs            bool            `json:"logprobs"`
	TopLogprobs         *int            `json:"top_logprobs"`
	Tools               []tool          `json:"tools"`
	ToolChoice          json.RawMessage `json:"tool_choice"`
	Parallel            *bool           `json:"parallel_tool_calls"`
	Extra               map[string]any  `json:"chat_template_kwargs"`
	Continue            bool            `json:"continue_final_message"`
	Generate            *bool           `json:"add_generation_prompt"`
	thoughtFields
}

// thoughtFields are the names under which servers take what is said about thoughts.
type thoughtFields struct {
	Effort         string `json:"reasoning_effort"`
	Enable         *bool  `json:"enable_thinking"`
	Budget         *int   `json:"thinking_budget"`
	BudgetTokens   *int   `json:"thinking_budget_tokens"`
	TokenBudget    *int   `json:"thinking_token_budget"`
	IncludeThought *bool  `json:"include_reasoning"`
	Format         string `json:"reasoning_format"`
	Reasoning      *struct {
		Effort  string `json:"effort"`
		Max     *int   `json:"max_tokens"`
		Exclude bool   `json:"exclude"`
		Enabled *bool  `json:"enabled"`
	} `json:"reasoning"`
	Thinking *struct {
		Type   string `json:"type"`
		Budget *int   `json:"budget_tokens"`
	} `json:"thinking"`
}

// thinking translates the fields; hide says that thoughts are not to be shown, raw that they are to stay text.
func (q *thoughtFields) thinking() (t thinking, hide, raw bool, err error) {
	t = thinking{enabled: q.Enable, effort: q.Effort, budget: q.Budget}
	for _, b := range []*int{q.BudgetTokens, q.TokenBudget} {
		if b != nil {
			t.budget = b
		}
	}
	if r := q.Reasoning; r != nil {
		t.effort = orWord(t.effort, r.Effort)
		hide = r.Exclude
		if r.Max != nil {
			t.budget = r.Max
		}
		if r.Enabled != nil {
			t.enabled = r.Enabled
		}
	}
	if h := q.Thinking; h != nil {
		on := h.Type != "disabled"
		t.enabled = &on
		if h.Budget != nil {
			t.budget = h.Budget
		}
	}
	switch t.effort {
	case "", "none", "minimal", "low", "medium", "high", "xhigh", "max":
	default:
		return t, hide, raw, invalid("reasoning_effort", "reasoning_effort is none, minimal, low, medium, high, xhigh or max, not %q", clip(t.effort, 40))
	}
	switch q.Format {
	case "", "auto", "deepseek":
	case "none":
		raw = true
	default:
		return t, hide, raw, invalid("reasoning_format", "reasoning_format is auto, deepseek or none, not %q", clip(q.Format, 40))
	}
	return t, hide || q.IncludeThought != nil && !*q.IncludeThought, raw, nil
}

// request translates a chat; hide says that thoughts are not part of the answer.
func (q *chatRequest) request() (req *request, hide bool, err error) {
	c := &conversation{messages: q.Messages, tools: q.Tools, one: q.Parallel != nil && !*q.Parallel, extra: q.Extra, continues: q.Continue}
	if q.Continue && q.Generate != nil && *q.Generate {
		return nil, false, invalid("continue_final_message", "continue_final_message and add_generation_prompt cannot both be true")
	}
	c.bare = !q.Continue && q.Generate != nil && !*q.Generate
	if c.choice, c.only, err = toolChoice(q.ToolChoice); err != nil {
		return nil, false, err
	}
	var raw bool
	if c.think, hide, raw, err = q.thinking(); err != nil {
		return nil, false, err
	}
	c.raw = raw
	if q.MaxTokens == nil {
		q.MaxTokens = q.NPredict
	}
	if q.MaxCompletionTokens != nil {
		q.MaxTokens = q.MaxCompletionTokens
	}
	req = &request{options: q.options, chat: c, logprobs: -1}
	if q.TopLogprobs != nil && (*q.TopLogprobs < 0 || *q.TopLogprobs > 20) {
		return nil, false, invalid("top_logprobs", "top_logprobs must be from 0 to 20, is %d", *q.TopLogprobs)
	}
	if q.TopLogprobs != nil && *q.TopLogprobs > 0 && !q.Logprobs {
		return nil, false, invalid("top_logprobs", "top_logprobs needs logprobs to be true")
	}
	if q.Logprobs {
		req.logprobs = 0
		if q.TopLogprobs != nil {
			req.logprobs = *q.TopLogprobs
		}
	}
	return req, hide, nil
}

type chatDelta struct {
	Role      string     `json:"role,omitempty"`
	Content   *string    `json:"content,omitempty"`
	Thought   string     `json:"reasoning_content,omitempty"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

type chatMessageOut struct {
	Role      string     `json:"role"`
	Content   *string    `json:"content"`
	Refusal   *string    `json:"refusal"`
	Thought   string     `json:"reasoning_content,omitempty"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

type chatChoice struct {
	Index    int             `json:"index"`
	Delta    *chatDelta      `json:"delta,omitempty"`
	Message  *chatMessageOut `json:"message,omitempty"`
	Logprobs *chatLogprobs   `json:"logprobs"`
	Finish   *string         `json:"finish_reason"`
}

type chatCompletion struct {
	ID          string       `json:"id"`
	Object      string       `json:"object"`
	Created     int64        `json:"created"`
	Model       string       `json:"model"`
	Fingerprint string       `json:"system_fingerprint"`
	Choices     []chatChoice `json:"choices"`
	Usage       *usage       `json:"usage,omitempty"`
}

// openaiFinish is a finish in OpenAI's words.
func openaiFinish(finish string) *string {
	if finish == "calls" {
		finish = "tool_calls"
	}
	return &finish
}

func (s *core) chatCompletions(w *response, r *http.Request) error {
	var q chatRequest
	if err := s.read(w, r, chatFields, &q); err != nil {
		return err
	}
	req, hide, err := q.request()
	if err != nil {
		return err
	}
	a, err := s.ask(r.Context(), w, req)
	if err != nil {
		return err
	}
	defer a.close()
	out := chatCompletion{ID: "chatcmpl-" + w.id, Object: "chat.completion", Created: time.Now().Unix(), Model: a.m.ID, Fingerprint: "trit-" + s.o.Version}
	if q.Stream {
		return s.chatStream(w, a, &out, q.StreamOptions, hide, q.Logprobs)
	}
	replies, err := a.whole()
	if err != nil {
		return err
	}
	for i, x := range replies {
		c := chatChoice{Index: i, Message: &chatMessageOut{Role: "assistant", Thought: x.thought}, Finish: openaiFinish(x.finish)}
		if hide {
			c.Message.Thought = ""
		}
		if text := x.text; text != "" || len(x.calls) == 0 {
			c.Message.Content = &text
		}
		for _, t := range x.calls {
			c.Message.ToolCalls = append(c.Message.ToolCalls, toolCall{ID: t.id, Type: "function", Function: call{t.name, arguments(t.arguments)}})
		}
		if q.Logprobs {
			c.Logprobs = a.m.chatLogprobs(x.tokens)
		}
		out.Choices = append(out.Choices, c)
	}
	out.Usage = openaiUsage(a.usage())
	return writeJSON(w, 200, out)
}

// chatStream writes the answer's parts as chunks.
func (s *core) chatStream(w *response, a *answer, out *chatCompletion, o *streamOptions, hide, logprobs bool) error {
	out.Object = "chat.completion.chunk"
	e := s.events(w)
	started := make([]bool, len(a.jobs))
	send := func(c chatChoice) error {
		if !started[c.Index] {
			started[c.Index] = true
			out.Choices = []chatChoice{{Index: c.Index, Delta: &chatDelta{Role: "assistant", Content: new(string)}}}
			if err := e.send("", out); err != nil {
				return err
			}
		}
		out.Choices = []chatChoice{c}
		return e.send("", out)
	}
	err := a.follow(func(p part) error {
		c := chatChoice{Index: p.index, Delta: &chatDelta{}}
		if logprobs && len(p.tokens) > 0 {
			c.Logprobs = a.m.chatLogprobs(p.tokens)
		}
		switch p.kind {
		case partText:
			if p.text == "" && c.Logprobs == nil {
				return nil
			}
			c.Delta.Content = &p.text
		case partThought:
			if c.Delta.Thought = p.text; hide {
				if c.Delta.Thought = ""; c.Logprobs == nil {
					return nil
				}
			}
		case partCall:
			c.Delta.ToolCalls = []toolCall{{Index: &p.call, ID: p.id, Type: "function", Function: call{Name: p.name}}}
		case partArguments:
			c.Delta.ToolCalls = []toolCall{{Index: &p.call, Function: call{Arguments: arguments(p.text)}}}
		case partFinish:
			c.Finish = openaiFinish(p.finish)
		default:
			return nil
		}
		return send(c)
	}, e.flush, e.ping)
	if err == nil && o != nil && o.IncludeUsage {
		out.Choices, out.Usage = []chatChoice{}, openaiUsage(a.usage())
		err = e.send("", out)
	}
	return e.end(err, done, openaiError(e))
}

// ---- completions

type completionRequest struct {
	options
	Stream           bool           `json:"stream"`
	StreamOptions    *streamOptions `json:"stream_options"`
	Prompt           prompts        `json:"prompt"`
	Suffix           string         `json:"suffix"`
	Echo             bool           `json:"echo"`
	Logprobs         *int           `json:"logprobs"`
	BestOf           *int           `json:"best_of"`
	AddSpecialTokens *bool          `json:"add_special_tokens"`
	NPredict         *int           `json:"n_predict"`
}

func (q *completionRequest) request() (*request, error) {
	if q.MaxTokens == nil {
		q.MaxTokens = q.NPredict
	}
	if q.MaxTokens == nil {
		q.MaxTokens = new(int)
		*q.MaxTokens = 16 // as OpenAI's
	}
	req := &request{options: q.options, prompts: q.Prompt, special: q.AddSpecialTokens, echo: q.Echo, logprobs: -1}
	if q.Suffix != "" {
		req.suffix = &q.Suffix
	}
	if q.Logprobs != nil {
		if req.logprobs = *q.Logprobs; req.logprobs < 0 {
			req.logprobs = -2 // refused
		}
	}
	if q.BestOf != nil {
		n := q.n()
		if req.best = *q.BestOf; req.best < n || req.best > 20 && req.best > n || req.best > n && q.Stream {
			return nil, invalid("best_of", "best_of must be from n (%d) to 20, without stream, is %d", n, req.best)
		}
	}
	return req, nil
}

type completionLogprobs struct {
	Tokens   []string             `json:"tokens"`
	Logprobs []*float64           `json:"token_logprobs"`
	Top      []map[string]float64 `json:"top_logprobs"`
	Offsets  []int                `json:"text_offset"`
}

type completionChoice struct {
	Text     string              `json:"text"`
	Index    int                 `json:"index"`
	Logprobs *completionLogprobs `json:"logprobs"`
	Finish   *string             `json:"finish_reason"`
}

type completion struct {
	ID      string             `json:"id"`
	Object  string             `json:"object"`
	Created int64              `json:"created"`
	Model   string             `json:"model"`
	Choices []completionChoice `json:"choices"`
	Usage   *usage             `json:"usage,omitempty"`
}

// add appends tokens to the logprobs; offset counts characters.
func (l *completionLogprobs) add(m *served, tokens []token, offset *int) {
	for _, t := range tokens {
		text := m.tokenText(t.id)
		l.Tokens = append(l.Tokens, text)
		l.Offsets = append(l.Offsets, *offset)
		*offset += utf8.RuneCountInString(text)
		if t.first {
			l.Logprobs, l.Top = append(l.Logprobs, nil), append(l.Top, nil)
			continue
		}
		l.Logprobs = append(l.Logprobs, &t.logprob)
		top := map[string]float64{text: t.logprob}
		for _, x := range t.top {
			// Different tokens may read the same; the likeliest one counts.
			if k := m.tokenText(x.ID); top[k] == 0 || top[k] < x.Logprob {
				top[k] = x.Logprob
			}
		}
		l.Top = append(l.Top, top)
	}
}

func (s *core) completions(w *response, r *http.Request) error {
	var q completionRequest
	if err := s.read(w, r, completionFields, &q); err != nil {
		return err
	}
	req, err := q.request()
	if err != nil {
		return err
	}
	a, err := s.ask(r.Context(), w, req)
	if err != nil {
		return err
	}
	defer a.close()
	out := completion{ID: "cmpl-" + w.id, Object: "text_completion", Created: time.Now().Unix(), Model: a.m.ID}
	scored := q.Echo && q.Logprobs != nil // the prompt comes back token by token
	offsets := make([]int, len(a.jobs))
	logprobs := func(c *completionChoice, at int, lists ...[]token) {
		for _, tokens := range lists {
			if q.Logprobs != nil && len(tokens) > 0 {
				if c.Logprobs == nil {
					c.Logprobs = &completionLogprobs{}
				}
				c.Logprobs.add(a.m, tokens, &offsets[at])
			}
		}
	}
	head := func(reply, perPrompt int) string { // what echo puts in front
		if !q.Echo {
			return ""
		}
		return a.prompts[reply/perPrompt]
	}
	for i := range offsets {
		if q.Echo && !scored {
			offsets[i] = utf8.RuneCountInString(head(i, a.best))
		}
	}
	if !q.Stream {
		replies, err := a.whole()
		if err != nil {
			return err
		}
		for i, x := range replies {
			c := completionChoice{Text: head(i, a.n) + x.text, Index: i, Finish: openaiFinish(x.finish)}
			logprobs(&c, i, x.prompt, x.tokens)
			out.Choices = append(out.Choices, c)
		}
		out.Usage = openaiUsage(a.usage())
		return writeJSON(w, 200, out)
	}
	e := s.events(w)
	started := make([]bool, len(a.jobs))
	err = a.follow(func(p part) error {
		c := completionChoice{Text: p.text, Index: p.index}
		if !started[p.index] {
			started[p.index] = true
			c.Text = head(p.index, a.best) + c.Text
		}
		logprobs(&c, p.index, p.prompt, p.tokens)
		if p.kind == partFinish {
			c.Finish = openaiFinish(p.finish)
		}
		out.Choices = []completionChoice{c}
		return e.send("", out)
	}, e.flush, e.ping)
	if err == nil && q.StreamOptions != nil && q.StreamOptions.IncludeUsage {
		out.Choices, out.Usage = []completionChoice{}, openaiUsage(a.usage())
		err = e.send("", out)
	}
	return e.end(err, done, openaiError(e))
}

// ---- embeddings

func (s *core) embeddings(w *response, r *http.Request) error {
	var q struct {
		Model      string  `json:"model"`
		Input      prompts `json:"input"`
		Format     string  `json:"encoding_format"`
		Dimensions int     `json:"dimensions"`
		Truncate   int     `json:"truncate_prompt_tokens"`
	}
	if err := s.read(w, r, embeddingFields, &q); err != nil {
		return err
	}
	if q.Format != "" && q.Format != "float" && q.Format != "base64" {
		return invalid("encoding_format", "encoding_format is float or base64, not %q", clip(q.Format, 40))
	}
	v, err := s.embed(r.Context(), w, q.Model, q.Input, q.Dimensions, q.Truncate)
	if err != nil {
		return err
	}
	type item struct {
		Object    string `json:"object"`
		Index     int    `json:"index"`
		Embedding any    `json:"embedding"`
	}
	data := []item{}
	for i, x := range v.vectors {
		it := item{"embedding", i, x}
		if q.Format == "base64" {
			var b []byte
			for _, f := range x {
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(f))
			}
			it.Embedding = base64.StdEncoding.EncodeToString(b)
		}
		data = append(data, it)
	}
	return writeJSON(w, 200, map[string]any{
		"object": "list", "data": data, "model": v.m.ID,
		"usage": map[string]int{"prompt_tokens": v.tokens, "total_tokens": v.tokens},
	})
}

// ---- models

type modelInfo struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
	Context int    `json:"max_model_len"`
}

func (m *served) info() modelInfo {
	return modelInfo{m.ID, "model", m.Created.Unix(), "trit", m.MaxContext}
}

func (s *core) listModels(w *response, r *http.Request) error {
	list := []modelInfo{}
	for _, m := range s.models {
		list = append(list, m.info())
	}
	return writeJSON(w, 200, map[string]any{"object": "list", "data": list})
}

func (s *core) getModel(w *response, r *http.Request) error {
	m := s.find(r.PathValue("id"))
	if m == nil {
		return &apiError{status: 404, Type: "invalid_request_error", Param: "model", Code: "model_not_found", Message: "there is no model " + clip(r.PathValue("id"), 100) + " here"}
	}
	return writeJSON(w, 200, m.info())
}
