package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/eval"
	"github.com/tritlm/trit/internal/term"
)

// evaluation is what eval --json prints.
type evaluation struct {
	Model      string           `json:"model"`
	Perplexity *eval.Perplexity `json:"text,omitempty"`
	Choices    *eval.Choices    `json:"choices,omitempty"`
}

type evalFlags struct {
	text, choices, samples string
	stride, limit          int
	o                      eval.ChoiceOptions
}

func newEvalCmd() *cobra.Command {
	var f modelFlags
	var e evalFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "eval MODEL (--text FILE | --choices FILE)",
		Short: "Score a model: perplexity of a text, multiple choice by log-likelihood",
		Long: `--text FILE measures how well the model predicts a text: perplexity of a token, of a word and of a byte, and bits
per byte, which compares models of different vocabularies. The text is cut into windows of --context tokens. With
--stride N every window but the first scores its last N tokens only and has the others for context; without it,
windows stand side by side.

--choices FILE asks for the likeliest choice of each question, a JSON object a line:

  {"context": "The capital of France is", "choices": ["Rome", "Paris"], "gold": 1}

"query" is another name for "context", and gold is the index of the right choice, or the choice itself. acc takes
the choice with the highest log-likelihood, acc_norm the highest per character, acc_bytes the highest per byte.

Both are what lm-evaluation-harness computes through its local-completions and trit serve, to the last bit of every
log-likelihood (eval/lmeval).

Exit codes: 0 done, 1 the model or a file is wrong (a bad line is named), 2 wrong usage, 130 interrupted.`,
		Example: `  trit eval ./model --text wiki.test.txt
  trit eval ./model --text wiki.test.txt --context 2048 --stride 512 --json
  trit eval microsoft/bitnet-b1.58-2B-4T --choices questions.jsonl --samples scores.jsonl
  trit eval ./model --choices questions.jsonl --limit 100 --bos`,
		Args: exactArgs("MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case e.text == "" && e.choices == "":
				return usagef("nothing to score: give --text FILE or --choices FILE; usage: %s", cmd.UseLine())
			case e.stride < 0 || e.limit < 0:
				return usagef("--stride and --limit cannot be negative")
			case e.text == "" && cmd.Flags().Changed("stride"):
				return usagef("--stride belongs to --text")
			}
			for _, name := range []string{"samples", "limit", "delimiter", "bos"} {
				if e.choices == "" && cmd.Flags().Changed(name) {
					return usagef("--%s belongs to --choices", name)
				}
			}
			// What is wrong with the files is said before a model is loaded.
			var content string
			var questions []eval.Question
			var err error
			if e.text != "" {
				if content, err = readPrompt(cmd, nil, e.text); err != nil {
					return fmt.Errorf("%s: %w", e.text, err)
				}
			}
			if e.choices != "" {
				if questions, err = eval.ReadQuestions(cmd.Context(), e.choices); err != nil {
					return err
				}
				if e.limit > 0 {
					questions = questions[:min(e.limit, len(questions))]
				}
			}
			m, err := f.open(cmd, args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			out := evaluation{Model: m.Path()}
			if e.text != "" {
				p := progress(cmd, "text", false)
				out.Perplexity, err = eval.MeasurePerplexity(cmd.Context(), m.Engine(), m.Tokenizer(), content,
					eval.PerplexityOptions{Window: m.MaxContext(), Stride: e.stride, Step: p.Set})
				p.Done()
				if err != nil {
					return fmt.Errorf("%s: %w", e.text, err)
				}
			}
			if e.choices != "" {
				if out.Choices, err = e.answer(cmd, m, questions); err != nil {
					return err
				}
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), out)
			}
			return out.print(cmd.OutOrStdout())
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.StringVar(&e.text, "text", "", "text whose perplexity to measure; - is standard input")
	fl.IntVar(&e.stride, "stride", 0, "tokens that a window scores; the rest of it is context (default all)")
	fl.StringVar(&e.choices, "choices", "", "questions with choices, JSONL")
	fl.StringVar(&e.samples, "samples", "", "file to write the log-likelihoods of every question to, JSONL")
	fl.IntVar(&e.limit, "limit", 0, "answer only so many questions, the first ones; 0: all")
	fl.StringVar(&e.o.Delimiter, "delimiter", " ", "what stands between a context and a choice")
	fl.BoolVar(&e.o.BOS, "bos", false, "put the begin-of-text token in front of every context")
	fl.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

func (e *evalFlags) answer(cmd *cobra.Command, m *trit.Model, questions []eval.Question) (*eval.Choices, error) {
	var file *os.File
	if e.samples != "" { // found out now that it cannot be written
		var err error
		if file, err = os.Create(e.samples); err != nil {
			return nil, err
		}
		defer file.Close()
	}
	p := progress(cmd, "choices", false)
	defer p.Done()
	e.o.Window, e.o.Name, e.o.Step = m.MaxContext(), e.choices, p.Set
	c, err := eval.AnswerQuestions(cmd.Context(), m.Engine(), m.Tokenizer(), questions, e.o)
	if err != nil || file == nil {
		return c, err
	}
	w := bufio.NewWriter(file)
	enc := json.NewEncoder(w)
	for _, a := range c.Answers {
		if err := enc.Encode(a); err != nil {
			return nil, fmt.Errorf("%s: %w", e.samples, err)
		}
	}
	return c, errors.Join(w.Flush(), file.Close())
}

func (e *evaluation) print(w io.Writer) error {
	rows := [][2]string{{"model", e.Model}}
	if p := e.Perplexity; p != nil {
		rows = append(rows,
			[2]string{"text", fmt.Sprintf("%d tokens, %d words, %d bytes; windows of %d, stride %d", p.Tokens, p.Words, p.Bytes, p.Window, p.Stride)},
			[2]string{"log-likelihood", fmt.Sprintf("%.4f", p.LogLikelihood)},
			[2]string{"perplexity", fmt.Sprintf("%.4f of a token, %s of a word, %.4f of a byte", p.Perplexity, large(p.WordPerplexity), p.BytePerplexity)},
			[2]string{"bits per byte", fmt.Sprintf("%.4f", p.BitsPerByte)})
	}
	if c := e.Choices; c != nil {
		rows = append(rows, [2]string{"questions", fmt.Sprint(c.Questions)})
		for _, x := range []struct {
			name string
			a    eval.Accuracy
		}{{"acc", c.Acc}, {"acc_norm", c.AccNorm}, {"acc_bytes", c.AccBytes}} {
			rows = append(rows, [2]string{x.name, fmt.Sprintf("%.4f ± %.4f", x.a.Value, x.a.Stderr)})
		}
	}
	return term.Pairs(w, rows)
}

// large writes a number that may be of any size.
func large(x float64) string {
	if math.Abs(x) < 1e6 {
		return fmt.Sprintf("%.4f", x)
	}
	return fmt.Sprintf("%.4g", x)
}
