package server

import (
	"strings"
	"testing"
)

// A template that knows tools gets them, and its form of calls is used; another gets a description.
func TestToolsInTemplates(t *testing.T) {
	tools := []tool{{Type: "function", Function: toolFunction{Name: "add", Description: "adds", Parameters: []byte(`{"type":"object","properties":{"z":{"type":"integer"},"a":{"type":"integer"}}}`)}}}
	for name, tt := range map[string]struct{ tools, open, arguments, in string }{
		"none":   {"", hermes.Open, "arguments", "The functions, as JSON"},
		"hermes": {`{% if tools %}<tools>{{ tools | tojson }}</tools> answer in <tool_call>{% endif %}`, hermes.Open, "arguments", `<tools>[{"`},
		"llama":  {`{% if tools %}{{ tools | tojson }} Respond with {"name": function name, "parameters": dictionary}{% endif %}`, "", "parameters", `Respond with`},
	} {
		t.Run(name, func(t *testing.T) {
			tok, err := makeTestTokenizer(tt.tools + testTemplate)
			if err != nil {
				t.Fatal(err)
			}
			f := newFake(t)
			f.tok, f.cfg.VocabSize = tok, tok.VocabSize()
			s, h := serve(t, f, Options{})
			m := s.models[0]
			c, err := m.conversation([]chatMessage{
				{Role: "user", Content: "1+1?"},
				{Role: "assistant", ToolCalls: []toolCall{{ID: "1", Type: "function", Function: struct {
					Name      string `json:"name"`
					Arguments string `json:"arguments"`
				}{"add", `{"a":1}`}}}},
				{Role: "tool", Content: "2", ToolCallID: "1"},
			}, tools, nil)
			if err != nil {
				t.Fatal(err)
			}
			if c.format.Open != tt.open || c.format.Arguments != tt.arguments {
				t.Errorf("%+v", c.format)
			}
			ids, _, err := m.render(c, true)
			if err != nil {
				t.Fatal(err)
			}
			text := tok.Decode(ids)
			if !strings.Contains(text, tt.in) || !strings.Contains(text, "adds") {
				t.Errorf("%s", text)
			}
			if z, a := strings.Index(text, `"z"`), strings.Index(text, `"a"`); z < 0 || z > a {
				t.Errorf("the order of properties is lost: %s", text)
			}
			if name == "none" && (!strings.Contains(text, `{"name": "add", "arguments": {"a":1}}`) || !strings.Contains(text, "<tool_response>\n2")) {
				t.Errorf("%s", text)
			}
			// Calls in that form come back as calls.
			f.reply = c.format.Open + `{"name": "add", "` + tt.arguments + `": {"a": 5}}` + c.format.Close
			code, v := post(t, h.URL+"/v1/chat/completions", `{`+hi+`,"temperature":0,"tools":[{"type":"function","function":{"name":"add","parameters":{"type":"object","properties":{"a":{"type":"integer"}}}}}]}`)
			if code != 200 || at(v, "choices", 0, "message", "tool_calls", 0, "function", "arguments") != `{"a": 5}` {
				t.Error(code, v)
			}
		})
	}
}
