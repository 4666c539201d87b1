package server

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os/exec"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
)

// server/openapi.json is openapi.yaml in the form that clients load:
//
//	python3 -c 'import json,sys,yaml; json.dump(yaml.safe_load(open("openapi.yaml")), sys.stdout, ensure_ascii=False)' > server/openapi.json
func TestOpenAPIIsMadeFromYAML(t *testing.T) {
	out, err := exec.Command("python3", "-c", "import json,sys,yaml; json.dump(yaml.safe_load(open('../openapi.yaml')), sys.stdout, ensure_ascii=False)").Output()
	if err != nil {
		t.Skip("no Python with PyYAML: openapi.json is not compared with openapi.yaml")
	}
	if !bytes.Equal(bytes.TrimSpace(out), bytes.TrimSpace(openapi)) {
		t.Error("openapi.json is out of date: see the command above this test")
	}
}

// What the server answers is valid by its own description, and every path that it has is described.
func TestAnswersMatchOpenAPI(t *testing.T) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(openapi))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("api.json", doc); err != nil {
		t.Fatal(err)
	}
	check := func(schema, text string) {
		t.Helper()
		s, err := c.Compile("api.json#/components/schemas/" + schema)
		if err != nil {
			t.Fatal(err)
		}
		v, err := jsonschema.UnmarshalJSON(strings.NewReader(text))
		if err == nil {
			err = s.Validate(v)
		}
		if err != nil {
			t.Errorf("%s: %v\n%s", schema, err, text)
		}
	}
	f := newFake(t)
	_, h := serve(t, f, Options{})
	tools := `"tools":[{"type":"function","function":{"name":"add","parameters":{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"]}}}],"tool_choice":"required"`
	for _, tt := range []struct{ schema, path, body string }{
		{"ChatCompletion", "/v1/chat/completions", `{` + hi + `,"max_tokens":5}`},
		{"ChatCompletion", "/v1/chat/completions", `{` + hi + `,"max_tokens":5,"n":2,"logprobs":true,"top_logprobs":3}`},
		{"ChatCompletion", "/v1/chat/completions", `{` + hi + `,` + tools + `}`},
		{"Completion", "/v1/completions", `{"prompt":"x","echo":true,"logprobs":2}`},
		{"Embeddings", "/v1/embeddings", `{"input":"x"}`},
		{"Tokens", "/tokenize", `{"prompt":"x","return_token_strs":true}`},
		{"Error", "/v1/completions", `{"prompt":5}`},
		{"Error", "/v1/chat/completions", `x`},
	} {
		_, v := post(t, h.URL+tt.path, tt.body)
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		check(tt.schema, string(b))
	}
	for _, tt := range []struct{ schema, path, body string }{
		{"ChatChunk", "/v1/chat/completions", `{` + hi + `,"max_tokens":9,"stream":true,"stream_options":{"include_usage":true},"logprobs":true}`},
		{"ChatChunk", "/v1/chat/completions", `{` + hi + `,"stream":true,` + tools + `}`},
		{"Completion", "/v1/completions", `{"prompt":"x","stream":true,"stream_options":{"include_usage":true}}`},
	} {
		data := sseData(t, h.URL+tt.path, tt.body)
		for _, d := range data[:len(data)-1] {
			check(tt.schema, d)
		}
	}
	paths := doc.(map[string]any)["paths"].(map[string]any)
	for path, item := range paths {
		for method := range item.(map[string]any) {
			r, _ := http.NewRequest(strings.ToUpper(method), h.URL+strings.ReplaceAll(path, "{id}", "fake"), strings.NewReader("{}"))
			a, err := http.DefaultClient.Do(r)
			if err != nil {
				t.Fatal(err)
			}
			a.Body.Close()
			if a.StatusCode == 404 && !strings.HasPrefix(path, "/v1/responses/") || a.StatusCode >= 500 {
				t.Errorf("%s %s: %s", method, path, a.Status)
			}
		}
	}
	for _, line := range strings.Split(routesSource, "\n") {
		if _, rest, ok := strings.Cut(line, `h("`); ok {
			pattern, _, _ := strings.Cut(rest, `"`)
			_, path, _ := strings.Cut(pattern, " ")
			path = strings.ReplaceAll(path, "...", "")
			if path != "" && path != "/{path}" && paths[path] == nil {
				t.Errorf("%s is not described", path)
			}
		}
	}
}
