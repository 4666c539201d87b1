package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/tritlm/trit/grammar"
	"github.com/tritlm/trit/sample"
)

// apiError is an error that a client is told, in OpenAI's terms; each protocol writes it in its own shape.
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

// about is err, said of a field of the request.
func about(param string, err error) error {
	api := *asAPIError(err)
	api.Param = param
	return &api
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
