package kernel

import (
	"flag"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"
)

// Ratios that mean something on a shared machine: every contender runs in turn, many short runs each, and
// the fastest run counts, as other processes only ever make one slower.
//
//	go test ./internal/kernel -run Measure -measure 3s -v
var measure = flag.Duration("measure", 0, "time for each Measure test; 0 skips them")

type contender struct {
	name string
	work float64 // per call, in units of 1e9 a second when divided by time
	unit string
	f    func()
}

func measuring(t *testing.T) {
	if *measure == 0 {
		t.Skip("no -measure")
	}
}

// race prints each contender's best rate and its ratio to the first one's.
func race(t *testing.T, list []contender) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	times := make([][]time.Duration, len(list))
	for start := time.Now(); time.Since(start) < *measure || len(times[0]) < 3; {
		for i, c := range list {
			s := time.Now()
			c.f()
			times[i] = append(times[i], time.Since(s))
		}
	}
	first := 0.0
	for i, c := range list {
		slices.Sort(times[i])
		best := times[i][0]
		rate := c.work / float64(best.Nanoseconds())
		if i == 0 {
			first = rate
		}
		median := c.work / float64(times[i][len(times[i])/2].Nanoseconds())
		t.Logf("%-44s %8.1f %s best, %8.1f median of %d runs; best run %7.1f µs; %5.2f of the first",
			c.name, rate, c.unit, median, len(times[i]), float64(best.Nanoseconds())/1e3, rate/first)
	}
}

// both runs f(0) and f(1) on two threads. The second one spins between runs, so that some runs have both cores to
// themselves on a machine that others use.
func both(f func(i int)) func() {
	partner.Do(func() {
		go func() {
			runtime.LockOSThread()
			for seen := uint32(0); ; {
				if n := posted.Load(); n != seen {
					seen = n
					partnerWork(1)
					finished.Store(n)
				}
			}
		}()
	})
	return func() {
		partnerWork = f
		n := posted.Add(1)
		f(0)
		for finished.Load() != n {
		}
	}
}

var (
	partner          sync.Once
	partnerWork      func(i int)
	posted, finished atomic.Uint32
)

func fill[T any](n int, f func(i int) T) []T {
	v := make([]T, n)
	for i := range v {
		v[i] = f(i)
	}
	return v
}

func TestMeasurePeak(t *testing.T) {
	measuring(t)
	var list []contender
	for _, tier := range available[1:] {
		list = append(list,
			contender{tier.name + " int8", float64(2000 * tier.peak.int8Turn), "GMAC/s", func() { tier.peak.int8(2000) }},
			contender{tier.name + " f32", float64(2000 * tier.peak.f32Turn), "GMAC/s", func() { tier.peak.f32(2000) }})
	}
	race(t, list)
}

func TestMeasureTernaryMatMul(t *testing.T) {
	measuring(t)
	const rows, cols = 256, 2560
	w := fill(T16Bytes(rows, cols), func(i int) byte { return byte(i) & 0x55 })
	for _, tier := range available[1:] {
		list := []contender{{tier.name + " int8 peak", float64(2000 * tier.peak.int8Turn), "GMAC/s", func() { tier.peak.int8(2000) }}}
		for _, tokens := range []int{1, 2, 3, 4, 6, 8, 16, 32, 64, 128} {
			x := fill(cols*tokens, func(i int) int8 { return int8(i) })
			y, s, scratch := make([]int32, rows*tokens), make([]int32, tokens), make([]byte, MatMulScratch(cols))
			list = append(list, contender{fmt.Sprintf("%s %d tokens", tier.name, tokens), float64(rows * cols * tokens), "GMAC/s", func() {
				tier.ternaryMatMul(y, w, x, s, scratch)
			}})
		}
		race(t, list)
	}
}

// The matrix is far larger than L3 and each run reads a piece that the runs before have pushed out.
func TestMeasureTernaryMatVec(t *testing.T) {
	measuring(t)
	const rows, cols = 4096, 2560
	const piece = rows * cols / 4
	const pieces = 60 // 150 MB
	w := hugePages(piece * pieces)
	for i := range w {
		w[i] = byte(i) & 0x55
	}
	x := fill(cols, func(i int) int8 { return int8(i) })
	y := [2][]int32{make([]int32, rows), make([]int32, rows)}
	next := 0
	take := func() []byte {
		next = (next + 1) % pieces
		return w[next*piece:][:piece]
	}
	list := []contender{
		{"read 1 thread", piece, "GB/s", func() { ReadAll(take()) }},
		{"read 2 threads", piece, "GB/s", func() { p := take(); both(func(i int) { ReadAll(p[i*piece/2:][:piece/2]) })() }},
	}
	for _, tier := range available[1:] {
		list = append(list,
			contender{tier.name + " 1 thread", piece, "GB/s", func() { tier.ternaryMatVec(y[0], take(), x, 0) }},
			contender{tier.name + " 2 threads", piece, "GB/s", func() {
				p := take()
				both(func(i int) { tier.ternaryMatVec(y[i][:rows/2], p[i*piece/2:][:piece/2], x, 0) })()
			}},
			contender{tier.name + " from L2", piece / 4, "GB/s", func() {
				tier.ternaryMatVec(y[0][:rows/16], w[:piece/16], x, 0)
				tier.ternaryMatVec(y[0][:rows/16], w[:piece/16], x, 0)
				tier.ternaryMatVec(y[0][:rows/16], w[:piece/16], x, 0)
				tier.ternaryMatVec(y[0][:rows/16], w[:piece/16], x, 0)
			}})
	}
	for _, tier := range available[1:] {
		for _, tokens := range []int{2, 3, 4, 6, 8, 16} {
			x := fill(cols*tokens, func(i int) int8 { return int8(i) })
			y, s, scratch := make([]int32, rows*tokens), make([]int32, tokens), make([]byte, MatMulScratch(cols))
			list = append(list, contender{fmt.Sprintf("%s %d tokens", tier.name, tokens), piece, "GB/s", func() { tier.ternaryMatMul(y, take(), x, s, scratch) }})
		}
	}
	race(t, list)
}

func TestMeasureMatMul(t *testing.T) {
	measuring(t)
	const rows, cols = 96, 2560
	wf := fill(rows*cols, func(i int) float32 { return float32(i % 7) })
	wh := fill(rows*cols, func(i int) uint16 { return uint16(0x3c00 + i%7) })
	for _, tier := range available[1:] {
		list := []contender{{tier.name + " f32 peak", float64(2000 * tier.peak.f32Turn), "GMAC/s", func() { tier.peak.f32(2000) }}}
		for _, tokens := range []int{1, 2, 3, 4, 6, 12, 48} {
			x := fill(cols*tokens, func(i int) float32 { return float32(i % 5) })
			y := make([]float32, rows*tokens)
			macs := float64(rows * cols * tokens)
			list = append(list,
				contender{fmt.Sprintf("%s F32 %d tokens", tier.name, tokens), macs, "GMAC/s", func() { tier.matMulF32(y, rows, wf, x, tokens) }},
				contender{fmt.Sprintf("%s BF16 %d tokens", tier.name, tokens), macs, "GMAC/s", func() { tier.matMulBF16(y, rows, wh, x, tokens) }},
				contender{fmt.Sprintf("%s F16 %d tokens", tier.name, tokens), macs, "GMAC/s", func() { tier.matMulF16(y, rows, wh, x, tokens) }})
		}
		race(t, list)
	}
}

// Scores: short rows, from L2.
func TestMeasureAttnScores(t *testing.T) {
	measuring(t)
	const hd, n = 128, 512
	k := fill(n*hd, func(i int) float32 { return float32(i % 7) })
	for _, tier := range available[1:] {
		list := []contender{{tier.name + " f32 peak", float64(2000 * tier.peak.f32Turn), "GMAC/s", func() { tier.peak.f32(2000) }}}
		for _, tokens := range []int{1, 2, 3, 4, 8} {
			q := fill(hd*tokens, func(i int) float32 { return float32(i % 5) })
			s := make([]float32, n*tokens)
			list = append(list, contender{fmt.Sprintf("%s scores of %d queries", tier.name, tokens), n * hd * float64(tokens), "GMAC/s", func() { tier.matMulF32(s, n, k, q, tokens) }})
		}
		race(t, list)
	}
}

func TestMeasureMatVec(t *testing.T) {
	measuring(t)
	const rows, cols = 512, 2560
	const piece = rows * cols * 2
	const pieces = 60 // 157 MB
	w := hugePages(piece * pieces)
	for i := range w {
		w[i] = byte(i) & 0x3f
	}
	x := fill(cols, func(i int) float32 { return float32(i) })
	y := make([]float32, rows*4)
	next := 0
	take := func() []byte {
		next = (next + 1) % pieces
		return w[next*piece:][:piece]
	}
	u16 := func(b []byte) []uint16 { return unsafe.Slice((*uint16)(unsafe.Pointer(&b[0])), len(b)/2) }
	f32 := func(b []byte) []float32 { return unsafe.Slice((*float32)(unsafe.Pointer(&b[0])), len(b)/4) }
	x4 := fill(cols*4, func(i int) float32 { return float32(i) })
	list := []contender{{"read 1 thread", piece, "GB/s", func() { ReadAll(take()) }}}
	for _, tier := range available[1:] {
		list = append(list,
			contender{tier.name + " F32", piece, "GB/s", func() { tier.matMulF32(y, rows, f32(take()), x, 1) }},
			contender{tier.name + " BF16", piece, "GB/s", func() { tier.matMulBF16(y, rows, u16(take()), x, 1) }},
			contender{tier.name + " F16", piece, "GB/s", func() { tier.matMulF16(y, rows, u16(take()), x, 1) }},
			contender{tier.name + " F16 2 tokens", piece, "GB/s", func() { tier.matMulF16(y, rows, u16(take()), x4[:2*cols], 2) }},
			contender{tier.name + " F16 3 tokens", piece, "GB/s", func() { tier.matMulF16(y, rows, u16(take()), x4[:3*cols], 3) }},
			contender{tier.name + " F32 2 tokens", piece, "GB/s", func() { tier.matMulF32(y, rows, f32(take()), x4[:2*cols], 2) }})
	}
	race(t, list)
}

// The head of the 2B4T shape, in pieces that the runs before have pushed out of L3.
func TestMeasureScreen4(t *testing.T) {
	measuring(t)
	const rows, cols = 2048, 2560
	nc, ns := ScreenSizes(rows, cols)
	const pieces = 60
	codes, scales := hugePages(nc*pieces), make([]uint16, ns*pieces)
	for i := range codes {
		codes[i] = byte(i)
	}
	x, xs := fill(cols, func(i int) int8 { return int8(i) }), make([]float32, cols/64)
	y := [2][]float32{make([]float32, rows), make([]float32, rows)}
	next := 0
	piece := nc + 2*ns
	take := func() int {
		next = (next + 1) % pieces
		return next
	}
	list := []contender{{"read 1 thread", float64(nc), "GB/s", func() { i := take(); ReadAll(codes[i*nc:][:nc]) }}}
	for _, tier := range available[1:] {
		list = append(list, contender{tier.name + " 1 thread", float64(piece), "GB/s", func() {
			i := take()
			tier.screen4(y[0], y[1], codes[i*nc:][:nc], scales[i*ns:][:ns], x, xs, xs, xs)
		}}, contender{tier.name + " from L2", float64(piece) / 8, "GB/s", func() {
			tier.screen4(y[0][:rows/8], y[1][:rows/8], codes[:nc/8], scales[:ns/8], x, xs, xs, xs)
		}})
	}
	race(t, list)
}

// The 2B4T shape's up and down projections, dense and by rows or columns, at shares of zeros: other weights and other
// zeros each time, so that nothing is in L3.
func TestMeasureSparse(t *testing.T) {
	measuring(t)
	const D, F, layers = 2560, 6912, 60
	const size = D * F / 4
	w := hugePages(size * layers)
	rng := newRand(15)
	for i := range w {
		w[i] = byte(i*i>>7) & 0x55
	}
	next := 0
	take := func() []byte {
		next = (next + 1) % layers
		return w[next*size:][:size]
	}
	for _, tier := range available[1:] {
		x := fill(F, func(i int) int8 { return int8(i) })
		y := make([]int32, F)
		list := []contender{
			{tier.name + " up, dense", size, "GB/s", func() { tier.ternaryMatVec(y, take(), x[:D], 0) }},
			{tier.name + " down, dense", size, "GB/s", func() { tier.ternaryMatVec(y[:D], take(), x, 0) }},
		}
		for _, zeros := range []int{0, 50, 70, 80, 90} {
			index, value := make([][]int32, layers), make([][]int8, layers)
			for l := range layers {
				s := fill(F, func(i int) int8 {
					if rng.IntN(100) < zeros {
						return 0
					}
					return int8(i) | 1
				})
				index[l], value[l] = make([]int32, F), make([]int8, F)
				n := Nonzeros(index[l], value[l], s)
				index[l], value[l] = index[l][:n], value[l][:n]
			}
			list = append(list,
				contender{fmt.Sprintf("%s up, %d%% skipped", tier.name, zeros), size, "GB/s dense", func() {
					w := take()
					tier.ternaryRows(y[:len(index[next])], w, index[next], x[:D], 0)
				}},
				contender{fmt.Sprintf("%s down, %d%% skipped", tier.name, zeros), size, "GB/s dense", func() {
					w := take()
					tier.ternaryColumns(y[:D], w, D/4, index[next], value[next], 0)
				}})
		}
		i, v := make([]int32, F), make([]int8, F)
		list = append(list, contender{"Nonzeros", size, "GB/s dense", func() { Nonzeros(i, v, x) }})
		race(t, list)
	}
}

// A page of 64 keys or values of one head of 128, from L2, for the heads that share it.
func TestMeasureAttention(t *testing.T) {
	measuring(t)
	const hd, n, pages = 128, 64, 16
	k := fill(pages*n*hd, func(i int) float32 { return float32(i % 7) })
	h := fill(pages*n*hd, func(i int) uint16 { return uint16(0x3c00 + i%7) })
	for _, tier := range available[1:] {
		restoreTier(tier.name)
		list := []contender{{tier.name + " f32 peak", float64(2000 * tier.peak.f32Turn), "GMAC/s", func() { tier.peak.f32(2000) }}}
		next := 0
		page := func() int { next = (next + 1) % pages; return next * n * hd }
		for _, group := range []int{1, 2, 4} {
			q, s := fill(hd*group, func(i int) float32 { return float32(i % 5) }), make([]float32, n*group)
			out := make([]float32, hd*group)
			macs := float64(n * hd * group)
			list = append(list,
				contender{fmt.Sprintf("%s %d heads, one by one: scores", tier.name, group), macs, "GMAC/s", func() {
					p := k[page():][:n*hd]
					for g := range group {
						AttnScores(s[g*n:][:n], q[g*hd:][:hd], p, 0.1)
					}
				}},
				contender{fmt.Sprintf("%s %d heads, together: scores", tier.name, group), macs, "GMAC/s", func() { AttnScoresGroup(s, n, q, k[page():][:n*hd], group, 0.1) }},
				contender{fmt.Sprintf("%s %d heads, together: scores of F16", tier.name, group), macs, "GMAC/s", func() { AttnScoresGroupF16(s, n, q, h[page():][:n*hd], group, 0.1) }},
				contender{fmt.Sprintf("%s %d heads, one by one: mix", tier.name, group), macs, "GMAC/s", func() {
					p := k[page():][:n*hd]
					for g := range group {
						AttnMix(out[g*hd:][:hd], s[g*n:][:n], p)
					}
				}},
				contender{fmt.Sprintf("%s %d heads, together: mix", tier.name, group), macs, "GMAC/s", func() { AttnMixGroup(out, s, n, k[page():][:n*hd], group) }},
				contender{fmt.Sprintf("%s %d heads, together: mix of F16", tier.name, group), macs, "GMAC/s", func() { AttnMixGroupF16(out, s, n, h[page():][:n*hd], group) }})
		}
		race(t, list)
	}
	restoreTier(available[len(available)-1].name)
}

func TestMeasureRows(t *testing.T) {
	measuring(t)
	const n = 6912
	x, y, w := fill(n, func(i int) float32 { return float32(i%100)/50 - 1 }), make([]float32, n), make([]float32, n)
	acc, q := make([]int32, n), make([]int8, n)
	for _, tier := range available {
		unit := "G elements/s"
		race(t, []contender{
			{tier.name + " quantizeRow", n, unit, func() { tier.quantizeRow(q, x) }},
			{tier.name + " dot", n, unit, func() { tier.dotF32(x, w) }},
			{tier.name + " rmsScale", n, unit, func() { tier.rmsScale(y, x, w, 0.5) }},
			{tier.name + " relu2Mul", n, unit, func() { tier.relu2Mul(y, x, w) }},
			{tier.name + " siluMul", n, unit, func() { tier.siluMul(y, x, w) }},
			{tier.name + " gelu", n, unit, func() { tier.gelu(y, x) }},
			{tier.name + " softmaxExp", n, unit, func() { copy(y, x); tier.softmaxExp(y, 1) }},
			{tier.name + " max", n, unit, func() { tier.max(x) }},
			{tier.name + " scaleRow", n, unit, func() { tier.scaleRow(y, acc, 0.5) }},
			{tier.name + " add", n, unit, func() { tier.add(y, x) }},
			{tier.name + " rope", n, unit, func() { tier.rope(y, x[:64], x[64:128]) }},
		})
	}
}

// TestMeasureT5 compares the two layouts of a matrix that is read from memory, and of one that is not.
func TestMeasureT5(t *testing.T) {
	measuring(t)
	const rows, cols = 4096, 2560
	const pieces = 60
	t5, t16 := T5Bytes(rows, cols), T16Bytes(rows, cols)
	w := hugePages(t16 * pieces)
	for i := range w {
		w[i] = byte(i) & 0x55
	}
	x := fill(cols, func(i int) int8 { return int8(i) })
	y := [2][]int32{make([]int32, rows), make([]int32, rows)}
	next := 0
	take := func(n int) []byte {
		next = (next + 1) % pieces
		return w[next*t16:][:n]
	}
	const weights = rows * cols
	list := []contender{
		{"T16 1 thread", weights, "GMAC/s", func() { TernaryMatVec(y[0], take(t16), x, 0) }},
		{"T5 1 thread", weights, "GMAC/s", func() { TernaryMatVecT5(y[0], take(t5), x, 0) }},
		{"T16 2 threads", weights, "GMAC/s", func() {
			p := take(t16)
			both(func(i int) { TernaryMatVec(y[i][:rows/2], p[i*t16/2:][:t16/2], x, 0) })()
		}},
		{"T5 2 threads", weights, "GMAC/s", func() {
			p := take(t5)
			both(func(i int) { TernaryMatVecT5(y[i][:rows/2], p[i*t5/2:][:t5/2], x, 0) })()
		}},
		{"T16 from L2", weights / 16, "GMAC/s", func() { TernaryMatVec(y[0][:rows/16], w[:t16/16], x, 0) }},
		{"T5 from L2", weights / 16, "GMAC/s", func() { TernaryMatVecT5(y[0][:rows/16], w[:t5/16], x, 0) }},
		{"T16 from T5, from L2", weights / 16, "GMAC/s", func() { T16FromT5(w[:t16/16], w[t16:][:t5/16], rows/16, cols) }},
		{"T5 from T16", weights / 16, "GMAC/s", func() { T5FromT16(w[:t5/16], w[t16:][:t16/16], rows/16, cols) }},
	}
	race(t, list)
}
