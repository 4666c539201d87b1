package server

import (
	"context"
	"log/slog"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/model"
)

// maxInputs are the texts of one request for vectors.
const maxInputs = 2048

// vectors are what a request for them gets.
type vectors struct {
	m       *served
	vectors [][]float32
	tokens  int
}

// embed computes a unit vector for each input, as the model makes it: see trit.Model.Embed. Inputs longer than
// truncate tokens are cut there: 0 for an error if they do not fit, −1 for as much as fits. What is more than the
// queue takes at once is computed piece by piece.
func (s *core) embed(ctx context.Context, c caller, id string, in prompts, dims, truncate int) (*vectors, error) {
	m, err := s.model(id)
	if err != nil {
		return nil, err
	}
	d := m.Engine.Config().HiddenSize
	switch {
	case in.len() == 0:
		return nil, invalid("input", "input is missing")
	case in.len() > maxInputs:
		return nil, invalid("input", "%d inputs are more than %d", in.len(), maxInputs)
	case dims < 0 || dims > d:
		return nil, invalid("dimensions", "dimensions must be from 1 to %d, is %d", d, dims)
	case truncate < -1 || truncate > m.MaxContext:
		return nil, invalid("truncate_prompt_tokens", "truncate_prompt_tokens must be from 1 to %d, or −1 for that, is %d", m.MaxContext, truncate)
	}
	if truncate == -1 {
		truncate = m.MaxContext
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.RequestTimeout)
	defer cancel()
	out := &vectors{m: m, vectors: make([][]float32, in.len())}
	var jobs []*job
	for i := range in.len() {
		var ids []int32
		if i < len(in.texts) {
			if ids, err = trit.EmbedTokens(m.Tokenizer, m.Engine.Config(), in.texts[i]); err != nil {
				return nil, invalid("input", "input %d: %v", i, err)
			}
		} else {
			ids = in.tokens[i-len(in.texts)]
		}
		if truncate > 0 && len(ids) > truncate {
			end := ids[len(ids)-1]
			if ids = ids[:truncate]; i < len(in.texts) && m.Tokenizer.IsSpecial(end) { // the model's last token stays the last
				ids[truncate-1] = end
			}
		}
		j := &job{ctx: ctx, client: c.who(), pool: model.NewPool(m.Engine.Config()), logprobs: -1}
		if err := m.fit(j, ids, "input"); err != nil {
			return nil, err
		}
		out.tokens += len(ids)
		jobs = append(jobs, j)
	}
	step := min(s.o.MaxSequences, max(s.o.MaxQueue/2, 1))
	for at := 0; at < len(jobs); at += step {
		some := jobs[at:min(at+step, len(jobs))]
		streams, err := m.sched.submit(some...)
		if err != nil {
			return nil, err
		}
		if err := follow(ctx, streams, func(i int, _ event) error {
			out.vectors[at+i] = some[i].pool.Vector(dims)
			return nil
		}, nothing, nothing); err != nil {
			return nil, err
		}
	}
	c.note(slog.String("model", m.ID), slog.Int("prompt_tokens", out.tokens))
	return out, nil
}
