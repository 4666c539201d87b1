package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit/hub"
)

func newPullCmd() *cobra.Command {
	var f hubFlags
	var check, asJSON bool
	cmd := &cobra.Command{
		Use:   "pull MODEL",
		Short: "Download a model from the Hugging Face hub, or bring it up to date",
		Long: `Downloads what a model needs into the cache that Hugging Face's own tools use, and prints the path.

An interrupted download continues where it stopped. Every file is checked against the hash that the hub
gives. Weights are taken as safetensors, else as GGUF (all parts of a model in several files); Python pickles never.

HF_HOME, HF_HUB_CACHE, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE mean what they mean there.`,
		Example: `  trit pull microsoft/bitnet-b1.58-2B-4T
  trit pull 1bitLLM/bitnet_b1_58-large@main
  trit pull microsoft/bitnet-b1.58-2B-4T-gguf/ggml-model-i2_s.gguf`,
		Args: exactArgs("MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			r, err := hub.ParseRef(args[0])
			if err != nil {
				return usageError{err}
			}
			o := f.options()
			o.Verify = check
			p := progress(cmd, "pull", true)
			defer p.Done()
			var last hub.Progress
			o.Progress = func(s hub.Progress) { last = s; p.Set(s.Done, s.Total) }
			o.Log = p.Log
			path, err := hub.Pull(cmd.Context(), r, o)
			p.Done()
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]any{"model": r.String(), "path": path, "bytes": last.Total})
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), path)
			return err
		},
	}
	f.add(cmd)
	cmd.Flags().BoolVar(&check, "check", false, "hash the files that are already there too")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print model, path and bytes as JSON")
	return cmd
}
