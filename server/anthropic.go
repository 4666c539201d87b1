package server

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Anthropic's protocol of messages.

var messagesFields = fields{
	honoured: "model messages max_tokens system stop_sequences stream temperature top_k top_p tools tool_choice thinking output_config output_format",
	harmless: "metadata service_tier betas user cache_control inference_geo speed",
	refused: map[string]refusal{
		"container": {"the server runs no code", nil}, "mcp_servers": {"the server calls no servers", []string{"[]"}},
		"context_management": {"the context is what is sent", []string{`{"edits":[]}`}},
	},
}

type messagesRequest struct {
	Model       string             `json:"model"`
	Messages    []anthropicMessage `json:"messages"`
	MaxTokens   *int               `json:"max_tokens"`
	System      anthropicContent   `json:"system"`
	Stop        oneOrMore          `json:"stop_sequences"`
	Stream      bool               `json:"stream"`
	Temperature *float32           `json:"temperature"`
	TopK        int                `json:"top_k"`
	TopP        *float32           `json:"top_p"`
	Tools       []struct {
		Type        string          `json:"type"`
		Name        string          `json:"name"`
		Description string          `json:"description"`
		Schema      json.RawMessage `json:"input_schema"`
		Strict      *bool           `json:"strict"`
	} `json:"tools"`
	ToolChoice *struct {
		Type string `json:"type"`
		Name string `json:"name"`
		One  bool   `json:"disable_parallel_tool_use"`
	} `json:"tool_choice"`
	Thinking *struct {
		Type   string `json:"type"`
		Budget *int   `json:"budget_tokens"`
	} `json:"thinking"`
	Output *struct {
		Effort string         `json:"effort"`
		Format *anthropicForm `json:"format"`
	} `json:"output_config"`
	Format *anthropicForm `json:"output_format"`
}

type anthropicForm struct {
	Type   string          `json:"type"`
	Schema json.RawMessage `json:"schema"`
}

type anthropicMessage struct {
	Role    string           `json:"role"`
	Content anthropicContent `json:"content"`
}

// anthropicContent is text or a list of blocks.
type anthropicContent []anthropicBlock

type anthropicBlock struct {
	Type     string           `json:"type"`
	Text     string           `json:"text"`
	Thinking string           `json:"thinking"`
	ID       string           `json:"id"`
	Name     string           `json:"name"`
	Input    json.RawMessage  `json:"input"`
	ToolID   string           `json:"tool_use_id"`
	Content  anthropicContent `json:"content"`
	Title    string           `json:"title"`
	Source   struct {
		Type string `json:"type"`
		Data string `json:"data"`
	} `json:"source"`
}

func (c *anthropicContent) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	var text string
	if json.Unmarshal(b, &text) == nil {
		*c = anthropicContent{{Type: "text", Text: text}}
		return nil
	}
	var blocks []anthropicBlock
	if err := json.Unmarshal(b, &blocks); err != nil {
		return invalid("messages", "content is text or a list of blocks: %s", clip(err.Error(), 100))
	}
	*c = blocks
	return nil
}

// text is content that has only text in it.
func (c anthropicContent) text(param string) (string, error) {
	var b strings.Builder
	for _, x := range c {
		switch {
		case x.Type == "text":
			b.WriteString(x.Text)
		case x.Type == "document" && x.Source.Type == "text":
			b.WriteString(x.Source.Data)
		default:
			return "", invalid(param, "a block of type %q is not supported here: only text", clip(x.Type, 40))
		}
	}
	return b.String(), nil
}

// messages translates one turn, which may be several messages: results of tools stand apart.
func (x *anthropicMessage) messages(i int, before []chatMessage) ([]chatMessage, error) {
	param := fmt.Sprintf("messages[%d].content", i)
	turn := chatMessage{Role: x.Role}
	var results []chatMessage
	said := false
	for _, b := range x.Content {
		switch {
		case b.Type == "thinking" && x.Role == "assistant":
			turn.Thought += b.Thinking
			said = true
		case b.Type == "tool_use" && x.Role == "assistant":
			if !given(b.Input) {
				b.Input = json.RawMessage("{}")
			}
			turn.ToolCalls = append(turn.ToolCalls, toolCall{ID: b.ID, Type: "function", Function: call{b.Name, arguments(b.Input)}})
			said = true
		case b.Type == "tool_result" && x.Role == "user":
			text, err := b.Content.text(param)
			if err != nil {
				return nil, err
			}
			results = append(results, chatMessage{Role: "tool", Content: content{text: text}, ToolCallID: b.ToolID, Name: calledName(before, b.ToolID)})
		default:
			text, err := anthropicContent{b}.text(param)
			if err != nil {
				return nil, err
			}
			if turn.Content.text != "" {
				turn.Content.text += "\n\n"
			}
			turn.Content.text += text
			said = true
		}
	}
	if said || len(results) == 0 {
		results = append(results, turn)
	}
	return results, nil
}

func (q *messagesRequest) conversation() (*conversation, error) {
	c := &conversation{}
	system, err := q.System.text("system")
	if err != nil {
		return nil, err
	}
	if system != "" {
		c.messages = append(c.messages, chatMessage{Role: "system", Content: content{text: system}})
	}
	if len(q.Messages) == 0 {
		return nil, invalid("messages", "messages is missing or empty")
	}
	for i, x := range q.Messages {
		if x.Role != "user" && x.Role != "assistant" && x.Role != "system" {
			return nil, invalid(fmt.Sprintf("messages[%d].role", i), "role %q is not user or assistant", clip(x.Role, 40))
		}
		list, err := x.messages(i, c.messages)
		if err != nil {
			return nil, err
		}
		c.messages = append(c.messages, list...)
	}
	c.messages = oneSystem(c.messages)
	last := c.messages[len(c.messages)-1]
	c.continues = last.Role == "assistant" && len(last.ToolCalls) == 0
	for i, t := range q.Tools {
		if t.Type != "" && t.Type != "custom" {
			return nil, invalid(fmt.Sprintf("tools[%d].type", i), "tools of type %q are not supported: only those with an input_schema", clip(t.Type, 40))
		}
		c.tools = append(c.tools, tool{Type: "function", Function: toolFunction{Name: t.Name, Description: t.Description, Parameters: t.Schema, Strict: t.Strict}})
	}
	if t := q.ToolChoice; t != nil {
		c.one = t.One
		switch t.Type {
		case "auto", "none":
			c.choice = t.Type
		case "any":
			c.choice = "required"
		case "tool":
			c.choice, c.only = "required", t.Name
		default:
			return nil, invalid("tool_choice", "tool_choice.type is auto, any, tool or none, not %q", clip(t.Type, 40))
		}
	}
	on := false
	c.think.enabled = &on // nobody asked for a thought
	if t := q.Thinking; t != nil {
		switch t.Type {
		case "enabled", "adaptive":
			on = true
			c.think.budget = t.Budget
		case "disabled":
		default:
			return nil, invalid("thinking", "thinking.type is enabled, adaptive or disabled, not %q", clip(t.Type, 40))
		}
	}
	if q.Output != nil && on {
		c.think.effort = q.Output.Effort
	}
	return c, nil
}

func (q *messagesRequest) request() (*request, error) {
	if q.MaxTokens == nil {
		return nil, invalid("max_tokens", "max_tokens is missing")
	}
	if *q.MaxTokens < 1 {
		return nil, invalid("max_tokens", "max_tokens must be above 0, is %d", *q.MaxTokens)
	}
	c, err := q.conversation()
	if err != nil {
		return nil, err
	}
	req := &request{chat: c, logprobs: -1, options: options{
		Model: q.Model, MaxTokens: q.MaxTokens, Temperature: q.Temperature, TopP: q.TopP, TopK: q.TopK, Stop: q.Stop,
	}}
	f := q.Format
	if q.Output != nil && q.Output.Format != nil {
		f = q.Output.Format
	}
	if f != nil {
		req.ResponseFormat = &responseFormat{Type: f.Type, Schema: f.Schema}
	}
	return req, nil
}

type anthropicReply struct {
	ID       string           `json:"id"`
	Type     string           `json:"type"`
	Role     string           `json:"role"`
	Model    string           `json:"model"`
	Content  []map[string]any `json:"content"`
	Reason   *string          `json:"stop_reason"`
	Sequence *string          `json:"stop_sequence"`
	Usage    map[string]int   `json:"usage"`
}

func anthropicUsage(c counts) map[string]int {
	return map[string]int{
		"input_tokens": c.prompt - c.cached, "cache_creation_input_tokens": 0, "cache_read_input_tokens": c.cached, "output_tokens": c.written,
	}
}

// anthropicFinish is why a reply ended, in Anthropic's words.
func anthropicFinish(finish, stop string) (reason string, sequence *string) {
	switch {
	case finish == "length":
		return "max_tokens", nil
	case finish == "calls":
		return "tool_use", nil
	case stop != "":
		return "stop_sequence", &stop
	}
	return "end_turn", nil
}

func anthropicID(id string) string { return "toolu_" + strings.TrimPrefix(id, "call_") }

func (s *core) messages(w *response, r *http.Request) error {
	var q messagesRequest
	if err := s.read(w, r, messagesFields, &q); err != nil {
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
	w.Header().Set("Request-Id", w.id)
	out := anthropicReply{ID: "msg_" + w.id, Type: "message", Role: "assistant", Model: a.m.ID, Content: []map[string]any{}}
	if q.Stream {
		return s.messageStream(w, a, &out)
	}
	replies, err := a.whole()
	if err != nil {
		return err
	}
	x := replies[0]
	if x.thought != "" {
		out.Content = append(out.Content, map[string]any{"type": "thinking", "thinking": x.thought, "signature": ""})
	}
	if x.text != "" {
		out.Content = append(out.Content, map[string]any{"type": "text", "text": x.text})
	}
	for _, t := range x.calls {
		out.Content = append(out.Content, map[string]any{"type": "tool_use", "id": anthropicID(t.id), "name": t.name, "input": json.RawMessage(t.arguments)})
	}
	reason, sequence := anthropicFinish(x.finish, x.stop)
	out.Reason, out.Sequence, out.Usage = &reason, sequence, anthropicUsage(a.usage())
	return writeJSON(w, 200, out)
}

// messageStream writes the reply as blocks that begin, grow and end.
func (s *core) messageStream(w *response, a *answer, out *anthropicReply) error {
	e := s.events(w)
	send := func(name string, v map[string]any) error {
		v["type"] = name
		return e.send(name, v)
	}
	started, kind, blocks := false, partFinish, 0
	begin := func() error {
		if started {
			return nil
		}
		started = true
		out.Usage = anthropicUsage(counts{prompt: len(a.jobs[0].prompt)})
		return send("message_start", map[string]any{"message": out})
	}
	end := func() error {
		if kind == partFinish {
			return nil
		}
		if kind == partThought {
			if err := send("content_block_delta", map[string]any{"index": blocks, "delta": map[string]string{"type": "signature_delta", "signature": ""}}); err != nil {
				return err
			}
		}
		kind = partFinish
		blocks++
		return send("content_block_stop", map[string]any{"index": blocks - 1})
	}
	open := func(k partKind, block map[string]any) error {
		if err := end(); err != nil {
			return err
		}
		kind = k
		return send("content_block_start", map[string]any{"index": blocks, "content_block": block})
	}
	delta := func(typ, key, text string) error {
		return send("content_block_delta", map[string]any{"index": blocks, "delta": map[string]string{"type": typ, key: text}})
	}
	err := a.follow(func(p part) error {
		if err := begin(); err != nil {
			return err
		}
		switch p.kind {
		case partThought:
			if kind != partThought {
				if err := open(p.kind, map[string]any{"type": "thinking", "thinking": "", "signature": ""}); err != nil {
					return err
				}
			}
			return delta("thinking_delta", "thinking", p.text)
		case partText:
			if p.text == "" {
				return nil
			}
			if kind != partText {
				if err := open(p.kind, map[string]any{"type": "text", "text": ""}); err != nil {
					return err
				}
			}
			return delta("text_delta", "text", p.text)
		case partCall:
			return open(p.kind, map[string]any{"type": "tool_use", "id": anthropicID(p.id), "name": p.name, "input": map[string]any{}})
		case partArguments:
			return delta("input_json_delta", "partial_json", p.text)
		case partCallEnd:
			return end()
		}
		if err := end(); err != nil {
			return err
		}
		reason, sequence := anthropicFinish(p.finish, p.stop)
		out.Reason, out.Sequence = &reason, sequence
		return nil
	}, e.flush, func() error {
		if err := begin(); err != nil {
			return err
		}
		if err := send("ping", map[string]any{}); err != nil {
			return err
		}
		return e.flush()
	})
	if err == nil {
		err = send("message_delta", map[string]any{"delta": map[string]any{"stop_reason": out.Reason, "stop_sequence": out.Sequence}, "usage": anthropicUsage(a.usage())})
	}
	if err == nil {
		err = send("message_stop", map[string]any{})
	}
	return e.end(err, "", func(api *apiError) error { return send("error", map[string]any{"error": anthropicError(api)}) })
}

// anthropicError is an error in Anthropic's words.
func anthropicError(api *apiError) map[string]string {
	typ := "api_error"
	switch api.status {
	case 400, 405, 421, 422:
		typ = "invalid_request_error"
	case 401:
		typ = "authentication_error"
	case 403:
		typ = "permission_error"
	case 404:
		typ = "not_found_error"
	case 413:
		typ = "request_too_large"
	case 429:
		typ = "rate_limit_error"
	case 503:
		typ = "overloaded_error"
	case 504:
		typ = "timeout_error"
	}
	return map[string]string{"type": typ, "message": api.Message}
}

func (s *core) countTokens(w *response, r *http.Request) error {
	var q messagesRequest
	if err := s.read(w, r, messagesFields, &q); err != nil {
		return err
	}
	m, err := s.model(q.Model)
	if err != nil {
		return err
	}
	c, err := q.conversation()
	if err != nil {
		return err
	}
	ids, err := m.read(c)
	if err != nil {
		return err
	}
	return writeJSON(w, 200, map[string]int{"input_tokens": len(ids)})
}

// anthropicModel is a model as Anthropic's clients list it.
func (m *served) anthropicModel() map[string]any {
	return map[string]any{"type": "model", "id": m.ID, "display_name": m.ID, "created_at": m.Created.UTC().Format(time.RFC3339)}
}

// anthropicModels lists the models for clients that say which version of Anthropic's protocol they speak.
func (s *core) anthropicModels(w *response) error {
	var list []map[string]any
	for _, m := range s.models {
		list = append(list, m.anthropicModel())
	}
	return writeJSON(w, 200, map[string]any{"data": list, "has_more": false, "first_id": list[0]["id"], "last_id": list[len(list)-1]["id"]})
}
