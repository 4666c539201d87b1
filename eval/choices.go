package eval

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/tritlm/trit/internal/infile"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/tokenizer"
)

// Question is a context and the continuations that a model chooses among.
type Question struct {
	Line    int // of the file
	Context string
	Choices []string
	Gold    int // the right one
}

// maxLine bounds a line of a file of questions.
const maxLine = 16 << 20

// maxQuestions bounds the file.
const maxQuestions = 1 << 30

// ReadQuestions reads a JSONL file, a question a line; empty lines are skipped:
//
//	{"context": "The capital of France is", "choices": ["Rome", "Paris"], "gold": 1}
//
// "query" is another name for "context"; "gold" is an index or one of the choices. Other fields are ignored. Errors
// name the file and the line.
func ReadQuestions(ctx context.Context, path string) ([]Question, error) {
	text, err := infile.ReadText(ctx, path, maxQuestions)
	if err != nil {
		return nil, err
	}
	return parseQuestions(text, path)
}

func parseQuestions(file []byte, path string) ([]Question, error) {
	var list []Question
	r := bufio.NewReaderSize(bytes.NewReader(file), 1<<16)
	for line := 1; ; line++ {
		text, err := readLine(r)
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("%s:%d: %w", path, line, err)
		}
		if len(bytes.TrimSpace(text)) > 0 {
			q, bad := parseQuestion(text)
			if bad != nil {
				return nil, fmt.Errorf("%s:%d: %w", path, line, bad)
			}
			q.Line = line
			list = append(list, q)
		}
		if err == io.EOF {
			break
		}
	}
	if len(list) == 0 {
		return nil, fmt.Errorf("%s: there is no question in it", path)
	}
	return list, nil
}

// readLine reads to the end of a line.
func readLine(r *bufio.Reader) (line []byte, err error) {
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if err != bufio.ErrBufferFull {
			return line, err
		}
		if len(line) > maxLine {
			return nil, fmt.Errorf("the line is longer than %d MiB", maxLine>>20)
		}
	}
}

func parseQuestion(line []byte) (Question, error) {
	var v struct {
		Context *string
		Query   *string
		Choices []string
		Gold    json.RawMessage
	}
	q := Question{}
	if !utf8.Valid(line) {
		return q, errors.New("not valid UTF-8")
	}
	if err := json.Unmarshal(line, &v); err != nil {
		return q, fmt.Errorf("not a question in JSON: %w", err)
	}
	switch {
	case v.Context != nil && v.Query != nil:
		return q, errors.New(`"context" and "query" are two names of one field: give one of them`)
	case v.Context != nil:
		q.Context = *v.Context
	case v.Query != nil:
		q.Context = *v.Query
	default:
		return q, errors.New(`"context" is missing`)
	}
	if len(v.Choices) == 0 {
		return q, errors.New(`"choices" is missing or empty`)
	}
	for i, c := range v.Choices {
		if c == "" {
			return q, fmt.Errorf(`"choices": the one at %d is empty`, i)
		}
	}
	q.Choices = v.Choices
	var name string
	switch {
	case len(v.Gold) == 0 || string(v.Gold) == "null":
		return q, errors.New(`"gold" is missing`)
	case json.Unmarshal(v.Gold, &name) == nil:
		if q.Gold = slices.Index(v.Choices, name); q.Gold < 0 {
			return q, fmt.Errorf(`"gold": %q is not one of the choices`, name)
		}
	case json.Unmarshal(v.Gold, &q.Gold) != nil:
		return q, fmt.Errorf(`"gold" is %s; it is a choice's index, or the choice`, v.Gold)
	case q.Gold < 0 || q.Gold >= len(v.Choices):
		return q, fmt.Errorf(`"gold" is %d, and there are %d choices, counted from 0`, q.Gold, len(v.Choices))
	}
	return q, nil
}

// ChoiceOptions for AnswerQuestions.
type ChoiceOptions struct {
	// Window is how many tokens a prediction may look back at, 0 for the model's context. What is longer loses its
	// beginning.
	Window int
	// Delimiter stands between context and choice; lm-evaluation-harness calls it target_delimiter, and its default
	// there is a space.
	Delimiter string
	BOS       bool                    // put the begin-of-text token in front of every context
	Name      string                  // of the file, for errors
	Step      func(done, total int64) // tokens
}

// Answer is what a model makes of a question. Pred is the likeliest choice, PredNorm the likeliest per character and
// PredBytes per byte of UTF-8; equal ones, the first.
type Answer struct {
	Line           int       `json:"line"`
	LogLikelihoods []float64 `json:"log_likelihoods"` // natural logarithm, of each choice behind the context
	Tokens         []int     `json:"tokens"`          // of each choice
	Gold           int       `json:"gold"`
	Pred           int       `json:"pred"`
	PredNorm       int       `json:"pred_norm"`
	PredBytes      int       `json:"pred_bytes"`
}

// Accuracy is a share of right answers and its standard error, √(p(1-p)/(n-1)).
type Accuracy struct {
	Value  float64 `json:"value"`
	Stderr float64 `json:"stderr"`
}

// Choices are the answers to all questions. The three accuracies are those of lm-evaluation-harness 0.4 under the
// same names (lm_eval/api/task.py, multiple_choice): acc compares log-likelihoods, acc_norm divides them by the
// characters of the choice, acc_bytes by its bytes of UTF-8; the delimiter does not count.
type Choices struct {
	Questions int      `json:"questions"`
	Acc       Accuracy `json:"acc"`
	AccNorm   Accuracy `json:"acc_norm"`
	AccBytes  Accuracy `json:"acc_bytes"`
	Answers   []Answer `json:"-"`
}

// asked is a question in tokens.
type asked struct {
	choices [][]int32 // context and choice
	from    []int     // where the choice begins, at least 1
	shared  int       // tokens at the beginning that all choices share and none scores
}

// AnswerQuestions scores every choice of every question behind its context. What questions and choices share at
// their beginning is computed once.
//
// Contexts and choices become tokens as lm-evaluation-harness makes them (lm_eval/api/model.py, _encode_pair): white
// space at the end of a context belongs to the choice, both are encoded together without special tokens, and what
// follows the tokens that the context has alone is the choice. An empty context is the begin-of-text token, or
// end-of-text.
func AnswerQuestions(ctx context.Context, e model.Engine, t *tokenizer.Tokenizer, questions []Question, o ChoiceOptions) (*Choices, error) {
	most := e.Config().MaxContext
	if o.Window == 0 {
		o.Window = most
	}
	if o.Window < 1 || o.Window > most {
		return nil, fmt.Errorf("eval: a window of %d tokens; the model's context is %d", o.Window, most)
	}
	if len(questions) == 0 {
		return nil, errors.New("eval: no questions")
	}
	list := make([]asked, len(questions))
	for i := range questions {
		if err := list[i].encode(t, &questions[i], &o); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", o.Name, questions[i].Line, err)
		}
	}
	head := list[0].choices[0][:list[0].shared]
	longest := 1
	for i := range list {
		head = head[:min(common(head, list[i].choices[0]), list[i].shared)]
		for _, c := range list[i].choices {
			longest = max(longest, len(c)-1)
		}
	}
	s := newScorer(ctx, e, o.Step)
	s.total = int64(len(head))
	for i := range list {
		s.total += int64(list[i].cost() - len(head))
	}
	base := prefix(head)
	var err error
	if base.cache, err = e.NewCache(longest); err != nil {
		return nil, err
	}
	defer base.cache.Close()
	if err := s.run([]*text{base}); err != nil {
		return nil, err
	}
	out := &Choices{Questions: len(questions)}
	for at := 0; at < len(list); {
		n := group(len(list)-at, func(i int) int { return list[at+i].cost() - len(head) })
		if err := s.answer(out, base, list[at:at+n], questions[at:]); err != nil {
			return nil, err
		}
		at += n
	}
	right := func(pred func(a *Answer) int) Accuracy {
		n, k := float64(len(out.Answers)), 0.0
		for i := range out.Answers {
			if pred(&out.Answers[i]) == out.Answers[i].Gold {
				k++
			}
		}
		a := Accuracy{Value: k / n}
		if n > 1 {
			a.Stderr = math.Sqrt(a.Value * (1 - a.Value) / (n - 1))
		}
		return a
	}
	out.Acc = right(func(a *Answer) int { return a.Pred })
	out.AccNorm = right(func(a *Answer) int { return a.PredNorm })
	out.AccBytes = right(func(a *Answer) int { return a.PredBytes })
	return out, nil
}

// cost is how many tokens are computed, the shared ones once.
func (a *asked) cost() int {
	n := a.shared
	for _, c := range a.choices {
		n += len(c) - 1 - a.shared
	}
	return n
}

func (a *asked) encode(t *tokenizer.Tokenizer, q *Question, o *ChoiceOptions) error {
	for i, c := range q.Choices {
		tokens, from, err := encodePair(t, q.Context, o.Delimiter+c, o.BOS)
		if err != nil {
			return err
		}
		if over := len(tokens) - o.Window - 1; over > 0 {
			if from -= over; from < 1 {
				return fmt.Errorf("the choice at %d has %d tokens, and a window of %d has no room for it", i, len(tokens)-from-over, o.Window)
			}
			tokens = tokens[over:]
		}
		a.choices, a.from = append(a.choices, tokens), append(a.from, from)
		if i == 0 {
			a.shared = from - 1
		}
		a.shared = min(a.shared, common(a.choices[0], tokens), from-1, len(tokens)-1)
	}
	return nil
}

// encodePair makes tokens of a context and its continuation, which begins at from.
func encodePair(t *tokenizer.Tokenizer, context, continuation string, bos bool) (tokens []int32, from int, err error) {
	for _, s := range []string{context, continuation} {
		if err := t.Check(s); err != nil {
			return nil, 0, err
		}
	}
	encode := func(s string) []int32 { return t.Encode(s, tokenizer.EncodeOptions{ParseSpecial: true}) }
	bare := strings.TrimRightFunc(context, isSpace)
	tokens, from = encode(context+continuation), len(encode(bare))
	begin, ok := beginning(t)
	switch {
	case from == 0 && !ok:
		return nil, 0, errors.New(`the context is empty, and this model has no token to begin with`)
	case from == 0 && len(tokens) > 0 && tokens[0] == begin:
		from = 1
	case from == 0, bos && ok && tokens[0] != begin:
		tokens, from = append([]int32{begin}, tokens...), from+1
	}
	if from >= len(tokens) {
		return nil, 0, errors.New("the tokenizer merges context and choice so that nothing of the choice is left to score")
	}
	return tokens, from, nil
}

// isSpace is Python's str.isspace.
func isSpace(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

func common(a, b []int32) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}

// answer scores a group of questions: first what the choices of each share, then the choices.
func (s *scorer) answer(out *Choices, base *text, list []asked, questions []Question) error {
	var starts, choices []*text
	defer func() { closeAll(starts); closeAll(choices) }()
	fork := func(t, from *text, n int) (err error) {
		t.cache, err = from.cache.Fork(n)
		return err
	}
	for i := range list {
		t := prefix(list[i].choices[0][:list[i].shared])
		starts = append(starts, t)
		if err := fork(t, base, len(base.tokens)); err != nil {
			return err
		}
	}
	if err := s.run(starts); err != nil {
		return err
	}
	for i := range list {
		for k, c := range list[i].choices {
			t := scores(c, list[i].from[k])
			choices = append(choices, t)
			if err := fork(t, starts[i], list[i].shared); err != nil {
				return err
			}
		}
	}
	if err := s.run(choices); err != nil {
		return err
	}
	k := 0
	for i := range list {
		q := &questions[i]
		a := Answer{Line: q.Line, Gold: q.Gold}
		var norm, bytes []float64
		for _, c := range q.Choices {
			sum := choices[k].sum()
			a.LogLikelihoods = append(a.LogLikelihoods, sum)
			a.Tokens = append(a.Tokens, len(choices[k].logprobs))
			norm, bytes = append(norm, sum/float64(utf8.RuneCountInString(c))), append(bytes, sum/float64(len(c)))
			k++
		}
		a.Pred, a.PredNorm, a.PredBytes = largest(a.LogLikelihoods), largest(norm), largest(bytes)
		out.Answers = append(out.Answers, a)
	}
	return nil
}

// largest is the index of the first of the largest.
func largest(x []float64) int {
	best := 0
	for i, v := range x {
		if v > x[best] {
			best = i
		}
	}
	return best
}
