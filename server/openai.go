package server

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"log/slog"
	"math"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/sample"
)

type usage struct {
	Prompt     int `json:"prompt_tokens"`
	Completion int `json:"completion_tokens"`
	Total      int `json:"total_tokens"`
	Details    struct {
		Cached int `json:"cached_tokens"`
	} `json:"prompt_tokens_details"`
}

func (u *usage) add(prompt int, streams []*stream) {
	u.Prompt += prompt
	for _, s := range streams {
		u.Completion += s.written
	}
	u.Details.Cached += streams[0].cached
	u.Total = u.Prompt + u.Completion
}

// follow hands the streams' events to each until all have ended, then calls flush; in between it calls
// flush whenever it has to wait, and idle when that takes long. All streams are cancelled when it returns.
func follow(ctx context.Context, streams []*stream, each func(i int, e event) error, flush, idle func() error) error {
	defer func() {
		for _, s := range streams {
			s.cancel()
		}
	}()
	ping := time.NewTicker(10 * time.Second)
	defer ping.Stop()
	for left := len(streams); left > 0; {
		select {
		case <-streams[0].wake:
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-ping.C:
			if err := idle(); err != nil {
				return err
			}
			continue
		}
		for i, s := range streams {
			for _, e := range s.take() {
				if e.err != nil {
					return e.err
				}
				if err := each(i, e); err != nil {
					return err
				}
				if e.finish != "" {
					left--
				}
			}
		}
		if err := flush(); err != nil {
			return err
		}
	}
	return nil
}

func nothing() error { return nil }

// sse writes server-sent events. What is written reaches the client with flush.
type sse struct {
	w   *response
	buf bytes.Buffer
}

func newSSE(w http.ResponseWriter) *sse {
	h := w.Header()
	h.Set("Content-Type", "text/event-stream; charset=utf-8")
	h.Set("Cache-Control", "no-cache")
	h.Set("X-Accel-Buffering", "no") // nginx
	return &sse{w: w.(*response)}
}

func (s *sse) send(v any) error {
	s.buf.WriteString("data: ")
	e := json.NewEncoder(&s.buf)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		return err
	}
	s.buf.WriteByte('\n')
	return nil
}

func (s *sse) flush() error {
	if s.buf.Len() == 0 {
		return nil
	}
	_, err := s.w.Write(s.buf.Bytes())
	s.buf.Reset()
	if err != nil {
		return err
	}
	return s.w.flush()
}

// ping keeps proxies from closing a stream that waits for its first token.
func (s *sse) ping() error {
	s.buf.WriteString(": waiting\n\n")
	return s.flush()
}

// end closes the stream: with [DONE], or with the error that cut it short.
func (s *sse) end(srv *Server, err error) error {
	if err != nil && s.w.status == 0 {
		return err // nothing is written yet: it can still be a status
	}
	if err != nil {
		api := asAPIError(err)
		if api == errInternal {
			srv.o.Log.Error("request failed", "request", s.w.id, "error", err)
		}
		s.w.attrs = append(s.w.attrs, slog.String("error", api.Code))
		if s.send(map[string]any{"error": api}) == nil {
			_ = s.flush()
		}
		return nil
	}
	s.buf.WriteString("data: [DONE]\n\n")
	return ignore(s.flush())
}

// deadline is the context of a request's work.
func (s *Server) deadline(r *http.Request) (context.Context, context.CancelFunc) {
	return context.WithTimeout(r.Context(), s.o.RequestTimeout)
}

// note adds what a request cost to its log line.
func note(w http.ResponseWriter, m *served, u usage) {
	rw := w.(*response)
	rw.attrs = append(rw.attrs, slog.String("model", m.ID), slog.Int("prompt_tokens", u.Prompt), slog.Int("cached_tokens", u.Details.Cached), slog.Int("tokens", u.Completion))
}

func (s *Server) logText(w http.ResponseWriter, what, text string) {
	if s.o.LogPrompts {
		s.o.Log.Info(what, "request", w.(*response).id, "text", text)
	}
}

// ---- completions

type completionRequest struct {
	generate
	Prompt           prompts `json:"prompt"`
	Suffix           string  `json:"suffix"`
	Echo             bool    `json:"echo"`
	Logprobs         *int    `json:"logprobs"`
	BestOf           *int    `json:"best_of"`
	AddSpecialTokens *bool   `json:"add_special_tokens"`
}

type completionLogprobs struct {
	Tokens   []string             `json:"tokens"`
	Logprobs []*float64           `json:"token_logprobs"`
	Top      []map[string]float64 `json:"top_logprobs"`
	Offsets  []int                `json:"text_offset"`
}

type completionChoice struct {
	Text     string              `json:"text"`
	Index    int                 `json:"index"`
	Logprobs *completionLogprobs `json:"logprobs"`
	Finish   *string             `json:"finish_reason"`
}

type completion struct {
	ID      string             `json:"id"`
	Object  string             `json:"object"`
	Created int64              `json:"created"`
	Model   string             `json:"model"`
	Choices []completionChoice `json:"choices"`
	Usage   *usage             `json:"usage,omitempty"`
}

// add appends tokens to the logprobs; offset counts characters.
func (l *completionLogprobs) add(m *served, tokens []token, offset *int) {
	for _, t := range tokens {
		text := m.tokenText(t.id)
		l.Tokens = append(l.Tokens, text)
		l.Offsets = append(l.Offsets, *offset)
		*offset += utf8.RuneCountInString(text)
		if t.first {
			l.Logprobs, l.Top = append(l.Logprobs, nil), append(l.Top, nil)
			continue
		}
		l.Logprobs = append(l.Logprobs, &t.logprob)
		top := map[string]float64{text: t.logprob}
		for _, x := range t.top {
			// Different tokens may read the same; the likeliest one counts.
			if k := m.tokenText(x.ID); top[k] == 0 || top[k] < x.Logprob {
				top[k] = x.Logprob
			}
		}
		l.Top = append(l.Top, top)
	}
}

func (s *Server) completions(w http.ResponseWriter, r *http.Request) error {
	var q completionRequest
	if err := s.read(w, r, &q); err != nil {
		return err
	}
	m, err := s.model(q.Model)
	if err != nil {
		return err
	}
	if q.Suffix != "" {
		return invalid("suffix", "suffix is not supported")
	}
	if q.MaxTokens == nil {
		q.MaxTokens = new(int)
		*q.MaxTokens = 16 // as OpenAI's
	}
	base, err := s.job(r.Context(), m, &q.generate)
	if err != nil {
		return err
	}
	if q.Logprobs != nil {
		if base.logprobs = *q.Logprobs; base.logprobs < 0 || base.logprobs > 20 {
			return invalid("logprobs", "logprobs must be from 0 to 20, is %d", base.logprobs)
		}
	}
	n := 1
	if q.N != nil {
		n = *q.N
	}
	best := n
	if q.BestOf != nil {
		if best = *q.BestOf; best < n || best > 20 && best > n || best > n && q.Stream {
			return invalid("best_of", "best_of must be from n (%d) to 20, without stream, is %d", n, best)
		}
	}
	if best > n {
		base.logprobs = max(base.logprobs, 0)
	}
	if q.Prompt.len() == 0 {
		return invalid("prompt", "prompt is missing")
	}
	if q.Prompt.len()*best > s.o.MaxSequences {
		return invalid("prompt", "%d prompts × %d texts are more than %d", q.Prompt.len(), best, s.o.MaxSequences)
	}
	ctx, cancel := s.deadline(r)
	defer cancel()
	base.ctx, base.client = ctx, w.(*response).client
	var jobs []*job
	var heads []string                                          // what echo puts in front
	scored := q.Echo && base.logprobs >= 0 && q.Logprobs != nil // the prompt comes back token by token
	for i := range q.Prompt.len() {
		var ids []int32
		var text string
		if i < len(q.Prompt.texts) {
			text = q.Prompt.texts[i]
			if ids, err = m.encode(text, "prompt", q.AddSpecialTokens == nil || *q.AddSpecialTokens); err != nil {
				return err
			}
		} else {
			ids = q.Prompt.tokens[i-len(q.Prompt.texts)]
		}
		shape := *base
		if err := m.fit(&shape, ids, "prompt"); err != nil {
			return err
		}
		if q.Echo && i >= len(q.Prompt.texts) {
			text = m.Tokenizer.Decode(ids)
		}
		s.logText(w, "prompt", text)
		heads = append(heads, text)
		for k := range best {
			j := shape
			j.sampling.Seed += uint64(k)
			j.echo = scored
			jobs = append(jobs, &j)
		}
	}
	streams, err := m.sched.submit(jobs...)
	if err != nil {
		return err
	}
	out := completion{ID: "cmpl-" + w.(*response).id, Object: "text_completion", Created: time.Now().Unix(), Model: m.ID}
	choices := make([]completionChoice, len(jobs))
	offsets := make([]int, len(jobs))
	for i := range choices {
		choices[i].Index = i
		if q.Echo {
			choices[i].Text = heads[i/best]
		}
		if !scored && q.Echo {
			offsets[i] = utf8.RuneCountInString(heads[i/best])
		}
	}
	add := func(i int, e event) {
		c := &choices[i]
		c.Text += e.text
		if q.Logprobs != nil && len(e.tokens)+len(e.prompt) > 0 {
			if c.Logprobs == nil {
				c.Logprobs = &completionLogprobs{}
			}
			c.Logprobs.add(m, e.prompt, &offsets[i])
			c.Logprobs.add(m, e.tokens, &offsets[i])
		}
		if e.finish != "" {
			c.Finish = &e.finish
		}
	}
	var u usage
	total := func() {
		for i := 0; i < len(streams); i += best {
			u.add(len(jobs[i].prompt), streams[i:i+best])
		}
		note(w, m, u)
	}
	if !q.Stream {
		err := follow(ctx, streams, func(i int, e event) error { add(i, e); return nil }, nothing, nothing)
		if err != nil {
			return err
		}
		total()
		out.Usage = &u
		out.Choices = pickBest(choices, streams, n, best)
		for _, c := range out.Choices {
			s.logText(w, "answer", c.Text)
		}
		return writeJSON(w, 200, out)
	}
	events := newSSE(w)
	err = follow(ctx, streams, func(i int, e event) error {
		add(i, e)
		out.Choices = choices[i : i+1]
		err := events.send(out)
		choices[i] = completionChoice{Index: i}
		return err
	}, events.flush, events.ping)
	if err == nil && q.StreamOptions != nil && q.StreamOptions.IncludeUsage {
		total()
		out.Choices, out.Usage = []completionChoice{}, &u
		err = events.send(out)
	}
	return events.end(s, err)
}

// pickBest keeps, of best texts for each prompt, the n with the highest mean log-probability.
func pickBest(choices []completionChoice, streams []*stream, n, best int) []completionChoice {
	if best == n {
		return choices
	}
	var out []completionChoice
	for at := 0; at < len(choices); at += best {
		order := make([]int, best)
		for i := range order {
			order[i] = at + i
		}
		mean := func(i int) float64 { return streams[i].sum / float64(max(streams[i].written, 1)) }
		slices.SortStableFunc(order, func(a, b int) int {
			if mean(a) > mean(b) {
				return -1
			}
			if mean(a) < mean(b) {
				return 1
			}
			return 0
		})
		for _, i := range order[:n] {
			c := choices[i]
			c.Index = len(out)
			out = append(out, c)
		}
	}
	return out
}

// ---- embeddings

func (s *Server) embeddings(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Model      string  `json:"model"`
		Input      prompts `json:"input"`
		Format     string  `json:"encoding_format"`
		Dimensions int     `json:"dimensions"`
	}
	if err := s.read(w, r, &q); err != nil {
		return err
	}
	if q.Format != "" && q.Format != "float" && q.Format != "base64" {
		return invalid("encoding_format", "encoding_format is float or base64, not %q", clip(q.Format, 40))
	}
	m, vectors, n, err := s.embed(w, r, q.Model, q.Input, q.Dimensions)
	if err != nil {
		return err
	}
	type item struct {
		Object    string `json:"object"`
		Index     int    `json:"index"`
		Embedding any    `json:"embedding"`
	}
	data := []item{}
	for i, v := range vectors {
		it := item{"embedding", i, v}
		if q.Format == "base64" {
			var b []byte
			for _, x := range v {
				b = binary.LittleEndian.AppendUint32(b, math.Float32bits(x))
			}
			it.Embedding = base64.StdEncoding.EncodeToString(b)
		}
		data = append(data, it)
	}
	return writeJSON(w, 200, map[string]any{
		"object": "list", "data": data, "model": m.ID,
		"usage": map[string]int{"prompt_tokens": n, "total_tokens": n},
	})
}

// embed computes a unit vector for each input, as the model makes it: see trit.Model.Embed.
func (s *Server) embed(w http.ResponseWriter, r *http.Request, id string, in prompts, dims int) (m *served, vectors [][]float32, tokens int, err error) {
	if m, err = s.model(id); err != nil {
		return m, nil, 0, err
	}
	d := m.Engine.Config().HiddenSize
	switch {
	case in.len() == 0:
		return m, nil, 0, invalid("input", "input is missing")
	case in.len() > s.o.MaxSequences:
		return m, nil, 0, invalid("input", "%d inputs are more than %d", in.len(), s.o.MaxSequences)
	case dims < 0 || dims > d:
		return m, nil, 0, invalid("dimensions", "dimensions must be from 1 to %d, is %d", d, dims)
	}
	ctx, cancel := s.deadline(r)
	defer cancel()
	var jobs []*job
	for i := range in.len() {
		var ids []int32
		if i < len(in.texts) {
			if ids, err = trit.EmbedTokens(m.Tokenizer, m.Engine.Config(), in.texts[i]); err != nil {
				return m, nil, 0, invalid("input", "input %d: %v", i, err)
			}
		} else {
			ids = in.tokens[i-len(in.texts)]
		}
		j := &job{ctx: ctx, client: w.(*response).client, pool: model.NewPool(m.Engine.Config()), logprobs: -1}
		if err = m.fit(j, ids, "input"); err != nil {
			return m, nil, 0, err
		}
		tokens += len(ids)
		jobs = append(jobs, j)
	}
	streams, err := m.sched.submit(jobs...)
	if err != nil {
		return m, nil, 0, err
	}
	vectors = make([][]float32, len(jobs))
	err = follow(ctx, streams, func(i int, _ event) error {
		vectors[i] = jobs[i].pool.Vector(dims)
		return nil
	}, nothing, nothing)
	note(w, m, usage{Prompt: tokens})
	return m, vectors, tokens, err
}

// ---- models and tokens

type modelInfo struct {
	ID      string `json:"id"`
	Object  string `json:"object"`
	Created int64  `json:"created"`
	OwnedBy string `json:"owned_by"`
	Context int    `json:"max_model_len"`
}

func (m *served) info() modelInfo {
	return modelInfo{m.ID, "model", m.Created.Unix(), "trit", m.MaxContext}
}

func (s *Server) listModels(w http.ResponseWriter, r *http.Request) error {
	list := []modelInfo{}
	for _, m := range s.models {
		list = append(list, m.info())
	}
	return writeJSON(w, 200, map[string]any{"object": "list", "data": list})
}

func (s *Server) getModel(w http.ResponseWriter, r *http.Request) error {
	m, err := s.model(r.PathValue("id"))
	if err != nil {
		return err
	}
	return writeJSON(w, 200, m.info())
}

func (s *Server) tokenize(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Model    string        `json:"model"`
		Prompt   *string       `json:"prompt"`
		Content  *string       `json:"content"` // as llama.cpp calls it
		Messages []chatMessage `json:"messages"`
		Special  *bool         `json:"add_special_tokens"`
		Generate *bool         `json:"add_generation_prompt"`
		Strings  bool          `json:"return_token_strs"`
	}
	if err := s.read(w, r, &q); err != nil {
		return err
	}
	m, err := s.model(q.Model)
	if err != nil {
		return err
	}
	if q.Prompt == nil {
		q.Prompt = q.Content
	}
	var ids []int32
	switch {
	case q.Prompt != nil:
		ids, err = m.encode(*q.Prompt, "prompt", q.Special == nil || *q.Special)
	case len(q.Messages) > 0:
		var c conversation
		if c, err = m.conversation(q.Messages, nil, nil); err == nil {
			ids, _, err = m.render(c, q.Generate == nil || *q.Generate)
		}
	default:
		err = invalid("prompt", "prompt or messages is missing")
	}
	if err != nil {
		return err
	}
	out := map[string]any{"tokens": nonNil(ids), "count": len(ids), "max_model_len": m.MaxContext}
	if q.Strings {
		texts := []string{}
		for _, id := range ids {
			texts = append(texts, m.tokenText(id))
		}
		out["token_strs"] = texts
	}
	return writeJSON(w, 200, out)
}

func nonNil(ids []int32) []int32 {
	if ids == nil {
		return []int32{}
	}
	return ids
}

func (s *Server) detokenize(w http.ResponseWriter, r *http.Request) error {
	var q struct {
		Model  string  `json:"model"`
		Tokens []int32 `json:"tokens"`
	}
	if err := s.read(w, r, &q); err != nil {
		return err
	}
	m, err := s.model(q.Model)
	if err != nil {
		return err
	}
	for _, id := range q.Tokens {
		if id < 0 || int(id) >= m.sched.vocab {
			return invalid("tokens", "token %d is not one of the model's %d", id, m.sched.vocab)
		}
	}
	text := m.Tokenizer.Decode(q.Tokens)
	return writeJSON(w, 200, map[string]string{"prompt": text, "content": text})
}

func (s *Server) tokenizerInfo(w http.ResponseWriter, r *http.Request) error {
	m, err := s.model(r.URL.Query().Get("model"))
	if err != nil {
		return err
	}
	name := func(id int32, ok bool) any {
		if !ok {
			return nil
		}
		return m.Tokenizer.Token(id)
	}
	out := map[string]any{"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": m.MaxContext, "vocab_size": m.Tokenizer.VocabSize(), "eos_token": nil}
	out["bos_token"] = name(m.Tokenizer.BOS())
	out["pad_token"] = name(m.Tokenizer.Pad())
	out["unk_token"] = name(m.Tokenizer.Unknown())
	if src, ok := m.Tokenizer.Template(""); ok {
		out["chat_template"] = src
	}
	if eos := m.Tokenizer.EOS(); len(eos) > 0 {
		out["eos_token"] = m.Tokenizer.Token(eos[0])
		out["eos_token_ids"] = eos
	}
	return writeJSON(w, 200, out)
}

// chatLogprobs are log-probabilities as chat completions show them.
type chatLogprobs struct {
	Content []chatLogprob `json:"content"`
}

type chatLogprob struct {
	Token   string       `json:"token"`
	Logprob float64      `json:"logprob"`
	Bytes   []int        `json:"bytes"`
	Top     []topLogprob `json:"top_logprobs"`
}

type topLogprob struct {
	Token   string  `json:"token"`
	Logprob float64 `json:"logprob"`
	Bytes   []int   `json:"bytes"`
}

func (m *served) chatLogprobs(tokens []token) []chatLogprob {
	var out []chatLogprob
	one := func(x sample.Logprob) topLogprob {
		t := topLogprob{Token: strings.TrimPrefix(m.tokenText(x.ID), "bytes:"), Logprob: x.Logprob, Bytes: []int{}}
		for _, c := range m.Tokenizer.Bytes(x.ID) {
			t.Bytes = append(t.Bytes, int(c))
		}
		return t
	}
	for _, t := range tokens {
		x := one(sample.Logprob{ID: t.id, Logprob: t.logprob})
		l := chatLogprob{x.Token, x.Logprob, x.Bytes, []topLogprob{}}
		for _, y := range t.top {
			l.Top = append(l.Top, one(y))
		}
		out = append(out, l)
	}
	return out
}
