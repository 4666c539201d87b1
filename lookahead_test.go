package trit

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"testing"

	"github.com/tritlm/trit/sample"
)

func TestGuessNext(t *testing.T) {
	for _, test := range []struct {
		text, want []int32
		n          int
	}{
		{[]int32{1, 2, 3}, nil, 5},
		{[]int32{1, 2, 3, 4, 5, 1, 2, 3}, []int32{4, 5, 1, 2}, 4},
		{[]int32{1, 2, 3, 9, 1, 2, 3, 4, 1, 2, 3}, []int32{4, 1}, 2}, // the last time counts
		{[]int32{7, 7, 7, 7}, []int32{7}, 5},
		{[]int32{1, 2, 3, 4, 5, 1, 2, 3}, nil, 0},
	} {
		if got := guessNext(test.text, test.n); !slices.Equal(got, test.want) {
			t.Errorf("after %v: %v, want %v", test.text, got, test.want)
		}
	}
}

// TestLookaheadChangesNothing: with guesses, without, and with all logits (which log-probabilities need), to the
// token, greedy and random, with penalties and biases; the session goes on alike.
func TestLookaheadChangesNothing(t *testing.T) {
	dirs, err := filepath.Glob("testdata/goldens/*/config.json")
	if err != nil || len(dirs) == 0 {
		t.Fatal("no goldens")
	}
	guessed, right := 0, 0
	for _, dir := range dirs {
		m, err := Open(filepath.Dir(dir), nil)
		if err != nil {
			t.Fatal(err)
		}
		if m.cfg.Pooling != "" { // it writes no text
			m.Close()
			continue
		}
		for _, o := range []sample.Options{
			{},
			{Temperature: 0.3, TopK: 2, Seed: 5},
			{Temperature: 2, TopK: 20, Seed: 6},
			{RepetitionPenalty: 1.3},
			{RepetitionPenalty: 1.1, RepeatLastN: 4, Temperature: 0.5, TopK: 3, Seed: 7},
			{FrequencyPenalty: 0.2, PresencePenalty: 0.1},
			{FrequencyPenalty: 1, RepetitionPenalty: 1.2, RepeatLastN: 9, LogitBias: map[int32]float32{5: -2}, Temperature: 1, TopK: 4, Seed: 8},
		} {
			run := func(lookahead bool, logprobs int) string {
				s := m.NewSession()
				var out string
				for round := range 3 { // generating again continues the text
					for p, err := range s.GenerateTokens(context.Background(), []int32{5, 6, 7, 5, 6, 7, 5, 6}, GenerateOptions{
						Options: o, MaxTokens: 25, IgnoreEOS: round < 2, NoLookahead: !lookahead, Logprobs: logprobs,
					}) {
						if err != nil {
							t.Fatal(err)
						}
						s.ahead.single, s.ahead.several = 0, 0 // always guess, however slow it was
						out += fmt.Sprint(p.Token, p.Finish, " ")
						if round == 1 && s.Len() > 50 {
							break
						}
					}
					guessed, right = guessed+s.stats.Guessed, right+s.stats.GuessedRight
					if s.cache.Len() > s.Len() {
						t.Errorf("the cache has %d tokens, the text %d", s.cache.Len(), s.Len())
					}
				}
				s.Close()
				return out
			}
			all := run(false, -1)
			for _, lookahead := range []bool{true, false} {
				if got := run(lookahead, 0); got != all {
					t.Errorf("%s, %+v: guesses %v\n%s\nall logits\n%s", dir, o, lookahead, got, all)
				}
			}
		}
		m.Close()
	}
	if guessed == 0 || right == 0 || right == guessed {
		t.Errorf("%d of %d guesses were right: this test shows nothing", right, guessed)
	}
}

func TestLookaheadStopsWhereItDoesNotPay(t *testing.T) {
	a := lookahead{single: 1, several: 2}
	tries := 0
	for range 330 {
		if a.pays() {
			tries++
			a.guess, a.used = append(a.guess[:0], 1, 2), 0
			a.settle()
		}
	}
	if tries < 5 || tries > 40 {
		t.Errorf("%d tries in 330 passes, all of them wrong", tries)
	}
	a.right = 3
	if !a.pays() {
		t.Error("three right guesses a pass at twice the time do not pay")
	}
}
