package engine

import (
	"context"

	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/weights"
)

// head turns final states into scores of tokens.
type head struct {
	dense    *weights.Dense // [V, D], the embedding when tied; nil when the head is ternary
	ternary  *part.Head     // then
	screener HeadScreener   // finds the best tokens without all scores, or nil

	product  *part.DenseProduct
	x        []float32   // the states that ask for scores
	y        [][]float32 // and where those go
	tops     []top
	screenX  []float32        // the states that ask for the best tokens alone
	screened [][]model.Scored // and where those go
	logits   [][]float32
}

// top is a request for the best tokens, and the logits it is answered from.
type top struct {
	dst    []model.Scored
	logits []float32
}

func (e *Engine) loadHead(w *weights.Set, l *part.Loader) (err error) {
	p, h := &e.cfg.Head, &e.head
	h.product = part.NewDenseProduct(e.pool.Threads())
	if p.Arithmetic != part.Dense {
		h.ternary, err = l.Head(p)
		return err
	}
	if h.dense = e.embed; !e.cfg.TiedHead() {
		if h.dense, err = w.Dense(p.Source()+".weight", p.Out, p.In); err != nil {
			return err
		}
	}
	if s, ok := e.products.(HeadScreener); ok && e.cfg.Pooling == "" {
		if ok, err = s.LoadHead(h.dense); ok {
			h.screener = s
		}
	}
	return err
}

// output fills what the block's inputs asked for: hidden states, logits, the best tokens.
func (e *Engine) output(ctx context.Context) error {
	D, V, o := e.cfg.HiddenSize, e.cfg.VocabSize, &e.head
	o.x, o.y, o.tops, o.screened, o.screenX = o.x[:0], o.y[:0], o.tops[:0], o.screened[:0], o.screenX[:0]
	h := e.spare
	for i := range e.runs {
		r := &e.runs[i]
		in := r.input
		last := r.first+r.n == len(in.Tokens)
		all := len(in.Logits) > 0 && len(in.Logits) == len(in.Tokens)*V
		every := len(in.Hidden) > 0 && len(in.Hidden) == len(in.Tokens)*D
		for t := range r.n {
			final := last && t == r.n-1
			tops := in.Best(r.first + t)
			wanted := all || final && len(in.Logits) > 0 || len(tops) > 0
			if !wanted && !every && !(final && len(in.Hidden) > 0) && in.Trace == nil {
				continue
			}
			e.final.Apply(h, e.block.Row(r.row+t))
			if !part.Finite(h) {
				return e.notFinite("the final norm")
			}
			if in.Trace != nil {
				in.Trace("final", h)
			}
			switch {
			case every:
				copy(in.Hidden[(r.first+t)*D:], h)
			case final:
				copy(in.Hidden, h)
			}
			if scale := e.cfg.HeadScale; scale != 0 && wanted {
				kernel.Scale(h, scale)
			}
			var y []float32
			switch {
			case !wanted:
				continue
			case all:
				y = in.Logits[(r.first+t)*V:][:V]
			case final && len(in.Logits) > 0:
				y = in.Logits
			case o.screener != nil:
				o.screenX, o.screened = append(o.screenX, h...), append(o.screened, tops)
				continue
			default:
				y = o.logitsRow(len(o.tops), V)
			}
			o.x, o.y = append(o.x, h...), append(o.y, y)
			if len(tops) > 0 {
				o.tops = append(o.tops, top{tops, y})
			}
		}
	}
	if len(o.screened) > 0 {
		if err := o.screener.BestTokens(ctx, o.screened, o.screenX); err != nil {
			return err
		}
	}
	if len(o.y) == 0 {
		return nil
	}
	if o.dense != nil {
		o.product.SetRows(o.dense, o.x, o.y)
		o.product.Run(e.pool)
	} else if err := o.ternary.Logits(ctx, o.x, o.y); err != nil {
		return err
	}
	for _, y := range o.y {
		if !part.Finite(y) {
			return e.notFinite("the head")
		}
	}
	for _, t := range o.tops {
		model.Best(t.dst, t.logits)
	}
	return nil
}

// logitsRow is room for the scores of the i-th input that wants only the best of them.
func (o *head) logitsRow(i, vocab int) []float32 {
	for len(o.logits) <= i {
		o.logits = append(o.logits, make([]float32, vocab))
	}
	return o.logits[i]
}
