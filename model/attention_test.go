package model

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/internal/par"
)

// attending is a decoder that can do nothing but attention, and a cache with room for n tokens.
func attending(t testing.TB, c *Config, threads, n int) (*decoder, *kvCache) {
	t.Helper()
	d := &decoder{cfg: c, pool: par.New(threads), pages: newPagePool(c)}
	t.Cleanup(d.pool.Close)
	t.Cleanup(d.pages.close)
	d.workers = make([]workerScratch, d.pool.Threads())
	d.stages = newStages(d)
	d.stages.layer = &layer{}
	return d, newKVCache(d.pages, n)
}

// blockOf begins a block of rows behind the cache's tokens.
func (d *decoder) blockOf(t testing.TB, cache *kvCache, rows int) {
	t.Helper()
	d.s.startBlock()
	if err := d.s.add(&Input{Cache: cache}, 0, rows); err != nil {
		t.Fatal(err)
	}
	d.s.grow(d.cfg, rows, false)
	d.planAttention()
}

// The engine's attention, by tiles of rows, groups of heads, pages and threads that share spans, is kernel.Attention.
func TestAttentionIsItsDefinition(t *testing.T) {
	c := &Config{NumLayers: 1, NumHeads: 6, NumKVHeads: 2, HeadDim: 32, HiddenSize: 192, IntermediateSize: 192}
	rng := rand.New(rand.NewPCG(5, 6))
	for _, threads := range []int{1, 2, 3} {
		d, cache := attending(t, c, threads, 1200)
		var keys, values [2][]float32
		for _, rows := range []int{1, 40, 1, 240, 7, 260, 1, 1} {
			d.blockOf(t, cache, rows)
			for i := range d.s.q[:rows*192] {
				d.s.q[i] = 3 * float32(rng.NormFloat64())
			}
			first := len(keys[0]) / 32
			for r := range rows {
				for h := range keys {
					k, v := make([]float32, 32), make([]float32, 32)
					for i := range k {
						k[i], v[i] = float32(rng.NormFloat64()), float32(rng.NormFloat64())
					}
					keys[h], values[h] = append(keys[h], k...), append(values[h], v...)
					cache.pages[(first+r)/pageTokens].of(0, h).store((first+r)%pageTokens, k, v, nil)
				}
			}
			d.attention()
			want := make([]float32, 32)
			for r := range rows {
				for h := range 6 {
					n := (first + r + 1) * 32
					kernel.Attention(want, d.s.q[(r*6+h)*32:][:32], keys[h/3][:n], values[h/3][:n], float32(1/math.Sqrt(32)))
					for i, w := range want {
						if got := d.s.h[(r*6+h)*32+i]; math.Float32bits(got) != math.Float32bits(w) {
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
				c := &Config{NumLayers: 30, NumHeads: 20, NumKVHeads: 5, HeadDim: 128, HiddenSize: 2560, IntermediateSize: 6912, KV: kv}
				d, cache := attending(b, c, 0, before+rows)
				if err := cache.grow(before); err != nil {
					b.Fatal(err)
				}
				cache.n = before
				d.blockOf(b, cache, rows)
				for _, pg := range cache.pages {
					clear(pg.data) // or all of it would be one page of zeros
				}
				b.Run("read", func(b *testing.B) {
					b.SetBytes(int64(cache.n) * c.KVBytes())
					for b.Loop() {
						d.pool.Run(len(cache.pages), func(i, _ int) { kernel.ReadAll(cache.pages[i].data) })
					}
				})
				b.Run("attend", func(b *testing.B) {
					b.SetBytes(int64(cache.n) * c.KVBytes())
					for b.Loop() {
						for n := range c.NumLayers {
							d.stages.number = n
							d.attention()
						}
					}
					b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*c.NumLayers), "µs/layer")
				})
			})
		}
	}
}
