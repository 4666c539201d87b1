package trit

import (
	"context"
	"errors"
	"iter"
	"strings"

	"github.com/tritlm/trit/tokenizer"
)

// Chat is a conversation. Its history stays in the KV cache; a turn reads only what is new.
type Chat struct {
	session  *Session
	system   string
	messages []tokenizer.Message
}

// ChatOptions for NewChat.
type ChatOptions struct {
	System string // the system prompt, "" for none
}

// NewChat starts a conversation.
func (m *Model) NewChat(o ChatOptions) *Chat {
	return &Chat{session: m.NewSession(), system: o.System}
}

// Messages is the conversation so far, the system prompt apart.
func (c *Chat) Messages() []tokenizer.Message { return c.messages }

// SetMessages replaces the conversation, for example with one that was saved.
func (c *Chat) SetMessages(m []tokenizer.Message) { c.messages = append(c.messages[:0:0], m...) }

// System is the system prompt.
func (c *Chat) System() string { return c.system }

// SetSystem replaces the system prompt; the next turn reads the conversation again.
func (c *Chat) SetSystem(text string) { c.system = text }

// Clear forgets the conversation and keeps the system prompt.
func (c *Chat) Clear() { c.messages = nil }

// Stats are those of the last turn.
func (c *Chat) Stats() Stats { return c.session.Stats() }

// Len is the number of tokens in the conversation so far.
func (c *Chat) Len() int { return c.session.Len() }

// Close gives the cache back.
func (c *Chat) Close() { c.session.Close() }

// Send adds the user's message and writes the answer. However the answer ends, what was written of it becomes part
// of the conversation; an answer that failed before its first text takes the message back with it.
func (c *Chat) Send(ctx context.Context, text string, o GenerateOptions) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		c.messages = append(c.messages, tokenizer.Message{Role: "user", Content: text})
		ids, plain, err := c.render()
		if err != nil {
			c.messages = c.messages[:len(c.messages)-1]
			yield(Piece{}, err)
			return
		}
		c.session.SetTokens(ids)
		if plain {
			o.Stop = append(o.Stop[:len(o.Stop):len(o.Stop)], plainStop)
		}
		var answer strings.Builder
		defer func() {
			if err != nil && answer.Len() == 0 {
				c.messages = c.messages[:len(c.messages)-1]
				return
			}
			c.messages = append(c.messages, tokenizer.Message{Role: "assistant", Content: answer.String()})
		}()
		for p, e := range c.session.GenerateTokens(ctx, nil, o) {
			err = e
			answer.WriteString(p.Text)
			if !yield(p, e) {
				return
			}
		}
	}
}

// render gives the conversation's tokens, ready for the assistant to answer; plain as in RenderChat.
func (c *Chat) render() (ids []int32, plain bool, err error) {
	messages := c.messages
	if c.system != "" {
		messages = append([]tokenizer.Message{{Role: "system", Content: c.system}}, messages...)
	}
	return RenderChat(c.session.m.tokenizer, messages, tokenizer.ChatOptions{AddGenerationPrompt: true})
}

// plainChat is the form that models without a template get.
func plainChat(messages []tokenizer.Message, o tokenizer.ChatOptions) string {
	var b strings.Builder
	line := func(role, text string) {
		b.WriteString(strings.ToUpper(role[:1]) + role[1:] + ":" + text)
	}
	for _, m := range messages {
		line(m.Role, " "+strings.TrimSpace(m.Content)+"\n")
	}
	if o.AddGenerationPrompt {
		line("assistant", "")
	}
	if o.Continue {
		return strings.TrimSuffix(b.String(), "\n")
	}
	return b.String()
}

// plainStop ends an answer in the plain form, where the model would go on with the user's next line.
const plainStop = "\nUser:"

// RenderChat renders messages by the model's own template and encodes them. A model without a template, such as a
// base model, gets the plain form "User: …", "Assistant: …", a line each; plain tells, as answers then end at "\nUser:".
func RenderChat(t *tokenizer.Tokenizer, messages []tokenizer.Message, o tokenizer.ChatOptions) (ids []int32, plain bool, err error) {
	ids, err = t.EncodeChat(messages, o) // a message that quotes a control token ends no turn
	if errors.Is(err, tokenizer.ErrNoTemplate) {
		return t.Encode(plainChat(messages, o), tokenizer.EncodeOptions{AddSpecial: true}), true, nil
	}
	return ids, false, err
}

// ChatText is the text that RenderChat encodes.
func ChatText(t *tokenizer.Tokenizer, messages []tokenizer.Message, o tokenizer.ChatOptions) (string, error) {
	text, err := t.Chat(messages, o)
	if errors.Is(err, tokenizer.ErrNoTemplate) {
		return plainChat(messages, o), nil
	}
	return text, err
}
