package server

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/tritlm/trit/tokenizer"
)

// A template that knows tools gets them, and its form of calls is used; another gets a description.
func TestToolsInTemplates(t *testing.T) {
	tools := []tool{{Type: "function", Function: toolFunction{Name: "add", Description: "adds", Parameters: []byte(`{"type":"object","properties":{"z":{"type":"integer"},"a":{"type":"integer"}}}`)}}}
	for name, tt := range map[string]struct{ tools, open, arguments, in string }{
		"none":   {"", tokenizer.HermesCalls.Open, "arguments", "The functions, as JSON"},
		"hermes": {`{% if tools %}<tools>{{ tools | tojson }}</tools> answer in <tool_call>{% endif %}`, tokenizer.HermesCalls.Open, "arguments", `<tools>[{"`},
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
			c := &conversation{messages: []chatMessage{
				{Role: "user", Content: content{text: "1+1?"}},
				{Role: "assistant", ToolCalls: []toolCall{{ID: "1", Type: "function", Function: call{"add", `{"a":1}`}}}},
				{Role: "tool", Content: content{text: "2"}, ToolCallID: "1"},
			}, tools: tools}
			if m.calls.Open != tt.open || m.calls.ArgumentsKey != tt.arguments {
				t.Errorf("%+v", m.calls)
			}
			ids, err := m.read(c)
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
			f.reply = m.calls.Open + `{"name": "add", "` + tt.arguments + `": {"a": 5}}` + m.calls.Close
			code, v := post(t, h.URL+"/v1/chat/completions", `{`+hi+`,"temperature":0,"tools":[{"type":"function","function":{"name":"add","parameters":{"type":"object","properties":{"a":{"type":"integer"}}}}}]}`)
			if code != 200 || at(v, "choices", 0, "message", "tool_calls", 0, "function", "arguments") != `{"a": 5}` {
				t.Error(code, v)
			}

			// Together with a form, a reply is a call or a document, whatever the model would rather write.
			with := `{` + hi + `,"temperature":0,"max_tokens":200,"tools":[{"type":"function","function":{"name":"add","parameters":{"type":"object","properties":{"a":{"type":"integer"}}}}}],
				"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object","properties":{"name":{"type":"string","maxLength":9},"n":{"type":"integer","maximum":99,"minimum":0}},"required":["name","n"],"additionalProperties":false}}}`
			for _, stream := range []bool{false, true} {
				ask := func() (content, arguments, finish string) {
					if !stream {
						code, v := post(t, h.URL+"/v1/chat/completions", with+`}`)
						if code != 200 {
							t.Fatal(code, v)
						}
						content, _ = at(v, "choices", 0, "message", "content").(string)
						arguments, _ = at(v, "choices", 0, "message", "tool_calls", 0, "function", "arguments").(string)
						finish, _ = at(v, "choices", 0, "finish_reason").(string)
						return content, arguments, finish
					}
					for _, data := range sseData(t, h.URL+"/v1/chat/completions", with+`,"stream":true}`) {
						var v map[string]any
						if json.Unmarshal([]byte(data), &v) != nil {
							continue // [DONE]
						}
						c, _ := at(v, "choices", 0, "delta", "content").(string)
						a, _ := at(v, "choices", 0, "delta", "tool_calls", 0, "function", "arguments").(string)
						f, _ := at(v, "choices", 0, "finish_reason").(string)
						content, arguments, finish = content+c, arguments+a, finish+f
					}
					return content, arguments, finish
				}
				if content, arguments, finish := ask(); content != "" || arguments != `{"a": 5}` || finish != "tool_calls" {
					t.Errorf("a call: %q, %q, %s", content, arguments, finish)
				}
				before := f.reply
				for _, doc := range []string{`{"name": "add", "n": 5}`, `{"name":"x","n":7}`} {
					f.reply = doc
					if content, arguments, finish := ask(); content != doc || arguments != "" || finish != "stop" {
						t.Errorf("%s: %q, %q, %s", doc, content, arguments, finish)
					}
				}
				f.reply = "I would rather chat."
				if content, _, _ := ask(); content == f.reply || content != "" && !json.Valid([]byte(content)) {
					t.Errorf("broke out of its form: %q", content)
				}
				f.reply = before
			}
			if code, v := post(t, h.URL+"/v1/chat/completions", strings.Replace(with, `"response_format":{"type":"json_schema"`, `"guided_regex":"a+","x":{"type":"json_schema"`, 1)+`}`); code != 400 || at(v, "error", "param") != "tools" {
				t.Error(code, v)
			}
		})
	}
}
