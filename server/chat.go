package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/grammar"
	"github.com/tritlm/trit/tokenizer"
)

type chatRequest struct {
	generate
	Messages            []chatMessage   `json:"messages"`
	MaxCompletionTokens *int            `json:"max_completion_tokens"`
	Logprobs            bool            `json:"logprobs"`
	TopLogprobs         *int            `json:"top_logprobs"`
	Tools               []tool          `json:"tools"`
	ToolChoice          json.RawMessage `json:"tool_choice"`
	Parallel            *bool           `json:"parallel_tool_calls"`
	Extra               map[string]any  `json:"chat_template_kwargs"`
}

type chatMessage struct {
	Role       string     `json:"role"`
	Content    content    `json:"content"`
	Name       string     `json:"name"`
	ToolCalls  []toolCall `json:"tool_calls"`
	ToolCallID string     `json:"tool_call_id"`
}

// content is a string or a list of text parts, which a newline joins.
type content string

func (c *content) UnmarshalJSON(b []byte) error {
	var text string
	if string(b) == "null" {
		return nil
	}
	if json.Unmarshal(b, &text) == nil {
		*c = content(text)
		return nil
	}
	var parts []struct {
		Type string `json:"type"`
		Text string `json:"text"`
	}
	if json.Unmarshal(b, &parts) != nil {
		return invalid("messages", "a message's content is a string or a list of parts, found %s", clip(string(b), 40))
	}
	for i, p := range parts {
		if p.Type != "text" && p.Type != "input_text" {
			return invalid("messages", "content of type %q is not supported: only text", clip(p.Type, 40))
		}
		if i > 0 {
			*c += "\n"
		}
		*c += content(p.Text)
	}
	return nil
}

type tool struct {
	Type     string       `json:"type"`
	Function toolFunction `json:"function"`
}

type toolFunction struct {
	Name        string          `json:"name"`
	Description string          `json:"description,omitempty"`
	Parameters  json.RawMessage `json:"parameters,omitempty"`
}

type toolCall struct {
	Index    *int   `json:"index,omitempty"` // in streams
	ID       string `json:"id"`
	Type     string `json:"type"`
	Function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

// conversation is messages and tools, ready for the template.
type conversation struct {
	messages []tokenizer.Message
	tools    any // for templates that know tools
	extra    map[string]any
	format   grammar.ToolFormat
}

var toolName = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,64}$`)

// conversation checks messages and finds out how the model's template wants tools.
func (m *served) conversation(in []chatMessage, tools []tool, extra map[string]any) (conversation, error) {
	c := conversation{extra: extra}
	if len(in) == 0 {
		return c, invalid("messages", "messages is missing or empty")
	}
	called := false
	for i, x := range in {
		t := tokenizer.Message{Role: x.Role, Content: string(x.Content), Name: x.Name, ToolCallID: x.ToolCallID}
		switch x.Role {
		case "developer":
			t.Role = "system"
		case "function":
			t.Role, called = "tool", true
		case "system", "user", "assistant":
		case "tool":
			called = true
		default:
			return c, invalid(fmt.Sprintf("messages[%d].role", i), "role %q is not system, developer, user, assistant or tool", clip(x.Role, 40))
		}
		for _, tc := range x.ToolCalls {
			if !json.Valid([]byte(tc.Function.Arguments)) {
				return c, invalid(fmt.Sprintf("messages[%d].tool_calls", i), "the arguments of %q are not JSON", clip(tc.Function.Name, 64))
			}
			t.ToolCalls = append(t.ToolCalls, tokenizer.ToolCall{ID: tc.ID, Name: tc.Function.Name, Arguments: tc.Function.Arguments})
			called = true
		}
		if err := m.Tokenizer.Check(t.Content); err != nil {
			return c, invalid(fmt.Sprintf("messages[%d].content", i), "%v", err)
		}
		c.messages = append(c.messages, t)
	}
	if len(tools) == 0 && !called {
		return c, nil
	}
	return c, m.addTools(&c, tools)
}

// hermes is how tool calls are written for templates that do not say.
var hermes = grammar.ToolFormat{Open: "<tool_call>\n", Close: "\n</tool_call>", Arguments: "arguments"}

// addTools gives the tools to a template that knows them; for others it describes them in the system
// message, and calls and results become text.
func (m *served) addTools(c *conversation, tools []tool) error {
	c.format = hermes
	list := make([]tool, len(tools)) // as templates expect it: complete, in this order
	for i, t := range tools {
		if t.Type != "" && t.Type != "function" {
			return invalid(fmt.Sprintf("tools[%d].type", i), "tools of type %q are not supported: only function", clip(t.Type, 40))
		}
		if !toolName.MatchString(t.Function.Name) {
			return invalid(fmt.Sprintf("tools[%d].function.name", i), "a tool's name has 1 to 64 letters, digits, _, - or ., not %q", clip(t.Function.Name, 80))
		}
		t.Type = "function"
		if len(t.Function.Parameters) == 0 {
			t.Function.Parameters = json.RawMessage(`{"type":"object","properties":{}}`)
		}
		list[i] = t
	}
	raw, err := json.Marshal(list)
	if err != nil {
		return invalid("tools", "%v", err)
	}
	probe := []tokenizer.Message{{Role: "user", Content: "x"}}
	with, err1 := m.Tokenizer.Chat(probe, tokenizer.ChatOptions{Tools: json.RawMessage(raw)})
	without, err2 := m.Tokenizer.Chat(probe, tokenizer.ChatOptions{})
	if err1 == nil && err2 == nil && len(list) > 0 && with != without {
		c.tools = json.RawMessage(raw)
		if !strings.Contains(with, "<tool_call>") && strings.Contains(with, `"parameters"`) {
			c.format = grammar.ToolFormat{Arguments: "parameters"} // Llama 3.1 and its relatives
		}
		return nil
	}
	if len(list) > 0 {
		var b strings.Builder
		b.WriteString("You can call functions. To call one, answer with nothing but this, once per call:\n")
		b.WriteString(hermes.Open + `{"name": "FUNCTION", "arguments": {...}}` + hermes.Close)
		b.WriteString("\nThe functions, as JSON, one per line:\n")
		for _, t := range list {
			line, err := json.Marshal(t.Function)
			if err != nil {
				return invalid("tools", "%v", err)
			}
			b.Write(line)
			b.WriteByte('\n')
		}
		if len(c.messages) > 0 && c.messages[0].Role == "system" {
			c.messages[0].Content += "\n\n" + b.String()
		} else {
			c.messages = append([]tokenizer.Message{{Role: "system", Content: b.String()}}, c.messages...)
		}
	}
	for i := range c.messages {
		t := &c.messages[i]
		for _, call := range t.ToolCalls {
			name, err := json.Marshal(call.Name)
			if err != nil {
				return err
			}
			t.Content += fmt.Sprintf(`%s{"name": %s, "arguments": %s}%s`, hermes.Open, name, call.Arguments, hermes.Close)
		}
		t.ToolCalls = nil
		if t.Role == "tool" {
			*t = tokenizer.Message{Role: "user", Content: "<tool_response>\n" + t.Content + "\n</tool_response>"}
		}
	}
	return nil
}

// render writes the conversation as the model's template does and encodes it. Control tokens count only
// where the template wrote them: what a message says of them is text.
func (m *served) render(c conversation, generate bool) (ids []int32, plain bool, err error) {
	o := tokenizer.ChatOptions{AddGenerationPrompt: generate, Tools: c.tools, Extra: c.extra}
	forged := false
	for _, msg := range c.messages {
		forged = forged || m.hasControl(msg.Content)
	}
	if !forged {
		ids, plain, err = trit.RenderChat(m.Tokenizer, c.messages, o)
	} else {
		ids, plain, err = m.renderForged(c.messages, o)
	}
	if err != nil && !errors.As(err, new(*apiError)) {
		err = invalid("messages", "the model's chat template refuses this conversation: %v", err)
	}
	return ids, plain, err
}

func (m *served) hasControl(text string) bool {
	for _, s := range m.special {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// renderForged renders with marks in the place of messages that spell control tokens, and encodes the
// pieces apart.
func (m *served) renderForged(messages []tokenizer.Message, o tokenizer.ChatOptions) ([]int32, bool, error) {
	id := newID()
	marked := append([]tokenizer.Message(nil), messages...)
	for i := range marked {
		if m.hasControl(marked[i].Content) {
			marked[i].Content = fmt.Sprintf("%s-%d-", id, i)
		}
	}
	text, err := m.Tokenizer.Chat(marked, o)
	if errors.Is(err, tokenizer.ErrNoTemplate) { // the plain form: no control tokens at all
		text := ""
		for _, x := range messages {
			text += strings.ToUpper(x.Role[:1]) + x.Role[1:] + ": " + strings.TrimSpace(x.Content) + "\n"
		}
		if o.AddGenerationPrompt {
			text += "Assistant:"
		}
		return m.Tokenizer.Encode(text, tokenizer.EncodeOptions{AddSpecial: true}), true, nil
	}
	if err != nil {
		return nil, false, err
	}
	var ids []int32
	for at := 0; at <= len(text); {
		i := strings.Index(text[at:], id+"-")
		if i < 0 {
			ids = m.Tokenizer.AppendEncode(ids, text[at:], tokenizer.EncodeOptions{ParseSpecial: true})
			break
		}
		ids = m.Tokenizer.AppendEncode(ids, text[at:at+i], tokenizer.EncodeOptions{ParseSpecial: true})
		at += i + len(id) + 1
		var n int
		if _, err := fmt.Sscanf(text[at:], "%d-", &n); err != nil || n >= len(messages) {
			return nil, false, invalid("messages", "a message spells control tokens of the model")
		}
		at += strings.IndexByte(text[at:], '-') + 1
		ids = m.Tokenizer.AppendEncode(ids, messages[n].Content, tokenizer.EncodeOptions{})
	}
	return ids, false, nil
}

// toolGrammar makes the grammar that tool_choice asks for, nil for none. form is the schema of replies that call
// nothing, nil for any text.
func (s *Server) toolGrammar(ctx context.Context, m *served, q *chatRequest, c *conversation, form []byte) (*grammar.Grammar, error) {
	choice := "auto"
	var named struct {
		Type     string `json:"type"`
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	}
	tools := q.Tools
	if len(q.ToolChoice) > 0 && string(q.ToolChoice) != "null" {
		if json.Unmarshal(q.ToolChoice, &choice) != nil {
			if json.Unmarshal(q.ToolChoice, &named) != nil || named.Type != "function" {
				return nil, invalid("tool_choice", "tool_choice is none, auto, required or a function, not %s", clip(string(q.ToolChoice), 60))
			}
			choice = "required"
			tools = nil
			for _, t := range q.Tools {
				if t.Function.Name == named.Function.Name {
					tools = []tool{t}
				}
			}
			if tools == nil {
				return nil, invalid("tool_choice", "tool_choice names %q, which is not among the tools", clip(named.Function.Name, 64))
			}
		}
	}
	switch choice {
	case "none":
		return nil, nil
	case "auto", "required":
	default:
		return nil, invalid("tool_choice", "tool_choice is none, auto, required or a function, not %q", clip(choice, 40))
	}
	if choice == "required" && len(tools) == 0 {
		return nil, invalid("tool_choice", "tool_choice %q needs tools", choice)
	}
	if len(tools) == 0 {
		return nil, nil
	}
	several := q.Parallel == nil || *q.Parallel
	if named.Function.Name != "" {
		several = false
	}
	var list []grammar.Tool
	var key bytes.Buffer
	fmt.Fprintf(&key, "%q %v %v %q", c.format, choice, several, form)
	for _, t := range tools {
		list = append(list, grammar.Tool{Name: t.Function.Name, Parameters: t.Function.Parameters})
		fmt.Fprintf(&key, "\x00%s\x00%s", t.Function.Name, t.Function.Parameters)
	}
	g, err := s.grammar(ctx, m, "tools", key.String(), func(v *grammar.Vocab) (*grammar.Grammar, error) {
		return grammar.ToolCalls(v, c.format, list, choice == "required", several, form)
	})
	if err != nil {
		api := *asAPIError(err)
		api.Param = "tools"
		return nil, &api
	}
	return g, nil
}

// toolReader splits a reply into text and calls as it arrives.
type toolReader struct {
	f     grammar.ToolFormat
	on    bool // there are tools
	names []string
	form  bool   // what is no call is a document, which may begin like one
	held  string // text that may still become a call, or calls that are not complete
	text  bool   // the reply is text
	calls int
}

// push takes more of the reply and returns the text and calls that are certain; end says that it is all.
func (t *toolReader) push(more string, end bool) (text string, calls []toolCall) {
	if !t.on || t.text {
		return more, nil
	}
	t.held += more
	trigger := t.f.Trigger()
	if t.calls == 0 && !strings.HasPrefix(t.held, trigger) {
		if strings.HasPrefix(trigger, t.held) && !end {
			return "", nil
		}
		t.text = true
		text, t.held = t.held, ""
		return text, nil
	}
	for {
		rest := strings.TrimPrefix(strings.TrimPrefix(t.held, "\n"), t.f.Open)
		d := json.NewDecoder(strings.NewReader(rest))
		var c struct {
			Name       string          `json:"name"`
			Arguments  json.RawMessage `json:"arguments"`
			Parameters json.RawMessage `json:"parameters"`
		}
		if err := d.Decode(&c); err != nil {
			break
		}
		after := rest[d.InputOffset():]
		if !strings.HasPrefix(after, t.f.Close) {
			break
		}
		if t.form && (!slices.Contains(t.names, c.Name) || c.Arguments == nil && c.Parameters == nil) {
			break // a document
		}
		t.held = after[len(t.f.Close):]
		call := toolCall{ID: "call_" + newID(), Type: "function"}
		call.Function.Name = c.Name
		call.Function.Arguments = string(append(c.Arguments, c.Parameters...))
		calls = append(calls, call)
		t.calls++
	}
	if end && t.held != "" { // cut short
		text, t.held = t.held, ""
	}
	return text, calls
}

type chatDelta struct {
	Role      string     `json:"role,omitempty"`
	Content   *string    `json:"content,omitempty"`
	ToolCalls []toolCall `json:"tool_calls,omitempty"`
}

type chatMessageOut struct {
	Role      string     `json:"role"`
	Content   *string    `json:"content"`
	Refusal   *string    `json:"refusal"`
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

// chatJob makes the job of a chat request and the reader of its replies.
func (s *Server) chatJob(ctx context.Context, m *served, q *chatRequest) (*job, toolReader, error) {
	var reader toolReader
	if q.MaxCompletionTokens != nil {
		q.MaxTokens = q.MaxCompletionTokens
	}
	j, err := s.job(ctx, m, &q.generate)
	if err != nil {
		return nil, reader, err
	}
	if q.TopLogprobs != nil && (*q.TopLogprobs < 0 || *q.TopLogprobs > 20) {
		return nil, reader, invalid("top_logprobs", "top_logprobs must be from 0 to 20, is %d", *q.TopLogprobs)
	}
	if q.TopLogprobs != nil && !q.Logprobs {
		return nil, reader, invalid("top_logprobs", "top_logprobs needs logprobs to be true")
	}
	if q.Logprobs {
		j.logprobs = 0
		if q.TopLogprobs != nil {
			j.logprobs = *q.TopLogprobs
		}
	}
	if len(q.Tools) > 128 {
		return nil, reader, invalid("tools", "at most 128 tools, not %d", len(q.Tools))
	}
	tools := q.Tools
	if string(q.ToolChoice) == `"none"` {
		tools = nil
	}
	c, err := m.conversation(q.Messages, tools, q.Extra)
	if err != nil {
		return nil, reader, err
	}
	form := q.schema()
	g, err := s.toolGrammar(ctx, m, q, &c, form)
	if err != nil {
		return nil, reader, err
	}
	if g != nil {
		if j.grammar != nil && form == nil {
			return nil, reader, invalid("tools", "tools and a form for the answer other than response_format json_object or json_schema cannot be used together; tool_choice none leaves the tools out")
		}
		j.grammar = g
		reader = toolReader{f: c.format, on: true, form: form != nil}
		for _, t := range tools {
			reader.names = append(reader.names, t.Function.Name)
		}
	}
	ids, plain, err := m.render(c, true)
	if err != nil {
		return nil, reader, err
	}
	if plain {
		j.stop = append(j.stop[:len(j.stop):len(j.stop)], "\nUser:")
	}
	return j, reader, m.fit(j, ids, "messages")
}

func (s *Server) chatCompletions(w http.ResponseWriter, r *http.Request) error {
	var q chatRequest
	if err := s.read(w, r, &q); err != nil {
		return err
	}
	m, err := s.model(q.Model)
	if err != nil {
		return err
	}
	base, reader, err := s.chatJob(r.Context(), m, &q)
	if err != nil {
		return err
	}
	ctx, cancel := s.deadline(r)
	defer cancel()
	base.ctx, base.client = ctx, w.(*response).client
	if s.o.LogPrompts {
		s.logText(w, "prompt", m.Tokenizer.Decode(base.prompt))
	}
	n := 1
	if q.N != nil {
		n = *q.N
	}
	var jobs []*job
	readers := make([]toolReader, n)
	for k := range n {
		j := *base
		j.sampling.Seed += uint64(k)
		jobs = append(jobs, &j)
		readers[k] = reader
	}
	streams, err := m.sched.submit(jobs...)
	if err != nil {
		return err
	}
	out := chatCompletion{ID: "chatcmpl-" + w.(*response).id, Object: "chat.completion", Created: time.Now().Unix(), Model: m.ID, Fingerprint: "trit-" + s.o.Version}
	var u usage
	total := func() {
		u.add(len(base.prompt), streams)
		note(w, m, u)
	}
	if !q.Stream {
		texts := make([]strings.Builder, n)
		calls := make([][]toolCall, n)
		logprobs := make([][]chatLogprob, n)
		finish := make([]string, n)
		err := follow(ctx, streams, func(i int, e event) error {
			text, cs := readers[i].push(e.text, e.finish != "")
			texts[i].WriteString(text)
			calls[i] = append(calls[i], cs...)
			logprobs[i] = append(logprobs[i], m.chatLogprobs(e.tokens)...)
			finish[i] = e.finish
			return nil
		}, nothing, nothing)
		if err != nil {
			return err
		}
		for i := range n {
			c := chatChoice{Index: i, Message: &chatMessageOut{Role: "assistant", ToolCalls: calls[i]}, Finish: &finish[i]}
			if text := texts[i].String(); text != "" || len(calls[i]) == 0 {
				c.Message.Content = &text
				s.logText(w, "answer", text)
			}
			if len(calls[i]) > 0 && finish[i] == "stop" {
				finish[i] = "tool_calls"
			}
			if q.Logprobs {
				c.Logprobs = &chatLogprobs{append([]chatLogprob{}, logprobs[i]...)}
			}
			out.Choices = append(out.Choices, c)
		}
		total()
		out.Usage = &u
		return writeJSON(w, 200, out)
	}

	out.Object = "chat.completion.chunk"
	events := newSSE(w)
	send := func(c chatChoice) error {
		out.Choices = []chatChoice{c}
		return events.send(out)
	}
	started := make([]bool, n)
	sent := make([]int, n)
	err = follow(ctx, streams, func(i int, e event) error {
		if !started[i] {
			started[i] = true
			empty := ""
			if err := send(chatChoice{Index: i, Delta: &chatDelta{Role: "assistant", Content: &empty}}); err != nil {
				return err
			}
		}
		text, calls := readers[i].push(e.text, e.finish != "")
		if text != "" || len(calls) > 0 || q.Logprobs && len(e.tokens) > 0 {
			c := chatChoice{Index: i, Delta: &chatDelta{}}
			if text != "" || len(calls) == 0 {
				c.Delta.Content = &text
			}
			for k := range calls {
				index := sent[i]
				calls[k].Index = &index
				sent[i]++
			}
			c.Delta.ToolCalls = calls
			if q.Logprobs {
				c.Logprobs = &chatLogprobs{append([]chatLogprob{}, m.chatLogprobs(e.tokens)...)}
			}
			if err := send(c); err != nil {
				return err
			}
		}
		if e.finish == "" {
			return nil
		}
		if sent[i] > 0 && e.finish == "stop" {
			e.finish = "tool_calls"
		}
		return send(chatChoice{Index: i, Delta: &chatDelta{}, Finish: &e.finish})
	}, events.flush, events.ping)
	if err == nil {
		total()
		if q.StreamOptions != nil && q.StreamOptions.IncludeUsage {
			out.Choices, out.Usage = []chatChoice{}, &u
			err = events.send(out)
		}
	}
	return events.end(s, err)
}
