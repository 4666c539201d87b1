// Command serve puts load on an OpenAI-compatible server and prints what its clients see: time to first token (TTFT),
// time between tokens (ITL), tokens per second, errors, and the server's memory.
//
//	go run ./bench/serve -url http://localhost:8080 -clients 64 -for 2m -single 30s -rounds 3 -pid $(pidof trit)
//
// Each client is a loop: a streamed chat completion with a prompt of its own behind a common system prompt, checked
// to be complete (its end marked, its tokens counted against the usage) and in order (greedy: whoever asked the same
// gets the same text, to the byte), then the next. A 429 is waited out as Retry-After says and counted apart.
//
// Rates count tokens by when they arrive, between the start of a phase and its end; requests that are under way at
// the end are waited for. With -single, phases of one client alternate with those of all, and their ratio is what
// batching gives. The same script measures any server that streams.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

type options struct {
	url, model, key             string
	tokens, system, words, pool int
	seed                        uint64
	http                        *http.Client

	mu    sync.Mutex
	texts map[string]string // by prompt: what was answered
}

type result struct {
	arrived []time.Time // chunks of text
	start   time.Time
	tokens  int
	prompt  int
	text    string
	busy    time.Duration // 429: how long to wait
	err     error
}

// phase is what clients see within a time.
type phase struct {
	seconds          float64
	tokens, read     float64
	done, busy, fail int
	ttft, itl        []time.Duration
}

func (p *phase) add(q *phase) {
	p.seconds += q.seconds
	p.tokens += q.tokens
	p.read += q.read
	p.done += q.done
	p.busy += q.busy
	p.fail += q.fail
	p.ttft = append(p.ttft, q.ttft...)
	p.itl = append(p.itl, q.itl...)
}

func main() {
	var o options
	flag.StringVar(&o.url, "url", "http://localhost:8080", "server")
	flag.StringVar(&o.model, "model", "", "model (default the server's first)")
	flag.StringVar(&o.key, "key", "", "bearer key")
	clients := flag.Int("clients", 64, "concurrent clients")
	length := flag.Duration("for", time.Minute, "how long all clients ask, in each round")
	single := flag.Duration("single", 0, "how long one client asks alone, before each round")
	rounds := flag.Int("rounds", 1, "how often")
	pid := flag.Int("pid", 0, "the server's process, whose memory is watched (Linux)")
	flag.IntVar(&o.tokens, "tokens", 64, "tokens of each answer")
	flag.IntVar(&o.system, "system", 20, "words of the common system prompt; 0: none")
	flag.IntVar(&o.words, "words", 8, "words of each client's own prompt")
	flag.IntVar(&o.pool, "pool", 256, "different prompts; the answers to one must be the same. 0: no two are the same")
	flag.Uint64Var(&o.seed, "seed", 1, "seed of the prompts")
	asJSON := flag.Bool("json", false, "print JSON")
	flag.Parse()
	o.texts = map[string]string{}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = *clients
	transport.DialContext = (&net.Dialer{Timeout: 5 * time.Minute}).DialContext // a server that is slow to accept is no error
	o.http = &http.Client{Transport: transport}

	watch := watchMemory(*pid)
	var one, all phase
	for round := range *rounds {
		if *single > 0 {
			one.add(o.run(1, *single, uint64(2*round)))
		}
		all.add(o.run(*clients, *length, uint64(2*round+1)))
	}
	out := []pair{
		{"clients", *clients},
		{"seconds", round(all.seconds)},
		{"requests", all.done},
		{"errors", all.fail + one.fail},
		{"refused_429", all.busy},
		{"tokens_per_second", round(all.tokens / all.seconds)},
		{"prompt_tokens_per_second", round(all.read / all.seconds)},
		{"ttft_p50_ms", ms(all.ttft, 0.5)},
		{"ttft_p99_ms", ms(all.ttft, 0.99)},
		{"itl_p50_ms", ms(all.itl, 0.5)},
		{"itl_p99_ms", ms(all.itl, 0.99)},
		{"itl_max_ms", ms(all.itl, 1)},
	}
	if *single > 0 {
		out = append(out,
			pair{"single_requests", one.done},
			pair{"single_tokens_per_second", round(one.tokens / one.seconds)},
			pair{"single_ttft_p50_ms", ms(one.ttft, 0.5)},
			pair{"single_itl_p50_ms", ms(one.itl, 0.5)},
			pair{"times_single", round(all.tokens / all.seconds * one.seconds / one.tokens)})
	}
	if mb := watch(); len(mb) > 0 {
		n := len(mb)
		out = append(out, pair{"rss_mb_after_quarter", mb[n/4]}, pair{"rss_mb_after_half", mb[n/2]}, pair{"rss_mb_at_end", mb[n-1]}, pair{"rss_mb_max", slices.Max(mb)})
	}
	if *asJSON {
		m := map[string]any{}
		for _, p := range out {
			m[p.name] = p.value
		}
		_ = json.NewEncoder(os.Stdout).Encode(m)
	} else {
		for _, p := range out {
			fmt.Printf("%-26s %v\n", p.name, p.value)
		}
	}
	if all.fail+one.fail > 0 || all.done == 0 {
		os.Exit(1)
	}
}

type pair struct {
	name  string
	value any
}

// run lets clients ask until the time is over.
func (o *options) run(clients int, length time.Duration, phaseSeed uint64) *phase {
	results := make(chan result, clients)
	var wg sync.WaitGroup
	start := time.Now()
	end := start.Add(length)
	for i := range clients {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(o.seed, phaseSeed<<32|uint64(i)))
			for time.Now().Before(end) {
				r := o.ask(rng)
				results <- r
				time.Sleep(min(r.busy, time.Until(end)))
			}
		})
	}
	go func() { wg.Wait(); close(results) }()
	p := &phase{seconds: length.Seconds()}
	for r := range results {
		switch {
		case r.busy > 0:
			p.busy++
		case r.err != nil:
			if p.fail++; p.fail <= 5 {
				fmt.Fprintln(os.Stderr, r.err)
			}
		default:
			p.done++
			p.read += float64(r.prompt)
			for i, at := range r.arrived {
				if at.Before(end) {
					p.tokens += float64(r.tokens) / float64(len(r.arrived))
				}
				if i == 0 {
					p.ttft = append(p.ttft, at.Sub(r.start))
				} else {
					p.itl = append(p.itl, at.Sub(r.arrived[i-1]))
				}
			}
		}
	}
	return p
}

// ask sends one request and holds its answer against earlier ones to the same prompt.
func (o *options) ask(rng *rand.Rand) result {
	if o.pool > 0 {
		rng = rand.New(rand.NewPCG(o.seed, 1<<40|uint64(rng.IntN(o.pool))))
	}
	prompt := text(rng, o.words)
	messages := []map[string]string{{"role": "user", "content": prompt}}
	if o.system > 0 {
		messages = append([]map[string]string{{"role": "system", "content": text(rand.New(rand.NewPCG(o.seed, 1<<41)), o.system)}}, messages...)
	}
	body := map[string]any{
		"messages": messages, "max_tokens": o.tokens, "temperature": 0, "stream": true,
		"stream_options": map[string]bool{"include_usage": true}, "ignore_eos": true,
	}
	if o.model != "" {
		body["model"] = o.model
	}
	r := one(context.Background(), o.http, o.url, o.key, body)
	if r.err == nil && r.busy == 0 && o.pool > 0 {
		o.mu.Lock()
		defer o.mu.Unlock()
		if before, ok := o.texts[prompt]; ok && before != r.text {
			r.err = fmt.Errorf("two answers to %q: %q and %q", prompt, before, r.text)
		}
		o.texts[prompt] = r.text
	}
	return r
}

// watchMemory notes the resident memory of a process each second, in MB, until the returned function is called.
func watchMemory(pid int) (stop func() []int) {
	done, list := make(chan bool), make(chan []int)
	go func() {
		var mb []int
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				list <- mb
				return
			case <-tick.C:
			}
			status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
			if err != nil {
				continue
			}
			for line := range strings.Lines(string(status)) {
				if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
					kb, _ := strconv.Atoi(f[1])
					mb = append(mb, kb*1024/1e6)
				}
			}
		}
	}()
	return func() []int { close(done); return <-list }
}

func round(x float64) float64 { return float64(int(x*100+0.5)) / 100 }

// ms is the q-th quantile in milliseconds.
func ms(d []time.Duration, q float64) float64 {
	if len(d) == 0 {
		return 0
	}
	slices.Sort(d)
	return round(float64(d[min(int(q*float64(len(d))), len(d)-1)].Microseconds()) / 1000)
}

// vocabulary is common words, so that a word is about a token.
var vocabulary = strings.Fields(`the of and to in a is that for it as was with be by on not he his but at are this have from or had an they
	which one you were all her she there would their we him been has when who will no more if out so up said what its about than into them
	can only other time new some could these two may first then do any like my now over such our man me even most made after also did many
	off before must well back through years where much your way down should because long each just state those people too mr how little good
	world make very year still see own work men day get here old life both between being under three never know same last another while us
	might great go come since against right came take used himself few house american use place during high without again home around small
	however found mrs part school thought went say general once upon war left every does got united number hand course water`)

func text(rng *rand.Rand, n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = vocabulary[rng.IntN(len(vocabulary))]
	}
	return strings.Join(list, " ")
}

// one sends a request and follows its stream to the end.
func one(ctx context.Context, c *http.Client, url, key string, body any) (r result) {
	b, err := json.Marshal(body)
	if err != nil {
		return result{err: err}
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, url+"/v1/chat/completions", bytes.NewReader(b))
	if err != nil {
		return result{err: err}
	}
	q.Header.Set("Content-Type", "application/json")
	if key != "" {
		q.Header.Set("Authorization", "Bearer "+key)
	}
	r.start = time.Now()
	a, err := c.Do(q)
	if err != nil {
		return result{err: err}
	}
	defer a.Body.Close()
	if a.StatusCode == http.StatusTooManyRequests {
		seconds, err := strconv.Atoi(a.Header.Get("Retry-After"))
		if err != nil {
			return result{err: errors.New("429 without Retry-After")}
		}
		return result{busy: time.Duration(max(seconds, 1)) * time.Second}
	}
	if a.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(a.Body, 500))
		return result{err: fmt.Errorf("%s: %s", a.Status, text)}
	}
	ended, finished := false, false
	var text strings.Builder
	sc := bufio.NewScanner(a.Body)
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		data, ok := strings.CutPrefix(sc.Text(), "data: ")
		if !ok {
			continue
		}
		if data == "[DONE]" {
			ended = true
			continue
		}
		var v struct {
			Choices []struct {
				Delta  struct{ Content string }
				Finish string `json:"finish_reason"`
			}
			Usage *struct {
				Prompt     int `json:"prompt_tokens"`
				Completion int `json:"completion_tokens"`
			}
			Error *struct{ Message string }
		}
		if err := json.Unmarshal([]byte(data), &v); err != nil {
			return result{err: fmt.Errorf("%w in %.200s", err, data)}
		}
		if v.Error != nil {
			return result{err: errors.New(v.Error.Message)}
		}
		if v.Usage != nil {
			r.tokens, r.prompt = v.Usage.Completion, v.Usage.Prompt
		}
		if len(v.Choices) > 0 {
			finished = finished || v.Choices[0].Finish != ""
			if more := v.Choices[0].Delta.Content; more != "" {
				r.arrived = append(r.arrived, time.Now())
				text.WriteString(more)
			}
		}
	}
	if err := sc.Err(); err != nil {
		return result{err: err}
	}
	if !ended || !finished {
		return result{err: errors.New("a stream was cut short")}
	}
	if r.tokens == 0 { // a server that gives no usage
		r.tokens = len(r.arrived)
	}
	if len(r.arrived) == 0 || len(r.arrived) > r.tokens {
		return result{err: fmt.Errorf("%d pieces of text for %d tokens", len(r.arrived), r.tokens)}
	}
	r.text = text.String()
	return r
}
