// Package par runs loops on a fixed set of goroutines. A dispatch costs about a microsecond: workers
// spin for a while after each loop, as a model's next one follows at once, and park when none comes.
package par

import (
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// spin is how long a worker looks for the next loop before it parks.
const spin = 50 * time.Microsecond

// Pool is a set of workers. One goroutine at a time may call For or Run, and fn must not call them again.
type Pool struct {
	workers []*worker
	wg      sync.WaitGroup

	// gate is epoch<<32 | open<<31 | workers inside. A worker enters an epoch once, while it is open; the
	// caller closes it when no work is left and waits until nobody is inside. So a worker that wakes up
	// late is not waited for.
	gate   atomic.Uint64
	busy   atomic.Bool // a loop is running
	closed atomic.Bool
	spin   time.Duration

	// The loop in progress. Written while the gate is shut.
	n, chunk int
	forFn    func(lo, hi int)
	runFn    func(i, worker int)
	shares   []share // one per thread

	mu       sync.Mutex
	panicked bool
	value    any
}

const (
	open   = 1 << 31
	inside = open - 1
)

// share is a run of pieces that one worker begins with. Neighbours in a loop are neighbours in memory, as a rule, and
// are read fastest in one go; whoever is through with his own share goes on with the others'.
type share struct {
	next atomic.Int64 // the first piece that nobody has taken
	end  int64
	_    [48]byte
}

type worker struct {
	id     int
	parked atomic.Bool
	wake   chan struct{} // capacity 1
	_      [64]byte
}

// New starts a pool of so many threads, the caller's included; less than 1 means Cores.
func New(threads int) *Pool {
	if threads < 1 {
		threads = Cores()
	}
	p := &Pool{spin: spin, shares: make([]share, threads)}
	if threads > runtime.GOMAXPROCS(0) {
		p.spin = 0 // a spinning worker would keep another from its core
	}
	for id := 1; id < threads; id++ {
		w := &worker{id: id, wake: make(chan struct{}, 1)}
		p.workers = append(p.workers, w)
		p.wg.Go(func() { p.work(w) })
	}
	return p
}

// Threads is the number of goroutines that run a loop, the caller's included.
func (p *Pool) Threads() int { return len(p.workers) + 1 }

// Close ends the workers and waits for them. Using the pool afterwards panics; closing it again does nothing.
func (p *Pool) Close() {
	if p.closed.Swap(true) {
		return
	}
	p.gate.Add(1 << 32)
	p.wakeAll()
	p.wg.Wait()
}

// For calls fn for pieces [lo, hi) that together cover [0, n), at the same time on all threads. Pieces
// begin at multiples of grain and hold a multiple of it, but for the end; there are a few per thread, so
// that a slow core does less. A panic in fn ends the loop and is raised again in the caller.
func (p *Pool) For(n, grain int, fn func(lo, hi int)) {
	if n <= 0 {
		return
	}
	grain = max(grain, 1)
	pieces := 4 * p.Threads()
	chunk := (n + pieces - 1) / pieces
	chunk = (chunk + grain - 1) / grain * grain
	if len(p.workers) == 0 || n <= chunk {
		chunk = n // one piece
	}
	p.dispatch(n, chunk, fn, nil)
}

// Run calls fn(i, worker) once for every i in [0, n), at the same time on all threads. worker, less than
// Threads, is different for calls that run at the same time: an index for scratch memory. A panic in fn
// ends the loop and is raised again in the caller.
func (p *Pool) Run(n int, fn func(i, worker int)) {
	if n <= 0 {
		return
	}
	p.dispatch(n, 1, nil, fn)
}

func (p *Pool) dispatch(n, chunk int, forFn func(lo, hi int), runFn func(i, worker int)) {
	if p.closed.Load() {
		panic("par: use of a closed Pool")
	}
	if p.busy.Swap(true) {
		panic("par: Pool used by two dispatchers at once, or by the loop it is running")
	}
	defer p.busy.Store(false)
	if len(p.workers) == 0 || n <= chunk {
		if forFn != nil {
			forFn(0, n)
			return
		}
		for i := range n {
			runFn(i, 0)
		}
		return
	}
	p.n, p.chunk, p.forFn, p.runFn = n, chunk, forFn, runFn
	pieces, threads := (n+chunk-1)/chunk, len(p.shares)
	for i := range p.shares {
		p.shares[i].next.Store(int64(pieces * i / threads))
		p.shares[i].end = int64(pieces * (i + 1) / threads)
	}
	p.gate.Store(p.gate.Load() + 1<<32 | open)
	p.wakeAll()
	p.take(0)
	for g := p.gate.Load(); !p.gate.CompareAndSwap(g, g&^open); g = p.gate.Load() {
	}
	for i := 0; p.gate.Load()&inside != 0; i++ {
		pause()
		if i > 1000 {
			runtime.Gosched()
		}
	}
	p.forFn, p.runFn = nil, nil
	if p.panicked {
		v := p.value
		p.panicked, p.value = false, nil
		panic(v)
	}
}

// take runs pieces of the loop until none is left.
func (p *Pool) take(worker int) {
	defer func() {
		if v := recover(); v != nil {
			for i := range p.shares {
				p.shares[i].next.Store(p.shares[i].end)
			}
			p.mu.Lock()
			if !p.panicked {
				p.panicked, p.value = true, v
			}
			p.mu.Unlock()
		}
	}()
	for i := range p.shares {
		s := &p.shares[(worker+i)%len(p.shares)]
		for {
			piece := int(s.next.Add(1) - 1)
			if piece >= int(s.end) {
				break
			}
			if p.forFn != nil {
				p.forFn(piece*p.chunk, min((piece+1)*p.chunk, p.n))
			} else {
				p.runFn(piece, worker)
			}
		}
	}
}

func (p *Pool) wakeAll() {
	for _, w := range p.workers {
		if w.parked.Load() && w.parked.CompareAndSwap(true, false) {
			w.wake <- struct{}{}
		}
	}
}

func (p *Pool) work(w *worker) {
	debug.SetPanicOnFault(true) // a fault in a mapped file goes to the caller as any panic does
	last := uint64(0)           // the epoch seen
	for {
		g := p.await(w, last)
		if p.closed.Load() {
			return
		}
		last = g >> 32
		for g>>32 == last && g&open != 0 {
			if p.gate.CompareAndSwap(g, g+1) {
				p.take(w.id)
				p.gate.Add(^uint64(0))
				break
			}
			g = p.gate.Load()
		}
	}
}

// await returns the gate once its epoch differs from last.
func (p *Pool) await(w *worker, last uint64) uint64 {
	for {
		for start, i := time.Now(), 0; ; i++ {
			if g := p.gate.Load(); g>>32 != last {
				return g
			}
			pause()
			if i%16 == 0 && time.Since(start) >= p.spin {
				break
			}
		}
		w.parked.Store(true)
		if p.gate.Load()>>32 == last || !w.parked.CompareAndSwap(true, false) {
			<-w.wake
		}
	}
}
