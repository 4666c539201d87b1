package server

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"
)

// Ollama's protocol, for the tools that speak only that. Answers are lines of JSON unless stream is false.

type ollamaOptions struct {
	NumPredict       *int      `json:"num_predict"`
	Temperature      *float32  `json:"temperature"`
	TopK             *int      `json:"top_k"`
	TopP             *float32  `json:"top_p"`
	MinP             float32   `json:"min_p"`
	Seed             *int64    `json:"seed"`
	Stop             oneOrMore `json:"stop"`
	RepeatPenalty    *float32  `json:"repeat_penalty"`
	RepeatLastN      *int      `json:"repeat_last_n"`
	PresencePenalty  float32   `json:"presence_penalty"`
	FrequencyPenalty float32   `json:"frequency_penalty"`
}

type ollamaRequest struct {
	Model    string          `json:"model"`
	Messages []ollamaMessage `json:"messages"`
	Prompt   string          `json:"prompt"`
	System   string          `json:"system"`
	Raw      bool            `json:"raw"`
	Stream   *bool           `json:"stream"`
	Format   json.RawMessage `json:"format"` // "json" or a schema
	Options  ollamaOptions   `json:"options"`
	Tools    []tool          `json:"tools"`
	Images   []string        `json:"images"`
}

type ollamaMessage struct {
	Role      string           `json:"role"`
	Content   string           `json:"content"`
	Images    []string         `json:"images,omitempty"`
	ToolName  string           `json:"tool_name,omitempty"`
	ToolCalls []ollamaToolCall `json:"tool_calls,omitempty"`
}

type ollamaToolCall struct {
	Function struct {
		Name      string          `json:"name"`
		Arguments json.RawMessage `json:"arguments"`
	} `json:"function"`
}

type ollamaAnswer struct {
	Model              string         `json:"model"`
	CreatedAt          string         `json:"created_at"`
	Message            *ollamaMessage `json:"message,omitempty"`
	Response           *string        `json:"response,omitempty"`
	Done               bool           `json:"done"`
	DoneReason         string         `json:"done_reason,omitempty"`
	TotalDuration      int64          `json:"total_duration,omitempty"` // nanoseconds
	LoadDuration       int64          `json:"load_duration,omitempty"`
	PromptEvalCount    int            `json:"prompt_eval_count,omitempty"`
	PromptEvalDuration int64          `json:"prompt_eval_duration,omitempty"`
	EvalCount          int            `json:"eval_count,omitempty"`
	EvalDuration       int64          `json:"eval_duration,omitempty"`
}

// generate translates the options, with Ollama's defaults.
func (q *ollamaRequest) generate() (generate, error) {
	o := q.Options
	g := generate{
		Model: q.Model, Temperature: o.Temperature, TopP: o.TopP, MinP: o.MinP, Seed: o.Seed, Stop: o.Stop,
		PresencePenalty: o.PresencePenalty, FrequencyPenalty: o.FrequencyPenalty, TopK: 40, RepetitionPenalty: 1.1, RepeatLastN: 64,
	}
	defaults := func(p **float32, v float32) {
		if *p == nil {
			*p = &v
		}
	}
	defaults(&g.Temperature, 0.8)
	defaults(&g.TopP, 0.9)
	if o.TopK != nil {
		g.TopK = *o.TopK
	}
	if o.RepeatPenalty != nil {
		g.RepetitionPenalty = *o.RepeatPenalty
	}
	if o.RepeatLastN != nil {
		if g.RepeatLastN = *o.RepeatLastN; g.RepeatLastN == 0 {
			g.RepetitionPenalty = 1 // look at nothing
		}
		g.RepeatLastN = max(g.RepeatLastN, 0) // −1: all
	}
	if o.NumPredict != nil && *o.NumPredict >= 0 { // −1: as many as fit
		g.MaxTokens = o.NumPredict
	}
	if f := bytes.TrimSpace(q.Format); len(f) > 0 && string(f) != "null" && string(f) != `""` {
		if string(f) == `"json"` {
			g.ResponseFormat = &responseFormat{Type: "json_object"}
		} else if f[0] == '{' {
			g.JSONSchema = json.RawMessage(f)
		} else {
			return g, invalid("format", `format is "json" or a JSON schema`)
		}
	}
	return g, nil
}

func (s *Server) ollamaChat(w http.ResponseWriter, r *http.Request) error {
	var q ollamaRequest
	if err := s.read(w, r, &q); err != nil {
		return err
	}
	m, err := s.model(q.Model)
	if err != nil {
		return err
	}
	if len(q.Messages) == 0 { // Ollama loads the model then; ours is loaded
		return writeJSON(w, 200, ollamaAnswer{Model: m.ID, CreatedAt: stamp(), Message: &ollamaMessage{Role: "assistant"}, Done: true, DoneReason: "load"})
	}
	c := chatRequest{Tools: q.Tools}
	if c.generate, err = q.generate(); err != nil {
		return err
	}
	if len(q.Tools) > 0 && len(q.Format) > 0 {
		return invalid("format", "tools and format cannot be used together")
	}
	for i, x := range q.Messages {
		if len(x.Images) > 0 {
			return invalid("images", "messages[%d]: images are not supported", i)
		}
		msg := chatMessage{Role: x.Role, Content: content(x.Content), Name: x.ToolName}
		for _, t := range x.ToolCalls {
			call := toolCall{Type: "function"}
			call.Function.Name, call.Function.Arguments = t.Function.Name, string(t.Function.Arguments)
			if call.Function.Arguments == "" {
				call.Function.Arguments = "{}"
			}
			msg.ToolCalls = append(msg.ToolCalls, call)
		}
		c.Messages = append(c.Messages, msg)
	}
	j, reader, err := s.chatJob(r.Context(), m, &c)
	if err != nil {
		return err
	}
	return s.ollamaAnswer(w, r, m, &q, j, func(a *ollamaAnswer, text string, end bool) bool {
		text, calls := reader.push(text, end)
		a.Message = &ollamaMessage{Role: "assistant", Content: text}
		for _, t := range calls {
			var o ollamaToolCall
			o.Function.Name, o.Function.Arguments = t.Function.Name, json.RawMessage(t.Function.Arguments)
			a.Message.ToolCalls = append(a.Message.ToolCalls, o)
		}
		return text != "" || len(calls) > 0
	}, func(a *ollamaAnswer, b ollamaAnswer) {
		a.Message.Content += b.Message.Content
		a.Message.ToolCalls = append(a.Message.ToolCalls, b.Message.ToolCalls...)
	})
}

func (s *Server) ollamaGenerate(w http.ResponseWriter, r *http.Request) error {
	var q ollamaRequest
	if err := s.read(w, r, &q); err != nil {
		return err
	}
	m, err := s.model(q.Model)
	if err != nil {
		return err
	}
	empty := ""
	if q.Prompt == "" {
		return writeJSON(w, 200, ollamaAnswer{Model: m.ID, CreatedAt: stamp(), Response: &empty, Done: true, DoneReason: "load"})
	}
	if len(q.Images) > 0 {
		return invalid("images", "images are not supported")
	}
	g, err := q.generate()
	if err != nil {
		return err
	}
	var j *job
	if q.Raw {
		if j, err = s.job(r.Context(), m, &g); err != nil {
			return err
		}
		ids, err := m.encode(q.Prompt, "prompt", true)
		if err != nil {
			return err
		}
		if err := m.fit(j, ids, "prompt"); err != nil {
			return err
		}
	} else {
		c := chatRequest{generate: g}
		if q.System != "" {
			c.Messages = append(c.Messages, chatMessage{Role: "system", Content: content(q.System)})
		}
		c.Messages = append(c.Messages, chatMessage{Role: "user", Content: content(q.Prompt)})
		if j, _, err = s.chatJob(r.Context(), m, &c); err != nil {
			return err
		}
	}
	return s.ollamaAnswer(w, r, m, &q, j, func(a *ollamaAnswer, text string, _ bool) bool {
		a.Response = &text
		return text != ""
	}, func(a *ollamaAnswer, b ollamaAnswer) { *a.Response += *b.Response })
}

func stamp() string { return time.Now().UTC().Format(time.RFC3339Nano) }

// ollamaAnswer runs the job and writes lines, or one answer. put says whether there is something to show.
func (s *Server) ollamaAnswer(w http.ResponseWriter, r *http.Request, m *served, q *ollamaRequest, j *job, put func(a *ollamaAnswer, text string, end bool) bool, join func(a *ollamaAnswer, b ollamaAnswer)) error {
	ctx, cancel := s.deadline(r)
	defer cancel()
	j.ctx, j.client = ctx, w.(*response).client
	start := time.Now()
	streams, err := m.sched.submit(j)
	if err != nil {
		return err
	}
	whole := ollamaAnswer{Model: m.ID}
	put(&whole, "", false)
	rw := w.(*response)
	streaming := q.Stream == nil || *q.Stream
	var lines bytes.Buffer
	encoder := json.NewEncoder(&lines)
	encoder.SetEscapeHTML(false)
	flush := func() error {
		if lines.Len() == 0 {
			return nil
		}
		w.Header().Set("Content-Type", "application/x-ndjson")
		_, err := w.Write(lines.Bytes())
		lines.Reset()
		if err != nil {
			return err
		}
		return rw.flush()
	}
	finish := ""
	err = follow(ctx, streams, func(_ int, e event) error {
		finish = e.finish
		a := ollamaAnswer{Model: m.ID, CreatedAt: stamp()}
		if put(&a, e.text, e.finish != "") {
			if streaming {
				return encoder.Encode(a)
			}
			join(&whole, a)
		}
		return nil
	}, flush, nothing)
	if err != nil {
		if rw.status == 0 {
			return err
		}
		rw.attrs = append(rw.attrs, slog.String("error", asAPIError(err).Code))
		if encoder.Encode(map[string]string{"error": asAPIError(err).Message}) == nil {
			_ = flush()
		}
		return nil
	}
	out := streams[0]
	note(w, m, usage{Prompt: len(j.prompt), Completion: out.written})
	whole.CreatedAt, whole.Done, whole.DoneReason = stamp(), true, finish
	whole.TotalDuration = time.Since(start).Nanoseconds()
	whole.PromptEvalCount, whole.EvalCount = len(j.prompt), out.written
	if !out.first.IsZero() {
		whole.PromptEvalDuration = out.first.Sub(out.started).Nanoseconds()
		whole.EvalDuration = out.last.Sub(out.first).Nanoseconds()
	}
	if streaming {
		if err := encoder.Encode(whole); err != nil {
			return err
		}
		return ignore(flush())
	}
	return writeJSON(w, 200, whole)
}

func (s *Server) ollamaEmbed(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Model      string  `json:"model"`
		Input      prompts `json:"input"`
		Dimensions int     `json:"dimensions"`
	}
	if err := s.read(w, r, &q); err != nil {
		return err
	}
	start := time.Now()
	m, vectors, n, err := s.embed(w, r, q.Model, q.Input, q.Dimensions)
	if err != nil {
		return err
	}
	return writeJSON(w, 200, map[string]any{"model": m.ID, "embeddings": vectors, "total_duration": time.Since(start).Nanoseconds(), "load_duration": 0, "prompt_eval_count": n})
}

func (s *Server) ollamaEmbeddings(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Model  string `json:"model"`
		Prompt string `json:"prompt"`
	}
	if err := s.read(w, r, &q); err != nil {
		return err
	}
	_, vectors, _, err := s.embed(w, r, q.Model, prompts{texts: []string{q.Prompt}}, 0)
	if err != nil {
		return err
	}
	return writeJSON(w, 200, map[string]any{"embedding": vectors[0]})
}

func (m *served) ollamaDetails() map[string]any {
	c := m.Engine.Config()
	quant := "F32"
	if c.Ternary() {
		quant = "1.58-bit"
	}
	return map[string]any{
		"format": m.Format, "family": c.Family, "families": []string{c.Family}, "parent_model": "",
		"parameter_size": parameters(c.Weights() + int64(c.VocabSize)*int64(c.HiddenSize)), "quantization_level": quant,
	}
}

// parameters is so many parameters in words such as 2.4B.
func parameters(count int64) string {
	n := float64(count)
	switch {
	case n >= 1e9:
		return fmt.Sprintf("%.1fB", n/1e9)
	case n >= 1e6:
		return fmt.Sprintf("%.1fM", n/1e6)
	}
	return fmt.Sprintf("%.0fK", n/1e3)
}

func (m *served) ollamaEntry() map[string]any {
	return map[string]any{
		"name": m.ID, "model": m.ID, "modified_at": m.Created.UTC().Format(time.RFC3339Nano), "size": m.Bytes,
		"digest": "", "details": m.ollamaDetails(),
	}
}

func (s *Server) ollamaTags(w http.ResponseWriter, r *http.Request) error {
	list := []any{}
	for _, m := range s.models {
		list = append(list, m.ollamaEntry())
	}
	return writeJSON(w, 200, map[string]any{"models": list})
}

func (s *Server) ollamaPs(w http.ResponseWriter, r *http.Request) error {
	list := []any{}
	for _, m := range s.models {
		e := m.ollamaEntry()
		e["expires_at"], e["size_vram"], e["context_length"] = "9999-12-31T23:59:59Z", 0, m.MaxContext
		list = append(list, e)
	}
	return writeJSON(w, 200, map[string]any{"models": list})
}

func (s *Server) ollamaShow(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Model string `json:"model"`
		Name  string `json:"name"`
	}
	if err := s.read(w, r, &q); err != nil {
		return err
	}
	m, err := s.model(orWord(q.Model, q.Name))
	if err != nil {
		return err
	}
	c := m.Engine.Config()
	family := orWord(c.Family, "llama")
	can := []string{"completion", "tools"}
	template, ok := m.Tokenizer.Template("")
	if !ok {
		can = can[:1]
	}
	heads, kvHeads := c.Heads()
	return writeJSON(w, 200, map[string]any{
		"modelfile": "", "parameters": "", "template": template, "license": "", "modified_at": m.Created.UTC().Format(time.RFC3339Nano),
		"details": m.ollamaDetails(), "capabilities": can,
		"model_info": map[string]any{
			"general.architecture": family, "general.basename": strings.TrimSpace(m.ID),
			family + ".context_length": m.MaxContext, family + ".embedding_length": c.HiddenSize, family + ".block_count": c.NumLayers(),
			family + ".attention.head_count": heads, family + ".attention.head_count_kv": kvHeads, family + ".vocab_size": c.VocabSize,
		},
	})
}
