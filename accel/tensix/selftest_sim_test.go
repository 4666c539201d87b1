//go:build linux && (amd64 || arm64)

package tensix

import (
	"context"
	"testing"
	"time"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/internal/simtest"
	"github.com/tritlm/trit/accel/tensix/ttsim"
)

func TestSelfTestOnTheSimulator(t *testing.T) {
	simtest.Run(t, func(t *testing.T, s *ttsim.Sim) {
		g := chip.Grid{Columns: 3, Rows: 2}
		if *long {
			g = chip.Grid{}
		}
		if err := SelfTest(context.Background(), s, g, func(r Rung) { t.Logf("%-12s %8v  %s", r.Name, r.Took.Round(time.Millisecond), r.Says) }); err != nil {
			t.Fatal(err)
		}
	})
}
