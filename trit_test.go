package trit_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/sample"
)

const golden = "testdata/goldens/bitnet-2b4t"

func open(t testing.TB, o *trit.Options) *trit.Model {
	t.Helper()
	m, err := trit.Open(golden, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// collect runs a generation to its end.
func collect(t testing.TB, s *trit.Session, prompt string, o trit.GenerateOptions) (text string, tokens []int32, last trit.Piece) {
	t.Helper()
	for p, err := range s.Generate(context.Background(), prompt, o) {
		if err != nil {
			t.Fatal(err)
		}
		if !utf8.ValidString(p.Text) {
			t.Errorf("piece %q is not UTF-8", p.Text)
		}
		text += p.Text
		tokens = append(tokens, p.Token)
		last = p
	}
	return text, tokens, last
}

func TestGenerate(t *testing.T) {
	m := open(t, nil)
	text, tokens, last := collect(t, m.NewSession(), "The sky is", trit.GenerateOptions{MaxTokens: 20, IgnoreEOS: true})
	if len(tokens) != 20 || last.Finish != trit.FinishedLength {
		t.Fatalf("%d tokens, finish %q", len(tokens), last.Finish)
	}
	// In two goes, the second continuing the first, it is the same text.
	s := m.NewSession()
	first, a, _ := collect(t, s, "The sky is", trit.GenerateOptions{MaxTokens: 7, IgnoreEOS: true})
	second, b, _ := collect(t, s, "", trit.GenerateOptions{MaxTokens: 13, IgnoreEOS: true})
	if !slices.Equal(append(a, b...), tokens) {
		t.Errorf("in two goes: %v %v, want %v", a, b, tokens)
	}
	if utf8.ValidString(text) && !strings.Contains(text, "\uFFFD") && first+second != text {
		t.Errorf("in two goes %q + %q, want %q", first, second, text)
	}
	// With other samplers: any seed twice is the same, and the likeliest of k=1 is greedy.
	random := trit.GenerateOptions{MaxTokens: 20, IgnoreEOS: true, Options: sample.Options{Temperature: 1.5, TopK: 40, TopP: 0.95, Seed: 7}}
	_, x, _ := collect(t, m.NewSession(), "The sky is", random)
	_, y, _ := collect(t, m.NewSession(), "The sky is", random)
	if !slices.Equal(x, y) {
		t.Errorf("one seed, two texts: %v and %v", x, y)
	}
	_, z, _ := collect(t, m.NewSession(), "The sky is", trit.GenerateOptions{MaxTokens: 20, IgnoreEOS: true, Options: sample.Options{Temperature: 1, TopK: 1}})
	if !slices.Equal(z, tokens) {
		t.Errorf("top-k 1 is not greedy: %v, want %v", z, tokens)
	}
}

func TestLogprobs(t *testing.T) {
	m := open(t, nil)
	s := m.NewSession()
	for p, err := range s.Generate(context.Background(), "Hello", trit.GenerateOptions{MaxTokens: 5, IgnoreEOS: true, Logprobs: 3}) {
		if err != nil {
			t.Fatal(err)
		}
		if len(p.Top) != 3 || p.Top[0].ID != p.Token || math.Abs(float64(p.Top[0].Logprob)-float64(p.Logprob)) > 1e-6 {
			t.Errorf("piece %+v: the greedy token is the likeliest", p)
		}
		if !(p.Logprob < 0) || math.Exp(float64(p.Logprob)) < 1/float64(m.Config().VocabSize) {
			t.Errorf("log-probability %g", p.Logprob)
		}
	}
}

func TestStopString(t *testing.T) {
	m := open(t, nil)
	full, _, _ := collect(t, m.NewSession(), "The sky is", trit.GenerateOptions{MaxTokens: 30, IgnoreEOS: true})
	runes := []rune(full)
	for n := 1; n <= 3; n++ {
		stop := string(runes[len(runes)/2 : len(runes)/2+n])
		text, _, last := collect(t, m.NewSession(), "The sky is", trit.GenerateOptions{MaxTokens: 30, IgnoreEOS: true, Stop: []string{"never in there", stop}})
		want, _, _ := strings.Cut(full, stop)
		if text != want || last.Finish != trit.FinishedStop {
			t.Errorf("stop %q: %q (%s), want %q", stop, text, last.Finish, want)
		}
	}
}

func TestContextFull(t *testing.T) {
	m := open(t, &trit.Options{MaxContext: 12})
	s := m.NewSession()
	_, tokens, last := collect(t, s, "The", trit.GenerateOptions{IgnoreEOS: true})
	if s.Len() != 12 || last.Finish != trit.FinishedLength {
		t.Errorf("%d tokens in a context of 12 (%d written), finish %q", s.Len(), len(tokens), last.Finish)
	}
	for _, err := range m.NewSession().Generate(context.Background(), strings.Repeat("word ", 40), trit.GenerateOptions{}) {
		if !errors.Is(err, trit.ErrContextFull) {
			t.Errorf("error %v, want ErrContextFull", err)
		}
	}
}

func TestBadPrompt(t *testing.T) {
	m := open(t, nil)
	for name, o := range map[string]trit.GenerateOptions{
		"temperature": {Options: sample.Options{Temperature: -1}},
		"max tokens":  {MaxTokens: -1},
	} {
		for _, err := range m.NewSession().Generate(context.Background(), "x", o) {
			if err == nil {
				t.Errorf("%s: no error", name)
			}
			break
		}
	}
	n := 0
	for _, err := range m.NewSession().Generate(context.Background(), "caf\xe9", trit.GenerateOptions{}) {
		if n++; err == nil || !strings.Contains(err.Error(), "UTF-8 at byte 3") {
			t.Errorf("error %v, want one that names byte 3", err)
		}
	}
	if n != 1 {
		t.Errorf("%d yields, want 1", n)
	}
}

func TestCancel(t *testing.T) {
	m := open(t, nil)
	s := m.NewSession()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	n := 0
	var last error
	for _, err := range s.Generate(ctx, "The sky is", trit.GenerateOptions{IgnoreEOS: true, MaxTokens: 50}) {
		if n++; n == 5 {
			cancel()
		}
		last = err
	}
	if !errors.Is(last, context.Canceled) || n != 6 {
		t.Errorf("after %d pieces: %v", n, last)
	}
	// The session is whole and can go on.
	_, tokens, _ := collect(t, s, "", trit.GenerateOptions{MaxTokens: 5, IgnoreEOS: true})
	_, want, _ := collect(t, m.NewSession(), "The sky is", trit.GenerateOptions{MaxTokens: 10, IgnoreEOS: true})
	if !slices.Equal(tokens, want[5:]) {
		t.Errorf("after cancelling %v, want %v", tokens, want[5:])
	}
}

func TestChatReadsOnlyWhatIsNew(t *testing.T) {
	m := open(t, nil)
	c := m.NewChat(trit.ChatOptions{System: "Be brief."})
	say := func(text string) {
		t.Helper()
		for _, err := range c.Send(context.Background(), text, trit.GenerateOptions{MaxTokens: 6}) {
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	say("Hello there.")
	total := c.Len()
	say("And you?")
	if s := c.Stats(); s.CachedTokens == 0 || s.PromptTokens > c.Len()-s.CachedTokens || s.CachedTokens < total/2 {
		t.Errorf("second turn: %+v of %d tokens", s, c.Len())
	}
	if n := len(c.Messages()); n != 4 {
		t.Errorf("%d messages after two turns", n)
	}
}

func TestOpenErrors(t *testing.T) {
	for path, want := range map[string]string{
		"testdata/nothing-there": "no such file",
		"testdata":               "no config.json",
		"go.mod":                 "neither a model folder",
	} {
		_, err := trit.Open(path, nil)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("Open(%q): %v, want %q in it", path, err, want)
		}
	}
}

// No allocation per decoded token is part of the contract of the engine; the session adds its pieces' text.
func TestDecodeAllocations(t *testing.T) {
	m := open(t, &trit.Options{Threads: 2})
	s := m.NewSession()
	next, stop := pull(s, "The sky is")
	defer stop()
	for range 8 { // the buffers have their size then
		next()
	}
	if n := testing.AllocsPerRun(10, func() { next() }); n > 3 {
		t.Errorf("%v allocations a token", n)
	}
}

func pull(s *trit.Session, prompt string) (func(), func()) {
	ctx, cancel := context.WithCancel(context.Background())
	pieces := make(chan struct{})
	go func() {
		defer close(pieces)
		for _, err := range s.Generate(ctx, prompt, trit.GenerateOptions{IgnoreEOS: true}) {
			if err != nil {
				return
			}
			pieces <- struct{}{}
		}
	}()
	return func() { <-pieces }, func() {
		cancel()
		for range pieces {
		}
	}
}

func ExampleOpen() {
	m, err := trit.Open(golden, nil)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return
	}
	defer m.Close()
	n := 0
	for p, err := range m.NewSession().Generate(context.Background(), "The sky is", trit.GenerateOptions{MaxTokens: 8, IgnoreEOS: true}) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return
		}
		_ = p.Text // write it somewhere
		n++
	}
	fmt.Println(n, "tokens")
	// Output: 8 tokens
}
