// Command trit runs, chats with, converts and checks 1.58-bit language models.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"runtime/debug"
	"strings"
	"sync"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit/internal/mapped"
	"github.com/tritlm/trit/internal/term"
)

// Exit codes, the same for every command.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2   // the command line makes no sense
	exitVerify      = 3   // trit verify, trit selftest: what was computed is past the tolerance
	exitInterrupted = 130 // Ctrl-C
)

func main() { os.Exit(run()) }

// run runs the command line and returns the exit code.
func run() int {
	// More threads than processors only wait for each other. A limit that a person set below stays, and so does Go's own
	// following of a cgroup.
	if n := runtime.NumCPU(); runtime.GOMAXPROCS(0) > n {
		runtime.GOMAXPROCS(n)
	}
	ctx, stop := withSignals(context.Background())
	defer stop()
	root := newRootCmd()
	out, errs := term.Writer(os.Stdout), term.Writer(os.Stderr)
	root.SetOut(out)
	root.SetErr(errs)
	code := report(errs, execute(ctx, root))
	if err := errors.Join(term.Flush(out), term.Flush(errs)); err != nil && code == exitOK {
		code = exitFailure
	}
	return code
}

// execute runs root. An error from before a command's own code is one of usage. A file in memory that is cut while a
// command reads it is an error as well.
func execute(ctx context.Context, root *cobra.Command) (err error) {
	defer mapped.Recover(debug.SetPanicOnFault(true), &err)
	running := false
	var mark func(*cobra.Command)
	mark = func(c *cobra.Command) {
		if f := c.RunE; f != nil {
			c.RunE = func(cmd *cobra.Command, args []string) error {
				running = true
				return f(cmd, args)
			}
		}
		for _, sub := range c.Commands() {
			mark(sub)
		}
	}
	mark(root)
	err = root.ExecuteContext(ctx)
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); ctx.Err() != nil && (errors.Is(err, context.Canceled) || errors.Is(err, errInterrupted)) {
		return cause
	}
	if !running {
		return usageError{err}
	}
	return err
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

func usagef(format string, args ...any) error { return usageError{fmt.Errorf(format, args...)} }

// verifyError says that a check ran, and failed.
type verifyError struct{ error }

func (e verifyError) Unwrap() error { return e.error }

var errInterrupted = errors.New("interrupted")

// report prints an error as one line and returns its exit code.
func report(w io.Writer, err error) int {
	if err == nil {
		return exitOK
	}
	// Package trit begins its errors as this program does.
	line := strings.Join(strings.Fields(strings.ReplaceAll(strings.TrimPrefix(err.Error(), "trit: "), "\n", "; ")), " ")
	usage := errors.As(err, new(usageError))
	if usage {
		line += " (see trit help)"
	}
	fmt.Fprintf(w, "trit: %s\n", line)
	switch {
	case errors.Is(err, errInterrupted):
		return exitInterrupted
	case usage:
		return exitUsage
	case errors.As(err, new(verifyError)):
		return exitVerify
	}
	return exitFailure
}

// signals turns Ctrl-C into cancellation: the first one asks what runs to stop, the second one ends
// the program. A command that has a better use for the first one takes it over (chat).
var signals struct {
	mu   sync.Mutex
	take func() // instead of cancelling, when not nil
}

// onInterrupt makes the next Ctrl-C call f alone; release gives it back.
func onInterrupt(f func()) (release func()) {
	signals.mu.Lock()
	defer signals.mu.Unlock()
	signals.take = f
	return func() {
		signals.mu.Lock()
		defer signals.mu.Unlock()
		signals.take = nil
	}
}

func withSignals(parent context.Context) (ctx context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(parent)
	c := make(chan os.Signal, 2)
	signal.Notify(c, os.Interrupt, syscall.SIGTERM)
	done := make(chan struct{})
	go func() {
		for {
			select {
			case <-done:
				return
			case s := <-c:
				signals.mu.Lock()
				take := signals.take
				signals.mu.Unlock()
				if take != nil && s == os.Interrupt {
					take()
					continue
				}
				if ctx.Err() != nil {
					os.Exit(exitInterrupted)
				}
				cancel(errInterrupted)
			}
		}
	}()
	return ctx, func() { signal.Stop(c); close(done); cancel(nil) }
}
