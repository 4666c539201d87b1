package grammar

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// A Cache compiles grammars for many clients and keeps the latest.
//
// Compiling is shared by time: two compilations run at once, each for a slice, and whoever has had least goes on next.
// So a small schema waits for no large one, whoever sent it. It is safe for concurrent use.
type Cache struct {
	max   int                // bytes
	slots int                // compilations that run at once
	begun int                // that hold memory, paused ones included
	limit time.Duration      // of one compilation
	mu    sync.Mutex         // of all below
	byKey map[string]*cached // finished and under way
	lru   *list.List         // of finished *cached, the latest first
	jobs  []*turn            // waiting for a slot
	held  int                // slots in use
	alive []*turn            // begun
	used  map[string]time.Duration
}

// cached is a grammar, or why there is none, when ready is closed.
type cached struct {
	key   string
	ready chan struct{}
	g     *Grammar
	notes []string
	err   error
	at    *list.Element
}

const (
	slice   = 5 * time.Millisecond
	maxTime = 3 * time.Second // of computing; enough for all that the other bounds leave
	maxLive = 16
)

var errPreempted = errors.New("preempted")

// NewCache keeps up to max bytes of grammars and masks.
func NewCache(max int) *Cache {
	return &Cache{
		max: max, slots: 2, begun: maxLive, limit: maxTime,
		byKey: map[string]*cached{}, lru: list.New(), used: map[string]time.Duration{},
	}
}

// Get returns the grammar of a key, compiling it if need be: compile must compile with Vocab.Within its context.
// client is who asks; among equals the one with least work under way is first. Whoever asks for what is being
// compiled already waits for that. When ctx ends Get returns its error at once; the compilation stops.
//
// What compile says of the grammar, its notes, is kept with it. That a source is refused is kept too; errors that are not ErrGrammar's are not.
func (c *Cache) Get(ctx context.Context, client, key string, compile func(ctx context.Context) (*Grammar, []string, error)) (*Grammar, []string, error) {
	for {
		c.mu.Lock()
		e, ok := c.byKey[key]
		if !ok {
			e = &cached{key: key, ready: make(chan struct{})}
			c.byKey[key] = e
			c.mu.Unlock()
			c.fill(ctx, client, e, compile)
			return e.g, e.notes, e.err
		}
		if e.at != nil {
			c.lru.MoveToFront(e.at)
		}
		c.mu.Unlock()
		select {
		case <-e.ready:
		case <-ctx.Done():
			return nil, nil, context.Cause(ctx)
		}
		if e.err == nil || errors.Is(e.err, ErrGrammar) {
			return e.g, e.notes, e.err
		}
		// Whoever compiled it went away: try again.
		if err := context.Cause(ctx); err != nil {
			return nil, nil, err
		}
	}
}

// fill compiles e.
func (c *Cache) fill(ctx context.Context, client string, e *cached, compile func(ctx context.Context) (*Grammar, []string, error)) {
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if p := recover(); p != nil { // those who wait must not wait for ever
			delete(c.byKey, e.key)
			e.err = fmt.Errorf("compiling a grammar: %v", p)
			close(e.ready)
			panic(p)
		}
		if e.err == nil || errors.Is(e.err, ErrGrammar) {
			e.at = c.lru.PushFront(e)
			c.evict()
		} else {
			delete(c.byKey, e.key)
		}
		close(e.ready)
	}()
	used := time.Duration(0)
	for {
		t := &turn{c: c, client: client, used: used, start: make(chan struct{}, 1)}
		run, stop := context.WithCancelCause(ctx)
		t.stop = stop
		if e.err = t.begin(run); e.err == nil {
			e.g, e.notes, e.err = compile(context.WithValue(run, turnKey{}, t))
		}
		used = t.end()
		again := errors.Is(context.Cause(run), errPreempted)
		stop(nil)
		if !again || e.err == nil || ctx.Err() != nil {
			return
		}
	}
}

// evict forgets what was used least recently. It needs c.mu.
func (c *Cache) evict() {
	sum := 0
	for x := c.lru.Front(); x != nil; {
		e := x.Value.(*cached)
		next := x.Next()
		sum += len(e.key) + 500
		if e.g != nil {
			sum += e.g.Bytes()
		}
		if sum > c.max && x != c.lru.Front() {
			delete(c.byKey, e.key)
			c.lru.Remove(x)
		}
		x = next
	}
}

// turn is one compilation's place among the others.
type turn struct {
	c      *Cache
	client string
	used   time.Duration
	since  time.Time // running since; zero while it waits
	start  chan struct{}
	stop   context.CancelCauseFunc
	live   bool
}

type turnKey struct{}

// next gives free slots to those that have had least. It needs c.mu.
func (c *Cache) next() {
	for c.held < c.slots && len(c.jobs) > 0 {
		best := 0
		for i, t := range c.jobs {
			b := c.jobs[best]
			if t.used < b.used || t.used == b.used && c.used[t.client] < c.used[b.client] {
				best = i
			}
		}
		t := c.jobs[best]
		if !t.live && len(c.alive) >= c.begun {
			// What has taken longest gives its memory up and begins again later.
			most := c.alive[0]
			for _, x := range c.alive {
				if x.used > most.used {
					most = x
				}
			}
			if most.used > t.used {
				most.stop(errPreempted)
			}
			if len(c.alive) >= 2*c.begun {
				return
			}
		}
		c.jobs = append(c.jobs[:best], c.jobs[best+1:]...)
		c.held++
		if !t.live {
			t.live = true
			c.alive = append(c.alive, t)
		}
		t.since = time.Now()
		t.start <- struct{}{}
	}
}

// begin waits for a slot.
func (t *turn) begin(ctx context.Context) error {
	c := t.c
	c.mu.Lock()
	c.jobs = append(c.jobs, t)
	c.next()
	c.mu.Unlock()
	select {
	case <-t.start:
		return nil
	case <-ctx.Done():
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, x := range c.jobs {
		if x == t {
			c.jobs = append(c.jobs[:i], c.jobs[i+1:]...)
			return context.Cause(ctx)
		}
	}
	<-t.start // it was given a slot just now
	return context.Cause(ctx)
}

// release gives the slot back. It needs c.mu.
func (t *turn) release() {
	if t.since.IsZero() {
		return
	}
	d := time.Since(t.since)
	t.used += d
	t.c.used[t.client] += d
	t.since = time.Time{}
	t.c.held--
}

// pause lets others run if this one has had its slice; an error ends the compilation.
func (t *turn) pause(ctx context.Context) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if time.Since(t.since) < slice {
		return nil
	}
	c := t.c
	c.mu.Lock()
	t.release()
	over := t.used > c.limit
	c.mu.Unlock()
	if over {
		return errorf("takes more than %v to compile: make it smaller", c.limit)
	}
	return t.begin(ctx)
}

// end leaves, and returns how long it computed.
func (t *turn) end() time.Duration {
	c := t.c
	c.mu.Lock()
	defer c.mu.Unlock()
	t.release()
	for i, x := range c.alive {
		if x == t {
			c.alive = append(c.alive[:i], c.alive[i+1:]...)
			break
		}
	}
	if len(c.alive) == 0 && len(c.jobs) == 0 {
		clear(c.used)
	}
	c.next()
	return t.used
}

// Bytes is about how much memory the grammar and its masks take.
func (g *Grammar) Bytes() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.bytes + 4*int(g.columns)
	for i := range g.states {
		s := &g.states[i]
		n += 120 + 8*len(s.edges) + 12*len(s.calls)
	}
	return n
}
