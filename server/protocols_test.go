package server

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
	"time"
)

// sse reads server-sent events as their names and data.
func sse(t testing.TB, url, body string) (names []string, data []map[string]any) {
	t.Helper()
	r, err := http.Post(url, "application/json", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if r.StatusCode != 200 {
		b, _ := io.ReadAll(r.Body)
		t.Fatalf("%d %s", r.StatusCode, b)
	}
	lines := bufio.NewScanner(r.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if n, ok := strings.CutPrefix(lines.Text(), "event: "); ok {
			names = append(names, n)
		}
		if d, ok := strings.CutPrefix(lines.Text(), "data: "); ok && d != "[DONE]" {
			v, _ := decode(t, d).(map[string]any)
			data = append(data, v)
		}
	}
	return names, data
}

const addTool = `{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}`

// thinker is a fake that thinks, calls the tool when it is asked to add, and answers with the result.
func thinker(t testing.TB) *fake {
	f := withTemplate(t, strings.Replace(opensItself, "{% for m in messages %}", `{% if tools %}<|im_start|>system`+"\n"+`{{ tools | tojson }} <tool_call><|im_end|>`+"\n"+`{% endif %}{% for m in messages %}`, 1))
	f.replies = map[string]string{
		"add": "<think>\nI add.\n</think>\n\nOne moment.\n<tool_call>\n{\"name\": \"add\", \"arguments\": {\"a\": 5}}\n</tool_call>",
		"six": "<think>\nI know.\n</think>\n\nIt is six.",
		"Hi":  "Hello there!",
	}
	return f
}

func TestResponses(t *testing.T) {
	f := thinker(t)
	_, h := serve(t, f, Options{})
	url := h.URL + "/v1/responses"
	if code, v := post(t, url, `{"input":"Hi","temperature":0,"instructions":"Be kind."}`); code != 200 || at(v, "output", 0, "content", 0, "text") != "Hello there!" || v["status"] != "completed" || at(v, "usage", "total_tokens").(float64) < 5 {
		t.Fatal(code, v)
	}
	tools := `"temperature":0,"tools":[{"type":"function","name":"add","parameters":` + addTool + `,"strict":true}]`
	_, v := post(t, url, `{"input":[{"role":"user","content":[{"type":"input_text","text":"Please add."}]}],`+tools+`}`)
	kinds := ""
	for _, x := range v["output"].([]any) {
		kinds += x.(map[string]any)["type"].(string) + " "
	}
	if kinds != "reasoning message function_call " || at(v, "output", 0, "content", 0, "text") != "I add." || at(v, "output", 1, "content", 0, "text") != "One moment." || at(v, "output", 2, "arguments") != `{"a": 5}` {
		t.Fatal(kinds, v)
	}
	callID := at(v, "output", 2, "call_id").(string)

	// It goes on from what is kept, and from what the client sends back.
	result := `{"type":"function_call_output","call_id":"` + callID + `","output":"six"}`
	code, w := post(t, url, fmt.Sprintf(`{"previous_response_id":%q,"input":[%s],%s}`, v["id"], result, tools))
	if code != 200 || at(w, "output", 1, "content", 0, "text") != "It is six." || w["previous_response_id"] != v["id"] {
		t.Error(code, w)
	}
	var items []string
	for _, x := range v["output"].([]any) {
		b, _ := json.Marshal(x)
		items = append(items, string(b))
	}
	code, x := post(t, url, `{"store":false,"input":[{"role":"user","content":"Please add."},`+strings.Join(items, ",")+`,`+result+`],`+tools+`}`)
	if code != 200 || at(x, "output", 1, "content", 0, "text") != "It is six." || at(x, "usage", "input_tokens") != at(w, "usage", "input_tokens") {
		t.Error("the same history, sent whole, is another prompt:", code, x)
	}
	if code, _ := post(t, url, fmt.Sprintf(`{"previous_response_id":%q,"input":"x"}`, x["id"])); code != 400 {
		t.Error("a response was kept against store:false")
	}
	code, y := post(t, url, fmt.Sprintf(`{"store":false,"input":[{"role":"user","content":"Please add."},{"type":"item_reference","id":%q},%s],%s}`, at(v, "output", 2, "id"), result, tools))
	if code != 200 || at(y, "output", 1, "content", 0, "text") != "It is six." {
		t.Error(code, y)
	}

	// Streams: every item and part begins and ends, numbers rise, and the last event has all.
	for _, more := range []string{``, `,"reasoning":{"summary":"auto"},"include":["reasoning.encrypted_content"]`} {
		names, data := sse(t, url, `{"input":"Please add.","stream":true,`+tools+more+`}`)
		text := map[string]string{}
		begun, ended := 0, 0
		for i, d := range data {
			if d["type"] != names[i] || d["sequence_number"] != float64(i) {
				t.Fatal(names[i], d)
			}
			if s, ok := d["delta"].(string); ok {
				text[names[i]] += s
			}
			if strings.HasSuffix(names[i], ".added") {
				begun++
			}
			if names[i] == "response.output_item.done" || strings.HasSuffix(names[i], "part.done") {
				ended++
			}
		}
		thought := text["response.reasoning_text.delta"]
		if more != "" {
			thought = text["response.reasoning_summary_text.delta"]
		}
		last := data[len(data)-1]
		if names[0] != "response.created" || names[len(names)-1] != "response.completed" || begun != ended || thought != "I add." || text["response.output_text.delta"] != "One moment." || text["response.function_call_arguments.delta"] != `{"a": 5}` {
			t.Error(names, text)
		}
		if more != "" {
			sealed, _ := at(last, "response", "output", 0, "encrypted_content").(string)
			item := fmt.Sprintf(`{"type":"reasoning","id":"x","summary":[],"encrypted_content":%q}`, sealed)
			code, z := post(t, url, `{"input":[{"role":"user","content":"Please add."},`+item+`,`+strings.Join(items[1:], ",")+`,`+result+`],`+tools+`}`)
			if code != 200 || at(z, "usage", "input_tokens") != at(w, "usage", "input_tokens") {
				t.Error("the sealed thought is another:", code, z)
			}
		}
	}
	// What is kept can be read and forgotten, by its owner; forms; what is not supported.
	id := w["id"].(string)
	r, err := http.Get(url + "/" + id)
	if err != nil || r.StatusCode != 200 {
		t.Error(r, err)
	}
	r.Body.Close()
	if r, err = http.Get(url + "/" + id + "/input_items"); err != nil || r.StatusCode != 200 {
		t.Error(r, err)
	}
	r.Body.Close()
	del, _ := http.NewRequest("DELETE", url+"/"+id, nil)
	for _, want := range []int{200, 404} {
		if r, err = http.DefaultClient.Do(del); err != nil || r.StatusCode != want {
			t.Error(r, err)
		}
		r.Body.Close()
	}
	if code, v := post(t, url, `{"input":"x","text":{"format":{"type":"json_schema","name":"x","schema":{"enum":["a"]}}}}`); code != 200 || at(v, "output", 0, "content", 0, "text") != `"a"` {
		t.Error(code, v)
	}
	if code, v := post(t, url, `{"input":"Hi","max_output_tokens":2,"temperature":0}`); code != 200 || v["status"] != "incomplete" || at(v, "incomplete_details", "reason") != "max_output_tokens" {
		t.Error(code, v)
	}
	for _, body := range []string{`{"input":"x","background":true}`, `{"input":"x","tools":[{"type":"web_search"}]}`, `{"input":[{"type":"computer_call"}]}`, `{}`, `{"input":"x","conversation":"c"}`} {
		if code, v := post(t, url, body); code != 400 {
			t.Error(body, code, v)
		}
	}
}

// What is kept of responses is bounded.
func TestResponsesAreBounded(t *testing.T) {
	f := newFake(t)
	f.reply = "Hello!"
	s, h := serve(t, f, Options{KeepBytes: 60_000})
	first := ""
	for i := range 20 {
		code, v := post(t, h.URL+"/v1/responses", `{"input":"Hi","temperature":0}`)
		if code != 200 {
			t.Fatal(v)
		}
		if i == 0 {
			first = v["id"].(string)
		}
	}
	if s.kept.bytes > 60_000 || len(s.kept.list) == 0 || s.kept.get(first, "127.0.0.1") != nil {
		t.Error(s.kept.bytes, len(s.kept.list))
	}
}

func TestMessages(t *testing.T) {
	f := thinker(t)
	_, h := serve(t, f, Options{})
	url := h.URL + "/v1/messages"
	if code, v := post(t, url, `{"max_tokens":50,"temperature":0,"system":[{"type":"text","text":"Be kind."}],"messages":[{"role":"user","content":"Hi"}]}`); code != 200 || at(v, "content", 0, "text") != "Hello there!" || v["stop_reason"] != "end_turn" || v["type"] != "message" {
		t.Fatal(code, v)
	}
	rest := `"max_tokens":200,"temperature":0,"thinking":{"type":"enabled","budget_tokens":1024},"tools":[{"name":"add","input_schema":` + addTool + `}]`
	code, v := post(t, url, `{"messages":[{"role":"user","content":[{"type":"text","text":"Please add."}]}],`+rest+`}`)
	if code != 200 || at(v, "content", 0, "thinking") != "I add." || at(v, "content", 1, "text") != "One moment." || at(v, "content", 2, "input", "a") != 5.0 || v["stop_reason"] != "tool_use" {
		t.Fatal(code, v)
	}
	history, _ := json.Marshal(v["content"])
	code, v = post(t, url, `{"messages":[{"role":"user","content":"Please add."},{"role":"assistant","content":`+string(history)+`},{"role":"user","content":[{"type":"tool_result","tool_use_id":"`+at(v, "content", 2, "id").(string)+`","content":[{"type":"text","text":"six"}]}]}],`+rest+`}`)
	if code != 200 || at(v, "content", 1, "text") != "It is six." {
		t.Error(code, v)
	}
	names, data := sse(t, url, `{"stream":true,"messages":[{"role":"user","content":"Please add."}],`+rest+`}`)
	got := map[string]string{}
	open := -1.0
	for i, d := range data {
		if d["type"] != names[i] {
			t.Fatal(names[i], d)
		}
		switch names[i] {
		case "content_block_start":
			if open = d["index"].(float64); at(d, "content_block", "type") == nil {
				t.Error(d)
			}
		case "content_block_delta":
			for _, k := range []string{"thinking", "text", "partial_json"} {
				s, _ := at(d, "delta", k).(string)
				got[k] += s
			}
			if d["index"] != open {
				t.Error(d, open)
			}
		case "content_block_stop":
			if d["index"] != open {
				t.Error(d, open)
			}
		}
	}
	if got["thinking"] != "I add." || got["text"] != "One moment." || got["partial_json"] != `{"a": 5}` || names[0] != "message_start" || names[len(names)-1] != "message_stop" || at(data[len(data)-2], "delta", "stop_reason") != "tool_use" {
		t.Error(names, got)
	}
	// The assistant's last message is gone on with; a stop sequence is told; tokens are counted; errors have their shape.
	if code, v := post(t, url, `{"max_tokens":50,"temperature":0,"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello"}]}`); code != 200 || at(v, "content", 0, "text") != " there!" {
		t.Error(code, v)
	}
	if code, v := post(t, url, `{"max_tokens":50,"temperature":0,"stop_sequences":["there"],"messages":[{"role":"user","content":"Hi"}]}`); code != 200 || v["stop_reason"] != "stop_sequence" || v["stop_sequence"] != "there" || at(v, "content", 0, "text") != "Hello " {
		t.Error(code, v)
	}
	code, v = post(t, url+"/count_tokens", `{"messages":[{"role":"user","content":"Hi"}]}`)
	if code != 200 || v["input_tokens"].(float64) < 5 {
		t.Error(code, v)
	}
	for _, body := range []string{`{"messages":[{"role":"user","content":"Hi"}]}`, `{"max_tokens":5,"messages":[]}`, `{"max_tokens":5,"messages":[{"role":"user","content":[{"type":"image"}]}]}`, `{"max_tokens":5,"messages":[{"role":"king","content":"x"}]}`, `{"max_tokens":5,"mcp_servers":[{}],"messages":[{"role":"user","content":"Hi"}]}`} {
		if code, v := post(t, url, body); code != 400 || v["type"] != "error" || at(v, "error", "type") != "invalid_request_error" {
			t.Error(body, code, v)
		}
	}
	if code, v := post(t, url, `{"model":"x","max_tokens":5,"messages":[{"role":"user","content":"Hi"}]}`); code != 404 || at(v, "error", "type") != "not_found_error" {
		t.Error(code, v)
	}
}

func TestOllamaProtocol(t *testing.T) {
	f := thinker(t)
	_, h := serve(t, f, Options{})
	opts := `"stream":false,"options":{"temperature":0,"repeat_penalty":1}`
	code, v := post(t, h.URL+"/api/chat", `{"messages":[{"role":"user","content":"Please add."}],"tools":[{"type":"function","function":{"name":"add","parameters":`+addTool+`}}],"think":true,`+opts+`}`)
	if code != 200 || at(v, "message", "thinking") != "I add." || at(v, "message", "content") != "One moment." || at(v, "message", "tool_calls", 0, "function", "arguments", "a") != 5.0 {
		t.Error(code, v)
	}
	if code, v := post(t, h.URL+"/api/chat", `{"messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello"}],"logprobs":true,"top_logprobs":2,`+opts+`}`); code != 200 || at(v, "message", "content") != " there!" || len(at(v, "logprobs", 0, "top_logprobs").([]any)) != 2 {
		t.Error(code, v)
	}
	code, v = post(t, h.URL+"/api/generate", `{"prompt":"Hi",`+opts+`}`)
	if code != 200 || v["response"] != "Hello there!" {
		t.Fatal(code, v)
	}
	ids, _ := json.Marshal(v["context"])
	if code, w := post(t, h.URL+"/api/generate", `{"prompt":"Hi","context":`+string(ids)+`,`+opts+`}`); code != 200 || w["response"] != "Hello there!" || w["prompt_eval_count"].(float64) <= v["prompt_eval_count"].(float64) {
		t.Error(code, w)
	}
	if code, v := post(t, h.URL+"/api/generate", `{"prompt":"Hi","system":"S","template":"{{ if .System }}<|im_start|>system\n{{ .System }}<|im_end|>\n{{ end }}<|im_start|>user\n{{ .Prompt }}<|im_end|>\n<|im_start|>assistant\n{{ .Response }}<|im_end|>",`+opts+`}`); code != 200 || v["response"] != "Hello there!" {
		t.Error(code, v)
	}
	for _, src := range []string{`{{ range 1000000000 }}x{{ end }}`, `{{ printf \"%1000000000d\" 1 }}`, `{{ define \"a\" }}{{ template \"a\" }}{{ end }}{{ template \"a\" }}`, `{{ .Messages }}`, `{{`, `{{ $x := .Prompt }}`} {
		if code, v := post(t, h.URL+"/api/generate", `{"prompt":"Hi","template":"`+src+`",`+opts+`}`); code != 400 {
			t.Error(src, code, v)
		}
	}
	if code, v := post(t, h.URL+"/api/generate", `{"prompt":"a","suffix":"b",`+opts+`}`); code != 400 {
		t.Error("a suffix without tokens for it:", code, v)
	}
	if code, v := post(t, h.URL+"/api/chat", `{`+hi+`,"options":{"mirostat":2}}`); code != 400 || !strings.Contains(fmt.Sprint(v), "mirostat") {
		t.Error(code, v)
	}
	if _, v := post(t, h.URL+"/api/show", `{"model":"fake"}`); fmt.Sprint(v["capabilities"]) != "[completion tools thinking]" {
		t.Error(v["capabilities"])
	}
	r, err := http.Get(h.URL + "/api/tags")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	var tags map[string]any
	if err := json.NewDecoder(r.Body).Decode(&tags); err != nil || len(at(tags, "models", 0, "digest").(string)) != 64 {
		t.Error(tags, err)
	}
}

func TestLlamaProtocol(t *testing.T) {
	tok, err := makeTestTokenizer(testTemplate, "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")
	if err != nil {
		t.Fatal(err)
	}
	f := newFake(t)
	f.tok, f.cfg.VocabSize = tok, tok.VocabSize()
	f.quiet = true
	s, h := serve(t, f, Options{})
	code, v := post(t, h.URL+"/completion", `{"prompt":"hello","n_predict":5,"temperature":0,"n_probs":2,"return_tokens":true}`)
	if code != 200 || v["stop"] != true || v["stop_type"] != "limit" || len(v["tokens"].([]any)) != 5 || len(at(v, "completion_probabilities", 0, "top_logprobs").([]any)) != 2 {
		t.Fatal(code, v)
	}
	if code, w := post(t, h.URL+"/completion", `{"prompt":["hel",108,"o"],"n_predict":5,"temperature":0}`); code != 200 || w["tokens_evaluated"].(float64) < 3 {
		t.Error(code, w)
	}
	_, data := sse(t, h.URL+"/completion", `{"prompt":"hello","n_predict":5,"temperature":0,"stream":true}`)
	text := ""
	for _, d := range data {
		text += d["content"].(string)
	}
	if text != v["content"] || data[len(data)-1]["stop"] != true {
		t.Errorf("%q, whole %q", text, v["content"])
	}
	ids, err := s.models[0].between("before", "behind")
	if err != nil || f.tok.Token(ids[0]) != "<|fim_prefix|>" || f.tok.Token(ids[len(ids)-1]) != "<|fim_middle|>" {
		t.Error(ids, err)
	}
	if code, v := post(t, h.URL+"/infill", `{"input_prefix":"before","input_suffix":"behind","n_predict":3}`); code != 200 || v["tokens_evaluated"] != float64(len(ids)) {
		t.Error(code, v)
	}
	if code, v := post(t, h.URL+"/v1/completions", `{"prompt":"before","suffix":"behind","max_tokens":3}`); code != 200 || at(v, "usage", "prompt_tokens") != float64(len(ids)) {
		t.Error(code, v)
	}
	if code, v := post(t, h.URL+"/apply-template", `{`+hi+`}`); code != 200 || v["prompt"] != "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n" {
		t.Error(code, v)
	}
	for _, p := range []string{"/props", "/slots"} {
		r, err := http.Get(h.URL + p)
		if err != nil || r.StatusCode != 200 {
			t.Error(p, r, err)
		}
		r.Body.Close()
	}
}

// Every field of the requests is honoured, harmless or refused, as its table says.
func TestFields(t *testing.T) {
	f := newFake(t)
	_, h := serve(t, f, Options{})
	for _, tt := range []struct {
		path, body string
		f          fields
		q          []any
	}{
		{"/v1/chat/completions", hi + `,"max_tokens":2`, chatFields, []any{chatRequest{}}},
		{"/v1/completions", `"prompt":"x","max_tokens":2`, completionFields, []any{completionRequest{}}},
		{"/v1/embeddings", `"input":"x"`, embeddingFields, nil},
		{"/v1/responses", `"input":"x","max_output_tokens":2`, responseFields, []any{responsesRequest{}}},
		{"/v1/messages", hi + `,"max_tokens":2`, messagesFields, []any{messagesRequest{}}},
		{"/api/chat", hi + `,"stream":false,"options":{"num_predict":2}`, ollamaChatFields, nil},
		{"/api/generate", `"prompt":"x","stream":false,"options":{"num_predict":2}`, ollamaGenerateFields, nil},
		{"/api/embed", `"input":"x"`, ollamaEmbedFields, nil},
		{"/completion", `"prompt":"x","n_predict":2`, llamaFields, []any{llamaRequest{}}},
	} {
		honoured := map[string]bool{}
		for _, n := range strings.Fields(tt.f.honoured) {
			if honoured[n] {
				t.Errorf("%s: %s is there twice", tt.path, n)
			}
			honoured[n] = true
		}
		for _, q := range tt.q { // the struct has what the table says, and nothing else
			tags := map[string]bool{}
			jsonNames(reflect.TypeOf(q), tags)
			for n := range honoured {
				if !tags[n] {
					t.Errorf("%s: the table says that %s is honoured, and the request has no place for it", tt.path, n)
				}
			}
			for n := range tags {
				if !honoured[n] {
					t.Errorf("%s: the request reads %s, and the table does not say so", tt.path, n)
				}
			}
		}
		for _, n := range strings.Fields(tt.f.harmless) {
			if _, ok := tt.f.refused[n]; ok || honoured[n] {
				t.Errorf("%s: %s is harmless and something else", tt.path, n)
			}
			if code, v := post(t, h.URL+tt.path, `{`+tt.body+`,"`+n+`":{"a":[1]}}`); code != 200 && n != "stream_options" && n != "options" && n != "truncate" {
				t.Errorf("%s: %s is harmless, and gets %d %v", tt.path, n, code, v)
			}
		}
		for n, r := range tt.f.refused {
			if honoured[n] && n != "model" {
				t.Errorf("%s: %s is honoured and refused", tt.path, n)
				continue
			}
			code, v := post(t, h.URL+tt.path, `{`+tt.body+`,"`+n+`":[7,{"x":"y"}]}`)
			if code != 400 || !strings.Contains(fmt.Sprint(v), n) {
				t.Errorf("%s: %s is refused, and gets %d %v", tt.path, n, code, v)
			}
			for _, plain := range append(r.plain, "null") {
				if code, v := post(t, h.URL+tt.path, `{`+tt.body+`,"`+n+`":`+plain+`}`); code != 200 {
					t.Errorf("%s: %s of %s says nothing, and gets %d %v", tt.path, n, plain, code, v)
				}
			}
		}
	}
}

func jsonNames(t reflect.Type, into map[string]bool) {
	for i := range t.NumField() {
		f := t.Field(i)
		name, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.Anonymous {
			jsonNames(f.Type, into)
		} else if name != "" {
			into[name] = true
		}
	}
}

// A client that goes away is no error of the server's.
func TestCancelIsNoError(t *testing.T) {
	f := newFake(t)
	f.quiet = true
	log := &syncBuffer{}
	_, h := serve(t, f, Options{Log: log.logger()})
	for i := range 20 {
		r, err := http.Post(h.URL+[]string{"/v1/chat/completions", "/v1/messages", "/api/chat", "/v1/responses"}[i%4], "application/json", strings.NewReader(`{`+hi+`,"input":"x","stream":true,"max_tokens":4000,"ignore_eos":true}`))
		if err != nil {
			t.Fatal(err)
		}
		io.ReadFull(r.Body, make([]byte, 50))
		r.Body.Close()
		http.DefaultClient.CloseIdleConnections()
	}
	log.waitFor(t, `"msg":"request"`, 20)
	if strings.Contains(log.String(), `"ERROR"`) {
		t.Error(log.String())
	}
}

// The endpoint picker of Kubernetes' inference gateway finds the load under its own names.
func TestPickerMetrics(t *testing.T) {
	f := newFake(t)
	f.quiet, f.pause = true, time.Millisecond
	_, h := serve(t, f, Options{MaxBatch: 2})
	r, err := http.Post(h.URL+"/v1/completions", "application/json", strings.NewReader(`{"prompt":"x","n":5,"max_tokens":2000,"stream":true}`))
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	io.ReadFull(r.Body, make([]byte, 300))
	m, err := http.Get(h.URL + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer m.Body.Close()
	b, _ := io.ReadAll(m.Body)
	for _, want := range []string{`vllm:num_requests_waiting{model_name="fake"} 3`, `vllm:num_requests_running{model_name="fake"} 2`, `vllm:kv_cache_usage_perc{model_name="fake"} `, `vllm:lora_requests_info{model_name="fake",max_lora="0"`} {
		if !strings.Contains(string(b), want) {
			t.Errorf("no %s in\n%s", want, b)
		}
	}
}
