package tokenizer

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/tritlm/trit/internal/infile"
)

// Load reads the tokenizer of a Hugging Face model folder: tokenizer.json, or else
// tokenizer.model (SentencePiece or tiktoken); with tokenizer_config.json,
// special_tokens_map.json, generation_config.json, config.json and chat_template.jinja where they
// exist. A path to one of these files means its folder.
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
	for _, part := range []struct {
		name string
		dst  *[]byte
	}{
		{"tokenizer.json", &f.json},
		{"tokenizer_config.json", &f.config},
		{"special_tokens_map.json", &f.special},
		{"added_tokens.json", &f.added},
		{"generation_config.json", &f.generation},
		{"config.json", &f.model},
		{"chat_template.jinja", &f.template},
	} {
		data, err := infile.ReadFS(dir, part.name, infile.Text)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("tokenizer: %w", err)
		}
		*part.dst = data
	}
	if f.json == nil {
		data, err := infile.ReadFS(dir, "tokenizer.model", infile.Text)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errors.New("tokenizer: no tokenizer.json and no tokenizer.model in this folder")
		} else if err != nil {
			return nil, fmt.Errorf("tokenizer: %w", err)
		}
		f.vocab = data
	}
	return fromFiles(f)
}

// files are the contents of a folder's tokenizer files; nil where there is none.
type files struct {
	json, vocab                 []byte // tokenizer.json; tokenizer.model
	config, special, added      []byte
	generation, model, template []byte
	specials                    []string // names of special tokens for a tiktoken file
}

func fromFiles(f *files) (*Tokenizer, error) {
	cfg, err := parseConfig(f.config)
	if err != nil {
		return nil, err
	}
	var t *Tokenizer
	switch {
	case f.json != nil:
		t, err = parseJSON(f.json)
	case looksLikeTiktoken(f.vocab):
		t, err = parseTiktoken(f.vocab, cfg, f.specials)
	default:
		t, err = parseSentencePiece(f.vocab, cfg, f.added)
	}
	if err != nil {
		return nil, err
	}
	if err := t.configure(cfg, f); err != nil {
		return nil, err
	}
	return t, nil
}

// config is the part of tokenizer_config.json that matters here.
type config struct {
	Class        string          `json:"tokenizer_class"`
	BOS          tokenName       `json:"bos_token"`
	EOS          tokenName       `json:"eos_token"`
	Unk          tokenName       `json:"unk_token"`
	Pad          tokenName       `json:"pad_token"`
	AddBOS       *bool           `json:"add_bos_token"`
	AddEOS       *bool           `json:"add_eos_token"`
	PrefixSpace  *bool           `json:"add_prefix_space"`
	Legacy       *bool           `json:"legacy"`
	Template     json.RawMessage `json:"chat_template"`
	AddedDecoder map[string]struct {
		jsonAdded
	} `json:"added_tokens_decoder"`
}

// addedDecoder lists added_tokens_decoder: tokens under their ids.
func (c *config) addedDecoder() (list []AddedToken, err error) {
	for key, a := range c.AddedDecoder {
		id, err := strconv.ParseInt(key, 10, 32)
		if err != nil || a.Content == "" {
			return nil, bad("tokenizer_config.json: added_tokens_decoder: %s is not the id of a token", shorten(key))
		}
		a.ID = int32(id)
		list = append(list, a.token())
	}
	slices.SortFunc(list, func(a, b AddedToken) int { return int(a.ID - b.ID) })
	return list, nil
}

// tokenName is a token's text, written as a string or as an object with its content.
type tokenName string

func (n *tokenName) UnmarshalJSON(b []byte) error {
	switch {
	case len(b) > 0 && b[0] == '{':
		var o struct {
			Content string `json:"content"`
		}
		if err := json.Unmarshal(b, &o); err != nil {
			return err
		}
		*n = tokenName(o.Content)
		return nil
	case string(b) == "null" || string(b) == "false" || string(b) == "true":
		return nil
	}
	return json.Unmarshal(b, (*string)(n))
}

func parseConfig(data []byte) (*config, error) {
	c := new(config)
	if data == nil {
		return c, nil
	}
	if err := json.Unmarshal(data, c); err != nil {
		return nil, bad("tokenizer_config.json: %w", err)
	}
	return c, nil
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
// templates, and whether the class of tokenizer adds BOS and EOS.
func (t *Tokenizer) configure(c *config, f *files) error {
	t.config, t.jinja = f.config, f.template
	var m config
	if f.special != nil {
		if err := json.Unmarshal(f.special, &m); err != nil {
			return bad("special_tokens_map.json: %w", err)
		}
	}
	pick := func(names ...tokenName) int32 {
		for _, n := range names {
			if id, ok := t.ID(string(n)); ok {
				return id
			}
		}
		return -1
	}
	var eos []int32
	if t.end >= 0 {
		eos = append(eos, t.end)
	}
	set := func(dst *int32, names ...tokenName) {
		if id := pick(names...); id >= 0 {
			*dst = id
		}
	}
	set(&t.bos, c.BOS, m.BOS)
	set(&t.end, c.EOS, m.EOS)
	set(&t.unk, c.Unk, m.Unk)
	set(&t.pad, c.Pad, m.Pad)
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

	// transformers' Llama and Gemma classes put BOS and EOS around a text by these two flags,
	// whatever the post-processor says; the other classes have them only without one.
	fixed := slices.Contains([]string{
		"LlamaTokenizer", "LlamaTokenizerFast", "CodeLlamaTokenizer",
		"CodeLlamaTokenizerFast", "GemmaTokenizer", "GemmaTokenizerFast",
	}, c.Class)
	if fixed || len(t.before)+len(t.after) == 0 {
		addBOS := c.AddBOS != nil && *c.AddBOS || c.AddBOS == nil && fixed
		addEOS := c.AddEOS != nil && *c.AddEOS
		t.before, t.after = nil, nil
		if addBOS && t.bos >= 0 {
			t.before = []int32{t.bos}
		}
		if addEOS && t.end >= 0 {
			t.after = []int32{t.end}
		}
	}
	return t.templates.set(c.Template, f.template)
}

// templates are a model's chat templates by name; "default" is the one that is used without
// tools, and with tools when there is no "tool_use".
type templates map[string]string

// set takes templates from tokenizer_config.json (a string, or a list of named ones) and from
// chat_template.jinja, which wins.
func (t *templates) set(config json.RawMessage, file []byte) error {
	list := templates{}
	if !isNull(config) {
		var one string
		var many []struct{ Name, Template string }
		switch {
		case json.Unmarshal(config, &one) == nil:
			list["default"] = one
		case json.Unmarshal(config, &many) == nil:
			for _, m := range many {
				list[m.Name] = m.Template
			}
		default:
			return bad("tokenizer_config.json: chat_template is neither a string nor a list of named templates")
		}
	}
	if file != nil {
		list["default"] = string(file)
	}
	for name, s := range list {
		if strings.TrimSpace(s) == "" {
			delete(list, name)
		}
	}
	if len(list) > 0 {
		*t = list
	}
	return nil
}
