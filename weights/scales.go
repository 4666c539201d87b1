package weights

import (
	"fmt"
	"math"

	"github.com/tritlm/trit/ternary"
)

// ScalesKey is the metadata of a GGUF file that holds the scales of its ternary tensors in full: a float32 for each
// of them, in file order. The block types have room for half precision only, so a matrix would compute a few parts
// in ten thousand otherwise than in the model it was made from. Other programs ignore the key.
const ScalesKey = "trit.weight_scales"

// ArithmeticKey is the metadata of a GGUF file that says how its ternary projections are multiplied, which their types leave open:
// "w1.58a8", by activations of 8 bits, or "weights", by activations that are floats. Other programs ignore the key.
const ArithmeticKey = "trit.arithmetic"

// The values of ArithmeticKey.
const (
	EightBits   = "w1.58a8"
	WeightsOnly = "weights"
)

// readScales gives the ternary tensors of a GGUF file the scales of ScalesKey, when it has them.
func (s *Set) readScales() error {
	if !s.gguf.KV.Has(ScalesKey) {
		return nil
	}
	scales, err := s.gguf.KV.Floats(ScalesKey)
	if err != nil {
		return fmt.Errorf("weights: %s: %w", s.path, err)
	}
	n := 0
	for _, name := range s.names {
		if t := s.tensors[name]; s.ternaryCodes(t) {
			if n < len(scales) {
				t.scale = scales[n]
			}
			n++
		}
	}
	if n != len(scales) {
		return fmt.Errorf("weights: %s: key %q has %d scales for %d ternary tensors: the file was changed; convert the model again", s.path, ScalesKey, len(scales), n)
	}
	return nil
}

// exact replaces the matrix's rounded scale by the one in full, which must round to it.
func (t *tensor) exact(m *ternary.Matrix) error {
	if t.scale == 0 || len(m.Scale) != 1 {
		return nil
	}
	if d := math.Abs(float64(t.scale)/float64(m.Scale[0]) - 1); !(d <= 1.0/1024) {
		return fmt.Errorf("has scale %g, and %g in key %q: the file is damaged", m.Scale[0], t.scale, ScalesKey)
	}
	m.Scale[0] = t.scale
	return nil
}
