package tokenizer

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/tritlm/trit/gguf"
)

// Save writes the tokenizer's files into a folder, for Load and for Hugging Face transformers; see Files.
func (t *Tokenizer) Save(dir string) error {
	files, err := t.Files()
	if err != nil {
		return err
	}
	for _, name := range sortedKeys(files) {
		to := filepath.Join(dir, filepath.FromSlash(name))
		if strings.Contains(name, "/") {
			if err := os.MkdirAll(filepath.Dir(to), 0o777); err != nil {
				return fmt.Errorf("tokenizer: %w", err)
			}
		}
		if err := os.WriteFile(to, files[name], 0o666); err != nil {
			return fmt.Errorf("tokenizer: %w", err)
		}
	}
	return nil
}

// Files are the tokenizer as the files of a Hugging Face folder, by their names: tokenizer.json,
// tokenizer_config.json, and where the model came with such files special_tokens_map.json,
// chat_template.jinja and additional_chat_templates/NAME.jinja. What was read from such files is as
// it was.
func (t *Tokenizer) Files() (map[string][]byte, error) {
	tok, err := t.JSON()
	if err != nil {
		return nil, err
	}
	cfg, err := t.ConfigJSON()
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{"tokenizer.json": tok, "tokenizer_config.json": cfg}
	if t.special != nil {
		files["special_tokens_map.json"] = t.special
	}
	for name, s := range t.files {
		if name == "default" {
			files["chat_template.jinja"] = []byte(s)
		} else {
			files["additional_chat_templates/"+name+".jinja"] = []byte(s)
		}
	}
	return files, nil
}

// JSON returns the tokenizer as a tokenizer.json.
func (t *Tokenizer) JSON() ([]byte, error) {
	if t.json != "" {
		return []byte(t.json), nil
	}
	m := t.model.(*bpe)
	var b bytes.Buffer
	raw := func(name string, r json.RawMessage) {
		if r == nil {
			r = json.RawMessage("null")
		}
		fmt.Fprintf(&b, "  %q: %s,\n", name, r)
	}
	b.WriteString("{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [")
	for i, a := range t.added {
		sep := ",\n    "
		if i == 0 {
			sep = "\n    "
		}
		fmt.Fprintf(&b, `%s{"id": %d, "content": %s, "single_word": %t, "lstrip": %t, "rstrip": %t, "normalized": %t, "special": %t}`,
			sep, a.ID, quoteJSON(a.Content), a.SingleWord, a.LStrip, a.RStrip, a.Normalized, a.Special)
	}
	b.WriteString("\n  ],\n")
	raw("normalizer", t.parts.normalizer)
	raw("pre_tokenizer", t.parts.pre)
	raw("post_processor", t.postJSON())
	raw("decoder", t.parts.decoder)
	f := t.parts.flags
	unk := "null"
	if f.Unk != nil {
		unk = quoteJSON(*f.Unk)
	}
	fmt.Fprintf(&b, "  \"model\": {\n    \"type\": \"BPE\",\n    \"dropout\": null,\n    \"unk_token\": %s,\n"+
		"    \"continuing_subword_prefix\": null,\n    \"end_of_word_suffix\": null,\n    \"fuse_unk\": %t,\n"+
		"    \"byte_fallback\": %t,\n    \"ignore_merges\": %t,\n    \"vocab\": {", unk, f.FuseUnk, f.ByteFallback, f.IgnoreMerges)
	sep := "\n      "
	for id := range m.keys {
		if s := t.tokens[id].text; s != "" {
			fmt.Fprintf(&b, "%s%s: %d", sep, quoteJSON(s), id)
			sep = ",\n      "
		}
	}
	b.WriteString("\n    },\n    \"merges\": [")
	sep = "\n      "
	for _, p := range m.mergeList() {
		fmt.Fprintf(&b, "%s[%s, %s]", sep, quoteJSON(t.tokens[p[0]].text), quoteJSON(t.tokens[p[1]].text))
		sep = ",\n      "
	}
	b.WriteString("\n    ]\n  }\n}\n")
	return b.Bytes(), nil
}

// mergeList returns the merges in the order of their ranks; among equals, of their ids.
func (m *bpe) mergeList() [][2]int32 {
	list := make([]pairSlot, 0, m.merges.n)
	for _, s := range m.merges.slots {
		if s.key != noPair && int(s.key>>32) < len(m.keys) && int(uint32(s.key)) < len(m.keys) {
			list = append(list, s)
		}
	}
	slices.SortFunc(list, func(a, b pairSlot) int {
		return cmp.Or(cmp.Compare(a.rank, b.rank), cmp.Compare(a.id, b.id), cmp.Compare(a.key, b.key))
	})
	out := make([][2]int32, len(list))
	for i, s := range list {
		out[i] = [2]int32{int32(s.key >> 32), int32(uint32(s.key))}
	}
	return out
}

// postJSON is the post-processor that puts before and after around a text.
func (t *Tokenizer) postJSON() json.RawMessage {
	if len(t.before)+len(t.after) == 0 {
		return nil
	}
	type object = map[string]any
	around := func(body ...any) (list []any) {
		for _, id := range t.before {
			list = append(list, object{"SpecialToken": object{"id": t.Token(id), "type_id": 0}})
		}
		list = append(list, body...)
		for _, id := range t.after {
			list = append(list, object{"SpecialToken": object{"id": t.Token(id), "type_id": 0}})
		}
		return list
	}
	a := object{"Sequence": object{"id": "A", "type_id": 0}}
	special := object{}
	for _, id := range slices.Concat(t.before, t.after) {
		special[t.Token(id)] = object{"id": t.Token(id), "ids": []int32{id}, "tokens": []string{t.Token(id)}}
	}
	r, err := json.Marshal(object{
		"type": "TemplateProcessing", "single": around(a),
		"pair": around(a, object{"Sequence": object{"id": "B", "type_id": 1}}), "special_tokens": special,
	})
	if err != nil {
		panic(err) // strings and numbers only
	}
	return r
}

// ConfigJSON returns the tokenizer_config.json that goes with JSON.
func (t *Tokenizer) ConfigJSON() ([]byte, error) {
	if t.config != nil {
		return t.config, nil
	}
	c := map[string]any{"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false}
	name := func(key string, id int32) {
		if s := t.Token(id); s != "" {
			c[key] = s
		}
	}
	name("bos_token", t.bos)
	name("unk_token", t.unk)
	name("pad_token", t.pad)
	name("eos_token", t.end)
	switch {
	case len(t.templates) == 1 && t.templates["default"] != "":
		c["chat_template"] = t.templates["default"]
	case len(t.templates) > 0:
		var list []map[string]string
		for name, s := range t.templates {
			list = append(list, map[string]string{"name": name, "template": s})
		}
		slices.SortFunc(list, func(a, b map[string]string) int { return strings.Compare(a["name"], b["name"]) })
		c["chat_template"] = list
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(c)
	return b.Bytes(), err
}

// GGUF returns the tokenizer as GGUF metadata, for FromGGUF and for llama.cpp. It fails with
// errors.ErrUnsupported for what that metadata cannot say.
func (t *Tokenizer) GGUF() (gguf.KV, error) {
	m := t.model.(*bpe)
	var kv gguf.KV
	texts := make([]string, len(t.tokens))
	types := make([]int32, len(t.tokens))
	scores := make([]float32, len(t.tokens))
	for id, tok := range t.tokens {
		texts[id] = tok.text
		switch tok.kind {
		case normal:
			types[id] = spNormal
		case userDefined:
			types[id] = spUserDefined
		case control:
			types[id] = spControl
			if int32(id) == t.unk {
				types[id] = spUnknown
			}
		case byteToken:
			types[id] = spByte
		default:
			if tok.text == "" {
				texts[id] = fmt.Sprintf("[UNUSED_%d]", id)
			}
			types[id] = spUnused
		}
		scores[id] = tok.score
	}
	ascii := t.asciiChars()
	switch {
	case m.byteLevel || ascii:
		pre := "gpt-2"
		if ascii {
			for id, s := range texts {
				texts[id] = byteLevelText(s)
			}
		} else {
			var err error
			if pre, err = t.preName(); err != nil {
				return nil, err
			}
		}
		kv.Set("tokenizer.ggml.model", "gpt2")
		kv.Set("tokenizer.ggml.pre", pre)
		kv.Set("tokenizer.ggml.tokens", texts)
		kv.Set("tokenizer.ggml.token_type", types)
		merges := []string{}
		for _, p := range m.mergeList() {
			merges = append(merges, t.tokens[p[0]].text+" "+t.tokens[p[1]].text)
		}
		kv.Set("tokenizer.ggml.merges", merges)
	default:
		prefix, err := t.spmPrefix()
		if err != nil {
			return nil, err
		}
		if !t.parts.spm {
			// The score of a piece is the rank of the first merge that makes it.
			for _, s := range m.merges.slots {
				if s.key != noPair {
					if v := -1 - float32(s.rank); scores[s.id] == 0 || v > scores[s.id] {
						scores[s.id] = v
					}
				}
			}
		}
		if t.normalize == nil { // our characters: a space is a space
			space, ok := t.ID(" ")
			if _, taken := t.ID("▁"); taken && ok {
				return nil, unsupported("GGUF: a vocabulary with both a space and ▁, which is how llama.cpp writes a space")
			} else if ok {
				texts[space] = "▁"
			}
		}
		kv.Set("tokenizer.ggml.model", "llama")
		kv.Set("tokenizer.ggml.pre", "default")
		kv.Set("tokenizer.ggml.tokens", texts)
		kv.Set("tokenizer.ggml.scores", scores)
		kv.Set("tokenizer.ggml.token_type", types)
		kv.Set("tokenizer.ggml.add_space_prefix", prefix)
	}
	id := func(name string, id int32) {
		if id >= 0 {
			kv.Set("tokenizer.ggml."+name+"_token_id", uint32(id))
		}
	}
	end := t.end
	if len(t.after) == 1 { // there EOS is what comes behind a text, which is not every model's end of a turn
		end = t.after[0]
	}
	id("bos", t.bos)
	id("eos", end)
	// There is room for two others, ends of a turn and of a message. Those that readers know by their names can be left out.
	others := slices.DeleteFunc(slices.Clone(t.eos), func(e int32) bool { return e == end })
	if len(others) > 2 {
		known := func(e int32) int {
			if slices.Contains(endOfTurn, t.Token(e)) {
				return 1
			}
			return 0
		}
		slices.SortStableFunc(others, func(a, b int32) int { return cmp.Compare(known(a), known(b)) })
	}
	for i, e := range others[:min(2, len(others))] {
		id([]string{"eot", "eom"}[i], e)
	}
	id("unknown", t.unk)
	id("padding", t.pad)
	addBOS, addEOS := len(t.before) > 0, len(t.after) > 0
	if len(t.before) > 1 || addBOS && t.before[0] != t.bos || len(t.after) > 1 {
		return nil, unsupported("GGUF: a text between other tokens than BOS and EOS")
	}
	kv.Set("tokenizer.ggml.add_bos_token", addBOS)
	kv.Set("tokenizer.ggml.add_eos_token", addEOS)
	var names []string
	for name, s := range t.templates {
		if name == "default" {
			kv.Set("tokenizer.chat_template", s)
		} else {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		kv.Set("tokenizer.chat_template."+name, t.templates[name])
	}
	if len(names) > 0 {
		kv.Set("tokenizer.chat_templates", names)
	}
	return kv, nil
}

// asciiChars reports whether the tokens are single ASCII characters and nothing else: bytes, that
// is. llama.cpp leaves out other characters in byte-level text, as we do; in SentencePiece
// vocabularies without byte tokens they end the program.
func (t *Tokenizer) asciiChars() bool {
	if t.normalize != nil || t.pre != nil || t.model.(*bpe).merges.n > 0 {
		return false
	}
	for _, tok := range t.tokens {
		if len(tok.text) != 1 || tok.text[0] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// preName returns the value of tokenizer.ggml.pre for the tokenizer's own way to cut text.
func (t *Tokenizer) preName() (string, error) {
	if t.normalize != nil && t.normName() != "NFC" {
		return "", unsupported("GGUF: a byte-level vocabulary that normalizes text")
	}
	list, ok := expressions(t.parts.pre)
	if len(list) == 0 && ok && t.model.(*bpe).merges.n == 0 {
		list = []string{reGPT2} // bytes stay bytes wherever the text is cut
	}
	if ok {
		for _, e := range preTokenizers {
			if slices.Equal(e.split, list) && e.whole == t.parts.flags.IgnoreMerges {
				return e.names[0], nil
			}
		}
	}
	return "", unsupported("GGUF: llama.cpp has no name for this pre-tokenizer: %s", strings.Join(list, " then "))
}

func (t *Tokenizer) normName() string {
	var n typed
	if json.Unmarshal(t.parts.normalizer, &n) != nil {
		return ""
	}
	return n.Type
}

// expressions lists the regular expressions that a byte-level pre-tokenizer cuts with; ok is
// false when it does something else as well.
func expressions(r json.RawMessage) (list []string, ok bool) {
	var p struct {
		typed
		Stages     []json.RawMessage `json:"pretokenizers"`
		Pattern    struct{ Regex string }
		Behavior   string `json:"behavior"`
		Invert     bool   `json:"invert"`
		AddSpace   bool   `json:"add_prefix_space"`
		UseRegex   *bool  `json:"use_regex"`
		Individual bool   `json:"individual_digits"`
	}
	if json.Unmarshal(r, &p) != nil {
		return nil, false
	}
	switch {
	case p.Type == "Sequence":
		for _, s := range p.Stages {
			sub, ok := expressions(s)
			if !ok {
				return nil, false
			}
			list = append(list, sub...)
		}
		return list, true
	case p.Type == "ByteLevel" && !p.AddSpace:
		if p.UseRegex == nil || *p.UseRegex {
			return []string{reGPT2}, true
		}
		return nil, true
	case p.Type == "Split" && p.Pattern.Regex != "" && (p.Behavior == "Isolated" || p.Behavior == "Removed" && p.Invert):
		return []string{p.Pattern.Regex}, true
	case p.Type == "Digits" && p.Individual:
		return []string{`\p{N}`}, true
	}
	return nil, false
}

// spmPrefix reports whether a character-level vocabulary puts a space in front of a text; it fails
// when it does other things than SentencePiece does in GGUF.
func (t *Tokenizer) spmPrefix() (bool, error) {
	const probe = "a  b"
	s := probe
	if t.normalize != nil {
		s = t.normalize(s)
	}
	if t.pre != nil {
		list := t.pre.split(nil, s, true)
		if len(list) != 1 {
			return false, unsupported("GGUF: a character-level vocabulary that cuts text into words")
		}
		s = list[0]
	}
	switch s {
	case probe, "a▁▁b":
		return false, nil
	case "▁a▁▁b":
		return true, nil
	}
	return false, unsupported("GGUF: a character-level vocabulary that normalizes text")
}
