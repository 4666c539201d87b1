package server

import (
	"strings"

	"github.com/tritlm/trit/sample"
)

// chatLogprobs are log-probabilities as chat completions show them.
type chatLogprobs struct {
	Content []chatLogprob `json:"content"`
}

type chatLogprob struct {
	Token   string       `json:"token"`
	Logprob float64      `json:"logprob"`
	Bytes   []int        `json:"bytes"`
	Top     []topLogprob `json:"top_logprobs"`
}

type topLogprob struct {
	Token   string  `json:"token"`
	Logprob float64 `json:"logprob"`
	Bytes   []int   `json:"bytes"`
}

func (m *served) chatLogprobs(tokens []token) *chatLogprobs {
	one := func(x sample.Logprob) topLogprob {
		t := topLogprob{Token: strings.TrimPrefix(m.tokenText(x.ID), "bytes:"), Logprob: x.Logprob, Bytes: []int{}}
		for _, c := range m.Tokenizer.Bytes(x.ID) {
			t.Bytes = append(t.Bytes, int(c))
		}
		return t
	}
	out := &chatLogprobs{Content: []chatLogprob{}}
	for _, t := range tokens {
		x := one(sample.Logprob{ID: t.id, Logprob: t.logprob})
		l := chatLogprob{x.Token, x.Logprob, x.Bytes, []topLogprob{}}
		for _, y := range t.top {
			l.Top = append(l.Top, one(y))
		}
		out.Content = append(out.Content, l)
	}
	return out
}
