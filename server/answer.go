package server

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// answer is what a request gets: one or more replies, each as a stream of parts.
type answer struct {
	m       *served
	q       *request
	ctx     context.Context
	cancel  context.CancelFunc
	jobs    []*job
	streams []*stream
	prompts []string // texts of the prompts
	n, best int      // replies per prompt that are shown and that are written
	reader  reader   // what replies are read with; each gets its own
	notes   []string // what of the request is not enforced
	readers []reader
	ids     [][]int32 // what each reply is made of; collected if not nil
	started time.Time
	log     func(...slog.Attr)
	show    func(what, text string) // with Options.LogPrompts
}

// close frees what the answer still holds.
func (a *answer) close() {
	for _, s := range a.streams {
		s.cancel()
	}
	a.cancel()
}

// follow hands each part to each, in between calls flush whenever it has to wait, and idle when that takes long.
func (a *answer) follow(each func(part) error, flush, idle func() error) error {
	err := follow(a.ctx, a.streams, func(i int, e event) error {
		if a.ids != nil {
			a.ids[i] = append(a.ids[i], e.ids...)
		}
		parts := a.readers[i].push(e.text, e.finish)
		if len(e.tokens)+len(e.prompt) > 0 {
			if len(parts) == 0 || parts[0].kind == partFinish {
				parts = append([]part{{kind: partText}}, parts...)
			}
			parts[0].tokens, parts[0].prompt = e.tokens, e.prompt
		}
		for _, p := range parts {
			if p.index = i; p.kind == partFinish {
				p.stop = e.stop
			}
			if err := each(p); err != nil {
				return err
			}
		}
		return nil
	}, flush, idle)
	if err == nil {
		u := a.usage()
		a.log(slog.String("model", a.m.ID), slog.Int("prompt_tokens", u.prompt), slog.Int("cached_tokens", u.cached), slog.Int("tokens", u.written))
	}
	return err
}

func nothing() error { return nil }

// follow hands the streams' events to each until all have ended, then calls flush; in between it calls
// flush whenever it has to wait, and idle when that takes long. All streams are cancelled when it returns.
func follow(ctx context.Context, streams []*stream, each func(i int, e event) error, flush, idle func() error) error {
	defer func() {
		for _, s := range streams {
			s.cancel()
		}
	}()
	ping := time.NewTicker(10 * time.Second)
	defer ping.Stop()
	for left := len(streams); left > 0; {
		select {
		case <-streams[0].wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ping.C:
			if err := idle(); err != nil {
				return err
			}
			continue
		}
		for i, s := range streams {
			for _, e := range s.take() {
				if e.err != nil {
					return e.err
				}
				if err := each(i, e); err != nil {
					return err
				}
				if e.finish != "" {
					left--
				}
			}
		}
		if err := flush(); err != nil {
			return err
		}
	}
	return nil
}

// reply is a whole one.
type reply struct {
	thought, text string
	calls         []replyCall // whole ones; one that was cut is left out
	tokens        []token
	prompt        []token
	finish        string // stop, length or calls
	stop          string // the stop string that ended it
	mean          float64
}

type replyCall struct{ id, name, arguments string }

// whole waits for all replies and returns those that are to be shown: of best texts of each prompt, the n with the
// highest mean log-probability.
func (a *answer) whole() ([]reply, error) {
	replies := make([]reply, len(a.jobs))
	open := make([]replyCall, len(a.jobs))
	err := a.follow(func(p part) error {
		r := &replies[p.index]
		r.tokens, r.prompt = append(r.tokens, p.tokens...), append(r.prompt, p.prompt...)
		switch p.kind {
		case partThought:
			r.thought += p.text
		case partText:
			r.text += p.text
		case partCall:
			open[p.index] = replyCall{id: p.id, name: p.name}
		case partArguments:
			open[p.index].arguments += p.text
		case partCallEnd:
			r.calls = append(r.calls, open[p.index])
		case partFinish:
			r.finish, r.stop = p.finish, p.stop
			a.show("answer", r.text)
		}
		return nil
	}, nothing, nothing)
	if err != nil || a.best == a.n {
		return replies, err
	}
	for i, s := range a.streams {
		replies[i].mean = s.sum / float64(max(s.written, 1))
	}
	var out []reply
	for at := 0; at < len(replies); at += a.best {
		some := replies[at : at+a.best]
		slices.SortStableFunc(some, func(x, y reply) int {
			switch {
			case x.mean > y.mean:
				return -1
			case x.mean < y.mean:
				return 1
			}
			return 0
		})
		out = append(out, some[:a.n]...)
	}
	return out, nil
}

// counts are the tokens of an answer.
type counts struct {
	prompt, cached, written, thought int
}

func (a *answer) usage() (c counts) {
	for i := 0; i < len(a.streams); i += a.best {
		c.prompt += len(a.jobs[i].prompt)
		c.cached += a.streams[i].cached
	}
	for _, s := range a.streams {
		c.written += s.written
		c.thought += s.thought
	}
	return c
}
