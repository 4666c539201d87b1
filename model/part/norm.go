package part

import (
	"math"

	"github.com/tritlm/trit/internal/kernel"
)

// Norm is an RMSNorm,
//
//	y = w·x/√(mean(x²)+eps)
//
// or with Offset (1+w)·x/…, or with Centered a LayerNorm with bias, (x-mean)/√(var+eps)·w + b.
type Norm struct {
	Name     string // of the module: its tensors are Name.weight and, with Centered, Name.bias
	Width    int
	Eps      float32
	Offset   bool
	Centered bool
}

// norm is a Norm that is loaded. Without weights it is none.
type norm struct {
	w, b []float32
	eps  float32
}

func (l *Loader) norm(n *Norm) (norm, error) {
	v, err := l.Weights.Vector(n.Name+".weight", n.Width)
	if err != nil {
		return norm{}, err
	}
	if n.Offset {
		for i := range v {
			v[i]++
		}
	}
	out := norm{w: v, eps: n.Eps}
	if n.Centered {
		if out.b, err = l.Weights.Vector(n.Name+".bias", n.Width); err != nil {
			return norm{}, err
		}
	}
	return out, nil
}

// apply computes y from x, which may be the same.
func (n *norm) apply(y, x []float32) {
	if n.b != nil {
		layerNorm(y, x, n.w, n.b, n.eps)
		return
	}
	kernel.RMSNorm(y, x, n.w, n.eps)
}

// layerNorm has its sums in float64.
func layerNorm(y, x, w, b []float32, eps float32) {
	var sum, sq float64
	for _, v := range x {
		sum += float64(v)
	}
	mean := sum / float64(len(x))
	for _, v := range x {
		d := float64(v) - mean
		sq += float64(d * d)
	}
	inv := 1 / math.Sqrt(sq/float64(len(x))+float64(eps))
	for i, v := range x {
		n := float32((float64(v) - mean) * inv)
		y[i] = float32(n*w[i]) + b[i]
	}
}

// NormRunner is a Norm that is loaded, for the one behind the last layer.
type NormRunner struct{ norm }

// Norm loads one.
func (l *Loader) Norm(n *Norm) (*NormRunner, error) {
	v, err := l.norm(n)
	return &NormRunner{v}, err
}

// Apply computes y from x, which may be the same.
func (n *NormRunner) Apply(y, x []float32) { n.apply(y, x) }
