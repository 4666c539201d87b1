// Package enginetest is what every model.Engine must pass: the same logits, bit for bit, as the plain definitions on
// one thread, however the sequences are batched, cut, forked and truncated.
package enginetest

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/cpu"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/weights"
)

// Run tests the backend on the model at path, a small one.
func Run(t *testing.T, b model.Backend, path string) {
	want := load(t, cpu.Backend{Threads: 1}, path)
	got := load(t, b, path)
	s := &suite{want: want, got: got, cfg: want.Config()}
	t.Run("logits", s.logits)
	t.Run("batch", s.batch)
	t.Run("chunks", s.chunks)
	t.Run("fork", s.fork)
	t.Run("truncate", s.truncate)
	t.Run("top", s.top)
	t.Run("each", s.each)
	t.Run("bad input", s.badInput)
	t.Run("cancel", s.cancel)
	t.Run("context full", s.contextFull)
}

func load(t *testing.T, b model.Backend, path string) model.Engine {
	t.Helper()
	set, err := weights.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg, err := family.Read(set)
	if err != nil {
		t.Fatal(err)
	}
	e, err := b.Load(context.Background(), cfg, set)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		set.Close()
	})
	return e
}

type suite struct {
	want, got model.Engine
	cfg       *model.Config
}

// text is n tokens of a sequence that depends on seed.
func (s *suite) text(seed uint64, n int) []int32 {
	rng := rand.New(rand.NewPCG(seed, 1))
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = int32(rng.IntN(s.cfg.VocabSize))
	}
	return ids
}

func cache(t *testing.T, e model.Engine) model.Cache {
	t.Helper()
	c, err := e.NewCache(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// all computes the logits of every token of a fresh sequence.
func (s *suite) all(t *testing.T, e model.Engine, ids []int32) []float32 {
	t.Helper()
	logits := make([]float32, len(ids)*s.cfg.VocabSize)
	forward(t, e, model.Input{Cache: cache(t, e), Tokens: ids, Logits: logits})
	return logits
}

func forward(t *testing.T, e model.Engine, in ...model.Input) {
	t.Helper()
	if err := e.Forward(context.Background(), in); err != nil {
		t.Fatal(err)
	}
}

func equal(t *testing.T, what string, got, want []float32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d logits, want %d", what, len(got), len(want))
	}
	for i := range got {
		if math.Float32bits(got[i]) != math.Float32bits(want[i]) {
			t.Fatalf("%s: logit %d is %g, want %g", what, i, got[i], want[i])
		}
	}
}

func (s *suite) lengths() []int {
	return []int{1, 2, min(33, s.cfg.MaxContext), min(70, s.cfg.MaxContext)}
}

func (s *suite) logits(t *testing.T) {
	for i, n := range s.lengths() {
		ids := s.text(uint64(i), n)
		equal(t, fmt.Sprintf("%d tokens", n), s.all(t, s.got, ids), s.all(t, s.want, ids))
	}
}

// batch: eight sequences of different lengths together, then a decode step of each.
func (s *suite) batch(t *testing.T) {
	V := s.cfg.VocabSize
	var in, step []model.Input
	for i := range 8 {
		ids := s.text(uint64(100+i), 1+5*i)
		c := cache(t, s.got)
		in = append(in, model.Input{Cache: c, Tokens: ids[:len(ids)-min(1, len(ids)-1)], Logits: make([]float32, V)})
		step = append(step, model.Input{Cache: c, Tokens: ids[len(ids)-1:], Logits: make([]float32, V)})
	}
	forward(t, s.got, in...)
	forward(t, s.got, step...)
	for i := range step {
		ids := append(append([]int32(nil), in[i].Tokens...), step[i].Tokens...)
		want := s.all(t, s.want, ids)
		equal(t, fmt.Sprintf("sequence %d", i), step[i].Logits, want[len(want)-V:])
	}
}

func (s *suite) chunks(t *testing.T) {
	ids := s.text(7, min(70, s.cfg.MaxContext))
	want := s.all(t, s.want, ids)
	for _, chunk := range []int{1, 7, 64} {
		c := cache(t, s.got)
		var got []float32
		for rest := ids; len(rest) > 0; {
			n := min(chunk, len(rest))
			logits := make([]float32, n*s.cfg.VocabSize)
			forward(t, s.got, model.Input{Cache: c, Tokens: rest[:n], Logits: logits})
			got = append(got, logits...)
			rest = rest[n:]
		}
		equal(t, fmt.Sprintf("chunks of %d", chunk), got, want)
	}
}

// fork: two texts with one beginning do not disturb each other.
func (s *suite) fork(t *testing.T) {
	V := s.cfg.VocabSize
	common, a, b := s.text(1, min(40, s.cfg.MaxContext/2)), s.text(2, 5), s.text(3, 9)
	for _, shared := range []int{len(common), len(common) - 3, 1} {
		first := cache(t, s.got)
		forward(t, s.got, model.Input{Cache: first, Tokens: common})
		second, err := first.Fork(shared)
		if err != nil {
			t.Fatal(err)
		}
		la, lb := make([]float32, len(a)*V), make([]float32, len(b)*V)
		forward(t, s.got, model.Input{Cache: first, Tokens: a, Logits: la}, model.Input{Cache: second, Tokens: b, Logits: lb})
		want := s.all(t, s.want, append(append([]int32(nil), common...), a...))
		equal(t, "the original", la, want[len(want)-len(la):])
		want = s.all(t, s.want, append(append([]int32(nil), common[:shared]...), b...))
		equal(t, fmt.Sprintf("the fork at %d", shared), lb, want[len(want)-len(lb):])
		second.Close()
	}
	if _, err := cache(t, s.got).Fork(1); err == nil {
		t.Error("a fork beyond the end is no error")
	}
}

func (s *suite) truncate(t *testing.T) {
	ids, other := s.text(4, min(50, s.cfg.MaxContext-8)), s.text(5, 6)
	c := cache(t, s.got)
	forward(t, s.got, model.Input{Cache: c, Tokens: ids})
	c.Truncate(17)
	if c.Len() != 17 {
		t.Fatalf("%d tokens after Truncate(17)", c.Len())
	}
	logits := make([]float32, len(other)*s.cfg.VocabSize)
	forward(t, s.got, model.Input{Cache: c, Tokens: other, Logits: logits})
	want := s.all(t, s.want, append(append([]int32(nil), ids[:17]...), other...))
	equal(t, "after truncating", logits, want[len(want)-len(logits):])
}

// state is that of the last of ids, by the engine to compare with.
func (s *suite) state(t *testing.T, ids []int32) []float32 {
	t.Helper()
	hidden := make([]float32, s.cfg.HiddenSize)
	forward(t, s.want, model.Input{Cache: cache(t, s.want), Tokens: ids, Hidden: hidden})
	return hidden
}

func (s *suite) top(t *testing.T) {
	ids := s.text(6, 9)
	V := s.cfg.VocabSize
	for _, k := range []int{1, 5, V} {
		top := make([]model.Scored, k)
		hidden := make([]float32, s.cfg.HiddenSize)
		forward(t, s.got, model.Input{Cache: cache(t, s.got), Tokens: ids, Top: top, Hidden: hidden})
		every := make([]float32, len(ids)*s.cfg.HiddenSize)
		forward(t, s.got, model.Input{Cache: cache(t, s.got), Tokens: ids, Top: top, Hidden: every})
		equal(t, "the last of all states", every[len(every)-len(hidden):], hidden)
		equal(t, "the first of all states", every[:len(hidden)], s.state(t, ids[:1]))
		want := s.all(t, s.want, ids)
		want = want[len(want)-V:]
		seen := map[int32]bool{}
		for i, x := range top {
			if math.Float32bits(x.Logit) != math.Float32bits(want[x.ID]) || seen[x.ID] {
				t.Fatalf("the %d best: number %d is %+v, its logit %g", k, i, x, want[x.ID])
			}
			seen[x.ID] = true
			if i > 0 && (x.Logit > top[i-1].Logit || x.Logit == top[i-1].Logit && x.ID < top[i-1].ID) {
				t.Fatalf("the %d best: %+v after %+v", k, x, top[i-1])
			}
		}
		for id, v := range want {
			if !seen[int32(id)] && v > top[k-1].Logit {
				t.Fatalf("the %d best leave out token %d", k, id)
			}
		}
	}
}

// each: the best after each of the last tokens are those that one token at a time gives.
func (s *suite) each(t *testing.T) {
	ids := s.text(11, 12)
	const last, k = 5, 3
	each := make([][]model.Scored, last)
	for i := range each {
		each[i] = make([]model.Scored, k)
	}
	forward(t, s.got, model.Input{Cache: cache(t, s.got), Tokens: ids, Each: each})
	for i := range each {
		want := make([]model.Scored, k)
		forward(t, s.got, model.Input{Cache: cache(t, s.got), Tokens: ids[:len(ids)-last+1+i], Top: want})
		for j := range want {
			if each[i][j] != want[j] {
				t.Fatalf("token %d: number %d is %+v, want %+v", i, j, each[i][j], want[j])
			}
		}
	}
}

func (s *suite) badInput(t *testing.T) {
	c := cache(t, s.got)
	for name, batch := range map[string][]model.Input{
		"no cache":           {{Tokens: []int32{1}}},
		"no tokens":          {{Cache: c}},
		"negative token":     {{Cache: c, Tokens: []int32{-1}}},
		"token too large":    {{Cache: c, Tokens: []int32{int32(s.cfg.VocabSize)}}},
		"room for 3 logits":  {{Cache: c, Tokens: []int32{1}, Logits: make([]float32, 3)}},
		"room for 1 hidden":  {{Cache: c, Tokens: []int32{1}, Hidden: make([]float32, 1)}},
		"too many of each":   {{Cache: c, Tokens: []int32{1}, Each: make([][]model.Scored, 2)}},
		"one cache twice":    {{Cache: c, Tokens: []int32{1}}, {Cache: c, Tokens: []int32{2}}},
		"another's cache":    {{Cache: cache(t, s.want), Tokens: []int32{1}}},
		"second input wrong": {{Cache: c, Tokens: []int32{1}}, {Tokens: []int32{2}}},
	} {
		if err := s.got.Forward(context.Background(), batch); err == nil {
			t.Errorf("%s: no error", name)
		}
		if c.Len() != 0 {
			t.Fatalf("%s: the cache has %d tokens", name, c.Len())
		}
	}
	if _, err := s.got.NewCache(s.cfg.MaxContext + 1); err == nil {
		t.Error("a cache beyond the model's context is no error")
	}
}

func (s *suite) cancel(t *testing.T) {
	ctx, stop := context.WithCancel(context.Background())
	c := cache(t, s.got)
	forward(t, s.got, model.Input{Cache: c, Tokens: s.text(8, 5)})
	stop()
	err := s.got.Forward(ctx, []model.Input{{Cache: c, Tokens: s.text(9, 5)}})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that of the context", err)
	}
	if c.Len() != 5 {
		t.Errorf("the cache has %d tokens after a cancelled pass, want 5", c.Len())
	}
}

func (s *suite) contextFull(t *testing.T) {
	c, err := s.got.NewCache(10)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	err = s.got.Forward(context.Background(), []model.Input{{Cache: c, Tokens: s.text(1, 11)}})
	if !errors.Is(err, model.ErrContextFull) {
		t.Errorf("error %v, want ErrContextFull", err)
	}
	forward(t, s.got, model.Input{Cache: c, Tokens: s.text(1, 10)})
}
