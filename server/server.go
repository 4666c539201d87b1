// Package server serves models over HTTP: the protocols of OpenAI, Anthropic, Ollama and llama.cpp, a chat page, metrics.
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
	"crypto/sha256"
	"crypto/subtle"
	_ "embed"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/VictoriaMetrics/metrics"

	"github.com/tritlm/trit/grammar"
)

// Server is an http.Handler. Close it when done.
type Server struct {
	*core
	mux     *http.ServeMux
	set     *metrics.Set
	keys    [][32]byte
	panics  *metrics.Counter
	started time.Time
}

// New starts a server for the models; requests that name none get the first.
func New(o Options, models ...Model) (*Server, error) {
	o.complete()
	if len(models) == 0 {
		return nil, errors.New("server: no model")
	}
	s := &Server{
		core: &core{o: o, grammars: grammar.NewCache(128 << 20), kept: responseStore{limit: o.KeepBytes}},
		set:  metrics.NewSet(), started: time.Now(),
	}
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
		v := newServed(m, o, newModelMetrics(s.set, m.ID, m.Engine.Config().KVBytes()), s.grammars)
		s.models = append(s.models, v)
	}
	s.routes()
	return s, nil
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
	h := func(pattern string, f func(*response, *http.Request) error) {
		path := pattern[strings.IndexByte(pattern, ' ')+1:]
		requests := func(code int) {
			s.set.GetOrCreateCounter(fmt.Sprintf("trit_http_requests_total{path=%q,code=\"%d\"}", path, code)).Inc()
		}
		s.mux.HandleFunc(pattern, func(rw http.ResponseWriter, r *http.Request) {
			w := rw.(*response)
			if err := f(w, r); err != nil {
				s.fail(w, r, err)
			}
			requests(w.code())
		})
	}
	h("POST /v1/chat/completions", s.chatCompletions)
	h("POST /v1/completions", s.completions)
	h("POST /v1/embeddings", s.embeddings)
	h("GET /v1/models", func(w *response, r *http.Request) error {
		if r.Header.Get("Anthropic-Version") != "" {
			return s.anthropicModels(w)
		}
		return s.listModels(w, r)
	})
	h("GET /v1/models/{id...}", s.getModel)
	h("POST /v1/responses", s.responses)
	h("GET /v1/responses/{id}", s.getResponse)
	h("DELETE /v1/responses/{id}", s.deleteResponse)
	h("GET /v1/responses/{id}/input_items", s.responseInput)
	h("POST /v1/messages", s.messages)
	h("POST /v1/messages/count_tokens", s.countTokens)
	h("POST /tokenize", s.tokenize)
	h("POST /detokenize", s.detokenize)
	h("GET /tokenizer_info", s.tokenizerInfo)
	h("POST /completion", s.llamaCompletion)
	h("POST /infill", s.llamaInfill)
	h("POST /apply-template", s.llamaTemplate)
	h("GET /props", s.llamaProps)
	h("GET /slots", s.llamaSlots)
	h("POST /api/chat", s.ollamaChat)
	h("POST /api/generate", s.ollamaGenerate)
	h("POST /api/embed", s.ollamaEmbed)
	h("POST /api/embeddings", s.ollamaEmbeddings)
	h("GET /api/tags", s.ollamaTags)
	h("GET /api/ps", s.ollamaPs)
	h("POST /api/show", s.ollamaShow)
	h("GET /api/version", s.ollamaVersion)
	h("GET /health", func(w *response, r *http.Request) error {
		if len(s.failures()) == len(s.models) {
			return writeJSON(w, 503, map[string]string{"status": "failed"}) // a restart is what helps
		}
		return writeJSON(w, 200, map[string]string{"status": "ok"})
	})
	h("GET /ready", s.ready)
	h("GET /metrics", func(w *response, r *http.Request) error {
		w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
		s.set.WritePrometheus(w)
		metrics.WriteProcessMetrics(w)
		return nil
	})
	h("GET /stats", s.stats)
	h("GET /openapi.json", func(w *response, r *http.Request) error {
		w.Header().Set("Content-Type", "application/json")
		_, err := w.Write(openapi)
		return ignore(err)
	})
	pageRoutes(h)
	h("GET /{path...}", s.notFound)
	h("/{path...}", s.notFound)
}

// fail answers with an error, in the shape of the protocol that the path belongs to, if nothing was written yet.
func (s *Server) fail(w *response, r *http.Request, err error) {
	api := asAPIError(err)
	s.failed(w, err)
	if w.status != 0 {
		return
	}
	if api.retry > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(api.retry))
	}
	var body any = map[string]any{"error": api}
	switch {
	case strings.HasPrefix(r.URL.Path, "/api/"):
		body = map[string]string{"error": api.Message}
	case strings.HasPrefix(r.URL.Path, "/v1/messages"):
		body = map[string]any{"type": "error", "error": anthropicError(api), "request_id": w.id}
	}
	_ = writeJSON(w, api.status, body)
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
func (s *Server) ready(w *response, r *http.Request) error {
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
func (s *Server) notFound(w *response, r *http.Request) error {
	for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodDelete} {
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
			w.Header().Set("Access-Control-Expose-Headers", "X-Request-Id, Retry-After, X-Unenforced-Tools")
			if r.Method == http.MethodOptions {
				w.Header().Set("Access-Control-Allow-Methods", "GET, POST, DELETE, OPTIONS")
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
	scheme, key, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") { // the name of a scheme has no case: RFC 9110 §11.1
		key = r.Header.Get("X-Api-Key")
	}
	key = strings.TrimSpace(key)
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

// stats is what the page's live panel shows.
func (s *Server) stats(w *response, r *http.Request) error {
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
