package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/demo"
)

func newDemoCmd() *cobra.Command {
	var f modelFlags
	var g generateFlags
	cmd := &cobra.Command{
		Use:   "demo [PROMPT]",
		Short: "Write text with the small model inside the program: nothing to download",
		Long: `Writes on from the prompt with a small BitNet b1.58 model that is part of the program. trit train made it, of the
plays of Shakespeare, letter by letter. It is far too small to make sense; it shows that the program works here,
and how fast.`,
		Example: `  trit demo
  trit demo "JULIET:" --max-tokens 400 --temperature 1`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			o, err := g.options(cmd)
			if err != nil {
				return err
			}
			prompt := "ROMEO:\n"
			if len(args) > 0 {
				prompt = strings.Join(args, " ")
			}
			m, err := f.open(cmd, "demo")
			if err != nil {
				return err
			}
			defer m.Close()
			if _, err := io.WriteString(cmd.OutOrStdout(), prompt); err != nil {
				return err
			}
			s := m.NewSession()
			return generate(cmd, m, o, false, s, s.Generate(cmd.Context(), prompt, o))
		},
	}
	f.addCompute(cmd)
	g.add(cmd, 240)
	cmd.Flags().Lookup("temperature").DefValue = "0.7"
	g.Temperature = 0.7
	return cmd
}

// openDemo loads the model inside the program.
func openDemo(cmd *cobra.Command, o *trit.Options) (*trit.Model, error) {
	return trit.OpenFS(cmd.Context(), demo.FS(), "demo", o)
}
