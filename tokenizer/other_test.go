package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/tritlm/trit/gguf"
)

var python = flag.String("python", "", "python with tokenizers, transformers and llama-cpp-python, for TestOtherPrograms")

const shakespeare = "tinyshakespeare/input.txt"

func shakespeareChars(t testing.TB) (*Tokenizer, string) {
	text := string(sharedFile(t, shakespeare))
	seen := map[rune]bool{}
	var vocab []rune
	for _, r := range text {
		if !seen[r] {
			seen[r] = true
			vocab = append(vocab, r)
		}
	}
	slices.Sort(vocab)
	tok, err := NewChars(vocab)
	if err != nil {
		t.Fatal(err)
	}
	return tok, text
}

// TestOtherPrograms writes every kind of tokenizer and has Hugging Face tokenizers, transformers
// and llama.cpp read it back: they must give the ids that we give.
func TestOtherPrograms(t *testing.T) {
	if *python == "" {
		t.Skip("no -python")
	}
	dir := t.TempDir()
	chars, text := shakespeareChars(t)
	wide, err := NewChars([]rune("ab c\n\"\\äß世界😀-"))
	if err != nil {
		t.Fatal(err)
	}
	bpe, err := TrainBPE([]string{text[:200000]}, 600, "<|begin|>", "<|end|>")
	if err != nil {
		t.Fatal(err)
	}
	tik, err := FromTiktoken(sharedFile(t, "tokenizers/llama-bpe/tokenizer.model"), nil)
	if err != nil {
		t.Fatal(err)
	}
	toks := map[string]*Tokenizer{
		"chars": chars, "wide": wide, "bytes": NewBytes(), "bpe": bpe, "llama3": tik,
		"llama2": ggufTokenizer(t, "tokenizers/llama-spm/vocab.gguf"),
		"gpt2":   ggufTokenizer(t, "tokenizers/gpt-2/vocab.gguf"),
	}
	texts := []string{
		"", " ", "  ", "\n", "Hello world", " Hello world", "First Citizen:\nBefore we proceed any further, hear me speak.",
		"ab c\n", "äß世界😀-", "it's DON'T 12345 <|end|> </s> é é", "\t\tx", "a", "ba ab", text[1000:1500],
		"नमस्ते  مرحبا   안녕", "▁▁ ▁",
	}
	data, _ := json.Marshal(texts)
	if err := os.WriteFile(filepath.Join(dir, "texts.json"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "train.txt"), []byte(text[:300000]), 0o644); err != nil {
		t.Fatal(err)
	}
	trained, err := TrainBPE([]string{text[:300000]}, 1500)
	if err != nil {
		t.Fatal(err)
	}
	for name, tok := range toks {
		sub := filepath.Join(dir, name)
		if err := os.Mkdir(sub, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := tok.Save(sub); err != nil {
			t.Fatal(err)
		}
		kv, err := tok.GGUF()
		if errors.Is(err, errors.ErrUnsupported) {
			t.Logf("%s: %v", name, err)
			continue
		} else if err != nil {
			t.Fatal(err)
		}
		var head gguf.KV
		head.Set("general.architecture", "llama")
		head.Set("llama.context_length", uint32(64))
		head.Set("llama.embedding_length", uint32(64))
		head.Set("llama.block_count", uint32(1))
		head.Set("llama.feed_forward_length", uint32(64))
		head.Set("llama.attention.head_count", uint32(1))
		head.Set("llama.attention.layer_norm_rms_epsilon", float32(1e-5))
		head.Set("llama.vocab_size", uint32(tok.VocabSize()))
		var b bytes.Buffer
		if err := gguf.Write(&b, append(head, kv...), nil, func(io.Writer, gguf.Tensor) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(sub+".gguf", b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	script := filepath.Join("..", "tools", "reference", "tokenizer_check.py")
	cmd := exec.Command(*python, script, dir)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v\n%s", err, stderr.Bytes())
	}
	var got map[string]json.RawMessage
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	var names []string
	for n := range got {
		names = append(names, n)
	}
	sort.Strings(names)
	checked := 0
	for _, name := range names {
		base, how, _ := strings.Cut(strings.Replace(name, ".gguf", " gguf", 1), " ")
		tok := toks[base]
		if base == "trained" {
			var list []string
			if err := json.Unmarshal(got[name], &list); err != nil {
				t.Fatal(err)
			}
			for id, s := range list {
				checked++
				if trained.Token(int32(id)) != s {
					t.Fatalf("trained token %d is %q, Hugging Face's %q", id, trained.Token(int32(id)), s)
				}
			}
			continue
		}
		if how == "decoded" {
			var list []string
			if err := json.Unmarshal(got[name], &list); err != nil {
				t.Fatal(err)
			}
			for i, s := range list {
				checked++
				if want := tok.Decode(tok.Encode(texts[i], EncodeOptions{})); s != want {
					t.Errorf("%s: %q: %q, ours %q", name, texts[i], s, want)
				}
			}
			continue
		}
		var list [][]int32
		if err := json.Unmarshal(got[name], &list); err != nil {
			t.Fatal(err)
		}
		for i, ids := range list {
			if name == "wide.gguf" && tok.Check(texts[i]) != nil {
				continue // not asked
			}
			checked++
			want := tok.Encode(texts[i], EncodeOptions{AddSpecial: how == "special"})
			if !slices.Equal(ids, want) {
				t.Errorf("%s: %q:\n theirs %v\n   ours %v", name, texts[i], ids, want)
			}
		}
	}
	t.Logf("%d results equal or reported", checked)
}

// TestGGUFKeepsTheEnds: of several tokens that end a text GGUF names three; those of well-known names are found without.
func TestGGUFKeepsTheEnds(t *testing.T) {
	for _, names := range [][]string{{"<a>"}, {"<a>", "<b>"}, {"<a>", "<b>", "<c>"}, {"<a>", "<|eot_id|>", "<|im_end|>", "<|end|>", "<b>"}} {
		var vocab, added strings.Builder
		for b := range 256 {
			fmt.Fprintf(&vocab, "%s:%d,", quoteJSON(byteLevelText(string([]byte{byte(b)}))), b)
		}
		var ids []string
		for i, n := range names {
			fmt.Fprintf(&added, `{"id":%d,"content":%q,"special":true},`, 256+i, n)
			ids = append(ids, fmt.Sprint(256+i))
		}
		tok, err := LoadFS(fstest.MapFS{
			"tokenizer.json":         &fstest.MapFile{Data: []byte(`{"added_tokens":[` + strings.TrimSuffix(added.String(), ",") + `],"pre_tokenizer":{"type":"ByteLevel","add_prefix_space":false,"use_regex":true},"decoder":{"type":"ByteLevel"},"model":{"type":"BPE","vocab":{` + strings.TrimSuffix(vocab.String(), ",") + `},"merges":[]}}`)},
			"generation_config.json": &fstest.MapFile{Data: []byte(`{"eos_token_id":[` + strings.Join(ids, ",") + `]}`)},
		})
		if err != nil {
			t.Fatal(err)
		}
		kv, err := tok.GGUF()
		if err != nil {
			t.Fatal(err)
		}
		again, err := FromGGUF(kv)
		if err != nil {
			t.Fatal(err)
		}
		if a, b := tok.EOS(), again.EOS(); len(a) != len(names) || !slices.Equal(a, b) {
			t.Errorf("%v: %v became %v", names, a, b)
		}
	}
}
