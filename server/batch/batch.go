// Package batch answers a file of requests in OpenAI's batch format, so that every line of it has exactly
// one result, however often the work is killed and started again.
//
// A line of the input is {"custom_id": "…", "method": "POST", "url": "/v1/chat/completions", "body": {…}};
// its result is {"id": "…", "custom_id": "…", "response": {"status_code": 200, "request_id": "…", "body":
// {…}}, "error": null}, in the order in which answers are ready. A request that the server refuses is
// answered too, with the server's error as its response.
package batch

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/tritlm/trit/internal/infile"
	"github.com/tritlm/trit/server"
)

// Options for Run. The zero value of a field is the default in brackets.
type Options struct {
	Concurrency int                   // requests at the same time [64]
	Shard, Of   int                   // answer only the lines whose number, from 0, leaves Shard when divided by Of [all]
	MaxLine     int                   // bytes [16 MiB]
	Progress    func(done, total int) // called from one goroutine at a time; may be nil
}

// Stats say what Run did.
type Stats struct {
	Lines    int // of this shard
	Before   int // answered by an earlier run
	Answered int // by this one
	Refused  int // of those, with a status that is not 200
}

// request is a line of the input.
type request struct {
	ID     string          `json:"custom_id"`
	Method string          `json:"method"`
	URL    string          `json:"url"`
	Body   json.RawMessage `json:"body"`
}

// result is a line of the output.
type result struct {
	ID       string   `json:"id"`
	CustomID string   `json:"custom_id"`
	Response response `json:"response"`
	Error    *string  `json:"error"`
}

type response struct {
	Status    int             `json:"status_code"`
	RequestID string          `json:"request_id"`
	Body      json.RawMessage `json:"body"`
}

var urls = map[string]bool{"/v1/chat/completions": true, "/v1/completions": true, "/v1/embeddings": true}

// Run answers the requests of the file in with h and appends the results to the file out. It first reads all
// of in, and fails if a line is malformed or a custom_id is there twice; then it reads out, cuts off a last
// line that is not complete, and leaves out what is answered there. Only one Run at a time works on a file.
//
// When ctx ends, requests under way are abandoned and Run returns ctx's error; a later Run does them.
func Run(ctx context.Context, h http.Handler, in, out string, o Options) (Stats, error) {
	if o.Concurrency <= 0 {
		o.Concurrency = 64
	}
	if o.Of <= 0 {
		o.Shard, o.Of = 0, 1
	}
	if o.Shard < 0 || o.Shard >= o.Of {
		return Stats{}, fmt.Errorf("batch: shard %d of %d: shards count from 0", o.Shard, o.Of)
	}
	if o.MaxLine <= 0 {
		o.MaxLine = 16 << 20
	}
	var s Stats
	todo := map[string]bool{} // custom_ids of this shard
	all := map[string]int{}
	err := o.lines(in, func(n int, line []byte) error {
		r, err := parse(line)
		if err != nil {
			return fmt.Errorf("batch: %s line %d: %w", in, n+1, err)
		}
		if first, twice := all[r.ID]; twice {
			return fmt.Errorf("batch: %s line %d: custom_id %q is also in line %d", in, n+1, r.ID, first+1)
		}
		all[r.ID] = n
		if n%o.Of == o.Shard {
			todo[r.ID] = true
		}
		return nil
	})
	if err != nil {
		return s, err
	}
	s.Lines = len(todo)

	if info, err := os.Stat(out); err == nil { // it is read, cut and appended to
		if err := infile.Check(out, info); err != nil {
			return s, err
		}
	}
	f, err := os.OpenFile(out, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return s, err
	}
	defer f.Close()
	if err := lock(f); err != nil {
		return s, fmt.Errorf("batch: %s: another process writes it: %w", out, err)
	}
	if err := resume(f, out, todo, all); err != nil {
		return s, err
	}
	s.Before = s.Lines - len(todo)

	w := &writer{f: f, stats: &s, o: &o}
	report := func() {
		if o.Progress != nil {
			o.Progress(s.Before+s.Answered, s.Lines)
		}
	}
	report()
	w.report = report
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	places := make(chan struct{}, o.Concurrency)
	var wg sync.WaitGroup
	err = o.lines(in, func(n int, line []byte) error {
		r, err := parse(line)
		if err != nil {
			return fmt.Errorf("batch: %s line %d changed while it was read: %w", in, n+1, err)
		}
		if !todo[r.ID] {
			return nil
		}
		select {
		case places <- struct{}{}:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		wg.Go(func() {
			defer func() { <-places }()
			a, err := answer(ctx, h, r)
			if err == nil {
				err = w.put(a)
			}
			if err != nil {
				cancel(err)
			}
		})
		return nil
	})
	wg.Wait()
	if err == nil {
		err = context.Cause(ctx)
	}
	return s, errors.Join(err, f.Sync())
}

// parse checks a line. The body's line ends are taken out, as a result is one line.
func parse(line []byte) (request, error) {
	var r request
	if err := json.Unmarshal(line, &r); err != nil {
		return r, fmt.Errorf("not a request: %w", err)
	}
	switch {
	case r.ID == "":
		return r, errors.New("custom_id is missing")
	case r.Method != "" && r.Method != "POST":
		return r, fmt.Errorf("method %q is not POST", r.Method)
	case !urls[r.URL]:
		return r, fmt.Errorf("url %q is not /v1/chat/completions, /v1/completions or /v1/embeddings", r.URL)
	case len(r.Body) == 0 || r.Body[0] != '{':
		return r, errors.New("body is missing")
	}
	return r, nil
}

// lines calls f for every line that is not blank, numbered from 0.
func (o *Options) lines(name string, f func(n int, line []byte) error) error {
	file, err := infile.Open(name) // read twice, so it cannot be a pipe
	if err != nil {
		return err
	}
	defer file.Close()
	sc := bufio.NewScanner(file)
	sc.Buffer(nil, o.MaxLine)
	for n := 0; sc.Scan(); n++ {
		if line := bytes.TrimSpace(sc.Bytes()); len(line) > 0 {
			if err := f(n, line); err != nil {
				return err
			}
		}
	}
	if err := sc.Err(); err != nil {
		return fmt.Errorf("batch: %s: %w", name, err)
	}
	return nil
}

// resume takes out of todo what out has answered, and leaves f at the end of its last complete line.
func resume(f *os.File, name string, todo map[string]bool, all map[string]int) error {
	r := bufio.NewReaderSize(f, 1<<20)
	var end int64
	for n := 1; ; n++ {
		line, err := r.ReadBytes('\n')
		if err == io.EOF {
			break // what has no line end was cut off in the middle of writing
		}
		if err != nil {
			return err
		}
		var x struct {
			ID string `json:"custom_id"`
		}
		if err := json.Unmarshal(line, &x); err != nil {
			return fmt.Errorf("batch: %s line %d is not a result: is this the right file? %w", name, n, err)
		}
		if _, ours := all[x.ID]; !ours {
			return fmt.Errorf("batch: %s line %d answers %q, which the input does not ask", name, n, x.ID)
		}
		delete(todo, x.ID)
		end += int64(len(line))
	}
	if err := f.Truncate(end); err != nil {
		return err
	}
	_, err := f.Seek(end, io.SeekStart)
	return err
}

// writer appends results, each with one write.
type writer struct {
	mu     sync.Mutex
	f      *os.File
	stats  *Stats
	o      *Options
	report func()
	synced time.Time
}

func (w *writer) put(r *result) error {
	if r == nil {
		return nil // abandoned
	}
	line, err := json.Marshal(r)
	if err != nil {
		return err
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, err := w.f.Write(append(line, '\n')); err != nil {
		return err
	}
	if time.Since(w.synced) > 2*time.Second { // a crash of the machine loses no more than this
		w.synced = time.Now()
		if err := w.f.Sync(); err != nil {
			return err
		}
	}
	w.stats.Answered++
	if r.Response.Status != http.StatusOK {
		w.stats.Refused++
	}
	w.report()
	return nil
}

// answer lets h answer a request; nil if it was abandoned. What may pass is tried again; what says that the model answers
// nothing more is an error.
func answer(ctx context.Context, h http.Handler, r request) (*result, error) {
	for try := 0; ; try++ {
		rec := &recorder{head: http.Header{}}
		q, err := http.NewRequestWithContext(ctx, http.MethodPost, r.URL, bytes.NewReader(r.Body))
		if err != nil {
			return nil, nil
		}
		q.Header.Set("Content-Type", "application/json")
		q.RemoteAddr = "batch"
		h.ServeHTTP(rec, q)
		if ctx.Err() != nil {
			return nil, nil
		}
		var e struct {
			Error struct{ Code, Message string }
		}
		if rec.status == http.StatusServiceUnavailable && json.Unmarshal(rec.body.Bytes(), &e) == nil && e.Error.Code == server.ModelOutOfService {
			return nil, errors.New("batch: " + e.Error.Message)
		}
		again := rec.status == 429 || rec.status >= 500
		if again && try < 5 {
			select {
			case <-time.After(time.Duration(100<<try) * time.Millisecond):
				continue
			case <-ctx.Done():
				return nil, nil
			}
		}
		body := bytes.TrimSpace(rec.body.Bytes())
		if !json.Valid(body) || strings.HasPrefix(rec.head.Get("Content-Type"), "text/event-stream") {
			rec.status = http.StatusBadRequest
			body = []byte(`{"error":{"message":"stream cannot be used in a batch","type":"invalid_request_error","param":"stream","code":"invalid_value"}}`)
		}
		id := rec.head.Get("X-Request-Id")
		return &result{ID: "batch_req_" + id, CustomID: r.ID, Response: response{rec.status, id, body}}, nil
	}
}

// recorder keeps an answer.
type recorder struct {
	head   http.Header
	status int
	body   bytes.Buffer
}

func (r *recorder) Header() http.Header { return r.head }
func (r *recorder) Flush()              {}

func (r *recorder) WriteHeader(status int) {
	if r.status == 0 {
		r.status = status
	}
}

func (r *recorder) Write(b []byte) (int, error) {
	r.WriteHeader(http.StatusOK)
	return r.body.Write(b)
}
