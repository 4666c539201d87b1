package server

import (
	"cmp"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/part"
	"github.com/tritlm/trit/tokenizer"
)

// fake is an engine without weights: the scores of the next token are a function of all tokens before it,
// so that whoever mixes up sequences, positions or shared prefixes gets another text.
type fake struct {
	cfg     model.Config
	tok     *tokenizer.Tokenizer
	pause   time.Duration     // per step
	reply   string            // what it says when it is the assistant's turn, if anything
	replies map[string]string // the same, by a part of what was asked
	quiet   bool              // never ends by itself
	fails   atomic.Bool
	changed atomic.Bool // its files were
	panic   atomic.Bool

	open  atomic.Int64 // caches
	steps atomic.Int64
	peak  atomic.Int64 // sequences in a step
	held  atomic.Int64 // tokens in caches, forks counted whole
	mu    sync.Mutex
}

type fakeCache struct {
	f      *fake
	tokens []int32
	limit  int
	closed bool
}

var testTokOnce = sync.OnceValues(func() (*tokenizer.Tokenizer, error) { return makeTestTokenizer(testTemplate) })

const testTemplate = `{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}`

func makeTestTokenizer(template string) (*tokenizer.Tokenizer, error) {
	var texts []string
	for range 3 {
		texts = append(texts, `{"name": "value", "arguments": {"a": 1, "b": [true, false, null]}} The quick brown fox jumps over the lazy dog. hello world größe 世界 🙂 <tool_call> </tool_call>`)
	}
	t, err := tokenizer.TrainBPE(texts, 480, "<|begin|>", "<|im_start|>", "<|im_end|>")
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "trit-tok")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	if err := t.Save(dir); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(dir, "chat_template.jinja"), []byte(template), 0o600); err != nil {
		return nil, err
	}
	return tokenizer.Load(dir)
}

func newFake(t testing.TB) *fake {
	tok, err := testTokOnce()
	if err != nil {
		t.Fatal(err)
	}
	return &fake{tok: tok, cfg: model.Config{
		Family: "fake", VocabSize: tok.VocabSize() + 3, MaxContext: 4096, HiddenSize: 16,
		Layers: []part.Layer{{Mixer: &part.Attention{Heads: 1, KVHeads: 1, HeadDim: 8}, FeedForward: &part.Plain{}}},
	}}
}

func (f *fake) Config() *model.Config { return &f.cfg }
func (f *fake) Close() error          { return nil }

func (f *fake) Check() error {
	if f.changed.Load() {
		return fmt.Errorf("fake.gguf: %w", model.ErrChanged)
	}
	return nil
}

func (f *fake) NewCache(n int) (model.Cache, error) {
	if n == 0 {
		n = f.cfg.MaxContext
	}
	f.open.Add(1)
	return &fakeCache{f: f, limit: n}, nil
}

func (c *fakeCache) Len() int { return len(c.tokens) }
func (c *fakeCache) Cap() int { return c.limit }
func (c *fakeCache) Truncate(n int) {
	c.f.held.Add(int64(n - len(c.tokens)))
	c.tokens = c.tokens[:n]
}

func (c *fakeCache) Fork(n int) (model.Cache, error) {
	if n > len(c.tokens) || c.closed {
		return nil, fmt.Errorf("fork %d of %d, closed %v", n, len(c.tokens), c.closed)
	}
	c.f.open.Add(1)
	c.f.held.Add(int64(n))
	return &fakeCache{f: c.f, tokens: slices.Clone(c.tokens[:n]), limit: c.limit}, nil
}

func (c *fakeCache) Close() {
	if c.closed {
		panic("closed twice")
	}
	c.closed = true
	c.f.held.Add(-int64(len(c.tokens)))
	c.f.open.Add(-1)
}

// scores fills the logits after tokens.
func (f *fake) scores(l []float32, tokens []int32) {
	h := fnv.New64a()
	for _, t := range tokens {
		h.Write([]byte{byte(t), byte(t >> 8)})
	}
	rng := rand.New(rand.NewPCG(h.Sum64(), 1))
	for i := range l {
		l[i] = float32(rng.NormFloat64()) * 2
	}
	for i := f.tok.VocabSize(); i < len(l); i++ {
		l[i] = -100
	}
	for i := range l {
		if f.tok.IsSpecial(int32(i)) && i < f.tok.VocabSize() {
			l[i] -= 100
		}
	}
	eos := f.tok.EOS()[0]
	if !f.quiet {
		l[eos] = float32(rng.NormFloat64()) + 3
	}
	if f.reply == "" && f.replies == nil {
		return
	}
	var all []byte
	for _, t := range tokens {
		if !f.tok.IsSpecial(t) {
			all = append(all, f.tok.Bytes(t)...)
		}
	}
	said, ok := string(all), false
	for _, mark := range []string{"assistant\n", "Assistant:"} { // with a template, and without
		if i := strings.LastIndex(said, mark); i >= 0 {
			said, ok = said[i+len(mark):], true
		}
	}
	if !ok {
		return
	}
	reply, latest := f.reply, -1
	for k, r := range f.replies {
		if i := strings.LastIndex(string(all[:len(all)-len(said)]), k); i > latest {
			reply, latest = r, i
		}
	}
	if reply == "" {
		return
	}
	next := eos
	if rest, ok := strings.CutPrefix(reply, said); ok && rest != "" {
		next = f.tok.Encode(rest, tokenizer.EncodeOptions{})[0]
	}
	l[next] = 50
}

func (f *fake) Forward(ctx context.Context, batch []model.Input) error {
	if !f.mu.TryLock() {
		panic("two forward passes at once")
	}
	defer f.mu.Unlock()
	f.steps.Add(1)
	f.peak.Store(max(f.peak.Load(), int64(len(batch))))
	if f.panic.Swap(false) {
		panic("the fake panics")
	}
	if f.fails.Swap(false) {
		return errors.New("the fake fails")
	}
	if err := f.Check(); err != nil {
		return err
	}
	if f.pause > 0 {
		select {
		case <-time.After(f.pause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	v := f.cfg.VocabSize
	seen := map[model.Cache]bool{}
	for _, in := range batch {
		c := in.Cache.(*fakeCache)
		if c.closed || seen[c] || len(in.Tokens) == 0 || len(c.tokens)+len(in.Tokens) > c.limit {
			panic("bad input")
		}
		seen[c] = true
		f.held.Add(int64(len(in.Tokens)))
		for i, t := range in.Tokens {
			c.tokens = append(c.tokens, t)
			if len(in.Logits) == v*len(in.Tokens) {
				f.scores(in.Logits[i*v:][:v], c.tokens)
			}
		}
		if len(in.Logits) == v {
			f.scores(in.Logits, c.tokens)
		}
		if len(in.Top) > 0 {
			l := make([]float32, v)
			f.scores(l, c.tokens)
			ids := make([]int32, v)
			for i := range ids {
				ids[i] = int32(i)
			}
			slices.SortStableFunc(ids, func(a, b int32) int {
				switch {
				case l[a] > l[b]:
					return -1
				case l[a] < l[b]:
					return 1
				}
				return 0
			})
			for i := range in.Top {
				in.Top[i] = model.Scored{ID: ids[i], Logit: l[ids[i]]}
			}
		}
		for i := range in.Hidden {
			in.Hidden[i] = float32(len(c.tokens) + i%f.cfg.HiddenSize)
		}
	}
	return nil
}

// greedy is what the fake writes alone, one token after the other.
func (f *fake) greedy(prompt []int32, n int) []int32 {
	tokens := slices.Clone(prompt)
	l := make([]float32, f.cfg.VocabSize)
	for range n {
		f.scores(l, tokens)
		best := int32(0)
		for i, x := range l {
			if x > l[best] {
				best = int32(i)
			}
		}
		tokens = append(tokens, best)
		if f.tok.IsEOS(best) {
			break
		}
	}
	return tokens[len(prompt):]
}

func quietLog() *slog.Logger { return slog.New(slog.NewTextHandler(io.Discard, nil)) }

// serve starts a server on the fake; the test fails if it leaves a cache open.
func serve(t testing.TB, f *fake, o Options) (*Server, *httptest.Server) {
	t.Helper()
	if o.Log == nil {
		o.Log = quietLog()
	}
	o.QueueTimeout = cmp.Or(o.QueueTimeout, time.Hour) // however slow this machine is
	s, err := New(o, Model{ID: "fake", Engine: f, Tokenizer: f.tok})
	if err != nil {
		t.Fatal(err)
	}
	h := listen(s)
	t.Cleanup(func() {
		h.CloseClientConnections()
		h.Close()
		s.Close()
		http.DefaultClient.CloseIdleConnections()
		if n := f.open.Load(); n != 0 {
			t.Errorf("%d caches are still open", n)
		}
		if n := f.held.Load(); n != 0 {
			t.Errorf("%d tokens are still held", n)
		}
	})
	return s, h
}

//go:embed server.go
var routesSource string

func listen(s *Server) *httptest.Server {
	h := httptest.NewUnstartedServer(nil)
	h.Config = s.HTTPServer()
	h.Start()
	return h
}

// newTestServer listens for s and returns its address.
func newTestServer(t testing.TB, s *Server) string {
	h := listen(s)
	t.Cleanup(func() {
		h.CloseClientConnections()
		h.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return h.URL
}
