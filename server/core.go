package server

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tritlm/trit/grammar"
)

// core is what all protocols stand on: they translate a request into its own, ask it, and write the answer's parts.
type core struct {
	o        Options
	models   []*served
	grammars *grammar.Cache
	kept     responseStore
	draining atomic.Bool
}

// find is the model that is called id, nil if there is none.
func (s *core) find(id string) *served {
	for _, m := range s.models {
		if m.ID == id || m.ID+":latest" == id {
			return m
		}
	}
	return nil
}

// model finds the model that a request names.
func (s *core) model(id string) (*served, error) {
	if m := s.find(id); m != nil {
		return m, nil
	}
	if id == "" || s.o.AnyModel {
		return s.models[0], nil
	}
	var names []string
	for _, m := range s.models {
		names = append(names, m.ID)
	}
	return nil, &apiError{status: 404, Type: "invalid_request_error", Param: "model", Code: "model_not_found", Message: fmt.Sprintf("there is no model %q here; there is %s", clip(id, 100), strings.Join(names, ", "))}
}

// caller is who asks, and where what is said of the request is noted.
type caller interface {
	who() string     // the client, for fairness
	request() string // its id
	note(...slog.Attr)
	head(name, value string)
}

// ask starts a request. The answer must be closed.
func (s *core) ask(ctx context.Context, c caller, q *request) (*answer, error) {
	m, err := s.model(q.Model)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, s.o.RequestTimeout)
	jobs, a, err := m.jobs(ctx, c.who(), q)
	if err != nil {
		cancel()
		return nil, err
	}
	a.ctx, a.cancel, a.jobs, a.log, a.started = ctx, cancel, jobs, c.note, time.Now()
	a.show = func(what, text string) {
		if s.o.LogPrompts {
			s.o.Log.Info(what, "request", c.request(), "text", text)
		}
	}
	for i := 0; i < len(jobs) && s.o.LogPrompts; i += a.best {
		a.show("prompt", m.Tokenizer.Decode(jobs[i].prompt))
	}
	for range jobs {
		a.readers = append(a.readers, a.reader.clone())
	}
	if a.streams, err = m.sched.submit(jobs...); err != nil {
		cancel()
		return nil, err
	}
	if len(a.notes) > 0 {
		s.o.Log.Warn("tools whose arguments are not enforced in full", "request", c.request(), "model", m.ID, "tools", len(a.notes), "first", clip(a.notes[0], 200))
		c.head("X-Unenforced-Tools", headerText(strings.Join(a.notes, "; ")))
	}
	return a, nil
}

// headerText is text that may stand in a header.
func headerText(text string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, clip(text, 1000))
}
