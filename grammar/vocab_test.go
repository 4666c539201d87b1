package grammar

import (
	"encoding/json"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/tokenizer"
)

// realVocab reads a published tokenizer.
func realVocab(t testing.TB, name string) *Vocab {
	t.Helper()
	dir := filepath.Join("..", "..", "shared", "data", "tokenizers", name)
	for range 3 {
		if _, err := os.Stat(dir); err == nil {
			break
		}
		dir = filepath.Join("..", dir)
	}
	tok, err := tokenizer.Load(dir)
	if f, open := os.Open(filepath.Join(dir, "vocab.gguf")); open == nil {
		defer f.Close()
		info, _ := f.Stat()
		var file *gguf.File
		if file, err = gguf.Read(f, info.Size(), f.Name()); err == nil {
			tok, err = tokenizer.FromGGUF(file.KV)
		}
	}
	if err != nil {
		t.Skipf("no %s tokenizer: %v", name, err)
	}
	return NewVocab(tok.VocabSize(), func(id int32) []byte {
		if tok.IsSpecial(id) {
			return nil
		}
		return tok.Bytes(id)
	}, tok.EOS())
}

// On the vocabularies of real models, masks are quick enough to be no part of a token's time, and
// what is written with random weights is valid.
func TestRealVocabularies(t *testing.T) {
	if testing.Short() {
		t.Skip("-short")
	}
	for _, name := range []string{"llama-bpe", "llama-spm", "gpt-2"} {
		t.Run(name, func(t *testing.T) {
			v := realVocab(t, name)
			src := []byte(`{"type":"object","properties":{"name":{"type":"string"},"tags":{"type":"array","items":{"type":"string","maxLength":8},"maxItems":3},"n":{"type":"number"},"when":{"type":"string","format":"date-time"},"more":{"$ref":"#"}},"required":["name","tags","n","when"],"additionalProperties":false}`)
			start := time.Now()
			g := must(JSONSchema(v, src))
			compiled := time.Since(start)
			check := validator(t, src)
			var worst, total time.Duration
			tokens := 0
			for seed := range uint64(12) {
				rng := rand.New(rand.NewPCG(seed, 5))
				m := g.NewMatcher()
				var text []byte
				limit := 150
				for n := range limit {
					m.Limit(limit - n)
					start := time.Now()
					bits := m.Allowed()
					d := time.Since(start)
					worst, total, tokens = max(worst, d), total+d, tokens+1
					id := pick(rng, v, bits)
					for tries := 0; !m.Fits(id); tries++ {
						m.Forbid(id)
						if tries == 16 {
							m.Narrow()
						}
						id = pick(rng, v, m.Allowed())
					}
					m.Accept(id)
					text = append(text, v.token[id]...)
					if m.Done() {
						break
					}
				}
				if err := check(text); err != nil || !json.Valid(text) {
					t.Fatalf("%v: %s", err, text)
				}
			}
			t.Logf("%d tokens: compiled in %v; a mask takes %v on average, %v at worst", v.Size(), compiled, total/time.Duration(tokens), worst)
		})
	}
}

// pick takes an allowed token, all equally likely.
func pick(rng *rand.Rand, v *Vocab, bits []uint64) int32 {
	id, n := int32(-1), 0
	for i := range int32(v.size) {
		if bits[i/64]>>(i%64)&1 == 1 {
			if n++; rng.IntN(n) == 0 {
				id = i
			}
		}
	}
	return id
}
