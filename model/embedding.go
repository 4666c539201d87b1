package model

import (
	"fmt"
	"math"
)

// Pooling is how the states of a text's tokens become one vector.
type Pooling string

const (
	PoolLast Pooling = "last" // the state of the last token, which ends the text
	PoolMean Pooling = "mean" // the mean of all
)

// Check refuses what is no pooling; "" is what the model was trained for.
func (p Pooling) Check() error {
	switch p {
	case "", PoolLast, PoolMean:
		return nil
	}
	return fmt.Errorf("pooling %q is not known; known: last, mean", p)
}

// Pool makes one vector of the final states of a text's tokens, which may come in pieces.
type Pool struct {
	mean   bool
	width  int
	states []float32
	sum    []float64
	n      int // states in sum
}

// NewPool is the pool for one text of a model. A model that writes text has the state of the last token.
func NewPool(c *Config) *Pool {
	return &Pool{mean: c.Pooling == PoolMean, width: c.HiddenSize, sum: make([]float64, c.HiddenSize)}
}

// Whole says whether the states of all tokens are needed, so that none may come from a cache.
func (p *Pool) Whole() bool { return p.mean }

// Hidden is what Input.Hidden must be for the next n tokens; last says that they end the text. Add takes what came.
func (p *Pool) Hidden(n int, last bool) []float32 {
	switch {
	case p.mean:
		n *= p.width
	case last:
		n = p.width
	default:
		n = 0
	}
	if cap(p.states) < n {
		p.states = make([]float32, n)
	}
	p.states = p.states[:n]
	return p.states
}

// Add takes the states that the forward pass left in the last Hidden.
func (p *Pool) Add() {
	for i := 0; i < len(p.states); i += p.width {
		for j, v := range p.states[i:][:p.width] {
			p.sum[j] += float64(v)
		}
		p.n++
	}
	p.states = p.states[:0]
}

// Reset forgets all states, for a text that is read again from its beginning.
func (p *Pool) Reset() {
	clear(p.sum)
	p.states, p.n = p.states[:0], 0
}

// Vector is the text's vector: its first dims numbers, 0 for all, scaled to length 1. The mean's divisor cancels.
func (p *Pool) Vector(dims int) []float32 {
	sum := p.sum
	if dims > 0 {
		sum = sum[:dims]
	}
	var sq float64
	for _, x := range sum {
		sq += x * x
	}
	v := make([]float32, len(sum))
	for i, x := range sum {
		if sq > 0 {
			v[i] = float32(x / math.Sqrt(sq))
		}
	}
	return v
}
