// Command serve puts load on OpenAI-compatible servers and prints what their clients see: time to first token (TTFT),
// time between tokens (ITL), tokens per second, errors, and what the server takes of memory and processor.
//
//	go run ./bench/serve -url http://localhost:8080 -clients 1,64 -for 20s,2m -rounds 3 -pid $(pidof trit)
//
// Each client is a loop: a streamed chat completion with a prompt of its own behind a common system prompt, checked
// to be complete (its end marked, its tokens counted against the usage) and in order (greedy: whoever asked the same
// gets the same text, to the byte), then the next. A 429 is waited out as Retry-After says and counted apart.
//
// Where the machine stands still for seconds (paused, suspended), time-outs of the server's and the client's pass in no time;
// errors of requests that were under way then are counted apart, as errors_across_pauses.
//
// A round has a phase for each number of clients and each server; rates count tokens by when they arrive, between the
// start of a phase and its end. Requests that are under way at the end are waited for, or with -cut broken off and
// not counted. times_one is what batching gives: the rate over that of one client.
//
// Several servers, such as trit and llama-cpp-python's, get the same questions in turn:
//
//	python -m llama_cpp.server --model M.gguf --n_threads 2 --interrupt_requests False --host 127.0.0.1 --port 8001 &
//	trit serve M.gguf --addr 127.0.0.1:8002 &
//	go run ./bench/serve -url http://127.0.0.1:8001,http://127.0.0.1:8002 -clients 1,4,16 -for 20s -rounds 2 -tokens 32 -pool 0
//
// (-pool 0, as answers that depend on what else is computed are no fault of theirs. Without --interrupt_requests False
// that server ends an answer when the next request comes.)
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
	"text/tabwriter"
	"time"
)

type options struct {
	model, key          string
	least, most         int // tokens of an answer
	system, words, pool int
	cut                 bool
	seed                uint64
	http                *http.Client
	pauses              pauses
}

// pauses are when the machine stood still.
type pauses struct {
	mu   sync.Mutex
	list [][2]time.Time
}

// watch notes pauses of 3 s and more for as long as the program runs.
func (p *pauses) watch() {
	last := time.Now()
	for range time.Tick(100 * time.Millisecond) {
		now := time.Now()
		if now.Sub(last) >= 3*time.Second {
			p.mu.Lock()
			p.list = append(p.list, [2]time.Time{last, now})
			p.mu.Unlock()
		}
		last = now
	}
}

// within reports a pause between two times.
func (p *pauses) within(from, to time.Time) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.ContainsFunc(p.list, func(x [2]time.Time) bool { return from.Before(x[1]) && to.After(x[0]) })
}

func (p *pauses) total() (n int, sum time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, x := range p.list {
		sum += x[1].Sub(x[0])
	}
	return len(p.list), sum
}

// target is a server and what was seen of it.
type target struct {
	url    string
	pid    int
	phases []*phase // by number of clients
	mb     []int    // resident memory, each second

	mu    sync.Mutex
	texts map[string]string // by prompt: what was answered
}

type result struct {
	arrived []time.Time // chunks of text
	start   time.Time
	end     time.Time
	tokens  int
	prompt  int
	text    string
	busy    time.Duration // 429: how long to wait
	cut     bool          // broken off at the end of the phase
	err     error
}

// phase is what clients see within a time.
type phase struct {
	clients                    int
	seconds, cpu               float64 // cpu: the server's, of all processors
	tokens, read               float64
	done, busy, fail, cut, dry int // dry: of those cut, without a token
	paused                     int // errors of requests that were under way when the machine stood still
	ttft, itl                  []time.Duration
}

func main() {
	var o options
	urls := flag.String("url", "http://localhost:8080", "servers, separated by commas")
	flag.StringVar(&o.model, "model", "", "model (default the server's first)")
	flag.StringVar(&o.key, "key", "", "bearer key")
	clients := flag.String("clients", "64", "numbers of concurrent clients, separated by commas")
	lengths := flag.String("for", "1m", "how long a phase is, one for all or for each number of clients")
	rounds := flag.Int("rounds", 1, "how often each phase comes")
	pids := flag.String("pid", "", "the servers' processes, whose memory and processor time are watched (Linux)")
	tokens := flag.String("tokens", "64", "tokens of each answer: N, or N-M")
	flag.IntVar(&o.system, "system", 20, "words of the common system prompt; 0: none")
	flag.IntVar(&o.words, "words", 8, "words of each client's own prompt")
	flag.IntVar(&o.pool, "pool", 256, "different prompts; the answers to one must be the same. 0: no two are the same")
	flag.BoolVar(&o.cut, "cut", false, "break off requests at the end of a phase instead of waiting for them")
	flag.Uint64Var(&o.seed, "seed", 1, "seed of the prompts")
	asJSON := flag.Bool("json", false, "print JSON, a line for each server and number of clients")
	flag.Parse()
	if err := o.main(*urls, *clients, *lengths, *pids, *tokens, *rounds, *asJSON); err != nil {
		fmt.Fprintln(os.Stderr, "serve:", err)
		os.Exit(1)
	}
}

func (o *options) main(urls, clients, lengths, pids, tokens string, rounds int, asJSON bool) error {
	least, most, span := strings.Cut(tokens, "-")
	if !span {
		most = least
	}
	var err error
	if o.least, err = strconv.Atoi(least); err != nil {
		return fmt.Errorf("-tokens: %w", err)
	}
	if o.most, err = strconv.Atoi(most); err != nil || o.least < 1 || o.most < o.least {
		return fmt.Errorf("-tokens %s is not N or N-M", tokens)
	}
	counts, err := list(clients, strconv.Atoi)
	if err != nil {
		return fmt.Errorf("-clients: %w", err)
	}
	if slices.Min(counts) < 1 {
		return fmt.Errorf("-clients %s: at least one", clients)
	}
	times, err := list(lengths, time.ParseDuration)
	if err != nil {
		return fmt.Errorf("-for: %w", err)
	}
	for len(times) < len(counts) {
		times = append(times, times[len(times)-1])
	}
	processes, err := list(pids, strconv.Atoi)
	if err != nil && pids != "" {
		return fmt.Errorf("-pid: %w", err)
	}
	var targets []*target
	for i, u := range strings.Split(urls, ",") {
		t := &target{url: strings.TrimSuffix(u, "/"), texts: map[string]string{}}
		if i < len(processes) {
			t.pid = processes[i]
		}
		for _, n := range counts {
			t.phases = append(t.phases, &phase{clients: n})
		}
		targets = append(targets, t)
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = slices.Max(counts)
	transport.DialContext = (&net.Dialer{Timeout: 5 * time.Minute}).DialContext // a server that is slow to accept is no error
	o.http = &http.Client{Transport: transport}

	go o.pauses.watch()
	watched := watchMemory(targets)
	for round := range rounds {
		for i, n := range counts {
			for _, t := range targets {
				o.run(t, t.phases[i], n, times[i], uint64(round*len(counts)+i))
			}
		}
	}
	watched()
	if n, sum := o.pauses.total(); n > 0 {
		fmt.Fprintf(os.Stderr, "the machine stood still %d times, %v together\n", n, sum.Round(time.Second))
	}
	if asJSON {
		for _, t := range targets {
			for _, p := range t.phases {
				m := map[string]any{"url": t.url}
				for _, v := range t.values(p) {
					m[v.name] = v.value
				}
				_ = json.NewEncoder(os.Stdout).Encode(m)
			}
		}
	} else {
		table(targets)
	}
	for _, t := range targets {
		for _, p := range t.phases {
			if p.fail > 0 || p.done+p.cut == 0 {
				return fmt.Errorf("%s, %d clients: %d errors, %d answers", t.url, p.clients, p.fail, p.done)
			}
		}
	}
	return nil
}

func list[T any](s string, parse func(string) (T, error)) (out []T, err error) {
	for f := range strings.SplitSeq(s, ",") {
		v, err := parse(f)
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
	return out, nil
}

type pair struct {
	name  string
	value any
}

// values are the figures of a phase, all rounds together.
func (t *target) values(p *phase) []pair {
	out := []pair{
		{"clients", p.clients},
		{"seconds", round(p.seconds)},
		{"requests", p.done},
		{"errors", p.fail},
		{"errors_across_pauses", p.paused},
		{"refused_429", p.busy},
		{"cut", p.cut},
		{"cut_before_first_token", p.dry},
		{"tokens_per_second", round(p.tokens / p.seconds)},
		{"prompt_tokens_per_second", round(p.read / p.seconds)},
	}
	times := any("")
	for _, one := range t.phases {
		if one.clients == 1 && one.tokens > 0 {
			times = round(p.tokens / p.seconds * one.seconds / one.tokens)
		}
	}
	out = append(out, pair{"times_one", times},
		pair{"ttft_p50_ms", ms(p.ttft, 0.5)}, pair{"ttft_p99_ms", ms(p.ttft, 0.99)},
		pair{"itl_p50_ms", ms(p.itl, 0.5)}, pair{"itl_p99_ms", ms(p.itl, 0.99)}, pair{"itl_max_ms", ms(p.itl, 1)})
	cpu, mb := any(""), [4]any{"", "", "", ""}
	if t.pid > 0 && p.tokens > 0 {
		cpu = round(p.cpu / p.tokens * 1000)
	}
	if n := len(t.mb); n > 0 {
		mb = [4]any{t.mb[n/4], t.mb[n/2], t.mb[n-1], slices.Max(t.mb)}
	}
	return append(out, pair{"server_cpu_ms_per_token", cpu},
		pair{"rss_mb_after_quarter", mb[0]}, pair{"rss_mb_after_half", mb[1]}, pair{"rss_mb_at_end", mb[2]}, pair{"rss_mb_max", mb[3]})
}

// table prints a column for each server and number of clients.
func table(targets []*target) {
	w := tabwriter.NewWriter(os.Stdout, 0, 8, 2, ' ', 0)
	defer w.Flush()
	var columns [][]pair
	fmt.Fprint(w, "url")
	for _, t := range targets {
		for _, p := range t.phases {
			columns = append(columns, t.values(p))
			fmt.Fprint(w, "\t", t.url)
		}
	}
	fmt.Fprintln(w)
	for i, row := range columns[0] {
		fmt.Fprint(w, row.name)
		for _, c := range columns {
			fmt.Fprint(w, "\t", c[i].value)
		}
		fmt.Fprintln(w)
	}
}

// run lets clients ask until the time is over, and adds what they see to p.
func (o *options) run(t *target, p *phase, clients int, length time.Duration, phaseSeed uint64) {
	results := make(chan result, clients)
	var wg sync.WaitGroup
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	start := time.Now()
	end := start.Add(length)
	before, over := processorTime(t.pid), make(chan bool)
	time.AfterFunc(length, func() {
		defer close(over)
		p.cpu += processorTime(t.pid) - before
		if o.cut {
			cancel()
		}
	})
	defer func() { <-over }()
	for i := range clients {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(o.seed, phaseSeed<<32|uint64(i)))
			for time.Now().Before(end) {
				r := o.ask(ctx, t, rng)
				results <- r
				time.Sleep(min(r.busy, time.Until(end)))
			}
		})
	}
	go func() { wg.Wait(); close(results) }()
	p.seconds += length.Seconds()
	var failed []result
	for r := range results {
		switch {
		case r.busy > 0:
			p.busy++
			continue
		case r.cut:
			if p.cut++; len(r.arrived) == 0 {
				p.dry++
			}
		case r.err != nil:
			failed = append(failed, r)
			continue
		default:
			p.done++
		}
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
	if len(failed) > 0 {
		time.Sleep(300 * time.Millisecond) // a pause that has just ended is noted now
	}
	for _, r := range failed {
		if o.pauses.within(r.start, r.end) {
			p.paused++
		} else if p.fail++; p.fail <= 5 {
			fmt.Fprintln(os.Stderr, t.url, r.err)
		}
	}
}

// ask sends one request and holds its answer against earlier ones to the same prompt.
func (o *options) ask(ctx context.Context, t *target, rng *rand.Rand) result {
	if o.pool > 0 {
		rng = rand.New(rand.NewPCG(o.seed, 1<<40|uint64(rng.IntN(o.pool))))
	}
	tokens := o.least + rng.IntN(o.most-o.least+1)
	prompt := text(rng, o.words)
	messages := []map[string]string{{"role": "user", "content": prompt}}
	if o.system > 0 {
		messages = append([]map[string]string{{"role": "system", "content": text(rand.New(rand.NewPCG(o.seed, 1<<41)), o.system)}}, messages...)
	}
	body := map[string]any{
		"messages": messages, "max_tokens": tokens, "temperature": 0, "stream": true,
		"stream_options": map[string]bool{"include_usage": true}, "ignore_eos": true,
	}
	if o.model != "" {
		body["model"] = o.model
	}
	start := time.Now()
	r := one(ctx, o.http, t.url, o.key, body)
	r.start, r.end = start, time.Now()
	if r.err != nil && ctx.Err() != nil {
		r.err, r.cut, r.tokens = nil, true, len(r.arrived)
	}
	if r.err == nil && r.busy == 0 && !r.cut && o.pool > 0 {
		t.mu.Lock()
		defer t.mu.Unlock()
		if before, ok := t.texts[prompt]; ok && before != r.text {
			r.err = fmt.Errorf("two answers to %q: %q and %q", prompt, before, r.text)
		}
		t.texts[prompt] = r.text
	}
	return r
}

// processorTime is what a process has used so far, in seconds; 0 where that is not known. Source: proc(5), fields 14 and
// 15 of stat, in hundredths of a second.
func processorTime(pid int) float64 {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0
	}
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 13 {
		return 0
	}
	user, _ := strconv.Atoi(f[11])
	system, _ := strconv.Atoi(f[12])
	return float64(user+system) / 100
}

// watchMemory notes the resident memory of the servers each second, in MB, until the returned function is called.
func watchMemory(targets []*target) (stop func()) {
	done, over := make(chan bool), make(chan bool)
	go func() {
		defer close(over)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			for _, t := range targets {
				status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", t.pid))
				if err != nil {
					continue
				}
				for line := range strings.Lines(string(status)) {
					if f := strings.Fields(line); len(f) > 1 && f[0] == "VmRSS:" {
						kb, _ := strconv.Atoi(f[1])
						t.mb = append(t.mb, kb*1024/1e6)
					}
				}
			}
		}
	}()
	return func() { close(done); <-over }
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
	q.Header["Idempotency-Key"] = nil // not sent; says that a request may go again if the server closed a connection that was idle
	if key != "" {
		q.Header.Set("Authorization", "Bearer "+key)
	}
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
			r.err = fmt.Errorf("%w in %.200s", err, data)
			return r
		}
		if v.Error != nil {
			r.err = errors.New(v.Error.Message)
			return r
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
		r.err = err
		return r
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
