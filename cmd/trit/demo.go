package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/demo"
)

func newDemoCmd() *cobra.Command {
	var f modelFlags
	var g generateFlags
	prompt := "ROMEO:\n"
	cmd := &cobra.Command{
		Use:   "demo [PROMPT]",
		Short: "Write text with a small model inside the program: nothing to download",
		Long: `Writes with the model inside the program, a BitNet b1.58 that trit train made of Shakespeare's plays, character by
character. It has learnt how such a text looks, not what it means. Every command takes it as the MODEL demo.`,
		Example: `  trit demo
  trit demo "KING HENRY:" --max-tokens 1000 --temperature 0.6
  trit chat demo`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := g.options(cmd)
			if err != nil {
				return err
			}
			m, err := f.open(cmd, "demo")
			if err != nil {
				return err
			}
			defer m.Close()
			if len(args) == 1 {
				prompt = args[0]
			}
			fmt.Fprint(cmd.OutOrStdout(), prompt)
			s := m.NewSession()
			return generate(cmd, m, o, false, s, s.Generate(cmd.Context(), prompt, o))
		},
	}
	f.add(cmd)
	cmd.Flags().MarkHidden("cache")
	cmd.Flags().MarkHidden("offline")
	g.add(cmd, 400)
	g.Temperature = 0.7
	cmd.Flags().Lookup("temperature").DefValue = "0.7"
	return cmd
}

// openDemo loads the model inside the program.
func openDemo(cmd *cobra.Command, o *trit.Options) (*trit.Model, error) {
	return trit.OpenFS(cmd.Context(), demo.FS(), "demo", o)
}
