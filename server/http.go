package server

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"
)

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

func (w *response) who() string             { return w.client }
func (w *response) request() string         { return w.id }
func (w *response) note(attrs ...slog.Attr) { w.attrs = append(w.attrs, attrs...) }
func (w *response) head(name, value string) { w.Header().Set(name, value) }

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

var _ io.Writer = (*response)(nil)

// ignore drops the error of a write: the client is gone, and there is nobody to tell.
func ignore(error) error { return nil }

func writeJSON(w http.ResponseWriter, status int, v any) error {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("encoding the answer: %w", err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, err := w.Write(b.Bytes())
	return ignore(err)
}

// read decodes a request's JSON. What fields says of its members is done first; members that it does not know are
// passed over, and named in the log.
func (s *core) read(w *response, r *http.Request, f fields, v any) error {
	if s.draining.Load() {
		return errUnavailable
	}
	if n := r.ContentLength; n > s.o.MaxBody {
		return &http.MaxBytesError{Limit: s.o.MaxBody}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, s.o.MaxBody))
	if err != nil {
		var size *http.MaxBytesError
		if errors.As(err, &size) {
			return err
		}
		return invalid("", "the request's body ends early: %v", err)
	}
	if !utf8.Valid(body) {
		return invalid("", "the request is not valid UTF-8")
	}
	err = json.Unmarshal(body, v)
	var typ *json.UnmarshalTypeError
	var api *apiError
	switch {
	case err == nil:
		unknown, err := f.check(body)
		if len(unknown) > 0 {
			w.note(slog.String("passed_over", clip(strings.Join(unknown, " "), 300)))
		}
		return err
	case errors.As(err, &api):
		return api
	case errors.As(err, &typ):
		field := strings.TrimPrefix(typ.Field, "options.") // an embedded struct
		return invalid(field, "%s must be %s, is a %s", orWord(field, "the request"), kindName(typ.Type.String()), clip(typ.Value, 40))
	default:
		return invalid("", "the request is not valid JSON: %s", clip(err.Error(), 200))
	}
}

func kindName(t string) string {
	t = strings.TrimPrefix(t, "*")
	switch {
	case strings.HasPrefix(t, "int"), strings.HasPrefix(t, "uint"):
		return "a whole number"
	case strings.HasPrefix(t, "float"):
		return "a number"
	case t == "string":
		return "a string"
	case t == "bool":
		return "true or false"
	case strings.HasPrefix(t, "[]"):
		return "a list"
	}
	return "an object"
}

// events writes a stream of events; what is written reaches the client with flush.
type events struct {
	w     *response
	s     *core
	lines bool // a JSON value a line, instead of server-sent events
	buf   bytes.Buffer
}

func (s *core) events(w *response) *events {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no") // nginx
	return &events{w: w, s: s}
}

// lines is a stream of JSON values, a line each.
func (s *core) lines(w *response) *events {
	w.Header().Set("Content-Type", "application/x-ndjson")
	return &events{w: w, s: s, lines: true}
}

// send adds an event; name, if not empty, is its type.
func (e *events) send(name string, v any) error {
	if name != "" {
		e.buf.WriteString("event: " + name + "\n")
	}
	if !e.lines {
		e.buf.WriteString("data: ")
	}
	j := json.NewEncoder(&e.buf)
	j.SetEscapeHTML(false)
	if err := j.Encode(v); err != nil {
		return err
	}
	if !e.lines {
		e.buf.WriteByte('\n')
	}
	return nil
}

func (e *events) flush() error {
	if e.buf.Len() == 0 {
		return nil
	}
	_, err := e.w.Write(e.buf.Bytes())
	e.buf.Reset()
	if err != nil {
		return err
	}
	return e.w.flush()
}

// ping keeps proxies from closing a stream that waits for its first token.
func (e *events) ping() error {
	if e.lines {
		return nil
	}
	e.buf.WriteString(": waiting\n\n")
	return e.flush()
}

// end closes the stream: with last, or with the error that cut it short, which fail writes.
func (e *events) end(err error, last string, fail func(*apiError) error) error {
	if err != nil && e.w.status == 0 {
		e.w.Header().Del("Content-Type")
		return err // nothing is written yet: it can still be a status
	}
	if err != nil {
		api := asAPIError(err)
		e.s.failed(e.w, err)
		e.w.note(slog.String("error", api.Code))
		if fail(api) == nil {
			_ = e.flush()
		}
		return nil
	}
	e.buf.WriteString(last)
	return ignore(e.flush())
}

// done ends a stream of OpenAI's.
const done = "data: [DONE]\n\n"

func openaiError(e *events) func(*apiError) error {
	return func(api *apiError) error { return e.send("", map[string]any{"error": api}) }
}

// failed writes an error that the server is to blame for into the log. A client that goes away is none.
func (s *core) failed(w *response, err error) {
	if asAPIError(err) == errInternal && !gone(err) {
		s.o.Log.Error("request failed", "request", w.id, "error", err)
	}
}

// gone reports that an error came of writing to a client that does not listen any more.
func gone(err error) bool {
	return errors.Is(err, http.ErrAbortHandler) || isNetError(err)
}
