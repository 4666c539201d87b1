package server

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"
	"unicode/utf8"
)

// FuzzRequests sends any JSON to any path that takes some: the answer is a proper status with valid text, the server
// goes on, and nothing is left open.
func FuzzRequests(f *testing.F) {
	paths := []string{
		"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize",
		"/api/chat", "/api/generate", "/api/embed", "/api/embeddings", "/api/show",
	}
	for i, body := range []string{
		`{"messages":[{"role":"user","content":"hi"},{"role":"assistant","content":null,"tool_calls":[{"id":"a","type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool","tool_call_id":"a","content":[{"type":"text","text":"x"}]}],"tools":[{"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"a":{"type":"integer"}}}}}],"tool_choice":"required","max_tokens":3,"stream":true,"stream_options":{"include_usage":true}}`,
		`{"prompt":["a",""],"max_tokens":2,"n":2,"best_of":2,"logprobs":2,"echo":true,"suffix":null,"stop":["x"],"logit_bias":{"3":-100},"seed":1}`,
		`{"input":["a",[1,2]],"encoding_format":"base64","dimensions":2}`,
		`{"prompt":"a b","add_special_tokens":false,"messages":[]}`,
		`{"tokens":[1,2,3]}`,
		`{"model":"fake","messages":[{"role":"user","content":"hi","images":[]}],"options":{"num_predict":2,"temperature":0.1,"stop":["a"]},"format":{"type":"object"},"tools":[],"keep_alive":"5m"}`,
		`{"prompt":"a","options":{"num_predict":2,"seed":-1},"format":"json","raw":true,"context":[1],"stream":false}`,
		`{"input":["a"],"truncate":true}`,
		`{"prompt":"a"}`,
		`{"model":"fake","verbose":true}`,
		`{"messages":[{"role":"user","content":"hi"}],"response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"array","items":{"enum":[1,null]}}}},"max_completion_tokens":2}`,
		`{"prompt":[[1,2],[3]],"guided_regex":"[ab]{2}","max_tokens":3,"temperature":1e38,"top_p":0}`,
		`{"prompt":"a","grammar":"root ::= \"a\" | root \"b\"","max_tokens":3}`,
	} {
		f.Add(byte(i%10), []byte(body))
	}
	e := newFake(f)
	e.cfg.MaxContext = 64
	s, err := New(Options{
		Log: quietLog(), MaxTokens: 4, MaxBody: 1 << 16, MaxSequences: 4, MaxBatch: 4,
		QueueTimeout: time.Minute, RequestTimeout: 3 * time.Second, // less than what the fuzzer takes for a hang
	}, Model{ID: "fake", Engine: e, Tokenizer: e.tok})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(s.Close)
	f.Fuzz(func(t *testing.T, path byte, body []byte) {
		r := httptest.NewRequest(http.MethodPost, paths[int(path)%len(paths)], bytes.NewReader(body))
		r.Host = "localhost"
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		if w.Code >= 500 && w.Code != http.StatusServiceUnavailable && w.Code != http.StatusGatewayTimeout {
			t.Errorf("status %d: %s", w.Code, w.Body)
		}
		if !utf8.Valid(w.Body.Bytes()) {
			t.Errorf("the answer is not UTF-8: %q", w.Body)
		}
		if s.panics.Get() > 0 || s.models[0].sched.m.panics.Get() > 0 {
			t.Fatal("something panicked")
		}
	})
}
