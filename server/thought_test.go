package server

import (
	"fmt"
	"strings"
	"testing"
)

// Templates of models that think: one that leaves it to the model, one that begins the thought, both with a switch.
const (
	opensItself  = `{% for m in messages %}<|im_start|>{{ m.role }}` + "\n" + `{% if m.reasoning_content %}<think>` + "\n" + `{{ m.reasoning_content }}` + "\n</think>\n\n" + `{% endif %}{{ m.content }}<|im_end|>` + "\n" + `{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant` + "\n" + `{% if enable_thinking is defined and not enable_thinking %}<think>` + "\n\n</think>\n\n" + `{% endif %}{% endif %}`
	opensForThem = `{% for m in messages %}<|im_start|>{{ m.role }}` + "\n" + `{% if m.reasoning_content %}<think>` + "\n" + `{{ m.reasoning_content }}` + "\n</think>\n\n" + `{% endif %}{{ m.content }}<|im_end|>` + "\n" + `{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant` + "\n<think>\n" + `{% endif %}`
)

// withTemplate is a fake whose tokenizer has this template.
func withTemplate(t testing.TB, template string) *fake {
	tok, err := makeTestTokenizer(template, "<think>", "</think>")
	if err != nil {
		t.Fatal(err)
	}
	f := newFake(t)
	f.tok, f.cfg.VocabSize = tok, tok.VocabSize()
	return f
}

func TestThoughts(t *testing.T) {
	for name, tt := range map[string]struct{ template, reply string }{
		"opened by the model":    {opensItself, "<think>\nHm, so it is.\n</think>\n\nYes!"},
		"opened by the template": {opensForThem, "<think>\nHm, so it is.\n</think>\n\nYes!"},
	} {
		t.Run(name, func(t *testing.T) {
			f := withTemplate(t, tt.template)
			f.reply = tt.reply
			s, h := serve(t, f, Options{})
			m := s.models[0]
			if m.thought == nil || m.thought.End != "\n</think>\n\n" || (m.thought.Switch != "") != (tt.template == opensItself) {
				t.Fatalf("%+v", m.thought)
			}
			ask := func(more string) (thought, text, finish string, spent float64) {
				t.Helper()
				code, v := post(t, h.URL+"/v1/chat/completions", `{`+hi+`,"temperature":0,"max_tokens":300`+more+`}`)
				if code != 200 {
					t.Fatal(code, v)
				}
				thought, _ = at(v, "choices", 0, "message", "reasoning_content").(string)
				text, _ = at(v, "choices", 0, "message", "content").(string)
				finish, _ = at(v, "choices", 0, "finish_reason").(string)
				spent, _ = at(v, "usage", "completion_tokens_details", "reasoning_tokens").(float64)
				return thought, text, finish, spent
			}
			if thought, text, finish, spent := ask(""); thought != "Hm, so it is." || text != "Yes!" || finish != "stop" || spent < 5 {
				t.Errorf("%q %q %s %v", thought, text, finish, spent)
			}
			var thought, text strings.Builder
			for _, d := range sseData(t, h.URL+"/v1/chat/completions", `{`+hi+`,"temperature":0,"stream":true}`) {
				thought.WriteString(deltaOf(t, d, "reasoning_content"))
				text.WriteString(deltaOf(t, d, "content"))
			}
			if thought.String() != "Hm, so it is." || text.String() != "Yes!" {
				t.Errorf("stream: %q %q", thought.String(), text.String())
			}
			if thought, text, _, _ := ask(`,"include_reasoning":false`); thought != "" || text != "Yes!" {
				t.Errorf("hidden: %q %q", thought, text)
			}
			if thought, text, _, _ := ask(`,"reasoning_format":"none"`); thought != "" || !strings.Contains(text, "</think>\n\nYes!") {
				t.Errorf("raw: %q %q", thought, text)
			}
			// A form is that of the answer, not of the thought.
			f.reply = strings.Replace(tt.reply, "Yes!", `{"a": 1}`, 1)
			form := `,"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"],"additionalProperties":false}}}`
			if thought, text, finish, _ := ask(form); thought != "Hm, so it is." || text != `{"a": 1}` || finish != "stop" {
				t.Errorf("with a form: %q %q %s", thought, text, finish)
			}
			// A call behind a thought, asked for and not.
			tools := `,"tools":[{"type":"function","function":{"name":"add","parameters":{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}}}]`
			f.reply = strings.Replace(tt.reply, "Yes!", "<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 5}}\n</tool_call>", 1)
			for _, choice := range []string{"auto", "required"} {
				if thought, text, finish, _ := ask(tools + `,"tool_choice":"` + choice + `"`); thought != "Hm, so it is." || text != "" || finish != "tool_calls" {
					t.Errorf("with tools, %s: %q %q %s", choice, thought, text, finish)
				}
			}
		})
	}
}

func deltaOf(t testing.TB, data, field string) string {
	v := decode(t, data)
	s, _ := at(v, "choices", 0, "delta", field).(string)
	return s
}

// A budget closes a thought with the words that the template has for it, after so many tokens.
func TestThoughtBudget(t *testing.T) {
	for _, template := range []string{opensItself, opensForThem} {
		f := withTemplate(t, template)
		f.quiet = true
		long := strings.Repeat("I go on and on. ", 60)
		f.reply = "<think>\n" + long + "\n</think>\n\nYes!"
		_, h := serve(t, f, Options{})
		for _, budget := range []int{0, 1, 16, 256} {
			for field, more := range map[string]string{
				"thinking_budget": "", "thinking_budget_tokens": "", "reasoning": "", "thinking": "", "with a form": `,"response_format":{"type":"json_object"}`,
			} {
				say := fmt.Sprintf(`"%s":%d`, field, budget)
				switch field {
				case "reasoning":
					say = fmt.Sprintf(`"reasoning":{"max_tokens":%d}`, budget)
				case "thinking":
					say = fmt.Sprintf(`"thinking":{"type":"enabled","budget_tokens":%d}`, budget)
				case "with a form":
					say = fmt.Sprintf(`"thinking_budget":%d`, budget)
				}
				code, v := post(t, h.URL+"/v1/chat/completions", fmt.Sprintf(`{%s,"temperature":0,"max_tokens":%d,%s%s}`, hi, budget+60, say, more))
				thought, _ := at(v, "choices", 0, "message", "reasoning_content").(string)
				text, _ := at(v, "choices", 0, "message", "content").(string)
				spent, _ := at(v, "usage", "completion_tokens_details", "reasoning_tokens").(float64)
				closing := len(f.tok.Encode("\n</think>\n\n", encodeAll))
				if code != 200 || !strings.HasPrefix(long, thought) || strings.Contains(text, "think>") || int(spent) > budget+closing || budget == 0 && thought != "" {
					t.Errorf("%s %d: %d, %v tokens, thought %q, text %q", field, budget, code, spent, thought, text)
				}
				if budget > 1 && thought == "" {
					t.Errorf("%s %d: no thought: %v", field, budget, v)
				}
				if field == "with a form" && !strings.HasPrefix(text, "{") {
					t.Errorf("%d: the answer is %q", budget, text)
				}
			}
		}
	}
}

// Thoughts of earlier turns reach the template, whatever a client calls them.
func TestThoughtsInHistory(t *testing.T) {
	f := withTemplate(t, opensItself)
	s, _ := serve(t, f, Options{})
	want := "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\nHm.\n</think>\n\nYes<|im_end|>\n<|im_start|>assistant\n"
	for _, field := range []string{`"reasoning_content":"Hm.","content":"Yes"`, `"reasoning":"Hm.","content":"Yes"`, `"content":[{"type":"thinking","thinking":"Hm."},{"type":"text","text":"Yes"}]`, `"content":[{"type":"thinking","thinking":[{"type":"text","text":"Hm."}]},{"type":"output_text","text":"Yes"}]`} {
		var q chatRequest
		if err := unmarshal(`{"messages":[{"role":"user","content":"Hi"},{"role":"assistant",`+field+`}]}`, &q); err != nil {
			t.Fatal(err)
		}
		ids, err := s.models[0].read(&conversation{messages: q.Messages})
		if err != nil {
			t.Fatal(err)
		}
		d := f.tok.NewDecoder()
		d.Special = true
		text := ""
		for _, id := range ids {
			text += d.Push(id)
		}
		if text != want {
			t.Errorf("%s: %q, want %q", field, text, want)
		}
	}
}
