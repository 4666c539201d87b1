package kernel

import (
	"flag"
	"fmt"
	"runtime"
	"slices"
	"sync"
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

// both runs f(0) and f(1) on two threads.
func both(f func(i int)) func() {
	return func() {
		var wg sync.WaitGroup
		wg.Go(func() { f(1) })
		f(0)
		wg.Wait()
	}
}

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
