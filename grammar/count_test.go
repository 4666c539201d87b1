package grammar

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"
)

// Repetitions are numbers, not states: a bound of thousands costs no more than one of three.
func TestCounts(t *testing.T) {
	v := testVocab()
	str := func(n int) string { return `"` + strings.Repeat("é", n) + `"` }
	list := func(n int) string { return "[" + strings.TrimSuffix(strings.Repeat("1, ", n), ", ") + "]" }
	five := `{"type":"object","properties":{"p0":{"type":"string","maxLength":255},"p1":{"type":"string","maxLength":256},"p2":{"type":"string","maxLength":257},"p3":{"type":"string","maxLength":258},"p4":{"type":"string","maxLength":259}}}`
	for _, tt := range []struct {
		g       *Grammar
		yes, no []string
	}{
		{must(JSONSchema(v, []byte(`{"type":"string","maxLength":2000}`))), []string{str(0), str(1999), str(2000)}, []string{str(2001)}},
		{must(JSONSchema(v, []byte(`{"type":"string","minLength":1500,"maxLength":1501}`))), []string{str(1500), str(1501)}, []string{str(1499), str(1502)}},
		{must(JSONSchema(v, []byte(`{"type":"string","minLength":700}`))), []string{str(700), str(9000)}, []string{str(699)}},
		{must(JSONSchema(v, []byte(`{"type":"string","maxLength":100000000}`))), []string{str(60000)}, nil},
		{must(JSONSchema(v, []byte(five))), []string{`{"p4":` + str(259) + `}`, `{"p0":` + str(255) + `,"p1":` + str(256) + `}`}, []string{`{"p4":` + str(260) + `}`, `{"p0":` + str(256) + `}`}},
		{must(JSONSchema(v, []byte(`{"type":"string","format":"uri","minLength":1,"maxLength":2083}`))), []string{`"https://example.com/a?b=c"`}, []string{`"example.com"`, `""`}},
		{must(JSONSchema(v, []byte(`{"type":"string","format":"uri","maxLength":20}`))), []string{`"https://example.com"`}, []string{`"https://example.com/abc"`}},
		{must(JSONSchema(v, []byte(`{"type":"string","pattern":"^\\w{1,1024}$"}`))), []string{`"a"`, `"` + strings.Repeat("x", 1024) + `"`}, []string{`""`, `"` + strings.Repeat("x", 1025) + `"`, `"-"`}},
		{must(JSONSchema(v, []byte(`{"type":"string","pattern":"^a(?:bc){150,200}d$","maxLength":330}`))), []string{`"a` + strings.Repeat("bc", 150) + `d"`}, []string{`"a` + strings.Repeat("bc", 149) + `d"`, `"a` + strings.Repeat("bc", 165) + `d"`}},
		{must(JSONSchema(v, []byte(`{"type":"array","items":{"type":"integer"},"minItems":3,"maxItems":4000}`))), []string{list(3), list(4000)}, []string{list(2), list(4001), "[]"}},
		{must(JSONSchema(v, []byte(`{"type":"array","prefixItems":[{"type":"integer"}],"minItems":600}`))), []string{list(600), list(900)}, []string{list(599)}},
		{must(GBNF(v, `root ::= ("a" | "bc"){2,5000} [0-9]{17,400}`)), []string{strings.Repeat("abc", 2500) + strings.Repeat("7", 17), "aa" + strings.Repeat("7", 400)}, []string{"a" + strings.Repeat("7", 17), strings.Repeat("a", 5001) + strings.Repeat("7", 17), "aa" + strings.Repeat("7", 401)}},
		{must(Regex(v, `[a-z]{20,900}\d`)), []string{strings.Repeat("q", 20) + "1", strings.Repeat("q", 900) + "1"}, []string{strings.Repeat("q", 19) + "1", strings.Repeat("q", 901) + "1"}},
	} {
		if n := len(tt.g.states); n > 3000 {
			t.Errorf("%d states", n)
		}
		for _, s := range tt.yes {
			if !accepts(tt.g, s) {
				t.Errorf("refuses %.60s (%d characters)", s, utf8.RuneCountInString(s))
			}
		}
		for _, s := range tt.no {
			if accepts(tt.g, s) {
				t.Errorf("accepts %.60s (%d characters)", s, utf8.RuneCountInString(s))
			}
		}
		for seed := range uint64(4) {
			limit := tt.g.MinBytes() + 40
			if text, ended := walk(t, tt.g, rand.New(rand.NewPCG(seed, 8)), limit); !ended {
				t.Errorf("no end within %d: %.80s", limit, text)
			}
		}
	}
	if _, err := GBNF(v, `root ::= ("a"?){2,5000}`); err == nil || !strings.Contains(err.Error(), "may be empty") {
		t.Errorf("what may be empty, 5000 times: %v", err)
	}
}

// The masks at each place of a counted string are those of reading every token.
func TestCountedMasks(t *testing.T) {
	v := testVocab()
	for _, src := range []string{
		`{"type":"string","maxLength":9}`, `{"type":"string","minLength":5,"maxLength":9}`, `{"type":"string","minLength":9,"maxLength":9}`,
		`{"type":"string","maxLength":300,"pattern":"^([a-z]{2}|é)*$"}`, `{"type":"array","items":{"type":"boolean"},"minItems":2,"maxItems":5}`,
		`{"type":"string","minLength":40}`,
	} {
		g := must(JSONSchema(v, []byte(src)))
		rng := rand.New(rand.NewPCG(4, 4))
		for range 3 {
			m := g.NewMatcher()
			for range 50 {
				bits := m.Allowed()
				c := g.NewMatcher()
				c.nodes, c.index, c.tops = m.nodes, m.index, m.tops
				may := []int32(nil)
				for id := range int32(v.size) {
					if id <= 1 || len(v.token[id]) == 0 {
						continue
					}
					on := bits[id/64]>>(id%64)&1 == 1
					c.stamp = m.stamp
					if want := len(c.run(c.tops, v.token[id])) > 0 || c.accept; on != want {
						t.Fatalf("%s: token %q: mask %v, reading %v", src, v.token[id], on, want)
					}
					m.nodes, m.index, m.stamp = c.nodes, c.index, c.stamp
					if on {
						may = append(may, id)
					}
				}
				if len(may) == 0 {
					break
				}
				m.Accept(may[rng.IntN(len(may))])
			}
		}
	}
}

// llama.cpp's grammars name tokens: <[65]>, <name>, and any but one with !.
func TestTokenTerminals(t *testing.T) {
	words := []string{"", "", "<think>", "", "a", "b", "ab", "c", "</s>"}
	v := NewVocab(len(words), func(id int32) []byte {
		if id == 2 || id == 3 { // control tokens add no text
			return nil
		}
		return []byte(words[id])
	}, []int32{0})
	v.Named = func(text string) (int32, bool) { return 2, text == "<think>" }
	allowed := func(m *Matcher) (ids []int32) {
		bits := m.Allowed()
		for id := range int32(len(words)) {
			if bits[0]>>id&1 == 1 {
				ids = append(ids, id)
			}
		}
		return ids
	}
	for _, tt := range []struct {
		src   string
		takes []int32
		want  string // allowed before each and after all
	}{
		{`root ::= <[3]> "a" !<[5]>*`, []int32{3, 4, 6, 7}, "[3] [4] [0 4 6 7 8] [0 4 6 7 8] [0 4 6 7 8]"},
		{`root ::= <think> [a-c]* <[3]> "a"`, []int32{2, 6, 3, 4}, "[2] [3 4 5 6 7] [3 4 5 6 7] [4] [0]"},
		{`root ::= <[6]> | "a" "b"?`, []int32{4}, "[4 6] [0 5]"},
		{`root ::= <[6]> | "a" "b"? "c"`, []int32{6}, "[4 6] [0 7]"},
		{`root ::= (<[4]> | <[5]>){2,40}`, []int32{4, 5}, "[4 5] [4 5] [0 4 5]"},
	} {
		g, err := GBNF(v, tt.src)
		if err != nil {
			t.Errorf("%s: %v", tt.src, err)
			continue
		}
		m := g.NewMatcher()
		got := fmt.Sprint(allowed(m))
		for _, id := range tt.takes {
			m.Accept(id)
			got += " " + fmt.Sprint(allowed(m))
		}
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.src, got, tt.want)
		}
	}
	for _, src := range []string{`root ::= <[99]>`, `root ::= <nobody>`, `root ::= <[0]>`, `root ::= <[x]>`, `root ::= !"a"`} {
		if _, err := GBNF(v, src); !errors.Is(err, ErrGrammar) {
			t.Errorf("%s: %v", src, err)
		}
	}
}

// heavy is a source that takes long to compile and is refused in the end.
func heavy(i int) string { return fmt.Sprintf(`[ab]*a([ab][ab]){15}c{%d}`, i) }

// Sixteen clients that send what is too much make nobody wait.
func TestCacheIsFair(t *testing.T) {
	v := testVocab()
	c := NewCache(1 << 24)
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	for i := range 40 {
		wg.Go(func() {
			for k := 0; ctx.Err() == nil; k++ {
				c.Get(ctx, "everyone", heavy(100*i+k), func(ctx context.Context) (*Grammar, []string, error) {
					g, err := Regex(v.Within(ctx), heavy(100*i+k))
					return g, nil, err
				})
			}
		})
	}
	time.Sleep(200 * time.Millisecond)
	for i := range 5 {
		src := fmt.Sprintf(`{"type":"object","properties":{"k%d":{"type":"integer"}}}`, i)
		start := time.Now()
		_, _, err := c.Get(ctx, "everyone", src, func(ctx context.Context) (*Grammar, []string, error) {
			g, err := JSONSchema(v.Within(ctx), []byte(src))
			return g, nil, err
		})
		if d := time.Since(start); err != nil || d > 5*time.Second { // one after the other they would take longer
			t.Errorf("a small schema among large ones: %v, %v", d, err)
		}
	}
	stop()
	wg.Wait()
}

func TestCache(t *testing.T) {
	v := testVocab()
	c := NewCache(300_000)
	compiled := 0
	get := func(ctx context.Context, src string) (*Grammar, error) {
		g, _, err := c.Get(ctx, "me", src, func(ctx context.Context) (*Grammar, []string, error) {
			compiled++
			g, err := Regex(v.Within(ctx), src)
			return g, nil, err
		})
		return g, err
	}
	ctx := context.Background()
	a, _ := get(ctx, "a")
	if b, _ := get(ctx, "a"); a != b || compiled != 1 {
		t.Error("compiled twice")
	}
	_, e1 := get(ctx, "(")
	_, e2 := get(ctx, "(")
	if e1 == nil || e1 != e2 || compiled != 2 {
		t.Error("what is refused is not kept")
	}
	// What is used stays; what is not goes when there is too much.
	for i := range 40 {
		get(ctx, fmt.Sprintf("x{%d}", 900+i))
		get(ctx, "a")
	}
	n := compiled
	if get(ctx, "a"); compiled != n {
		t.Error("forgot what was used last")
	}
	if get(ctx, "x{900}"); compiled != n+1 {
		t.Error("kept more than fits")
	}
	// A cancelled compilation ends, with the reason, and is not kept.
	gone := errors.New("gone")
	cancelled, cancel := context.WithCancelCause(ctx)
	time.AfterFunc(20*time.Millisecond, func() { cancel(gone) })
	start := time.Now()
	if _, err := get(cancelled, heavy(7)); !errors.Is(err, gone) {
		t.Errorf("cancelled: %v", err)
	}
	if d := time.Since(start); d > time.Second {
		t.Errorf("it took %v to stop", d)
	}
	if c.held != 0 || len(c.jobs) != 0 || len(c.alive) != 0 {
		t.Errorf("left behind: %d %d %d", c.held, len(c.jobs), len(c.alive))
	}
}
