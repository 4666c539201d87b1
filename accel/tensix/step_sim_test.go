//go:build linux && (amd64 || arm64)

package tensix

import (
	"context"
	"testing"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/internal/simtest"
	"github.com/tritlm/trit/accel/tensix/ttsim"
	"github.com/tritlm/trit/model"
)

// Whole tokens on the tiles: attention too is the CPU engine's, to the last bit.
func TestStepsOnTheTiles(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		for _, sh := range []synthShape{{128, 256, 4, 2, 2, 256}, {256, 384, 4, 2, 2, 256}, {256, 384, 2, 1, 2, 256}} {
			dir := t.TempDir()
			if err := writeSynth(dir, sh); err != nil {
				t.Fatal(err)
			}
			set, cfg := openModel(t, dir)
			defer set.Close()
			cpu, err := model.CPU{Threads: 1}.Load(context.Background(), cfg, set)
			if err != nil {
				t.Fatal(err)
			}
			defer cpu.Close()
			b := backend(t, s, chip.Grid{Columns: 2, Rows: 1})
			var d *Device
			b.Opened = func(opened *Device) { d = opened }
			e, err := b.Load(context.Background(), cfg, set)
			if err != nil {
				t.Fatal(err)
			}
			defer e.Close()
			run := func(e model.Engine) (hidden []float32) {
				c, err := e.NewCache(0)
				if err != nil {
					t.Fatal(err)
				}
				defer c.Close()
				for i, n := range []int{1, 1, 3, 20, 1, 10, 31, 1, 1} {
					in := []model.Input{{Cache: c, Hidden: make([]float32, n*cfg.HiddenSize)}}
					for k := range n {
						in[0].Tokens = append(in[0].Tokens, int32((7*i+13*k+5)%cfg.VocabSize))
					}
					if err := e.Forward(context.Background(), in); err != nil {
						t.Fatal(err)
					}
					hidden = append(hidden, in[0].Hidden...)
				}
				return hidden
			}
			sameBits(t, "hidden", run(e), run(cpu))
			t.Logf("%+v", d.Stats())
		}
	})
}
