package par

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func eachSize(t *testing.T, test func(t *testing.T, p *Pool)) {
	for _, threads := range []int{1, 2, 3, 8} {
		t.Run(fmt.Sprintf("%d threads", threads), func(t *testing.T) {
			p := New(threads)
			defer p.Close()
			if p.Threads() != threads {
				t.Fatalf("Threads() = %d, want %d", p.Threads(), threads)
			}
			test(t, p)
		})
	}
}

func TestForCoversEveryIndexOnce(t *testing.T) {
	eachSize(t, func(t *testing.T, p *Pool) {
		for _, n := range []int{0, 1, 2, 15, 16, 17, 100, 1000, 4097} {
			for _, grain := range []int{0, 1, 7, 16, 5000} {
				seen := make([]atomic.Int32, n)
				p.For(n, grain, func(lo, hi int) {
					if lo%max(grain, 1) != 0 || lo >= hi || hi > n || hi != n && hi%max(grain, 1) != 0 {
						t.Errorf("n %d, grain %d: piece [%d, %d)", n, grain, lo, hi)
					}
					for i := lo; i < hi; i++ {
						seen[i].Add(1)
					}
				})
				for i := range seen {
					if c := seen[i].Load(); c != 1 {
						t.Fatalf("n %d, grain %d: index %d ran %d times", n, grain, i, c)
					}
				}
			}
		}
	})
}

func TestRunGivesWorkersOfTheirOwn(t *testing.T) {
	eachSize(t, func(t *testing.T, p *Pool) {
		busy := make([]atomic.Bool, p.Threads())
		for range 200 {
			var calls atomic.Int32
			p.Run(37, func(i, worker int) {
				if busy[worker].Swap(true) {
					t.Errorf("worker %d is in two calls at once", worker)
				}
				calls.Add(1)
				busy[worker].Store(false)
			})
			if calls.Load() != 37 {
				t.Fatalf("%d calls, want 37", calls.Load())
			}
		}
	})
}

// Many short loops one after another, with the pause that makes workers park in between now and then:
// plain writes to shared memory must be seen by the next loop (the race detector checks this).
func TestLoopsFollowEachOther(t *testing.T) {
	eachSize(t, func(t *testing.T, p *Pool) {
		x := make([]int, 1000)
		add := func(lo, hi int) {
			for i := lo; i < hi; i++ {
				x[i]++
			}
		}
		const loops = 2000
		for i := range loops {
			p.For(len(x), 10, add)
			if i%500 == 499 {
				time.Sleep(time.Millisecond)
			}
		}
		for i, v := range x {
			if v != loops {
				t.Fatalf("x[%d] = %d, want %d", i, v, loops)
			}
		}
	})
}

func TestPanicReachesTheCaller(t *testing.T) {
	eachSize(t, func(t *testing.T, p *Pool) {
		for i := range 50 {
			func() {
				defer func() {
					if v := recover(); v != i {
						t.Errorf("recovered %v, want %d", v, i)
					}
				}()
				p.For(100, 1, func(lo, hi int) {
					if lo <= 60 && 60 < hi {
						panic(i)
					}
				})
				t.Error("For returned")
			}()
		}
		n := 0
		p.For(1, 1, func(lo, hi int) { n++ })
		p.Run(1, func(i, worker int) { n++ })
		if n != 2 {
			t.Error("the pool is unusable after a panic")
		}
	})
}

func TestMisusePanics(t *testing.T) {
	must := func(t *testing.T, what string, f func()) {
		t.Helper()
		defer func() {
			if recover() == nil {
				t.Errorf("%s does not panic", what)
			}
		}()
		f()
	}
	eachSize(t, func(t *testing.T, p *Pool) {
		must(t, "a loop in a loop", func() {
			p.For(100, 1, func(lo, hi int) { p.For(1, 1, func(lo, hi int) {}) })
		})
		p.Close()
		p.Close()
		must(t, "a loop on a closed pool", func() { p.For(1, 1, func(lo, hi int) {}) })
	})
}

func TestDispatchDoesNotAllocate(t *testing.T) {
	eachSize(t, func(t *testing.T, p *Pool) {
		var sum atomic.Int64
		f := func(lo, hi int) { sum.Add(int64(hi - lo)) }
		r := func(i, worker int) { sum.Add(1) }
		if n := testing.AllocsPerRun(100, func() { p.For(64, 1, f); p.Run(8, r) }); n != 0 {
			t.Errorf("%v allocations a loop", n)
		}
	})
}

func TestNewUsesAllCores(t *testing.T) {
	p := New(0)
	defer p.Close()
	if p.Threads() != Cores() || Cores() > runtime.GOMAXPROCS(0) {
		t.Errorf("Threads() = %d, Cores = %d, GOMAXPROCS = %d", p.Threads(), Cores(), runtime.GOMAXPROCS(0))
	}
}

func BenchmarkDispatch(b *testing.B) {
	for _, threads := range []int{1, 2} {
		b.Run(fmt.Sprintf("threads=%d", threads), func(b *testing.B) {
			p := New(threads)
			defer p.Close()
			f := func(lo, hi int) {}
			for b.Loop() {
				p.For(2, 1, f)
			}
		})
	}
}

// A limit far above the machine's processors starts no more workers than those.
func TestPoolIsNoLargerThanTheMachine(t *testing.T) {
	before := runtime.GOMAXPROCS(4 * runtime.NumCPU())
	defer runtime.GOMAXPROCS(before)
	p := New(0)
	defer p.Close()
	if p.Threads() > runtime.NumCPU() {
		t.Errorf("%d threads for %d processors", p.Threads(), runtime.NumCPU())
	}
}
