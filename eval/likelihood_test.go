package eval

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/sample"
	"github.com/tritlm/trit/tokenizer"
)

func openGolden(t *testing.T, name string) *trit.Model {
	t.Helper()
	m, err := trit.Open("../testdata/goldens/"+name, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m
}

// plain is the definition that everything is compared with: tokens one by one in a cache of their own, and the
// log-probabilities of those from from on added from left to right.
func plain(t *testing.T, e model.Engine, tokens []int32, from int) (sum float64) {
	t.Helper()
	cache, err := e.NewCache(max(len(tokens)-1, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer cache.Close()
	logits := make([]float32, e.Config().VocabSize)
	for i, id := range tokens {
		if i >= from {
			sum += float64(logits[id]) - sample.LogSumExp(logits)
		}
		if i == len(tokens)-1 {
			break
		}
		if err := e.Forward(context.Background(), []model.Input{{Cache: cache, Tokens: tokens[i : i+1], Logits: logits}}); err != nil {
			t.Fatal(err)
		}
	}
	return sum
}

const story = `A small river ran behind the house, and in the spring it rose until the garden stood in it.
Nobody minded. The children built boats of bark; their grandmother, who had seen it rise higher,
moved her chair to the upper window and counted what floated past: two buckets, a gate, 17 pears.
"It will fall by Sunday," she said — and by Sunday it had fallen.
`

// TestPerplexity compares windows, strided and side by side, with the definition, token by token.
func TestPerplexity(t *testing.T) {
	m := openGolden(t, "bitnet-2b4t")
	e, tok := m.Engine(), m.Tokenizer()
	ids := tok.Encode(story, tokenizer.EncodeOptions{ParseSpecial: true})
	bos, ok := tok.BOS()
	if !ok {
		t.Fatal("the golden model has no token to begin with")
	}
	all := append([]int32{bos}, ids...)
	n := len(ids)
	for _, o := range []PerplexityOptions{{}, {Window: 64}, {Window: 64, Stride: 16}, {Window: 64, Stride: 1}, {Window: 1}, {Window: n}, {Window: n - 1, Stride: 5}, {Window: n/2 + 1}} {
		want, scored := 0.0, 0
		window, stride := o.Window, o.Stride
		if window == 0 {
			window = e.Config().MaxContext
		}
		if stride == 0 {
			stride = window
		}
		for scored < n {
			end := min(scored+stride, n)
			if scored == 0 {
				end = min(window, n)
			}
			begin := max(end-window, 0)
			want += plain(t, e, all[begin:end+1], scored+1-begin)
			scored = end
		}
		var last, total int64
		o.Step = func(d, of int64) { last, total = d, of }
		p, err := MeasurePerplexity(context.Background(), e, tok, story, o)
		if err != nil {
			t.Fatal(err)
		}
		if p.LogLikelihood != want {
			t.Errorf("window %d, stride %d: log-likelihood %v, want %v", o.Window, o.Stride, p.LogLikelihood, want)
		}
		if p.Tokens != n || p.Bytes != len(story) || p.Window != window || p.Stride != stride {
			t.Errorf("%+v", p)
		}
		if last != total || total < int64(n) {
			t.Errorf("progress ended at %d of %d", last, total)
		}
		if got := -p.LogLikelihood / math.Ln2 / float64(len(story)); math.Abs(got-p.BitsPerByte) > 1e-12 || p.Perplexity < 1 || p.Perplexity != math.Exp(-want/float64(n)) {
			t.Errorf("%+v", p)
		}
	}
}

func TestPerplexityErrors(t *testing.T) {
	m := openGolden(t, "bitnet-2b4t")
	for _, c := range []struct {
		text string
		o    PerplexityOptions
		want string
	}{
		{"", PerplexityOptions{}, "too short"},
		{story, PerplexityOptions{Window: 1 << 20}, "context is 256"},
		{story, PerplexityOptions{Window: 8, Stride: 9}, "stride"},
		{story, PerplexityOptions{Stride: -1}, "stride"},
	} {
		if _, err := MeasurePerplexity(context.Background(), m.Engine(), m.Tokenizer(), c.text, c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v, want %q", c.o, err, c.want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := MeasurePerplexity(ctx, m.Engine(), m.Tokenizer(), story, PerplexityOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestWords pins the count of Python's len(re.split(r"\s+", s)).
func TestWords(t *testing.T) {
	for s, want := range map[string]int{"": 1, "a": 1, "a b": 2, " a  b\n": 4, "\n": 2, "a\u00a0b": 2, "a\x1fb": 2, "a\u200bb": 1} {
		if got := words(s); got != want {
			t.Errorf("%q: %d words, want %d", s, got, want)
		}
	}
}

// TestChoices compares every log-likelihood with the definition, computed alone, for contexts of all kinds.
func TestChoices(t *testing.T) {
	for _, name := range []string{"bitnet-2b4t", "onebitllm"} { // byte-level BPE and SentencePiece
		m := openGolden(t, name)
		e, tok := m.Engine(), m.Tokenizer()
		questions := []Question{
			{Line: 1, Context: "The river ran behind the", Choices: []string{"house", "garden", "gate and the pears"}, Gold: 1},
			{Line: 2, Context: "The river ran behind the house. ", Choices: []string{"It rose", "It"}},
			{Line: 3, Context: "", Choices: []string{"a", "bb", "ü—漢"}, Gold: 2},
			{Line: 4, Context: strings.Repeat("The river ran behind the garden and the gate. ", 30), Choices: []string{"yes", "no, it did not"}},
			{Line: 5, Context: " \n", Choices: []string{"x", "y"}, Gold: 1},
			{Line: 6, Context: "Th", Choices: []string{"e river", "is one"}},
			{Line: 7, Context: "one", Choices: []string{"only"}},
		}
		for i := range 40 { // several groups
			questions = append(questions, Question{Line: 8 + i, Context: fmt.Sprintf("Q: what floated past, number %d?\nA:", i), Choices: []string{"a bucket", "a gate", "17 pears"}, Gold: i % 3})
		}
		for _, o := range []ChoiceOptions{{Delimiter: " "}, {Delimiter: "", Window: 48}, {Delimiter: " ", BOS: true}} {
			var last, total int64
			o.Step = func(d, of int64) { last, total = d, of }
			got, err := AnswerQuestions(context.Background(), e, tok, questions, o)
			if err != nil {
				t.Fatal(err)
			}
			if last != total {
				t.Errorf("progress ended at %d of %d", last, total)
			}
			right := 0
			for i, a := range got.Answers {
				q := questions[i]
				if a.Line != q.Line || a.Gold != q.Gold {
					t.Errorf("answer %d is %+v", i, a)
				}
				best := 0
				for k, c := range q.Choices {
					bare := strings.TrimRight(q.Context, " \n")
					tokens := tok.Encode(q.Context+o.Delimiter+c, tokenizer.EncodeOptions{ParseSpecial: true})
					from := len(tok.Encode(bare, tokenizer.EncodeOptions{ParseSpecial: true}))
					if bos, _ := tok.BOS(); from == 0 || o.BOS {
						tokens, from = append([]int32{bos}, tokens...), from+1
					}
					if cut := len(tokens) - e.Config().MaxContext - 1; o.Window == 0 && cut > 0 {
						tokens, from = tokens[cut:], from-cut
					}
					if cut := len(tokens) - o.Window - 1; o.Window > 0 && cut > 0 {
						tokens, from = tokens[cut:], from-cut
					}
					if want := plain(t, e, tokens, from); a.LogLikelihoods[k] != want {
						t.Errorf("%s: question %d, choice %d, %+v: %v, want %v", name, i, k, o.Delimiter, a.LogLikelihoods[k], want)
					}
					if a.Tokens[k] != len(tokens)-from {
						t.Errorf("question %d, choice %d: %d tokens, want %d", i, k, a.Tokens[k], len(tokens)-from)
					}
					if a.LogLikelihoods[k] > a.LogLikelihoods[best] {
						best = k
					}
				}
				if a.Pred != best {
					t.Errorf("question %d: chose %d, want %d", i, a.Pred, best)
				}
				if best == q.Gold {
					right++
				}
			}
			if want := float64(right) / float64(len(questions)); got.Acc.Value != want || got.Questions != len(questions) {
				t.Errorf("acc %v, want %v", got.Acc.Value, want)
			}
		}
	}
}

// TestNorms: the three accuracies differ as their definitions do.
func TestNorms(t *testing.T) {
	x := []float64{-10, -12, -13}
	choices := []string{"aaaa", "bbbbb", "üüüü"} // 4, 5, 4 characters; 4, 5, 8 bytes
	var norm, bytes []float64
	for i, c := range choices {
		norm, bytes = append(norm, x[i]/float64(len([]rune(c)))), append(bytes, x[i]/float64(len(c)))
	}
	if largest(x) != 0 || largest(norm) != 1 || largest(bytes) != 2 {
		t.Errorf("chose %d, %d, %d", largest(x), largest(norm), largest(bytes))
	}
	if largest([]float64{-2, -1, -1}) != 1 {
		t.Error("of equal ones the first counts")
	}
}

func TestChoicesErrors(t *testing.T) {
	m := openGolden(t, "bitnet-2b4t")
	long := Question{Line: 9, Context: "x", Choices: []string{"ok", strings.Repeat("river ", 300)}}
	_, err := AnswerQuestions(context.Background(), m.Engine(), m.Tokenizer(), []Question{long}, ChoiceOptions{Name: "q.jsonl", Delimiter: " "})
	if err == nil || !strings.Contains(err.Error(), "q.jsonl:9: the choice at 1 has ") || !strings.Contains(err.Error(), "256") {
		t.Error(err)
	}
	if _, err := AnswerQuestions(context.Background(), m.Engine(), m.Tokenizer(), nil, ChoiceOptions{}); err == nil {
		t.Error("no questions, and no error")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	q := []Question{{Context: "x", Choices: []string{"y"}}}
	if _, err := AnswerQuestions(ctx, m.Engine(), m.Tokenizer(), q, ChoiceOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func TestReadQuestions(t *testing.T) {
	write := func(text string) string {
		path := filepath.Join(t.TempDir(), "q.jsonl")
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	list, err := ReadQuestions(t.Context(), write("{\"context\":\"a\",\"choices\":[\"b\",\"c\"],\"gold\":1}\r\n\n  \n{\"query\":\"ü\",\"choices\":[\"b\",\"c\"],\"gold\":\"b\",\"id\":7}"))
	if err != nil {
		t.Fatal(err)
	}
	if got := fmt.Sprint(list); got != "[{1 a [b c] 1} {4 ü [b c] 0}]" {
		t.Error(got)
	}
	good := `{"context":"a","choices":["b"],"gold":0}` + "\n"
	for _, c := range []struct{ text, want string }{
		{"", "no question"},
		{good + "{", ":2: not a question"},
		{good + `[1]`, ":2: not a question"},
		{good + "\n{\"choices\":[\"b\"],\"gold\":0}", `:3: "context" is missing`},
		{`{"context":"a","query":"b","choices":["b"],"gold":0}`, ":1: "},
		{`{"context":"a","gold":0}`, `:1: "choices" is missing`},
		{`{"context":"a","choices":[],"gold":0}`, `:1: "choices" is missing`},
		{`{"context":"a","choices":["b",""],"gold":0}`, `:1: "choices": the one at 1 is empty`},
		{`{"context":"a","choices":["b"]}`, `:1: "gold" is missing`},
		{`{"context":"a","choices":["b"],"gold":null}`, `:1: "gold" is missing`},
		{`{"context":"a","choices":["b"],"gold":1}`, `:1: "gold" is 1`},
		{`{"context":"a","choices":["b"],"gold":-1}`, `:1: "gold" is -1`},
		{`{"context":"a","choices":["b"],"gold":0.5}`, `:1: "gold" is 0.5`},
		{`{"context":"a","choices":["b"],"gold":"c"}`, `:1: "gold": "c"`},
		{`{"context":1,"choices":["b"],"gold":0}`, ":1: not a question"},
		{"{\"context\":\"\xff\",\"choices\":[\"b\"],\"gold\":0}", ":1: not valid UTF-8"},
		{good + strings.Repeat(" ", maxLine+1<<20), ":2: the line is longer"},
	} {
		path := write(c.text)
		if _, err := ReadQuestions(t.Context(), path); err == nil || !strings.Contains(err.Error(), c.want) || !strings.HasPrefix(err.Error(), path) {
			t.Errorf("%.60q: %v, want %q", c.text, err, c.want)
		}
	}
	if _, err := ReadQuestions(t.Context(), filepath.Join(t.TempDir(), "nothing")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
}
