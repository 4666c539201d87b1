package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit/eval"
	"github.com/tritlm/trit/internal/term"
)

func newVerifyCmd() *cobra.Command {
	var f modelFlags
	var file string
	var asJSON bool
	var tol eval.Tolerance
	cmd := &cobra.Command{
		Use:   "verify MODEL --reference FILE",
		Short: "Compare a model, layer by layer, with what Hugging Face transformers computes",
		Long: `Runs the prompts of a reference file through the model and compares the state behind every layer, the logits,
and the greedy continuation. tools/reference/reference.py writes the file with torch and transformers.

Exit code 3: a number is past the tolerance. The default tolerance depends on what the reference was computed
in: against float32 the state behind the first layer must correlate to 0.99999; a bfloat16 reference has itself an
error of 0.001. Each further layer of a model with int8 activations may lose 0.0001, because an activation that
rounds the other way moves all behind it; docs/verify.md has the rule, its reason and its measurement. With
--layer-by-layer, or numbers of your own, the same is asked at any depth. A different choice of token is excused when
the two candidates are as good as equal (--near-tie).

The reference's prompts are ids: the model needs no tokenizer.`,
		Example: `  python tools/reference/reference.py ./model --prompts "The sky" --out ref.safetensors
  trit verify ./model --reference ref.safetensors
  trit verify ./model --reference ref.safetensors --json`,
		Args: exactArgs("MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if file == "" {
				return usagef("--reference is missing; usage: %s", cmd.UseLine())
			}
			ref, err := eval.ReadReference(file)
			if err != nil {
				return err
			}
			t := eval.DefaultTolerance(ref.DType())
			if cmd.Flags().Changed("min-correlation") {
				t.Correlation = tol.Correlation
			}
			if cmd.Flags().Changed("max-difference") {
				t.MaxDifference = tol.MaxDifference
			}
			if cmd.Flags().Changed("near-tie") {
				t.NearTie = tol.NearTie
			}
			if fl := cmd.Flags(); fl.Changed("min-correlation") || fl.Changed("max-difference") || fl.Changed("near-tie") {
				t.PerLayer = 0
			}
			t.LayerByLayer = tol.LayerByLayer
			set, engine, err := f.openEngine(cmd, args[0])
			if err != nil {
				return err
			}
			defer set.Close()
			defer engine.Close()
			p := progress(cmd, "verify", false)
			defer p.Done()
			r, err := eval.Verify(cmd.Context(), engine, ref, t, p.Set)
			p.Done()
			if err != nil {
				return err
			}
			r.Model = set.Path()
			out := cmd.OutOrStdout()
			if asJSON {
				err = printJSON(out, struct {
					OK bool `json:"ok"`
					*eval.Report
				}{r.OK(), r})
			} else {
				err = printReport(out, r)
			}
			if err == nil && !r.OK() {
				text := strings.Join(r.Failures[:min(3, len(r.Failures))], "; ")
				if more := len(r.Failures) - 3; more > 0 {
					text += fmt.Sprintf("; and %d more", more)
				}
				return verifyError{fmt.Errorf("%s: not within the tolerance: %s", r.Model, text)}
			}
			return err
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.StringVar(&file, "reference", "", "file of tools/reference/reference.py")
	fl.Float64Var(&tol.Correlation, "min-correlation", 0, "least correlation of any layer and of the logits (default by the reference's type)")
	fl.Float64Var(&tol.MaxDifference, "max-difference", 0, "largest difference of a logit, as a share of the logits' range (default by the reference's type)")
	fl.Float64Var(&tol.NearTie, "near-tie", 0, "how close two tokens must be for either to count as right, as a share of the logits' range (default by the reference's type)")
	fl.BoolVar(&tol.LayerByLayer, "layer-by-layer", false, "start each layer from the reference's numbers, so that it is judged alone (needs a reference with --positions 0)")
	fl.BoolVar(&asJSON, "json", false, "print the report as JSON")
	return cmd
}

func printReport(w io.Writer, r *eval.Report) error {
	fmt.Fprintf(w, "reference  %s: %s, torch %s, transformers %s, %d prompts\n\n", r.Reference, r.DType, r.Torch, r.Transformers, r.Prompts)
	rows := [][]string{{"layer", "correlation", "max difference", "relative"}}
	row := func(x eval.Row) []string {
		return []string{x.Name, fmt.Sprintf("%.7f", x.Correlation), fmt.Sprintf("%.3g", x.MaxDiff), fmt.Sprintf("%.2e", x.Relative)}
	}
	for _, l := range r.Layers {
		rows = append(rows, row(l))
	}
	rows = append(rows, row(r.Logits))
	if err := term.Table(w, rows); err != nil {
		return err
	}
	fmt.Fprintf(w, "\nlogits     largest difference %.3g, %.2g of their range %.4g\n", r.Logits.MaxDiff, r.Logits.MaxDiff/r.Range, r.Range)
	fmt.Fprintf(w, "top-1      %d of %d positions\n", r.Top1, r.Positions)
	if r.Greedy > 0 {
		fmt.Fprintf(w, "greedy     %d of %d steps the same, %d more near ties; %d of %d continuations identical\n", r.Agree, r.Steps, r.NearTies, r.Identical, r.Greedy)
	}
	verdict := "passes"
	if !r.OK() {
		verdict = "FAILS"
	}
	deep := ""
	if r.Tolerance.PerLayer > 0 {
		deep = fmt.Sprintf(" behind one layer, %g less with each further one", r.Tolerance.PerLayer)
	}
	_, err := fmt.Fprintf(w, "tolerance  correlation ≥ %g%s, difference ≤ %.3g of the range: %s\n", r.Tolerance.Correlation, deep, r.MaxDifference(), verdict)
	return err
}
