package tokenizer

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tritlm/trit/gguf"
)

// shared returns the path of a file of ../shared/data beside the repository, or skips.
func shared(t testing.TB, name string) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			break
		}
		if dir == filepath.Dir(dir) {
			t.Skip("not in a checkout")
		}
	}
	for _, base := range []string{filepath.Dir(dir), filepath.Dir(filepath.Dir(dir))} {
		path := filepath.Join(base, "shared", "data", name)
		if _, err := os.Stat(path); err == nil {
			return path
		}
	}
	t.Skipf("NOT TESTED: ../shared/data/%s is not there", name)
	return ""
}

func sharedFile(t testing.TB, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(shared(t, name))
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func ggufTokenizer(t testing.TB, name string) *Tokenizer {
	t.Helper()
	f, err := os.Open(shared(t, name))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	file, err := gguf.Read(f, st.Size(), name)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := FromGGUF(file.KV)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

// llamaVectors reads llama.cpp's vectors: texts between marker lines, and a line of ids for each.
func llamaVectors(t testing.TB, dir string) []vector {
	t.Helper()
	in := string(sharedFile(t, dir+"/vectors.inp"))
	out := strings.Split(strings.TrimSuffix(string(sharedFile(t, dir+"/vectors.out")), "\n"), "\n")
	texts := strings.Split(strings.TrimSuffix(in, "\n__ggml_vocab_test__\n"), "\n__ggml_vocab_test__\n")
	if len(texts) != len(out) {
		t.Fatalf("%d texts, %d lines of ids", len(texts), len(out))
	}
	var list []vector
	for i, text := range texts {
		v := vector{Text: text}
		for _, s := range strings.Fields(out[i]) {
			id, err := strconv.ParseInt(s, 10, 32)
			if err != nil {
				t.Fatal(err)
			}
			v.IDs = append(v.IDs, int32(id))
		}
		list = append(list, v)
	}
	return list
}

func TestLlamaCppVectors(t *testing.T) {
	for _, c := range []struct {
		dir  string
		load func(t *testing.T) *Tokenizer
	}{
		{"gpt-2", func(t *testing.T) *Tokenizer { return ggufTokenizer(t, "tokenizers/gpt-2/vocab.gguf") }},
		{"llama-spm", func(t *testing.T) *Tokenizer { return ggufTokenizer(t, "tokenizers/llama-spm/vocab.gguf") }},
		{"llama-bpe", func(t *testing.T) *Tokenizer {
			tok, err := FromTiktoken(sharedFile(t, "tokenizers/llama-bpe/tokenizer.model"), nil)
			if err != nil {
				t.Fatal(err)
			}
			return tok
		}},
	} {
		t.Run(c.dir, func(t *testing.T) {
			tok := c.load(t)
			list := llamaVectors(t, "tokenizers/"+c.dir)
			for i := range list {
				list[i].Decoded = &list[i].Text
			}
			checkVectors(t, tok, list)
			for _, o := range []EncodeOptions{{AddSpecial: true}, {AddSpecial: true, ParseSpecial: true}} {
				got := tok.Encode("", o)
				if bos, ok := tok.BOS(); c.dir != "gpt-2" && (!ok || !slices.Equal(got, []int32{bos})) {
					t.Errorf("empty text with specials: %v, BOS %d", got, bos)
				}
			}
			t.Logf("BOS %v EOS %v warnings %q", tok.bos, tok.eos, tok.Warnings())
		})
	}
}
