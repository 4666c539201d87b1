package main

import (
	"archive/zip"
	"bytes"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/convert"
)

func newDemoCmd() *cobra.Command {
	var f modelFlags
	var g generateFlags
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Write text with a small model inside the program: nothing to download",
		Long: `Makes a small BitNet b1.58 model of seeded random weights in memory and writes with it. The words mean
nothing; that the program runs here, and how fast, is what it shows.`,
		Example: `  trit demo
  trit demo --max-tokens 200 --temperature 1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			o, err := g.options(cmd)
			if err != nil {
				return err
			}
			m, err := f.open(cmd, "demo")
			if err != nil {
				return err
			}
			defer m.Close()
			s := m.NewSession()
			return generate(cmd, m, o, false, s, s.Generate(cmd.Context(), "To be", o))
		},
	}
	f.add(cmd)
	cmd.Flags().MarkHidden("cache")
	cmd.Flags().MarkHidden("offline")
	g.add(cmd, 64)
	return cmd
}

// openDemo loads the demo model, and says what it is.
func openDemo(cmd *cobra.Command, o *trit.Options) (*trit.Model, error) {
	note(cmd, "demo: a random model of seed 1, not a trained one: its words mean nothing")
	r, err := convert.NewRandom("tiny", 1, 0.8)
	if err != nil {
		return nil, err
	}
	files, err := r.TokenizerFiles()
	if err != nil {
		return nil, err
	}
	var archive bytes.Buffer
	z := zip.NewWriter(&archive)
	_, err = convert.WriteFiles(cmd.Context(), r, convert.Options{Format: convert.HFPacked, Files: files}, func(name string) (io.Writer, error) {
		return z.CreateHeader(&zip.FileHeader{Name: name, Method: zip.Store})
	})
	if err != nil {
		return nil, err
	}
	if err := z.Close(); err != nil {
		return nil, err
	}
	fsys, err := zip.NewReader(bytes.NewReader(archive.Bytes()), int64(archive.Len()))
	if err != nil {
		return nil, fmt.Errorf("demo: %w", err)
	}
	return trit.OpenFS(cmd.Context(), fsys, "demo", o)
}
