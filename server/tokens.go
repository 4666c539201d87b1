package server

import "net/http"

// Tokens and texts, as vLLM and llama.cpp convert them.

func (s *core) tokenize(w *response, r *http.Request) error {
	var q struct {
		Model    string         `json:"model"`
		Prompt   *string        `json:"prompt"`
		Content  *string        `json:"content"` // as llama.cpp calls it
		Messages []chatMessage  `json:"messages"`
		Special  *bool          `json:"add_special_tokens"`
		Generate *bool          `json:"add_generation_prompt"`
		Strings  bool           `json:"return_token_strs"`
		Pieces   bool           `json:"with_pieces"` // as llama.cpp calls it
		Tools    []tool         `json:"tools"`
		Extra    map[string]any `json:"chat_template_kwargs"`
	}
	if err := s.read(w, r, fields{}, &q); err != nil {
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
		ids, err = m.read(&conversation{messages: q.Messages, tools: q.Tools, extra: q.Extra, bare: q.Generate != nil && !*q.Generate})
	default:
		err = invalid("prompt", "prompt or messages is missing")
	}
	if err != nil {
		return err
	}
	if q.Pieces {
		pieces := []map[string]any{}
		for _, id := range ids {
			pieces = append(pieces, map[string]any{"id": id, "piece": m.tokenText(id)})
		}
		return writeJSON(w, 200, map[string]any{"tokens": pieces})
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

func (s *core) detokenize(w *response, r *http.Request) error {
	var q struct {
		Model  string  `json:"model"`
		Tokens []int32 `json:"tokens"`
	}
	if err := s.read(w, r, fields{}, &q); err != nil {
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

func (s *core) tokenizerInfo(w *response, r *http.Request) error {
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
