package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// answers is a server that streams what it was asked as many words as it may, or what a question's first word says.
func answers(t *testing.T) (*target, *atomic.Int64) {
	var asked atomic.Int64
	h := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var q struct {
			Messages []struct{ Content string }
			Max      int `json:"max_tokens"`
		}
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil || len(q.Messages) != 1 {
			t.Errorf("%v in %+v", err, q)
		}
		n := asked.Add(1)
		switch {
		case n%7 == 3:
			w.Header().Set("Retry-After", "1")
			w.WriteHeader(429)
			return
		case n%7 == 5: // cut short
			io.WriteString(w, "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\n")
			return
		}
		for range q.Max {
			if r.Context().Err() != nil {
				return
			}
			fmt.Fprintf(w, "data: {\"choices\":[{\"delta\":{\"content\":%q}}]}\n\n", q.Messages[0].Content[:1])
			w.(http.Flusher).Flush()
			time.Sleep(time.Millisecond)
		}
		fmt.Fprintf(w, "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}\n\ndata: {\"choices\":[],\"usage\":{\"prompt_tokens\":5,\"completion_tokens\":%d}}\n\ndata: [DONE]\n\n", q.Max)
	}))
	t.Cleanup(h.Close)
	return &target{url: h.URL, texts: map[string]string{}}, &asked
}

func TestLoad(t *testing.T) {
	s, asked := answers(t)
	o := &options{least: 3, most: 8, words: 2, pool: 20, http: http.DefaultClient}
	p := &phase{clients: 4}
	s.phases = []*phase{p}
	o.run(s, p, 4, 300*time.Millisecond, 1)
	n := int(asked.Load())
	if p.done+p.busy+p.fail != n || p.busy != (n+4)/7 || p.fail != (n+2)/7 || p.done < 4 {
		t.Errorf("%d asked: %d answered, %d refused, %d failed", n, p.done, p.busy, p.fail)
	}
	if len(p.ttft) != p.done || p.read != float64(5*p.done) || p.tokens < float64(len(p.itl))/2 || p.tokens > float64(len(p.itl)+p.done) {
		t.Errorf("%d answers: %d first tokens, %d times between, %v tokens, %v of prompts", p.done, len(p.ttft), len(p.itl), p.tokens, p.read)
	}
	for _, v := range s.values(p) {
		if v.name == "errors" && v.value != p.fail {
			t.Errorf("%d errors, printed %v", p.fail, v.value)
		}
	}
}

// An answer that differs from an earlier one to the same prompt is an error.
func TestLoadCompares(t *testing.T) {
	s, _ := answers(t)
	o := &options{least: 3, most: 3, words: 1, pool: 5, http: http.DefaultClient}
	p := &phase{}
	o.run(s, p, 1, 100*time.Millisecond, 1)
	if len(s.texts) == 0 {
		t.Fatal("no answers")
	}
	for k := range s.texts {
		s.texts[k] += "!"
	}
	before := p.done
	o.run(s, p, 1, 400*time.Millisecond, 1)
	if p.fail == 0 || p.done > before+5 {
		t.Errorf("other answers than before to the same prompts: %d errors, %d answers more", p.fail, p.done-before)
	}
}

// What is under way at the end of a phase is broken off, and is no error.
func TestLoadCuts(t *testing.T) {
	s, _ := answers(t)
	o := &options{least: 100_000, most: 100_000, words: 1, cut: true, http: http.DefaultClient}
	p := &phase{}
	start := time.Now()
	o.run(s, p, 2, 200*time.Millisecond, 1)
	if p.cut != 2 || p.done != 0 || p.fail != 0 || p.tokens == 0 || time.Since(start) > 20*time.Second {
		t.Errorf("%d cut, %d answered, %d failed, %v tokens, after %v", p.cut, p.done, p.fail, p.tokens, time.Since(start))
	}
}

func TestFlags(t *testing.T) {
	for _, bad := range [][5]string{
		{"http://x", "1,b", "1s", "", "5"},
		{"http://x", "1", "1", "", "5"},
		{"http://x", "1", "1s", "z", "5"},
		{"http://x", "1", "1s", "", "5-2"},
		{"http://x", "1", "1s", "", "0"},
		{"http://x", "0", "1s", "", "5"},
	} {
		o := &options{}
		if err := o.main(bad[0], bad[1], bad[2], bad[3], bad[4], 1, false); err == nil || !strings.HasPrefix(err.Error(), "-") {
			t.Errorf("%v: %v", bad, err)
		}
	}
}
