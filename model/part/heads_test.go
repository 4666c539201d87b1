package part

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/internal/par"
)

// attending are attentions of as many layers, without projections, and a cache with room for n tokens.
func attending(t testing.TB, a *Attention, layers, threads, n int, kv KVType) (list []*attention, cache *Cache) {
	t.Helper()
	pool := par.New(threads)
	t.Cleanup(pool.Close)
	pages := NewPages(kv)
	t.Cleanup(pages.Close)
	b := NewBlock(pool, nil, a.Heads*a.HeadDim)
	for range layers {
		r := &attention{Attention: a, b: b, at: pages.place(a.KVHeads, a.HeadDim), scale: float32(1 / math.Sqrt(float64(a.HeadDim)))}
		r.attend, r.attendSpan, r.attendJoin = r.attendTile, r.attendOneSpan, r.joinSpans
		list = append(list, r)
	}
	b.heads, b.kvHeads = a.Heads*a.HeadDim, a.KVHeads*kernel.Pad16(a.HeadDim)
	return list, pages.NewCache(n)
}

// blockOf begins a block of rows behind the cache's tokens.
func blockOf(t testing.TB, b *Block, cache *Cache, rows int) {
	t.Helper()
	b.Start()
	if err := b.Add(cache, make([]int32, rows)); err != nil {
		t.Fatal(err)
	}
	b.Prepare()
}

// The engine's attention, by tiles of rows, groups of heads, pages and threads that share spans, is kernel.Attention.
func TestAttentionIsItsDefinition(t *testing.T) {
	rng := rand.New(rand.NewPCG(5, 6))
	for _, threads := range []int{1, 2, 3} {
		list, cache := attending(t, &Attention{Heads: 6, KVHeads: 2, HeadDim: 32}, 1, threads, 1200, KVFloat32)
		a, b := list[0], list[0].b
		var keys, values [2][]float32
		for _, rows := range []int{1, 40, 1, 240, 7, 260, 1, 1} {
			blockOf(t, b, cache, rows)
			for i := range b.q[:rows*192] {
				b.q[i] = 3 * float32(rng.NormFloat64())
			}
			first := len(keys[0]) / 32
			for r := range rows {
				for h := range keys {
					k, v := make([]float32, 32), make([]float32, 32)
					for i := range k {
						k[i], v[i] = float32(rng.NormFloat64()), float32(rng.NormFloat64())
					}
					keys[h], values[h] = append(keys[h], k...), append(values[h], v...)
					cache.pages[(first+r)/pageTokens].of(a.at, h).store((first+r)%pageTokens, k, v, nil)
				}
			}
			a.attendAll()
			want := make([]float32, 32)
			for r := range rows {
				for h := range 6 {
					n := (first + r + 1) * 32
					kernel.Attention(want, b.q[(r*6+h)*32:][:32], keys[h/3][:n], values[h/3][:n], float32(1/math.Sqrt(32)))
					for i, w := range want {
						if got := b.h[(r*6+h)*32+i]; math.Float32bits(got) != math.Float32bits(w) {
							t.Fatalf("%d threads, token %d, head %d: column %d is %g, want %g", threads, first+r, h, i, got, w)
						}
					}
				}
			}
		}
	}
}

// BenchmarkAttention is the attention of all layers of the 2B4T shape for one token behind 2,000 others, from memory,
// and of a chunk of a prompt.
func BenchmarkAttention(b *testing.B) {
	for _, kv := range []KVType{KVFloat32, KVFloat16, KVInt8} {
		for _, rows := range []int{1, 256} {
			b.Run(fmt.Sprintf("%v/%d", kv, rows), func(b *testing.B) {
				const before = 2000
				shape := &Attention{Heads: 20, KVHeads: 5, HeadDim: 128}
				list, cache := attending(b, shape, 30, 0, before+rows, kv)
				bytes := 30 * kv.Bytes(shape.KVHeads, shape.HeadDim)
				if err := cache.grow(before); err != nil {
					b.Fatal(err)
				}
				cache.n = before
				blockOf(b, list[0].b, cache, rows)
				for _, pg := range cache.pages {
					clear(pg.data) // or all of it would be one page of zeros
				}
				b.Run("read", func(b *testing.B) {
					b.SetBytes(int64(cache.n) * bytes)
					for b.Loop() {
						list[0].b.pool.Run(len(cache.pages), func(i, _ int) { kernel.ReadAll(cache.pages[i].data) })
					}
				})
				b.Run("attend", func(b *testing.B) {
					b.SetBytes(int64(cache.n) * bytes)
					for b.Loop() {
						for _, a := range list {
							a.attendAll()
						}
					}
					b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*len(list)), "µs/layer")
				})
			})
		}
	}
}
