package server

import (
	"encoding/json"
	"net/http"
	"strings"
	"time"

	"github.com/tritlm/trit"
)

// llama.cpp's own protocol, beside OpenAI's, for editors and tools that speak it.

var llamaFields = fields{
	honoured: "model prompt n_predict stream temperature top_k top_p min_p stop repeat_penalty repeat_last_n presence_penalty frequency_penalty logit_bias seed " +
		"grammar json_schema ignore_eos n_probs return_tokens input_prefix input_suffix input_extra " +
		"max_tokens min_tokens stop_token_ids allowed_token_ids bad_words repetition_penalty skip_special_tokens response_format guided_json guided_regex guided_choice guided_grammar structured_outputs n",
	harmless: aside + " speculative.n_max speculative.n_min speculative.p_min stream_options",
	refused: others(map[string]refusal{
		"image_data": {"the model reads text", []string{"[]"}}, "multimodal_data": {"the model reads text", []string{"[]"}}, "n_cmpl": {"use n of /v1/completions", []string{"1"}},
		"logprobs": {"use n_probs", []string{"0", "false"}}, "echo": {"use /v1/completions", []string{"false"}}, "suffix": {"use /infill", []string{`""`}},
	}),
}

type llamaRequest struct {
	options
	Stream   bool            `json:"stream"`
	Prompt   json.RawMessage `json:"prompt"`
	NPredict *int            `json:"n_predict"`
	NProbs   int             `json:"n_probs"`
	Tokens   bool            `json:"return_tokens"`
	Prefix   string          `json:"input_prefix"`
	Suffix   string          `json:"input_suffix"`
	Extra    []struct {
		Filename string `json:"filename"`
		Text     string `json:"text"`
	} `json:"input_extra"`
}

// request translates what completion and infill share, with llama.cpp's defaults.
func (q *llamaRequest) request() (*request, error) {
	req := &request{options: q.options, logprobs: -1}
	if q.NPredict != nil {
		req.MaxTokens = q.NPredict
	}
	if req.MaxTokens == nil {
		all := -1
		req.MaxTokens = &all
	}
	if req.N != nil && *req.N != 1 {
		return nil, invalid("n", "n is 1 here: use /v1/completions for more")
	}
	if q.NProbs < 0 || q.NProbs > 20 {
		return nil, invalid("n_probs", "n_probs must be from 0 to 20, is %d", q.NProbs)
	}
	if q.NProbs > 0 {
		req.logprobs = q.NProbs
	}
	set := func(p **float32, v float32) {
		if *p == nil {
			*p = &v
		}
	}
	set(&req.Temperature, 0.8)
	set(&req.TopP, 0.95)
	return req, nil
}

// llamaPrompt is a prompt of llama.cpp: text, tokens, or a list of both, which is one prompt.
func (m *served) llamaPrompt(raw json.RawMessage) (p prompts, err error) {
	var mixed []json.RawMessage
	if json.Unmarshal(raw, &mixed) != nil {
		return p, json.Unmarshal(raw, &p)
	}
	var ids []int32
	for i, x := range mixed {
		var id int32
		var text string
		switch {
		case json.Unmarshal(x, &id) == nil:
			ids = append(ids, id)
		case json.Unmarshal(x, &text) == nil:
			more, err := m.encode(text, "prompt", i == 0)
			if err != nil {
				return p, err
			}
			ids = append(ids, more...)
		default:
			return p, invalid("prompt", "prompt is text, tokens, or a list of both; one of /v1/completions may be several")
		}
	}
	p.tokens = [][]int32{ids}
	return p, nil
}

func (s *core) llamaCompletion(w *response, r *http.Request) error {
	var q llamaRequest
	if err := s.read(w, r, llamaFields, &q); err != nil {
		return err
	}
	m, err := s.model(q.Model)
	if err != nil {
		return err
	}
	req, err := q.request()
	if err != nil {
		return err
	}
	if !given(q.Prompt) {
		return invalid("prompt", "prompt is missing")
	}
	if req.prompts, err = m.llamaPrompt(q.Prompt); err != nil {
		return err
	}
	return s.llamaAnswer(w, r, &q, req)
}

func (s *core) llamaInfill(w *response, r *http.Request) error {
	var q llamaRequest
	if err := s.read(w, r, llamaFields, &q); err != nil {
		return err
	}
	req, err := q.request()
	if err != nil {
		return err
	}
	var begun string // what is written of the middle already
	if given(q.Prompt) && json.Unmarshal(q.Prompt, &begun) != nil {
		return invalid("prompt", "prompt of /infill is text")
	}
	var before strings.Builder
	for _, x := range q.Extra { // other files, in front
		before.WriteString(x.Text + "\n")
	}
	before.WriteString(q.Prefix)
	m, err := s.model(q.Model)
	if err != nil {
		return err
	}
	ids, err := m.between(before.String(), q.Suffix)
	if err != nil {
		return about("input_suffix", err)
	}
	more, err := m.encodeText(begun)
	if err != nil {
		return err
	}
	req.prompts.tokens = [][]int32{append(ids, more...)}
	return s.llamaAnswer(w, r, &q, req)
}

type llamaAnswer struct {
	Index      int              `json:"index"`
	Content    string           `json:"content"`
	Tokens     []int32          `json:"tokens"`
	Slot       int              `json:"id_slot"`
	Stop       bool             `json:"stop"`
	Model      string           `json:"model,omitempty"`
	Predicted  int              `json:"tokens_predicted"`
	Evaluated  int              `json:"tokens_evaluated"`
	Settings   map[string]any   `json:"generation_settings,omitempty"`
	Prompt     string           `json:"prompt,omitempty"`
	NewLine    bool             `json:"has_new_line,omitempty"`
	Truncated  *bool            `json:"truncated,omitempty"`
	StopType   string           `json:"stop_type,omitempty"`
	StopWord   *string          `json:"stopping_word,omitempty"`
	Cached     *int             `json:"tokens_cached,omitempty"`
	Timings    map[string]any   `json:"timings,omitempty"`
	Candidates []map[string]any `json:"completion_probabilities,omitempty"`
}

func (m *served) llamaCandidates(tokens []token) []map[string]any {
	var out []map[string]any
	for i, l := range m.chatLogprobs(tokens).Content {
		var top []map[string]any
		for k, t := range l.Top {
			top = append(top, map[string]any{"id": tokens[i].top[k].ID, "token": t.Token, "bytes": t.Bytes, "logprob": t.Logprob})
		}
		out = append(out, map[string]any{"id": tokens[i].id, "token": l.Token, "bytes": l.Bytes, "logprob": l.Logprob, "top_logprobs": top})
	}
	return out
}

func (s *core) llamaAnswer(w *response, r *http.Request, q *llamaRequest, req *request) error {
	a, err := s.ask(r.Context(), w, req)
	if err != nil {
		return err
	}
	defer a.close()
	if len(a.jobs) != 1 {
		return invalid("prompt", "one prompt at a time: use /v1/completions for more")
	}
	a.ids = make([][]int32, 1)
	whole := llamaAnswer{Stop: true, Model: a.m.ID, Tokens: []int32{}}
	shown := 0
	var e *events
	if q.Stream {
		e = s.events(w)
	}
	err = a.follow(func(p part) error {
		if p.kind == partFinish {
			whole.StopWord = &p.stop
			switch {
			case p.finish == "length":
				whole.StopType = "limit"
			case p.stop != "":
				whole.StopType = "word"
			default:
				whole.StopType = "eos"
			}
		}
		candidates := []map[string]any(nil)
		if q.NProbs > 0 {
			candidates = a.m.llamaCandidates(p.tokens)
		}
		if !q.Stream {
			whole.Content += p.text
			whole.Candidates = append(whole.Candidates, candidates...)
			return nil
		}
		if p.text == "" && candidates == nil {
			return nil
		}
		ids := []int32{}
		if q.Tokens {
			ids = append(ids, a.ids[0][shown:]...)
		}
		shown = len(a.ids[0])
		return e.send("", llamaAnswer{Content: p.text, Tokens: ids, Predicted: shown, Evaluated: len(a.jobs[0].prompt), Candidates: candidates})
	}, func() error {
		if e != nil {
			return e.flush()
		}
		return nil
	}, func() error {
		if e != nil {
			return e.ping()
		}
		return nil
	})
	if err == nil {
		u, stream := a.usage(), a.streams[0]
		if q.Tokens {
			whole.Tokens = append(whole.Tokens, a.ids[0][shown:]...)
		}
		whole.Predicted, whole.Evaluated, whole.Prompt = u.written, u.prompt, a.prompts[0]
		whole.Cached, whole.Truncated, whole.NewLine = &u.cached, new(bool), strings.Contains(whole.Content, "\n")
		whole.Settings = map[string]any{"n_ctx": a.m.MaxContext, "n_predict": a.jobs[0].max, "temperature": *req.Temperature, "top_k": req.TopK, "top_p": *req.TopP, "min_p": req.MinP, "seed": a.jobs[0].sampling.Seed, "stop": req.Stop}
		if !stream.first.IsZero() {
			read, wrote := stream.first.Sub(stream.started), stream.last.Sub(stream.first)
			whole.Timings = map[string]any{
				"prompt_n": u.prompt - u.cached, "prompt_ms": ms(read), "prompt_per_second": float64(u.prompt-u.cached) / max(read.Seconds(), 1e-9),
				"predicted_n": u.written, "predicted_ms": ms(wrote), "predicted_per_second": float64(u.written) / max(wrote.Seconds(), 1e-9),
			}
		}
	}
	if !q.Stream {
		if err != nil {
			return err
		}
		return writeJSON(w, 200, whole)
	}
	if err == nil {
		err = e.send("", whole)
	}
	return e.end(err, "", openaiError(e))
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// llamaTemplate shows what a conversation looks like to the model.
func (s *core) llamaTemplate(w *response, r *http.Request) error {
	var q struct {
		Model    string          `json:"model"`
		Messages []chatMessage   `json:"messages"`
		Tools    []tool          `json:"tools"`
		Choice   json.RawMessage `json:"tool_choice"`
		Extra    map[string]any  `json:"chat_template_kwargs"`
		Continue bool            `json:"continue_final_message"`
		Generate *bool           `json:"add_generation_prompt"`
	}
	if err := s.read(w, r, fields{}, &q); err != nil {
		return err
	}
	m, err := s.model(q.Model)
	if err != nil {
		return err
	}
	c := &conversation{messages: q.Messages, tools: q.Tools, extra: q.Extra, continues: q.Continue, bare: q.Generate != nil && !*q.Generate}
	if c.choice, c.only, err = toolChoice(q.Choice); err != nil {
		return err
	}
	if err := checkTools(c.tools); err != nil {
		return err
	}
	tools, _, err := c.chosen()
	if err != nil {
		return err
	}
	messages, o, err := m.prepare(c, tools, c.think.tell(m.thought, c.extra))
	if err != nil {
		return err
	}
	text, err := trit.ChatText(m.Tokenizer, messages, o)
	if err != nil {
		return invalid("messages", "the model's chat template refuses this conversation: %v", err)
	}
	return writeJSON(w, 200, map[string]string{"prompt": text})
}

func (s *core) llamaProps(w *response, r *http.Request) error {
	m, err := s.model(r.URL.Query().Get("model"))
	if err != nil {
		return err
	}
	out := map[string]any{
		"default_generation_settings": map[string]any{
			"id": 0, "id_task": -1, "n_ctx": m.MaxContext, "speculative": false, "is_processing": m.sched.m.running.Load() > 0,
			"params": map[string]any{"n_predict": s.o.MaxTokens, "temperature": 0.8, "top_k": 0, "top_p": 0.95, "min_p": 0},
		},
		"total_slots": s.o.MaxBatch, "model_alias": m.ID, "model_path": m.ID, "modalities": map[string]bool{"vision": false, "audio": false},
		"chat_template": "", "chat_template_caps": map[string]bool{"supports_tools": m.calls.FromTemplate, "supports_parallel_tool_calls": m.calls.Several},
		"build_info": "trit " + s.o.Version, "bos_token": "", "eos_token": "",
	}
	if t, ok := m.Tokenizer.Template(""); ok {
		out["chat_template"] = t
	}
	if id, ok := m.Tokenizer.BOS(); ok {
		out["bos_token"] = m.Tokenizer.Token(id)
	}
	if ids := m.Tokenizer.EOS(); len(ids) > 0 {
		out["eos_token"] = m.Tokenizer.Token(ids[0])
	}
	return writeJSON(w, 200, out)
}

// llamaSlots shows the places for sequences. Which sequence has which is nobody's business but its client's.
func (s *core) llamaSlots(w *response, r *http.Request) error {
	m, err := s.model(r.URL.Query().Get("model"))
	if err != nil {
		return err
	}
	busy := int(m.sched.m.running.Load())
	list := []map[string]any{}
	for i := range s.o.MaxBatch {
		list = append(list, map[string]any{"id": i, "id_task": -1, "n_ctx": m.MaxContext, "speculative": false, "is_processing": i < busy})
	}
	return writeJSON(w, 200, list)
}
