package server

import (
	"context"
	"fmt"
	"sync"

	"github.com/tritlm/trit/grammar"
)

// maxGrammars is how many bytes of compiled grammars and masks are kept.
const maxGrammars = 256 << 20

// compiled is a vocabulary that grammars are compiled for.
type compiled struct {
	once  sync.Once
	vocab *grammar.Vocab
}

// grammar returns the compiled grammar for a source, from what is kept if it was compiled lately, and what it does not
// enforce. Compiling stops when ctx ends.
func (s *Server) grammar(ctx context.Context, client string, c *compiled, vocab func() *grammar.Vocab, key string, compile func(*grammar.Vocab) (*grammar.Grammar, []string, error)) (*grammar.Grammar, []string, error) {
	c.once.Do(func() { c.vocab = vocab() })
	return s.grammars.Get(ctx, client, fmt.Sprintf("%p %s", c, key), func(ctx context.Context) (*grammar.Grammar, []string, error) {
		return compile(c.vocab.Within(ctx))
	})
}
