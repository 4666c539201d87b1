package server

import (
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// lockedBuffer is a log that is read while it is written.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// TestAChangedModelIsOutOfService: the requests that it was answering end with an error, new ones are refused, /ready and
// the log name the file, and the other model goes on. Without any model left the probes fail.
func TestAChangedModelIsOutOfService(t *testing.T) {
	a, b := newFake(t), newFake(t)
	a.pause, a.quiet = 2*time.Millisecond, true
	var log lockedBuffer
	s, err := New(Options{Log: slog.New(slog.NewTextHandler(&log, nil)), MaxBatch: 2},
		Model{ID: "a", Engine: a, Tokenizer: a.tok}, Model{ID: "b", Engine: b, Tokenizer: b.tok})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	url := newTestServer(t, s)
	ask := func(model string, stream bool) (int, string) {
		body, _ := json.Marshal(map[string]any{"model": model, "prompt": "hello", "max_tokens": 2000, "temperature": 0, "stream": stream})
		r, err := http.Post(url+"/v1/completions", "application/json", bytes.NewReader(body))
		if err != nil {
			t.Error(err)
			return 0, ""
		}
		defer r.Body.Close()
		text, _ := io.ReadAll(r.Body)
		return r.StatusCode, string(text)
	}
	get := func(path string) (int, string) {
		r, err := http.Get(url + path)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		text, _ := io.ReadAll(r.Body)
		return r.StatusCode, string(text)
	}
	if code, text := get("/ready"); code != 200 || strings.TrimSpace(text) != `{"status":"ready"}` {
		t.Errorf("/ready: %d %s", code, text)
	}
	_, want := ask("b", false)
	var wg sync.WaitGroup
	for i := range 6 { // two run, the others wait
		stream := i%2 == 1
		wg.Go(func() {
			code, text := ask("a", stream)
			if !strings.Contains(text, ModelOutOfService) || strings.Contains(text, "fake.gguf") || !stream && code != 503 {
				t.Errorf("under way, stream %v: %d %.300q", stream, code, text)
			}
		})
	}
	for a.steps.Load() < 20 {
		time.Sleep(time.Millisecond)
	}
	a.changed.Store(true)
	wg.Wait()
	steps := a.steps.Load()
	if code, text := ask("a", false); code != 503 || !strings.Contains(text, ModelOutOfService) || !strings.Contains(text, "the model a") {
		t.Errorf("afterwards: %d %s", code, text)
	}
	a.changed.Store(false) // however the file is now
	if code, _ := ask("a", false); code != 503 || a.steps.Load() != steps {
		t.Errorf("it is asked again: %d", code)
	}
	if code, text := get("/ready"); code != 200 || !strings.Contains(text, `"degraded"`) || !strings.Contains(text, "fake.gguf") {
		t.Errorf("/ready: %d %s", code, text)
	}
	if n := strings.Count(log.String(), "model out of service"); n != 1 || !strings.Contains(log.String(), "fake.gguf") {
		t.Errorf("%d lines in the log: %s", n, log.String())
	}
	cut := func(s string) string { return s[strings.Index(s, `"choices"`):strings.Index(s, `"usage"`)] }
	if _, got := ask("b", false); cut(got) != cut(want) {
		t.Errorf("the other model writes %q, want %q", got, want)
	}
	if code, _ := get("/health"); code != 200 {
		t.Errorf("/health: %d", code)
	}
	b.changed.Store(true) // nobody asks; /ready finds it
	for _, path := range []string{"/ready", "/health"} {
		if code, text := get(path); code != 503 {
			t.Errorf("%s without a model: %d %s", path, code, text)
		}
	}
	if _, text := get("/metrics"); !strings.Contains(text, `trit_model_out_of_service{model="b"} 1`) {
		t.Error("the metric is missing")
	}
	if a.open.Load() != 0 || a.held.Load() != 0 {
		t.Errorf("%d caches are open", a.open.Load())
	}
}
