package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// TestHelp: every command says what it is and how it is used, and its examples are command lines that
// it accepts.
func TestHelp(t *testing.T) {
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		for _, sub := range c.Commands() {
			walk(sub)
		}
		if c.Name() == "help" || c.Name() == "completion" || c.HasParent() && c.Parent().Name() == "completion" {
			return // cobra's own
		}
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: its line is %q", c.CommandPath(), c.Short)
		}
		if c.Name() == "version" {
			return
		}
		if c.Parent() == nil || c.Parent().Parent() == nil { // a verb
			if c.Long == "" || c.Example == "" {
				t.Errorf("%s: no long help, or no example", c.CommandPath())
			}
		}
		for line := range strings.Lines(c.Long + "\n" + c.Example) {
			if n := len([]rune(strings.TrimSpace(line))); n > 120 {
				t.Errorf("%s: a line of %d characters: %s", c.CommandPath(), n, line)
			}
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s: --%s says nothing", c.CommandPath(), f.Name)
			}
		})
	}
	root := newRootCmd()
	walk(root)

	// Each example finds its command, and all of its flags are there.
	line := regexp.MustCompile(`(?:^|\| *)trit ([^|#]*)`)
	words := regexp.MustCompile(`'[^']*'|"[^"]*"|\S+`)
	var all []string
	var collect func(c *cobra.Command)
	collect = func(c *cobra.Command) {
		for l := range strings.Lines(c.Example) {
			all = append(all, strings.TrimSpace(l))
		}
		for _, sub := range c.Commands() {
			collect(sub)
		}
	}
	collect(root)
	for _, example := range all {
		for _, m := range line.FindAllStringSubmatch(example, -1) {
			args := words.FindAllString(m[1], -1)
			cmd, rest, err := newRootCmd().Find(args)
			if err != nil {
				t.Errorf("%s: %v", example, err)
				continue
			}
			if err := cmd.ParseFlags(rest); err != nil {
				t.Errorf("%s: %v", example, err)
			} else if err := cmd.ValidateArgs(cmd.Flags().Args()); err != nil {
				t.Errorf("%s: %v", example, err)
			}
		}
	}
	if len(all) < 30 {
		t.Errorf("only %d examples", len(all))
	}
}
