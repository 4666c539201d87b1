// Command serve puts load on an OpenAI-compatible server and prints what its clients see: time to first
// token (TTFT), time between tokens (ITL), tokens per second, errors.
//
//	go run ./bench/serve -url http://localhost:8080 -clients 64 -for 10m
//	go run ./bench/serve -url http://localhost:8080 -clients 1 -for 1m        # one stream, to compare with
//
// Each client is a loop: a streamed chat completion with a prompt of its own behind a common system prompt,
// checked to be complete (its tokens counted against the usage, its end marked), then the next. A 429 is
// waited out as Retry-After says and counted apart. The same script measures any server that streams.
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
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
)

type result struct {
	ttft   time.Duration
	gaps   []time.Duration
	tokens int
	prompt int
	busy   bool
	err    error
}

func main() {
	url := flag.String("url", "http://localhost:8080", "server")
	model := flag.String("model", "", "model (default the server's first)")
	key := flag.String("key", "", "bearer key")
	clients := flag.Int("clients", 64, "concurrent clients")
	length := flag.Duration("for", time.Minute, "how long")
	tokens := flag.Int("tokens", 64, "tokens of each answer")
	system := flag.Int("system", 100, "words of the common system prompt")
	words := flag.Int("words", 30, "words of each client's own prompt")
	seed := flag.Uint64("seed", 1, "seed of the prompts")
	asJSON := flag.Bool("json", false, "print JSON")
	flag.Parse()

	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = *clients
	c := &http.Client{Transport: transport}
	ctx, cancel := context.WithTimeout(context.Background(), *length)
	defer cancel()
	results := make(chan result, *clients)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range *clients {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(*seed, uint64(i)))
			for ctx.Err() == nil {
				body := map[string]any{
					"messages":    []map[string]string{{"role": "system", "content": text(rand.New(rand.NewPCG(*seed, 1<<32)), *system)}, {"role": "user", "content": text(rng, *words)}},
					"max_tokens":  *tokens,
					"temperature": 0, "stream": true, "stream_options": map[string]bool{"include_usage": true}, "ignore_eos": true,
				}
				if *model != "" {
					body["model"] = *model
				}
				r := one(ctx, c, *url, *key, body)
				if ctx.Err() != nil && r.err != nil {
					return // cut off by the end of the measurement
				}
				results <- r
				if r.busy {
					select {
					case <-time.After(time.Second):
					case <-ctx.Done():
					}
				}
			}
		})
	}
	go func() { wg.Wait(); close(results) }()
	var ttft, itl []time.Duration
	var done, written, read, busy, failed int
	for r := range results {
		switch {
		case r.busy:
			busy++
		case r.err != nil:
			if failed++; failed <= 5 {
				fmt.Fprintln(os.Stderr, r.err)
			}
		default:
			done++
			written += r.tokens
			read += r.prompt
			ttft, itl = append(ttft, r.ttft), append(itl, r.gaps...)
		}
	}
	took := time.Since(start).Seconds()
	out := map[string]any{
		"clients": *clients, "seconds": round(took), "requests": done, "errors": failed, "refused_429": busy,
		"tokens_per_second": round(float64(written) / took), "prompt_tokens_per_second": round(float64(read) / took),
		"ttft_p50_ms": ms(ttft, 0.5), "ttft_p99_ms": ms(ttft, 0.99), "itl_p50_ms": ms(itl, 0.5), "itl_p99_ms": ms(itl, 0.99), "itl_max_ms": ms(itl, 1),
	}
	if *asJSON {
		e := json.NewEncoder(os.Stdout)
		_ = e.Encode(out)
	} else {
		for _, k := range []string{"clients", "seconds", "requests", "errors", "refused_429", "tokens_per_second", "prompt_tokens_per_second", "ttft_p50_ms", "ttft_p99_ms", "itl_p50_ms", "itl_p99_ms", "itl_max_ms"} {
			fmt.Printf("%-26s %v\n", k, out[k])
		}
	}
	if failed > 0 || done == 0 {
		os.Exit(1)
	}
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

func text(rng *rand.Rand, n int) string {
	var b strings.Builder
	for range n {
		for range 2 + rng.IntN(6) {
			b.WriteByte(byte('a' + rng.IntN(26)))
		}
		b.WriteByte(' ')
	}
	return b.String()
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
	start := time.Now()
	a, err := c.Do(q)
	if err != nil {
		return result{err: err}
	}
	defer a.Body.Close()
	if a.StatusCode == http.StatusTooManyRequests {
		if _, err := strconv.Atoi(a.Header.Get("Retry-After")); err != nil {
			return result{err: errors.New("429 without Retry-After")}
		}
		return result{busy: true}
	}
	if a.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(io.LimitReader(a.Body, 500))
		return result{err: fmt.Errorf("%s: %s", a.Status, text)}
	}
	last, ended, finished := start, false, false
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
			if v.Choices[0].Delta.Content != "" {
				now := time.Now()
				if r.ttft == 0 {
					r.ttft = now.Sub(start)
				} else {
					r.gaps = append(r.gaps, now.Sub(last))
				}
				last = now
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
		r.tokens = len(r.gaps) + 1
	}
	return r
}
