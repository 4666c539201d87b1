package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/tritlm/trit/sample"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/VictoriaMetrics/metrics.summariesSwapCron"))
}

func testScheduler(t *testing.T, f *fake, o Options) *scheduler {
	t.Helper()
	o.Log = quietLog()
	o.QueueTimeout = cmp.Or(o.QueueTimeout, time.Hour) // however slow this machine is
	s, err := New(o, Model{ID: "fake", Engine: f, Tokenizer: f.tok})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		s.Close()
		if f.open.Load() != 0 || f.held.Load() != 0 {
			t.Errorf("%d caches with %d tokens are still open", f.open.Load(), f.held.Load())
		}
	})
	return s.models[0].sched
}

// wait collects a stream.
func wait(s *stream) (text string, ids []int32, finish string, err error) {
	err = follow(context.Background(), []*stream{s}, func(_ int, e event) error {
		text += e.text
		ids = append(ids, e.ids...)
		finish = e.finish
		return nil
	}, nothing, nothing)
	return text, ids, finish, err
}

func prompt(rng *rand.Rand, n int) []int32 {
	p := make([]int32, n)
	for i := range p {
		p[i] = int32(rng.IntN(256))
	}
	return p
}

// Whatever else runs, however memory is cut short, whatever prefixes are shared: every greedy text is the
// one that the engine writes alone.
func TestNeighboursDoNotMatter(t *testing.T) {
	for name, o := range map[string]Options{
		"plain":        {MaxBatch: 8, MaxQueue: 1000, PrefillTokens: 48},
		"one":          {MaxBatch: 1, MaxQueue: 1000},
		"tight memory": {MaxBatch: 16, MaxQueue: 1000, PrefillTokens: 64, CacheBytes: 1},
	} {
		t.Run(name, func(t *testing.T) {
			f := newFake(t)
			if name == "tight memory" {
				f.cfg.MaxContext = 700
			}
			s := testScheduler(t, f, o)
			rng := rand.New(rand.NewPCG(1, 2))
			shared := prompt(rng, 200)
			var wg sync.WaitGroup
			for i := range 120 {
				p := prompt(rng, 1+rng.IntN(300))
				if rng.IntN(2) == 0 {
					p = append(slices.Clone(shared[:1+rng.IntN(200)]), p[:1+rng.IntN(len(p))]...)
				}
				n := 1 + rng.IntN(60)
				wg.Go(func() {
					j := &job{ctx: context.Background(), client: fmt.Sprint(i % 7), prompt: p, max: n, logprobs: -1}
					if i%3 == 0 {
						j.logprobs = 1
					}
					out, err := s.submit(j)
					if err != nil {
						t.Error(err)
						return
					}
					_, ids, _, err := wait(out[0])
					if want := f.greedy(p, n); err != nil || !slices.Equal(ids, want) {
						t.Errorf("request %d: %v, %v; alone %v", i, err, ids, want)
					}
				})
			}
			wg.Wait()
			if name == "tight memory" && s.m.preemptions.Get() == 0 {
				t.Error("memory was never short")
			}
			t.Logf("%d steps, %d tokens of prompts cached, %d preemptions", f.steps.Load(), s.m.cached.Get(), s.m.preemptions.Get())
		})
	}
}

// The ledger never exceeds its limit, and in the end nothing is counted.
func TestMemoryBound(t *testing.T) {
	f := newFake(t)
	f.cfg.MaxContext = 512
	s := testScheduler(t, f, Options{MaxBatch: 12, MaxQueue: 500, CacheBytes: f.cfg.KVBytes() * 1500})
	rng := rand.New(rand.NewPCG(3, 2))
	var outs []*stream
	for range 100 {
		out, err := s.submit(&job{ctx: context.Background(), prompt: prompt(rng, 1+rng.IntN(250)), max: 200, ignoreEOS: true, logprobs: -1})
		if err != nil {
			t.Fatal(err)
		}
		outs = append(outs, out[0])
	}
	stop := make(chan struct{})
	go func() {
		defer close(stop)
		for _, o := range outs {
			if _, ids, finish, err := wait(o); err != nil || len(ids) != 200 || finish != "length" {
				t.Errorf("%d tokens, %q, %v", len(ids), finish, err)
			}
		}
	}()
	most := int64(0)
	for {
		select {
		case <-stop:
			if limit := s.m.capacity.Load(); most > limit || most == 0 {
				t.Errorf("%d pages of %d in use", most, limit)
			}
			return
		case <-time.After(time.Millisecond):
			most = max(most, s.m.pages.Load())
		}
	}
}

func TestPrefixIsComputedOnce(t *testing.T) {
	f := newFake(t)
	f.pause = 2 * time.Millisecond
	s := testScheduler(t, f, Options{PrefillTokens: 64})
	rng := rand.New(rand.NewPCG(3, 2))
	system := prompt(rng, 640)
	var outs []*stream
	for range 20 { // all at once: the later ones wait for the first one's prefix
		out, err := s.submit(&job{ctx: context.Background(), prompt: append(slices.Clone(system), prompt(rng, 10)...), max: 5, logprobs: -1})
		if err != nil {
			t.Fatal(err)
		}
		outs = append(outs, out[0])
	}
	for _, o := range outs {
		wait(o)
	}
	if n := s.m.read.Get(); n > 640+20*(10+ledgerPage) {
		t.Errorf("%d tokens of prompts were computed; 640 are common to all", n)
	}
}

func TestQueueLimitAndFairness(t *testing.T) {
	f := newFake(t)
	f.pause, f.quiet = time.Millisecond, true
	s := testScheduler(t, f, Options{MaxBatch: 1, MaxQueue: 20})
	submit := func(client string) (*stream, error) {
		out, err := s.submit(&job{ctx: context.Background(), client: client, prompt: []int32{1, 2, 3}, max: 10, logprobs: -1})
		if err != nil {
			return nil, err
		}
		return out[0], nil
	}
	var greedy []*stream
	for range 20 {
		out, err := submit("greedy")
		if err != nil {
			t.Fatal(err)
		}
		greedy = append(greedy, out)
	}
	modest, err := submit("modest")
	if err != nil {
		t.Fatal(err)
	}
	var full error
	for range 5 {
		if _, err := submit("late"); err != nil {
			full = err
		}
	}
	if !errors.Is(full, errQueueFull) {
		t.Errorf("a full queue says %v", full)
	}
	wait(modest)
	wait(greedy[19])
	before := 0
	for _, g := range greedy {
		if g.started.Before(modest.started) {
			before++
		}
	}
	if before > 3 {
		t.Errorf("%d requests of one client went before another's first", before)
	}
}

// A request that would wait too long is refused at once, by how fast the queue has moved.
func TestQueueRefusesWhatWouldWaitTooLong(t *testing.T) {
	f := newFake(t)
	f.pause, f.quiet = time.Millisecond, true
	s := testScheduler(t, f, Options{MaxBatch: 1, MaxQueue: 100, QueueTimeout: time.Hour})
	submit := func(max int) (*stream, error) {
		out, err := s.submit(&job{ctx: context.Background(), prompt: []int32{1, 2, 3}, max: max, logprobs: -1})
		if err != nil {
			return nil, err
		}
		return out[0], nil
	}
	var last *stream
	for range 8 {
		last, _ = submit(10)
	}
	wait(last)
	s.mu.Lock()
	pace := s.pace
	s.mu.Unlock()
	if pace < 5*time.Millisecond || pace > time.Minute {
		t.Errorf("8 sequences of 10 steps of a millisecond or more: one leaves the queue every %v", pace)
	}
	if _, err := submit(1e6); err != nil { // runs from now on
		t.Fatal(err)
	}
	waiting := func() int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.queue.n
	}
	for waiting() > 0 || s.active.Load() == 0 { // the one before may still count as active
		time.Sleep(time.Millisecond)
	}
	s.mu.Lock()
	s.pace = 10 * time.Minute
	s.mu.Unlock()
	for i := range 4 {
		if _, err := submit(1); err != nil {
			t.Errorf("%d wait, for %d minutes: %v", i, 10*(i+1), err)
		}
	}
	_, err := submit(1)
	if !errors.Is(err, errQueueFull) {
		t.Errorf("a wait of 50 of 60 minutes: %v", err)
	}
	if api := asAPIError(err); api.status != 429 || api.retry != 30 {
		t.Errorf("status %d, to be tried again after %d s, want 429 and the longest, 30", api.status, api.retry)
	}
	s.mu.Lock()
	s.pace = 6 * time.Second
	if got := asAPIError(s.full()).retry; got != 6 {
		t.Errorf("4 wait, one gets a place every 6 s: to be tried again after %d s, want 6", got)
	}
	s.mu.Unlock()
}

// A client that goes away frees its place within one step, also while it waits.
func TestGoneClient(t *testing.T) {
	f := newFake(t)
	f.quiet, f.pause = true, 5*time.Millisecond
	s := testScheduler(t, f, Options{MaxBatch: 1, MaxQueue: 20})
	ctx, cancel := context.WithCancel(context.Background())
	first, err := s.submit(&job{ctx: ctx, prompt: []int32{1}, max: 4000, logprobs: -1})
	if err != nil {
		t.Fatal(err)
	}
	waits, err := s.submit(&job{ctx: ctx, prompt: []int32{1}, max: 4000, logprobs: -1})
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.submit(&job{ctx: context.Background(), prompt: []int32{2}, max: 1, logprobs: -1})
	if err != nil {
		t.Fatal(err)
	}
	for first[0].take() == nil {
		time.Sleep(time.Millisecond)
	}
	at := f.steps.Load()
	cancel()
	if _, _, _, err := wait(second[0]); err != nil {
		t.Error(err)
	}
	if n := f.steps.Load() - at; n > 3 {
		t.Errorf("it took %d steps", n)
	}
	if _, _, _, err := wait(waits[0]); !errors.Is(err, context.Canceled) {
		t.Errorf("the waiting one got %v", err)
	}
}

func TestEngineFailures(t *testing.T) {
	f := newFake(t)
	s := testScheduler(t, f, Options{})
	run := func() error {
		out, err := s.submit(&job{ctx: context.Background(), prompt: []int32{1}, max: 4, logprobs: -1})
		if err != nil {
			return err
		}
		_, _, _, err = wait(out[0])
		return err
	}
	f.fails.Store(true)
	if err := run(); err == nil || !strings.Contains(err.Error(), "the fake fails") {
		t.Error(err)
	}
	f.panic.Store(true)
	if err := run(); err == nil || !strings.Contains(err.Error(), "panic") {
		t.Error(err)
	}
	if err := run(); err != nil {
		t.Errorf("after that: %v", err)
	}
}

func TestDrain(t *testing.T) {
	f := newFake(t)
	f.pause = time.Millisecond
	s := testScheduler(t, f, Options{MaxBatch: 4, MaxQueue: 50})
	var outs []*stream
	for range 30 {
		out, err := s.submit(&job{ctx: context.Background(), prompt: []int32{1, 2}, max: 10, ignoreEOS: true, logprobs: -1})
		if err != nil {
			t.Fatal(err)
		}
		outs = append(outs, out[0])
	}
	done := make(chan error, 1)
	go func() { done <- s.drain(context.Background()) }()
	for {
		if _, err := s.submit(&job{ctx: context.Background(), prompt: []int32{1}, max: 1}); errors.Is(err, errDraining) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	for _, o := range outs {
		if _, ids, _, err := wait(o); err != nil || len(ids) != 10 {
			t.Errorf("an accepted request got %d tokens, %v", len(ids), err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// A reader that does not read holds up nobody.
func TestSlowReader(t *testing.T) {
	f := newFake(t)
	f.quiet = true
	s := testScheduler(t, f, Options{MaxBatch: 2})
	slow, err := s.submit(&job{ctx: context.Background(), prompt: []int32{1}, max: 1000, logprobs: -1})
	if err != nil {
		t.Fatal(err)
	}
	fast, err := s.submit(&job{ctx: context.Background(), prompt: []int32{2}, max: 1000, logprobs: -1})
	if err != nil {
		t.Fatal(err)
	}
	if _, ids, _, err := wait(fast[0]); err != nil || len(ids) != 1000 {
		t.Error(len(ids), err)
	}
	if _, ids, _, err := wait(slow[0]); err != nil || len(ids) != 1000 {
		t.Error(len(ids), err)
	}
}

func TestSamplingIsSeeded(t *testing.T) {
	f := newFake(t)
	s := testScheduler(t, f, Options{})
	run := func(o sample.Options) []int32 {
		out, err := s.submit(&job{ctx: context.Background(), prompt: []int32{1}, max: 30, ignoreEOS: true, logprobs: -1, sampling: o})
		if err != nil {
			t.Fatal(err)
		}
		_, ids, _, _ := wait(out[0])
		return ids
	}
	for _, o := range []sample.Options{{Temperature: 1, Seed: 5}, {Temperature: 1, Seed: 5, TopK: 20}, {Temperature: 1, Seed: 5, PresencePenalty: 1}} {
		a, b := run(o), run(o)
		o.Seed = 6
		if c := run(o); !slices.Equal(a, b) || slices.Equal(a, c) {
			t.Errorf("%+v: same seed %v, another %v", o, slices.Equal(a, b), slices.Equal(a, c))
		}
	}
}

// Prompts are read one after the other, so that the first ones need not wait for the last; a long one that came first
// neither stands still nor holds them up.
func TestPromptsInOrder(t *testing.T) {
	f := newFake(t)
	s := &scheduler{o: Options{PrefillTokens: 100, EchoBytes: 1 << 20}, vocab: f.cfg.VocabSize}
	ledger := &ledger{limit: 1000}
	ended := map[*sequence]int{}
	for i := range 11 {
		c, err := ledger.new(f, 0)
		if err != nil {
			t.Fatal(err)
		}
		n := 80
		if i == 0 {
			n = 800
		}
		s.running = append(s.running, &sequence{job: &job{}, tokens: make([]int32, n), cache: c, age: uint64(i)})
	}
	all := slices.Clone(s.running)
	for step := 1; len(ended) < len(all); step++ {
		if step > 100 {
			t.Fatal("a prompt is never read")
		}
		s.plan()
		sum := 0
		for _, q := range s.running {
			sum += q.take
			q.cache.Cache.(*fakeCache).tokens = append(q.cache.Cache.(*fakeCache).tokens, make([]int32, q.take)...)
			if q.cache.Len() >= len(q.tokens)-1 {
				ended[q] = step
			}
		}
		if sum > 100 {
			t.Errorf("step %d: %d tokens of prompts", step, sum)
		}
		s.running = slices.DeleteFunc(s.running, func(q *sequence) bool { return ended[q] > 0 })
	}
	var steps []int
	for _, q := range all {
		steps = append(steps, ended[q])
	}
	// 50 of each step's tokens are the long prompt's: it takes 16 steps, as the ten others together.
	if want := []int{16, 2, 4, 5, 7, 8, 10, 12, 13, 15, 16}; !slices.Equal(steps, want) {
		t.Errorf("prompts read after step %v, want %v", steps, want)
	}
}
