package part

import (
	"context"
	"fmt"
	"slices"

	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/ternary"
)

// Activations is how the inputs of projections of weights alone are rounded, of each group of columns.
type Activations uint8

const (
	// Activations16 rounds to 16 bits: as good as float32 for every purpose that we know (kernel.GroupMatMul).
	Activations16 Activations = iota
	// Activations8 rounds to 8 bits, as other engines do: faster for prompts, and another text.
	Activations8
)

var activationNames = [...]string{"int16", "int8"}

func (a Activations) String() string { return activationNames[a] }

// MarshalText and UnmarshalText write and read int16 and int8.
func (a Activations) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

func (a *Activations) UnmarshalText(text []byte) error {
	i := slices.Index(activationNames[:], string(text))
	if i < 0 {
		return fmt.Errorf("part: activations of %q; want int16 or int8", text)
	}
	*a = Activations(i)
	return nil
}

// planes is how many int8 planes hold them.
func (a Activations) planes() int {
	if a == Activations8 {
		return 1
	}
	return 2
}

// WeightProducts is what Products may do besides: products of weights alone, in groups with a scale each.
type WeightProducts interface {
	// LoadWeights makes the matrix resident and returns its number, in order of loading.
	LoadWeights(m Matrix, read func() (*ternary.Groups, error)) (id int, err error)
	// MultiplyWeights computes y[i] = W[ids[i]]·x, [tokens, rows rounded up to a multiple of 16]. All have the groups of x.
	MultiplyWeights(ctx context.Context, ids []int, y [][]float32, x *kernel.Planes) error
}

// Rotation is a signed Walsh–Hadamard transform of a projection's input, which its weights were folded with:
//
//	x' = H(s ⊙ x) per block of columns;  H in Sylvester's order, divided by √Block
//
// Behind an embedding whose rows were folded so, it is undone: h = s ⊙ H(z).
type Rotation struct {
	Block int
	Signs []float32 // [columns] ±1, nil: all +1
}

// Apply transforms one row in place.
func (r *Rotation) Apply(x []float32) { kernel.Hadamard(x, r.Block, r.Signs, nil) }

// Undo transforms it back.
func (r *Rotation) Undo(x []float32) { kernel.Hadamard(x, r.Block, nil, r.Signs) }

// planeSet is a bank's input as some of its projections need it: rotated or not, rounded in groups of so many columns.
type planeSet struct {
	rotation *Rotation
	group    int
	planes   *kernel.Planes // of the block: a bank prepares and multiplies, then comes the next
	ls       []int          // the projections
}

// planeSetOf finds or makes the one for projection i.
func (k *bank) addPlanes(i int, l *linear) {
	for j := range k.planes {
		if s := &k.planes[j]; s.rotation == l.Rotation && s.group == l.group {
			s.ls = append(s.ls, i)
			return
		}
	}
	n := len(k.planes)
	if n == len(k.b.planes) {
		k.b.planes = append(k.b.planes, &kernel.Planes{})
	}
	k.planes = append(k.planes, planeSet{rotation: l.Rotation, group: l.group, planes: k.b.planes[n], ls: []int{i}})
}

// makePlanes makes room for the block's rows.
func (k *bank) makePlanes() {
	for i := range k.planes {
		s := &k.planes[i]
		s.planes.Resize(k.b.n, k.cols, s.group, k.b.activations.planes())
	}
}

// roundRow rounds row r of the input for the projections of weights alone.
func (k *bank) roundRow(r int) {
	for i := range k.planes {
		s, x := &k.planes[i], k.row(r)
		if s.rotation != nil {
			turned := k.b.turned[r*k.cols:][:k.cols]
			copy(turned, x)
			s.rotation.Apply(turned)
			x = turned
		}
		kernel.QuantizeGroups(s.planes, r, x)
	}
}

// multiplyWeights computes the products of the projections [from, to) of weights alone, into slots 0, 1, …
func (k *bank) multiplyWeights(ctx context.Context, from, to int) error {
	for i := range k.planes {
		s := &k.planes[i]
		k.ids, k.outs = k.ids[:0], k.outs[:0]
		for _, j := range s.ls {
			if j >= from && j < to {
				l := &k.ls[j]
				k.ids = append(k.ids, l.id)
				k.outs = append(k.outs, k.b.slots[j-from].out[:k.b.n*roundUp16(l.Out)])
			}
		}
		if len(k.ids) == 0 {
			continue
		}
		if err := k.b.weights.MultiplyWeights(ctx, k.ids, k.outs, s.planes); err != nil {
			return err
		}
	}
	return nil
}
