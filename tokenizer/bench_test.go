package tokenizer

import (
	"strings"
	"testing"
)

func benchEncode(b *testing.B, tok *Tokenizer, text string) {
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	var ids []int32
	for b.Loop() {
		ids = tok.AppendEncode(ids[:0], text, EncodeOptions{})
	}
	b.ReportMetric(float64(len(ids)), "tokens")
}

func llama3(t testing.TB) *Tokenizer {
	t.Helper()
	tok, err := FromTiktoken(sharedFile(t, "tokenizers/llama-bpe/tokenizer.model"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return tok
}

func BenchmarkEncode(b *testing.B) {
	text := string(sharedFile(b, shakespeare))
	b.Run("llama-bpe", func(b *testing.B) { benchEncode(b, llama3(b), text) })
	b.Run("gpt-2", func(b *testing.B) { benchEncode(b, ggufTokenizer(b, "tokenizers/gpt-2/vocab.gguf"), text) })
	b.Run("llama-spm", func(b *testing.B) { benchEncode(b, ggufTokenizer(b, "tokenizers/llama-spm/vocab.gguf"), text) })
	b.Run("chars", func(b *testing.B) {
		tok, text := shakespeareChars(b)
		benchEncode(b, tok, text)
	})
	// The same expression, by the general engine.
	b.Run("llama-bpe by pattern", func(b *testing.B) {
		tok := llama3(b)
		p, err := compilePattern(reLlama3)
		if err != nil {
			b.Fatal(err)
		}
		tok.scan, tok.pre = nil, &splitter{pattern: p, behavior: isolated}
		benchEncode(b, tok, text)
	})
	// A megabyte without a place to cut it.
	b.Run("llama-bpe aaaa", func(b *testing.B) { benchEncode(b, llama3(b), strings.Repeat("a", 1<<20)) })
	b.Run("llama-spm aaaa", func(b *testing.B) {
		benchEncode(b, ggufTokenizer(b, "tokenizers/llama-spm/vocab.gguf"), strings.Repeat("a", 1<<20))
	})
}

func BenchmarkDecode(b *testing.B) {
	text := string(sharedFile(b, shakespeare))
	tok := llama3(b)
	ids := tok.Encode(text, EncodeOptions{})
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		tok.Decode(ids)
	}
}

func BenchmarkLoad(b *testing.B) {
	model := sharedFile(b, "tokenizers/llama-bpe/tokenizer.model")
	tok, err := FromTiktoken(model, nil)
	if err != nil {
		b.Fatal(err)
	}
	data, err := tok.JSON()
	if err != nil {
		b.Fatal(err)
	}
	b.Run("tiktoken", func(b *testing.B) {
		for b.Loop() {
			if _, err := FromTiktoken(model, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("tokenizer.json", func(b *testing.B) {
		b.SetBytes(int64(len(data)))
		for b.Loop() {
			if _, err := FromJSON(data, nil); err != nil {
				b.Fatal(err)
			}
		}
	})
}
