package tokenizer

import "errors"

// ErrNoTemplate is returned by Chat when the model came without a chat template.
var ErrNoTemplate = errors.New("tokenizer: no chat template")

// Message is one turn of a conversation, in the fields of the OpenAI API.
type Message struct {
	Role       string     `json:"role"` // "system", "user", "assistant", "tool"
	Content    string     `json:"content"`
	Name       string     `json:"name,omitempty"`
	ToolCalls  []ToolCall `json:"tool_calls,omitempty"`
	ToolCallID string     `json:"tool_call_id,omitempty"`
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
	Extra               map[string]any // further variables of the template
}

// Chat writes a conversation with the model's own template. The result is for Encode with
// ParseSpecial and without AddSpecial: templates write BOS themselves.
func (t *Tokenizer) Chat(messages []Message, o ChatOptions) (string, error) {
	return "", ErrNoTemplate
}
