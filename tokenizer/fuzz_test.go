package tokenizer

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// fuzzTokenizers are one of each kind, small enough to make anew.
func fuzzTokenizers(t testing.TB) map[string]*Tokenizer {
	t.Helper()
	text := strings.Repeat("The quick brown fox, it's 123 naïve 世界 😀  \n\n aaaa aaaa ", 3)
	bpe, err := TrainBPE([]string{text}, 330, "<s>", "</s>")
	if err != nil {
		t.Fatal(err)
	}
	var spm parts
	for _, s := range []string{"<unk>", "<s>", "</s>"} {
		spm.tokens = append(spm.tokens, token{text: s, kind: control})
	}
	for b := range 256 {
		spm.tokens = append(spm.tokens, token{text: "<0x" + strings.ToUpper(string("0123456789abcdef"[b>>4])+string("0123456789abcdef"[b&15])) + ">", kind: byteToken})
	}
	for i, s := range []string{"▁", "a", "b", "c", "▁a", "ab", "abc", "▁ab", "▁▁", "aa", "aaaa", "é", "世界", "xy"} {
		spm.tokens = append(spm.tokens, token{text: s, kind: normal, score: -float32(i)})
	}
	for i := range spm.tokens[:3] {
		spm.placeKind(int32(i), &spm.tokens[i])
	}
	spm.spmStages(true, false)
	sp, err := spm.assemble()
	if err != nil {
		t.Fatal(err)
	}
	sp.bos, sp.end, sp.before = 1, 2, []int32{1}
	sp.setEOS(sp.end)
	return map[string]*Tokenizer{"bpe": bpe, "spm": sp, "bytes": NewBytes()}
}

// FuzzEncodeDecode: any text comes back, whole or token by token, and ids are in the vocabulary;
// the scanners and the pattern engine cut alike.
func FuzzEncodeDecode(f *testing.F) {
	for _, s := range []string{"", " ", "Hello world", "it's DON'T'ſ  \n\n 12345", "naïve 世界 😀 \xff\xfe", "<s>a</s>", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "▁ ▁▁ xy x y", "\r\n \t\u00a0\u3000", "ab abc  aab"} {
		f.Add(s)
	}
	toks := fuzzTokenizers(f)
	patterns := map[string]*pattern{}
	for re := range scanners {
		p, err := compilePattern(re)
		if err != nil {
			f.Fatal(err)
		}
		patterns[re] = p
	}
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 1<<14 {
			t.Skip()
		}
		for name, tok := range toks {
			ids := tok.Encode(text, EncodeOptions{})
			for _, id := range ids {
				if id < 0 || int(id) >= tok.VocabSize() || tok.IsSpecial(id) {
					t.Fatalf("%s: %q: id %d", name, text, id)
				}
			}
			want := text
			if name == "spm" {
				want = strings.ReplaceAll(text, "▁", " ")
			}
			if !utf8.ValidString(want) {
				out, _ := takeUTF8([]byte(want), true)
				want = out
			}
			got := tok.Decode(ids)
			if got != want {
				t.Fatalf("%s: %q: decoded %q", name, text, got)
			}
			for _, id := range tok.Encode(text, EncodeOptions{AddSpecial: true, ParseSpecial: true}) {
				if tok.Token(id) == "" {
					t.Fatalf("%s: %q: id %d", name, text, id)
				}
			}
		}
		for re, p := range patterns {
			a := scanners[re].split(nil, text, true)
			b := (&splitter{pattern: p, behavior: isolated}).split(nil, text, true)
			if !slices.Equal(a, b) {
				t.Fatalf("%s\n%q\nscanner %q\npattern %q", re, text, a, b)
			}
		}
	})
}

// exercise uses a tokenizer that a file made: whatever the file, using it does not fail.
func exercise(t *testing.T, tok *Tokenizer) {
	for _, s := range []string{"", "Hello  world\n", "<s>a<e>", "naïve 世界 \xff", strings.Repeat("ab", 100)} {
		for _, o := range []EncodeOptions{{}, {AddSpecial: true, ParseSpecial: true}} {
			ids := tok.Encode(s, o)
			for _, id := range ids {
				if id < 0 || int(id) >= tok.VocabSize() {
					t.Fatalf("%q: id %d of %d", s, id, tok.VocabSize())
				}
			}
			if !utf8.ValidString(tok.Decode(ids)) {
				t.Fatalf("%q: decodes to what is not UTF-8", s)
			}
		}
	}
	for _, id := range tok.EOS() {
		if tok.Token(id) == "" {
			t.Fatalf("EOS %d is no token", id)
		}
	}
}

func FuzzTokenizerJSON(f *testing.F) {
	f.Add([]byte(small))
	for _, stage := range []string{
		`{"type":"Split","pattern":{"Regex":"\\s+|a(?=b)"},"behavior":"MergedWithNext","invert":true}`,
		`{"type":"Sequence","pretokenizers":[{"type":"Digits"},{"type":"Punctuation","behavior":"Contiguous"},{"type":"Metaspace","prepend_scheme":"first"}]}`,
	} {
		f.Add([]byte(strings.Replace(small, `{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}`, stage, 1)))
	}
	f.Add([]byte(strings.NewReplacer(`"normalizer":null`, `"normalizer":{"type":"Sequence","normalizers":[{"type":"NFKC"},{"type":"Prepend","prepend":"▁"},{"type":"Replace","pattern":{"String":" "},"content":"▁"}]}`,
		`{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}`, "null",
		`"decoder":{"type":"ByteLevel"}`, `"decoder":{"type":"Sequence","decoders":[{"type":"ByteFallback"},{"type":"Fuse"},{"type":"Strip","content":" ","start":1,"stop":0}]}`,
		`"vocab":{`, `"byte_fallback":true,"unk_token":"c","fuse_unk":true,"vocab":{"<0x41>":7,"▁":8,`).Replace(small)))
	f.Fuzz(func(t *testing.T, data []byte) {
		tok, err := FromJSON(data, nil)
		if err != nil {
			return
		}
		exercise(t, tok)
		if kv, err := tok.GGUF(); err == nil {
			if again, err := FromGGUF(kv); err == nil {
				exercise(t, again)
			}
		}
		tok.json = "" // write it anew
		out, err := tok.JSON()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := FromJSON(out, nil); err != nil {
			t.Fatalf("what was read cannot be written and read again: %v\n%s\n%s", err, data, out)
		}
	})
}

func FuzzSentencePiece(f *testing.F) {
	f.Add([]byte("\x0a\x03\x0a\x01a\x0a\x05\x0a\x03▁\x0a\x09\x0a\x05<unk>\x18\x02\x12\x02\x18\x02\x1a\x04\x18\x01\x20\x00"))
	f.Add([]byte("\x0a\x08\x0a\x01a\x15\x00\x00\x80\x3f\x0a\x0d\x0a\x06<0x0A>\x18\x06\x12\x02\x18\x02"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if tok, err := FromSentencePiece(data); err == nil {
			exercise(t, tok)
		}
	})
}

func FuzzTiktoken(f *testing.F) {
	f.Add([]byte("YQ== 0\nYg== 1\nYWI= 2\n"))
	f.Add([]byte("IQ== 0\r\nIg== 1\r\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if tok, err := FromTiktoken(data, []string{"<s>"}); err == nil {
			exercise(t, tok)
		}
	})
}

// FuzzPattern: compiling and searching end, and matches lie in the text.
func FuzzPattern(f *testing.F) {
	for re := range scanners {
		f.Add(re, "it's 12345  \n x")
	}
	for _, re := range []string{`(?:a*)*b`, `(a|aa)+$`, `[^\W\d_&&[a-z]]{2,3}?`, `(?<=a)b(?!c)|(?>x+)y++`, `\p{^Lu}\P{L}[[:alpha:]\x{41}-\u0044]`, `((((a?)*)*)*)*b`, `(?i)straße|K`} {
		f.Add(re, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab")
	}
	f.Fuzz(func(t *testing.T, re, text string) {
		if len(text) > 300 || len(re) > 300 {
			t.Skip()
		}
		p, err := compilePattern(re)
		if err != nil {
			return
		}
		at := 0
		p.each(text, func(a, b int) {
			if a < at || b < a || b > len(text) {
				t.Fatalf("%q in %q: %d to %d behind %d", re, text, a, b, at)
			}
			at = b
		})
		// The table answers as backtracking does, where that comes to an end.
		m := reMatcher{p: p, s: text, left: 1 << 20}
		ends := p.table.ends(text, 0)
		for pos := 0; pos <= len(text); {
			e := m.run(p.prog, pos)
			if e == gaveUp {
				break
			}
			if int(ends[pos]) != e {
				t.Fatalf("%q in %q at %d: backtracking ends at %d, the table at %d", re, text, pos, e, ends[pos])
			}
			_, n := decodeAt(text, pos)
			pos += max(n, 1)
		}
	})
}
