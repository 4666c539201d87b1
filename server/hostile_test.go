package server

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Bodies cut short, deep nesting, absurd numbers, wrong types, bad UTF-8, giant headers, unfinished
// requests, resets in the middle: always a proper status or nothing, never a crash, and afterwards no
// goroutine, connection or cache is left. TRIT_TEST_HOSTILE sets how many (default 1000).
func TestHostileRequests(t *testing.T) {
	n := 1000
	if s := os.Getenv("TRIT_TEST_HOSTILE"); s != "" {
		n, _ = strconv.Atoi(s)
	}
	f := newFake(t)
	s, err := New(Options{Log: quietLog(), MaxBody: 1 << 20, MaxQueue: 64}, Model{ID: "fake", Engine: f, Tokenizer: f.tok})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := s.HTTPServer()
	h.ReadHeaderTimeout, h.ReadTimeout = 200*time.Millisecond, 400*time.Millisecond
	go h.Serve(l)
	defer h.Close()
	addr := l.Addr().String()
	files, routines := openFiles(), runtime.NumGoroutine()

	const workers = 8
	done := make(chan map[int]int, workers)
	for w := range workers {
		go func() {
			rng := rand.New(rand.NewPCG(uint64(w), 77))
			codes := map[int]int{}
			for range n / workers {
				raw, reset := hostile(rng)
				code, err := exchange(addr, raw, reset, rng)
				if err != nil {
					t.Errorf("%v after %.200q", err, raw)
				}
				codes[code]++
			}
			done <- codes
		}()
	}
	codes := map[int]int{}
	for range workers {
		for k, v := range <-done {
			codes[k] += v
		}
	}
	t.Logf("statuses (0: connection closed or left by us): %v", codes)
	for code := range codes {
		if code >= 500 && code != 503 && code != 504 && code != 505 && code != 501 {
			t.Errorf("status %d", code)
		}
	}
	if s.panics.Get() > 0 || s.models[0].sched.m.panics.Get() > 0 {
		t.Error("something panicked")
	}
	r, err := http.Post("http://"+addr+"/v1/completions", "application/json", strings.NewReader(`{"prompt":"still there?","max_tokens":3}`))
	if err != nil || r.StatusCode != 200 {
		t.Fatal("the server does not answer any more", err)
	}
	r.Body.Close()
	http.DefaultClient.CloseIdleConnections()
	for i := 0; ; i++ {
		open := s.models[0].sched.m.running.Load() + s.models[0].sched.m.queued.Load()
		if open == 0 && openFiles() <= files+2 && runtime.NumGoroutine() <= routines+6 {
			break
		}
		if i == 300 {
			t.Fatalf("left: %d sequences, %d files (%d before), %d goroutines (%d before)", open, openFiles(), files, runtime.NumGoroutine(), routines)
		}
		time.Sleep(10 * time.Millisecond)
	}
	h.Close()
	time.Sleep(600 * time.Millisecond) // net/http waits so long before it closes a refused connection
}

func openFiles() int {
	d, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return 0 // not Linux
	}
	return len(d)
}

var hostileBodies = []func(*rand.Rand) string{
	func(r *rand.Rand) string { return strings.Repeat(`{"messages":`, 1+r.IntN(40_000)) },
	func(r *rand.Rand) string { return strings.Repeat(`[`, 1+r.IntN(100_000)) },
	func(r *rand.Rand) string {
		return `{"prompt":"x","max_tokens":` + strings.Repeat("9", 1+r.IntN(400)) + `}`
	},
	func(r *rand.Rand) string {
		return `{"prompt":"x","temperature":-1e` + strings.Repeat("9", 1+r.IntN(30)) + `}`
	},
	func(r *rand.Rand) string {
		return `{"prompt":[` + strings.Repeat(`99999999999,`, r.IntN(2000)) + `1]}`
	},
	func(r *rand.Rand) string {
		return `{"prompt":[` + strings.Repeat(`[0],`, r.IntN(3000)) + `[0]],"max_tokens":1}`
	},
	func(r *rand.Rand) string { return "{\"prompt\":\"" + string(randomBytes(r, 200)) + "\"}" },
	func(r *rand.Rand) string { return string(randomBytes(r, 1000)) },
	func(r *rand.Rand) string {
		return `{"messages":[{"role":"user","content":` + strings.Repeat(`[{"type":"text","text":`, r.IntN(500)) + `}]}`
	},
	func(r *rand.Rand) string {
		return `{"prompt":"x","max_tokens":5,"response_format":{"type":"json_schema","json_schema":{"schema":` + strings.Repeat(`{"anyOf":[`, r.IntN(150)) + `{}` + `}}}}`
	},
	func(r *rand.Rand) string {
		return fmt.Sprintf(`{"prompt":"x","max_tokens":5,"guided_json":{"type":"array","minItems":%d,"items":{"type":"string","minLength":%d}}}`, r.IntN(5000), r.IntN(5000))
	},
	func(r *rand.Rand) string {
		return fmt.Sprintf(`{"prompt":"x","max_tokens":5,"grammar":"root ::= %s\"a\"%s"}`, strings.Repeat("(", r.IntN(60)), strings.Repeat("){2}", r.IntN(60)))
	},
	func(r *rand.Rand) string {
		return fmt.Sprintf(`{"prompt":"x","max_tokens":5,"guided_regex":"%s%s"}`, strings.Repeat("(a*)*", r.IntN(40)), strings.Repeat("[ab]{0,30}", r.IntN(8)))
	},
	func(r *rand.Rand) string {
		return `{"messages":[{"role":"user","content":"` + strings.Repeat("<|im_start|>", r.IntN(300)) + `"}],"max_tokens":2}`
	},
	func(r *rand.Rand) string {
		return `{"prompt":"x","stream":true,"n":` + strconv.Itoa(r.IntN(200)) + `,"max_tokens":` + strconv.Itoa(r.IntN(50)) + `,"ignore_eos":true}`
	},
	func(r *rand.Rand) string {
		return `{"prompt":"x","logit_bias":{` + strings.Repeat(`"1":100,`, r.IntN(3000)) + `"2":-100}}`
	},
	func(r *rand.Rand) string {
		return `{"input":"x","dimensions":` + strconv.Itoa(r.IntN(1e6)-1000) + `,"prompt":null,"messages":null,"tokens":[` + strconv.Itoa(r.IntN(1e9)) + `]}`
	},
	func(r *rand.Rand) string {
		return `{"messages":[{"role":"user","content":"x"}],"max_tokens":3,"tools":[{"type":"function","function":{"name":"f","parameters":` + string([]string{`true`, `5`, `[]`, `{"$ref":"#"}`, `{"type":"object","properties":{"a":{"$ref":"#"}},"required":["a"]}`, `{"type":"object","required":[5]}`, `"x"`}[r.IntN(7)]) + `}}]}`
	},
}

// hostileFields are members that the protocols know, and values that they may not expect.
var (
	hostileNames  = strings.Fields("messages input prompt system tools tool_choice functions response_format text reasoning thinking think max_tokens max_output_tokens n_predict stop stop_sequences previous_response_id include truncation template context suffix input_prefix input_suffix input_extra options format logprobs top_logprobs allowed_token_ids bad_words min_tokens structured_outputs continue_final_message thinking_budget reasoning_effort chat_template_kwargs stream seed logit_bias")
	hostileValues = []string{
		`null`, `true`, `-1`, `1e300`, `""`, `"x"`, `[]`, `{}`, `[[]]`, `[{}]`, `{"type":"x"}`, `[null]`, `"{{ range 99999999 }}x{{ end }}"`, `[{"role":"assistant","content":[{"type":"thinking","thinking":[{"type":"text"}]}]}]`,
		`[{"role":"user","content":"x"},{"role":"assistant","content":"<think>","tool_calls":[{"function":{"name":"<tool_call>","arguments":"[1]"}}]}]`,
		`[{"type":"function_call_output","call_id":"x","output":[]},{"type":"item_reference","id":"x"},{"type":"reasoning","encrypted_content":"trit1.!!"}]`,
		`[{"role":"user","content":[{"type":"tool_result","tool_use_id":"x","content":[{"type":"tool_result"}]}]}]`,
		`[{"type":"function","name":"f","parameters":{"type":"object","properties":{"a":{"not":{}}}}}]`, `[{"name":"f","input_schema":{"$ref":"#"}}]`,
		`{"type":"enabled","budget_tokens":-7}`, `{"effort":"no","max_tokens":1}`, `[999999999]`, `["x",5,["y"]]`, `{"enable_thinking":{"a":[1]},"messages":5,"tools":"x"}`, `[" "]`, `{"num_predict":-9,"stop":[""]}`,
	}
)

func hostileMembers(r *rand.Rand) string {
	base := []string{`"messages":[{"role":"user","content":"x"}],"max_tokens":5`, `"input":"x","max_output_tokens":5`, `"prompt":"x","n_predict":5`, `"prompt":"x","max_tokens":5`, `"messages":[{"role":"user","content":"x"}],"options":{"num_predict":5}`}[r.IntN(5)]
	for range 1 + r.IntN(3) {
		base += `,"` + hostileNames[r.IntN(len(hostileNames))] + `":` + hostileValues[r.IntN(len(hostileValues))]
	}
	return "{" + base + "}"
}

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, r.IntN(n))
	for i := range b {
		b[i] = byte(r.IntN(256))
	}
	return b
}

// hostile makes a raw request; reset says that the client breaks off in the middle of sending or reading.
func hostile(r *rand.Rand) (raw []byte, reset bool) {
	paths := []string{"/v1/chat/completions", "/v1/completions", "/v1/embeddings", "/tokenize", "/detokenize", "/api/chat", "/api/generate", "/api/embed", "/api/show", "/v1/responses", "/v1/messages", "/v1/messages/count_tokens", "/completion", "/infill", "/apply-template", "/props", "/slots", "/v1/responses/x", "/api/embeddings", "/", "/v1/models/" + strings.Repeat("a", r.IntN(3000)), "/%2e%2e/%00", "//", "/v1/../health"}
	path := paths[r.IntN(len(paths))]
	if r.IntN(3) == 0 {
		path = paths[r.IntN(2)]
	}
	var body string
	if r.IntN(10) == 0 {
		body = strings.Repeat("x", 2<<20)
	} else {
		body = hostileBodies[r.IntN(len(hostileBodies))](r)
	}
	if r.IntN(2) == 0 {
		body = hostileMembers(r)
	}
	length := len(body)
	switch r.IntN(8) {
	case 0: // cut short
		body = body[:r.IntN(len(body)+1)]
	case 1:
		length = r.IntN(2 * (length + 1))
	}
	var b bytes.Buffer
	method := []string{"POST", "POST", "POST", "POST", "POST", "GET", "PUT", "BREW", "OPTIONS"}[r.IntN(9)]
	fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: x\r\n", method, path)
	switch r.IntN(12) {
	case 0:
		fmt.Fprintf(&b, "X-Big: %s\r\n", strings.Repeat("h", 50_000))
	case 1:
		for i := range 500 {
			fmt.Fprintf(&b, "X-%d: y\r\n", i)
		}
	case 2:
		fmt.Fprintf(&b, "X-Request-Id: %s\r\n", randomBytes(r, 100))
	case 3:
		b.WriteString("Origin: https://evil.example\r\n")
	case 4:
		b.WriteString("Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n")
	case 5:
		b.WriteString("Content-Length: -5\r\n")
	case 6:
		b.WriteString("Authorization: Bearer " + string(randomBytes(r, 300)) + "\r\n")
	}
	fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", length, body)
	raw = b.Bytes()
	if r.IntN(20) == 0 {
		raw = raw[:r.IntN(len(raw))]
	}
	return raw, r.IntN(6) == 0
}

// exchange sends a request and reads the whole answer, or breaks off.
func exchange(addr string, raw []byte, reset bool, r *rand.Rand) (int, error) {
	c, err := net.Dial("tcp", addr)
	if err != nil {
		return 0, err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(20 * time.Second))
	if reset {
		c.(*net.TCPConn).SetLinger(0)
		c.Write(raw[:r.IntN(len(raw)+1)])
		if r.IntN(2) == 0 {
			io.ReadFull(c, make([]byte, r.IntN(300)))
		}
		return 0, nil
	}
	if r.IntN(30) == 0 { // byte by byte
		for i := range min(len(raw), 40) {
			c.Write(raw[i : i+1])
			time.Sleep(10 * time.Millisecond)
		}
	} else {
		c.Write(raw) // the server may answer and close before it has all
	}
	a, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err != nil {
		if ne, ok := err.(net.Error); ok && ne.Timeout() {
			return 0, fmt.Errorf("no answer: %w", err)
		}
		return 0, nil // closed
	}
	_, err = io.Copy(io.Discard, a.Body)
	a.Body.Close()
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		return 0, fmt.Errorf("the answer does not end: %w", err)
	}
	return a.StatusCode, nil
}
