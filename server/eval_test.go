package server

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/tritlm/trit/eval"
	"github.com/tritlm/trit/tokenizer"
)

// What lm-evaluation-harness reads off this server — the prompt's log-probabilities with echo, one token written, the
// choice's added from left to right — is what trit eval computes, to the last bit.
func TestEvalEquals(t *testing.T) {
	m := randomModel(t)
	s, err := New(Options{Log: quietLog(), MaxBatch: 8, EchoBytes: 3 * 4 * m.Config().VocabSize, PrefillTokens: 40}, Model{ID: "tiny", Engine: m.Engine(), Tokenizer: m.Tokenizer()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	h := newTestServer(t, s)
	questions := []eval.Question{
		{Line: 1, Context: "A week has seven", Choices: []string{"days", "months", "ünïcode"}},
		{Line: 2, Context: "Q: how many legs has a spider?\nA:", Choices: []string{"eight", "two hundred and seven", "8"}, Gold: 2},
	}
	got, err := eval.AnswerQuestions(context.Background(), m.Engine(), m.Tokenizer(), questions, eval.ChoiceOptions{Delimiter: " "})
	if err != nil {
		t.Fatal(err)
	}
	for i, q := range questions {
		from := len(m.Tokenizer().Encode(q.Context, tokenizer.EncodeOptions{ParseSpecial: true}))
		var prompts [][]int32
		for _, c := range q.Choices {
			prompts = append(prompts, m.Tokenizer().Encode(q.Context+" "+c, tokenizer.EncodeOptions{ParseSpecial: true}))
		}
		body, err := json.Marshal(map[string]any{"model": "tiny", "prompt": prompts, "temperature": 0, "max_tokens": 1, "logprobs": 1, "echo": true, "seed": 1234})
		if err != nil {
			t.Fatal(err)
		}
		code, v := post(t, h+"/v1/completions", string(body))
		if code != 200 {
			t.Fatal(code, v)
		}
		for k := range q.Choices {
			list, _ := at(v, "choices", k, "logprobs", "token_logprobs").([]any)
			if len(list) != len(prompts[k])+1 {
				t.Fatalf("%d log-probabilities of %d tokens and one more", len(list), len(prompts[k]))
			}
			var sum float64
			for _, l := range list[from : len(list)-1] {
				sum += l.(float64)
			}
			if want := got.Answers[i].LogLikelihoods[k]; sum != want {
				t.Errorf("question %d, choice %d: the server says %v, eval %v", i, k, sum, want)
			}
		}
	}
}
