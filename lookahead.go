package trit

import (
	"context"
	"time"

	"github.com/tritlm/trit/model"
)

// lookahead guesses tokens from what followed the same few tokens earlier in the text (prompt lookup decoding), so
// that one pass over the weights checks several. A pass of a few tokens costs little more than one of a single token
// where memory sets the pace, and the logits of a token do not depend on its batch, so right guesses are free and
// wrong ones only take time.
//
// Idea: Saxena 2023, prompt-lookup-decoding; the check is that of speculative decoding, Leviathan et al. 2022,
// arXiv:2211.17192, with a guess that is certain.
type lookahead struct {
	guess []int32          // the tokens guessed
	top   [][]model.Scored // of the tokens computed ahead: those that the next calls of best answer from
	rows  [][]model.Scored // room for them
	used  int              // guesses that turned out right

	single, several float64 // seconds of a pass of one token, and of one with guesses: moving averages
	right           float64 // right guesses a pass: moving average
	rest            int     // passes until the next try, while it does not pay
}

const (
	guessTokens = 5  // guesses a pass
	guessAfter  = 3  // tokens that must be the same as before
	restPasses  = 32 // between tries while it does not pay
	newest      = 0.2
)

// best gives the k best next tokens. Each token that is written makes the caller need grow more of them.
func (s *Session) best(ctx context.Context, k, grow int, guess bool) ([]model.Scored, error) {
	a := &s.ahead
	if len(a.top) > 0 {
		// The token that was chosen since is the last one of the text. Was it the one guessed?
		if s.tokens[len(s.tokens)-1] == a.guess[a.used] {
			top := a.top[0]
			a.top = a.top[1:]
			a.used++
			s.stats.GuessedRight++
			return top, nil
		}
		s.forgetGuesses()
	}
	a.settle()
	pending := s.tokens[s.cache.Len():]
	var guesses []int32
	if guess && len(pending) == 1 && a.pays() {
		room := s.cache.Cap() - len(s.tokens)
		guesses = guessNext(s.tokens, min(guessTokens, room))
	}
	a.guess = append(a.guess[:0], guesses...)
	for len(a.rows) < len(guesses)+1 {
		a.rows = append(a.rows, nil)
	}
	rows := a.rows[:len(guesses)+1]
	for i := range rows {
		n := min(k+i*grow, s.m.cfg.VocabSize)
		if cap(rows[i]) < n {
			rows[i] = make([]model.Scored, n+16*grow)
		}
		rows[i] = rows[i][:n]
	}
	start := time.Now()
	var err error
	if len(guesses) == 0 {
		err = s.forward(ctx, model.Input{Tokens: pending, Top: rows[0]})
	} else {
		// The guesses stand behind the text for the length of the pass.
		n := len(s.tokens)
		s.tokens = append(s.tokens, guesses...)
		err = s.forward(ctx, model.Input{Tokens: s.tokens[n-1:], Each: rows})
		s.tokens = s.tokens[:n]
	}
	if err != nil {
		a.top = nil
		return nil, err
	}
	if len(pending) == 1 {
		a.measure(time.Since(start).Seconds(), len(guesses) > 0)
	}
	a.top, a.used = rows[1:], 0
	s.stats.Guessed += len(guesses)
	return rows[0], nil
}

// forgetGuesses takes guesses that were not confirmed out of the cache: all behind the text's last token, which is
// itself not in the cache, a guess being in its place.
func (s *Session) forgetGuesses() {
	if len(s.ahead.top) > 0 {
		s.ahead.top = nil
		s.cache.Truncate(min(s.cache.Len(), len(s.tokens)-1))
	}
}

// settle takes the last pass with guesses into the averages.
func (a *lookahead) settle() {
	if len(a.guess) > 0 {
		a.right += newest * (float64(a.used) - a.right)
		a.guess = a.guess[:0]
	}
}

// measure takes the time of a pass into the averages.
func (a *lookahead) measure(seconds float64, guessed bool) {
	avg := &a.single
	if guessed {
		avg = &a.several
	}
	if *avg == 0 {
		*avg = seconds
	}
	*avg += newest * (seconds - *avg)
}

// pays says whether to guess in this pass: as long as guessing was faster a token, and now and then to see again.
func (a *lookahead) pays() bool {
	if a.single == 0 || a.several == 0 || (1+a.right)*a.single > a.several {
		return true
	}
	if a.rest--; a.rest < 0 {
		a.rest = restPasses
		a.right = max(a.right, 1) // a fresh chance, not a foregone conclusion
		return true
	}
	return false
}

// guessNext is what followed the last tokens of the text the last time they stood there, at most n.
func guessNext(tokens []int32, n int) []int32 {
	end := len(tokens) - guessAfter
	if end <= 0 || n <= 0 {
		return nil
	}
	last := tokens[end:]
	for at := end - 1; at >= 0; at-- {
		if tokens[at] == last[0] && tokens[at+1] == last[1] && tokens[at+2] == last[2] {
			follow := tokens[at+guessAfter:]
			return follow[:min(n, len(follow))]
		}
	}
	return nil
}
