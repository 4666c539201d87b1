package model

import (
	"context"
	"slices"
)

// output fills what the block's inputs asked for: hidden states, logits, the best tokens.
func (d *decoder) output(ctx context.Context) error {
	s, D, V := &d.s, d.cfg.HiddenSize, d.cfg.VocabSize
	p := &d.stages.dense
	p.w, p.y = d.head, p.y[:0]
	x := s.h[:0] // the normed rows that need the head; h is free now and is at least [B, D]
	s.tops = s.tops[:0]
	s.screened, s.screenX = s.screened[:0], s.screenX[:0]
	for i := range s.runs {
		r := &s.runs[i]
		in := r.input
		last := r.first+r.n == len(in.Tokens)
		all := len(in.Logits) > 0 && len(in.Logits) == len(in.Tokens)*V
		every := len(in.Hidden) > 0 && len(in.Hidden) == len(in.Tokens)*D
		for t := range r.n {
			final := last && t == r.n-1
			tops := in.best(r.first + t)
			wanted := all || final && len(in.Logits) > 0 || len(tops) > 0
			if !wanted && !every && !(final && len(in.Hidden) > 0) && in.Trace == nil {
				continue
			}
			h := s.tmp[:D]
			d.finalNorm.apply(h, s.x[(r.row+t)*D:][:D])
			if in.Trace != nil {
				in.Trace("final", h)
			}
			switch {
			case every:
				copy(in.Hidden[(r.first+t)*D:], h)
			case final:
				copy(in.Hidden, h)
			}
			if !wanted {
				continue
			}
			x = append(x, h...)
			switch {
			case all:
				p.y = append(p.y, in.Logits[(r.first+t)*V:][:V])
			case final && len(in.Logits) > 0:
				p.y = append(p.y, in.Logits)
			case d.screener != nil:
				s.screenX = append(s.screenX, h...)
				s.screened = append(s.screened, tops)
				x = x[:len(x)-D]
				continue
			case d.screen != nil:
				d.screen.add(h)
				s.screened = append(s.screened, tops)
				if len(s.screened) == screenQueries {
					d.screen.best(d.pool, s.screened)
					s.screened = s.screened[:0]
				}
				x = x[:len(x)-D]
				continue
			default:
				p.y = append(p.y, s.logitsRow(len(s.tops), V))
			}
			if len(tops) > 0 {
				s.tops = append(s.tops, top{tops, p.y[len(p.y)-1]})
			}
		}
	}
	if len(s.screened) > 0 && d.screener != nil {
		if err := d.screener.BestTokens(ctx, s.screened, s.screenX); err != nil {
			return err
		}
	} else if len(s.screened) > 0 {
		d.screen.best(d.pool, s.screened)
	}
	if len(p.y) == 0 {
		return nil
	}
	if p.x = x; d.head != nil {
		d.pool.Run((V+PanelRows-1)/PanelRows, d.stages.densePanel)
	} else if err := d.ternaryHead(ctx, x, p.y); err != nil {
		return err
	}
	for _, t := range s.tops {
		best(t.dst, t.logits)
	}
	return nil
}

// headTokens is how many rows a ternary head takes at a time: its products are as wide as the vocabulary.
const headTokens = 8

// ternaryHead computes the logits y of the normed rows x, which lie at the start of s.h.
func (d *decoder) ternaryHead(ctx context.Context, x []float32, y [][]float32) error {
	s, D, l := &d.s, d.cfg.HiddenSize, &d.bitHead[0]
	if s.headAcc == nil {
		s.headAcc = make([]int32, headTokens*roundUp16(l.out))
	}
	acc, rows := s.acc[0], s.b
	defer func() { s.acc[0], s.b = acc, rows }()
	s.acc[0] = s.headAcc
	for len(y) > 0 {
		s.b = min(len(y), headTokens)
		copy(s.h, x[:s.b*D]) // to the front, where the rows before were
		if l.norm.w == nil {
			for r := range s.b {
				d.quantizeRow(r, s.h[r*D:][:D])
			}
		}
		if err := d.project(ctx, D, d.bitHead[:]); err != nil {
			return err
		}
		for r := range s.b {
			d.takeRow(y[r], l, 0, r, 0)
		}
		y, x = y[s.b:], x[s.b*D:]
	}
	return nil
}

// top is a request for the best tokens, and the logits it is answered from.
type top struct {
	dst    []Scored
	logits []float32
}

// logitsRow is room for the scores of the i-th input that wants only the best of them.
func (s *scratch) logitsRow(i, vocab int) []float32 {
	for len(s.logits) <= i {
		s.logits = append(s.logits, make([]float32, vocab))
	}
	return s.logits[i]
}

// best writes the len(dst) highest scores, best first, equal ones by lower id.
func best(dst []Scored, logits []float32) { addBest(dst, 0, 0, logits) }

// addBest goes on with best: dst[:n] has what was found among lower ids, logits[0] is the score of first. It returns n.
func addBest(dst []Scored, n int, first int32, logits []float32) int {
	for i, v := range logits {
		if n == len(dst) && !(v > dst[n-1].Logit) {
			continue
		}
		at, _ := slices.BinarySearchFunc(dst[:n], v, func(s Scored, v float32) int {
			if s.Logit >= v {
				return -1
			}
			return 1
		})
		if n < len(dst) {
			n++
		}
		copy(dst[at+1:n], dst[at:n-1])
		dst[at] = Scored{first + int32(i), v}
	}
	return n
}
