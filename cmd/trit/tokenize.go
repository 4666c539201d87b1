package main

import (
	"encoding/json"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/internal/term"
	"github.com/tritlm/trit/tokenizer"
	"github.com/tritlm/trit/train"
	"github.com/tritlm/trit/weights"
)

// openTokenizer loads MODEL's tokenizer alone.
func openTokenizer(cmd *cobra.Command, f *hubFlags, ref string) (*tokenizer.Tokenizer, error) {
	if ref == "demo" {
		m, err := openDemo(cmd, nil)
		if err != nil {
			return nil, err
		}
		defer m.Close()
		return m.Tokenizer(), nil
	}
	path, err := f.resolve(cmd, ref)
	if err != nil {
		return nil, err
	}
	var t *tokenizer.Tokenizer
	switch strings.ToLower(filepath.Ext(path)) {
	case ".gguf":
		var set *weights.Set
		if set, err = weights.Open(path, nil); err == nil {
			defer set.Close()
			t, err = trit.LoadTokenizer(set, "")
		}
	case ".ckpt":
		var c *train.Checkpoint
		if c, err = train.OpenCheckpoint(path); err == nil {
			t, err = tokenizer.FromJSON(c.Tokenizer, nil)
		}
	default:
		t, err = tokenizer.Load(path)
	}
	if err != nil {
		return nil, err
	}
	for _, w := range t.Warnings() {
		note(cmd, "trit: %s: %s", path, w)
	}
	return t, nil
}

func newTokenizeCmd() *cobra.Command {
	var f hubFlags
	var file string
	var decode, special, bare, idsOnly, asJSON bool
	cmd := &cobra.Command{
		Use:   "tokenize MODEL [TEXT]",
		Short: "Show how a model's tokenizer reads text",
		Long: `Prints the tokens of a text, one a line: number and piece. The text comes from the arguments, --file or
standard input. With --decode it is the other way round: numbers in, text out.`,
		Example: `  trit tokenize ./model "Hello, world!"
  trit tokenize model.gguf --ids --no-special "Hello"
  trit tokenize ./model --special "<|begin_of_text|>User: hi<|eot_id|>"
  trit tokenize ./model --ids "some text" | trit tokenize ./model --decode`,
		Args: modelAndText,
		RunE: func(cmd *cobra.Command, args []string) error {
			text, err := readPrompt(cmd, args[1:], file)
			if err != nil {
				return err
			}
			t, err := openTokenizer(cmd, &f, args[0])
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			if decode {
				ids, err := parseIDs(text, t.VocabSize())
				if err != nil {
					return err
				}
				if asJSON {
					return printJSON(out, map[string]any{"text": t.Decode(ids)})
				}
				_, err = fmt.Fprintln(out, t.Decode(ids))
				return err
			}
			if err := t.Check(text); err != nil {
				return err
			}
			ids := t.Encode(text, tokenizer.EncodeOptions{AddSpecial: !bare, ParseSpecial: special})
			return printTokens(out, t, ids, idsOnly, asJSON)
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.StringVarP(&file, "file", "f", "", "read the text from this file; - is standard input")
	fl.BoolVar(&decode, "decode", false, "turn token numbers into text")
	fl.BoolVar(&special, "special", false, "read special tokens such as <|eot_id|> in the text as such")
	fl.BoolVar(&bare, "no-special", false, "leave out the tokens that the model wants around a text (BOS)")
	fl.BoolVar(&idsOnly, "ids", false, "print the numbers alone, on one line")
	fl.BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// printTokens prints ids with their pieces, in one of three forms.
func printTokens(out io.Writer, t *tokenizer.Tokenizer, ids []int32, idsOnly, asJSON bool) error {
	switch {
	case asJSON:
		list := make([]string, len(ids))
		for i, id := range ids {
			list[i] = t.Token(id)
		}
		return printJSON(out, map[string]any{"ids": append([]int32{}, ids...), "tokens": list})
	case idsOnly:
		var b strings.Builder
		for i, id := range ids {
			if i > 0 {
				b.WriteByte(' ')
			}
			b.WriteString(strconv.Itoa(int(id)))
		}
		_, err := fmt.Fprintln(out, b.String())
		return err
	}
	rows := make([][]string, len(ids))
	for i, id := range ids {
		rows[i] = []string{strconv.Itoa(int(id)), strconv.Quote(string(t.Bytes(id)))}
		if t.IsSpecial(id) {
			rows[i][1] = t.Token(id)
		}
	}
	return term.Table(out, rows)
}

// parseIDs reads numbers with anything but digits between them.
func parseIDs(text string, vocab int) ([]int32, error) {
	var ids []int32
	for _, s := range strings.FieldsFunc(text, func(r rune) bool { return strings.ContainsRune(" \t\r\n,;[]", r) }) {
		n, err := strconv.Atoi(s)
		if err != nil || n < 0 || n >= vocab {
			return nil, usagef("%q is not a token of this tokenizer: numbers from 0 to %d", s, vocab-1)
		}
		ids = append(ids, int32(n))
	}
	return ids, nil
}

func newTemplateCmd() *cobra.Command {
	var f hubFlags
	var system string
	var noPrompt, idsOnly, asJSON, tools bool
	cmd := &cobra.Command{
		Use:   "template MODEL MESSAGE...",
		Short: "Show a conversation as the model's own chat template writes it",
		Long: `Renders messages, in turn the user's and the assistant's, by the chat template that came with the model:
exactly what trit chat and trit run --chat would give it to read.`,
		Example: `  trit template ./model "What is 2+2?"
  trit template ./model --system "Be brief." "What is 2+2?" "4" "And 3+3?" --ids
  trit template ./model --tools`,
		Args: func(cmd *cobra.Command, args []string) error {
			if tools && len(args) == 1 {
				return nil
			}
			if len(args) < 2 {
				return usagef("%s: %s is missing; usage: %s", cmd.CommandPath(), []string{"MODEL", "MESSAGE"}[len(args)], cmd.UseLine())
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := openTokenizer(cmd, &f, args[0])
			if err != nil {
				return err
			}
			if tools {
				return printCallFormat(cmd.OutOrStdout(), t, asJSON)
			}
			var messages []tokenizer.Message
			if system != "" {
				messages = append(messages, tokenizer.Message{Role: "system", Content: system})
			}
			for i, text := range args[1:] {
				messages = append(messages, tokenizer.Message{Role: []string{"user", "assistant"}[i%2], Content: text})
			}
			text, err := t.Chat(messages, tokenizer.ChatOptions{AddGenerationPrompt: !noPrompt})
			if err != nil {
				return err
			}
			if idsOnly || asJSON {
				return printTokens(cmd.OutOrStdout(), t, t.Encode(text, tokenizer.EncodeOptions{ParseSpecial: true}), idsOnly, asJSON)
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), text)
			return err
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.StringVar(&system, "system", "", "system message in front")
	fl.BoolVar(&tools, "tools", false, "show how the model writes calls of tools and thoughts, found out from its template")
	fl.BoolVar(&noPrompt, "no-generation-prompt", false, "do not end with the beginning of the assistant's turn")
	fl.BoolVar(&idsOnly, "ids", false, "print the token numbers instead")
	fl.BoolVar(&asJSON, "json", false, "print token numbers and pieces as JSON")
	return cmd
}

// printCallFormat shows how calls and thoughts are written, by an example of two calls.
func printCallFormat(w io.Writer, t *tokenizer.Tokenizer, asJSON bool) error {
	f := t.CallFormat()
	thought, thinks := t.ThoughtFormat()
	if asJSON {
		out := map[string]any{"calls": f, "knows_tools": t.KnowsTools()}
		if thinks {
			out["thoughts"] = thought
		}
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		e.SetEscapeHTML(false)
		return e.Encode(out)
	}
	from := "the template describes no tools; they are described in the system message, and calls are written so:"
	if f.FromTemplate {
		from = "as the template has it:"
	}
	list, anywhere := f.Triggers([]string{"NAME"})
	place := "only at the beginning of a reply"
	if anywhere {
		place = "anywhere in a reply"
	}
	fmt.Fprintf(w, "calls (%s), %s\n\n%s\n\nbegin with  %q, %s\n", f.Style, from, f.Example(), list[0], place)
	if !thinks {
		fmt.Fprintln(w, "thoughts    none")
		return nil
	}
	fmt.Fprintf(w, "thoughts    %s … %s\n", thought.Open, thought.Close)
	if thought.Switch != "" {
		fmt.Fprintf(w, "switch      %s\n", thought.Switch)
	}
	if thought.Effort {
		fmt.Fprintln(w, "effort      reasoning_effort")
	}
	return nil
}
