package tokenizer

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/tritlm/trit/gguf"
)

// The bounds that the package promises are measured in a process of their own for each case, by its
// largest resident set. With -bounds 16 the files have 16 MiB and all texts 1 MiB.
var (
	boundsMiB   = flag.Int("bounds", 1, "MiB of the hostile files of TestLoadBounds")
	boundsChild = flag.String("bounds.child", "", "folder to load, or text case to encode: set by the test itself")
)

// hostile are tokenizer files of about n bytes, each made to be slow or large to read.
func hostile(n int) map[string]map[string][]byte {
	n -= 4096
	files := map[string]map[string][]byte{}
	put := func(name, file string, data []byte, more ...string) {
		files[name] = map[string][]byte{file: data}
		for i := 0; i+1 < len(more); i += 2 {
			files[name][more[i]] = []byte(more[i+1])
		}
	}
	word := func(i int) string { // short and different
		const set = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
		var b []byte
		for range 4 {
			b = append(b, set[i&63])
			i >>= 6
		}
		return string(b)
	}
	var chain []string // a, aa, aaa, …
	for size := 0; size+len(chain) < n/2; size += len(chain) {
		chain = append(chain, strings.Repeat("a", len(chain)+1))
	}
	dense := make([]string, 0, n/10)
	for i := range n / 12 {
		dense = append(dense, word(i))
	}
	var many []string // as many as are read, and all their halves
	for i := range min(n/32, 500000) {
		w := word(i)
		many = append(many, w, w+word(i*7)+word(i*31))
		if len(many) >= 500000 {
			break
		}
	}
	slices.Sort(many)
	many = slices.Compact(many)
	long := []string{"a", "b", "c", strings.Repeat("a", n-100)}

	vocabs := map[string][]string{"one token": long, "chain": chain, "short tokens": dense, "many tokens": many}
	for name, list := range vocabs {
		var vocab, sp, tik, tek bytes.Buffer
		for i, s := range list {
			if vocab.Len() < n {
				fmt.Fprintf(&vocab, "%s%q:%d", []string{",", ""}[min(1, max(0, 1-i))], s, i)
			}
			if sp.Len() < n {
				piece := append([]byte{0x0a}, binary.AppendUvarint(nil, uint64(len(s)))...)
				piece = append(piece, s...)
				sp.WriteByte(0x0a)
				sp.Write(binary.AppendUvarint(nil, uint64(len(piece))))
				sp.Write(piece)
			}
			if b64 := base64.StdEncoding.EncodeToString([]byte(s)); tik.Len() < n {
				fmt.Fprintf(&tik, "%s %d\n", b64, i)
				fmt.Fprintf(&tek, `%s{"rank":%d,"token_bytes":"%s"}`, []string{",", ""}[min(1, max(0, 1-i))], i, b64)
			}
		}
		sp.WriteString("\x12\x02\x18\x02") // trainer_spec: BPE
		put("json "+name, "tokenizer.json", fmt.Appendf(nil, `{"model":{"type":"BPE","vocab":{%s},"merges":[]}}`, vocab.String()))
		put("vocab "+name, "vocab.json", fmt.Appendf(nil, "{%s}", vocab.String()), "merges.txt", "")
		put("sentencepiece "+name, "tokenizer.model", sp.Bytes())
		put("tiktoken "+name, "tokenizer.model", tik.Bytes())
		put("tekken "+name, "tekken.json", fmt.Appendf(nil, `{"config":{"pattern":"a"},"vocab":[%s]}`, tek.String()))
		var kv gguf.KV
		total := 0
		var part []string
		for _, s := range list {
			if total += len(s) + 8; total < n {
				part = append(part, s)
			}
		}
		kv.Set("tokenizer.ggml.model", "llama")
		kv.Set("tokenizer.ggml.tokens", part)
		kv.Set("tokenizer.ggml.scores", make([]float32, len(part)))
		put("gguf "+name, "model.gguf", ggufFile(kv))
	}
	repeat := func(f func(i int) string) string {
		var b strings.Builder
		for i := 0; b.Len() < n; i++ {
			if i > 0 {
				b.WriteByte(',')
			}
			b.WriteString(f(i))
		}
		return b.String()
	}
	with := func(part, value string) []byte {
		return []byte(strings.Replace(small, part, value, 1))
	}
	put("merges", "tokenizer.json", with(`["a b"]`, "["+repeat(func(int) string { return `"a b"` })+"]"))
	put("merges.txt", "vocab.json", []byte(`{"a":0,"b":1,"ab":2}`), "merges.txt", strings.Repeat("a b\n", n/4))
	put("added", "tokenizer.json", with(`"added_tokens":[`, `"added_tokens":[`+repeat(func(i int) string { return fmt.Sprintf(`{"id":%d,"content":"%s"}`, i+5, word(i)) })+","))
	put("added one", "tokenizer.json", with(`"content":"<e>","special"`, `"content":"`+strings.Repeat("e", n)+`","special"`))
	put("added chain", "tokenizer.json", with(`"added_tokens":[`, `"added_tokens":[`+strings.Trim(func() string {
		var b strings.Builder
		for i, s := range chain {
			if b.Len() < n && i > 0 {
				fmt.Fprintf(&b, `,{"id":%d,"content":"%s"}`, i+5, s+"b")
			}
		}
		return b.String()
	}(), ",")+","))
	put("normalizers", "tokenizer.json", with(`"normalizer":null`, `"normalizer":{"type":"Sequence","normalizers":[`+repeat(func(int) string { return `{"type":"NFC"}` })+`]}`))
	put("prepend", "tokenizer.json", with(`"normalizer":null`, `"normalizer":{"type":"Prepend","prepend":"`+strings.Repeat("p", n)+`"}`))
	put("replacement", "tokenizer.json", with(`"decoder":{"type":"ByteLevel"}`, `"decoder":{"type":"Replace","pattern":{"String":"a"},"content":"`+strings.Repeat("p", n)+`"}`))
	put("expression", "tokenizer.json", with(`{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}`, `{"type":"Split","behavior":"Isolated","pattern":{"Regex":"`+strings.Repeat("(a|b)*c|", n/8)+`x"}}`))
	put("class", "tokenizer.json", with(`{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}`, `{"type":"Split","behavior":"Isolated","pattern":{"Regex":"[`+strings.Repeat("[a-z&&b]", n/8)+`]"}}`))
	put("deep", "tokenizer.json", with(`"normalizer":null`, `"normalizer":`+strings.Repeat("[", n/2)+strings.Repeat("]", n/2)))
	put("around", "tokenizer.json", with(`"single":[`, `"single":[`+repeat(func(int) string { return `{"SpecialToken":{"id":"<e>","type_id":0}}` })+","))
	put("config", "tokenizer.json", []byte(small), "tokenizer_config.json", `{"added_tokens_decoder":{`+repeat(func(i int) string { return fmt.Sprintf(`"%d":{"content":"%s"}`, i+5, word(i)) })+`}}`)
	put("extra tokens", "tokenizer.json", []byte(small), "tokenizer_config.json", `{"additional_special_tokens":[`+repeat(func(int) string { return `"a"` })+`]}`)
	put("special map", "tokenizer.json", []byte(small), "special_tokens_map.json", `{"bos_token":"`+strings.Repeat("b", n)+`"}`)
	put("added_tokens.json", "tokenizer.json", []byte(small), "added_tokens.json", `{`+repeat(func(i int) string { return fmt.Sprintf(`"%s":%d`, word(i), i+5) })+`}`)
	put("ends", "tokenizer.json", []byte(small), "generation_config.json", `{"eos_token_id":[`+repeat(func(int) string { return "4" })+`]}`)
	put("template", "tokenizer.json", []byte(small), "chat_template.jinja", strings.Repeat("{{ a }}", n/7))
	put("template.json", "tokenizer.json", []byte(small), "chat_template.json", `{"chat_template":"`+strings.Repeat("{{ a }}", n/7)+`"}`)
	return files
}

func ggufFile(kv gguf.KV) []byte {
	var b bytes.Buffer
	w := func(v any) { _ = binary.Write(&b, binary.LittleEndian, v) }
	str := func(s string) { w(uint64(len(s))); b.WriteString(s) }
	b.WriteString("GGUF")
	w(uint32(3))
	w(uint64(0))
	w(uint64(len(kv)))
	for _, e := range kv {
		str(e.Key)
		switch v := e.Value.(type) {
		case string:
			w(uint32(8))
			str(v)
		case []string:
			w(uint32(9))
			w(uint32(8))
			w(uint64(len(v)))
			for _, s := range v {
				str(s)
			}
		case []float32:
			w(uint32(9))
			w(uint32(6))
			w(uint64(len(v)))
			w(v)
		}
	}
	return b.Bytes()
}

// child runs a case in a process of its own and returns the largest memory that it had, in bytes, the
// time that it used, and what it printed.
func child(t *testing.T, what string) (peak int64, used time.Duration, lines []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestBoundsChild$", "-bounds.child="+what, fmt.Sprintf("-bounds=%d", *boundsMiB))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%.3000s", what, err, out)
	}
	for l := range strings.Lines(string(out)) {
		if s, ok := strings.CutPrefix(l, "CHILD "); ok {
			lines = append(lines, strings.TrimSpace(s))
		}
		if _, err := fmt.Sscanf(l, "VmHWM: %d kB", &peak); err == nil {
			peak <<= 10
		}
	}
	if peak == 0 {
		t.Fatalf("%s: no VmHWM\n%.3000s", what, out)
	}
	return peak, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), lines
}

var raced bool // built with the race detector

// TestLoadBounds: whatever the file, it is read or refused in 5 seconds, and in 16 times the memory that
// it has itself and 64 MiB; 16 MiB need no such allowance.
func TestLoadBounds(t *testing.T) {
	if raced {
		t.Skip("the race detector takes memory and time of its own")
	}
	n := *boundsMiB << 20
	base, _, _ := child(t, "nothing")
	files := hostile(n)
	for _, name := range sortedKeys(files) {
		dir := t.TempDir()
		for file, data := range files[name] {
			if err := os.WriteFile(filepath.Join(dir, file), data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		peak, used, lines := child(t, dir)
		times := float64(peak-base) / float64(n)
		t.Logf("%-30s %5.2f s %5.1f × %.150s", name, used.Seconds(), times, lines)
		if used > 5*time.Second || times > 16 && (*boundsMiB >= 16 || peak-base > 16*int64(n)+64<<20) {
			t.Errorf("%s: %v and %.1f times its size", name, used, times)
		}
	}
}

// worstTexts are a MiB each, bad for one expression or the other.
func worstTexts(n int) map[string]string {
	fill := func(s string) string { return strings.Repeat(s, n/len(s)+1)[:n/len(s)*len(s)] }
	return map[string]string{
		"a": fill("a"), "ab": fill("ab"), "spaces": fill(" "), "newlines": fill("\n"), "digits": fill("7"), "mixed": fill("a1 \n!"),
		"han": fill("世"), "marks": fill("e\u0301"), "spaces at the end of lines": fill("a" + strings.Repeat(" ", 99) + "\n"), "apostrophes": fill("'s'S"),
		"wide": fill("\uFDFA"), "broken": fill("\xff"), "prose": fill("The quick brown fox, it's 123 naïve 世界 😀 jumps.\n\n "),
	}
}

var worstPatterns = []string{
	`(a|aa)+$`, `(?:a+)+b`, `((a|b)+c)+d`, `(?=a*b)a`, `(?!a*b)a`, `a(?=.*x)`, `(?>a+)b|a`, `.*?x|y`, `(?<=aaaaaaaaaaaaaaaa)b|a{1,1000}c`,
	`(?:a|b)*e|(?:ab)*c`, `\s*[\r\n]+|\s+(?!\S)`, `\w*\d|\w*!`, `(?=(\d{3})+(?!\d))`, `(?:\p{L}|\p{M})+?x`, `[^a]*+b|a*`, `(?i:a|B)+c`, `(?:(?:a|b){1,9}){1,9}c`,
}

func cpuTime() time.Duration {
	var r syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &r) != nil {
		return 0
	}
	return time.Duration(r.Utime.Nano() + r.Stime.Nano())
}

// TestBoundsChild is what a process of its own does.
func TestBoundsChild(t *testing.T) {
	defer func() {
		status, err := os.ReadFile("/proc/self/status")
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(status)) {
			if strings.HasPrefix(l, "VmHWM:") {
				fmt.Print(l)
			}
		}
	}()
	switch kind, rest, _ := strings.Cut(*boundsChild, ":"); {
	case *boundsChild == "":
		t.Skip("called by the other tests")
	case kind == "nothing":
	case kind == "encode":
		encodeWorst(t, rest)
	default:
		var tok *Tokenizer
		var err error
		if data, e := os.ReadFile(filepath.Join(kind, "model.gguf")); e == nil {
			var f *gguf.File
			if f, err = gguf.Read(bytes.NewReader(data), int64(len(data)), "model.gguf"); err == nil {
				tok, err = FromGGUF(f.KV)
			}
		} else {
			tok, err = Load(kind)
		}
		switch {
		case err == nil:
			fmt.Printf("CHILD %d tokens\n", tok.VocabSize())
			tok.Encode("ab abc", EncodeOptions{AddSpecial: true})
		case len(err.Error()) > 1500 || strings.Contains(err.Error(), "\n"):
			t.Errorf("error of %d bytes: %.100s", len(err.Error()), err)
		case !errors.Is(err, ErrFormat) && !errors.Is(err, errors.ErrUnsupported):
			t.Errorf("of no kind: %v", err)
		default:
			fmt.Printf("CHILD %s\n", strings.ReplaceAll(err.Error(), kind, "…"))
		}
	}
}

// TestEncodeBounds: a MiB of any text is encoded in 200 MB and a few seconds, whatever the expression;
// an eighth of it in 100 MB.
func TestEncodeBounds(t *testing.T) {
	for _, what := range []string{"shipped", "hostile", "merges", "added", "stages"} {
		peak, used, lines := child(t, "encode:"+what)
		t.Logf("%s: %v, %d MB\n%s", what, used, peak/1e6, strings.Join(lines, "\n"))
		if peak > 200e6 || *boundsMiB < 16 && peak > 100e6 {
			t.Errorf("%s: %d MB", what, peak/1e6)
		}
	}
}

// encodeWorst encodes worst texts by one kind of tokenizer.
func encodeWorst(t *testing.T, what string) {
	n := 1 << 20
	if *boundsMiB < 16 {
		n >>= 3
	}
	texts := worstTexts(n)
	run := func(name string, tok *Tokenizer, names ...string) {
		t.Helper()
		if len(names) == 0 {
			names = sortedKeys(texts)
		}
		for _, which := range names {
			start := cpuTime()
			ids := tok.Encode(texts[which], EncodeOptions{ParseSpecial: true})
			d := cpuTime() - start
			if d > time.Second {
				fmt.Printf("CHILD %.60s on %s: %v, %d tokens\n", name, which, d, len(ids))
			}
			if d > 10*time.Second {
				t.Errorf("%s on %s: %v", name, which, d)
			}
		}
	}
	pipeline := func(pre, normalizer, more string) *Tokenizer {
		s := strings.NewReplacer(`{"type":"ByteLevel","add_prefix_space":false,"use_regex":true}`, pre, `"normalizer":null`, `"normalizer":`+normalizer,
			`"added_tokens":[`, `"added_tokens":[`+more).Replace(small)
		tok, err := FromJSON([]byte(s), nil)
		if err != nil {
			t.Fatal(err)
		}
		return tok
	}
	split := func(re string) string {
		b, _ := json.Marshal(re)
		return `{"type":"Sequence","pretokenizers":[{"type":"Split","behavior":"Isolated","pattern":{"Regex":` + string(b) + `}},{"type":"ByteLevel","add_prefix_space":false,"use_regex":false}]}`
	}
	switch what {
	case "shipped":
		for i, e := range preTokenizers {
			p := &parts{}
			p.byteLevelStages(e.split...)
			which := sortedKeys(texts)
			if testing.Short() || *boundsMiB < 16 { // each text by some of them, all of them by some texts
				which = []string{which[i%len(which)], which[(i+5)%len(which)]}
			}
			run(e.names[0], pipeline(string(p.pre), "null", ""), which...)
		}
	case "hostile":
		for i, re := range worstPatterns {
			which := sortedKeys(texts)
			if *boundsMiB < 16 {
				which = []string{"ab", which[i%len(which)]}
			}
			run(re, pipeline(split(re), "null", ""), which...)
		}
	case "merges":
		toks := fuzzTokenizers(t)
		which := []string{"a", "ab", "broken", "han", "spaces"}
		run("bytes", toks["bytes"], which...)
		run("sentencepiece", toks["spm"], which...)
		run("bpe", toks["bpe"], which...)
		run("one piece", pipeline("null", `{"type":"NFKC"}`, ""), "wide", "a")
	case "added":
		var more strings.Builder
		for i := range 700 {
			fmt.Fprintf(&more, `{"id":%d,"content":"%sb"},`, i+5, strings.Repeat("a", i+2))
		}
		run("added", pipeline("null", "null", more.String()), "a", "ab", "mixed")
	case "stages":
		run("stages", pipeline(`{"type":"Sequence","pretokenizers":[`+strings.Repeat(`{"type":"Digits","individual_digits":true},{"type":"Punctuation"},`, 15)+`{"type":"WhitespaceSplit"}]}`, "null", ""), "mixed", "digits")
	}
}
