package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/tokenizer"
)

var toolName = regexp.MustCompile(`^[a-zA-Z0-9_.-]{1,128}$`)

// messagesFor are the messages as the template has them.
func (m *served) messagesFor(in []chatMessage) (out []tokenizer.Message, called bool, err error) {
	if len(in) == 0 {
		return nil, false, invalid("messages", "messages is missing or empty")
	}
	src, _ := m.Tokenizer.Template("")
	for i, x := range in {
		t := tokenizer.Message{Role: x.Role, Content: x.Content.text, Name: x.Name, ToolCallID: x.ToolCallID}
		if t.Content == "" && x.Refusal != nil {
			t.Content = *x.Refusal
		}
		switch x.Role {
		case "developer":
			t.Role = "system"
		case "function":
			t.Role, called = "tool", true
		case "system", "user", "assistant":
		case "tool":
			called = true
		default:
			return nil, false, invalid(fmt.Sprintf("messages[%d].role", i), "role %q is not system, developer, user, assistant or tool", clip(x.Role, 40))
		}
		if x.Call != nil {
			x.ToolCalls = append(x.ToolCalls, toolCall{Function: *x.Call})
		}
		for _, tc := range x.ToolCalls {
			args := string(tc.Function.Arguments)
			if strings.TrimSpace(args) == "" {
				args = "{}"
			}
			if !json.Valid([]byte(args)) {
				return nil, false, invalid(fmt.Sprintf("messages[%d].tool_calls", i), "the arguments of %q are not JSON", clip(tc.Function.Name, 64))
			}
			t.ToolCalls = append(t.ToolCalls, tokenizer.ToolCall{ID: tc.ID, Name: tc.Function.Name, Arguments: args})
			called = true
		}
		if thought := orWord(x.Thought, orWord(x.Reasoning, x.Content.thought)); thought != "" && x.Role == "assistant" {
			t.Extra = map[string]any{"reasoning_content": thought}
			for _, name := range []string{"thinking", "reasoning", "thought"} { // what some templates call it
				if strings.Contains(src, "."+name) || strings.Contains(src, "'"+name+"'") || strings.Contains(src, `"`+name+`"`) {
					t.Extra[name] = thought
				}
			}
			if err := m.Tokenizer.Check(thought); err != nil {
				return nil, false, invalid(fmt.Sprintf("messages[%d].reasoning_content", i), "%v", err)
			}
		}
		if err := m.Tokenizer.Check(t.Content); err != nil {
			return nil, false, invalid(fmt.Sprintf("messages[%d].content", i), "%v", err)
		}
		out = append(out, t)
	}
	return out, called, nil
}

// checkTools checks the tools and completes them.
func checkTools(tools []tool) error {
	if len(tools) > maxTools {
		return invalid("tools", "at most %d tools, not %d", maxTools, len(tools))
	}
	for i := range tools {
		t := &tools[i]
		if t.Type != "" && t.Type != "function" {
			return invalid(fmt.Sprintf("tools[%d].type", i), "tools of type %q are not supported: only function", clip(t.Type, 40))
		}
		f := &t.Function
		if !toolName.MatchString(f.Name) {
			return invalid(fmt.Sprintf("tools[%d].function.name", i), "a tool's name has 1 to 128 letters, digits, _, - or ., not %q", clip(f.Name, 80))
		}
		t.Type = "function"
		if !given(f.Parameters) {
			f.Parameters = json.RawMessage(noParameters)
		}
		var object map[string]json.RawMessage
		if json.Unmarshal(f.Parameters, &object) != nil {
			return invalid(fmt.Sprintf("tools[%d].function.parameters", i), "the parameters of %q are not a JSON schema, which is an object", f.Name)
		}
		f.schema = f.Parameters
		if _, ok := object["type"]; !ok { // arguments are an object, whether the schema says so or not
			object["type"] = json.RawMessage(`"object"`)
			if len(object) == 1 {
				f.schema = []byte(`{"type":"object"}`)
			} else if b := strings.TrimSpace(string(f.Parameters)); object["properties"] != nil {
				f.schema = []byte(`{"type":"object",` + b[1:])
			}
		}
	}
	return nil
}

const maxTools = 512

// chosen are the tools that a reply may call, and whether it must call one.
func (c *conversation) chosen() (tools []tool, must bool, err error) {
	switch c.choice {
	case "none":
		return nil, false, nil
	case "", "auto", "required":
	default:
		return nil, false, invalid("tool_choice", "tool_choice is none, auto, required or a function, not %q", clip(c.choice, 40))
	}
	must = c.choice == "required"
	if c.only != "" {
		for _, t := range c.tools {
			if t.Function.Name == c.only {
				return []tool{t}, true, nil
			}
		}
		return nil, false, invalid("tool_choice", "tool_choice names %q, which is not among the tools", clip(c.only, 64))
	}
	if must && len(c.tools) == 0 {
		return nil, false, invalid("tool_choice", "tool_choice %q needs tools", c.choice)
	}
	return c.tools, must, nil
}

// chatPlan gives the job the conversation's tokens and the plan of its reply, and the answer what reads it.
func (m *served) chatPlan(ctx context.Context, q *request, f *form, j *job, a *answer) error {
	c := q.chat
	if err := checkTools(c.tools); err != nil {
		return err
	}
	tools, must, err := c.chosen()
	if err != nil {
		return err
	}
	extra := c.think.tell(m.thought, c.extra)
	var messages []tokenizer.Message
	var ids []int32
	var plain bool
	for {
		var o tokenizer.ChatOptions
		if messages, o, err = m.prepare(c, tools, extra); err != nil {
			return err
		}
		if ids, plain, err = m.render(messages, o); err != nil {
			return err
		}
		if len(ids) < m.MaxContext || !c.shorten || !c.forget() {
			break
		}
	}
	if plain {
		j.stop = append(j.stop[:len(j.stop):len(j.stop)], "\nUser:")
	}
	p := j.plan
	if m.thought != nil && c.raw {
		a.reader.state, p.show = readText, m.marks
	} else if m.thought != nil {
		p.thought = m.thoughtPlan(c, ids, messages)
		a.reader.thought, a.reader.state = m.thought, readStart
		if p.thought.begun {
			a.reader.state = readThought
		} else if p.thought.none {
			a.reader.state = readText
		}
		p.show = m.marks
	} else {
		a.reader.state = readText
	}
	switch {
	case len(tools) > 0:
		if f != nil && f.schema() == nil {
			return invalid("tools", "tools and a form for the answer other than a JSON schema cannot be used together; tool_choice none leaves the tools out")
		}
		if must {
			f = nil
		}
		several := !c.one && c.only == ""
		if p.grammar, a.notes, err = m.callGrammar(ctx, j.client, tools, several, f.schema()); err != nil {
			return about("tools", err)
		}
		a.reader.calls = newCallReader(m.calls, tools)
		a.reader.form = f != nil
		p.show = m.marks
		if !must && f == nil {
			p.triggers, p.anywhere = a.reader.calls.triggers, a.reader.calls.anywhere
		}
	default:
		if p.grammar, err = m.formGrammar(ctx, j.client, f); err != nil {
			return err
		}
	}
	return m.fit(j, ids, "messages")
}

// forget leaves out the oldest turn behind the system message, and reports whether there is one besides the last.
func (c *conversation) forget() bool {
	from := 0
	for from < len(c.messages) && (c.messages[from].Role == "system" || c.messages[from].Role == "developer") {
		from++
	}
	to := from + 1
	for to < len(c.messages) && c.messages[to].Role != "user" { // an answer, calls and results go with their question
		to++
	}
	if to >= len(c.messages) {
		return false
	}
	c.messages = append(append([]chatMessage{}, c.messages[:from]...), c.messages[to:]...)
	return true
}

// tell gives the template what the request says about thoughts, in the template's own words.
func (t *thinking) tell(f *tokenizer.ThoughtFormat, extra map[string]any) map[string]any {
	if f == nil {
		return extra
	}
	out := map[string]any{}
	set := func(name string, v any) {
		if _, ok := extra[name]; !ok && name != "" {
			out[name] = v
		}
	}
	switch off := t.off(); {
	case off:
		set(f.Switch, false)
	case t.enabled != nil, t.effort != "", t.budget != nil:
		set(f.Switch, true)
	}
	if f.Effort && t.effort != "" {
		set("reasoning_effort", t.effort)
	}
	for k, v := range extra {
		out[k] = v
	}
	return out
}

// off reports that the request wants no thoughts.
func (t *thinking) off() bool {
	return t.enabled != nil && !*t.enabled || t.effort == "none" || t.budget != nil && *t.budget == 0
}

// tokens is the budget of a thought, −1 for none. Where the template does not know about effort, less of it is a
// smaller budget.
func (t *thinking) tokens(f *tokenizer.ThoughtFormat) int {
	switch {
	case t.off():
		return 0
	case t.budget != nil && *t.budget > 0:
		return *t.budget
	case f.Effort:
		return -1
	}
	switch t.effort {
	case "minimal":
		return 256
	case "low":
		return 1024
	case "medium":
		return 8192
	}
	return -1
}

// thoughtPlan finds out whether the prompt ends inside a thought or behind one, and how one is ended.
func (m *served) thoughtPlan(c *conversation, prompt []int32, messages []tokenizer.Message) *thoughtPlan {
	f := m.thought
	encode := func(text string) []int32 {
		return m.Tokenizer.Encode(text, tokenizer.EncodeOptions{ParseSpecial: true})
	}
	p := &thoughtPlan{format: *f, open: -1, budget: c.think.tokens(f), end: encode(f.End)}
	if ids := encode(f.Open); len(ids) == 1 {
		p.open = ids[0]
	}
	_, gap, _ := strings.Cut(f.End, f.Close)
	p.gap = encode(gap)
	d := m.Tokenizer.NewDecoder(prompt...)
	d.Special = true
	var tail strings.Builder
	for _, id := range prompt[max(len(prompt)-32, 0):] {
		tail.WriteString(d.Push(id))
	}
	end := strings.TrimSpace(tail.String())
	switch {
	case c.continues:
		text := messages[len(messages)-1].Content
		p.begun = strings.LastIndex(text, f.Open) > strings.LastIndex(text, f.Close)
		p.none = !p.begun
	case strings.HasSuffix(end, f.Open):
		p.begun = true
	case strings.HasSuffix(end, f.Close):
		p.none = true
	}
	return p
}

// read is the conversation in tokens.
func (m *served) read(c *conversation) ([]int32, error) {
	if err := checkTools(c.tools); err != nil {
		return nil, err
	}
	messages, o, err := m.prepare(c, c.tools, c.think.tell(m.thought, c.extra))
	if err != nil {
		return nil, err
	}
	ids, _, err := m.render(messages, o)
	return ids, err
}

// prepare gives the tools to a template that knows them; for others it describes them in the system message, and
// calls and results become text.
func (m *served) prepare(c *conversation, tools []tool, extra map[string]any) ([]tokenizer.Message, tokenizer.ChatOptions, error) {
	o := tokenizer.ChatOptions{AddGenerationPrompt: !c.bare && !c.continues, Continue: c.continues, Extra: extra}
	messages, called, err := m.messagesFor(c.messages)
	if err != nil || len(tools) == 0 && !called {
		return messages, o, c.check(err, messages)
	}
	list := make([]tool, len(tools)) // as templates expect it: complete, in this order
	for i, t := range tools {
		t.Function.Strict = nil
		list[i] = t
	}
	if m.calls.FromTemplate {
		if len(tools) > 0 {
			raw, err := marshal(list)
			if err != nil {
				return nil, o, invalid("tools", "%v", err)
			}
			o.Tools = json.RawMessage(raw)
		}
		return messages, o, c.check(nil, messages)
	}
	f := &m.calls
	if len(list) > 0 {
		var b strings.Builder
		b.WriteString("You can call functions. To call one, answer with nothing but this, once per call:\n")
		b.WriteString(f.Open + `{"name": "FUNCTION", "arguments": {...}}` + f.Close)
		b.WriteString("\nThe functions, as JSON, one per line:\n")
		for _, t := range list {
			line, err := marshal(t.Function)
			if err != nil {
				return nil, o, invalid("tools", "%v", err)
			}
			b.Write(line)
			b.WriteByte('\n')
		}
		if len(messages) > 0 && messages[0].Role == "system" {
			messages[0].Content += "\n\n" + b.String()
		} else {
			messages = append([]tokenizer.Message{{Role: "system", Content: b.String()}}, messages...)
		}
	}
	for i := range messages {
		t := &messages[i]
		for _, call := range t.ToolCalls {
			name, err := marshal(call.Name)
			if err != nil {
				return nil, o, err
			}
			t.Content += fmt.Sprintf(`%s{"name": %s, "arguments": %s}%s`, f.Open, name, call.Arguments, f.Close)
		}
		t.ToolCalls = nil
		if t.Role == "tool" {
			*t = tokenizer.Message{Role: "user", Content: "<tool_response>\n" + t.Content + "\n</tool_response>"}
		}
	}
	return messages, o, c.check(nil, messages)
}

// check says what is wrong with going on with the last message.
func (c *conversation) check(err error, messages []tokenizer.Message) error {
	if err == nil && c.continues && messages[len(messages)-1].Role != "assistant" {
		return invalid("continue_final_message", "the last message is not the assistant's, so there is nothing to continue")
	}
	return err
}

// render writes the conversation as the model's template does and encodes it. Control tokens count only where the
// template wrote them: what a message says of them is text.
func (m *served) render(messages []tokenizer.Message, o tokenizer.ChatOptions) (ids []int32, plain bool, err error) {
	ids, plain, err = trit.RenderChat(m.Tokenizer, messages, o)
	if err != nil && !errors.As(err, new(*apiError)) {
		err = invalid("messages", "the model's chat template refuses this conversation: %v", err)
	}
	return ids, plain, err
}
