package server

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// request is what every protocol's request is translated into. One of chat and prompts says what is read.
type request struct {
	options
	chat    *conversation
	prompts prompts
	special *bool   // with prompts: put the model's first tokens in front; nil: yes
	suffix  *string // with prompts: what follows the gap that is to be filled
	echo    bool    // with prompts: the prompt is part of the answer

	best     int // texts per prompt that are written, of which n are kept; 0: n
	logprobs int // the k likeliest of every token, −1 for none
}

// options are the fields that say how to write, in the words of OpenAI's protocol and of its extensions by vLLM and
// llama.cpp. Pointers tell "not given" from zero.
type options struct {
	Model             string             `json:"model"`
	MaxTokens         *int               `json:"max_tokens"` // −1: as many as fit
	MinTokens         int                `json:"min_tokens"`
	Temperature       *float32           `json:"temperature"`
	TopP              *float32           `json:"top_p"`
	TopK              int                `json:"top_k"`
	MinP              float32            `json:"min_p"`
	N                 *int               `json:"n"`
	Stop              oneOrMore          `json:"stop"`
	StopTokenIDs      []int32            `json:"stop_token_ids"`
	IgnoreEOS         bool               `json:"ignore_eos"`
	PresencePenalty   float32            `json:"presence_penalty"`
	FrequencyPenalty  float32            `json:"frequency_penalty"`
	RepetitionPenalty float32            `json:"repetition_penalty"`
	RepeatPenalty     float32            `json:"repeat_penalty"` // llama.cpp's name for it
	RepeatLastN       int                `json:"repeat_last_n"`
	LogitBias         logitBias          `json:"logit_bias"`
	AllowedTokenIDs   []int32            `json:"allowed_token_ids"`
	BadWords          []string           `json:"bad_words"`
	Seed              *int64             `json:"seed"`
	SkipSpecial       *bool              `json:"skip_special_tokens"`
	ResponseFormat    *responseFormat    `json:"response_format"`
	Grammar           string             `json:"grammar"`        // GBNF
	JSONSchema        json.RawMessage    `json:"json_schema"`    // llama.cpp
	GuidedJSON        json.RawMessage    `json:"guided_json"`    // vLLM
	GuidedRegex       string             `json:"guided_regex"`   // vLLM
	GuidedChoice      []string           `json:"guided_choice"`  // vLLM
	GuidedGrammar     string             `json:"guided_grammar"` // vLLM
	Structured        *structuredOutputs `json:"structured_outputs"`
}

// structuredOutputs is how vLLM has had guided_* since 0.11.
type structuredOutputs struct {
	JSON       json.RawMessage `json:"json"`
	Regex      string          `json:"regex"`
	Choice     []string        `json:"choice"`
	Grammar    string          `json:"grammar"`
	JSONObject bool            `json:"json_object"`
	Tag        json.RawMessage `json:"structural_tag"`
}

type responseFormat struct {
	Type       string `json:"type"`
	JSONSchema *struct {
		Name   string          `json:"name"`
		Schema json.RawMessage `json:"schema"`
		Strict *bool           `json:"strict"`
	} `json:"json_schema"`
	Schema  json.RawMessage `json:"schema"`  // of types json_object and json_schema, as llama.cpp has it
	Pattern string          `json:"pattern"` // of type "regex"
	Grammar string          `json:"grammar"` // of type "grammar"
}

// oneOrMore is a string or a list of strings.
type oneOrMore []string

func (s *oneOrMore) UnmarshalJSON(b []byte) error {
	if string(b) == "null" {
		return nil
	}
	var one string
	if json.Unmarshal(b, &one) == nil {
		*s = oneOrMore{one}
		return nil
	}
	var many []string
	if json.Unmarshal(b, &many) != nil {
		return invalid("", "expected a string or a list of strings, found %s", clip(string(b), 40))
	}
	*s = many
	return nil
}

// logitBias is an object of token numbers, or llama.cpp's list of pairs, in which false forbids a token.
type logitBias map[string]float32

func (l *logitBias) UnmarshalJSON(b []byte) error {
	var object map[string]float32
	if err := json.Unmarshal(b, &object); err == nil {
		*l = object
		return nil
	}
	var pairs [][2]json.RawMessage
	if json.Unmarshal(b, &pairs) != nil {
		return invalid("logit_bias", "logit_bias is an object of token numbers and numbers, or a list of such pairs")
	}
	*l = logitBias{}
	for _, p := range pairs {
		var bias float32
		if string(p[1]) == "false" {
			bias = -100
		} else if json.Unmarshal(p[1], &bias) != nil {
			return invalid("logit_bias", "the bias of %s is neither a number nor false", clip(string(p[0]), 40))
		}
		(*l)[string(p[0])] = bias
	}
	return nil
}

// prompts is a string, a list of strings, a list of tokens or a list of lists of tokens.
type prompts struct {
	texts  []string
	tokens [][]int32
}

func (p *prompts) UnmarshalJSON(b []byte) error {
	var err error
	b = bytes.TrimLeft(b, " \t\r\n")
	switch rest := bytes.TrimLeft(bytes.TrimPrefix(b, []byte("[")), " \t\r\n"); {
	case len(b) > 0 && b[0] == '"':
		p.texts = make([]string, 1)
		err = json.Unmarshal(b, &p.texts[0])
	case len(b) > 0 && b[0] != '[', len(rest) == 0:
		err = fmt.Errorf("neither text nor tokens")
	case rest[0] == '"':
		err = json.Unmarshal(b, &p.texts)
	case rest[0] == '[':
		err = json.Unmarshal(b, &p.tokens)
	default:
		p.tokens = make([][]int32, 1)
		err = json.Unmarshal(b, &p.tokens[0])
	}
	if err != nil {
		return invalid("prompt", "expected a string, a list of strings, a list of token numbers or a list of such lists, found %s", clip(string(b), 40))
	}
	return nil
}

func (p *prompts) len() int { return len(p.texts) + len(p.tokens) }

// n is how many texts the request wants of each prompt.
func (o *options) n() int {
	if o.N == nil {
		return 1
	}
	return *o.N
}
