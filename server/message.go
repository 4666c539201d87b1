package server

import (
	"encoding/json"
)

// conversation is what a chat request reads: messages, tools, and what its template is told.
type conversation struct {
	messages []chatMessage
	tools    []tool
	choice   string // auto, none, required or, with only, one tool
	only     string
	one      bool // at most one call
	extra    map[string]any
	think    thinking

	raw       bool // thoughts stay text of the answer
	shorten   bool // the oldest messages are left out if they do not fit
	continues bool // the last message is the assistant's, and is gone on with
	bare      bool // no assistant's turn is begun
}

// thinking is what a request says about thoughts.
type thinking struct {
	enabled *bool
	effort  string // none, minimal, low, medium, high, xhigh, max
	budget  *int   // tokens; nil or below 0: as many as it takes
}

type chatMessage struct {
	Role       string     `json:"role"`
	Content    content    `json:"content"`
	Refusal    *string    `json:"refusal"`
	Reasoning  string     `json:"reasoning"` // OpenRouter's and vLLM's name for the next
	Thought    string     `json:"reasoning_content"`
	Name       string     `json:"name"`
	ToolCalls  []toolCall `json:"tool_calls"`
	ToolCallID string     `json:"tool_call_id"`
	Call       *call      `json:"function_call"` // before there were tool_calls
}

// content is a string or a list of text parts, which a newline joins.
type content struct {
	text    string
	thought string // of parts that are thoughts
}

func (c *content) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	if json.Unmarshal(b, &c.text) == nil {
		return nil
	}
	var parts []struct {
		Type     string          `json:"type"`
		Text     string          `json:"text"`
		Refusal  string          `json:"refusal"`
		Thinking json.RawMessage `json:"thinking"`
	}
	if json.Unmarshal(b, &parts) != nil {
		return invalid("messages", "a message's content is a string or a list of parts, found %s", clip(string(b), 40))
	}
	lines := 0
	for _, p := range parts {
		switch p.Type {
		case "text", "input_text", "output_text":
			if lines++; lines > 1 {
				c.text += "\n"
			}
			c.text += p.Text
		case "refusal":
			c.text += p.Refusal
		case "thinking": // text, or Mistral's parts of it
			var text string
			var inner content
			if json.Unmarshal(p.Thinking, &text) == nil {
				c.thought += text
			} else if err := json.Unmarshal(p.Thinking, &inner); err != nil {
				return err
			}
			c.thought += inner.text
		default:
			return invalid("messages", "content of type %q is not supported: only text", clip(p.Type, 40))
		}
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
	Strict      *bool           `json:"strict,omitempty"`

	schema []byte // the parameters, made complete, for the grammar
	loose  bool   // words of it that cannot be enforced are passed over
}

func (f *toolFunction) strict() bool { return f.Strict != nil && *f.Strict }

// noParameters stands for those that are not given.
const noParameters = `{"type":"object","properties":{}}`

type call struct {
	Name      string    `json:"name"`
	Arguments arguments `json:"arguments"`
}

type toolCall struct {
	Index    *int   `json:"index,omitempty"` // in streams
	ID       string `json:"id,omitempty"`
	Type     string `json:"type,omitempty"`
	Function call   `json:"function"`
}

// MarshalJSON leaves out, in the middle of a stream, the name that was said before.
func (c call) MarshalJSON() ([]byte, error) {
	if c.Name == "" {
		return json.Marshal(map[string]string{"arguments": string(c.Arguments)})
	}
	return json.Marshal(struct {
		Name      string `json:"name"`
		Arguments string `json:"arguments"`
	}{c.Name, string(c.Arguments)})
}

// arguments are a JSON object as text; one that is not quoted will do as well.
type arguments string

func (a *arguments) UnmarshalJSON(b []byte) error {
	var text string
	if json.Unmarshal(b, &text) == nil {
		*a = arguments(text)
		return nil
	}
	*a = arguments(b)
	return nil
}

// oneSystem makes one message of the system messages at the beginning: many templates allow no more.
func oneSystem(list []chatMessage) []chatMessage {
	isSystem := func(m chatMessage) bool { return m.Role == "system" || m.Role == "developer" }
	for len(list) > 1 && isSystem(list[0]) && isSystem(list[1]) {
		first := list[0]
		first.Content.text += "\n\n" + list[1].Content.text
		list = append([]chatMessage{first}, list[2:]...)
	}
	return list
}

// calledName is the name of the tool whose call has this id, which some templates want with its result.
func calledName(list []chatMessage, id string) string {
	for i := len(list) - 1; i >= 0; i-- {
		for _, t := range list[i].ToolCalls {
			if t.ID == id && id != "" {
				return t.Function.Name
			}
		}
	}
	return ""
}

// toolChoice is none, auto, required or one function by name, in the shapes of chat completions and of responses.
func toolChoice(raw json.RawMessage) (choice, only string, err error) {
	if !given(raw) {
		return "", "", nil
	}
	if json.Unmarshal(raw, &choice) == nil {
		return choice, "", nil
	}
	var named struct {
		Type     string `json:"type"`
		Name     string `json:"name"`
		Function struct {
			Name string `json:"name"`
		} `json:"function"`
	}
	if json.Unmarshal(raw, &named) != nil || named.Type != "function" {
		return "", "", invalid("tool_choice", "tool_choice is none, auto, required or a function, not %s", clip(string(raw), 60))
	}
	return "required", orWord(named.Function.Name, named.Name), nil
}
