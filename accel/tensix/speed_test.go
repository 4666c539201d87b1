package tensix

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/tritlm/trit/accel/tensix/chip"
	"github.com/tritlm/trit/accel/tensix/driver"
	"github.com/tritlm/trit/accel/tensix/kernels"
	"github.com/tritlm/trit/model/part"
)

// The model of 2B4T's speed rests on counts that can be worked out by hand.
func TestSpeedModelCounts(t *testing.T) {
	c := BitNet2B4T()
	s, err := ModelSpeed(c, 1, 128, ProductsAlone)
	if err != nil {
		t.Fatal(err)
	}
	const weights = 30 * (3840*2560 + 2560*2560 + 13824*2560 + 2560*6912)
	if want := weights/4 + 128256*2560; s.WeightBytes != want {
		t.Errorf("%d bytes of weights, want %d", s.WeightBytes, want)
	}
	if s.Jobs != 121 {
		t.Errorf("%d jobs, want four a layer and the head", s.Jobs)
	}
	if want := 30*(1+1+4+1) + 34; s.BusiestTile != want {
		t.Errorf("the busiest tile has %d chunks, want %d", s.BusiestTile, want)
	}
	if s.Pessimistic <= s.Expected || s.Casts < 120*32 || s.Fences != 2*121 {
		t.Errorf("pessimistic %g s, expected %g s, %d multicasts, %d fences", s.Pessimistic, s.Expected, s.Casts, s.Fences)
	}
	if s.Bound >= s.Expected || s.Bound < 1.6e-3 || s.Expected > 20e-3 {
		t.Errorf("bound %g s, expected %g s", s.Bound, s.Expected)
	}
	blocks, err := ModelSpeed(c, 32, 128, Blocks)
	if err != nil {
		t.Fatal(err)
	}
	if blocks.Jobs != 32 {
		t.Errorf("%d jobs in blocks, want the first queries, a layer's each, and the head", blocks.Jobs)
	}
	if full, _ := ModelSpeed(c, 32, 128, ProductsAlone); blocks.WeightBytes != full.WeightBytes || blocks.PCIeBytes > full.PCIeBytes/5 {
		t.Errorf("in blocks: %+v, layer by layer %+v", blocks, full)
	}
	steps, err := ModelSpeed(c, 2, 100, Steps)
	if err != nil {
		t.Fatal(err)
	}
	if steps.Jobs != 2 {
		t.Errorf("%d jobs for whole tokens, want one and the head", steps.Jobs)
	}
	if want := 2 * 30 * 20 * 2 * 128 * 128 * 4; steps.CacheBytes != want { // four blocks of 32 tokens for each query head
		t.Errorf("%d bytes of keys and values, want %d", steps.CacheBytes, want)
	}
	if full, _ := ModelSpeed(c, 2, 100, ProductsAlone); steps.WeightBytes != full.WeightBytes {
		t.Errorf("whole tokens: %+v, layer by layer %+v", steps, full)
	}
	llama := BitNet2B4T()
	for i := range llama.Layers {
		l := &llama.Layers[i]
		l.Mixer.(*part.Attention).SubNorm = nil
		g := l.FeedForward.(*part.Gated)
		g.Activation, g.SubNorm = part.SiLU, nil
	}
	silu, err := ModelSpeed(llama, 1, 128, Steps)
	if err != nil || silu.Jobs != 2 || silu.WeightBytes != s.WeightBytes {
		t.Errorf("SiLU without norms in front of o and down: %+v, %v", silu, err)
	}
	var b strings.Builder
	if err := WriteSpeed(&b, c); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(b.String(), "NOT A MEASUREMENT") {
		t.Error("the speed model does not say what it is")
	}
	t.Log("\n" + b.String())
}

// mute is a machine whose tiles never say that they run.
type mute struct{ *counter }

type muteWindow struct{ driver.Window }

func (m mute) Window(size uint64, wc bool) (driver.Window, error) {
	w, err := m.counter.Window(size, wc)
	return &muteWindow{w}, err
}

func (w *muteWindow) Read(off uint64, b []byte) {
	w.Window.Read(off, b)
	if binary.LittleEndian.Uint32(b) == kernels.Ready {
		clear(b)
	}
}

func TestDeadTileIsNamed(t *testing.T) {
	m := mute{&counter{columns: 2, banks: 8, tiles: 20}}
	_, err := Open(m, Options{Clocks: 1000})
	if !errors.Is(err, ErrDeadTile) || !strings.Contains(err.Error(), "of tile (") {
		t.Errorf("got %v", err)
	}
	if _, err := Open(m, Options{Grid: chip.Grid{Columns: 3, Rows: 1}}); err == nil || !strings.Contains(err.Error(), "harvested") {
		t.Errorf("a grid that the chip does not have: %v", err)
	}
}

// A model that is too large is refused before anything is written.
func TestMemoryIsBounded(t *testing.T) {
	d, err := Open(&counter{columns: 12, banks: 8, tiles: 120}, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.reserve(newMatrix("huge", kernels.Int8, 8<<20, 4096)); !errors.Is(err, ErrMemory) {
		t.Errorf("34 GB in 32: %v", err)
	}
}
