//go:build unix

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

var changes = flag.Int("changes", 1, "how often TestModelFilesThatChange does each change")

// copyFolder copies the plain files of a folder.
func copyFolder(t *testing.T, from, to string) {
	t.Helper()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(to, e.Name()), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestModelFilesThatChange serves two models and changes the file of one under load: the server lives, the requests for
// that model end with an error or with the text of the model as it was, the log and /ready name the file, and the other
// model writes what it wrote before. -changes 20 is the long form.
func TestModelFilesThatChange(t *testing.T) {
	dir := t.TempDir()
	goldens := "../../testdata/goldens"
	stable := filepath.Join(dir, "stable")
	copyFolder(t, filepath.Join(goldens, "bitnet-2b4t"), stable)
	folder := filepath.Join(dir, "folder")
	copyFolder(t, filepath.Join(goldens, "llama3-8b-1.58"), folder)
	gguf := filepath.Join(dir, "model.gguf")
	if out, err := exec.Command("trit", "convert", folder, gguf, "--to", "gguf-i2_s", "-q").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, file := range []string{gguf, filepath.Join(folder, "model-00001-of-00002.safetensors")} {
		whole, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, change := range []struct {
			name string
			do   func(rng *rand.Rand) error
		}{
			{"cut", func(rng *rand.Rand) error { return os.Truncate(file, rng.Int64N(int64(len(whole)))) }},
			{"overwritten", func(rng *rand.Rand) error {
				f, err := os.OpenFile(file, os.O_WRONLY, 0)
				if err != nil {
					return err
				}
				defer f.Close()
				for at := len(whole) / 2; at < len(whole); at += 64 << 10 {
					b := bytes.Clone(whole[at:min(at+64<<10, len(whole))])
					for i := range b {
						b[i] ^= byte(rng.Uint32())
					}
					if _, err := f.WriteAt(b, int64(at)); err != nil {
						return err
					}
				}
				return nil
			}},
		} {
			t.Run(filepath.Base(file)+" "+change.name, func(t *testing.T) {
				for i := range *changes {
					if err := os.WriteFile(file, whole, 0o644); err != nil {
						t.Fatal(err)
					}
					time.Sleep(20 * time.Millisecond) // a tick of the clock for files
					model := file
					if strings.HasSuffix(file, ".safetensors") {
						model = filepath.Dir(file)
					}
					changeUnderLoad(t, stable, model, file, func() error { return change.do(rand.New(rand.NewPCG(uint64(i), 7))) })
				}
			})
		}
	}
}

func changeUnderLoad(t *testing.T, stable, changing, file string, change func() error) {
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, "trit", "serve", stable, changing, "--name", "stable", "--name", "changing", "--addr", "127.0.0.1:0", "--no-packed-copy")
	var log bytes.Buffer
	c.Stderr = &log
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	i := strings.Index(line, "http://")
	if err != nil || i < 0 {
		c.Process.Kill()
		c.Wait()
		t.Fatalf("%q, %v: %s", line, err, log.String())
	}
	url := strings.Fields(line[i:])[0]
	ask := func(model string, n int) (status int, text, code string, err error) {
		body := fmt.Sprintf(`{"model":%q,"prompt":"The river %d","max_tokens":24,"temperature":0,"ignore_eos":true}`, model, n)
		r, err := http.Post(url+"/v1/completions", "application/json", strings.NewReader(body))
		if err != nil {
			return 0, "", "", err
		}
		defer r.Body.Close()
		var v struct {
			Choices []struct{ Text string }
			Error   struct{ Code string }
		}
		if err := json.NewDecoder(r.Body).Decode(&v); err != nil {
			return 0, "", "", err
		}
		if len(v.Choices) > 0 {
			text = v.Choices[0].Text
		}
		return r.StatusCode, text, v.Error.Code, nil
	}
	const prompts = 4
	want := map[string][prompts]string{}
	for _, m := range []string{"stable", "changing"} {
		var texts [prompts]string
		for n := range prompts {
			status, text, _, err := ask(m, n)
			if err != nil || status != 200 {
				t.Errorf("%s: %d, %v", m, status, err)
			}
			texts[n] = text
		}
		want[m] = texts
	}
	var stop, refused atomic.Bool
	var answered atomic.Int64
	var wg sync.WaitGroup
	for k := range 6 {
		m := []string{"stable", "changing", "changing"}[k%3]
		wg.Go(func() {
			for n := k; !stop.Load(); n++ {
				status, text, code, err := ask(m, n%prompts)
				switch {
				case err != nil:
					t.Errorf("%s: %v", m, err)
					return
				case status == 200 && text == want[m][n%prompts]:
					if m == "stable" && refused.Load() {
						answered.Add(1)
					}
				case m == "changing" && status == 503 && code == "model_out_of_service":
					refused.Store(true)
				default:
					t.Errorf("%s: status %d, code %q, text %q, want %q", m, status, code, text, want[m][n%prompts])
					return
				}
			}
		})
	}
	time.Sleep(time.Duration(50+rand.IntN(100)) * time.Millisecond)
	if err := change(); err != nil {
		t.Error(err)
	}
	for start := time.Now(); (!refused.Load() || answered.Load() < 10) && !t.Failed() && time.Since(start) < 20*time.Second; {
		time.Sleep(5 * time.Millisecond)
	}
	stop.Store(true)
	wg.Wait()
	if !refused.Load() || answered.Load() < 10 {
		t.Errorf("the changed model was refused: %v; the other one answered %d times after that", refused.Load(), answered.Load())
	}
	if r, err := http.Get(url + "/ready"); err != nil {
		t.Error(err)
	} else {
		text, _ := io.ReadAll(r.Body)
		r.Body.Close()
		if r.StatusCode != 200 || !strings.Contains(string(text), `"degraded"`) || !strings.Contains(string(text), file) {
			t.Errorf("/ready: %d %s", r.StatusCode, text)
		}
	}
	http.DefaultClient.CloseIdleConnections()
	c.Process.Signal(syscall.SIGTERM)
	if err := c.Wait(); err != nil {
		t.Errorf("the server ended with %v: %.2000s", err, log.String())
	}
	if n := strings.Count(log.String(), "model out of service"); n != 1 || !strings.Contains(log.String(), file) || strings.Contains(log.String(), "panic") {
		t.Errorf("%d lines in the log say it: %.3000s", n, log.String())
	}
}
