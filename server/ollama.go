package server

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"text/template"
	"text/template/parse"
	"time"
)

// Ollama's protocol. Answers are lines of JSON unless stream is false.

// ollamaVersion is the version of Ollama whose protocol this is: clients compare it.
const ollamaVersion = "0.13.0"

// ollamaOptions are the options of a request, with Ollama's names.
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

var ollamaOptionFields = fields{
	honoured: "num_predict temperature top_k top_p min_p seed stop repeat_penalty repeat_last_n presence_penalty frequency_penalty",
	harmless: "num_ctx num_keep num_batch num_gpu main_gpu num_gqa low_vram f16_kv logits_all vocab_only use_mmap use_mlock num_thread numa penalize_newline",
	refused: map[string]refusal{
		"typical_p": {"the server has no such sampler", []string{"1", "0"}}, "tfs_z": {"the server has no such sampler", []string{"1"}},
		"mirostat": {"the server has no such sampler", []string{"0"}}, "mirostat_tau": {"the server has no such sampler", []string{"5"}},
		"mirostat_eta": {"the server has no such sampler", []string{"0.1"}}, "embedding_only": {"use /api/embed", []string{"false"}},
	},
}

func (o *ollamaOptions) UnmarshalJSON(b []byte) error {
	type plain ollamaOptions
	if err := json.Unmarshal(b, (*plain)(o)); err != nil {
		return err
	}
	_, err := ollamaOptionFields.check(b)
	return err
}

var ollamaChatFields = fields{
	honoured: "model messages tools format options stream think logprobs top_logprobs truncate",
	harmless: "keep_alive shift",
	refused:  map[string]refusal{"template": {"the model's own is used", []string{`""`}}},
}

var ollamaGenerateFields = fields{
	honoured: "model prompt suffix system template raw context format options stream think logprobs top_logprobs",
	harmless: "keep_alive shift truncate",
	refused: map[string]refusal{
		"images": {"the model reads text", []string{"[]"}}, "width": {"the model writes text", []string{"0"}}, "height": {"the model writes text", []string{"0"}}, "steps": {"the model writes text", []string{"0"}},
	},
}

var ollamaEmbedFields = fields{honoured: "model input dimensions truncate prompt", harmless: "keep_alive options", refused: map[string]refusal{}}

type ollamaRequest struct {
	Model       string          `json:"model"`
	Messages    []ollamaMessage `json:"messages"`
	Prompt      string          `json:"prompt"`
	Suffix      string          `json:"suffix"`
	System      string          `json:"system"`
	Template    string          `json:"template"`
	Context     []int32         `json:"context"`
	Raw         bool            `json:"raw"`
	Stream      *bool           `json:"stream"`
	Format      json.RawMessage `json:"format"` // "json" or a schema
	Options     ollamaOptions   `json:"options"`
	Tools       []tool          `json:"tools"`
	Think       json.RawMessage `json:"think"` // true, false, or an effort
	Logprobs    bool            `json:"logprobs"`
	TopLogprobs int             `json:"top_logprobs"`
	Truncate    bool            `json:"truncate"`
}

type ollamaMessage struct {
	Role       string           `json:"role"`
	Content    string           `json:"content"`
	Thinking   string           `json:"thinking,omitempty"`
	Images     []string         `json:"images,omitempty"`
	ToolName   string           `json:"tool_name,omitempty"`
	ToolCallID string           `json:"tool_call_id,omitempty"`
	ToolCalls  []ollamaToolCall `json:"tool_calls,omitempty"`
}

type ollamaToolCall struct {
	ID       string `json:"id,omitempty"`
	Function struct {
		Index     int             `json:"index,omitempty"`
		Name      string          `json:"name"`
		Arguments json.RawMessage `json:"arguments"`
	} `json:"function"`
}

type ollamaAnswer struct {
	Model              string         `json:"model"`
	CreatedAt          string         `json:"created_at"`
	Message            *ollamaMessage `json:"message,omitempty"`
	Response           *string        `json:"response,omitempty"`
	Thinking           string         `json:"thinking,omitempty"`
	Logprobs           []chatLogprob  `json:"logprobs,omitempty"`
	Done               bool           `json:"done"`
	DoneReason         string         `json:"done_reason,omitempty"`
	Context            []int32        `json:"context,omitempty"`
	TotalDuration      int64          `json:"total_duration,omitempty"` // nanoseconds
	LoadDuration       int64          `json:"load_duration,omitempty"`
	PromptEvalCount    int            `json:"prompt_eval_count,omitempty"`
	PromptEvalDuration int64          `json:"prompt_eval_duration,omitempty"`
	EvalCount          int            `json:"eval_count,omitempty"`
	EvalDuration       int64          `json:"eval_duration,omitempty"`
}

// request translates what chat and generate share, with Ollama's defaults.
func (q *ollamaRequest) request() (*request, error) {
	o := q.Options
	req := &request{logprobs: -1, options: options{
		Model: q.Model, Temperature: o.Temperature, TopP: o.TopP, MinP: o.MinP, Seed: o.Seed, Stop: o.Stop,
		PresencePenalty: o.PresencePenalty, FrequencyPenalty: o.FrequencyPenalty, TopK: 40, RepetitionPenalty: 1.1, RepeatLastN: 64,
	}}
	defaults := func(p **float32, v float32) {
		if *p == nil {
			*p = &v
		}
	}
	defaults(&req.Temperature, 0.8)
	defaults(&req.TopP, 0.9)
	if o.TopK != nil {
		req.TopK = *o.TopK
	}
	if o.RepeatPenalty != nil {
		req.RepetitionPenalty = *o.RepeatPenalty
	}
	if o.RepeatLastN != nil {
		if req.RepeatLastN = *o.RepeatLastN; req.RepeatLastN == 0 {
			req.RepetitionPenalty = 1 // look at nothing
		}
		req.RepeatLastN = max(req.RepeatLastN, 0) // −1: all
	}
	if n := o.NumPredict; n != nil {
		all := -1 // −1: as many as fit, −2: until the context is full
		if req.MaxTokens = n; *n < 0 {
			req.MaxTokens = &all
		}
	}
	if q.Logprobs {
		if req.logprobs = q.TopLogprobs; req.logprobs < 0 {
			return nil, invalid("top_logprobs", "top_logprobs must be from 0 to 20, is %d", q.TopLogprobs)
		}
	}
	if f := bytes.TrimSpace(q.Format); len(f) > 0 && string(f) != "null" && string(f) != `""` {
		switch {
		case string(f) == `"json"`:
			req.ResponseFormat = &responseFormat{Type: "json_object"}
		case f[0] == '{':
			req.ResponseFormat = &responseFormat{Type: "json_schema", Schema: json.RawMessage(f)}
		default:
			return nil, invalid("format", `format is "json" or a JSON schema`)
		}
	}
	return req, nil
}

// thinking is what think says: true, false or an effort.
func (q *ollamaRequest) thinking() (t thinking, err error) {
	var on bool
	if !given(q.Think) {
		return t, nil
	}
	if json.Unmarshal(q.Think, &on) == nil {
		t.enabled = &on
	} else if json.Unmarshal(q.Think, &t.effort) != nil || t.effort != "high" && t.effort != "medium" && t.effort != "low" && t.effort != "max" {
		return t, invalid("think", "think is true, false, high, medium or low, not %s", clip(string(q.Think), 40))
	}
	return t, nil
}

func (q *ollamaRequest) chat() (*request, error) {
	req, err := q.request()
	if err != nil {
		return nil, err
	}
	c := &conversation{tools: q.Tools, shorten: q.Truncate}
	if c.think, err = q.thinking(); err != nil {
		return nil, err
	}
	for i, x := range q.Messages {
		if len(x.Images) > 0 {
			return nil, invalid("images", "messages[%d]: images are not supported", i)
		}
		msg := chatMessage{Role: x.Role, Content: content{text: x.Content}, Thought: x.Thinking, Name: x.ToolName, ToolCallID: x.ToolCallID}
		for _, t := range x.ToolCalls {
			msg.ToolCalls = append(msg.ToolCalls, toolCall{ID: t.ID, Type: "function", Function: call{t.Function.Name, arguments(t.Function.Arguments)}})
		}
		c.messages = append(c.messages, msg)
	}
	last := c.messages[len(c.messages)-1]
	c.continues = last.Role == "assistant" && len(last.ToolCalls) == 0
	req.chat = c
	return req, nil
}

// prompt translates a request to generate: a prompt as it is, by a template, or as one turn of a chat.
func (q *ollamaRequest) prompt(m *served) (*request, error) {
	req, err := q.request()
	if err != nil {
		return nil, err
	}
	off := false
	req.special = &off
	switch {
	case q.Suffix != "":
		req.prompts.texts, req.suffix = []string{q.Prompt}, &q.Suffix
	case q.Raw:
		req.prompts.texts, req.special = []string{q.Prompt}, nil
	case q.Template != "":
		text, err := ollamaTemplate(q.Template, q.System, q.Prompt)
		if err != nil {
			return nil, err
		}
		req.prompts.texts, req.special = []string{text}, nil
	default:
		c := &conversation{}
		if c.think, err = q.thinking(); err != nil {
			return nil, err
		}
		if q.System != "" {
			c.messages = append(c.messages, chatMessage{Role: "system", Content: content{text: q.System}})
		}
		c.messages = append(c.messages, chatMessage{Role: "user", Content: content{text: q.Prompt}})
		if len(q.Context) == 0 {
			req.chat = c
			return req, nil
		}
		ids, err := m.read(c)
		if err != nil {
			return nil, err
		}
		req.prompts.tokens = [][]int32{append(append([]int32{}, q.Context...), ids...)}
		return req, nil
	}
	if len(q.Context) > 0 {
		ids, err := m.encode(req.prompts.texts[0], "prompt", false)
		if err != nil {
			return nil, err
		}
		req.prompts = prompts{tokens: [][]int32{append(append([]int32{}, q.Context...), ids...)}}
	}
	return req, nil
}

// ollamaTemplate fills a template in the language of Go, as far as it is fields and conditions on them: nothing in it
// may take long. The text ends where the response begins.
func ollamaTemplate(src, system, prompt string) (string, error) {
	t, err := template.New("template").Parse(src)
	if err != nil {
		return "", invalid("template", "%v", err)
	}
	if err := plainTemplate(t.Root); err != nil || len(t.Templates()) > 1 {
		return "", invalid("template", "a template has .System, .Prompt, .Response and conditions on them; others are not supported")
	}
	const mark = "\uFDD2"
	var b strings.Builder
	if err := t.Execute(&b, map[string]string{"System": system, "Prompt": prompt, "Response": mark}); err != nil {
		return "", invalid("template", "%v", err)
	}
	text, _, _ := strings.Cut(b.String(), mark)
	return text, nil
}

func plainTemplate(n parse.Node) error {
	var nodes []parse.Node
	pipe := func(p *parse.PipeNode) {
		if p != nil && len(p.Decl) > 0 {
			nodes = append(nodes, &parse.RangeNode{}) // a variable
		}
		if p != nil {
			for _, c := range p.Cmds {
				nodes = append(nodes, c.Args...)
			}
		}
	}
	switch n := n.(type) {
	case nil, *parse.TextNode, *parse.CommentNode, *parse.StringNode:
	case *parse.FieldNode:
		if len(n.Ident) != 1 || n.Ident[0] != "System" && n.Ident[0] != "Prompt" && n.Ident[0] != "Response" {
			return fmt.Errorf("field %v", n.Ident)
		}
	case *parse.IdentifierNode:
		if n.Ident != "and" && n.Ident != "or" && n.Ident != "not" && n.Ident != "eq" && n.Ident != "ne" {
			return fmt.Errorf("function %s", n.Ident)
		}
	case *parse.PipeNode:
		pipe(n)
	case *parse.ActionNode:
		pipe(n.Pipe)
	case *parse.ListNode:
		if n != nil {
			nodes = n.Nodes
		}
	case *parse.IfNode:
		pipe(n.Pipe)
		nodes = append(nodes, n.List)
		if n.ElseList != nil {
			nodes = append(nodes, n.ElseList)
		}
	default:
		return fmt.Errorf("%T", n)
	}
	for _, x := range nodes {
		if err := plainTemplate(x); err != nil {
			return err
		}
	}
	return nil
}

func (s *core) ollamaChat(w *response, r *http.Request) error {
	var q ollamaRequest
	if err := s.read(w, r, ollamaChatFields, &q); err != nil {
		return err
	}
	if len(q.Messages) == 0 { // Ollama loads the model then; ours is loaded
		m, err := s.model(q.Model)
		if err != nil {
			return err
		}
		return writeJSON(w, 200, ollamaAnswer{Model: m.ID, CreatedAt: stamp(), Message: &ollamaMessage{Role: "assistant"}, Done: true, DoneReason: "load"})
	}
	req, err := q.chat()
	if err != nil {
		return err
	}
	return s.ollamaAnswer(w, r, &q, req, func(a *ollamaAnswer, x ollamaMessage) {
		x.Role = "assistant"
		a.Message = &x
	})
}

func (s *core) ollamaGenerate(w *response, r *http.Request) error {
	var q ollamaRequest
	if err := s.read(w, r, ollamaGenerateFields, &q); err != nil {
		return err
	}
	m, err := s.model(q.Model)
	if err != nil {
		return err
	}
	if q.Prompt == "" && q.Suffix == "" {
		return writeJSON(w, 200, ollamaAnswer{Model: m.ID, CreatedAt: stamp(), Response: new(string), Done: true, DoneReason: "load"})
	}
	req, err := q.prompt(m)
	if err != nil {
		return err
	}
	return s.ollamaAnswer(w, r, &q, req, func(a *ollamaAnswer, x ollamaMessage) { a.Response, a.Thinking = &x.Content, x.Thinking })
}

func stamp() string { return time.Now().UTC().Format(time.RFC3339Nano) }

// ollamaAnswer runs the request and writes lines, or one answer. put puts what is said into an answer.
func (s *core) ollamaAnswer(w *response, r *http.Request, q *ollamaRequest, req *request, put func(a *ollamaAnswer, x ollamaMessage)) error {
	a, err := s.ask(r.Context(), w, req)
	if err != nil {
		return err
	}
	defer a.close()
	generates := q.Messages == nil
	if generates {
		a.ids = make([][]int32, 1)
	}
	streaming := q.Stream == nil || *q.Stream
	e := s.lines(w)
	var whole, more ollamaMessage
	var scores, moreScores []chatLogprob
	say := func() error {
		out := ollamaAnswer{Model: a.m.ID, CreatedAt: stamp(), Logprobs: moreScores}
		put(&out, more)
		more, moreScores = ollamaMessage{}, nil
		return e.send("", out)
	}
	var open ollamaToolCall
	var args strings.Builder
	finish := ""
	err = a.follow(func(p part) error {
		x := &more
		if !streaming {
			x = &whole
		}
		if q.Logprobs && len(p.tokens) > 0 {
			list := a.m.chatLogprobs(p.tokens).Content
			scores, moreScores = append(scores, list...), append(moreScores, list...)
		}
		switch p.kind {
		case partText:
			x.Content += p.text
		case partThought:
			x.Thinking += p.text
		case partCall:
			open = ollamaToolCall{ID: p.id}
			open.Function.Index, open.Function.Name = p.call, p.name
			args.Reset()
		case partArguments:
			args.WriteString(p.text)
		case partCallEnd:
			open.Function.Arguments = json.RawMessage(args.String())
			x.ToolCalls = append(x.ToolCalls, open)
		case partFinish:
			finish = p.finish
		}
		if streaming && (x.Content != "" || x.Thinking != "" || len(x.ToolCalls) > 0) {
			return say()
		}
		return nil
	}, func() error {
		if streaming {
			return e.flush()
		}
		return nil
	}, nothing)
	fail := func(api *apiError) error { return e.send("", map[string]string{"error": api.Message}) }
	if err != nil {
		return e.end(err, "", fail)
	}
	if finish == "calls" {
		finish = "stop"
	}
	u, stream := a.usage(), a.streams[0]
	out := ollamaAnswer{Model: a.m.ID, CreatedAt: stamp(), Done: true, DoneReason: finish, PromptEvalCount: u.prompt, EvalCount: u.written, TotalDuration: time.Since(a.started).Nanoseconds()}
	if put(&out, whole); !streaming {
		out.Logprobs = scores
	} else {
		out.Logprobs = moreScores
	}
	if generates && !q.Raw {
		out.Context = append(append([]int32{}, a.jobs[0].prompt...), a.ids[0]...)
	}
	if !stream.first.IsZero() {
		out.PromptEvalDuration = stream.first.Sub(stream.started).Nanoseconds()
		out.EvalDuration = stream.last.Sub(stream.first).Nanoseconds()
	}
	if !streaming {
		return writeJSON(w, 200, out)
	}
	return e.end(e.send("", out), "", fail)
}

func (s *core) ollamaEmbed(w *response, r *http.Request) error {
	var q struct {
		Model      string  `json:"model"`
		Input      prompts `json:"input"`
		Dimensions int     `json:"dimensions"`
		Truncate   *bool   `json:"truncate"`
	}
	if err := s.read(w, r, ollamaEmbedFields, &q); err != nil {
		return err
	}
	truncate := -1 // unless it says otherwise
	if q.Truncate != nil && !*q.Truncate {
		truncate = 0
	}
	start := time.Now()
	v, err := s.embed(r.Context(), w, q.Model, q.Input, q.Dimensions, truncate)
	if err != nil {
		return err
	}
	return writeJSON(w, 200, map[string]any{"model": v.m.ID, "embeddings": v.vectors, "total_duration": time.Since(start).Nanoseconds(), "load_duration": 0, "prompt_eval_count": v.tokens})
}

func (s *core) ollamaEmbeddings(w *response, r *http.Request) error {
	var q struct {
		Model  string `json:"model"`
		Prompt string `json:"prompt"`
	}
	if err := s.read(w, r, ollamaEmbedFields, &q); err != nil {
		return err
	}
	v, err := s.embed(r.Context(), w, q.Model, prompts{texts: []string{q.Prompt}}, 0, -1)
	if err != nil {
		return err
	}
	return writeJSON(w, 200, map[string]any{"embedding": v.vectors[0]})
}

// digest tells one model from another, and from the same after its file changed. It is not the file's.
func (m *served) digest() string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d %d", m.ID, m.Bytes, m.Created.UnixNano()))
	return hex.EncodeToString(sum[:])
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
		"digest": m.digest(), "details": m.ollamaDetails(),
	}
}

func (s *core) ollamaTags(w *response, r *http.Request) error {
	list := []any{}
	for _, m := range s.models {
		list = append(list, m.ollamaEntry())
	}
	return writeJSON(w, 200, map[string]any{"models": list})
}

func (s *core) ollamaPs(w *response, r *http.Request) error {
	list := []any{}
	for _, m := range s.models {
		e := m.ollamaEntry()
		e["expires_at"], e["size_vram"], e["context_length"] = "9999-12-31T23:59:59Z", 0, m.MaxContext
		list = append(list, e)
	}
	return writeJSON(w, 200, map[string]any{"models": list})
}

func (s *core) ollamaShow(w *response, r *http.Request) error {
	var q struct {
		Model string `json:"model"`
		Name  string `json:"name"`
	}
	if err := s.read(w, r, fields{}, &q); err != nil {
		return err
	}
	m, err := s.model(orWord(q.Model, q.Name))
	if err != nil {
		return err
	}
	c := m.Engine.Config()
	family := orWord(c.Family, "llama")
	can := []string{"completion"}
	template, ok := m.Tokenizer.Template("")
	if c.Pooling != "" {
		can = []string{"embedding"}
	} else if ok {
		can = append(can, "tools")
	}
	if m.thought != nil {
		can = append(can, "thinking")
	}
	if m.fill != nil {
		can = append(can, "insert")
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

func (s *core) ollamaVersion(w *response, r *http.Request) error {
	return writeJSON(w, 200, map[string]string{"version": ollamaVersion, "trit": s.o.Version})
}
