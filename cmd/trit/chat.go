package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/peterh/liner"
	"github.com/spf13/cobra"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/internal/infile"
	"github.com/tritlm/trit/internal/tempfile"
	"github.com/tritlm/trit/internal/term"
	"github.com/tritlm/trit/tokenizer"
)

func newChatCmd() *cobra.Command {
	var f modelFlags
	var g generateFlags
	var system string
	cmd := &cobra.Command{
		Use:   "chat MODEL",
		Short: "Talk with a model in the terminal",
		Long: `A conversation, in the model's own chat template. The arrow keys edit the line and bring back earlier ones,
also those of other days. Ctrl-C stops an answer, Ctrl-D ends the conversation. A line that ends in a backslash
goes on in the next one. ` + "`/help`" + ` lists the commands.

When standard input is not a terminal each line is a message, and the answers come on standard output.`,
		Example: `  trit chat microsoft/bitnet-b1.58-2B-4T
  trit chat ./model --system "You are a patient teacher." --temperature 0.7
  printf 'My name is Ada.\nWhat is my name?\n' | trit chat ./model`,
		Args: exactArgs("MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := g.options(cmd)
			if err != nil {
				return err
			}
			m, err := f.open(cmd, args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			c := &conversation{cmd: cmd, model: m, chat: m.NewChat(trit.ChatOptions{System: system}), options: o, newSeeds: !cmd.Flags().Changed("seed")}
			defer c.chat.Close()
			return c.run()
		},
	}
	f.add(cmd)
	g.add(cmd, 0)
	cmd.Flags().StringVar(&system, "system", "", "system message")
	return cmd
}

// conversation is one trit chat.
type conversation struct {
	cmd      *cobra.Command
	model    *trit.Model
	chat     *trit.Chat
	options  trit.GenerateOptions
	newSeeds bool // a new seed for each answer
	tty      bool
}

// commands of the chat: name, argument, what it does.
var chatCommands = [][3]string{
	{"/help", "", "list the commands"},
	{"/clear", "", "forget the conversation"},
	{"/temp", "N", "set the temperature; 0 always takes the likeliest token"},
	{"/tokens", "N", "set the most tokens of an answer; 0: no limit"},
	{"/system", "TEXT", "set the system message, or without TEXT remove it"},
	{"/stats", "", "speed of the last answer, room in the context, settings"},
	{"/save", "FILE", "save the conversation as JSON"},
	{"/quit", "", "end (also Ctrl-D)"},
}

var errQuit = errors.New("quit")

func (c *conversation) run() error {
	c.tty = term.IsTerminal(c.cmd.InOrStdin()) && term.IsTerminal(c.cmd.OutOrStdout())
	read, done := c.input()
	defer done()
	if c.tty {
		note(c.cmd, "%s, %d tokens of context. /help lists the commands.", filepath.Base(c.model.Path()), c.model.MaxContext())
	}
	for {
		line, err := read()
		if errors.Is(err, io.EOF) {
			if c.tty {
				fmt.Fprintln(c.cmd.ErrOrStderr()) // behind the prompt
			}
			return nil
		}
		if err != nil {
			return err
		}
		switch text := strings.TrimSpace(line); {
		case text == "":
			continue
		case strings.HasPrefix(text, "/"):
			err = c.command(text)
		default:
			err = c.answer(line)
		}
		if errors.Is(err, errQuit) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// input gives a function that reads a message, with line editing on a terminal.
func (c *conversation) input() (read func() (string, error), done func()) {
	if !c.tty {
		s := bufio.NewScanner(c.cmd.InOrStdin())
		s.Buffer(nil, 16<<20)
		return c.joined(func(string) (string, error) {
			if !s.Scan() {
				if s.Err() != nil {
					return "", s.Err()
				}
				return "", io.EOF
			}
			return s.Text(), nil
		}), func() {}
	}
	l := liner.NewLiner()
	l.SetCtrlCAborts(true)
	l.SetMultiLineMode(true)
	l.SetCompleter(func(line string) (list []string) {
		for _, cmd := range chatCommands {
			if line != "" && strings.HasPrefix(cmd[0], line) {
				list = append(list, cmd[0])
			}
		}
		return list
	})
	history := historyFile()
	if f, err := infile.Open(history); err == nil {
		l.ReadHistory(f)
		f.Close()
	}
	prompt := func(p string) (string, error) {
		for {
			line, err := l.Prompt(p)
			if errors.Is(err, liner.ErrPromptAborted) { // Ctrl-C on a line drops the line
				fmt.Fprintln(c.cmd.ErrOrStderr(), "(Ctrl-D ends the conversation)")
				continue
			}
			if err == nil && strings.TrimSpace(line) != "" {
				l.AppendHistory(line)
			}
			return line, err
		}
	}
	return c.joined(prompt), func() {
		if err := saveHistory(l, history); err != nil {
			note(c.cmd, "trit: the history of your lines was not saved: %v", err)
		}
		l.Close()
	}
}

// joined reads a message that may go on over several lines, each but the last ending in a backslash. A signal ends
// the wait for a line.
func (c *conversation) joined(line func(prompt string) (string, error)) func() (string, error) {
	type read struct {
		text string
		err  error
	}
	next := func(prompt string) (string, error) {
		got := make(chan read, 1)
		go func() {
			text, err := line(prompt)
			got <- read{text, err}
		}()
		select {
		case r := <-got:
			return r.text, r.err
		case <-c.cmd.Context().Done():
			return "", context.Cause(c.cmd.Context())
		}
	}
	return func() (string, error) {
		text, err := next("> ")
		for err == nil && strings.HasSuffix(text, `\`) {
			var more string
			if more, err = next("… "); err == nil || errors.Is(err, io.EOF) {
				text = strings.TrimSuffix(text, `\`) + "\n" + more
			}
		}
		if errors.Is(err, io.EOF) && text != "" {
			err = nil
		}
		return text, err
	}
}

// historyFile is where the lines of earlier chats are kept: the folder for such things on each system.
func historyFile() string {
	dir := ""
	switch runtime.GOOS {
	case "windows", "darwin":
		dir, _ = os.UserConfigDir()
	default:
		if dir = os.Getenv("XDG_STATE_HOME"); !filepath.IsAbs(dir) {
			if home, err := os.UserHomeDir(); err == nil {
				dir = filepath.Join(home, ".local", "state")
			}
		}
	}
	if dir == "" {
		return ""
	}
	return filepath.Join(dir, "trit", "chat_history")
}

func saveHistory(l *liner.State, file string) error {
	if file == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
		return err
	}
	f, err := tempfile.Create(file, tempfile.Private) // for its owner alone: what a person wrote is private
	if err != nil {
		return err
	}
	_, err = l.WriteHistory(f)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), file)
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// answer sends a message and writes what comes back. Ctrl-C ends the answer and keeps what was written of it.
func (c *conversation) answer(text string) error {
	ctx, cancel := context.WithCancel(c.cmd.Context())
	defer cancel()
	defer onInterrupt(cancel)()
	if c.newSeeds && c.options.Temperature > 0 {
		c.options.Seed = rand.Uint64N(1 << 32)
	}
	out := c.cmd.OutOrStdout()
	last := ""
	var failed error
	for p, err := range c.chat.Send(ctx, text, c.options) {
		if err != nil {
			failed = err
			break
		}
		if p.Text != "" {
			last = p.Text
			if _, err := io.WriteString(out, p.Text); err != nil {
				return err
			}
		}
	}
	if !strings.HasSuffix(last, "\n") {
		fmt.Fprintln(out)
	}
	stopped := ctx.Err() != nil && errors.Is(failed, ctx.Err())
	switch {
	case c.cmd.Context().Err() != nil:
		return context.Cause(c.cmd.Context())
	case failed != nil && !stopped && !c.tty:
		return failed // no person is there to go on
	case errors.Is(failed, trit.ErrContextFull):
		note(c.cmd, "trit: the conversation does not fit the context of %d tokens any more; /clear begins a new one", c.model.MaxContext())
		return nil
	case failed != nil && !stopped:
		note(c.cmd, "%v", failed)
		return nil
	}
	st := c.chat.Stats()
	line := fmt.Sprintf("%.1f tokens/s, first token after %s", st.DecodeSpeed(), term.Seconds(st.PromptTime))
	if stopped {
		line = "stopped; " + line
	}
	note(c.cmd, "[%s]", line)
	return nil
}

// command runs a line that begins with a slash.
func (c *conversation) command(line string) error {
	name, arg, _ := strings.Cut(line, " ")
	arg = strings.TrimSpace(arg)
	say := func(format string, args ...any) error {
		_, err := fmt.Fprintf(c.cmd.OutOrStdout(), format+"\n", args...)
		return err
	}
	switch name {
	case "/help":
		for _, cmd := range chatCommands {
			if err := say("  %-14s %s", cmd[0]+" "+cmd[1], cmd[2]); err != nil {
				return err
			}
		}
		return say("A line ending in \\ goes on in the next. Ctrl-C stops an answer.")
	case "/clear":
		c.chat.Clear()
		return say("forgotten")
	case "/temp":
		v, err := strconv.ParseFloat(arg, 32)
		o := c.options
		o.Temperature = float32(v)
		if err == nil {
			err = o.Validate(0)
		}
		if err != nil {
			return say("/temp wants a number from 0 to 100")
		}
		c.options = o
		return say("temperature %g", v)
	case "/tokens":
		n, err := strconv.Atoi(arg)
		if err != nil || n < 0 {
			return say("/tokens wants a number, 0 for no limit")
		}
		c.options.MaxTokens = n
		return say("at most %d tokens", n)
	case "/system":
		c.chat.SetSystem(arg)
		if arg == "" {
			return say("no system message")
		}
		return say("system message set")
	case "/stats":
		st := c.chat.Stats()
		return say("%s\ncontext: %d of %d tokens, %d of the last prompt were kept from before\ntemperature %g, at most %d tokens",
			speedLine(st, nil), c.chat.Len(), c.model.MaxContext(), st.CachedTokens, c.options.Temperature, c.options.MaxTokens)
	case "/save":
		if arg == "" {
			return say("/save wants the name of a file")
		}
		n, err := c.save(arg)
		if err != nil {
			return say("not saved: %v", err)
		}
		return say("%d messages saved in %s", n, arg)
	case "/quit", "/exit":
		return errQuit
	}
	return say("there is no command %s; /help lists them", name)
}

// save writes the conversation as a list of messages, the form that the OpenAI API has; an existing file stays.
func (c *conversation) save(file string) (int, error) {
	messages := c.chat.Messages()
	if s := c.chat.System(); s != "" {
		messages = append([]tokenizer.Message{{Role: "system", Content: s}}, messages...)
	}
	data, err := json.MarshalIndent(messages, "", "  ")
	if err != nil {
		return 0, err
	}
	f, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return 0, err
	}
	_, err = f.Write(append(data, '\n'))
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(file)
	}
	return len(messages), err
}
