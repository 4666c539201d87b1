package server

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/model"
)

// TestEmbeddingModel: an embedding model's vectors are those of the library, bit for bit, whatever the pieces that its
// texts are read in and the neighbours they share a beginning with; it is not asked for text.
func TestEmbeddingModel(t *testing.T) {
	for _, pooling := range []model.Pooling{"", model.PoolMean} {
		m, err := trit.Open("../testdata/goldens/bitnet-embedding-0.6b", &trit.Options{Pooling: pooling})
		if err != nil {
			t.Fatal(err)
		}
		s, err := New(Options{Log: quietLog(), PrefillTokens: 7}, Model{ID: "e", Engine: m.Engine(), Tokenizer: m.Tokenizer()})
		if err != nil {
			t.Fatal(err)
		}
		h := listen(s)
		t.Cleanup(func() {
			h.CloseClientConnections()
			h.Close()
			s.Close()
			m.Close()
			http.DefaultClient.CloseIdleConnections()
		})
		long := strings.Repeat("the river was low that summer, and the children walked. ", 3)
		texts := []string{"query: hello", long + "one", long + "two", long + "one"}
		want, err := m.Embed(context.Background(), texts, trit.EmbedOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range []string{"/v1/embeddings", "/api/embed", "/v1/embeddings"} { // the last time the prefixes are cached
			code, v := post(t, h.URL+path, fmt.Sprintf(`{"model":"e","input":["%s"]}`, strings.Join(texts, `","`)))
			if code != 200 {
				t.Fatal(path, code, v)
			}
			for i := range texts {
				got, _ := at(v, "data", i, "embedding").([]any)
				if path == "/api/embed" {
					got, _ = at(v, "embeddings", i).([]any)
				}
				if len(got) != len(want[i]) {
					t.Fatalf("%s: %d numbers, want %d: %.200v", path, len(got), len(want[i]), v)
				}
				for j, x := range got {
					if float32(x.(float64)) != want[i][j] {
						t.Fatalf("%s, pooling %q, text %d: number %d is %v, want %g", path, pooling, i, j, x, want[i][j])
					}
				}
			}
		}
		for path, body := range map[string]string{
			"/v1/completions":      `{"prompt":"x"}`,
			"/v1/chat/completions": `{"messages":[{"role":"user","content":"x"}]}`,
			"/api/generate":        `{"model":"e","prompt":"x"}`,
		} {
			if code, v := post(t, h.URL+path, body); code != 400 || !strings.Contains(fmt.Sprint(v), "/v1/embeddings") {
				t.Error(path, code, v)
			}
		}
		if code, v := post(t, h.URL+"/v1/embeddings", `{"input":"`+strings.Repeat("word ", 300)+`"}`); code != 400 || at(v, "error", "code") != "context_length_exceeded" {
			t.Error(code, v)
		}
	}
}
