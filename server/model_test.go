package server

import (
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"runtime"
	"sync"
	"testing"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/convert"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/sample"
	"github.com/tritlm/trit/tokenizer"
)

// randomModel is a small model of seeded random weights on the CPU engine.
func randomModel(t testing.TB) *trit.Model {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "model")
	r, err := convert.NewRandom("tiny", 1, 0.8)
	if err != nil {
		t.Fatal(err)
	}
	files, err := r.TokenizerFiles()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := convert.Write(context.Background(), dir, r, convert.Options{Format: convert.HFPacked, Files: files}); err != nil {
		t.Fatal(err)
	}
	m, err := trit.Open(dir, &trit.Options{Threads: 2})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// On the real engine: what the server writes among many others, with shared prefixes and little memory, is
// what a session writes alone, and the scores of a prompt are those of one forward pass, to the last bit.
func TestRealEngine(t *testing.T) {
	m := randomModel(t)
	s, err := New(Options{
		Log: quietLog(), MaxBatch: 12, MaxQueue: 200, PrefillTokens: 70, CacheBytes: m.Config().KVBytes() * 2500,
	}, Model{ID: "tiny", Engine: m.Engine(), Tokenizer: m.Tokenizer()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	h := newTestServer(t, s)

	system := "You are a long system prompt that all of these requests begin with, word for word, so that it is computed once."
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			text := fmt.Sprintf("%s Number %d.", system, i%25)
			var want string
			session := m.NewSession()
			defer session.Close()
			for p, err := range session.Generate(context.Background(), text, trit.GenerateOptions{MaxTokens: 5 + i}) {
				if err != nil {
					t.Error(err)
				}
				want += p.Text
			}
			code, v := post(t, h+"/v1/completions", fmt.Sprintf(`{"prompt":%q,"max_tokens":%d,"temperature":0}`, text, 5+i))
			if got := at(v, "choices", 0, "text"); code != 200 || got != want {
				t.Errorf("%d: %q, alone %q", code, got, want)
			}
		})
	}
	wg.Wait()
	if s.models[0].sched.m.cached.Get() == 0 {
		t.Error("no prefix was shared")
	}

	prompt := m.Tokenizer().Encode(system, tokenizer.EncodeOptions{AddSpecial: true})
	v := m.Config().VocabSize
	logits := make([]float32, len(prompt)*v)
	c, err := m.Engine().NewCache(0)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := m.Engine().Forward(context.Background(), []model.Input{{Cache: c, Tokens: prompt, Logits: logits}}); err != nil {
		t.Fatal(err)
	}
	ids, _ := json.Marshal(prompt)
	code, answer := post(t, h+"/v1/completions", fmt.Sprintf(`{"prompt":%s,"max_tokens":1,"temperature":0,"echo":true,"logprobs":1}`, ids))
	if code != 200 {
		t.Fatal(answer)
	}
	for i := 1; i < len(prompt); i++ {
		row := logits[(i-1)*v:][:v]
		want := float64(row[prompt[i]]) - sample.LogSumExp(row)
		if got := at(answer, "choices", 0, "logprobs", "token_logprobs", i); got != want {
			t.Errorf("token %d: %v, directly %v", i, got, want)
		}
	}
}

// BenchmarkStreams is 64 clients that stream 64 tokens each, over HTTP, on a small model: what the server
// itself costs. ns/op is per request.
func BenchmarkStreams(b *testing.B) {
	m := randomModel(b)
	s, err := New(Options{Log: quietLog(), MaxQueue: 10_000}, Model{ID: "tiny", Engine: m.Engine(), Tokenizer: m.Tokenizer()})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(s.Close)
	h := newTestServer(b, s)
	b.SetParallelism(64 / runtime.GOMAXPROCS(0))
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		for p.Next() {
			data := sseData(b, h+"/v1/completions", `{"prompt":"To be or not to be","max_tokens":64,"temperature":0,"stream":true,"ignore_eos":true}`)
			if data[len(data)-1] != "[DONE]" {
				b.Error("cut short")
			}
		}
	})
	b.ReportMetric(float64(64*b.N)/b.Elapsed().Seconds(), "tokens/s")
}

// TestContentParts: text parts of one message are lines of one text.
func TestContentParts(t *testing.T) {
	for in, want := range map[string]string{
		`"a"`: "a", `null`: "", `[]`: "", `[{"type":"text","text":"a"}]`: "a",
		`[{"type":"text","text":"a"},{"type":"input_text","text":"b\n"},{"type":"text","text":""}]`: "a\nb\n\n",
	} {
		var c content
		if err := json.Unmarshal([]byte(in), &c); err != nil || string(c) != want {
			t.Errorf("%s: %q %v, want %q", in, c, err, want)
		}
	}
}
