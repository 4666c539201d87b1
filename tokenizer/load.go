package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/tritlm/trit/internal/infile"
	"github.com/tritlm/trit/tokenizer/jinja"
)

// Bounds on the files of a tokenizer. Loading takes time and memory in proportion to them: the
// memory is at most 16 times the file.
const (
	maxVocabFile = 128 << 20 // tokenizer.json and the like; Gemma's has 35 MB
	maxSideFile  = 16 << 20  // configurations, special tokens
	maxTokens    = 1 << 19   // of a vocabulary; the largest published ones have half of it
	maxTemplates = 100
)

// Load reads the tokenizer of a Hugging Face model folder, in this order: tokenizer.json,
// tekken.json (Mistral), tokenizer.model (SentencePiece or tiktoken), vocab.json with merges.txt;
// with tokenizer_config.json, special_tokens_map.json, added_tokens.json, generation_config.json,
// config.json and chat templates where they exist. A path to one of these files means its folder.
//
// What the files say together is what Hugging Face transformers 5 makes of them, with one exception:
// a tokenizer.json is taken as it stands, where transformers replaces its stages by those of some
// tokenizer classes.
func Load(path string) (*Tokenizer, error) {
	if st, err := os.Stat(path); err == nil && !st.IsDir() {
		path = filepath.Dir(path)
	}
	t, err := LoadFS(os.DirFS(path))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// LoadFS is Load for a folder in any file system.
func LoadFS(dir fs.FS) (*Tokenizer, error) {
	f := &files{}
	var jsonTemplate []byte
	for _, part := range []struct {
		name  string
		limit int64
		dst   *[]byte
	}{
		{"tokenizer_config.json", maxSideFile, &f.config},
		{"special_tokens_map.json", maxSideFile, &f.special},
		{"added_tokens.json", maxSideFile, &f.added},
		{"generation_config.json", maxSideFile, &f.generation},
		{"config.json", maxSideFile, &f.model},
		{"chat_template.json", maxSideFile, &jsonTemplate},
	} {
		var err error
		if *part.dst, err = readFile(dir, part.name, part.limit); err != nil {
			return nil, err
		}
	}
	for _, part := range []struct {
		name string
		dst  *[]byte
	}{{"tokenizer.json", &f.json}, {"tekken.json", &f.tekken}, {"tokenizer.model", &f.vocab}, {"vocab.json", &f.vocabJSON}} {
		data, err := readFile(dir, part.name, maxVocabFile)
		if err != nil {
			return nil, err
		}
		if *part.dst = data; data != nil {
			break
		}
	}
	if f.vocabJSON != nil {
		var err error
		if f.merges, err = readFile(dir, "merges.txt", maxVocabFile); err != nil {
			return nil, err
		}
		if f.merges == nil {
			return nil, errors.New("tokenizer: vocab.json without merges.txt, which says how text is cut into its tokens")
		}
	}
	if f.json == nil && f.tekken == nil && f.vocab == nil && f.vocabJSON == nil {
		return nil, errors.New("tokenizer: no tokenizer.json, tekken.json, tokenizer.model, or vocab.json with merges.txt in this folder")
	}
	if err := f.readTemplates(dir, jsonTemplate); err != nil {
		return nil, err
	}
	return fromFiles(f)
}

// readTemplates reads the chat templates that have files of their own: chat_template.jinja and
// additional_chat_templates/NAME.jinja, or else the chat_template.json of older folders.
func (f *files) readTemplates(dir fs.FS, jsonTemplate []byte) error {
	names := map[string]string{"chat_template.jinja": "default"}
	const more = "additional_chat_templates"
	entries, err := fs.ReadDir(dir, more)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("tokenizer: %w", err)
	}
	for _, e := range entries {
		if name, ok := strings.CutSuffix(e.Name(), ".jinja"); ok && name != "" {
			names[path.Join(more, e.Name())] = name
		}
	}
	if len(names) > maxTemplates {
		return bad("%s: more than %d templates", more, maxTemplates)
	}
	for file, name := range names {
		data, err := readFile(dir, file, jinja.MaxSource)
		if err != nil {
			return err
		}
		if data == nil {
			continue
		}
		if !utf8.Valid(data) {
			return bad("%s: not UTF-8", file)
		}
		if f.templates == nil {
			f.templates = templates{}
		}
		if _, taken := f.templates[name]; !taken || file != "chat_template.jinja" {
			f.templates[name] = string(data) // additional_chat_templates/default.jinja wins, as in transformers
		}
	}
	if jsonTemplate != nil {
		var t struct {
			Template json.RawMessage `json:"chat_template"`
		}
		if err := json.Unmarshal(jsonTemplate, &t); err != nil {
			return bad("chat_template.json: %w", err)
		}
		if f.older, err = readTemplateList(t.Template); err != nil {
			return bad("chat_template.json: %w", err)
		}
	}
	return nil
}

// readFile reads a file of a folder whole; nil without an error means that there is none.
func readFile(dir fs.FS, name string, limit int64) ([]byte, error) {
	data, err := infile.ReadFS(dir, name, limit)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	return data, nil
}

// files are the contents of a folder's tokenizer files; nil where there is none.
type files struct {
	json, tekken, vocab, vocabJSON, merges []byte // vocab: tokenizer.model
	config, special, added                 []byte
	generation, model                      []byte
	templates, older                       templates // of .jinja files, of chat_template.json
	specials                               []string  // names of special tokens for a tiktoken file
}

func fromFiles(f *files) (*Tokenizer, error) {
	cfg, err := parseConfig(f)
	if err != nil {
		return nil, err
	}
	var t *Tokenizer
	switch {
	case f.json != nil:
		t, err = parseJSON(f.json, cfg)
	case f.tekken != nil:
		t, err = parseTekken(f.tekken, cfg)
	case f.vocab != nil && looksLikeTiktoken(f.vocab):
		t, err = parseTiktoken(f.vocab, cfg, f.specials)
	case f.vocabJSON != nil:
		t, err = parseVocabMerges(f.vocabJSON, f.merges, cfg)
	default:
		t, err = parseSentencePiece(f.vocab, cfg)
	}
	if err != nil {
		return nil, err
	}
	if err := t.configure(cfg, f); err != nil {
		return nil, err
	}
	return t, nil
}

// config is the part of tokenizer_config.json that matters here, with the older files beside it.
type config struct {
	class       string // tokenizer_class
	model       string // model_type of config.json
	tokens      map[string]*AddedToken
	names       []string        // the keys of tokens, in order
	extra       []AddedToken    // special tokens without a role
	added       []AddedToken    // tokens under their ids
	addBOS      *bool           // add_bos_token
	addEOS      *bool           // add_eos_token
	prefixSpace *bool           // add_prefix_space
	legacy      *bool           // legacy
	template    json.RawMessage // chat_template
}

// parseConfig reads tokenizer_config.json. Where it does not list the added tokens under their ids,
// special_tokens_map.json goes before it and added_tokens.json has the ids: so transformers reads
// folders of before 2023.
func parseConfig(f *files) (*config, error) {
	c := &config{tokens: map[string]*AddedToken{}}
	var keys map[string]json.RawMessage
	if f.config != nil {
		if err := json.Unmarshal(f.config, &keys); err != nil {
			return nil, bad("tokenizer_config.json: %w", err)
		}
	}
	for key, dst := range map[string]any{
		"tokenizer_class": &c.class, "add_bos_token": &c.addBOS, "add_eos_token": &c.addEOS,
		"add_prefix_space": &c.prefixSpace, "legacy": &c.legacy,
	} {
		if r, ok := keys[key]; ok {
			if err := json.Unmarshal(r, dst); err != nil {
				return nil, bad("tokenizer_config.json: %s: %w", key, err)
			}
		}
	}
	c.template = keys["chat_template"]
	if f.model != nil {
		var m struct {
			Type string `json:"model_type"`
		}
		if err := json.Unmarshal(f.model, &m); err != nil {
			return nil, bad("config.json: %w", err)
		}
		c.model = m.Type
	}
	if err := c.takeTokens(keys, "tokenizer_config.json"); err != nil {
		return nil, err
	}
	if r, ok := keys["added_tokens_decoder"]; ok && !isNull(r) {
		return c, c.takeDecoder(r)
	}
	if f.special != nil {
		keys = nil
		if err := json.Unmarshal(f.special, &keys); err != nil {
			return nil, bad("special_tokens_map.json: %w", err)
		}
		if err := c.takeTokens(keys, "special_tokens_map.json"); err != nil {
			return nil, err
		}
	}
	if f.added != nil {
		const what = "added_tokens.json"
		if err := json.Unmarshal(f.added, new(skipJSON)); err != nil {
			return nil, bad("%s: %w", what, err)
		}
		special := map[string]bool{}
		for _, t := range c.tokens {
			if t != nil {
				special[t.Content] = true
			}
		}
		for _, t := range c.extra {
			special[t.Content] = true
		}
		j := &jsonScan{s: string(f.added)}
		if !j.open('{') {
			return nil, bad("%s is not an object of tokens and ids", what)
		}
		for !j.done() {
			name, _ := j.string()
			id, ok := j.int32()
			if name == "" || !ok {
				return nil, bad("%s: %s is no token, or has no id", what, shorten(name))
			}
			s := special[name]
			c.added = append(c.added, AddedToken{ID: id, Content: name, Special: s, Normalized: !s})
			if err := checkExtra(len(c.added), what); err != nil {
				return nil, err
			}
		}
		slices.SortStableFunc(c.added, func(a, b AddedToken) int { return int(a.ID - b.ID) })
	}
	return c, nil
}

// takeTokens reads the special tokens that keys give a role, and those that they list without one.
func (c *config) takeTokens(keys map[string]json.RawMessage, file string) error {
	for _, key := range sortedKeys(keys) {
		r := keys[key]
		switch {
		case strings.HasSuffix(key, "_token"):
			a, ok, err := readToken(r)
			if err != nil {
				return bad("%s: %s: %w", file, key, err)
			}
			if ok {
				c.tokens[key] = a
			}
		case key == "extra_special_tokens" || key == "additional_special_tokens" && file != "special_tokens_map.json":
			// transformers 5 has no use for additional_special_tokens of special_tokens_map.json: such tokens
			// are special only if another file says so.
			j := &jsonScan{s: string(r)}
			named := j.open('{')
			if !named && !j.open('[') {
				if isNull(r) {
					continue
				}
				return bad("%s: %s is neither a list of tokens nor an object of them", file, key)
			}
			for !j.done() {
				if named {
					j.skip()
				}
				a, _, err := readToken(json.RawMessage(j.skip()))
				if err != nil {
					return bad("%s: %s: %w", file, key, err)
				}
				if a != nil && a.Content != "" {
					c.extra = append(c.extra, *a)
				}
				if err := checkExtra(len(c.extra), file+": "+key); err != nil {
					return err
				}
			}
		}
	}
	c.names = sortedKeys(c.tokens)
	return nil
}

// maxExtra bounds the special tokens without a role; the lists of published models that generate sounds
// have 66,000 tokens.
const maxExtra = 1 << 18

func checkExtra(n int, what string) error {
	if n > maxExtra {
		return unsupported("%s: more than %d tokens", what, maxExtra)
	}
	return nil
}

// readToken reads a special token, written as a string or as an object. null is no token, which is
// said, so that no other holds; ok is false for what is no token's name at all, as a flag is.
func readToken(r json.RawMessage) (a *AddedToken, ok bool, err error) {
	switch {
	case isNull(r):
		return nil, true, nil
	case r[0] == '"':
		var s string
		err = json.Unmarshal(r, &s)
		return &AddedToken{Content: s, Special: true}, true, err
	case r[0] == '{':
		var o jsonAdded
		err = json.Unmarshal(r, &o)
		t := o.token()
		t.Special = true
		return &t, true, err
	case string(r) == "true" || string(r) == "false":
		return nil, false, nil
	}
	return nil, false, fmt.Errorf("%s is not a token", shorten(string(r)))
}

// takeDecoder reads added_tokens_decoder: tokens under their ids.
func (c *config) takeDecoder(r json.RawMessage) error {
	const what = "tokenizer_config.json: added_tokens_decoder"
	j := &jsonScan{s: string(r)}
	if !j.open('{') {
		return bad("%s is not an object of ids and tokens", what)
	}
	for !j.done() {
		key, _ := j.string()
		id, err := strconv.ParseInt(key, 10, 32)
		if err != nil {
			return bad("%s: %s is not an id", what, shorten(key))
		}
		var a jsonAdded
		if err := json.Unmarshal([]byte(j.skip()), &a); err != nil {
			return bad("%s: %s: %w", what, key, err)
		}
		if a.Content == "" {
			return bad("%s: token %d is empty", what, id)
		}
		a.ID = int32(id)
		c.added = append(c.added, a.token())
		if err := checkExtra(len(c.added), what); err != nil {
			return err
		}
	}
	slices.SortStableFunc(c.added, func(a, b AddedToken) int { return int(a.ID - b.ID) })
	return nil
}

// skipJSON is any JSON value, which is checked and not kept.
type skipJSON struct{}

func (*skipJSON) UnmarshalJSON([]byte) error { return nil }

// classTokens are the special tokens that transformers' tokenizer classes have unless the files say
// otherwise.
var classTokens = map[string]map[string]string{
	"GPT2Tokenizer":    {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
	"Qwen2Tokenizer":   {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
	"Qwen3_5Tokenizer": {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>", "unk_token": "<|endoftext|>"},
	"LlamaTokenizer":   {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"},
	"GemmaTokenizer":   {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"},
}

// className is the tokenizer class without the suffix of the fast ones.
func (c *config) className() string { return strings.TrimSuffix(c.class, "Fast") }

// role returns the name of the token in a role, "" when it is not filled.
func (c *config) role(key string) string {
	if a, ok := c.tokens[key]; ok {
		if a == nil {
			return ""
		}
		return a.Content
	}
	return classTokens[c.className()][key]
}

// addTokens enters the tokens of the configuration among the added ones. renames says that a token
// under the id of another takes its place, as in tokenizer.model.
func (p *parts) addTokens(c *config, renames bool) {
	want := slices.Clone(c.added)
	listed := len(want)
	for _, key := range c.names {
		if a := c.tokens[key]; a != nil && a.Content != "" {
			want = append(want, *a)
		}
	}
	want = append(want, c.extra...)
	for _, key := range sortedKeys(classTokens[c.className()]) {
		if _, said := c.tokens[key]; !said {
			want = append(want, AddedToken{Content: classTokens[c.className()][key], Special: true})
		}
	}
	if len(want) == 0 {
		return
	}
	type place struct{ token, added int32 } // in p.tokens and p.added, -1: not there
	places := make(map[string]place, len(want))
	for _, a := range want {
		places[a.Content] = place{-1, -1}
	}
	for i := range p.tokens {
		if at, ok := places[p.tokens[i].text]; ok {
			places[p.tokens[i].text] = place{int32(i), at.added}
		}
	}
	for i := range p.added {
		if at, ok := places[p.added[i].Content]; ok {
			places[p.added[i].Content] = place{at.token, int32(i)}
		}
	}
	for i, a := range want {
		at := places[a.Content]
		switch {
		case at.added >= 0:
			if i < listed {
				a.ID = p.added[at.added].ID
				p.added[at.added] = a
			}
			continue
		case at.token >= 0:
			a.ID = at.token
		case i >= listed: // no token of this vocabulary
			continue
		case renames && a.ID >= 0 && int(a.ID) < len(p.tokens):
			p.tokens[a.ID].text = a.Content
		}
		places[a.Content] = place{at.token, int32(len(p.added))}
		p.added = append(p.added, a)
	}
}

// idList is a token id or a list of them.
type idList []int32

func (l *idList) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '[' {
		return json.Unmarshal(b, (*[]int32)(l))
	}
	if bytes.Equal(b, []byte("null")) {
		return nil
	}
	var id int32
	if err := json.Unmarshal(b, &id); err != nil {
		return err
	}
	*l = idList{id}
	return nil
}

// configure sets what the files beside the vocabulary say: special tokens, ends of turn, chat
// templates, and whether BOS and EOS go around a text. For these tokenizer.json speaks itself;
// beside it the flags say nothing, as in transformers 5.
func (t *Tokenizer) configure(c *config, f *files) error {
	t.config, t.special = f.config, f.special
	var eos []int32
	if t.end >= 0 {
		eos = append(eos, t.end)
	}
	for key, dst := range map[string]*int32{"bos_token": &t.bos, "eos_token": &t.end, "unk_token": &t.unk, "pad_token": &t.pad} {
		if id, ok := t.ID(c.role(key)); ok {
			*dst = id
		}
	}
	for _, side := range []struct {
		name string
		data []byte
	}{{"generation_config.json", f.generation}, {"config.json", f.model}} {
		if side.data == nil {
			continue
		}
		var g struct {
			EOS idList `json:"eos_token_id"`
			BOS idList `json:"bos_token_id"`
			Pad idList `json:"pad_token_id"`
		}
		if err := json.Unmarshal(side.data, &g); err != nil {
			return bad("%s: %w", side.name, err)
		}
		for _, id := range g.EOS {
			if t.Token(id) != "" {
				eos = append(eos, id)
			}
		}
		first := func(dst *int32, ids idList) {
			if *dst < 0 && len(ids) > 0 && t.Token(ids[0]) != "" {
				*dst = ids[0]
			}
		}
		first(&t.bos, g.BOS)
		first(&t.pad, g.Pad)
	}
	if t.bos < 0 && len(t.before) > 0 {
		t.bos = t.before[0]
	}
	if t.end < 0 && len(eos) > 0 {
		t.end = eos[0]
	}
	t.setEOS(append(eos, t.end)...)
	if f.json == nil {
		around := func(dst *[]int32, flag *bool, id int32) {
			if flag != nil {
				*dst = nil
				if *flag && id >= 0 {
					*dst = []int32{id}
				}
			}
		}
		around(&t.before, c.addBOS, t.bos)
		around(&t.after, c.addEOS, t.end)
	}
	list, err := readTemplateList(c.template)
	if err != nil {
		return bad("tokenizer_config.json: %w", err)
	}
	for i, from := range []templates{f.templates, list, f.older} {
		if from = from.used(); len(from) > 0 {
			if t.templates = from; i != 1 { // they are not in tokenizer_config.json
				t.files = from
			}
			break
		}
	}
	return nil
}

// templates are a model's chat templates by name; "default" is the one that is used without
// tools, and with tools when there is no "tool_use".
type templates map[string]string

// readTemplateList reads a chat template, or a list or an object of named ones.
func readTemplateList(r json.RawMessage) (templates, error) {
	if isNull(r) {
		return nil, nil
	}
	list := templates{}
	var one string
	var many []struct{ Name, Template string }
	switch {
	case json.Unmarshal(r, &one) == nil:
		list["default"] = one
	case json.Unmarshal(r, &many) == nil:
		for _, m := range many {
			list[m.Name] = m.Template
		}
	case json.Unmarshal(r, &list) == nil:
	default:
		return nil, errors.New("chat_template is neither a string nor a list of named templates")
	}
	if len(list) > maxTemplates {
		return nil, fmt.Errorf("more than %d chat templates", maxTemplates)
	}
	return list, nil
}

// used are the templates that are not blank.
func (t templates) used() templates {
	list := templates{}
	for name, s := range t {
		if strings.TrimSpace(s) != "" {
			list[name] = s
		}
	}
	return list
}
