package server

import (
	"encoding/base64"
	"encoding/json"
	"net/http"
	"strings"
	"time"
)

// OpenAI's protocol of responses.

var responseFields = fields{
	honoured: "model input instructions max_output_tokens temperature top_p top_logprobs tools tool_choice parallel_tool_calls text reasoning " +
		"previous_response_id store stream include metadata truncation " +
		"seed top_k min_p repetition_penalty presence_penalty frequency_penalty stop chat_template_kwargs enable_thinking",
	harmless: aside + " max_tool_calls stream_options verbosity",
	refused: map[string]refusal{
		"background":   {"an answer is computed while its client waits", []string{"false"}},
		"conversation": {"use previous_response_id", nil}, "prompt": {"the server keeps no prompts", nil},
		"context_management": {"the context is what is sent", []string{"[]"}}, "structured_outputs": {"use text.format", nil},
	},
}

type responsesRequest struct {
	Model       string          `json:"model"`
	Input       json.RawMessage `json:"input"`
	Instruct    *string         `json:"instructions"`
	MaxTokens   *int            `json:"max_output_tokens"`
	Temperature *float32        `json:"temperature"`
	TopP        *float32        `json:"top_p"`
	TopLogprobs *int            `json:"top_logprobs"`
	Tools       []responseTool  `json:"tools"`
	ToolChoice  json.RawMessage `json:"tool_choice"`
	Parallel    *bool           `json:"parallel_tool_calls"`
	Text        struct {
		Format *responseText `json:"format"`
	} `json:"text"`
	Reasoning *struct {
		Effort  *string `json:"effort"`
		Summary *string `json:"summary"`
	} `json:"reasoning"`
	Previous   *string         `json:"previous_response_id"`
	Store      *bool           `json:"store"`
	Stream     bool            `json:"stream"`
	Include    []string        `json:"include"`
	Metadata   json.RawMessage `json:"metadata"`
	Truncation *string         `json:"truncation"`

	// As vLLM takes them here.
	Seed      *int64         `json:"seed"`
	TopK      int            `json:"top_k"`
	MinP      float32        `json:"min_p"`
	Repeat    float32        `json:"repetition_penalty"`
	Presence  float32        `json:"presence_penalty"`
	Frequency float32        `json:"frequency_penalty"`
	Stop      oneOrMore      `json:"stop"`
	Extra     map[string]any `json:"chat_template_kwargs"`
	Enable    *bool          `json:"enable_thinking"`
}

type responseText struct {
	Type   string          `json:"type"`
	Name   string          `json:"name,omitempty"`
	Schema json.RawMessage `json:"schema,omitempty"`
	Strict *bool           `json:"strict,omitempty"`
}

type responseTool struct {
	Type        string          `json:"type"`
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Parameters  json.RawMessage `json:"parameters"`
	Strict      *bool           `json:"strict"`
}

// responseItem is any item of an input or output.
type responseItem struct {
	ID        string          `json:"id"`
	Type      string          `json:"type"`
	Role      string          `json:"role"`
	Content   json.RawMessage `json:"content"`
	CallID    string          `json:"call_id"`
	Name      string          `json:"name"`
	Arguments arguments       `json:"arguments"`
	Output    json.RawMessage `json:"output"`
	Summary   []textPart      `json:"summary"`
	Encrypted string          `json:"encrypted_content"`
}

type textPart struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

// sealed marks thoughts that go to the client and come back as they are.
const sealed = "trit1."

// request translates; before is what the previous response left.
func (q *responsesRequest) request(before []chatMessage, kept *responseStore, who string) (*request, []chatMessage, error) {
	history, err := q.messages(kept, who)
	if err != nil {
		return nil, nil, err
	}
	history = append(append([]chatMessage{}, before...), history...)
	if len(history) == 0 {
		return nil, nil, invalid("input", "input is missing or empty")
	}
	c := &conversation{messages: history, one: q.Parallel != nil && !*q.Parallel, extra: q.Extra}
	if q.Instruct != nil && *q.Instruct != "" {
		c.messages = append([]chatMessage{{Role: "system", Content: content{text: *q.Instruct}}}, history...)
	}
	c.messages = oneSystem(c.messages)
	for i, t := range q.Tools {
		if t.Type != "function" {
			return nil, nil, invalid("tools", "tools[%d] of type %q is not supported: only function", i, clip(t.Type, 40))
		}
		c.tools = append(c.tools, tool{Type: "function", Function: toolFunction{Name: t.Name, Description: t.Description, Parameters: t.Parameters}})
	}
	if err := q.choose(c); err != nil {
		return nil, nil, err
	}
	req := &request{chat: c, logprobs: -1, options: options{
		Model: q.Model, MaxTokens: q.MaxTokens, Temperature: q.Temperature, TopP: q.TopP, Seed: q.Seed, TopK: q.TopK, MinP: q.MinP, RepetitionPenalty: q.Repeat,
		PresencePenalty: q.Presence, FrequencyPenalty: q.Frequency, Stop: q.Stop,
	}}
	if f := q.Text.Format; f != nil {
		req.ResponseFormat = &responseFormat{Type: f.Type, Schema: f.Schema}
	}
	c.think.enabled = q.Enable
	if q.Reasoning != nil && q.Reasoning.Effort != nil {
		c.think.effort = *q.Reasoning.Effort
	}
	if q.TopLogprobs != nil && *q.TopLogprobs > 0 {
		req.logprobs = *q.TopLogprobs
	}
	for _, x := range q.Include {
		if x == "message.output_text.logprobs" {
			req.logprobs = max(req.logprobs, 0)
		}
	}
	if t := q.Truncation; t != nil && *t != "disabled" && *t != "auto" {
		return nil, nil, invalid("truncation", "truncation is disabled or auto, not %q", clip(*t, 40))
	}
	c.shorten = q.Truncation != nil && *q.Truncation == "auto"
	return req, history, nil
}

// choose reads tool_choice, which may also narrow the tools.
func (q *responsesRequest) choose(c *conversation) (err error) {
	var allowed struct {
		Type  string `json:"type"`
		Mode  string `json:"mode"`
		Tools []struct {
			Name string `json:"name"`
		} `json:"tools"`
	}
	if json.Unmarshal(q.ToolChoice, &allowed) == nil && allowed.Type == "allowed_tools" {
		var some []tool
		for _, t := range c.tools {
			for _, a := range allowed.Tools {
				if a.Name == t.Function.Name {
					some = append(some, t)
				}
			}
		}
		c.tools, c.choice = some, allowed.Mode
		return nil
	}
	c.choice, c.only, err = toolChoice(q.ToolChoice)
	return err
}

// messages translates the input.
func (q *responsesRequest) messages(kept *responseStore, who string) ([]chatMessage, error) {
	var text string
	if !given(q.Input) {
		return nil, nil
	}
	if json.Unmarshal(q.Input, &text) == nil {
		return []chatMessage{{Role: "user", Content: content{text: text}}}, nil
	}
	var items []responseItem
	if err := json.Unmarshal(q.Input, &items); err != nil {
		return nil, invalid("input", "input is text or a list of items: %s", clip(err.Error(), 100))
	}
	var out []chatMessage
	turn := func(fresh bool) *chatMessage { // the assistant's turn that an item belongs to
		if n := len(out); n > 0 && out[n-1].Role == "assistant" && !fresh {
			return &out[n-1]
		}
		out = append(out, chatMessage{Role: "assistant"})
		return &out[len(out)-1]
	}
	for i := 0; i < len(items); i++ {
		x := items[i]
		switch x.Type {
		case "", "message":
			var c content
			if given(x.Content) {
				if err := json.Unmarshal(x.Content, &c); err != nil {
					return nil, about("input", err)
				}
			}
			if x.Role == "assistant" {
				t := turn(len(out) > 0 && out[len(out)-1].Content.text != "")
				t.Content = c
				continue
			}
			out = append(out, chatMessage{Role: x.Role, Content: c})
		case "function_call":
			t := turn(false)
			t.ToolCalls = append(t.ToolCalls, toolCall{ID: x.CallID, Type: "function", Function: call{x.Name, x.Arguments}})
		case "function_call_output":
			var c content
			if err := json.Unmarshal(x.Output, &c); err != nil {
				return nil, about("input", err)
			}
			out = append(out, chatMessage{Role: "tool", Content: c, ToolCallID: x.CallID, Name: calledName(out, x.CallID)})
		case "reasoning":
			turn(true).Thought = x.thought()
		case "item_reference":
			var item responseItem
			if raw := kept.item(x.ID, who); raw == nil || json.Unmarshal(raw, &item) != nil {
				return nil, invalid("input", "input[%d] refers to %q, which is not kept here", i, clip(x.ID, 80))
			}
			items[i] = item
			i--
		default:
			return nil, invalid("input", "input[%d] of type %q is not supported", i, clip(x.Type, 40))
		}
	}
	return out, nil
}

func (x *responseItem) thought() string {
	if s, ok := strings.CutPrefix(x.Encrypted, sealed); ok {
		if b, err := base64.StdEncoding.DecodeString(s); err == nil {
			return string(b)
		}
	}
	var list []textPart
	text := ""
	if json.Unmarshal(x.Content, &list) == nil {
		for _, p := range list {
			text += p.Text
		}
	}
	for _, p := range x.Summary {
		if text == "" {
			text = p.Text
		}
	}
	return text
}

// responseObject is what answers are, with its output so far.
type responseObject struct {
	ID         string           `json:"id"`
	Object     string           `json:"object"`
	Created    int64            `json:"created_at"`
	Completed  *int64           `json:"completed_at"`
	Status     string           `json:"status"`
	Error      any              `json:"error"`
	Incomplete any              `json:"incomplete_details"`
	Instruct   *string          `json:"instructions"`
	MaxTokens  *int             `json:"max_output_tokens"`
	MaxCalls   *int             `json:"max_tool_calls"`
	Model      string           `json:"model"`
	Output     []map[string]any `json:"output"`
	Parallel   bool             `json:"parallel_tool_calls"`
	Previous   *string          `json:"previous_response_id"`
	Reasoning  any              `json:"reasoning"`
	Background bool             `json:"background"`
	Tier       string           `json:"service_tier"`
	Store      bool             `json:"store"`
	Temp       float32          `json:"temperature"`
	Text       any              `json:"text"`
	ToolChoice any              `json:"tool_choice"`
	Tools      []responseTool   `json:"tools"`
	TopP       float32          `json:"top_p"`
	TopLogs    int              `json:"top_logprobs"`
	Presence   float32          `json:"presence_penalty"`
	Frequency  float32          `json:"frequency_penalty"`
	Truncation string           `json:"truncation"`
	Usage      any              `json:"usage"`
	User       any              `json:"user"`
	Metadata   json.RawMessage  `json:"metadata"`
}

func (q *responsesRequest) object(id, model string) *responseObject {
	o := &responseObject{
		ID: id, Object: "response", Created: time.Now().Unix(), Status: "in_progress", Instruct: q.Instruct, MaxTokens: q.MaxTokens, Model: model,
		Output: []map[string]any{}, Parallel: q.Parallel == nil || *q.Parallel, Previous: q.Previous, Tier: "default", Store: q.Store == nil || *q.Store,
		Temp: 1, TopP: 1, Tools: q.Tools, Truncation: "disabled", Metadata: q.Metadata, ToolChoice: "auto", Presence: q.Presence, Frequency: q.Frequency,
		Text: map[string]any{"format": map[string]string{"type": "text"}}, Reasoning: map[string]any{"effort": nil, "summary": nil},
	}
	if q.Temperature != nil {
		o.Temp = *q.Temperature
	}
	if q.TopP != nil {
		o.TopP = *q.TopP
	}
	if q.TopLogprobs != nil {
		o.TopLogs = *q.TopLogprobs
	}
	if q.Truncation != nil {
		o.Truncation = *q.Truncation
	}
	if q.Text.Format != nil {
		o.Text = map[string]any{"format": q.Text.Format}
	}
	if q.Reasoning != nil {
		o.Reasoning = map[string]any{"effort": q.Reasoning.Effort, "summary": q.Reasoning.Summary}
	}
	if given(q.ToolChoice) {
		o.ToolChoice = q.ToolChoice
	}
	if o.Tools == nil {
		o.Tools = []responseTool{}
	}
	for i := range o.Tools {
		if o.Tools[i].Strict == nil {
			o.Tools[i].Strict = new(bool)
		}
		if !given(o.Tools[i].Parameters) {
			o.Tools[i].Parameters = json.RawMessage(noParameters)
		}
	}
	if !given(o.Metadata) {
		o.Metadata = json.RawMessage("{}")
	}
	return o
}

// responseWriter turns the parts of a reply into items and tells each step.
type responseWriter struct {
	o       *responseObject
	m       *served
	tell    func(name string, v map[string]any) error // nil: nobody listens
	summary bool                                      // thoughts are shown as their summary
	seal    bool                                      // thoughts are given back sealed
	scored  bool
	item    map[string]any // the one under way
	kind    partKind
	text    strings.Builder
	scores  []chatLogprob
	made    chatMessage // the turn, for what follows it
}

func (x *responseWriter) send(name string, v map[string]any) error {
	if x.tell == nil {
		return nil
	}
	v["type"] = name
	return x.tell(name, v)
}

// place is what every event says of where it belongs.
func (x *responseWriter) place(more map[string]any) map[string]any {
	more["item_id"], more["output_index"] = x.item["id"], len(x.o.Output)
	return more
}

func (x *responseWriter) part(text string) map[string]any {
	p := map[string]any{"type": "output_text", "text": text, "annotations": []any{}, "logprobs": []any{}}
	if x.scored {
		p["logprobs"] = append([]chatLogprob{}, x.scores...)
	}
	return p
}

// open begins an item.
func (x *responseWriter) open(kind partKind, p part) error {
	if err := x.close("completed"); err != nil {
		return err
	}
	x.kind, x.scores = kind, nil
	x.text.Reset()
	id := newID()
	switch kind {
	case partThought:
		x.item = map[string]any{"id": "rs_" + id, "type": "reasoning", "summary": []any{}, "status": "in_progress"}
		if !x.summary {
			x.item["content"] = []any{}
		}
	case partCall:
		x.item = map[string]any{"id": "fc_" + id, "type": "function_call", "call_id": p.id, "name": p.name, "arguments": "", "status": "in_progress"}
	default:
		x.item = map[string]any{"id": "msg_" + id, "type": "message", "role": "assistant", "content": []any{}, "status": "in_progress"}
	}
	if err := x.send("response.output_item.added", map[string]any{"output_index": len(x.o.Output), "item": x.item}); err != nil {
		return err
	}
	switch {
	case kind == partThought && x.summary:
		return x.send("response.reasoning_summary_part.added", x.place(map[string]any{"summary_index": 0, "part": textPart{"summary_text", ""}}))
	case kind == partThought:
		return x.send("response.content_part.added", x.place(map[string]any{"content_index": 0, "part": textPart{"reasoning_text", ""}}))
	case kind == partText:
		return x.send("response.content_part.added", x.place(map[string]any{"content_index": 0, "part": x.part("")}))
	}
	return nil
}

// add adds text to the item.
func (x *responseWriter) add(p part) error {
	x.text.WriteString(p.text)
	switch {
	case x.kind == partThought && x.summary:
		return x.send("response.reasoning_summary_text.delta", x.place(map[string]any{"summary_index": 0, "delta": p.text}))
	case x.kind == partThought:
		return x.send("response.reasoning_text.delta", x.place(map[string]any{"content_index": 0, "delta": p.text}))
	case x.kind == partCall:
		return x.send("response.function_call_arguments.delta", x.place(map[string]any{"delta": p.text}))
	}
	v := map[string]any{"content_index": 0, "delta": p.text, "logprobs": []any{}}
	if x.scored {
		list := x.m.chatLogprobs(p.tokens).Content
		x.scores = append(x.scores, list...)
		v["logprobs"] = list
	}
	return x.send("response.output_text.delta", x.place(v))
}

// close ends the item under way, if there is one.
func (x *responseWriter) close(status string) error {
	if x.item == nil {
		return nil
	}
	text := x.text.String()
	x.item["status"] = status
	var err error
	steps := func(list ...func() error) {
		for _, f := range list {
			if err == nil {
				err = f()
			}
		}
	}
	switch {
	case x.kind == partThought:
		x.made.Thought += text
		part := textPart{"reasoning_text", text}
		if x.seal {
			x.item["encrypted_content"] = sealed + base64.StdEncoding.EncodeToString([]byte(text))
		}
		if x.summary {
			part.Type = "summary_text"
			x.item["summary"] = []textPart{part}
			steps(func() error {
				return x.send("response.reasoning_summary_text.done", x.place(map[string]any{"summary_index": 0, "text": text}))
			}, func() error {
				return x.send("response.reasoning_summary_part.done", x.place(map[string]any{"summary_index": 0, "part": part}))
			})
			break
		}
		x.item["content"] = []textPart{part}
		steps(func() error {
			return x.send("response.reasoning_text.done", x.place(map[string]any{"content_index": 0, "text": text}))
		}, func() error {
			return x.send("response.content_part.done", x.place(map[string]any{"content_index": 0, "part": part}))
		})
	case x.kind == partCall:
		x.item["arguments"] = text
		if status == "completed" {
			x.made.ToolCalls = append(x.made.ToolCalls, toolCall{ID: x.item["call_id"].(string), Type: "function", Function: call{x.item["name"].(string), arguments(text)}})
		}
		steps(func() error {
			return x.send("response.function_call_arguments.done", x.place(map[string]any{"name": x.item["name"], "arguments": text}))
		})
	default:
		x.made.Content.text += text
		x.item["content"] = []any{x.part(text)}
		steps(func() error {
			return x.send("response.output_text.done", x.place(map[string]any{"content_index": 0, "text": text, "logprobs": x.part("")["logprobs"]}))
		}, func() error {
			return x.send("response.content_part.done", x.place(map[string]any{"content_index": 0, "part": x.part(text)}))
		})
	}
	steps(func() error {
		return x.send("response.output_item.done", map[string]any{"output_index": len(x.o.Output), "item": x.item})
	})
	if x.kind != partCall || status == "completed" { // nobody is to run a call that was cut
		x.o.Output = append(x.o.Output, x.item)
	}
	x.item = nil
	return err
}

// take is told the parts.
func (x *responseWriter) take(p part) error {
	switch p.kind {
	case partText, partThought:
		if p.text == "" && len(p.tokens) == 0 {
			return nil
		}
		if x.item == nil || x.kind != p.kind {
			if err := x.open(p.kind, p); err != nil {
				return err
			}
		}
		return x.add(p)
	case partCall:
		return x.open(partCall, p)
	case partArguments:
		return x.add(p)
	case partCallEnd:
		return x.close("completed")
	}
	status := "completed"
	if p.finish == "length" {
		status = "incomplete"
		x.o.Incomplete = map[string]string{"reason": "max_output_tokens"}
	}
	if x.item == nil && len(x.o.Output) == 0 {
		if err := x.open(partText, p); err != nil {
			return err
		}
	}
	x.o.Status = status
	return x.close(status)
}

func responsesUsage(c counts) map[string]any {
	return map[string]any{
		"input_tokens": c.prompt, "input_tokens_details": map[string]int{"cached_tokens": c.cached},
		"output_tokens": c.written, "output_tokens_details": map[string]int{"reasoning_tokens": c.thought}, "total_tokens": c.prompt + c.written,
	}
}

// keep is what is kept of the response.
func (o *responseObject) keep(input json.RawMessage, messages []chatMessage, owner string) *keptResponse {
	k := &keptResponse{id: o.ID, owner: owner, input: input, messages: messages, items: map[string]json.RawMessage{}}
	k.object, _ = marshal(o) // it was written already
	for _, x := range o.Output {
		k.items[x["id"].(string)], _ = marshal(x)
	}
	return k
}

func (s *core) responses(w *response, r *http.Request) error {
	var q responsesRequest
	if err := s.read(w, r, responseFields, &q); err != nil {
		return err
	}
	var before []chatMessage
	if q.Previous != nil && *q.Previous != "" {
		p := s.kept.get(*q.Previous, w.client)
		if p == nil {
			return &apiError{status: 400, Type: "invalid_request_error", Param: "previous_response_id", Code: "previous_response_not_found", Message: "there is no response " + clip(*q.Previous, 80) + " here: it was not stored, or was the oldest of too many"}
		}
		before = p.messages
	}
	req, history, err := q.request(before, &s.kept, w.client)
	if err != nil {
		return err
	}
	a, err := s.ask(r.Context(), w, req)
	if err != nil {
		return err
	}
	defer a.close()
	o := q.object("resp_"+w.id+newID()[:8], a.m.ID)
	x := &responseWriter{o: o, m: a.m, scored: req.logprobs >= 0, summary: q.Reasoning != nil && q.Reasoning.Summary != nil}
	for _, name := range q.Include {
		x.seal = x.seal || name == "reasoning.encrypted_content"
	}
	finish := func() {
		now := time.Now().Unix()
		o.Usage, o.Completed = responsesUsage(a.usage()), &now
		if o.Store {
			x.made.Role = "assistant"
			s.kept.put(o.keep(q.Input, append(history, x.made), w.client))
		}
	}
	if !q.Stream {
		if err := a.follow(x.take, nothing, nothing); err != nil {
			return err
		}
		finish()
		return writeJSON(w, 200, o)
	}
	e := s.events(w)
	number := 0
	x.tell = func(name string, v map[string]any) error {
		v["sequence_number"] = number
		number++
		return e.send(name, v)
	}
	if err := x.send("response.created", map[string]any{"response": o}); err != nil {
		return err
	}
	if err := x.send("response.in_progress", map[string]any{"response": o}); err != nil {
		return err
	}
	if err = a.follow(x.take, e.flush, e.ping); err == nil {
		finish()
		err = x.send("response."+o.Status, map[string]any{"response": o})
	}
	return e.end(err, "", func(api *apiError) error {
		o.Status, o.Error = "failed", map[string]string{"code": "server_error", "message": api.Message}
		return x.send("response.failed", map[string]any{"response": o})
	})
}

func noResponse(id string) error {
	return &apiError{status: 404, Type: "invalid_request_error", Param: "id", Code: "not_found", Message: "there is no response " + clip(id, 80) + " here"}
}

func (s *core) getResponse(w *response, r *http.Request) error {
	k := s.kept.get(r.PathValue("id"), w.client)
	if k == nil {
		return noResponse(r.PathValue("id"))
	}
	return writeJSON(w, 200, k.object)
}

func (s *core) deleteResponse(w *response, r *http.Request) error {
	id := r.PathValue("id")
	if !s.kept.remove(id, w.client) {
		return noResponse(id)
	}
	return writeJSON(w, 200, map[string]any{"id": id, "object": "response", "deleted": true})
}

func (s *core) responseInput(w *response, r *http.Request) error {
	k := s.kept.get(r.PathValue("id"), w.client)
	if k == nil {
		return noResponse(r.PathValue("id"))
	}
	var text string
	var items []map[string]any
	if json.Unmarshal(k.input, &text) == nil {
		items = []map[string]any{{"type": "message", "role": "user", "content": []textPart{{"input_text", text}}}}
	} else if err := json.Unmarshal(k.input, &items); err != nil {
		return err
	}
	for i, x := range items {
		if x["id"] == nil {
			x["id"] = "msg_" + k.id + "_" + string(rune('a'+i%26))
		}
		if x["type"] == nil {
			x["type"] = "message"
		}
	}
	out := map[string]any{"object": "list", "data": items, "has_more": false, "first_id": nil, "last_id": nil}
	if n := len(items); n > 0 {
		out["first_id"], out["last_id"] = items[0]["id"], items[n-1]["id"]
	}
	return writeJSON(w, 200, out)
}
