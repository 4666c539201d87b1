package model

import (
	"fmt"
	"testing"

	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/internal/par"
)

// BenchmarkAttention is the attention of all layers of the 2B4T shape for one token behind 2,000 others, from memory,
// and of a chunk of a prompt.
func BenchmarkAttention(b *testing.B) {
	for _, kv := range []KVType{KVFloat32, KVFloat16, KVInt8} {
		for _, rows := range []int{1, 256} {
			b.Run(fmt.Sprintf("%v/%d", kv, rows), func(b *testing.B) {
				const before = 2000
				c := &Config{NumLayers: 30, NumHeads: 20, NumKVHeads: 5, HeadDim: 128, HiddenSize: 2560, IntermediateSize: 6912, KV: kv}
				d := &decoder{cfg: c, pool: par.New(0), pages: newPagePool(c)}
				defer d.pool.Close()
				defer d.pages.close()
				d.workers = make([]workerScratch, d.pool.Threads())
				d.stages = newStages(d)
				cache := newKVCache(d.pages, before+rows)
				cache.grow(before)
				cache.n = before
				d.s.startBlock()
				d.s.add(&Input{Cache: cache}, 0, rows)
				d.s.grow(c, rows, false)
				for _, pg := range cache.pages {
					clear(pg.data) // or all of it would be one page of zeros
				}
				d.planAttention()
				layer := layer{}
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
							d.stages.layer, d.stages.number = &layer, n
							d.attention()
						}
					}
					b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N*c.NumLayers), "µs/layer")
				})
			})
		}
	}
}
