package server

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/tritlm/trit/grammar"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/sample"
	"github.com/tritlm/trit/tokenizer"
)

// Why a scheduler takes no work.
var (
	errQueueFull = errors.New("the queue is full")
	errDraining  = errors.New("the server is shutting down")
	errTooLong   = errors.New("waited too long in the queue")
)

// outOfService is the error of a model whose files were changed while it was served.
type outOfService struct {
	model string
	err   error
}

func (e *outOfService) Error() string {
	return "the model " + e.model + " is out of service, as its files were changed while it was served: the server must be started again"
}
func (e *outOfService) Unwrap() error { return e.err }

// job is one sequence to be written.
type job struct {
	ctx    context.Context
	client string // whose turn it is when clients compete
	prompt []int32
	max    int // tokens to write; 0: only read the prompt

	sampling   sample.Options
	grammar    *grammar.Grammar
	stop       []string
	stopTokens []int32
	ignoreEOS  bool

	logprobs int         // the k likeliest of every written token; −1: none
	echo     bool        // the same for the tokens of the prompt
	pool     *model.Pool // for embeddings: takes the states that it needs
}

// token is a written (or, with echo, read) token as logprobs show it.
type token struct {
	id      int32
	logprob float64
	top     []sample.Logprob
	first   bool // the first of a prompt, which has no probability
}

// event is what a sequence adds to its stream.
type event struct {
	text   string
	ids    []int32
	tokens []token // with logprobs: those whose text this is
	prompt []token // with echo: all of the prompt, in the first event
	finish string  // "stop" or "length" in the last event
	err    error
}

// stream is a job's output. The scheduler never waits for its reader: what is not read yet lies here,
// at most the job's max tokens.
type stream struct {
	mu      sync.Mutex
	events  []event
	wake    chan struct{} // capacity 1, shared by the streams of a request
	stopped atomic.Bool   // nobody reads any more

	cached  int       // tokens of the prompt that were in the prefix cache
	queued  time.Time // set by submit
	started time.Time // left the queue
	first   time.Time // first token; these are read after the last event
	last    time.Time
	written int
	sum     float64 // log-probability of the written tokens, if asked for
}

func (s *stream) push(e event) {
	s.mu.Lock()
	s.events = append(s.events, e)
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// take returns the events since the last call.
func (s *stream) take() []event {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.events
	s.events = nil
	return e
}

// cancel frees the sequence's place within one step.
func (s *stream) cancel() { s.stopped.Store(true) }

// sequence is a job under way. Only the scheduler's goroutine touches it.
type sequence struct {
	*job
	out     *stream
	tokens  []int32 // prompt and what is written
	cache   *cache  // holds a prefix of tokens
	sampler *sample.Sampler
	matcher *grammar.Matcher
	text    *tokenizer.Writer
	left    int // tokens to write
	shown   []token
	ids     []int32
	read    []token // probabilities of the prompt

	// of the step under way
	take   int // tokens that it computes
	logits []float32
	top    []model.Scored
	ended  bool
	err    error
	age    uint64 // order of admission
}

func (q *sequence) prefilling() bool { return q.cache.Len() < len(q.tokens)-1 }

// scheduler feeds one engine with the sequences of all requests: every step computes one token of each
// sequence that writes and, in what is left of the step's budget, chunks of prompts.
type scheduler struct {
	id     string // the model's
	engine model.Engine
	tok    *tokenizer.Tokenizer
	vocab  int
	limit  int // tokens of a sequence
	o      Options
	m      *modelMetrics

	mu       sync.Mutex
	queue    fairQueue
	draining bool
	failed   *outOfService // set once
	wake     chan struct{}
	pace     time.Duration // how often one of those that wait gets a place: a moving average
	paced    int           // measurements in it, at most 64
	admitted time.Time     // when the last one did

	ctx    context.Context // of the forward passes
	cancel context.CancelFunc
	done   chan struct{}

	// The loop's own.
	running  []*sequence
	resumed  []*sequence // preempted, first in line
	prefixes prefixes
	pages    ledger
	batch    []model.Input
	part     []*sequence   // of batch
	logits   [][]float32   // free rows of scores
	echo     []float32     // rows of scores of prompts, of one step
	echoed   int           // of echo
	perToken time.Duration // measured time of a token of a prompt
	ages     uint64
	reading  []*sequence // of plan

	active atomic.Int64 // running and resumed
	speed  rates
}

func newScheduler(m Model, o Options, mm *modelMetrics) *scheduler {
	s := &scheduler{
		id: m.ID, engine: m.Engine, tok: m.Tokenizer, vocab: m.Engine.Config().VocabSize, limit: m.MaxContext, o: o, m: mm,
		wake: make(chan struct{}, 1), done: make(chan struct{}),
	}
	if s.limit <= 0 || s.limit > m.Engine.Config().MaxContext {
		s.limit = m.Engine.Config().MaxContext
	}
	s.queue.byClient = map[string][]*sequence{}
	perPage := max(m.Engine.Config().KVBytes(), 1) * ledgerPage
	whole := pagesOf(s.limit) + 1
	if s.pages.limit = int(o.CacheBytes / perPage); s.pages.limit < whole {
		o.Log.Warn("the memory for keys and values is less than one sequence may take, and is raised to that; a shorter context takes less",
			"model", m.ID, "bytes", o.CacheBytes, "raised_to", int64(whole)*perPage, "context", s.limit)
		s.pages.limit = whole
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	go s.loop()
	return s
}

// submit queues the jobs of one request, all or none; their streams share a wake channel.
func (s *scheduler) submit(jobs ...*job) ([]*stream, error) {
	wake := make(chan struct{}, 1)
	now := time.Now()
	var seqs []*sequence
	var streams []*stream
	for _, j := range jobs {
		out := &stream{wake: wake, queued: now}
		q := &sequence{job: j, out: out, left: j.max, tokens: append(make([]int32, 0, len(j.prompt)+min(j.max, 512)), j.prompt...)}
		o := j.sampling
		if j.grammar != nil {
			q.matcher = j.grammar.NewMatcher()
			o.Mask = q.matcher
		}
		q.sampler = sample.New(o)
		q.text = tokenizer.NewWriter(s.tok.NewDecoder(j.prompt...), j.stop)
		seqs, streams = append(seqs, q), append(streams, out)
	}
	if err := s.check(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed != nil {
		return nil, s.failed
	}
	if s.draining {
		return nil, errDraining
	}
	// What finds a free place at once does not count as queued.
	free := max(s.o.MaxBatch-int(s.active.Load()), 0)
	if s.queue.n+len(seqs) > s.o.MaxQueue+free && s.queue.n+int(s.active.Load()) > 0 {
		return nil, s.full()
	}
	// Better refused now than after a long wait.
	if wait := time.Duration(s.queue.n+len(seqs)) * s.pace; s.o.QueueTimeout > 0 && s.queue.n > 0 && wait > s.o.QueueTimeout/4*3 {
		return nil, s.full()
	}
	for _, q := range seqs {
		s.queue.push(q)
	}
	s.kick()
	return streams, nil
}

// full is errQueueFull with the time after which a quarter of those that wait now have a place. It needs s.mu.
func (s *scheduler) full() error {
	return &queueFull{retry: min(max(time.Duration(s.queue.n)*s.pace/4, time.Second), 30*time.Second)}
}

type queueFull struct{ retry time.Duration }

func (q *queueFull) Error() string   { return errQueueFull.Error() }
func (q *queueFull) Is(e error) bool { return e == errQueueFull }

func (s *scheduler) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// check says whether the model can be served; the answer stays no once it was.
func (s *scheduler) check() error {
	if e, ok := s.engine.(interface{ Check() error }); ok {
		if err := e.Check(); err != nil {
			s.fail(err)
		}
	}
	return s.failure()
}

// fail takes the model out of service: what waits for it and what runs ends with an error.
func (s *scheduler) fail(err error) {
	s.mu.Lock()
	first := s.failed == nil
	if first {
		s.failed = &outOfService{s.id, err}
		s.m.failed.Store(1)
	}
	s.mu.Unlock()
	if first {
		s.o.Log.Error("model out of service: its files were changed while it was served; the other models go on, and a restart brings it back", "model", s.id, "error", err)
		s.kick()
	}
}

// failure is why the model is out of service.
func (s *scheduler) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed == nil {
		return nil
	}
	return s.failed
}

// drop ends all sequences.
func (s *scheduler) drop(err error) {
	for _, q := range s.running {
		s.end(q, event{err: err})
	}
	clear(s.running)
	s.running = s.running[:0]
	for {
		q := s.next()
		if q == nil {
			break
		}
		q.out.push(event{err: err})
	}
	s.prefixes.clear()
}

// drain refuses new work and returns when what was accepted is done, or with ctx's error.
func (s *scheduler) drain(ctx context.Context) error {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	s.kick()
	select {
	case <-s.done:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// close stops at once; sequences under way end with an error.
func (s *scheduler) close() {
	s.mu.Lock()
	s.draining = true
	s.mu.Unlock()
	s.cancel()
	s.kick()
	<-s.done
}

func (s *scheduler) loop() {
	defer close(s.done)
	defer func() {
		s.drop(errDraining)
		s.m.cache(0, 0, s.pages.limit)
	}()
	for s.ctx.Err() == nil {
		if err := s.failure(); err != nil {
			s.drop(err)
		}
		s.admit()
		if len(s.running) == 0 {
			s.mu.Lock()
			stop, empty := s.draining, s.queue.n == 0
			s.mu.Unlock()
			if stop && empty && len(s.resumed) == 0 {
				return
			}
			var expiry <-chan time.Time
			if !empty { // only if nothing fits, which cannot last
				expiry = time.After(10 * time.Millisecond)
			}
			select {
			case <-s.wake:
			case <-expiry:
			case <-s.ctx.Done():
			}
			continue
		}
		s.step()
	}
}

// next takes the first of the queue.
func (s *scheduler) next() *sequence {
	if len(s.resumed) > 0 {
		q := s.resumed[0]
		s.resumed = s.resumed[1:]
		return q
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.queue.pop(func(*sequence) bool { return true })
}

// gone reports that nobody wants the sequence any more, and says so to whoever may still listen.
func (s *scheduler) gone(q *sequence) bool {
	if q.out.stopped.Load() {
		return true
	}
	if err := context.Cause(q.ctx); err != nil {
		q.out.push(event{err: err})
		return true
	}
	return false
}

// admit moves sequences from the queue to places and memory that are free.
func (s *scheduler) admit() {
	now := time.Now()
	keep := s.running[:0]
	for _, q := range s.running { // those whose client went away
		if s.gone(q) {
			s.release(q)
			continue
		}
		keep = append(keep, q)
	}
	clear(s.running[len(keep):])
	s.running = keep

	s.mu.Lock()
	for _, q := range s.queue.remove(func(q *sequence) bool {
		return s.gone(q) || s.o.QueueTimeout > 0 && now.Sub(q.out.queued) > s.o.QueueTimeout
	}) {
		if !q.out.stopped.Load() && q.ctx.Err() == nil {
			q.out.push(event{err: errTooLong})
		}
	}
	s.mu.Unlock()

	for len(s.running) < s.o.MaxBatch {
		var q *sequence
		if len(s.resumed) > 0 {
			q = s.resumed[0]
			if !s.fits(q) {
				break
			}
			s.resumed = s.resumed[1:]
			if s.gone(q) {
				continue
			}
		} else {
			tries := 0
			s.mu.Lock()
			q = s.queue.pop(func(q *sequence) bool {
				tries++
				return tries < 32 && s.ready(q) && s.fits(q)
			})
			if q != nil {
				s.left(q, now)
			}
			s.mu.Unlock()
		}
		if q == nil {
			break
		}
		if err := s.start(q, now); err != nil {
			q.out.push(event{err: err})
			continue
		}
		s.running = append(s.running, q)
	}
	s.active.Store(int64(len(s.running) + len(s.resumed)))
	s.mu.Lock()
	s.m.depth(s.queue.n+len(s.resumed), len(s.running))
	s.mu.Unlock()
	s.m.cache(s.pages.used, s.prefixes.pages(), s.pages.limit)
}

// left measures the pace of the queue by a sequence that leaves it. It needs s.mu.
func (s *scheduler) left(q *sequence, now time.Time) {
	if q.out.queued.Before(s.admitted) { // it waited since then at least
		s.paced = min(s.paced+1, 64)
		s.pace += (now.Sub(s.admitted) - s.pace) / time.Duration(s.paced)
	}
	s.admitted = now
}

// fits reports that the prompt has room beside what runs, with prefixes forgotten if need be.
func (s *scheduler) fits(q *sequence) bool {
	need := pagesOf(len(q.tokens)+1) + 1
	return len(s.running) == 0 || s.pages.used-s.prefixes.own()+need+len(s.running) <= s.pages.limit
}

// whole says that something of every token of the prompt is wanted, so that no cache can have it.
func (q *sequence) whole() bool { return q.echo || q.pool != nil && q.pool.Whole() }

// ready is false while another sequence reads a prefix that this one would then share.
func (s *scheduler) ready(q *sequence) bool {
	if q.whole() {
		return true
	}
	have := -1
	for _, r := range s.running {
		if !r.prefilling() {
			continue
		}
		if have < 0 {
			have = s.prefixes.match(q.tokens)
		}
		if n := common(r.tokens, q.tokens); min(n, len(q.tokens)-1) >= max(have, min(n, r.cache.Len()))+2*ledgerPage {
			return false
		}
	}
	return true
}

// start gives a sequence its cache: a fork of the longest prefix that is there.
func (s *scheduler) start(q *sequence, now time.Time) error {
	n := 0
	var from *cache
	if !q.whole() {
		from, n = s.prefixes.find(q.tokens)
		for _, r := range s.running {
			if c := min(common(r.tokens, q.tokens), r.cache.Len()); c > n {
				from, n = r.cache, c
			}
		}
		n = min(n, len(q.tokens)-1) // the last token's logits are not kept
	}
	var err error
	if from != nil && n > 0 {
		q.cache, err = from.fork(n)
	} else {
		n = 0
		q.cache, err = s.pages.new(s.engine, s.limit)
	}
	if err != nil {
		return err
	}
	s.ages++
	q.age = s.ages
	if q.out.started.IsZero() {
		q.out.started = now
		q.out.cached = n
		s.m.started(now.Sub(q.out.queued), len(q.tokens), n)
	}
	return nil
}

// release gives the sequence's memory back.
func (s *scheduler) release(q *sequence) {
	if q.cache != nil {
		q.cache.close()
		q.cache = nil
	}
	s.free(q)
}

func (s *scheduler) free(q *sequence) {
	if q.logits != nil && len(s.logits) < s.o.MaxBatch {
		s.logits = append(s.logits, q.logits)
	}
	q.logits = nil
}

// end tells the last event and keeps the cache as a prefix for others.
func (s *scheduler) end(q *sequence, e event) {
	q.out.last = time.Now()
	if e.err == nil && q.cache != nil && q.cache.Len() >= ledgerPage {
		s.prefixes.put(q.tokens[:q.cache.Len()], q.cache)
		q.cache = nil
	}
	s.release(q)
	s.m.finished(q.out, e.err)
	q.out.push(e)
}

// preempt takes memory from the youngest sequence; it goes on later, from its tokens.
func (s *scheduler) preempt() bool {
	if len(s.running) < 2 {
		return false
	}
	i := 0
	for j, q := range s.running {
		if q.age > s.running[i].age {
			i = j
		}
	}
	q := s.running[i]
	s.running = slices.Delete(s.running, i, i+1)
	s.release(q)
	q.read = nil // computed again
	if q.pool != nil {
		q.pool.Reset()
	}
	s.resumed = append(s.resumed, q)
	slices.SortFunc(s.resumed, byAge)
	s.m.preemptions.Inc()
	return true
}

// plan decides how many tokens of each sequence the step computes.
func (s *scheduler) plan() {
	writing := 0
	for _, q := range s.running {
		q.take = 0
		if !q.prefilling() {
			q.take = 1
			writing++
		}
	}
	// Prompts share what is left of the budget. While others write, it is what takes StepTime, so that
	// their tokens keep coming.
	budget := s.o.PrefillTokens
	if writing > 0 && s.perToken > 0 {
		budget = min(budget, max(int(s.o.StepTime/s.perToken), 16))
	}
	rows := max(s.o.EchoBytes/(4*s.vocab), 1) // of scores, in the whole step
	read := func(q *sequence, budget int) int {
		n := min(len(q.tokens)-q.cache.Len()-q.take, budget)
		if q.echo {
			n = min(n, rows)
			rows -= n
		}
		q.take += n
		return n
	}
	// One after the other, as a piece of each would let all of them wait for their first token until the last one
	// is read: half to the one that came first, so that a long prompt gets on too, the rest to the shortest.
	s.reading = s.reading[:0]
	for _, q := range s.running {
		if q.prefilling() {
			s.reading = append(s.reading, q)
		}
	}
	if len(s.reading) == 0 {
		return
	}
	budget -= read(slices.MinFunc(s.reading, byAge), (budget+1)/2)
	slices.SortFunc(s.reading, func(a, b *sequence) int {
		return cmp.Or(cmp.Compare(len(a.tokens)-a.cache.Len(), len(b.tokens)-b.cache.Len()), byAge(a, b))
	})
	for _, q := range s.reading {
		budget -= read(q, budget)
	}
	clear(s.reading)
}

func byAge(a, b *sequence) int { return cmp.Compare(a.age, b.age) }

// room makes memory for the step: it forgets prefixes, then preempts.
func (s *scheduler) room() {
	for {
		need := 0
		for _, q := range s.running {
			if q.take > 0 {
				need += q.cache.growth(q.cache.Len() + q.take)
			}
		}
		if s.pages.used+need <= s.pages.limit {
			return
		}
		if !s.prefixes.forget() && !s.preempt() {
			return // one sequence alone always has room
		}
	}
}

func (s *scheduler) step() {
	s.plan()
	s.room()
	s.echoed = 0
	s.batch, s.part = s.batch[:0], s.part[:0]
	read, written := 0, 0
	for _, q := range s.running {
		if q.take == 0 {
			continue
		}
		at := q.cache.Len()
		in := model.Input{Cache: q.cache.Cache, Tokens: q.tokens[at : at+q.take]}
		last := at+q.take == len(q.tokens)
		q.top = q.top[:0]
		switch {
		case q.echo && at < len(q.prompt) && q.take > 1:
			in.Logits = s.rows(q.take)
		case q.echo && at < len(q.prompt), last && q.max > 0 && (q.logprobs >= 0 || q.topNeeded() == 0):
			in.Logits = s.buffer(q)
		case last && q.max > 0:
			n := min(q.topNeeded(), s.vocab)
			q.top = slices.Grow(q.top, n)[:n]
			in.Top = q.top
		}
		if q.pool != nil {
			in.Hidden = q.pool.Hidden(q.take, last)
		}
		if at < len(q.prompt) || q.take > 1 {
			read += q.take
		} else {
			written++
		}
		q.cache.reserve(at + q.take)
		s.batch, s.part = append(s.batch, in), append(s.part, q)
	}
	start := time.Now()
	err := s.forward()
	took := time.Since(start)
	if err != nil {
		if s.ctx.Err() != nil {
			return
		}
		s.m.failures.Inc()
		if errors.Is(err, model.ErrChanged) {
			s.fail(err)
			return // and the loop ends them all
		}
		s.o.Log.Error("forward pass failed", "error", err, "sequences", len(s.part))
		for _, q := range s.part {
			q.ended = true
			s.end(q, event{err: fmt.Errorf("the model failed: %w", err)})
		}
		s.sweep()
		return
	}
	if read > 0 && read >= 4*written {
		per := took / time.Duration(read+written)
		s.perToken = (3*s.perToken + per) / 4
	}
	s.each(func(q *sequence, in *model.Input) { s.advance(q, in) })
	for _, q := range s.part {
		if q.ended {
			s.end(q, s.last(q))
		}
	}
	s.sweep()
	s.m.step(len(s.part), read, written, took)
	s.speed.add(time.Now(), read, written)
	clear(s.batch)
}

// sweep drops sequences that ended.
func (s *scheduler) sweep() {
	s.running = slices.DeleteFunc(s.running, func(q *sequence) bool { return q.ended })
}

// forward runs the engine; a panic of it is an error of this batch.
func (s *scheduler) forward() (err error) {
	defer func() {
		if p := recover(); p != nil {
			s.m.panics.Inc()
			s.o.Log.Error("panic in the engine", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return s.engine.Forward(s.ctx, s.batch)
}

// buffer is a sequence's own row of scores.
func (s *scheduler) buffer(q *sequence) []float32 {
	if n := len(s.logits); q.logits == nil && n > 0 {
		q.logits, s.logits = s.logits[n-1], s.logits[:n-1]
	}
	if q.logits == nil {
		q.logits = make([]float32, s.vocab)
	}
	return q.logits
}

// rows are n rows of scores, for this step only.
func (s *scheduler) rows(n int) []float32 {
	n *= s.vocab
	if len(s.echo)-s.echoed < n { // the first ones of this step keep what they have
		s.echo, s.echoed = make([]float32, max(n, s.o.EchoBytes/4)), 0
	}
	s.echoed += n
	return s.echo[s.echoed-n : s.echoed]
}

// each runs f for every sequence of the step, on all processors when there is much to do.
func (s *scheduler) each(f func(*sequence, *model.Input)) {
	guard := func(i int) {
		q := s.part[i]
		defer func() {
			if p := recover(); p != nil {
				s.m.panics.Inc()
				s.o.Log.Error("panic", "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
				q.fail(fmt.Errorf("internal error"))
			}
		}()
		f(q, &s.batch[i])
	}
	workers := min(runtime.GOMAXPROCS(0), len(s.part))
	if workers < 2 || len(s.part)*s.vocab < 1<<15 {
		for i := range s.part {
			guard(i)
		}
		return
	}
	var at atomic.Int64
	var wg sync.WaitGroup
	for range workers {
		wg.Go(func() {
			for {
				i := int(at.Add(1)) - 1
				if i >= len(s.part) {
					return
				}
				guard(i)
			}
		})
	}
	wg.Wait()
}

// topNeeded is how many of the largest logits decide the next token, 0 for all.
func (q *sequence) topNeeded() int {
	if n := q.sampler.TopNeededAfter(q.tokens); n <= 256 {
		return n
	}
	return 0
}

func (q *sequence) fail(err error) {
	q.ended, q.err = true, err
}

// advance takes what the step computed for one sequence: probabilities of its prompt, its next token.
// It runs beside advance of other sequences.
func (s *scheduler) advance(q *sequence, in *model.Input) {
	at := q.cache.Len() - q.take // of the step's first token
	if q.pool != nil {
		q.pool.Add()
	}
	if q.echo && at < len(q.prompt) {
		for i := range q.take {
			if at == 0 && i == 0 {
				q.read = append(q.read, token{id: q.prompt[0], first: true})
			}
			if next := at + i + 1; next < len(q.prompt) {
				q.read = append(q.read, q.score(in.Logits[i*s.vocab:][:s.vocab], q.prompt[next]))
			}
		}
	}
	if q.cache.Len() < len(q.tokens) {
		return // more of the prompt follows
	}
	if q.max == 0 {
		q.ended = true
		return
	}
	id, logits := int32(-1), in.Logits
	if len(q.top) > 0 {
		ids, best := make([]int32, len(q.top)), make([]float32, len(q.top))
		for i, t := range q.top {
			ids[i], best[i] = t.ID, t.Logit
		}
		id = q.sampler.NextTopAfter(ids, best, q.tokens)
	} else {
		logits = logits[len(logits)-s.vocab:]
		id = s.choose(q, logits)
	}
	if id < 0 {
		q.fail(errors.New("the model gave no usable scores (all are NaN, −∞ or forbidden)"))
		return
	}
	if q.logprobs >= 0 {
		t := q.score(logits, id)
		q.out.sum += t.logprob
		q.shown = append(q.shown, t)
	}
	q.sampler.Accept(id)
	q.tokens = append(q.tokens, id)
	q.ids = append(q.ids, id)
	q.left--
	q.out.written++
	if q.out.first.IsZero() {
		q.out.first = time.Now()
	}

	switch {
	case !q.ignoreEOS && s.tok.IsEOS(id), slices.Contains(q.stopTokens, id):
		q.ended = true
	case q.text.Push(id), q.matcher != nil && q.matcher.Done(), q.left == 0, len(q.tokens) >= s.limit:
		q.ended = true
	default:
		s.show(q)
	}
}

// choose samples; with a grammar, among the tokens after which the text can still end in time.
func (s *scheduler) choose(q *sequence, logits []float32) int32 {
	if q.matcher == nil {
		return q.sampler.Next(logits, q.tokens)
	}
	q.matcher.Limit(min(q.left, s.limit-len(q.tokens)))
	for tries := 0; ; tries++ {
		if tries == 16 {
			q.matcher.Allowed()
			q.matcher.Narrow()
		}
		id := q.sampler.Next(logits, q.tokens)
		if id < 0 || q.matcher.Fits(id) {
			return id
		}
		q.matcher.Forbid(id)
	}
}

func (q *sequence) score(logits []float32, id int32) token {
	lse := sample.LogSumExp(logits)
	t := token{id: id, logprob: sample.LogprobOf(logits, id, lse)}
	if q.logprobs > 0 {
		t.top = sample.Logprobs(nil, logits, lse, q.logprobs)
	}
	return t
}

// show pushes the text that is certain, and with it the tokens that made it.
func (s *scheduler) show(q *sequence) {
	text := q.text.Take()
	if text == "" {
		return
	}
	q.out.push(event{text: text, tokens: q.shown, ids: q.ids, prompt: q.read})
	q.shown, q.ids = nil, nil
	if q.read != nil {
		q.read, q.echo = nil, false
	}
}

// last makes the event that ends a sequence.
func (s *scheduler) last(q *sequence) event {
	if q.err != nil {
		return event{err: q.err}
	}
	e := event{tokens: q.shown, ids: q.ids, prompt: q.read, finish: "length"}
	switch {
	case q.max == 0:
		return e
	case len(q.tokens) > len(q.prompt) && (!q.ignoreEOS && s.tok.IsEOS(q.tokens[len(q.tokens)-1]) || slices.Contains(q.stopTokens, q.tokens[len(q.tokens)-1])):
		e.text, e.finish = q.text.End(), "stop"
	case q.text.Stopped():
		e.text, e.finish = q.text.Take(), "stop"
	case q.matcher != nil && q.matcher.MayEnd():
		e.text, e.finish = q.text.End(), "stop"
	default:
		e.text = q.text.End()
		if q.text.Stopped() {
			e.finish = "stop"
		}
	}
	return e
}
