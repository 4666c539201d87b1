package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tritlm/trit/grammar"
	"github.com/tritlm/trit/sample"
)

// apiError is an error as OpenAI's clients expect it.
type apiError struct {
	status  int
	retry   int // seconds, for Retry-After
	Message string
	Type    string
	Param   string
	Code    string
}

func (e *apiError) Error() string { return e.Message }

func (e *apiError) MarshalJSON() ([]byte, error) {
	null := func(s string) any {
		if s == "" {
			return nil
		}
		return s
	}
	return json.Marshal(map[string]any{"message": e.Message, "type": e.Type, "param": null(e.Param), "code": null(e.Code)})
}

var (
	errInternal    = &apiError{status: 500, Type: "server_error", Code: "internal_error", Message: "internal error; the server's log has more under this request's X-Request-Id"}
	errUnavailable = &apiError{status: 503, retry: 5, Type: "server_error", Code: "unavailable", Message: errDraining.Error()}
)

// ModelOutOfService is the code of the error for a model that takes no more work: asking again does not help.
const ModelOutOfService = "model_out_of_service"

func invalid(param, format string, a ...any) error {
	return &apiError{status: 400, Type: "invalid_request_error", Param: param, Code: "invalid_value", Message: fmt.Sprintf(format, a...)}
}

// asAPIError finds the status and shape for any error.
func asAPIError(err error) *apiError {
	var api *apiError
	var field *sample.FieldError
	var size *http.MaxBytesError
	var out *outOfService
	switch {
	case errors.As(err, &api):
		return api
	case errors.As(err, &out):
		return &apiError{status: 503, Type: "server_error", Code: ModelOutOfService, Message: out.Error()}
	case errors.As(err, &field):
		return &apiError{status: 400, Type: "invalid_request_error", Param: field.Field, Code: "invalid_value", Message: field.Field + " " + field.Reason}
	case errors.Is(err, grammar.ErrGrammar):
		return &apiError{status: 400, Type: "invalid_request_error", Code: "invalid_grammar", Message: err.Error()}
	case errors.Is(err, errQueueFull):
		retry := 1
		if full := new(queueFull); errors.As(err, &full) {
			retry = int((full.retry + time.Second - 1) / time.Second)
		}
		return &apiError{status: 429, retry: retry, Type: "rate_limit_error", Code: "queue_full", Message: "too many requests wait already; try again soon"}
	case errors.Is(err, errTooLong):
		return &apiError{status: 503, retry: 5, Type: "server_error", Code: "queue_timeout", Message: "the request waited too long for a free place"}
	case errors.Is(err, errDraining):
		return errUnavailable
	case errors.As(err, &size):
		return &apiError{status: 413, Type: "invalid_request_error", Code: "too_large", Message: fmt.Sprintf("the request is larger than %d bytes", size.Limit)}
	case errors.Is(err, context.DeadlineExceeded):
		return &apiError{status: 504, Type: "server_error", Code: "timeout", Message: "the answer took too long"}
	case errors.Is(err, context.Canceled):
		return &apiError{status: 499, Type: "invalid_request_error", Code: "cancelled", Message: "the client went away"}
	}
	return errInternal
}

// fail answers with an error, if nothing was written yet.
func (s *Server) fail(rw http.ResponseWriter, r *http.Request, err error) {
	w := rw.(*response)
	api := asAPIError(err)
	if api == errInternal {
		s.o.Log.Error("request failed", "request", w.id, "error", err)
	}
	if w.status != 0 {
		return
	}
	if api.retry > 0 {
		w.Header().Set("Retry-After", fmt.Sprint(api.retry))
	}
	if strings.HasPrefix(r.URL.Path, "/api/") {
		_ = writeJSON(w, api.status, map[string]string{"error": api.Message}) // Ollama's shape
		return
	}
	_ = writeJSON(w, api.status, map[string]any{"error": api})
}

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

// read decodes a request's JSON. Unknown fields are passed over.
func (s *Server) read(w http.ResponseWriter, r *http.Request, v any) error {
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
		return nil
	case errors.As(err, &api):
		return api
	case errors.As(err, &typ):
		field := strings.TrimPrefix(typ.Field, "generate.") // an embedded struct
		return invalid(field, "%s must be %s, is a %s", orWord(field, "the request"), kindName(typ.Type.String()), clip(typ.Value, 40))
	default:
		return invalid("", "the request is not valid JSON: %s", clip(err.Error(), 200))
	}
}

func orWord(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
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
