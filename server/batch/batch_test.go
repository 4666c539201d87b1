package batch

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// echo answers a body with itself; some requests fail for good, some only the first time.
func echo(pause time.Duration) http.Handler {
	var n atomic.Int64
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		time.Sleep(time.Duration(rand.Int64N(int64(pause) + 1)))
		id := n.Add(1)
		w.Header().Set("X-Request-Id", fmt.Sprint(id))
		switch {
		case strings.Contains(string(b), "bad"):
			w.WriteHeader(400)
			io.WriteString(w, `{"error":{"message":"bad"}}`)
		case id%17 == 3:
			w.WriteHeader(429)
			io.WriteString(w, `{"error":{"message":"later"}}`)
		default:
			w.Write(b)
		}
	})
}

func input(t *testing.T, n int) string {
	t.Helper()
	var b strings.Builder
	for i := range n {
		word := "fine"
		if i%10 == 9 {
			word = "bad"
		}
		fmt.Fprintf(&b, `{"custom_id":"r%d","method":"POST","url":"/v1/completions","body":{"prompt":%q}}`+"\n", i, fmt.Sprint(word, i))
	}
	name := filepath.Join(t.TempDir(), "in.jsonl")
	if err := os.WriteFile(name, []byte(b.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// count reads results: how often each custom_id is answered.
func count(t *testing.T, names ...string) map[string]int {
	t.Helper()
	got := map[string]int{}
	for _, name := range names {
		f, err := os.Open(name)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		sc := bufio.NewScanner(f)
		for sc.Scan() {
			var r result
			if err := json.Unmarshal(sc.Bytes(), &r); err != nil {
				t.Fatalf("%s: %v: %q", name, err, sc.Text())
			}
			bad := strings.HasSuffix(r.CustomID, "9")
			if bad != (r.Response.Status == 400) || !bad && !strings.Contains(string(r.Response.Body), "fine"+r.CustomID[1:]) {
				t.Errorf("%s: %s", r.CustomID, sc.Text())
			}
			got[r.CustomID]++
		}
	}
	return got
}

func once(t *testing.T, got map[string]int, n int) {
	t.Helper()
	if len(got) != n {
		t.Errorf("%d of %d lines are answered", len(got), n)
	}
	for id, k := range got {
		if k != 1 {
			t.Errorf("%s is answered %d times", id, k)
		}
	}
}

func TestRun(t *testing.T) {
	in, out := input(t, 200), filepath.Join(t.TempDir(), "out.jsonl")
	s, err := Run(context.Background(), echo(time.Millisecond), in, out, Options{})
	if err != nil || s != (Stats{Lines: 200, Answered: 200, Refused: 20}) {
		t.Fatal(s, err)
	}
	once(t, count(t, out), 200)
	s, err = Run(context.Background(), echo(0), in, out, Options{})
	if err != nil || s != (Stats{Lines: 200, Before: 200}) {
		t.Error(s, err)
	}
}

func TestShards(t *testing.T) {
	in, dir := input(t, 100), t.TempDir()
	var outs []string
	for i := range 7 {
		outs = append(outs, filepath.Join(dir, fmt.Sprint(i)))
		if _, err := Run(context.Background(), echo(0), in, outs[i], Options{Shard: i, Of: 7}); err != nil {
			t.Fatal(err)
		}
	}
	once(t, count(t, outs...), 100)
}

func TestCancelled(t *testing.T) {
	in, out := input(t, 300), filepath.Join(t.TempDir(), "out.jsonl")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	s, err := Run(ctx, echo(5*time.Millisecond), in, out, Options{Concurrency: 4})
	if !errors.Is(err, context.DeadlineExceeded) || s.Answered == 300 {
		t.Fatal(s, err)
	}
	if _, err := Run(context.Background(), echo(0), in, out, Options{}); err != nil {
		t.Fatal(err)
	}
	once(t, count(t, out), 300)
}

func TestBadInput(t *testing.T) {
	for want, text := range map[string]string{
		"line 2: not a request": `{"custom_id":"a","url":"/v1/completions","body":{}}` + "\n{",
		"also in line 1":        `{"custom_id":"a","url":"/v1/completions","body":{}}` + "\n\n" + `{"custom_id":"a","url":"/v1/completions","body":{}}`,
		"custom_id is missing":  `{"url":"/v1/completions","body":{}}`,
		"/v1/files":             `{"custom_id":"a","url":"/v1/files","body":{}}`,
		"body is missing":       `{"custom_id":"a","url":"/v1/completions"}`,
		"method":                `{"custom_id":"a","method":"GET","url":"/v1/completions","body":{}}`,
	} {
		in, out := filepath.Join(t.TempDir(), "in"), filepath.Join(t.TempDir(), "out")
		if err := os.WriteFile(in, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Run(context.Background(), echo(0), in, out, Options{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
	}
	in, out := input(t, 3), filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(out, []byte("{\"custom_id\":\"other\"}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Run(context.Background(), echo(0), in, out, Options{}); err == nil || !strings.Contains(err.Error(), "does not ask") {
		t.Errorf("a foreign output: %v", err)
	}
}

// kill -9 in the middle, twenty times: in the end every line is answered once.
func TestKilled(t *testing.T) {
	if in := os.Getenv("TRIT_TEST_BATCH_IN"); in != "" { // the process that is killed
		if _, err := Run(context.Background(), echo(4*time.Millisecond), in, os.Getenv("TRIT_TEST_BATCH_OUT"), Options{Concurrency: 8}); err != nil {
			t.Fatal(err)
		}
		return
	}
	in, out := input(t, 3000), filepath.Join(t.TempDir(), "out.jsonl")
	kills := 0
	for round := 0; kills < 20 && round < 200; round++ {
		cmd := exec.Command(os.Args[0], "-test.run=^TestKilled$")
		cmd.Env = append(os.Environ(), "TRIT_TEST_BATCH_IN="+in, "TRIT_TEST_BATCH_OUT="+out)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		before := size(out)
		for i := 0; size(out) == before && i < 2000; i++ { // it works now
			time.Sleep(time.Millisecond)
		}
		time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
		cmd.Process.Kill()
		if cmd.Wait() != nil {
			kills++
		} else {
			break // it was done
		}
		if rand.IntN(2) == 0 { // a line that was being written, as after a full disk or a crash
			f, err := os.OpenFile(out, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(f, `{"id":"batch_req_1","custom_id":"r1","resp`)
			f.Close()
		}
	}
	if _, err := Run(context.Background(), echo(0), in, out, Options{}); err != nil {
		t.Fatal(err)
	}
	once(t, count(t, out), 3000)
	t.Logf("killed %d times", kills)
}

func size(name string) int64 {
	i, err := os.Stat(name)
	if err != nil {
		return 0
	}
	return i.Size()
}
