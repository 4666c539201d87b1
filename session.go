package trit

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"
	"unicode/utf8"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/sample"
	"github.com/tritlm/trit/tokenizer"
)

// GenerateOptions say how text is written. The zero value is greedy, to the model's own end or the context's.
type GenerateOptions struct {
	sample.Options

	MaxTokens int      // at most so many tokens; 0: until the context is full
	Stop      []string // text that ends the answer and is not part of it
	IgnoreEOS bool     // write on past the model's end-of-text tokens
	// NoLookahead turns off guessing ahead. Where the text repeats itself, the next tokens are guessed from what
	// followed the last time and checked several at once; the text is the same, bit for bit, only sooner. The session
	// measures whether it pays.
	NoLookahead bool
	Logprobs    int // give each token's log-probability and those of the so many likeliest; -1: its own only
}

// Finish says why the text ended.
type Finish string

const (
	NotFinished    Finish = ""
	FinishedStop   Finish = "stop"   // an end-of-text token or a stop string
	FinishedLength Finish = "length" // MaxTokens or the end of the context
)

// Piece is one token of the answer. Text is whole UTF-8 and may be empty, or hold text of earlier tokens that could
// not be shown before. The last piece has Finish set.
type Piece struct {
	Token   int32
	Text    string
	Logprob float32          // natural logarithm, when asked for
	Top     []sample.Logprob // when asked for
	Finish  Finish
}

// Stats count what a session did last.
type Stats struct {
	PromptTokens int           // read
	CachedTokens int           // of the prompt, that were in the cache already
	PromptTime   time.Duration // until the first token was chosen
	Tokens       int           // written
	DecodeTime   time.Duration // for all of them but the first
	Guessed      int           // tokens guessed ahead
	GuessedRight int           // of those
}

// PromptSpeed is tokens read per second, 0 when unknown.
func (s Stats) PromptSpeed() float64 { return speed(s.PromptTokens, s.PromptTime) }

// DecodeSpeed is tokens written per second after the first, 0 when unknown.
func (s Stats) DecodeSpeed() float64 { return speed(s.Tokens-1, s.DecodeTime) }

func speed(n int, d time.Duration) float64 {
	if n <= 0 || d <= 0 {
		return 0
	}
	return float64(n) / d.Seconds()
}

// Session is one text in the making, with its keys and values.
type Session struct {
	m      *Model
	cache  model.Cache
	tokens []int32 // the whole text; the cache holds a prefix of it
	batch  [1]model.Input
	logits []float32 // [V]
	ids    []int32   // the best tokens, and
	scores []float32 // their logits
	stats  Stats
	ahead  lookahead
}

// NewSession starts an empty text.
func (m *Model) NewSession() *Session { return &Session{m: m} }

// Len is the number of tokens so far.
func (s *Session) Len() int { return len(s.tokens) }

// Tokens are all tokens so far, prompts included; the slice is the session's own.
func (s *Session) Tokens() []int32 { return s.tokens }

// Stats are those of the last Generate.
func (s *Session) Stats() Stats { return s.stats }

// Reset starts again with an empty text.
func (s *Session) Reset() { s.SetTokens(nil) }

// Close gives the cache back. A closed session may be used again, from an empty text.
func (s *Session) Close() {
	s.tokens = s.tokens[:0]
	if s.cache != nil {
		s.cache.Close()
		s.cache = nil
	}
}

// SetTokens makes the text be tokens. What the cache holds of their beginning is kept and not computed again; the
// rest is computed by the next Generate.
func (s *Session) SetTokens(tokens []int32) {
	n := 0
	for n < min(len(tokens), len(s.tokens)) && tokens[n] == s.tokens[n] {
		n++
	}
	if s.cache != nil && s.cache.Len() > n {
		s.cache.Truncate(n)
	}
	s.tokens = append(s.tokens[:0], tokens...)
}

// Generate appends the prompt to the text and writes on. The sequence ends after a piece with Finish set or an
// error; leaving the loop early is fine, and so is generating again, which continues the text.
func (s *Session) Generate(ctx context.Context, prompt string, o GenerateOptions) iter.Seq2[Piece, error] {
	if !utf8.ValidString(prompt) {
		return failed(fmt.Errorf("trit: the prompt is not valid UTF-8 at byte %d", invalidAt(prompt)))
	}
	t := s.m.tokenizer
	if err := t.Check(prompt); err != nil {
		return failed(err)
	}
	ids := t.Encode(prompt, tokenizer.EncodeOptions{AddSpecial: len(s.tokens) == 0})
	return s.GenerateTokens(ctx, ids, o)
}

func invalidAt(s string) int {
	for i, r := range s {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return i
			}
		}
	}
	return len(s)
}

func failed(err error) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) { yield(Piece{}, err) }
}

// GenerateTokens is Generate for a prompt of tokens.
func (s *Session) GenerateTokens(ctx context.Context, prompt []int32, o GenerateOptions) iter.Seq2[Piece, error] {
	return func(yield func(Piece, error) bool) {
		if err := s.generate(ctx, prompt, o, yield); err != nil {
			yield(Piece{}, err)
		}
	}
}

func (s *Session) generate(ctx context.Context, prompt []int32, o GenerateOptions, yield func(Piece, error) bool) error {
	if err := o.Validate(s.m.cfg.VocabSize); err != nil {
		return fmt.Errorf("trit: %w", err)
	}
	if s.m.cfg.Pooling != "" {
		return errVectors
	}
	if o.MaxTokens < 0 {
		return fmt.Errorf("trit: %d tokens at most cannot be", o.MaxTokens)
	}
	s.tokens = append(s.tokens, prompt...)
	if len(s.tokens) == 0 {
		return errors.New("trit: the prompt is empty, and this model has no token to begin with")
	}
	if len(s.tokens) > s.m.maxContext {
		n := len(s.tokens)
		s.tokens = s.tokens[:n-len(prompt)]
		return fmt.Errorf("trit: %d tokens do not fit the context of %d; shorten the prompt: %w", n, s.m.maxContext, ErrContextFull)
	}
	if s.cache == nil {
		var err error
		if s.cache, err = s.m.engine.NewCache(s.m.maxContext); err != nil {
			return err
		}
	}
	if s.cache.Len() == len(s.tokens) { // everything is computed, but its logits are gone
		s.cache.Truncate(len(s.tokens) - 1)
	}
	s.stats = Stats{PromptTokens: len(s.tokens) - s.cache.Len(), CachedTokens: s.cache.Len()}

	defer s.forgetGuesses()
	w := tokenizer.NewWriter(s.m.tokenizer.NewDecoder(s.tokens...), o.Stop)
	sampler := sample.New(o.Options)
	start := time.Now()
	for n := 1; ; n++ {
		piece, err := s.next(ctx, sampler, &o)
		if err != nil {
			return err
		}
		if now := time.Now(); n == 1 {
			s.stats.PromptTime, start = now.Sub(start), now
		} else {
			s.stats.DecodeTime = now.Sub(start)
		}
		s.stats.Tokens = n
		switch {
		case !o.IgnoreEOS && s.m.tokenizer.IsEOS(piece.Token):
			piece.Text, piece.Finish = w.End(), FinishedStop
			// The end token is the model's, not the text's: whoever continues decides what follows.
			s.tokens = s.tokens[:len(s.tokens)-1]
		case w.Push(piece.Token):
			piece.Text, piece.Finish = w.Take(), FinishedStop
		case n == o.MaxTokens || len(s.tokens) >= s.m.maxContext:
			piece.Text, piece.Finish = w.End(), FinishedLength
			if w.Stopped() {
				piece.Finish = FinishedStop
			}
		default:
			piece.Text = w.Take()
		}
		if !yield(piece, nil) || piece.Finish != NotFinished {
			return nil
		}
	}
}

// mostTop is up to how many of the best scores are asked for, instead of all.
const mostTop = 256

// next computes what the cache lacks, chooses the next token and appends it to the text.
func (s *Session) next(ctx context.Context, sampler *sample.Sampler, o *GenerateOptions) (Piece, error) {
	var p Piece
	if k := sampler.TopNeededAfter(s.tokens); k > 0 && k <= mostTop && o.Logprobs == 0 {
		grow := 0
		if sampler.TopNeeded() == 0 { // penalties, which look at what is written
			grow = 2 // a token more in the window, and a distinct one more
		}
		top, err := s.best(ctx, k, grow, !o.NoLookahead)
		if err != nil {
			return p, err
		}
		s.ids, s.scores = s.ids[:0], s.scores[:0]
		for _, t := range top {
			s.ids, s.scores = append(s.ids, t.ID), append(s.scores, t.Logit)
		}
		p.Token = sampler.NextTopAfter(s.ids, s.scores, s.tokens)
	} else {
		if s.logits == nil {
			s.logits = make([]float32, s.m.cfg.VocabSize)
		}
		if err := s.forward(ctx, model.Input{Tokens: s.tokens[s.cache.Len():], Logits: s.logits}); err != nil {
			return p, err
		}
		p.Token = sampler.Next(s.logits, s.tokens)
		if o.Logprobs != 0 && p.Token >= 0 {
			lse := sample.LogSumExp(s.logits)
			if o.Logprobs > 0 {
				p.Top = sample.Logprobs(nil, s.logits, lse, o.Logprobs)
			}
			p.Logprob = float32(sample.LogprobOf(s.logits, p.Token, lse))
		}
	}
	if p.Token < 0 {
		return p, errors.New("trit: the constraint leaves no token to choose")
	}
	sampler.Accept(p.Token)
	s.tokens = append(s.tokens, p.Token)
	return p, nil
}

func (s *Session) forward(ctx context.Context, in model.Input) error {
	s.batch[0] = in
	s.batch[0].Cache = s.cache
	return s.m.engine.Forward(ctx, s.batch[:])
}
