package main

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/internal/term"
)

func newRunCmd() *cobra.Command {
	var f modelFlags
	var g generateFlags
	var file, system string
	var chat, asJSON bool
	cmd := &cobra.Command{
		Use:   "run MODEL [PROMPT]",
		Short: "Write on from a prompt",
		Long: `Reads the prompt and writes on from it, as it comes, on standard output; speed on standard error.

The prompt is taken as it stands. With --chat it is a message to the model, in the model's own template.
It comes from the arguments, from --file, or from standard input.`,
		Example: `  trit run microsoft/bitnet-b1.58-2B-4T "The three laws of robotics are"
  trit run ./model --chat "Why is the sky blue?" --max-tokens 200
  trit run model.gguf --temperature 0.8 --top-p 0.95 --seed 7 "Once upon a time"
  git diff | trit run ./model --chat --system "Summarise this change in one line."`,
		Args: modelAndText,
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := g.options(cmd)
			if err != nil {
				return err
			}
			prompt, err := readPrompt(cmd, args[1:], file)
			if err != nil {
				return err
			}
			m, err := f.open(cmd, args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			if chat || system != "" {
				c := m.NewChat(trit.ChatOptions{System: system})
				return generate(cmd, m, o, asJSON, c, c.Send(cmd.Context(), prompt, o))
			}
			s := m.NewSession()
			return generate(cmd, m, o, asJSON, s, s.Generate(cmd.Context(), prompt, o))
		},
	}
	f.add(cmd)
	g.add(cmd, 256)
	fl := cmd.Flags()
	fl.StringVarP(&file, "file", "f", "", "read the prompt from this file; - is standard input")
	fl.BoolVar(&chat, "chat", false, "the prompt is a message: use the model's chat template")
	fl.StringVar(&system, "system", "", "system message (implies --chat)")
	fl.BoolVar(&g.IgnoreEOS, "ignore-eos", false, "write on past the model's end of text")
	fl.IntVar(&g.Logprobs, "logprobs", 0, "with --json: log-probabilities of each token and of the N likeliest; -1: its own only")
	fl.BoolVar(&asJSON, "json", false, "print one JSON object with text, tokens and speed")
	return cmd
}

// modelAndText wants MODEL; what follows is text.
func modelAndText(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return usagef("%s: MODEL is missing; usage: %s", cmd.CommandPath(), cmd.UseLine())
	}
	return nil
}

// result is what run --json prints.
type result struct {
	Text         string      `json:"text"`
	Finish       trit.Finish `json:"finish"`
	Seed         *uint64     `json:"seed,omitempty"`
	Tokens       []tokenJSON `json:"tokens"`
	PromptTokens int         `json:"prompt_tokens"`
	LoadSeconds  float64     `json:"load_seconds"`
	FirstToken   float64     `json:"first_token_seconds"`
	PromptSpeed  float64     `json:"prompt_tokens_per_second"`
	DecodeSpeed  float64     `json:"decode_tokens_per_second"`
}

type tokenJSON struct {
	ID      int32         `json:"id"`
	Text    string        `json:"text"`
	Logprob *float32      `json:"logprob,omitempty"`
	Top     []logprobJSON `json:"top,omitempty"`
}

type logprobJSON struct {
	ID      int32   `json:"id"`
	Text    string  `json:"text"`
	Logprob float32 `json:"logprob"`
}

// writing is what a text comes from: a Session or a Chat.
type writing interface {
	Stats() trit.Stats
	Close()
}

// generate writes one text: pieces as they come, or one JSON object at the end.
func generate(cmd *cobra.Command, m *trit.Model, o trit.GenerateOptions, asJSON bool, s writing, pieces iter.Seq2[trit.Piece, error]) error {
	defer s.Close()
	out := cmd.OutOrStdout()
	r := result{Tokens: []tokenJSON{}, LoadSeconds: m.LoadTime().Seconds()}
	if o.Temperature > 0 {
		r.Seed = &o.Seed
	}
	var text strings.Builder
	var failed error
	for p, err := range pieces {
		if err != nil {
			failed = err
			break
		}
		text.WriteString(p.Text)
		r.Finish = p.Finish
		if asJSON {
			t := tokenJSON{ID: p.Token, Text: m.Tokenizer().Token(p.Token)}
			if o.Logprobs != 0 {
				t.Logprob = &p.Logprob
			}
			for _, l := range p.Top {
				t.Top = append(t.Top, logprobJSON{l.ID, m.Tokenizer().Token(l.ID), float32(l.Logprob)})
			}
			r.Tokens = append(r.Tokens, t)
		} else if _, err := io.WriteString(out, p.Text); err != nil {
			return err
		}
	}
	if !asJSON && text.Len() > 0 && !strings.HasSuffix(text.String(), "\n") {
		fmt.Fprintln(out)
	}
	if failed != nil && (text.Len() == 0 || !errors.Is(failed, cmd.Context().Err())) {
		return failed
	}
	st := s.Stats()
	if asJSON && failed == nil {
		r.Text, r.PromptTokens = text.String(), st.PromptTokens
		r.FirstToken, r.PromptSpeed, r.DecodeSpeed = st.PromptTime.Seconds(), st.PromptSpeed(), st.DecodeSpeed()
		if err := printJSON(out, r); err != nil {
			return err
		}
	}
	note(cmd, "%s", speedLine(st, r.Seed))
	return failed
}

// speedLine says how fast the last text was.
func speedLine(st trit.Stats, seed *uint64) string {
	line := fmt.Sprintf("prompt %d tokens, %.1f tokens/s; first token after %s; %d tokens, %.1f tokens/s",
		st.PromptTokens, st.PromptSpeed(), term.Seconds(st.PromptTime), st.Tokens, st.DecodeSpeed())
	if seed != nil {
		line += fmt.Sprintf("; seed %d", *seed)
	}
	return line
}
