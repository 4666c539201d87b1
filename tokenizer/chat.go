package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/tritlm/trit/tokenizer/jinja"
)

// ErrNoTemplate is returned by Chat when the model came without a chat template.
var ErrNoTemplate = errors.New("tokenizer: no chat template")

// Message is one turn of a conversation, in the fields of the OpenAI API.
type Message struct {
	Role       string     `json:"role"` // "system", "user", "assistant", "tool"
	Content    string     `json:"content"`
	Name       string     `json:"name,omitempty"`
	ToolCalls  []ToolCall `json:"tool_calls,omitempty"`
	ToolCallID string     `json:"tool_call_id,omitempty"`
	// Extra are further fields that a template may read, such as reasoning_content.
	Extra map[string]any `json:"-"`
}

// ToolCall is a call of a tool that the assistant asked for.
type ToolCall struct {
	ID        string
	Name      string
	Arguments string // a JSON object
}

// ChatOptions says how to write a conversation.
type ChatOptions struct {
	AddGenerationPrompt bool           // end with the beginning of an assistant's turn
	Tools               any            // JSON value: the tools the assistant may call
	Template            string         // the name of one of several templates; "" is the usual one
	Extra               map[string]any // further variables of the template
	Now                 time.Time      // what templates that write the date are told; zero is today
}

// Chat writes a conversation with the model's own template. The result is for Encode with
// ParseSpecial and without AddSpecial: templates write BOS themselves. A conversation that the
// template refuses gives a *jinja.Raised, a faulty template a *jinja.Error.
func (t *Tokenizer) Chat(messages []Message, o ChatOptions) (string, error) {
	name := o.Template
	if name == "" {
		name = "default"
		if _, ok := t.templates["tool_use"]; ok && o.Tools != nil {
			name = "tool_use"
		}
	}
	src, ok := t.templates[name]
	switch {
	case len(t.templates) == 0:
		return "", ErrNoTemplate
	case !ok && o.Template == "":
		return "", fmt.Errorf("tokenizer: the model has several chat templates and none is the default; name one of %s", strings.Join(t.Templates(), ", "))
	case !ok:
		return "", fmt.Errorf("tokenizer: no chat template %q; there are %s", name, strings.Join(t.Templates(), ", "))
	}
	tmpl, err := parseTemplate(src)
	if err != nil {
		return "", fmt.Errorf("tokenizer: chat template: %w", err)
	}
	parts := tmpl.wantsParts()
	vars := map[string]any{"tools": o.Tools, "documents": nil}
	for name, v := range o.Extra {
		vars[name] = v
	}
	list := &jinja.List{}
	for i := range messages {
		m, err := messages[i].value(parts)
		if err != nil {
			return "", fmt.Errorf("tokenizer: message %d: %w", i+1, err)
		}
		list.Items = append(list.Items, m)
	}
	vars["messages"] = list
	vars["add_generation_prompt"] = o.AddGenerationPrompt
	for name, id := range map[string]int32{"bos_token": t.bos, "eos_token": t.end, "unk_token": t.unk, "pad_token": t.pad} {
		if s := t.Token(id); s != "" {
			vars[name] = s
		}
	}
	text, err := tmpl.Render(vars, &jinja.Options{Now: o.Now})
	if err != nil {
		return "", fmt.Errorf("tokenizer: chat template: %w", err)
	}
	return text, nil
}

// shield stands inside the names of control tokens that a message quotes. It is a noncharacter,
// which text does not contain.
const shield = "\uFDD0"

// EncodeChat writes and encodes a conversation like Chat and Encode with ParseSpecial, but only the
// template writes control tokens: a message that says <|eot_id|> ends no turn, its characters are
// text. A template that looks for control tokens in the messages does not find them.
func (t *Tokenizer) EncodeChat(messages []Message, o ChatOptions) ([]int32, error) {
	quoted := slices.Clone(messages)
	for i := range quoted {
		quoted[i].Content = t.quoteSpecial(quoted[i].Content)
	}
	text, err := t.Chat(quoted, o)
	if err != nil {
		return nil, err
	}
	if !strings.Contains(text, shield) {
		return t.Encode(text, EncodeOptions{ParseSpecial: true}), nil
	}
	s := new(scratch)
	var ids []int32
	for i, f := range t.raw.cut(nil, text, true) {
		if f.id >= 0 {
			ids = append(ids, f.id)
		} else {
			ids = t.encodeText(ids, strings.ReplaceAll(f.text, shield, ""), i == 0, false, s)
		}
	}
	return ids, nil
}

// quoteSpecial puts a shield into each name of a control token.
func (t *Tokenizer) quoteSpecial(text string) string {
	if t.raw == nil {
		return text
	}
	var b strings.Builder
	at, next := 0, 0
	list := t.raw.find(text, true)
	for k := len(list) - 1; k >= 0; k-- {
		i, tok := int(list[k].at), list[k].tok
		if i < next || !t.raw.toks[tok].Special {
			continue
		}
		_, first := utf8.DecodeRuneInString(text[i:])
		b.WriteString(text[at : i+first])
		b.WriteString(shield)
		at = i + first
		next = i + int(t.raw.size[tok])
	}
	return b.String() + text[at:]
}

// Templates returns the names of the chat templates, in order.
func (t *Tokenizer) Templates() []string {
	var names []string
	for name := range t.templates {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// Template returns the source of a chat template; "" is the usual one.
func (t *Tokenizer) Template(name string) (source string, ok bool) {
	if name == "" {
		name = "default"
	}
	source, ok = t.templates[name]
	return source, ok
}

// SetTemplate replaces the usual chat template. It fails when the source is not a template; an
// empty one leaves the model without.
func (t *Tokenizer) SetTemplate(source string) error {
	if source == "" {
		t.templates = nil
		return nil
	}
	if _, err := parseTemplate(source); err != nil {
		return fmt.Errorf("tokenizer: chat template: %w", err)
	}
	list := templates{"default": source}
	for name, s := range t.templates {
		if name != "default" {
			list[name] = s
		}
	}
	t.templates = list
	t.config, t.files = nil, nil // Save writes the new one
	return nil
}

// chatTemplate is a compiled chat template, and what is known of it.
type chatTemplate struct {
	*jinja.Template
	asked sync.Once
	parts bool // see wantsParts
}

// wantsParts reports whether the template reads a message's content as a list of parts alone, as some
// for models that see do: given a string, it would leave it out. Other templates get strings.
func (t *chatTemplate) wantsParts() bool {
	t.asked.Do(func() {
		const needle = "Zq7needle"
		writes := func(parts bool) bool {
			m, err := (&Message{Role: "user", Content: needle}).value(parts)
			if err != nil {
				return false
			}
			text, err := t.Render(map[string]any{
				"messages": &jinja.List{Items: []any{m}}, "tools": nil, "documents": nil,
				"add_generation_prompt": false, "bos_token": "", "eos_token": "",
			}, nil)
			return err == nil && strings.Contains(text, needle)
		}
		t.parts = !writes(false) && writes(true)
	})
	return t.parts
}

// parsed keeps the last few templates: a server renders the same one for every request.
var parsed struct {
	sync.Mutex
	list map[string]*chatTemplate
}

func parseTemplate(src string) (*chatTemplate, error) {
	parsed.Lock()
	defer parsed.Unlock()
	if t := parsed.list[src]; t != nil {
		return t, nil
	}
	t, err := jinja.Parse(src)
	if err != nil {
		return nil, err
	}
	if len(parsed.list) >= 16 || parsed.list == nil {
		parsed.list = map[string]*chatTemplate{}
	}
	c := &chatTemplate{Template: t}
	parsed.list[src] = c
	return c, nil
}

// value is the message as templates expect it: arguments of tool calls are objects, not text, and
// parts says that the content is a list of one text.
func (m *Message) value(parts bool) (*jinja.Map, error) {
	v := jinja.NewMap()
	v.Set("role", m.Role)
	if parts {
		text := jinja.NewMap()
		text.Set("type", "text")
		text.Set("text", m.Content)
		v.Set("content", &jinja.List{Items: []any{text}})
	} else {
		v.Set("content", m.Content)
	}
	if m.Name != "" {
		v.Set("name", m.Name)
	}
	if len(m.ToolCalls) > 0 {
		calls := &jinja.List{}
		for _, c := range m.ToolCalls {
			var args any = c.Arguments
			if strings.TrimSpace(c.Arguments) == "" {
				args = jinja.NewMap()
			} else if a, err := jinja.FromJSON([]byte(c.Arguments)); err == nil {
				args = a
			}
			f := jinja.NewMap()
			f.Set("name", c.Name)
			f.Set("arguments", args)
			call := jinja.NewMap()
			if c.ID != "" {
				call.Set("id", c.ID)
			}
			call.Set("type", "function")
			call.Set("function", f)
			calls.Items = append(calls.Items, call)
		}
		v.Set("tool_calls", calls)
	}
	if m.ToolCallID != "" {
		v.Set("tool_call_id", m.ToolCallID)
	}
	for _, name := range sortedKeys(m.Extra) {
		w, err := jinja.Value(m.Extra[name])
		if err != nil {
			return nil, err
		}
		v.Set(name, w)
	}
	return v, nil
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

type wireCall struct {
	ID       string `json:"id,omitempty"`
	Type     string `json:"type"`
	Function struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	} `json:"function"`
}

// MarshalJSON writes a call as the OpenAI API does.
func (c ToolCall) MarshalJSON() ([]byte, error) {
	w := wireCall{ID: c.ID, Type: "function"}
	w.Function.Name, w.Function.Arguments = c.Name, c.Arguments
	return json.Marshal(w)
}

// UnmarshalJSON reads a call as the OpenAI API writes it; arguments may also be an object.
func (c *ToolCall) UnmarshalJSON(data []byte) error {
	var w struct {
		ID       string `json:"id"`
		Function struct {
			Name      string          `json:"name"`
			Arguments json.RawMessage `json:"arguments"`
		} `json:"function"`
	}
	if err := json.Unmarshal(data, &w); err != nil {
		return err
	}
	*c = ToolCall{ID: w.ID, Name: w.Function.Name}
	if json.Unmarshal(w.Function.Arguments, &c.Arguments) != nil {
		c.Arguments = string(w.Function.Arguments)
	}
	return nil
}
