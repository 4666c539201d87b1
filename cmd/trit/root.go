package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit/hub"
	"github.com/tritlm/trit/internal/infile"
	"github.com/tritlm/trit/internal/term"
)

// quiet is --quiet: nothing on stderr but errors.
var quiet bool

func newRootCmd() *cobra.Command {
	root := &cobra.Command{
		Use:   "trit",
		Short: "Run, chat with, train and check 1.58-bit language models",
		Long: `trit runs 1.58-bit (BitNet b1.58) language models: from a Hugging Face folder, a .gguf file, or a
model's name on the hub, which is downloaded once. It is one program without dependencies.

MODEL, in every command, is one of
  a folder        with config.json and model.safetensors, such as a run of trit train
  a .gguf file    or any part of a model in several
  a .ckpt file    of trit train
  owner/name      on the Hugging Face hub; owner/name@revision, owner/name/file.gguf
  demo            a small model inside the program

Exit codes: 0 done, 1 failed, 2 wrong usage, 3 a check failed, 130 interrupted.`,
		Example: `  trit demo
  trit run microsoft/bitnet-b1.58-2B-4T "The sky is"
  trit chat ./bitnet-2b4t`,
		SilenceErrors:     true,
		SilenceUsage:      true,
		DisableAutoGenTag: true,
	}
	root.CompletionOptions.HiddenDefaultCmd = false
	root.PersistentFlags().BoolVarP(&quiet, "quiet", "q", false, "print nothing on stderr but errors")
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usageError{err} })

	groups := []struct {
		id, title string
		commands  []*cobra.Command
	}{
		{"use", "Use a model:", []*cobra.Command{newDemoCmd(), newRunCmd(), newChatCmd(), newEmbedCmd(), newServeCmd(), newBatchCmd()}},
		{"make", "Train a model:", []*cobra.Command{newTrainCmd(), newCompareCmd(), newReportCmd(), newDataCmd()}},
		{"files", "Models and files:", []*cobra.Command{newPullCmd(), newInspectCmd(), newConvertCmd(), newSynthCmd(), newTokenizeCmd(), newTemplateCmd()}},
		{"check", "Check and measure:", []*cobra.Command{newEvalCmd(), newVerifyCmd(), newBenchCmd(), newSelftestCmd(), newDevicesCmd()}},
	}
	for _, g := range groups {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, c := range g.commands {
			c.GroupID = g.id
			root.AddCommand(c)
		}
	}
	root.AddCommand(newVersionCmd())
	return root
}

func newVersionCmd() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version and what it was built for",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "trit %s %s/%s %s\n", version(), runtime.GOOS, runtime.GOARCH, runtime.Version())
			return err
		},
	}
}

// version is what the Go toolchain recorded: the module's version, or the commit.
func version() string {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	if v := info.Main.Version; v != "" && v != "(devel)" {
		return v
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" {
			return s.Value[:min(12, len(s.Value))]
		}
	}
	return "devel"
}

// hubFlags are the flags of every command that takes a MODEL from the hub.
type hubFlags struct {
	cache   string
	offline bool
}

func (f *hubFlags) add(cmd *cobra.Command) {
	cmd.Flags().StringVar(&f.cache, "cache", "", "folder of downloaded models (default HF_HUB_CACHE, HF_HOME/hub or ~/.cache/huggingface/hub)")
	cmd.Flags().BoolVar(&f.offline, "offline", false, "use downloaded models only (also HF_HUB_OFFLINE=1)")
	cmd.ValidArgsFunction = completeModel
}

// options joins the flags with the environment variables that huggingface_hub documents. This is
// the one place of trit that reads the environment: packages are told in their Options.
func (f *hubFlags) options() hub.Options {
	o := hub.Options{
		Cache:    f.cache,
		Offline:  f.offline || truth(os.Getenv("HF_HUB_OFFLINE")),
		Endpoint: os.Getenv("HF_ENDPOINT"),
		Token:    os.Getenv("HF_TOKEN"),
	}
	home := os.Getenv("HF_HOME")
	if home == "" {
		if cache := os.Getenv("XDG_CACHE_HOME"); cache != "" {
			home = filepath.Join(cache, "huggingface")
		} else if user, err := os.UserHomeDir(); err == nil {
			home = filepath.Join(user, ".cache", "huggingface")
		}
	}
	if o.Cache == "" {
		o.Cache = os.Getenv("HF_HUB_CACHE")
	}
	if o.Cache == "" && home != "" {
		o.Cache = filepath.Join(home, "hub")
	}
	if o.Token == "" && home != "" {
		text, _ := infile.Read(filepath.Join(home, "token"), maxKeys) // what `hf auth login` wrote
		o.Token = strings.TrimSpace(string(text))
	}
	return o
}

func truth(s string) bool {
	switch strings.ToUpper(s) {
	case "1", "ON", "YES", "TRUE":
		return true
	}
	return false
}

// resolve finds or downloads MODEL with progress on stderr.
func (f *hubFlags) resolve(cmd *cobra.Command, ref string) (string, error) {
	o := f.options()
	p := progress(cmd, "pull", true)
	defer p.Done()
	o.Progress = func(s hub.Progress) { p.Set(s.Done, s.Total) }
	o.Log = p.Log
	return hub.Resolve(cmd.Context(), ref, o)
}

// progress starts progress on the command's stderr; nil, which is silent, with --quiet.
func progress(cmd *cobra.Command, label string, bytes bool) *term.Progress {
	if quiet {
		return nil
	}
	return term.NewProgress(cmd.ErrOrStderr(), label, bytes)
}

// note prints a line for the person on stderr, unless --quiet.
func note(cmd *cobra.Command, format string, args ...any) {
	if !quiet {
		fmt.Fprintf(cmd.ErrOrStderr(), format+"\n", args...)
	}
}

// completeModel offers downloaded models, and files and folders.
func completeModel(cmd *cobra.Command, args []string, prefix string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var f hubFlags
	var names []string
	for _, n := range append([]string{"demo"}, hub.Names(f.options())...) {
		if strings.HasPrefix(n, prefix) {
			names = append(names, n)
		}
	}
	return names, cobra.ShellCompDirectiveDefault
}

// printJSON writes v as indented JSON.
func printJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	e.SetEscapeHTML(false)
	return e.Encode(v)
}

// exactArgs asks for the arguments that names lists, and names the one that is missing.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return usagef("%s: %s is missing; usage: %s", cmd.CommandPath(), names[len(args)], cmd.UseLine())
		}
		if len(args) > len(names) {
			return usagef("%s: %q is one argument too many; usage: %s", cmd.CommandPath(), args[len(names)], cmd.UseLine())
		}
		return nil
	}
}
