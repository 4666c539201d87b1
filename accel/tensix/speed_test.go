package tensix

import (
	"strings"
	"testing"

	"github.com/tritlm/trit/model"
)

// The model of 2B4T's speed rests on counts that can be worked out by hand.
func TestSpeedModelCounts(t *testing.T) {
	c := &model.Config{HiddenSize: 2560, IntermediateSize: 6912, NumLayers: 30, NumHeads: 20, NumKVHeads: 5, HeadDim: 128, VocabSize: 128256, MaxContext: 4096}
	s, err := ModelSpeed(c, 1, 128)
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
	if s.Bound >= s.Expected || s.Bound < 1.6e-3 || s.Expected > 20e-3 {
		t.Errorf("bound %g s, expected %g s", s.Bound, s.Expected)
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
