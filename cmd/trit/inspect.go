package main

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/eval"
	"github.com/tritlm/trit/internal/term"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/tokenizer"
	"github.com/tritlm/trit/weights"
)

// inspection is what inspect --json prints.
type inspection struct {
	Path         string         `json:"path"`
	Format       string         `json:"format"`
	Parts        []partInfo     `json:"parts,omitempty"`   // of a GGUF model in several files
	Refused      string         `json:"refused,omitempty"` // why the model cannot be run; only the files are described then
	Notes        []string       `json:"notes,omitempty"`
	Family       string         `json:"family"`
	Name         string         `json:"name,omitempty"`
	Ternary      bool           `json:"ternary"`
	WeightOnly   bool           `json:"weight_only"` // weights with scales of groups, times floats
	Parameters   int64          `json:"parameters"`
	Layers       int            `json:"layers"`
	HiddenSize   int            `json:"hidden_size"`
	Intermediate int            `json:"intermediate_size"`
	Heads        int            `json:"heads"`
	KVHeads      int            `json:"kv_heads"`
	HeadDim      int            `json:"head_dim"`
	Vocabulary   int            `json:"vocabulary"`
	MaxContext   int            `json:"max_context"`
	Activation   string         `json:"activation"`
	Pooling      model.Pooling  `json:"pooling,omitempty"`
	RopeTheta    float64        `json:"rope_theta,omitempty"`
	NormEps      float32        `json:"norm_eps"`
	TiedHead     bool           `json:"tied_head"`
	Types        []typeCount    `json:"types"`
	FileBytes    int64          `json:"tensor_bytes"`
	Tokenizer    *tokenizerInfo `json:"tokenizer,omitempty"`
	Memory       eval.Memory    `json:"memory"`
	MemoryTotal  int64          `json:"memory_at_full_context"`
	Tensors      []tensorInfo   `json:"tensors,omitempty"`
}

type partInfo struct {
	Path    string `json:"path"`
	Tensors int    `json:"tensors"`
	Bytes   int64  `json:"tensor_bytes"`
}

type typeCount struct {
	Type  string `json:"type"`
	Count int    `json:"count"`
	Bytes int64  `json:"bytes"`
}

type tokenizerInfo struct {
	Tokens       int      `json:"tokens"`
	BOS          string   `json:"bos,omitempty"`
	EOS          []string `json:"eos"`
	ChatTemplate bool     `json:"chat_template"`
	Warnings     []string `json:"warnings,omitempty"`
}

type tensorInfo struct {
	Name  string `json:"name"`
	Type  string `json:"type"`
	Shape []int  `json:"shape"`
	Bytes int64  `json:"bytes"`
}

func newInspectCmd() *cobra.Command {
	var f modelFlags
	var tensors, asJSON bool
	cmd := &cobra.Command{
		Use:   "inspect MODEL",
		Short: "Show what is in a model's files, and the memory it will need",
		Long: `Reads the headers of a model's files, and nothing else: architecture, tensors by type, tokenizer, and an
estimate of the memory that it will take, before anything is loaded. Of a model that cannot be run it shows the files,
and says why.`,
		Example: `  trit inspect microsoft/bitnet-b1.58-2B-4T
  trit inspect model.gguf --tensors
  trit inspect ./model --json | jq .memory_at_full_context`,
		Args: exactArgs("MODEL"),
		RunE: func(cmd *cobra.Command, args []string) error {
			set, err := f.openFiles(cmd, args[0])
			if err != nil {
				return err
			}
			defer set.Close()
			cfg, refused := f.config(set)
			i := inspect(cfg, set)
			if refused != nil {
				i.Refused = refused.Error()
			}
			tok, err := trit.LoadTokenizer(set, "")
			if err == nil {
				i.Tokenizer = describeTokenizer(tok)
			} else {
				note(cmd, "%v", err)
			}
			if tensors {
				for _, n := range set.Names() {
					i.Tensors = append(i.Tensors, tensorInfo{n, set.Type(n), set.Shape(n), set.Bytes(n)})
				}
			}
			if asJSON {
				err = printJSON(cmd.OutOrStdout(), i)
			} else {
				err = i.print(cmd.OutOrStdout())
			}
			if err == nil {
				err = refused
			}
			return err
		},
	}
	f.hubFlags.add(cmd)
	f.addFile(cmd)
	f.addKV(cmd)
	cmd.Flags().BoolVar(&tensors, "tensors", false, "list every tensor")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// inspect describes a model's files; c is nil for one that cannot be run.
func inspect(c *model.Config, set *weights.Set) *inspection {
	i := &inspection{Path: set.Path(), Format: "Hugging Face folder", Notes: set.Notes()}
	if c != nil {
		s := family.ShapeOf(c)
		*i = inspection{
			Path: i.Path, Format: i.Format, Notes: slices.Concat(i.Notes, c.Notes), Family: c.Family, Name: c.Name, Ternary: c.Ternary(),
			Layers: s.NumLayers, HiddenSize: c.HiddenSize, Intermediate: s.IntermediateSize, Heads: s.NumHeads, KVHeads: s.NumKVHeads, HeadDim: s.HeadDim,
			Vocabulary: c.VocabSize, MaxContext: c.MaxContext, Activation: string(s.Activation), Pooling: c.Pooling, RopeTheta: s.RopeTheta, NormEps: s.NormEps, TiedHead: s.TiedHead,
			Memory: eval.Estimate(c, set),
		}
		i.MemoryTotal, i.WeightOnly = i.Memory.Total(c.MaxContext), c.WeightOnly()
	}
	if g := set.GGUF(); g != nil {
		i.Format = fmt.Sprintf("GGUF version %d", g.Version)
	}
	if files := set.Parts(); len(files) > 1 {
		i.Format += fmt.Sprintf(" in %d files", len(files))
		for _, f := range files {
			p := partInfo{Path: f.Name, Tensors: len(f.Tensors)}
			for _, t := range f.Tensors {
				p.Bytes += t.Size
			}
			i.Parts = append(i.Parts, p)
		}
	}
	for _, n := range set.Names() {
		t := set.Type(n)
		at := slices.IndexFunc(i.Types, func(c typeCount) bool { return c.Type == t })
		if at < 0 {
			at = len(i.Types)
			i.Types = append(i.Types, typeCount{Type: t})
		}
		i.Types[at].Count++
		i.Types[at].Bytes += set.Bytes(n)
		i.FileBytes += set.Bytes(n)
		count := int64(1)
		for _, d := range set.Shape(n) {
			count *= int64(d)
		}
		if set.GGUF() == nil && set.IsTernary(n) {
			count *= 4 // packed, four to a byte
		}
		i.Parameters += count
	}
	return i
}

func describeTokenizer(t *tokenizer.Tokenizer) *tokenizerInfo {
	info := &tokenizerInfo{Tokens: t.VocabSize(), EOS: []string{}, Warnings: t.Warnings()}
	if id, ok := t.BOS(); ok {
		info.BOS = t.Token(id)
	}
	for _, id := range t.EOS() {
		info.EOS = append(info.EOS, t.Token(id))
	}
	_, err := t.Chat([]tokenizer.Message{{Role: "user", Content: "hi"}}, tokenizer.ChatOptions{})
	info.ChatTemplate = !errors.Is(err, tokenizer.ErrNoTemplate)
	return info
}

func (i *inspection) print(w io.Writer) error {
	arithmetic := "floats"
	switch {
	case i.Ternary:
		arithmetic = "ternary weights, int8 activations (W1.58A8)"
	case i.WeightOnly:
		arithmetic = "weights alone are quantised, with scales of groups; int16 activations"
	}
	rows := [][2]string{
		{"model", i.Path},
		{"format", i.Format + ", " + term.Bytes(i.FileBytes) + " of tensors"},
	}
	for _, p := range i.Parts {
		rows = append(rows, [2]string{"part", fmt.Sprintf("%s, %d tensors, %s", filepath.Base(p.Path), p.Tensors, term.Bytes(p.Bytes))})
	}
	if i.Refused != "" {
		rows = append(rows, [2]string{"parameters", term.Count(i.Parameters) + " in the file"})
		rows = slices.Concat(rows, i.stored(), [][2]string{{"refused", i.Refused}})
		return i.printRows(w, rows)
	}
	for _, n := range i.Notes {
		rows = append(rows, [2]string{"", "! " + n})
	}
	rows = append(rows, [][2]string{
		{"family", i.Family},
		{"arithmetic", arithmetic},
		{"parameters", term.Count(i.Parameters) + " in the file"},
		{"layers", fmt.Sprintf("%d of width %d, feed-forward %d (%s)", i.Layers, i.HiddenSize, i.Intermediate, i.Activation)},
		{"attention", fmt.Sprintf("%d heads of %d, %d for keys and values", i.Heads, i.HeadDim, i.KVHeads)},
		{"vocabulary", fmt.Sprintf("%d, head %s", i.Vocabulary, map[bool]string{true: "tied to the embedding", false: "of its own"}[i.TiedHead])},
		{"context", fmt.Sprintf("%d tokens", i.MaxContext)},
	}...)
	if i.Pooling != "" {
		rows = append(rows, [2]string{"makes", fmt.Sprintf("vectors of %d numbers (trit embed), pooling %s; no text", i.HiddenSize, i.Pooling)})
	}
	rows = append(rows, i.stored()...)
	m := i.Memory
	heads := "embedding and head " + term.Bytes(m.Embedding+m.Head)
	if m.Screen > 0 {
		heads = fmt.Sprintf("the head's screen %s (embedding and head, %s, stay in the file)", term.Bytes(m.Screen), term.Bytes(m.Embedding+m.Head))
	}
	projections := "projections " + term.Bytes(m.Ternary+m.Copies+m.Dense)
	if m.Experts > 0 {
		projections += ", experts " + term.Bytes(m.Experts)
	}
	rows = append(rows,
		[2]string{"memory", fmt.Sprintf("≈ %s: %s, %s", term.Bytes(m.Weights()), projections, heads)},
		[2]string{"", fmt.Sprintf("+ %s for each 1000 tokens of context, so %s at %d", term.Bytes(1000*m.KVToken), term.Bytes(i.MemoryTotal), i.MaxContext)},
		[2]string{"per token", fmt.Sprintf("≈ %s read, %s of it the head", term.Bytes(m.PerToken(0)), term.Bytes(m.HeadPerToken()))},
	)
	if m.State > 0 {
		rows = append(rows, [2]string{"", fmt.Sprintf("+ %s for the state of each text, part of what a token reads", term.Bytes(m.State))})
	}
	if m.Experts > 0 {
		rows = append(rows, [2]string{"", fmt.Sprintf("of the experts a token reads %s", term.Bytes(m.Taken))})
	}
	return i.printRows(w, rows)
}

// stored are the rows about tensors by type, and about the tokenizer.
func (i *inspection) stored() (rows [][2]string) {
	for _, t := range i.Types {
		rows = append(rows, [2]string{"tensors", fmt.Sprintf("%d of %s, %s", t.Count, t.Type, term.Bytes(t.Bytes))})
	}
	t := i.Tokenizer
	if t == nil {
		return rows
	}
	text := fmt.Sprintf("%d tokens, ends at %s", t.Tokens, strings.Join(t.EOS, " "))
	if t.BOS != "" {
		text += ", begins with " + t.BOS
	}
	if t.ChatTemplate {
		text += ", chat template"
	} else {
		text += ", no chat template"
	}
	rows = append(rows, [2]string{"tokenizer", text})
	for _, warning := range t.Warnings {
		rows = append(rows, [2]string{"", "! " + warning})
	}
	return rows
}

// printRows prints the rows, and the list of tensors behind them where it was asked for.
func (i *inspection) printRows(w io.Writer, rows [][2]string) error {
	if err := term.Pairs(w, rows); err != nil {
		return err
	}
	if i.Tensors == nil {
		return nil
	}
	fmt.Fprintln(w)
	list := [][]string{{"tensor", "type", "shape", "bytes"}}
	for _, t := range i.Tensors {
		list = append(list, []string{t.Name, t.Type, strings.Trim(fmt.Sprint(t.Shape), "[]"), fmt.Sprint(t.Bytes)})
	}
	return term.Table(w, list)
}
