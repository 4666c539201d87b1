package tokenizer

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// refDir holds what tools/reference/tokenizer_vectors.py writes with --count 10000.
var refDir = flag.String("reference", "", "folder written by tools/reference/tokenizer_vectors.py")

type vector struct {
	Text         string
	IDs, Special []int32
	Decoded      *string
}

func (v *vector) UnmarshalJSON(data []byte) error {
	return json.Unmarshal(data, &[]any{&v.Text, &v.IDs, &v.Special, &v.Decoded})
}

// pipelineFile is a tokenizer.json without its vocabulary, and vectors.
type pipelineFile struct {
	Base      string
	Tokenizer json.RawMessage
	Vectors   []vector
}

// bases are the public vocabularies, as tokenizer.json writes them.
func bases(t testing.TB) map[string][2]string {
	t.Helper()
	out := map[string][2]string{}
	tik, err := FromTiktoken(sharedFile(t, "tokenizers/llama-bpe/tokenizer.model"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, tok := range map[string]*Tokenizer{
		"llama-bpe": tik,
		"gpt-2":     ggufTokenizer(t, "tokenizers/gpt-2/vocab.gguf"),
		"llama-spm": ggufTokenizer(t, "tokenizers/llama-spm/vocab.gguf"),
	} {
		data, err := tok.JSON()
		if err != nil {
			t.Fatal(err)
		}
		var f struct {
			Model struct{ Vocab, Merges json.RawMessage }
		}
		if err := json.Unmarshal(data, &f); err != nil {
			t.Fatal(err)
		}
		out[name] = [2]string{string(f.Model.Vocab), string(f.Model.Merges)}
	}
	return out
}

// TestPipelines encodes and decodes the reference vectors of every pipeline: all kinds of
// pre-tokenizers, normalizers, added tokens and decoders under public vocabularies.
func TestPipelines(t *testing.T) {
	vocab := bases(t)
	dir := "testdata"
	if *refDir != "" {
		dir = *refDir
	}
	files, err := filepath.Glob(filepath.Join(dir, "*.json"))
	if err != nil || len(files) < 20 {
		t.Fatal(err, files)
	}
	for _, path := range files {
		t.Run(strings.TrimSuffix(filepath.Base(path), ".json"), func(t *testing.T) {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var p pipelineFile
			if err := json.Unmarshal(data, &p); err != nil {
				t.Fatal(err)
			}
			var tok *Tokenizer
			if p.Tokenizer == nil {
				tok = ggufTokenizer(t, "tokenizers/llama-spm/vocab.gguf")
			} else {
				whole := bytes.Replace(p.Tokenizer, []byte(`"type":"BPE",`),
					[]byte(`"type":"BPE","vocab":`+vocab[p.Base][0]+`,"merges":`+vocab[p.Base][1]+`,`), 1)
				if tok, err = FromJSON(whole, nil); err != nil {
					t.Fatal(err)
				}
			}
			checkVectors(t, tok, p.Vectors)
		})
	}
}

func checkVectors(t *testing.T, tok *Tokenizer, list []vector) {
	t.Helper()
	wrong := 0
	for _, v := range list {
		got := tok.Encode(v.Text, EncodeOptions{})
		special := tok.Encode(v.Text, EncodeOptions{AddSpecial: true, ParseSpecial: true})
		ok := slices.Equal(got, v.IDs) && (v.Special == nil || slices.Equal(special, v.Special))
		back := tok.Decode(got)
		if v.Decoded != nil && !strings.Contains(*v.Decoded, "\uFFFD") {
			ok = ok && back == *v.Decoded
		}
		if !ok {
			if wrong++; wrong <= 3 {
				t.Errorf("%q", v.Text)
				differ(t, tok, "ids", got, v.IDs)
				differ(t, tok, "ids with specials", special, v.Special)
				if v.Decoded != nil {
					t.Logf("decoded %q, want %q", back, *v.Decoded)
				}
			}
		}
	}
	t.Logf("%d vectors, %d wrong", len(list), wrong)
}

// differ shows where two lists of ids part.
func differ(t *testing.T, tok *Tokenizer, what string, got, want []int32) {
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	if i == len(got) && i == len(want) || want == nil {
		return
	}
	show := func(ids []int32) (s []string) {
		for _, id := range ids[max(i-1, 0):min(i+5, len(ids))] {
			s = append(s, tok.Token(id))
		}
		return s
	}
	t.Logf("%s from %d: got %q, want %q", what, i, show(got), show(want))
}
