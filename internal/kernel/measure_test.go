package kernel

import (
	"context"
	"flag"
	"fmt"
	"testing"
	"time"
)

// What kernels gain over other ways to do the same; trit bench --kernels shows how fast they are. Every contender runs in turn.
//
//	go test ./internal/kernel -run Measure -v -args -measure 3s
var measure = flag.Duration("measure", 0, "time for each race of a Measure test; 0 skips them")

type entrant struct {
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

// race prints each entrant's best rate and its ratio to the first one's.
func race(t *testing.T, list []entrant) {
	runs := make([]*timed, len(list))
	for i, c := range list {
		runs[i] = &timed{f: func(int) { c.f() }}
	}
	if err := alternate(context.Background(), 1, *measure, runs, nil); err != nil {
		t.Fatal(err)
	}
	rate := func(i int) float64 {
		return list[i].work * float64(runs[i].calls) / float64(runs[i].least.Nanoseconds())
	}
	for i, c := range list {
		t.Logf("%-44s %8.1f %s; best of %d runs; %5.2f of the first", c.name, rate(i), c.unit, runs[i].runs, rate(i)/rate(0))
	}
}

func fill[T any](n int, f func(i int) T) []T {
	v := make([]T, n)
	for i := range v {
		v[i] = f(i)
	}
	return v
}

// TestMeasure is not about how fast, but that every kernel of every tier is there, and that a limit is one.
func TestMeasure(t *testing.T) {
	for _, threads := range []int{1, 2} {
		list, limits, err := Measure(t.Context(), MeasureOptions{Threads: threads, Time: time.Nanosecond})
		if err != nil {
			t.Fatal(err)
		}
		// Bytes a second, not gigabytes: an emulator on a busy machine read 8e7.
		if limits.Int8 <= 0 || limits.F32 <= 0 || limits.Read < 1e7 || limits.Read > 1e13 {
			t.Errorf("limits %+v", limits)
		}
		of := map[string]int{}
		for _, s := range list {
			of[s.Tier]++
			// Single runs on a machine that others use: a limit may have been measured at a bad moment.
			if s.MACs+s.Bytes <= 0 || s.Peak < 0 || s.Read < 0 {
				t.Errorf("%+v", s)
			}
		}
		for _, tier := range Tiers() {
			if of[tier] != len(list)/len(Tiers()) || of[tier] < 20 {
				t.Errorf("%d kernels of tier %s among %d", of[tier], tier, len(list))
			}
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if _, err := MeasureLimits(ctx, MeasureOptions{}); err != context.Canceled {
		t.Errorf("cancelled: %v", err)
	}
}

// The head of the 2B4T shape, in pieces that the runs before have pushed out of L3.
func TestMeasureScreen(t *testing.T) {
	measuring(t)
	const rows, cols = 2048, 2560
	nc, ns, _ := ScreenSizes(rows, cols)
	const pieces = 60
	codes, free := hugePages(nc * pieces)
	defer free()
	scales := make([]uint16, ns*pieces)
	for i := range codes {
		codes[i] = byte(i)
	}
	x, xs := fill(cols, func(i int) int8 { return int8(i) }), make([]float32, cols/64)
	y, norm := [2][]float32{make([]float32, rows), make([]float32, rows)}, make([]float32, rows)
	next := 0
	piece := nc + 2*ns
	take := func() int {
		next = (next + 1) % pieces
		return next
	}
	list := []entrant{{"read 1 thread", float64(nc), "GB/s", func() { i := take(); ReadAll(codes[i*nc:][:nc]) }}}
	for _, tier := range available[1:] {
		list = append(list, entrant{tier.name + " 1 thread", float64(piece), "GB/s", func() {
			i := take()
			tier.screen(y[0], y[1], 0, codes[i*nc:][:nc], scales[i*ns:][:ns], norm, x, xs, xs, xs, norm[:1])
		}}, entrant{tier.name + " from L2", float64(piece) / 8, "GB/s", func() {
			tier.screen(y[0], y[1], 0, codes[:nc/8], scales[:ns/8], norm[:rows/8], x, xs, xs, xs, norm[:1])
		}})
		for _, queries := range []int{2, 4, 16} {
			x, xs := fill(queries*cols, func(i int) int8 { return int8(i) }), make([]float32, queries*cols/64)
			y, v := make([]float32, queries*rows/8), make([]float32, queries*rows/8)
			list = append(list, entrant{fmt.Sprintf("%s from L2, %d queries", tier.name, queries), float64(queries*piece) / 8, "GB/s a query", func() {
				tier.screen(y, v, rows/8, codes[:nc/8], scales[:ns/8], norm[:rows/8], x, xs, xs, xs, norm[:queries])
			}})
		}
	}
	race(t, list)
}

// The 2B4T shape's up and down projections, dense and by rows or columns, at shares of zeros: other weights and other
// zeros each time, so that nothing is in L3.
func TestMeasureSparse(t *testing.T) {
	measuring(t)
	const D, F, layers = 2560, 6912, 60
	const size = D * F / 4
	w, free := hugePages(size * layers)
	defer free()
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
		list := []entrant{
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
				entrant{fmt.Sprintf("%s up, %d%% skipped", tier.name, zeros), size, "GB/s dense", func() {
					w := take()
					tier.ternaryRows(y[:len(index[next])], w, index[next], x[:D], 0)
				}},
				entrant{fmt.Sprintf("%s down, %d%% skipped", tier.name, zeros), size, "GB/s dense", func() {
					w := take()
					tier.ternaryColumns(y[:D], w, D/4, index[next], value[next], 0)
				}})
		}
		i, v := make([]int32, F), make([]int8, F)
		list = append(list, entrant{"Nonzeros", size, "GB/s dense", func() { Nonzeros(i, v, x) }})
		race(t, list)
	}
}

// A page of keys or values of one head of 128, from L2, for the heads that share it and for a prompt's rows.
func TestMeasureAttention(t *testing.T) {
	measuring(t)
	const hd, n, pages = 128, KeyTile, 32
	k := fill(pages*n*hd, func(i int) float32 { return float32(i % 7) })
	h := fill(pages*n*hd, func(i int) uint16 { return uint16(0x3c00 + i%7) })
	b := fill(pages*n*hd, func(i int) int8 { return int8(i) })
	for _, tier := range available[1:] {
		list := []entrant{{tier.name + " f32 peak", float64(2000 * tier.peak.f32Turn), "GMAC/s", func() { tier.peak.f32(2000) }}}
		next := 0
		page := func() int { next = (next + 1) % pages; return next * n * hd }
		for _, group := range []int{1, 2, 4, 8, 32} {
			q, s := fill(hd*group, func(i int) float32 { return float32(i % 5) }), make([]float32, n*group)
			out, scales := make([]float32, hd*group), make([]float32, n)
			add := func(what string, f func()) {
				list = append(list, entrant{fmt.Sprintf("%s %d heads: %s", tier.name, group, what), float64(n * hd * group), "GMAC/s", f})
			}
			add("scores", func() { tier.attnScoresF32(s, n, q, k[page():][:n*hd], group, 0.1, 0) })
			add("scores of F16", func() { tier.attnScoresF16(s, n, q, h[page():][:n*hd], group, 0.1, 0) })
			add("scores of int8", func() { tier.attnScoresI8(s, n, q, b[page():][:n*hd], scales, group, 0.1, 0) })
			add("mix", func() { tier.attnMixF32(out, s, n, k[page():][:n*hd], group, 0) })
			add("mix of F16", func() { tier.attnMixF16(out, s, n, h[page():][:n*hd], group, 0) })
			add("mix of int8", func() { tier.attnMixI8(out, s, n, b[page():][:n*hd], scales, group, 0) })
		}
		race(t, list)
	}
}

func TestMeasureRows(t *testing.T) {
	measuring(t)
	const n = 6912
	x, y, w := fill(n, func(i int) float32 { return float32(i%100)/50 - 1 }), make([]float32, n), make([]float32, n)
	acc, q := make([]int32, n), make([]int8, n)
	for _, tier := range available {
		unit := "G elements/s"
		race(t, []entrant{
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

// A panel of gate_proj of the 2B4T shape in T5 for several tokens: straight, and through T16.
func TestMeasureT5MatMul(t *testing.T) {
	measuring(t)
	const rows, cols, pieces = 256, 2560, 1200
	size := T5Bytes(rows, cols)
	w, free := hugePages(size * pieces)
	defer free()
	for i := range w {
		w[i] = byte(i % 251)
	}
	vnni := available[len(available)-1]
	if !vnni.preferT5 {
		t.Skip("this tier does not decode from T5")
	}
	next := 0
	for _, tokens := range []int{2, 4, 8, 16, 32, 64} {
		x := fill(tokens*cols, func(i int) int8 { return int8(i) })
		y, sums, scratch, t16 := make([]int32, tokens*rows), make([]int32, tokens), make([]byte, MatMulScratch(cols)), make([]byte, T16Bytes(rows, cols))
		macs := float64(rows * cols * tokens)
		var list []entrant
		for _, from := range []string{"L2", "memory"} {
			take := func() []byte {
				if from == "memory" {
					next = (next + 1) % pieces
				}
				return w[next*size:][:size]
			}
			list = append(list, entrant{fmt.Sprintf("%d tokens, from %s, T16", tokens, from), macs, "GMAC/s", func() {
				vnni.t16FromT5(t16, take(), rows, cols)
				vnni.ternaryMatMul(y, t16, x, sums, scratch)
			}}, entrant{fmt.Sprintf("%d tokens, from %s, straight", tokens, from), macs, "GMAC/s", func() {
				vnni.ternaryMatMulT5(y, take(), x, sums)
			}})
		}
		race(t, list)
	}
}
