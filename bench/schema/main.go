// Command schema measures package grammar on collections of JSON schemas.
//
//	schema accept DIR  [-every N] [-samples FILE]      schemas, one a file, in DIR and below: how many compile, why others
//	                                                   do not, and one random text for each, to be validated elsewhere
//	schema suite  DIR                                  the tests folder of JSON-Schema-Test-Suite: no invalid instance may pass
//	schema mask   DIR  -vocab V [-every N] [-peers CMD]  MaskBench's data folder: instances, and the time of each mask
//
// -vocab is a tokenizer that trit reads: a GGUF file or a folder. -peers is a command, such as "python peers.py", that
// answers the same questions with other engines in the same run, schema by schema in turn. The collections are public:
// guidance-ai/jsonschemabench (data, maskbench/data) and json-schema-org/JSON-Schema-Test-Suite (tests).
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/grammar"
	"github.com/tritlm/trit/tokenizer"
)

var (
	vocabPath = flag.String("vocab", "", "tokenizer: a GGUF file or a folder")
	every     = flag.Int("every", 1, "take every so manieth file")
	samples   = flag.String("samples", "", "write a text for each schema that compiles into this file, as JSON lines")
	seeds     = flag.Int("seeds", 1, "texts for each schema")
	peers     = flag.String("peers", "", "command that runs the other engines")
	timeout   = flag.Duration("timeout", 10*time.Second, "for one schema to compile")
)

func main() {
	if len(os.Args) < 3 {
		fmt.Fprintln(os.Stderr, "usage: schema accept|suite|mask DIR [flags]")
		os.Exit(2)
	}
	if err := flag.CommandLine.Parse(os.Args[3:]); err != nil {
		os.Exit(2)
	}
	run := map[string]func(string) error{"accept": accept, "suite": suite, "mask": mask}[os.Args[1]]
	if run == nil {
		fmt.Fprintln(os.Stderr, "schema: accept, suite or mask, not", os.Args[1])
		os.Exit(2)
	}
	if err := run(os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "schema:", err)
		os.Exit(1)
	}
}

// load reads the vocabulary; without one, every byte is a token.
func load() (*grammar.Vocab, *tokenizer.Tokenizer, error) {
	if *vocabPath == "" {
		return grammar.NewVocab(257, func(id int32) []byte {
			if id == 256 {
				return nil
			}
			return []byte{byte(id)}
		}, []int32{256}), nil, nil
	}
	var t *tokenizer.Tokenizer
	info, err := os.Stat(*vocabPath)
	if err != nil {
		return nil, nil, err
	}
	if info.IsDir() {
		t, err = tokenizer.Load(*vocabPath)
	} else {
		var f *os.File
		if f, err = os.Open(*vocabPath); err != nil {
			return nil, nil, err
		}
		defer f.Close()
		var file *gguf.File
		if file, err = gguf.Read(f, info.Size(), f.Name()); err == nil {
			t, err = tokenizer.FromGGUF(file.KV)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	return grammar.NewVocab(t.VocabSize(), func(id int32) []byte {
		if t.IsSpecial(id) {
			return nil
		}
		return t.Bytes(id)
	}, t.EOS()), t, nil
}

func files(dir string) ([]string, error) {
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && filepath.Ext(path) == ".json" {
			out = append(out, path)
		}
		return err
	})
	slices.Sort(out)
	var some []string
	for i, f := range out {
		if i%*every == 0 {
			some = append(some, f)
		}
	}
	return some, err
}

func compile(v *grammar.Vocab, src []byte) (*grammar.Grammar, time.Duration, error) {
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	start := time.Now()
	g, err := grammar.JSONSchema(v.Within(ctx), src)
	return g, time.Since(start), err
}

var (
	place  = regexp.MustCompile(`^grammar: (schema at \S+: )?`)
	number = regexp.MustCompile(`\d+`)
)

func accept(dir string) error {
	v, t, err := load()
	if err != nil {
		return err
	}
	list, err := files(dir)
	if err != nil {
		return err
	}
	out := io.Discard
	if *samples != "" {
		f, err := os.Create(*samples)
		if err != nil {
			return err
		}
		defer f.Close()
		out = f
	}
	why, example := map[string]int{}, map[string]string{}
	ok, texts, cut := 0, 0, 0
	var times []time.Duration
	for _, f := range list {
		src, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		g, d, err := compile(v, src)
		times = append(times, d)
		if err != nil {
			if errors.Is(err, context.DeadlineExceeded) {
				fmt.Println("too slow:", f)
			}
			m := number.ReplaceAllString(place.ReplaceAllString(err.Error(), ""), "N")
			m = m[:min(len(m), 90)]
			why[m]++
			example[m] = f
			continue
		}
		ok++
		for seed := range *seeds {
			text, ended := generate(g, t, rand.New(rand.NewPCG(uint64(seed), 7)), 2000)
			if !ended {
				cut++
				continue
			}
			texts++
			line, err := json.Marshal(map[string]string{"f": f, "t": string(text)})
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "%s\n", line)
		}
	}
	fmt.Printf("%d of %d schemas accepted, %.2f%%; %d texts, %d not ended\n", ok, len(list), 100*float64(ok)/float64(len(list)), texts, cut)
	fmt.Println("compilation:", spread(times))
	var keys []string
	for k := range why {
		keys = append(keys, k)
	}
	slices.SortFunc(keys, func(a, b string) int { return why[b] - why[a] })
	for _, k := range keys {
		fmt.Printf("%5d  %s   (%s)\n", why[k], k, example[k])
	}
	return nil
}

// generate writes a text with random preferences.
func generate(g *grammar.Grammar, t *tokenizer.Tokenizer, rng *rand.Rand, limit int) ([]byte, bool) {
	limit = max(limit, g.MinBytes()+1)
	m := g.NewMatcher()
	var text []byte
	mood := rng.Float64() // how much it likes to go on rather than to end soon
	for n := range limit {
		left := limit - n
		if mood < 0.5 {
			left = min(left, max(60-n, 0)+m.Rest())
		}
		m.Limit(left)
		if m.MayEnd() && rng.Float64() > mood {
			return text, true
		}
		bits := m.Allowed()
		id := int32(-1)
		for tries := 0; ; tries++ {
			if tries == 8 {
				bits = m.Narrow()
			}
			id = pick(rng, bits, t)
			if id < 0 {
				return text, m.MayEnd()
			}
			if m.Fits(id) {
				break
			}
			m.Forbid(id)
			bits = m.Allowed()
		}
		if t == nil {
			text = append(text, byte(id))
		} else {
			text = append(text, t.Bytes(id)...)
		}
		m.Accept(id)
		if m.Done() {
			return text, m.MayEnd()
		}
	}
	return text, m.MayEnd()
}

// pick takes a token that adds text, all equally likely; −1 if there is none.
func pick(rng *rand.Rand, bits []uint64, t *tokenizer.Tokenizer) int32 {
	id, n := int32(-1), 0
	for w, word := range bits {
		for ; word != 0; word &= word - 1 {
			i := int32(w*64 + trailing(word))
			if t == nil && i > 255 || t != nil && t.IsSpecial(i) {
				continue
			}
			if n++; rng.IntN(n) == 0 {
				id = i
			}
		}
	}
	return id
}

func trailing(x uint64) int {
	n := 0
	for ; x&1 == 0; x >>= 1 {
		n++
	}
	return n
}

func suite(dir string) error {
	v, _, err := load()
	if err != nil {
		return err
	}
	list, err := files(dir)
	if err != nil {
		return err
	}
	var schemas, refused, valid, taken, invalid, wrong int
	for _, f := range list {
		src, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		var groups []struct {
			Description string
			Schema      json.RawMessage
			Tests       []struct {
				Description string
				Data        json.RawMessage
				Valid       bool
			}
		}
		if json.Unmarshal(src, &groups) != nil {
			continue
		}
		for _, x := range groups {
			schemas++
			g, _, err := compile(v, x.Schema)
			if err != nil {
				if !strings.Contains(err.Error(), "nothing matches") {
					refused++
				}
				continue
			}
			for _, t := range x.Tests {
				read := reads(g, t.Data)
				switch {
				case t.Valid:
					valid++
					if read {
						taken++
					}
				default:
					invalid++
					if read {
						wrong++
						fmt.Printf("taken: %s: %s: %s: %s\n", f, x.Description, t.Description, bytes.ReplaceAll(t.Data, []byte("\n"), nil))
					}
				}
			}
		}
	}
	fmt.Printf("%d schemas, %d refused; %d of %d valid instances can be written; %d of %d invalid ones can\n", schemas, refused, taken, valid, wrong, invalid)
	return nil
}

// reads reports that the grammar, over a vocabulary of bytes, can write a document, compact or with blanks.
func reads(g *grammar.Grammar, doc []byte) bool {
	var compact bytes.Buffer
	if json.Compact(&compact, doc) != nil {
		return false
	}
	for _, text := range [][]byte{compact.Bytes(), spaced(compact.Bytes())} {
		m := g.NewMatcher()
		for _, c := range text {
			m.Accept(int32(c))
		}
		if m.MayEnd() {
			return true
		}
	}
	return false
}

// spaced puts a blank after the commas and colons of a compact document.
func spaced(doc []byte) []byte {
	var out []byte
	in := false
	for i := 0; i < len(doc); i++ {
		out = append(out, doc[i])
		switch c := doc[i]; {
		case c == '\\' && in:
			i++
			out = append(out, doc[i])
		case c == '"':
			in = !in
		case !in && (c == ',' || c == ':'):
			out = append(out, ' ')
		}
	}
	return out
}

// record is what one engine did with one schema.
type record struct {
	Error   string    `json:"error,omitempty"`
	First   float64   `json:"first"` // µs to the first mask
	Masks   []float64 `json:"masks"` // µs each
	Verdict []bool    `json:"verdict"`
}

type task struct {
	Schema json.RawMessage `json:"schema"`
	Tests  [][]int32       `json:"tests"`
}

func mask(dir string) error {
	v, t, err := load()
	if err != nil {
		return err
	}
	if t == nil {
		return errors.New("mask needs -vocab")
	}
	list, err := files(dir)
	if err != nil {
		return err
	}
	debug.SetGCPercent(400)
	type engine struct {
		name    string
		ask     func(task) (record, error)
		all     []record
		refused int
		// by what should be
		rejected, invalid, taken, valid int
		why                             map[string]int
		worst                           string
		slow                            float64
	}
	engines := []*engine{{name: "trit", ask: func(x task) (record, error) { return measure(v, x), nil }}}
	if *peers != "" {
		cmd := exec.Command("sh", "-c", "exec "+*peers)
		cmd.Stderr = os.Stderr
		in, err := cmd.StdinPipe()
		if err != nil {
			return err
		}
		out, err := cmd.StdoutPipe()
		if err != nil {
			return err
		}
		if err := cmd.Start(); err != nil {
			return err
		}
		defer func() {
			in.Close()
			cmd.Wait()
		}()
		send := json.NewEncoder(in)
		receive := json.NewDecoder(bufio.NewReaderSize(out, 1<<20))
		words := make([]string, t.VocabSize())
		var special []int32
		for id := range int32(t.VocabSize()) {
			words[id] = base64.StdEncoding.EncodeToString(t.Bytes(id))
			if t.IsSpecial(id) {
				special = append(special, id)
			}
		}
		if err := send.Encode(map[string]any{"tokens": words, "special": special, "stop": t.EOS()}); err != nil {
			return err
		}
		var names []string
		if err := receive.Decode(&names); err != nil {
			return err
		}
		for _, name := range names {
			engines = append(engines, &engine{name: name, ask: func(x task) (record, error) {
				var r record
				err := send.Encode(map[string]any{"engine": name, "task": x})
				if err == nil {
					err = receive.Decode(&r)
				}
				return r, err
			}})
		}
	}
	for k, f := range list {
		src, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		var file struct {
			Schema json.RawMessage
			Tests  []struct {
				Valid bool
				Data  json.RawMessage
			}
		}
		if err := json.Unmarshal(src, &file); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		x := task{Schema: file.Schema, Tests: [][]int32{}}
		for _, y := range file.Tests {
			var compact bytes.Buffer
			if err := json.Compact(&compact, y.Data); err != nil {
				return err
			}
			x.Tests = append(x.Tests, t.Encode(string(spaced(compact.Bytes())), tokenizer.EncodeOptions{}))
		}
		for i := range engines {
			e := engines[(i+k)%len(engines)] // in turn, each first as often
			r, err := e.ask(x)
			if err != nil {
				return fmt.Errorf("%s: %s: %w", e.name, f, err)
			}
			if r.Error != "" {
				e.refused++
				why := number.ReplaceAllString(r.Error, "N")
				if e.why == nil {
					e.why = map[string]int{}
				}
				e.why[why[:min(len(why), 110)]]++
				continue
			}
			e.all = append(e.all, r)
			for i, ok := range r.Verdict {
				switch {
				case file.Tests[i].Valid && ok:
					e.taken++
					e.valid++
				case file.Tests[i].Valid:
					e.valid++
				case ok:
					e.invalid++
					if e.name == "trit" {
						fmt.Printf("taken although invalid: %s, test %d\n", f, i)
					}
				default:
					e.invalid++
					e.rejected++
				}
			}
			for _, m := range append(r.Masks, r.First) {
				if m > e.slow {
					e.slow, e.worst = m, f
				}
			}
		}
	}
	for _, e := range engines {
		var first, masks []float64
		for _, r := range e.all {
			first = append(first, r.First)
			masks = append(masks, r.Masks...)
		}
		fmt.Printf("%s: %d of %d schemas refused; %d of %d invalid instances rejected, %d of %d valid ones taken\n",
			e.name, e.refused, len(list), e.rejected, e.invalid, e.taken, e.valid)
		fmt.Printf("  µs to the first mask: %s\n  µs a mask:            %s\n  slowest: %s\n", quantiles(first), quantiles(masks), e.worst)
		for w, n := range e.why {
			if n > 2 {
				fmt.Printf("  %5d refused: %s\n", n, w)
			}
		}
	}
	return nil
}

func quantiles(x []float64) string {
	if len(x) == 0 {
		return "none"
	}
	slices.Sort(x)
	sum := 0.0
	for _, v := range x {
		sum += v
	}
	at := func(p float64) float64 { return x[int(p*float64(len(x)-1))] }
	return fmt.Sprintf("p50 %.1f  p90 %.1f  p99 %.1f  max %.0f  mean %.1f  (%d)", at(0.5), at(0.9), at(0.99), at(1), sum/float64(len(x)), len(x))
}

func spread(times []time.Duration) string {
	var x []float64
	for _, d := range times {
		x = append(x, float64(d.Microseconds()))
	}
	return "µs " + quantiles(x)
}

// measure compiles a schema and follows its instances.
func measure(v *grammar.Vocab, x task) record {
	since := func(t time.Time) float64 { return float64(time.Since(t).Nanoseconds()) / 1e3 }
	ctx, cancel := context.WithTimeout(context.Background(), *timeout)
	defer cancel()
	start := time.Now()
	g, err := grammar.JSONSchema(v.Within(ctx), x.Schema)
	if err != nil {
		return record{Error: err.Error()}
	}
	g.NewMatcher().Allowed()
	r := record{First: since(start), Masks: []float64{}, Verdict: []bool{}}
	for _, tokens := range x.Tests {
		m := g.NewMatcher()
		ok := true
		for _, id := range tokens {
			start := time.Now()
			bits := m.Allowed()
			if ok = bits[id/64]>>(id%64)&1 == 1; ok {
				m.Accept(id)
			}
			r.Masks = append(r.Masks, since(start))
			if !ok {
				break
			}
		}
		r.Verdict = append(r.Verdict, ok && m.MayEnd())
	}
	return r
}
