package part

import "context"

// headTokens is how many rows a ternary head takes at a time: its products are as wide as the vocabulary.
const headTokens = 8

// Head is an output projection that is not dense, and is loaded. It has a block of its own.
type Head struct {
	b    *Block
	bank *bank
}

// Head loads one.
func (l *Loader) Head(p *Projection) (*Head, error) {
	own := *l
	own.Block = NewBlock(l.Block.pool, l.Products, p.In)
	own.Block.activations = l.Block.activations
	k, err := own.bank(p)
	if err != nil {
		return nil, err
	}
	own.Block.grow(headTokens)
	return &Head{own.Block, k}, nil
}

// Logits computes the scores y of final states.
//
//	x  [len(y), In], y[i]  [Out]
func (h *Head) Logits(ctx context.Context, x []float32, y [][]float32) error {
	D := h.bank.cols
	for len(y) > 0 {
		n := min(len(y), headTokens)
		h.b.n = n
		h.bank.makePlanes()
		for r := range n {
			copy(h.bank.row(r), x[r*D:][:D])
			h.bank.prepare(r)
		}
		if err := h.bank.multiply(ctx); err != nil {
			return err
		}
		for r := range n {
			h.bank.take(y[r], 0, r, 0)
		}
		y, x = y[n:], x[n*D:]
	}
	return nil
}
