package server

import (
	"context"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"

	"github.com/tritlm/trit/sample"
)

// job checks the options and makes a job without a prompt of them.
func (m *served) job(o *options) (*job, error) {
	if m.Engine.Config().Pooling != "" {
		return nil, invalid("model", "%s makes vectors of texts and writes none: ask /v1/embeddings or /api/embed", m.ID)
	}
	j := &job{
		max: m.sched.o.MaxTokens, stop: o.Stop, stopTokens: o.StopTokenIDs, ignoreEOS: o.IgnoreEOS, logprobs: -1, plan: &plan{},
		sampling: sample.Options{
			Temperature: 1, TopP: 1, TopK: max(o.TopK, 0), MinP: o.MinP, RepetitionPenalty: o.RepetitionPenalty, RepeatLastN: o.RepeatLastN,
			FrequencyPenalty: o.FrequencyPenalty, PresencePenalty: o.PresencePenalty, Seed: rand.Uint64(),
		},
	}
	if o.RepeatPenalty != 0 {
		j.sampling.RepetitionPenalty = o.RepeatPenalty
	}
	if o.MaxTokens != nil {
		if j.max = *o.MaxTokens; j.max == -1 {
			j.max = m.MaxContext
		} else if j.max < 0 {
			return nil, invalid("max_tokens", "max_tokens must not be negative, except −1 for as many as fit; is %d", j.max)
		}
	}
	if o.MinTokens < 0 || o.MinTokens > j.max && o.MaxTokens != nil {
		return nil, invalid("min_tokens", "min_tokens must be from 0 to max_tokens (%d), is %d", j.max, o.MinTokens)
	}
	j.plan.min = o.MinTokens
	if o.Temperature != nil {
		j.sampling.Temperature = *o.Temperature
	}
	if o.TopP != nil {
		j.sampling.TopP = *o.TopP
	}
	if o.Seed != nil && *o.Seed != -1 { // −1 is any, for llama.cpp and Ollama
		j.sampling.Seed = uint64(*o.Seed)
	}
	if o.N != nil && (*o.N < 1 || *o.N > m.sched.o.MaxSequences) {
		return nil, invalid("n", "n must be from 1 to %d, is %d", m.sched.o.MaxSequences, *o.N)
	}
	if len(o.Stop) > 16 {
		return nil, invalid("stop", "at most 16 stop strings, not %d", len(o.Stop))
	}
	for _, t := range o.Stop {
		if t == "" || len(t) > 1000 {
			return nil, invalid("stop", "a stop string has 1 to 1000 bytes, not %d", len(t))
		}
	}
	if len(o.StopTokenIDs) > 100 {
		return nil, invalid("stop_token_ids", "at most 100, not %d", len(o.StopTokenIDs))
	}
	if len(o.LogitBias) > 1024 {
		return nil, invalid("logit_bias", "at most 1024 tokens, not %d", len(o.LogitBias))
	}
	for k, b := range o.LogitBias {
		id, err := strconv.ParseInt(k, 10, 32)
		if err != nil {
			return nil, invalid("logit_bias", "%q is not a token number", clip(k, 40))
		}
		if j.sampling.LogitBias == nil {
			j.sampling.LogitBias = map[int32]float32{}
		}
		j.sampling.LogitBias[int32(id)] = b
	}
	if err := j.sampling.Validate(m.sched.vocab); err != nil {
		return nil, err
	}
	j.plan.special = o.SkipSpecial != nil && !*o.SkipSpecial
	return j, m.restrict(j.plan, o)
}

// restrict translates what forbids tokens.
func (m *served) restrict(p *plan, o *options) error {
	if o.AllowedTokenIDs != nil {
		if len(o.AllowedTokenIDs) == 0 {
			return invalid("allowed_token_ids", "allowed_token_ids is empty: nothing could be written")
		}
		p.allowed = make([]uint64, (m.sched.vocab+63)/64)
		for _, id := range o.AllowedTokenIDs {
			if id < 0 || int(id) >= m.sched.vocab {
				return invalid("allowed_token_ids", "token %d is not one of the model's %d", id, m.sched.vocab)
			}
			p.allowed[id/64] |= 1 << (id % 64)
		}
	}
	if len(o.BadWords) > 1024 {
		return invalid("bad_words", "at most 1024, not %d", len(o.BadWords))
	}
	for _, w := range o.BadWords {
		if strings.TrimSpace(w) == "" {
			return invalid("bad_words", "a bad word is empty")
		}
		for _, text := range []string{w, " " + strings.TrimLeft(w, " ")} { // at the start of a line, and behind another word
			ids, err := m.encodeText(text)
			if err != nil {
				return about("bad_words", err)
			}
			if len(ids) > 0 && !slices.ContainsFunc(p.bad, func(b []int32) bool { return slices.Equal(b, ids) }) {
				p.bad = append(p.bad, ids)
			}
		}
	}
	return nil
}

// jobs are the sequences of a request: best of each prompt.
func (m *served) jobs(ctx context.Context, client string, q *request) (list []*job, a *answer, err error) {
	base, err := m.job(&q.options)
	if err != nil {
		return nil, nil, err
	}
	if q.logprobs > 20 || q.logprobs < -1 {
		return nil, nil, invalid("logprobs", "logprobs must be from 0 to 20, is %d", q.logprobs)
	}
	n := q.n()
	best := max(q.best, n)
	base.ctx, base.client, base.logprobs = ctx, client, q.logprobs
	if best > n {
		base.logprobs = max(base.logprobs, 0)
	}
	a = &answer{m: m, q: q, n: n, best: best}
	form, err := q.form()
	if err != nil {
		return nil, nil, err
	}
	if q.chat != nil {
		if err := m.chatPlan(ctx, q, form, base, a); err != nil {
			return nil, nil, err
		}
	} else if base.plan.grammar, err = m.formGrammar(ctx, client, form); err != nil {
		return nil, nil, err
	}
	if base.plan.empty() {
		base.plan = nil
	}
	add := func(shape job) {
		for k := range best {
			j := shape
			j.sampling.Seed += uint64(k)
			j.echo = q.echo && q.logprobs >= 0
			list = append(list, &j)
		}
	}
	if q.chat != nil {
		if best > m.sched.o.MaxSequences {
			return nil, nil, invalid("n", "%d texts are more than %d", best, m.sched.o.MaxSequences)
		}
		add(*base)
		return list, a, nil
	}
	if q.prompts.len() == 0 {
		return nil, nil, invalid("prompt", "prompt is missing")
	}
	if q.prompts.len()*best > m.sched.o.MaxSequences {
		return nil, nil, invalid("prompt", "%d prompts × %d texts are more than %d", q.prompts.len(), best, m.sched.o.MaxSequences)
	}
	for i := range q.prompts.len() {
		ids, text, err := m.prompt(q, i)
		if err != nil {
			return nil, nil, err
		}
		shape := *base
		if err := m.fit(&shape, ids, "prompt"); err != nil {
			return nil, nil, err
		}
		a.prompts = append(a.prompts, text)
		add(shape)
	}
	return list, a, nil
}

// prompt is the i-th of the request's prompts, as tokens and as text.
func (m *served) prompt(q *request, i int) (ids []int32, text string, err error) {
	if i >= len(q.prompts.texts) {
		if q.suffix != nil {
			return nil, "", invalid("suffix", "with a suffix the prompt is text")
		}
		ids = q.prompts.tokens[i-len(q.prompts.texts)]
		return ids, m.Tokenizer.Decode(ids), nil
	}
	text = q.prompts.texts[i]
	if q.suffix != nil {
		ids, err = m.between(text, *q.suffix)
		return ids, text, err
	}
	ids, err = m.encode(text, "prompt", q.special == nil || *q.special)
	return ids, text, err
}

// empty reports that the plan asks for nothing.
func (p *plan) empty() bool {
	return p.grammar == nil && p.thought == nil && len(p.show) == 0 && !p.special && p.allowed == nil && len(p.bad) == 0 && p.min == 0
}
