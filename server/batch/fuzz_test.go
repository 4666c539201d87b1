package batch

import (
	"bytes"
	"context"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// FuzzRun answers files of requests, with what an earlier run may have left: whatever is in them, every request that is
// accepted has one line of answer in the end, and no answer is lost.
func FuzzRun(f *testing.F) {
	line := func(id, url, body string) string {
		return `{"custom_id":` + id + `,"method":"POST","url":"` + url + `","body":` + body + `}`
	}
	good := line(`"a"`, "/v1/chat/completions", `{"x":1}`) + "\n" + line(`"b"`, "/v1/embeddings", `{}`) + "\n"
	answer := `{"id":"x","custom_id":"a","response":{"status_code":200,"request_id":"x","body":{}},"error":null}` + "\n"
	f.Add([]byte(good), []byte(""))
	f.Add([]byte(good), []byte(answer))
	f.Add([]byte(good), []byte(answer+answer[:30]))
	f.Add([]byte(good), []byte(`{"custom_id":"c"}`+"\n"))
	f.Add([]byte(line(`"a"`, "/v1/completions", `{"x":`+"\r"+`1}`)), []byte("\n\n"))
	f.Add([]byte(line(`1`, "/v1/completions", `{}`)), []byte("null\n"))
	f.Add([]byte(line(`"\ud800"`, "/v1/completions", `{}`)), []byte("{}\n"))
	dir := f.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	h := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Write([]byte(`{"ok": true}`))
	})
	f.Fuzz(func(t *testing.T, requests, before []byte) {
		for name, b := range map[string][]byte{in: requests, out: before} {
			if err := os.WriteFile(name, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := Run(context.Background(), h, in, out, Options{Concurrency: 2, MaxLine: 1 << 16})
		after, rerr := os.ReadFile(out)
		if rerr != nil {
			t.Fatal(rerr)
		}
		// What was answered before stays, whole lines of it.
		if whole := before[:bytes.LastIndexByte(before, '\n')+1]; !bytes.HasPrefix(after, whole) {
			t.Fatalf("%q became %q", before, after)
		}
		if err != nil {
			return
		}
		if s.Before+s.Answered != s.Lines {
			t.Errorf("%+v", s)
		}
		ids := map[string]bool{}
		for line := range bytes.Lines(after) {
			var r struct {
				ID string `json:"custom_id"`
			}
			if err := json.Unmarshal(line, &r); err != nil {
				t.Fatalf("%q is not a result: %v", line, err)
			}
			ids[r.ID] = true
		}
		if len(ids) != s.Lines {
			t.Errorf("%d requests, %d of them answered", s.Lines, len(ids))
		}
	})
}
