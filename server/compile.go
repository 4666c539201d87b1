package server

import (
	"context"
	"sync"
	"time"

	"github.com/tritlm/trit/grammar"
)

// Compiling a grammar takes memory and time, so that only one is compiled at a time; what waits takes turns by
// client, the smaller source first, and what was compiled lately is kept.

// gate lets one in after the other.
type gate struct {
	mu      sync.Mutex
	busy    bool
	waiting []*turn
	served  map[string]int // by client: when it had its last turn
	turns   int
}

type turn struct {
	client string
	size   int
	enter  chan struct{}
}

// enter waits for its turn; leave must follow if there is no error.
func (g *gate) enter(ctx context.Context, client string, size int) error {
	g.mu.Lock()
	if !g.busy {
		g.busy = true
		g.note(client)
		g.mu.Unlock()
		return nil
	}
	t := &turn{client, size, make(chan struct{})}
	g.waiting = append(g.waiting, t)
	g.mu.Unlock()
	wait := time.NewTimer(10 * time.Second)
	defer wait.Stop()
	var err error
	select {
	case <-t.enter:
		return nil
	case <-ctx.Done():
		err = context.Cause(ctx)
	case <-wait.C: // many others are before us
		err = errQueueFull
	}
	g.mu.Lock()
	for i, w := range g.waiting {
		if w == t {
			g.waiting = append(g.waiting[:i], g.waiting[i+1:]...)
			g.mu.Unlock()
			return err
		}
	}
	g.mu.Unlock()
	g.leave() // its turn came just now
	return err
}

func (g *gate) note(client string) {
	if g.served == nil || len(g.served) > 1000 {
		g.served = map[string]int{}
	}
	g.turns++
	g.served[client] = g.turns
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.waiting) == 0 {
		g.busy = false
		return
	}
	next := 0
	for i, t := range g.waiting[1:] {
		n := g.waiting[next]
		if a, b := g.served[t.client], g.served[n.client]; a < b || a == b && t.size < n.size {
			next = i + 1
		}
	}
	t := g.waiting[next]
	g.waiting = append(g.waiting[:next], g.waiting[next+1:]...)
	g.note(t.client)
	close(t.enter)
}

// compiled are the grammars of one vocabulary, the least recently used first.
type compiled struct {
	mu    sync.Mutex
	vocab *grammar.Vocab
	list  []*compiledGrammar
}

// compiledGrammar is a grammar, or why there is none.
type compiledGrammar struct {
	key   string
	g     *grammar.Grammar
	notes []string // what it does not enforce
	err   error
}

const maxCompiled = 32

func (c *compiled) look(key string) *compiledGrammar {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, x := range c.list {
		if x.key == key {
			c.list = append(append(c.list[:i], c.list[i+1:]...), x)
			return x
		}
	}
	return nil
}

func (c *compiled) keep(x *compiledGrammar) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.list = append(c.list, x); len(c.list) > maxCompiled {
		c.list = c.list[1:]
	}
}

// grammar returns the compiled grammar for a source, from what is kept if it was compiled lately, and what it does not
// enforce. Compiling stops when ctx ends.
func (s *Server) grammar(ctx context.Context, client string, c *compiled, vocab func() *grammar.Vocab, key string, compile func(*grammar.Vocab) (*grammar.Grammar, []string, error)) (*grammar.Grammar, []string, error) {
	if x := c.look(key); x != nil {
		return x.g, x.notes, x.err
	}
	if err := s.compile.enter(ctx, client, len(key)); err != nil {
		return nil, nil, err
	}
	defer s.compile.leave()
	if x := c.look(key); x != nil { // by somebody before us
		return x.g, x.notes, x.err
	}
	if c.vocab == nil {
		c.vocab = vocab() // under the gate
	}
	x := &compiledGrammar{key: key}
	x.g, x.notes, x.err = compile(c.vocab.Within(ctx))
	if ctx.Err() == nil {
		c.keep(x)
	}
	return x.g, x.notes, x.err
}
