package hub

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// answers is a hub without a network: it says what the fuzzer wants it to.
type answers struct {
	list, index, body  []byte
	tag, size, another string // of every file; "": the right ones
}

func (a *answers) RoundTrip(r *http.Request) (*http.Response, error) {
	res := &http.Response{Status: "200 OK", StatusCode: 200, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}, Request: r, ContentLength: -1, Body: http.NoBody}
	if strings.HasPrefix(r.URL.Path, "/api/") {
		res.Body = io.NopCloser(bytes.NewReader(a.list))
		return res, nil
	}
	text := a.body
	if strings.HasSuffix(r.URL.Path, ".index.json") {
		text = a.index
	}
	sum := sha256.Sum256(text)
	tag, size := hex.EncodeToString(sum[:]), strconv.Itoa(len(text))
	if a.tag != "" {
		tag = a.tag
	}
	if a.size != "" {
		size = a.size
	}
	res.Header.Set("X-Linked-Etag", tag)
	res.Header.Set("X-Linked-Size", size)
	if r.Method == http.MethodGet {
		if a.another != "" {
			res.StatusCode = 206
			res.Header.Set("Content-Range", a.another)
		}
		res.Body = io.NopCloser(bytes.NewReader(text))
	}
	return res, nil
}

// FuzzPull pulls from hubs that answer anything: nothing may be written outside of the cache, and what is taken for a
// whole model is one.
func FuzzPull(f *testing.F) {
	list := func(names ...string) []byte {
		var s []string
		for _, n := range names {
			s = append(s, fmt.Sprintf(`{"rfilename":%q}`, n))
		}
		return []byte(`{"sha":"` + commit + `","siblings":[` + strings.Join(s, ",") + `]}`)
	}
	index := []byte(`{"weight_map":{"a":"model-1.safetensors","b":"model-2.safetensors"}}`)
	f.Add(list("config.json", "model.safetensors"), index, []byte("x"), "", "", "")
	f.Add(list("config.json", "model.safetensors.index.json"), index, []byte("x"), "", "", "")
	f.Add(list("config.json", "model.safetensors.index.json"), []byte(`{"weight_map":{"a":"../../x"}}`), []byte("x"), "", "", "")
	f.Add(list("a/b.gguf", "../evil", "/etc/x", "con\\x"), index, []byte("GGUF"), "", "", "bytes 0-")
	f.Add(list("config.json", "model.safetensors", "tokenizer.json"), index, []byte("x"), "", "9223372036854775807", "")
	f.Add(list("config.json", "model.safetensors"), index, []byte("x"), "../../../../../x", "1", "")
	f.Add([]byte(`{"sha":"x","siblings":null}`), []byte("null"), []byte(""), "", "-1", "")
	f.Fuzz(func(t *testing.T, list, index, body []byte, tag, size, another string) {
		root := t.TempDir()
		cache := filepath.Join(root, "cache")
		path, err := Pull(t.Context(), Ref{Repo: "o/m"}, Options{
			Endpoint: "http://hub.invalid", Cache: cache, Backoff: 1, Retries: 2,
			Client: &http.Client{Transport: &answers{list, index, body, tag, size, another}},
			Progress: func(p Progress) {
				if p.Done < 0 || p.Total < 0 || p.Done > p.Total {
					t.Errorf("progress %+v", p)
				}
			},
		})
		if made, _ := filepath.Glob(filepath.Join(root, "*")); len(made) > 1 || len(made) == 1 && made[0] != cache {
			t.Fatalf("written outside of the cache: %q", made)
		}
		if err != nil {
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("not one line: %q", err)
			}
			return
		}
		if !strings.HasPrefix(path, cache) {
			t.Errorf("the model is at %q", path)
		}
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
		if again, err := Cached(Ref{Repo: "o/m"}, Options{Cache: cache}); err != nil || again != path {
			t.Errorf("in the cache: %q, %v; pulled %q", again, err, path)
		}
	})
}
