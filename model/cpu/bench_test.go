package cpu_test

import (
	"context"
	"os"
	"strconv"
	"testing"

	"github.com/tritlm/trit/model"
)

// BenchmarkDecode and BenchmarkPrefill run the model that TRIT_BENCH_MODEL names, such as one that trit synth wrote.
// TRIT_BENCH_CONTEXT is how many tokens are in the cache when decoding begins.
func benchEngine(b *testing.B) model.Engine {
	path := os.Getenv("TRIT_BENCH_MODEL")
	if path == "" {
		b.Skip("TRIT_BENCH_MODEL names no model")
	}
	return loadCPU(b, path, 0)
}

func BenchmarkDecode(b *testing.B) {
	e := benchEngine(b)
	cache, err := e.NewCache(0)
	if err != nil {
		b.Fatal(err)
	}
	top := make([]model.Scored, 1)
	context0, _ := strconv.Atoi(os.Getenv("TRIT_BENCH_CONTEXT"))
	if context0 > 0 {
		if err := e.Forward(context.Background(), []model.Input{{Cache: cache, Tokens: make([]int32, context0)}}); err != nil {
			b.Fatal(err)
		}
	}
	in := []model.Input{{Cache: cache, Tokens: []int32{1}, Top: top}}
	for b.Loop() {
		if cache.Len() == context0+64 {
			cache.Truncate(context0)
		}
		if err := e.Forward(context.Background(), in); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "tok/s")
}

func BenchmarkPrefill(b *testing.B) {
	e := benchEngine(b)
	cache, err := e.NewCache(0)
	if err != nil {
		b.Fatal(err)
	}
	ids := make([]int32, 128)
	for i := range ids {
		ids[i] = int32(i)
	}
	in := []model.Input{{Cache: cache, Tokens: ids, Top: make([]model.Scored, 1)}}
	for b.Loop() {
		cache.Truncate(0)
		if err := e.Forward(context.Background(), in); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(b.N*len(ids))/b.Elapsed().Seconds(), "tok/s")
}

// BenchmarkBatch decodes so many sequences together.
func BenchmarkBatch(b *testing.B) {
	e := benchEngine(b)
	for _, n := range []int{1, 8, 32, 64} {
		b.Run(strconv.Itoa(n), func(b *testing.B) {
			in := make([]model.Input, n)
			for i := range in {
				cache, err := e.NewCache(0)
				if err != nil {
					b.Fatal(err)
				}
				defer cache.Close()
				in[i] = model.Input{Cache: cache, Tokens: []int32{int32(100 + i)}, Top: make([]model.Scored, 1)}
			}
			for b.Loop() {
				if err := e.Forward(context.Background(), in); err != nil {
					b.Fatal(err)
				}
				for i := range in {
					in[i].Tokens[0] = in[i].Top[0].ID
					if in[i].Cache.Len() == 64 {
						in[i].Cache.Truncate(0)
					}
				}
			}
			b.ReportMetric(float64(n*b.N)/b.Elapsed().Seconds(), "tok/s")
		})
	}
}
