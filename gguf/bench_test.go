package gguf

import (
	"bytes"
	"fmt"
	"testing"
)

// BenchmarkRead reads the directory of a file with the vocabulary of the 2B model.
func BenchmarkRead(b *testing.B) {
	tokens, merges, types := make([]string, 128256), make([]string, 280147), make([]int32, 128256)
	for i := range tokens {
		tokens[i] = fmt.Sprintf("Ġtok%d", i)
	}
	for i := range merges {
		merges[i] = fmt.Sprintf("Ġa%d b%d", i, i)
	}
	kv := KV{{"tokenizer.ggml.tokens", tokens}, {"tokenizer.ggml.merges", merges}, {"tokenizer.ggml.token_type", types}}
	var tensors []Tensor
	for i := range 332 {
		tensors = append(tensors, Tensor{Name: fmt.Sprintf("blk.%d.attn_norm.weight", i), Type: F32, Shape: []int{256}})
	}
	file := write(b, kv, tensors)
	b.SetBytes(int64(len(file)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Read(bytes.NewReader(file), int64(len(file)), "m.gguf"); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkDequantize(b *testing.B) {
	x := make([]float32, 2560*64)
	for i := range x {
		x[i] = float32(i%113) - 56
	}
	for _, t := range []Type{F32, F16, BF16, Q8_0, Q4_0, Q6_K} {
		size, _ := t.Size(len(x))
		src := make([]byte, size)
		if err := Quantize(src, t, x); err != nil {
			b.Fatal(err)
		}
		b.Run(t.String(), func(b *testing.B) {
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				if err := Dequantize(x, t, src); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(x))*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gvalues/s")
		})
		b.Run("quantize-"+t.String(), func(b *testing.B) {
			b.SetBytes(size)
			for b.Loop() {
				if err := Quantize(src, t, x); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(len(x))*float64(b.N)/b.Elapsed().Seconds()/1e9, "Gvalues/s")
		})
	}
}
