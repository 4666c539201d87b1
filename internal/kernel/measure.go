package kernel

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// Speed is how fast one kernel of one tier is, all threads together.
type Speed struct {
	Tier   string  `json:"tier"`
	Kernel string  `json:"kernel"`
	Shape  string  `json:"shape,omitempty"`
	MACs   float64 `json:"macs_per_second,omitempty"`
	Bytes  float64 `json:"bytes_per_second,omitempty"` // of weights, keys or values; they come from memory
	Read   float64 `json:"read_share,omitempty"`       // Bytes ÷ Limits.Read
	Peak   float64 `json:"peak_share,omitempty"`       // MACs ÷ Limits.Int8, or Limits.F32 where the kernel's are floats
}

// Limits is what a machine's best tier does when it does nothing else, all threads together.
type Limits struct {
	Int8 float64 `json:"int8_macs_per_second"`    // from registers
	F32  float64 `json:"float32_macs_per_second"` // from registers
	Read float64 `json:"read_bytes_per_second"`   // from memory
}

// MeasureOptions for MeasureLimits and Measure.
type MeasureOptions struct {
	Threads int           // 0 is as many as the process may use
	Time    time.Duration // to spend on all together; 0 is a tenth of a second for each contender
	Step    func(done, total int64)
}

// MeasureLimits measures the active tier's limits.
func MeasureLimits(ctx context.Context, o MeasureOptions) (Limits, error) {
	b := newBench(&o)
	defer b.free()
	b.limits(active)
	if err := b.run(ctx, o); err != nil {
		return Limits{}, err
	}
	return b.best(), nil
}

// Measure measures every tier of this machine at the shapes of BitNet b1.58 2B4T, as the engine calls its kernels: a panel
// of 64 rows after the other, each thread through weights of its own.
func Measure(ctx context.Context, o MeasureOptions) ([]Speed, Limits, error) {
	b := newBench(&o)
	defer b.free()
	for _, t := range available {
		b.limits(t)
		b.products(t)
	}
	if err := b.run(ctx, o); err != nil {
		return nil, Limits{}, err
	}
	best := b.best()
	list := make([]Speed, len(b.list))
	for i, c := range b.list {
		s := c.Speed
		calls := float64(max(o.Threads, 1)*c.calls) / c.least.Seconds()
		s.MACs, s.Bytes = c.macs*calls, c.bytes*calls
		s.Read = s.Bytes / best.Read
		s.Peak = s.MACs / best.Int8
		if c.float {
			s.Peak = s.MACs / best.F32
		}
		list[i] = s
	}
	return list, best, nil
}

// bench is what Measure measures, and the memory that it reads.
type bench struct {
	threads int
	memory  []byte
	free    func()
	list    []*contender
}

type contender struct {
	Speed
	macs, bytes float64 // of a call
	float       bool
	timed
}

// benchBytes is more than caches hold.
const benchBytes = 256 << 20

func newBench(o *MeasureOptions) *bench {
	o.Threads = cmp.Or(o.Threads, runtime.GOMAXPROCS(0))
	b := &bench{threads: o.Threads}
	b.memory, b.free = hugePages(benchBytes)
	for i := range b.memory {
		b.memory[i] = 0x15 // valid codes of all layouts, and normal floats of all types
	}
	return b
}

func (b *bench) run(ctx context.Context, o MeasureOptions) error {
	list := make([]*timed, len(b.list))
	for i, c := range b.list {
		list[i] = &c.timed
	}
	return alternate(ctx, o.Threads, cmp.Or(o.Time, time.Duration(len(list))*100*time.Millisecond), list, o.Step)
}

func (b *bench) best() (l Limits) {
	for _, c := range b.list {
		calls := float64(b.threads*c.calls) / c.least.Seconds()
		switch c.Kernel {
		case int8Registers:
			l.Int8 = max(l.Int8, c.macs*calls)
		case f32Registers:
			l.F32 = max(l.F32, c.macs*calls)
		case readMemory:
			l.Read = max(l.Read, c.bytes*calls)
		}
	}
	return l
}

const (
	int8Registers = "int8, registers alone"
	f32Registers  = "float32, registers alone"
	readMemory    = "reading memory"
)

// add lists a kernel of a tier. make makes one thread's call of it; w is that thread's memory, and take its next n bytes.
func (b *bench) add(t *tier, kernel, shape string, macs, bytes float64, float bool, prepare func(take func(n int) []byte) func()) {
	calls := make([]func(), b.threads)
	for i := range calls {
		size := benchBytes / b.threads &^ 63
		w, at := b.memory[i*size:][:size], 0
		calls[i] = prepare(func(n int) []byte {
			if at+n > len(w) {
				at = 0
			}
			at += n
			return w[at-n : at]
		})
	}
	b.list = append(b.list, &contender{
		Speed: Speed{Tier: t.name, Kernel: kernel, Shape: shape}, macs: macs, bytes: bytes, float: float,
		timed: timed{f: func(worker int) { calls[worker]() }, limit: shape == ""},
	})
}

func (b *bench) limits(t *tier) {
	const turns = 10_000
	b.add(t, int8Registers, "", float64(turns*t.peak.int8Turn), 0, false, func(func(int) []byte) func() {
		return func() { t.peak.int8(turns) }
	})
	b.add(t, f32Registers, "", float64(turns*t.peak.f32Turn), 0, true, func(func(int) []byte) func() {
		return func() { t.peak.f32(turns) }
	})
	const piece = 64 << 10
	b.add(t, readMemory, "", 0, piece, false, func(take func(int) []byte) func() {
		return func() { t.peak.read(take(piece)) }
	})
}

func (b *bench) products(t *tier) {
	const D, F = 2560, 6912
	const rows = 64 // a panel
	for _, tokens := range []int{1, 8, 128} {
		for _, cols := range []int{D, F} {
			shape, macs := fmt.Sprintf("[%d, %d] × %s", rows, cols, plural(tokens, "token")), float64(rows*cols*tokens)
			t16, t5 := T16Bytes(rows, cols), T5Bytes(rows, cols)
			b.add(t, "ternary T16", shape, macs, float64(t16), false, func(take func(int) []byte) func() {
				x, y, sums, scratch := make([]int8, cols*tokens), make([]int32, rows*tokens), make([]int32, tokens), make([]byte, MatMulScratch(cols))
				if tokens == 1 {
					return func() { t.ternaryMatVec(y, take(t16), x, 0) }
				}
				return func() { t.ternaryMatMul(y, take(t16), x, sums, scratch) }
			})
			b.add(t, "ternary T5", shape, macs, float64(t5), false, func(take func(int) []byte) func() {
				x, y, sums := make([]int8, cols*tokens), make([]int32, rows*tokens), make([]int32, tokens)
				if tokens == 1 {
					return func() { t.ternaryMatVecT5(y, take(t5), x, 0) }
				}
				return func() { t.ternaryMatMulT5(y, take(t5), x, sums) }
			})
		}
	}
	for _, tokens := range []int{1, 8, 128} {
		shape, macs := fmt.Sprintf("[%d, %d] × %s", rows, D, plural(tokens, "token")), float64(rows*D*tokens)
		for planes := 2; planes >= 1; planes-- {
			for layout := range groupLayouts {
				if layout != Ternary2 && (tokens > 8 || tokens > 1 && planes == 1) { // the same product of unpacked codes
					continue
				}
				const group = 128
				codes, scales := GroupBytes(layout, rows, D, group), rows*D/group
				name := fmt.Sprintf("weight-only %v, %d bits", layout, 8*planes)
				b.add(t, name, shape, macs, float64(codes+2*scales), false, func(take func(int) []byte) func() {
					y, scratch := make([]float32, rows*tokens), make([]byte, GroupScratch)
					w := GroupMatrix{Rows: rows, Cols: D, Layout: layout, Group: group, ScaleGroup: group}
					x := new(Planes)
					x.Resize(tokens, D, group, planes)
					return func() {
						m := take((codes + 2*scales + 63) &^ 63)
						w.Codes, w.Scales = m[:codes], as[uint16](m[codes:][:2*scales])
						t.groupMatMul(y, rows, &w, x, scratch)
					}
				})
			}
		}
	}
	codes, scales, _ := ScreenSizes(rows, D)
	for _, tokens := range []int{1, 8} {
		shape, macs := fmt.Sprintf("[%d, %d] × %s", rows, D, plural(tokens, "token")), float64(rows*D*tokens)
		b.add(t, "screen of the head, 3 bits", shape, macs, float64(codes+2*scales), false, func(take func(int) []byte) func() {
			x, xs := make([]int8, D*tokens), make([]float32, D/ScreenBlock*tokens)
			y, high := make([]float32, rows*tokens), make([]float32, rows*tokens)
			norm, margin := make([]float32, rows), make([]float32, tokens)
			return func() {
				t.screen(y, high, rows, take(codes), as[uint16](take(2*scales)), norm, x, xs, xs, xs, margin)
			}
		})
	}
	for _, tokens := range []int{1, 32} {
		shape, macs := fmt.Sprintf("[%d, %d] × %s", rows, D, plural(tokens, "token")), float64(rows*D*tokens)
		buffers := func() (x, y []float32) { return make([]float32, D*tokens), make([]float32, rows*tokens) }
		b.add(t, "dense float32", shape, macs, rows*D*4, true, func(take func(int) []byte) func() {
			x, y := buffers()
			return func() { t.matMulF32(y, rows, as[float32](take(rows*D*4)), x, tokens) }
		})
		b.add(t, "dense float16", shape, macs, rows*D*2, true, func(take func(int) []byte) func() {
			x, y := buffers()
			return func() { t.matMulF16(y, rows, as[uint16](take(rows*D*2)), x, tokens) }
		})
		b.add(t, "dense bfloat16", shape, macs, rows*D*2, true, func(take func(int) []byte) func() {
			x, y := buffers()
			return func() { t.matMulBF16(y, rows, as[uint16](take(rows*D*2)), x, tokens) }
		})
	}
	const hd, n, group = 128, KeyTile, 4               // a page of one head's keys or values, and the heads that share it
	for _, queries := range []int{group, 16 * group} { // one token, and the rows of a prompt
		shape, macs := fmt.Sprintf("[%d, %d] × %d queries", n, hd, queries), float64(n*hd*queries)
		buffers := func() (q, s []float32) { return make([]float32, hd*queries), make([]float32, n*queries) }
		b.add(t, "attention, keys float32", shape, macs, n*hd*4, true, func(take func(int) []byte) func() {
			q, s := buffers()
			return func() { t.attnScoresF32(s, n, q, as[float32](take(n*hd*4)), queries, 0.1, 0) }
		})
		b.add(t, "attention, values float32", shape, macs, n*hd*4, true, func(take func(int) []byte) func() {
			out, p := buffers()
			return func() { t.attnMixF32(out, p, n, as[float32](take(n*hd*4)), queries, 0) }
		})
		b.add(t, "attention, keys float16", shape, macs, n*hd*2, true, func(take func(int) []byte) func() {
			q, s := buffers()
			return func() { t.attnScoresF16(s, n, q, as[uint16](take(n*hd*2)), queries, 0.1, 0) }
		})
		b.add(t, "attention, values float16", shape, macs, n*hd*2, true, func(take func(int) []byte) func() {
			out, p := buffers()
			return func() { t.attnMixF16(out, p, n, as[uint16](take(n*hd*2)), queries, 0) }
		})
		scales := make([]float32, n)
		b.add(t, "attention, keys int8", shape, macs, n*hd, true, func(take func(int) []byte) func() {
			q, s := buffers()
			return func() { t.attnScoresI8(s, n, q, as[int8](take(n*hd)), scales, queries, 0.1, 0) }
		})
		b.add(t, "attention, values int8", shape, macs, n*hd, true, func(take func(int) []byte) func() {
			out, p := buffers()
			return func() { t.attnMixI8(out, p, n, as[int8](take(n*hd)), scales, queries, 0) }
		})
	}
}

func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

// as sees bytes, aligned, as numbers.
func as[T int8 | uint16 | float32](b []byte) []T {
	return unsafe.Slice((*T)(unsafe.Pointer(&b[0])), len(b)/int(unsafe.Sizeof(*new(T))))
}

// timed is work, and how long it took.
type timed struct {
	f     func(worker int)
	calls int // by each worker in a run: so many that a run takes about runTime
	runs  int
	least time.Duration // of a run
	spent time.Duration
	limit bool // what others are compared with is timed longer
}

func (t *timed) weight() int {
	if t.limit {
		return 4
	}
	return 1
}

const runTime = 2 * time.Millisecond

// alternate times the list for d altogether: each in turn, in many short runs by all the workers at once. The shortest run
// of each is what counts, as other processes only ever make one longer.
func alternate(ctx context.Context, threads int, d time.Duration, list []*timed, step func(done, total int64)) error {
	c := newCrew(threads)
	defer c.close()
	for i, w := range list {
		w.calls = max(1, int(runTime/max(c.time(w.f, 1), 1)))
		w.least = math.MaxInt64
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if step != nil {
			step(int64(i), int64(2*len(list)))
		}
	}
	parts := 0
	for _, w := range list {
		parts += w.weight()
	}
	share := d / time.Duration(parts)
	for done := 0; done < len(list); {
		done = 0
		for _, w := range list {
			if w.runs > 0 && w.spent >= share*time.Duration(w.weight()) {
				done++
				continue
			}
			t := c.time(w.f, w.calls)
			w.least = min(w.least, t)
			w.spent += t
			w.runs++
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
		}
		if step != nil {
			step(int64(len(list)+done), int64(2*len(list)))
		}
	}
	return nil
}

// crew is some threads that start the same work at the same moment. The others spin between runs, so that they have
// their cores when one begins.
type crew struct {
	f        func(worker int)
	calls    int
	threads  int
	posted   atomic.Uint32
	finished atomic.Int32
	closed   atomic.Bool
	wg       sync.WaitGroup
}

func newCrew(threads int) *crew {
	c := &crew{threads: threads}
	for id := 1; id < threads; id++ {
		c.wg.Go(func() {
			for seen, i := uint32(0), 0; !c.closed.Load(); i++ {
				if n := c.posted.Load(); n != seen {
					seen = n
					c.work(id)
				} else if i%256 == 0 {
					runtime.Gosched()
				}
			}
		})
	}
	return c
}

func (c *crew) work(id int) {
	for range c.calls {
		c.f(id)
	}
	c.finished.Add(1)
}

// time says how long it takes until all have called f so often.
func (c *crew) time(f func(worker int), calls int) time.Duration {
	c.f, c.calls = f, calls
	c.finished.Store(0)
	start := time.Now()
	c.posted.Add(1)
	c.work(0)
	for i := 1; int(c.finished.Load()) < c.threads; i++ {
		if i%256 == 0 {
			runtime.Gosched()
		}
	}
	return time.Since(start)
}

func (c *crew) close() {
	c.closed.Store(true)
	c.wg.Wait()
}
