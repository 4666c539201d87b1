package train

import (
	"fmt"
	"testing"

	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/train/nn"
)

// BenchmarkStep times forward, backward and nothing else on the study's shape with a smaller batch.
func BenchmarkStep(b *testing.B) {
	for _, threads := range []int{1, 2} {
		for _, mode := range []struct {
			precision string
			grad      nn.GradMode
		}{{"ternary", nn.GradI16}, {"ternary", nn.GradF32}, {"float", nn.GradF32}} {
			b.Run(fmt.Sprintf("%s/%d/threads=%d", mode.precision, mode.grad, threads), func(b *testing.B) {
				pool := par.New(threads)
				defer pool.Close()
				c, _ := Preset("study", "llama", mode.precision)
				c.VocabSize = 65
				m, err := New(c, pool, 1)
				if err != nil {
					b.Fatal(err)
				}
				m.SetGradMode(mode.grad)
				const B = 8
				s := m.NewState(B, c.Block)
				ids, target := randomBatch(1, B*c.Block, 65)
				for b.Loop() {
					m.Quantize()
					m.Gradient(s, ids, target, 1)
				}
				b.ReportMetric(float64(b.N*B*c.Block)/b.Elapsed().Seconds(), "tokens/s")
			})
		}
	}
}
