package convert

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/tritlm/trit/tokenizer"
)

// probes are texts that tokenizers disagree about: spaces and line ends, digits, marks, scripts, code, characters that are not
// composed, emoji of several code points, bytes of no language.
var probes = []string{
	"", " ", "  ", "\n", "\t\t x", "a", " a", "a ", "  two  spaces   three    four ", "line\nline\r\n\n\nline\u00a0\u2003\u3000x",
	"The river, which had risen in the night, ran past the mill; nobody spoke.", "It's they're we'll I'd I'M DON'T can’t",
	"0 1 12 123 1234 12345 123456789 3.14159 1e-5 0xFF 1,000,000 ½ ² Ⅷ ١٢٣",
	"func main() {\n\tif x != nil && y >= 0 {\n\t\treturn fmt.Errorf(\"%w: %d\", err, i)\n\t}\n}\n", "def f(x):\n    return x**2  # square\n",
	"!!! ??? ... --- *** /// \\\\ \"quoted\" 'single' «guillemets» (a)[b]{c}<d> a_b __init__ @user #tag $5 50% a&b a|b ~x^y=z",
	"naïve café ÀÉÎÕÜ ß straße Ǆ ﬁ Å A\u030a e\u0301 ñ n\u0303", "Привет, мир! Ελληνικά עברית العربية हिन्दी ไทย",
	"今天天气很好。日本語のテキスト、カタカナ。한국어 문장입니다.", "👍🏽 👨‍👩‍👧‍👦 🇩🇪 ❤️ 🏴‍☠️ \U0001F9EC", "\x00\x01\x7f\u200b\u200d\ufeff\ufffd",
	"https://example.org/a/b?c=d&e=f#g user@example.org C:\\dir\\file.txt", "ALLCAPS CamelCase snake_case kebab-case x86_64 v1.2.3-rc4",
	"▁ ▁▁a Ġ Ċ <0x0A> [UNUSED_5] <s> </s> <unk> <pad> <bos> <eos> <|endoftext|> <|im_start|>user\nhi<|im_end|> [INST] x [/INST]",
}

// tokenizerDifference says in what two tokenizers differ, "" for nothing: their tokens, the special ones, templates, and what
// they make of the probes and of the special tokens within text.
func tokenizerDifference(want, got *tokenizer.Tokenizer) string {
	if a, b := want.VocabSize(), got.VocabSize(); a != b {
		return fmt.Sprintf("%d tokens and would be read back as %d", a, b)
	}
	var special []string
	for id := range int32(want.VocabSize()) {
		switch {
		case string(want.Bytes(id)) != string(got.Bytes(id)):
			return fmt.Sprintf("token %d decodes as %q and would be read back as %q", id, want.Bytes(id), got.Bytes(id))
		case want.IsSpecial(id) && want.Token(id) != got.Token(id): // others may be written in another alphabet
			return fmt.Sprintf("token %d is %q and would be read back as %q", id, want.Token(id), got.Token(id))
		case want.IsSpecial(id) != got.IsSpecial(id):
			return fmt.Sprintf("token %d, %q, is special: %v, and would be read back as special: %v", id, want.Token(id), want.IsSpecial(id), got.IsSpecial(id))
		}
		if want.IsSpecial(id) && len(special) < 1000 {
			special = append(special, want.Token(id))
		}
	}
	for _, f := range []struct {
		what string
		of   func(t *tokenizer.Tokenizer) (int32, bool)
	}{{"beginning", (*tokenizer.Tokenizer).BOS}, {"unknown", (*tokenizer.Tokenizer).Unknown}, {"padding", (*tokenizer.Tokenizer).Pad}} {
		a, hasA := f.of(want)
		b, hasB := f.of(got)
		if hasA != hasB || hasA && a != b {
			return fmt.Sprintf("the token for %s is %s and would be read back as %s", f.what, tokenName(want, a, hasA), tokenName(got, b, hasB))
		}
	}
	if a, b := sorted(want.EOS()), sorted(got.EOS()); !slices.Equal(a, b) {
		return fmt.Sprintf("a text ends at the tokens %v and would be read back as ending at %v", a, b)
	}
	if d := templateDifference(want, got); d != "" {
		return d
	}
	texts := probes
	for i := 0; i < len(special); i += 20 {
		some := special[i:min(i+20, len(special))]
		texts = append(texts, strings.Join(some, ""), "a "+strings.Join(some, " b ")+" c")
	}
	for _, text := range texts {
		for _, o := range []tokenizer.EncodeOptions{{}, {AddSpecial: true}, {ParseSpecial: true}} {
			a, b := want.Encode(text, o), got.Encode(text, o)
			if !slices.Equal(a, b) {
				return fmt.Sprintf("%q is %v and would be read back as %v", cut(text), cut(fmt.Sprint(a)), cut(fmt.Sprint(b)))
			}
			if x, y := want.Decode(a), got.Decode(a); x != y {
				return fmt.Sprintf("%v decodes as %q and would be read back as %q", cut(fmt.Sprint(a)), cut(x), cut(y))
			}
		}
	}
	return ""
}

// templateDifference compares the chat templates by their text, and by what one conversation becomes.
func templateDifference(want, got *tokenizer.Tokenizer) string {
	if a, b := want.Templates(), got.Templates(); !slices.Equal(a, b) {
		return fmt.Sprintf("its chat templates are %q and would be read back as %q", a, b)
	}
	for _, name := range want.Templates() {
		a, _ := want.Template(name)
		if b, _ := got.Template(name); a != b {
			return fmt.Sprintf("the chat template %q would be read back as another", name)
		}
	}
	talk := []tokenizer.Message{{Role: "user", Content: "Hi!"}, {Role: "assistant", Content: "Hello."}, {Role: "user", Content: "Who?"}}
	o := tokenizer.ChatOptions{Now: time.Unix(0, 0)}
	a, errA := want.Chat(talk, o)
	b, errB := got.Chat(talk, o)
	if a != b || (errA == nil) != (errB == nil) {
		return fmt.Sprintf("a conversation is %q and would be read back as %q", cut(a), cut(b))
	}
	return ""
}

func tokenName(t *tokenizer.Tokenizer, id int32, ok bool) string {
	if !ok {
		return "none"
	}
	return fmt.Sprintf("%d (%q)", id, t.Token(id))
}

func sorted(ids []int32) []int32 {
	ids = slices.Clone(ids)
	slices.Sort(ids)
	return slices.Compact(ids)
}

// cut shortens what is shown.
func cut(s string) string {
	const most = 120
	if len(s) > most {
		return strings.ToValidUTF8(s[:most], "") + "…"
	}
	return s
}
