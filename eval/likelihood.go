package eval

import (
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"sync"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/sample"
	"github.com/tritlm/trit/tokenizer"
)

// text is a sequence of which some tokens are scored.
type text struct {
	tokens []int32
	from   int // the first token that is scored; from 1 on, for what stands first has no probability
	end    int // tokens to compute: all but the last, whose own logits nobody asks for

	cache    model.Cache // holds a prefix
	logprobs []float64   // of tokens[from:]
}

// scores is a text of which the tokens from from on are scored.
func scores(tokens []int32, from int) *text {
	return &text{tokens: tokens, from: from, end: len(tokens) - 1}
}

// prefix is a text that is only read, for others to begin with.
func prefix(tokens []int32) *text {
	return &text{tokens: tokens, from: len(tokens) + 1, end: len(tokens)}
}

// sum is the log-likelihood of the scored tokens, added from left to right.
func (t *text) sum() float64 {
	var sum float64
	for _, l := range t.logprobs {
		sum += l
	}
	return sum
}

// A scorer computes texts, as many in a step as fit its bounds. The log-probabilities do not depend on the cut.
type scorer struct {
	ctx    context.Context
	e      model.Engine
	vocab  int
	rows   int // of logits in a step
	logits []float32
	step   func(done, total int64)
	done   int64
	total  int64
}

const (
	stepTokens  = 256      // computed in a step
	logitBytes  = 64 << 20 // of a step's logits
	groupTokens = 4096     // in the caches that are alive at the same time, unless one text has more
)

func newScorer(ctx context.Context, e model.Engine, step func(done, total int64)) *scorer {
	vocab := e.Config().VocabSize
	return &scorer{ctx: ctx, e: e, vocab: vocab, rows: min(max(logitBytes/(4*vocab), 1), stepTokens), step: step}
}

// run computes the texts to their ends. Those without a cache get one, which is theirs to close.
func (s *scorer) run(texts []*text) error {
	for _, t := range texts {
		if t.cache == nil {
			var err error
			if t.cache, err = s.e.NewCache(max(t.end, 1)); err != nil {
				return err
			}
		}
	}
	if s.logits == nil {
		s.logits = make([]float32, s.rows*s.vocab)
	}
	var batch []model.Input
	var part []*text
	for {
		batch, part = batch[:0], part[:0]
		tokens, rows := stepTokens, s.rows
		for _, t := range texts {
			at := t.cache.Len()
			n := min(t.end-at, tokens)
			scored := at >= t.from-1
			if scored {
				n = min(n, rows)
			} else {
				n = min(n, t.from-1-at)
			}
			if n <= 0 {
				continue
			}
			in := model.Input{Cache: t.cache, Tokens: t.tokens[at : at+n]}
			if scored {
				in.Logits = s.logits[(s.rows-rows)*s.vocab:][:n*s.vocab]
				rows -= n
			}
			tokens -= n
			batch, part = append(batch, in), append(part, t)
		}
		if len(batch) == 0 {
			return nil
		}
		if err := s.e.Forward(s.ctx, batch); err != nil {
			return err
		}
		s.take(batch, part)
		s.done += int64(stepTokens - tokens)
		if s.step != nil {
			s.step(s.done, s.total)
		}
	}
}

// take reads log-probabilities off the logits of a step, on all processors.
func (s *scorer) take(batch []model.Input, part []*text) {
	type row struct {
		logits []float32
		next   int32
		to     *float64
	}
	var rows []row
	for i := range batch {
		in, t := &batch[i], part[i]
		if len(in.Logits) == 0 {
			continue
		}
		first := len(t.logprobs)
		t.logprobs = append(t.logprobs, make([]float64, len(in.Tokens))...)
		for j := range in.Tokens {
			rows = append(rows, row{in.Logits[j*s.vocab:][:s.vocab], t.tokens[t.from+first+j], &t.logprobs[first+j]})
		}
	}
	workers := min(runtime.GOMAXPROCS(0), len(rows))
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := w; i < len(rows); i += workers {
				r := rows[i]
				*r.to = sample.LogprobOf(r.logits, r.next, sample.LogSumExp(r.logits))
			}
		})
	}
	wg.Wait()
}

// closeAll closes the caches of texts.
func closeAll(texts []*text) {
	for _, t := range texts {
		if t.cache != nil {
			t.cache.Close()
			t.cache = nil
		}
	}
}

// beginning is the token in front of a text that has nothing before it: begin-of-text, or end-of-text where a model
// has only that. ok is false for a model with neither.
func beginning(t *tokenizer.Tokenizer) (id int32, ok bool) {
	if id, ok = t.BOS(); ok {
		return id, true
	}
	if eos := t.EOS(); len(eos) > 0 {
		return eos[0], true
	}
	return 0, false
}

// Perplexity is how well a model predicts a text.
type Perplexity struct {
	Tokens        int     `json:"tokens"` // scored
	Bytes         int     `json:"bytes"`
	Words         int     `json:"words"`          // between white space, as lm-evaluation-harness counts them
	LogLikelihood float64 `json:"log_likelihood"` // natural logarithm, of the whole text
	Window        int     `json:"window"`
	Stride        int     `json:"stride"`

	Perplexity     float64 `json:"perplexity"` // of a token: exp(−LogLikelihood/Tokens)
	WordPerplexity float64 `json:"word_perplexity"`
	BytePerplexity float64 `json:"byte_perplexity"`
	BitsPerByte    float64 `json:"bits_per_byte"` // −LogLikelihood/Bytes/ln 2
}

// PerplexityOptions for MeasurePerplexity.
type PerplexityOptions struct {
	// Window is how many tokens a prediction may look back at, 0 for the model's context.
	Window int
	// Stride is how many tokens a window scores after the first, which scores all of its own: the others are its
	// context. 0 is Window: windows side by side, each token computed once. A small stride costs Window/Stride times
	// as much, and every token has at least Window-Stride tokens in front of it.
	Stride int
	Step   func(done, total int64) // tokens
}

// MeasurePerplexity scores a whole text. The windows are those of lm-evaluation-harness' loglikelihood_rolling (its
// max_seq_len is Window, its context_len is Window-Stride+1), and so is the token in front: begin-of-text, or
// end-of-text for want of that. With neither, the first token is not scored.
func MeasurePerplexity(ctx context.Context, e model.Engine, t *tokenizer.Tokenizer, content string, o PerplexityOptions) (*Perplexity, error) {
	most := e.Config().MaxContext
	if o.Window == 0 {
		o.Window = most
	}
	if o.Stride == 0 {
		o.Stride = o.Window
	}
	if o.Window < 1 || o.Window > most {
		return nil, fmt.Errorf("eval: a window of %d tokens; the model's context is %d", o.Window, most)
	}
	if o.Stride < 1 || o.Stride > o.Window {
		return nil, fmt.Errorf("eval: a stride of %d tokens in windows of %d", o.Stride, o.Window)
	}
	if err := t.Check(content); err != nil {
		return nil, err
	}
	all := t.Encode(content, tokenizer.EncodeOptions{ParseSpecial: true})
	if id, ok := beginning(t); ok {
		all = append([]int32{id}, all...)
	}
	n := len(all) - 1
	if n < 1 {
		return nil, errors.New("eval: the text is too short to score a token of it")
	}
	s := newScorer(ctx, e, o.Step)
	var windows []*text
	for at := 0; at < n; {
		size := o.Stride
		if at == 0 {
			size = o.Window
		}
		size = min(size, n-at)
		at += size // tokens 1 to at of all are scored by now
		begin := max(at-o.Window, 0)
		w := scores(all[begin:at+1], at-size+1-begin)
		s.total += int64(w.end)
		windows = append(windows, w)
	}
	p := &Perplexity{Tokens: n, Bytes: len(content), Words: words(content), Window: o.Window, Stride: o.Stride}
	for len(windows) > 0 {
		k := group(len(windows), func(i int) int { return windows[i].end })
		err := s.run(windows[:k])
		closeAll(windows[:k])
		if err != nil {
			return nil, err
		}
		for i := range windows[:k] {
			p.LogLikelihood += windows[i].sum()
			windows[i] = nil
		}
		windows = windows[k:]
	}
	per := func(n int) float64 { return min(math.Exp(-p.LogLikelihood/float64(n)), math.MaxFloat64) } // JSON has no infinity
	p.Perplexity, p.WordPerplexity, p.BytePerplexity = per(p.Tokens), per(p.Words), per(p.Bytes)
	p.BitsPerByte = -p.LogLikelihood / float64(p.Bytes) / math.Ln2
	return p, nil
}

// group is how many of the n things go together: groupTokens, at least one.
func group(n int, tokens func(i int) int) int {
	sum := 0
	for i := range n {
		if sum += tokens(i); sum > groupTokens && i > 0 {
			return i
		}
	}
	return n
}

// words counts the pieces between runs of white space, empty ones at the ends included, as Python's
// re.split(r"\s+", content) makes them.
func words(content string) int {
	n, in := 1, false
	for _, r := range content {
		space := isSpace(r)
		if space && !in {
			n++
		}
		in = space
	}
	return n
}
