// Package server serves models over HTTP: the OpenAI and Ollama protocols, a chat page, metrics.
//
//	s, err := server.New(server.Options{}, server.Model{ID: "bitnet-2b4t", Engine: m.Engine(), Tokenizer: m.Tokenizer()})
//	if err != nil {
//		return err
//	}
//	defer s.Close()
//	return http.ListenAndServe("localhost:8080", s)
//
// A request becomes one or more sequences, which a scheduler computes together with those of all other
// requests (continuous batching): a handler only waits for its own text. Sequences that begin alike share
// the keys and values of the beginning. With greedy sampling a text does not depend on what else is
// computed at the time.
//
// Every size, count and time is bounded by Options; bad requests get an error in OpenAI's shape, and what
// a client does never reaches another one.
package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tritlm/trit/grammar"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/tokenizer"
)

// Options for New. The zero value of a field is the default in brackets.
type Options struct {
	MaxBatch      int           // sequences computed at the same time [64]
	MaxQueue      int           // sequences that may wait; beyond it requests get 429 [256]
	CacheBytes    int64         // keys and values of all sequences and kept prefixes [1 GiB]
	PrefillTokens int           // tokens of prompts in one step [512]
	StepTime      time.Duration // what prompts may add to a step while others write [200 ms]
	EchoBytes     int           // scores of prompts (echo with logprobs) held at a time [64 MiB]

	MaxTokens    int   // written for requests that do not say how many [2048]
	MaxBody      int64 // bytes of a request [8 MiB]
	MaxSequences int   // texts of one request: prompts × n [128]

	QueueTimeout   time.Duration // in the queue [1 min]
	RequestTimeout time.Duration // for the whole answer [15 min]
	WriteTimeout   time.Duration // for a client to take what was written [30 s]

	AnyModel bool // requests that name an unknown model get the first one instead of an error

	Keys    []string // bearer keys; none: open to all
	Origins []string // browser origins besides the server's own, such as https://example.org, or *
	Hosts   []string // values of the Host header, without port, that are answered; none: all

	Log        *slog.Logger // [slog.Default()]
	LogPrompts bool         // texts too
	Version    string       // of the program
}

// A Model to serve. The server does not close it.
type Model struct {
	ID         string // what requests call it
	Engine     model.Engine
	Tokenizer  *tokenizer.Tokenizer
	MaxContext int       // tokens of a sequence; 0: what the engine's Config says
	Created    time.Time // for listings
	Bytes      int64     // size on disk, for listings
	Format     string    // "gguf" or "safetensors", for listings
}

// Server is an http.Handler. Close it when done.
type Server struct {
	o      Options
	models []*served
	mux    *http.ServeMux
	set    *metrics.Set
	keys   [][32]byte

	draining atomic.Bool
	panics   *metrics.Counter
	compile  chan struct{} // held by who compiles a grammar: it takes memory and time
	started  time.Time
}

// served is a model with what the handlers need of it.
type served struct {
	Model
	sched   *scheduler
	special []string // the texts of control tokens

	mu       sync.Mutex
	vocab    *grammar.Vocab
	grammars map[string]compiled // by kind and source
}

// compiled is a grammar, or why there is none.
type compiled struct {
	g   *grammar.Grammar
	err error
}

// New starts a server for the models; requests that name none get the first.
func New(o Options, models ...Model) (*Server, error) {
	def(&o.MaxBatch, 64)
	def(&o.MaxQueue, 256)
	def(&o.CacheBytes, 1<<30)
	def(&o.PrefillTokens, 512)
	def(&o.StepTime, 200*time.Millisecond)
	def(&o.EchoBytes, 64<<20)
	def(&o.MaxTokens, 2048)
	def(&o.MaxBody, 8<<20)
	def(&o.MaxSequences, 128)
	def(&o.QueueTimeout, time.Minute)
	def(&o.RequestTimeout, 15*time.Minute)
	def(&o.WriteTimeout, 30*time.Second)
	def(&o.Log, slog.Default())
	def(&o.Version, "0.0.0")
	if len(models) == 0 {
		return nil, errors.New("server: no model")
	}
	s := &Server{o: o, set: metrics.NewSet(), started: time.Now(), compile: make(chan struct{}, 1)}
	s.panics = s.set.NewCounter("trit_http_panics_total")
	for _, k := range o.Keys {
		s.keys = append(s.keys, sha256.Sum256([]byte(k)))
	}
	for _, m := range models {
		if m.ID == "" || s.find(m.ID) != nil {
			s.Close()
			return nil, fmt.Errorf("server: model name %q is empty or there twice", m.ID)
		}
		if n := m.Engine.Config().MaxContext; m.MaxContext <= 0 || m.MaxContext > n {
			m.MaxContext = n
		}
		if m.Created.IsZero() {
			m.Created = s.started
		}
		v := &served{Model: m, grammars: map[string]compiled{}}
		for id := range int32(m.Tokenizer.VocabSize()) {
			if t := m.Tokenizer.Token(id); t != "" && m.Tokenizer.IsSpecial(id) {
				v.special = append(v.special, t)
			}
		}
		v.sched = newScheduler(m, o, newModelMetrics(s.set, m.ID, m.Engine.Config().KVBytes()))
		s.models = append(s.models, v)
	}
	s.routes()
	return s, nil
}

func def[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

func (s *Server) find(id string) *served {
	for _, m := range s.models {
		if m.ID == id || m.ID+":latest" == id {
			return m
		}
	}
	return nil
}

// Drain refuses new requests and returns when those that were accepted are answered, or with ctx's error.
func (s *Server) Drain(ctx context.Context) error {
	s.draining.Store(true)
	for _, m := range s.models {
		if err := m.sched.drain(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Close stops at once. Requests under way end with an error.
func (s *Server) Close() {
	s.draining.Store(true)
	for _, m := range s.models {
		m.sched.close()
	}
	s.set.UnregisterAllMetrics()
}

//go:embed openapi.json
var openapi []byte

func (s *Server) routes() {
	s.mux = http.NewServeMux()
	h := func(pattern string, f func(http.ResponseWriter, *http.Request) error) {
		path := pattern[strings.IndexByte(pattern, ' ')+1:]
		requests := func(code int) {
			s.set.GetOrCreateCounter(fmt.Sprintf("trit_http_requests_total{path=%q,code=\"%d\"}", path, code)).Inc()
		}
		s.mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			if err := f(w, r); err != nil {
				s.fail(w, r, err)
			}
			requests(w.(*response).code())
		})
	}
	h("POST /v1/chat/completions", s.chatCompletions)
	h("POST /v1/completions", s.completions)
	h("POST /v1/embeddings", s.embeddings)
	h("GET /v1/models", s.listModels)
	h("GET /v1/models/{id...}", s.getModel)
	h("POST /tokenize", s.tokenize)
	h("POST /detokenize", s.detokenize)
	h("GET /tokenizer_info", s.tokenizerInfo)
	h("POST /api/chat", s.ollamaChat)
	h("POST /api/generate", s.ollamaGenerate)
	h("POST /api/embed", s.ollamaEmbed)
	h("POST /api/embeddings", s.ollamaEmbeddings)
	h("GET /api/tags", s.ollamaTags)
	h("GET /api/ps", s.ollamaPs)
	h("POST /api/show", s.ollamaShow)
	h("GET /api/version", func(w http.ResponseWriter, r *http.Request) error {
		return writeJSON(w, 200, map[string]string{"version": s.o.Version})
	})
	h("GET /health", func(w http.ResponseWriter, r *http.Request) error {
		if len(s.failures()) == len(s.models) {
			return writeJSON(w, 503, map[string]string{"status": "failed"}) // a restart is what helps
		}
		return writeJSON(w, 200, map[string]string{"status": "ok"})
	})
	h("GET /ready", s.ready)
	h("GET /metrics", func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		s.set.WritePrometheus(w)
		metrics.WriteProcessMetrics(w)
		return nil
	})
	h("GET /stats", s.stats)
	h("GET /openapi.json", func(w http.ResponseWriter, r *http.Request) error {
		w.Header().Set("Content-Type", "application/json")
		_, err := w.Write(openapi)
		return ignore(err)
	})
	s.page(h)
	h("GET /{path...}", s.notFound)
	h("/{path...}", s.notFound)
}

// failure is a model that is out of service.
type failure struct {
	Model string `json:"model"`
	Error string `json:"error"` // names the file
}

// failures are the models that are out of service.
func (s *Server) failures() []failure {
	var list []failure
	for _, m := range s.models {
		if out := (*outOfService)(nil); errors.As(m.sched.check(), &out) {
			list = append(list, failure{m.ID, out.err.Error()})
		}
	}
	return list
}

// ready says whether new requests are taken: by all models, by some, by none.
func (s *Server) ready(w http.ResponseWriter, r *http.Request) error {
	if s.draining.Load() {
		return errUnavailable
	}
	type answer struct {
		Status string    `json:"status"`
		Failed []failure `json:"failed,omitempty"`
	}
	switch failed := s.failures(); len(failed) {
	case 0:
		return writeJSON(w, 200, answer{Status: "ready"})
	case len(s.models):
		return writeJSON(w, 503, answer{"failed", failed})
	default:
		return writeJSON(w, 200, answer{"degraded", failed})
	}
}

// notFound answers for paths that are not there, and for methods that a path does not have.
func (s *Server) notFound(w http.ResponseWriter, r *http.Request) error {
	for _, method := range []string{http.MethodGet, http.MethodPost} {
		other := r.Clone(r.Context())
		other.Method = method
		if _, pattern := s.mux.Handler(other); method != r.Method && !strings.HasSuffix(pattern, "/{path...}") {
			w.Header().Set("Allow", method)
			return &apiError{status: 405, Type: "invalid_request_error", Code: "method_not_allowed", Message: clip(r.URL.Path, 200) + " is asked by " + method + ", not " + r.Method}
		}
	}
	return &apiError{status: 404, Type: "invalid_request_error", Code: "not_found", Message: "there is no " + r.Method + " " + clip(r.URL.Path, 200)}
}

// ServeHTTP answers a request: it names it, checks who asks, and survives what goes wrong in a handler.
func (s *Server) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w := &response{ResponseWriter: rw, timeout: s.o.WriteTimeout}
	w.id = r.Header.Get("X-Request-Id")
	if len(w.id) > 64 || strings.ContainsFunc(w.id, func(c rune) bool { return c < '!' || c > '~' }) {
		w.id = ""
	}
	if w.id == "" {
		w.id = newID()
	}
	start := time.Now()
	head := w.Header()
	head.Set("X-Request-Id", w.id)
	head.Set("X-Content-Type-Options", "nosniff")
	defer func() {
		if p := recover(); p != nil {
			s.panics.Inc()
			s.o.Log.Error("panic", "request", w.id, "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
			if w.status == 0 {
				s.fail(w, r, errInternal)
			} else {
				defer panic(http.ErrAbortHandler) // the client must not take what it has for all
			}
		}
		level := slog.LevelInfo
		switch r.URL.Path {
		case "/health", "/ready", "/metrics", "/stats":
			level = slog.LevelDebug
		}
		s.o.Log.LogAttrs(r.Context(), level, "request", append([]slog.Attr{
			slog.String("request", w.id), slog.String("method", r.Method), slog.String("path", clip(r.URL.Path, 200)),
			slog.Int("status", w.code()), slog.Float64("seconds", time.Since(start).Seconds()), slog.Int64("bytes", w.bytes), slog.String("client", host(r.RemoteAddr)),
		}, w.attrs...)...)
	}()
	if err := s.check(w, r); err != nil {
		s.fail(w, r, err)
		return
	}
	if r.Method == http.MethodOptions {
		w.WriteHeader(204)
		return
	}
	s.mux.ServeHTTP(w, r)
}

// check applies Hosts, Origins and Keys.
func (s *Server) check(w *response, r *http.Request) error {
	if len(s.o.Hosts) > 0 && !slices.Contains(s.o.Hosts, strings.ToLower(strings.Trim(host(r.Host), "[]"))) {
		return &apiError{status: 421, Type: "invalid_request_error", Code: "unknown_host", Message: "this server does not answer for the host " + clip(r.Host, 100) + "; name it with --host"}
	}
	if origin := r.Header.Get("Origin"); origin != "" {
		w.Header().Add("Vary", "Origin")
		u, err := url.Parse(origin)
		switch own := err == nil && u.Host == r.Host; {
		case slices.Contains(s.o.Origins, origin), slices.Contains(s.o.Origins, "*"):
			w.Header().Set("Access-Control-Allow-Origin", origin)
			w.Header().Set("Access-Control-Expose-Headers", "X-Request-Id, Retry-After")
			if r.Method == http.MethodOptions {
				w.Header().Set("Access-Control-Allow-Methods", "GET, POST, OPTIONS")
				w.Header().Set("Access-Control-Allow-Headers", "*, Authorization, Content-Type, X-Request-Id")
				w.Header().Set("Access-Control-Max-Age", "3600")
				return nil
			}
		case !own:
			// Without this any page could make the browser of somebody here use the server.
			return &apiError{status: 403, Type: "invalid_request_error", Code: "origin_not_allowed", Message: "pages of " + clip(origin, 100) + " may not use this server; allow them with --cors-origin"}
		}
	}
	w.client = host(r.RemoteAddr)
	if len(s.keys) == 0 || r.Method == http.MethodOptions || s.public(r.URL.Path) {
		return nil
	}
	key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok {
		key = r.Header.Get("X-Api-Key")
	}
	sum, found := sha256.Sum256([]byte(key)), 0
	for i := range s.keys {
		if subtle.ConstantTimeCompare(sum[:], s.keys[i][:]) == 1 {
			found = i + 1
		}
	}
	if found == 0 {
		w.Header().Set("WWW-Authenticate", "Bearer")
		return &apiError{status: 401, Type: "authentication_error", Code: "invalid_api_key", Message: "a valid key is needed: Authorization: Bearer KEY"}
	}
	w.client = "key " + strconv.Itoa(found)
	return nil
}

// public paths need no key: probes, and the page, which asks for one.
func (s *Server) public(path string) bool {
	return path == "/health" || path == "/ready" || path == "/openapi.json" || isPage(path)
}

func host(addr string) string {
	if h, _, err := net.SplitHostPort(addr); err == nil {
		return h
	}
	return addr
}

func newID() string {
	var b [12]byte
	rand.Read(b[:]) //nolint:errcheck // never fails
	return hex.EncodeToString(b[:])
}

func clip(s string, n int) string {
	if len(s) > n {
		return strings.ToValidUTF8(s[:n], "") + "…"
	}
	return strings.ToValidUTF8(s, "?")
}

// response notes what is written, and gives every write its time.
type response struct {
	http.ResponseWriter
	id      string
	client  string
	status  int
	bytes   int64
	timeout time.Duration
	attrs   []slog.Attr
}

func (w *response) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *response) code() int {
	if w.status == 0 {
		return 200
	}
	return w.status
}

func (w *response) WriteHeader(code int) {
	if w.status == 0 {
		w.status = code
	}
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(w.timeout))
	w.ResponseWriter.WriteHeader(code)
}

func (w *response) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = 200
	}
	// A client that takes nothing for this long is gone. Not every ResponseWriter has deadlines.
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(w.timeout))
	n, err := w.ResponseWriter.Write(b)
	w.bytes += int64(n)
	return n, err
}

func (w *response) flush() error {
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(w.timeout))
	return http.NewResponseController(w.ResponseWriter).Flush()
}

// ignore drops the error of a write: the client is gone, and there is nobody to tell.
func ignore(error) error { return nil }

// HTTPServer is an http.Server for s with time-outs and size limits for what comes before a handler runs.
func (s *Server) HTTPServer() *http.Server {
	return &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       time.Minute,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ErrorLog:          slog.NewLogLogger(s.o.Log.Handler(), slog.LevelDebug),
	}
}

// LimitListener accepts at most n connections at a time; the others wait in the kernel's queue.
func LimitListener(l net.Listener, n int) net.Listener {
	return &limitListener{l, make(chan struct{}, n), make(chan struct{}), sync.Once{}}
}

type limitListener struct {
	net.Listener
	places chan struct{}
	closed chan struct{}
	once   sync.Once
}

func (l *limitListener) Accept() (net.Conn, error) {
	select {
	case l.places <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	c, err := l.Listener.Accept()
	if err != nil {
		<-l.places
		return nil, err
	}
	return &limitConn{Conn: c, l: l}, nil
}

func (l *limitListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return l.Listener.Close()
}

type limitConn struct {
	net.Conn
	l    *limitListener
	once sync.Once
}

func (c *limitConn) Close() error {
	err := c.Conn.Close()
	c.once.Do(func() { <-c.l.places })
	return err
}

// stats is what the page's live panel shows.
func (s *Server) stats(w http.ResponseWriter, r *http.Request) error {
	type stat struct {
		Model         string  `json:"model"`
		Running       int64   `json:"running"`
		Queued        int64   `json:"queued"`
		MaxBatch      int     `json:"max_batch"`
		ReadPerSec    float64 `json:"prompt_tokens_per_second"`
		WrittenPerSec float64 `json:"tokens_per_second"`
		CacheTokens   int64   `json:"cache_tokens"`
		CachePrefixes int64   `json:"cache_prefix_tokens"`
		CacheCapacity int64   `json:"cache_capacity_tokens"`
		Prompts       uint64  `json:"prompt_tokens_total"`
		Cached        uint64  `json:"prompt_tokens_cached_total"`
	}
	var list []stat
	for _, m := range s.models {
		mm := m.sched.m
		read, written := m.sched.speed.perSecond(time.Now())
		list = append(list, stat{
			m.ID, mm.running.Load(), mm.queued.Load(), s.o.MaxBatch, read, written,
			mm.pages.Load() * ledgerPage, mm.prefixes.Load() * ledgerPage, mm.capacity.Load() * ledgerPage, mm.prompts.Get(), mm.cached.Get(),
		})
	}
	return writeJSON(w, 200, map[string]any{"models": list, "uptime_seconds": int(time.Since(s.started).Seconds())})
}

var _ io.Writer = (*response)(nil)
