package train

import (
	"context"
	"fmt"
	"html"
	"io"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"

	"github.com/tritlm/trit/data"
	"github.com/tritlm/trit/internal/par"
)

// Comparison is one row of the table that Compare makes.
type Comparison struct {
	Arch, Precision string
	Params, Ternary int
	Bytes           int64   // model.safetensors, packed
	PeakMiB         float64 // the process's largest resident memory while it trained, code and tokens included
	TokensPerS      float64
	Train           float64 // mean loss of the last tenth of the steps
	Val             float64
	Sample          string
}

// Perplexity is e to the validation loss.
func (c *Comparison) Perplexity() float64 { return math.Exp(c.Val) }

// Compare trains each case on the same tokens with the same options, below dir, continuing runs that
// are there, and tells of every step. A run that is there with other options, or on another text, is an error.
func Compare(ctx context.Context, dir string, cases []Config, o Options, vocab *data.Vocab, ids []int32, valShare float64, pool *par.Pool, tell func(c Config, r Record)) ([]Comparison, error) {
	if err := CheckValShare(valShare); err != nil {
		return nil, err
	}
	var rows []Comparison
	for _, c := range cases {
		row, err := compareOne(ctx, filepath.Join(dir, c.Arch+"-"+c.Precision), c, o, vocab, ids, valShare, pool, tell)
		if err != nil {
			return rows, err
		}
		rows = append(rows, *row)
	}
	return rows, nil
}

func compareOne(ctx context.Context, dir string, c Config, o Options, vocab *data.Vocab, ids []int32, valShare float64, pool *par.Pool, tell func(Config, Record)) (*Comparison, error) {
	var r *Run
	var err error
	resetPeak()
	if _, e := os.Stat(filepath.Join(dir, lastName)); e == nil {
		r, err = Resume(dir, pool, func(c *Checkpoint) { c.Options.MaxIters = o.MaxIters })
		if err == nil {
			c.VocabSize = vocab.Size()
			if err := sameRun(r, c, o, ids, valShare); err != nil {
				r.Close()
				return nil, fmt.Errorf("train: %s holds %w; choose another --save-dir", dir, err)
			}
		}
	} else {
		r, err = Start(dir, c, o, vocab, ids, valShare, pool)
	}
	if err != nil {
		return nil, err
	}
	defer r.Close()
	if err := r.Do(ctx, func(rec Record) { tell(c, rec) }); err != nil {
		return nil, err
	}
	m := r.Trainer.Model
	row := &Comparison{Arch: c.Arch, Precision: c.Precision, Params: m.NumParams(), Ternary: m.NumTernary(), Val: r.Trainer.Best}
	if st, err := os.Stat(filepath.Join(dir, "model.safetensors")); err == nil {
		row.Bytes = st.Size()
	}
	recs, err := ReadMetrics(dir)
	if err != nil {
		return nil, err
	}
	tokens, seconds, n := 0.0, 0.0, 0
	for _, rec := range recs {
		row.PeakMiB = max(row.PeakMiB, rec.PeakMiB)
		tokens += rec.TokensPerS * rec.Seconds
		seconds += rec.Seconds
		if rec.Step > r.Trainer.Steps*9/10 {
			row.Train += rec.Loss
			n++
		}
		if rec.Sample != "" {
			row.Sample = rec.Sample
		}
	}
	row.Train /= float64(max(n, 1))
	row.TokensPerS = tokens / max(seconds, 1e-9)
	return row, nil
}

// sameRun reports what makes the run that is there another one than the comparison's.
func sameRun(r *Run, c Config, o Options, ids []int32, valShare float64) error {
	if was := r.Trainer.Model.Config; was != c {
		return fmt.Errorf("a run of another shape (%d layers, hidden %d)", was.NumLayers, was.HiddenSize)
	}
	if train, val := data.Split(ids, valShare); !r.Train.Equal(train) || !r.Val.Equal(val) {
		return fmt.Errorf("a run on other tokens (%d to train on and %d to validate, here %d and %d)", r.Train.Len(), r.Val.Len(), len(train), len(val))
	}
	was := &r.Trainer.Options
	for _, f := range []struct {
		name     string
		was, now any
	}{
		{"batch-size", was.BatchSize, o.BatchSize},
		{"accumulate", was.Accumulate, o.Accumulate},
		{"lr", was.LR, o.LR},
		{"min-lr", was.MinLR, o.MinLR},
		{"schedule", was.Schedule, o.Schedule},
		{"warmup", was.Warmup, o.Warmup},
		{"weight-decay", was.WeightDecay, o.WeightDecay},
		{"beta1", was.Beta1, o.Beta1},
		{"beta2", was.Beta2, o.Beta2},
		{"eps", was.Eps, o.Eps},
		{"clip", was.Clip, o.Clip},
		{"seed", was.Seed, o.Seed},
		{"grad-precision", was.Gradients, o.Gradients},
		{"eval-every", was.EvalEvery, o.EvalEvery},
		{"eval-batches", was.EvalBatches, o.EvalBatches},
	} {
		if f.was != f.now {
			return fmt.Errorf("a run with --%s %v, not %v", f.name, f.was, f.now)
		}
	}
	return nil
}

// resetPeak gives memory that is not needed back and, on Linux, lets the mark that PeakMiB reads begin again.
func resetPeak() {
	debug.FreeOSMemory()
	_ = os.WriteFile("/proc/self/clear_refs", []byte("5"), 0o200) // elsewhere the mark is of the whole process
}

var columns = []string{"architecture", "precision", "parameters", "ternary", "bytes on disk", "peak MiB", "tokens/s", "training loss", "validation loss", "perplexity"}

func (c *Comparison) cells() []string {
	return []string{
		c.Arch, c.Precision, fmt.Sprint(c.Params), fmt.Sprint(c.Ternary), fmt.Sprint(c.Bytes), fmt.Sprintf("%.0f", c.PeakMiB), fmt.Sprintf("%.0f", c.TokensPerS),
		decimals(c.Train, 4), decimals(c.Val, 4), decimals(c.Perplexity(), 3),
	}
}

// decimals is v, or a dash where nothing was measured.
func decimals(v float64, n int) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "–"
	}
	return strconv.FormatFloat(v, 'f', n, 64)
}

// Table is the comparison in Markdown, samples below it.
func Table(rows []Comparison) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| %s |\n|%s\n", strings.Join(columns, " | "), strings.Repeat(" --- |", len(columns)))
	for i := range rows {
		fmt.Fprintf(&b, "| %s |\n", strings.Join(rows[i].cells(), " | "))
	}
	for _, r := range rows {
		if r.Sample != "" {
			fmt.Fprintf(&b, "\n%s %s:\n\n    %s\n", r.Arch, r.Precision, strings.ReplaceAll(strings.TrimSpace(r.Sample), "\n", "\n    "))
		}
	}
	return b.String()
}

// WriteTable writes compare.md and compare.html into dir.
func WriteTable(dir string, rows []Comparison) error {
	if err := WriteFile(filepath.Join(dir, "compare.md"), func(w io.Writer) error { _, err := io.WriteString(w, Table(rows)); return err }); err != nil {
		return err
	}
	var b strings.Builder
	b.WriteString("<!doctype html><html lang=\"en\"><meta charset=\"utf-8\"><title>trit compare</title><style>body{font:15px/1.5 system-ui,sans-serif;margin:2rem}td,th{padding:.3rem .7rem;border-bottom:1px solid #ddd;text-align:right}pre{background:#f6f6f4;padding:.8rem}</style><h1>Comparison</h1><table><tr>")
	for _, c := range columns {
		fmt.Fprintf(&b, "<th>%s", c)
	}
	b.WriteString("</tr>\n")
	for i := range rows {
		b.WriteString("<tr>")
		for _, c := range rows[i].cells() {
			fmt.Fprintf(&b, "<td>%s", html.EscapeString(c))
		}
		b.WriteString("</tr>\n")
	}
	b.WriteString("</table>\n")
	for _, r := range rows {
		fmt.Fprintf(&b, "<h2>%s %s</h2><pre>%s</pre>\n", r.Arch, r.Precision, html.EscapeString(r.Sample))
	}
	b.WriteString("</html>\n")
	return WriteFile(filepath.Join(dir, "compare.html"), func(w io.Writer) error { _, err := io.WriteString(w, b.String()); return err })
}
