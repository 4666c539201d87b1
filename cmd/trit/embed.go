package main

import (
	"encoding/json"
	"strings"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/model"
)

func newEmbedCmd() *cobra.Command {
	var f modelFlags
	var o trit.EmbedOptions
	var file string
	cmd := &cobra.Command{
		Use:   "embed MODEL [TEXT...]",
		Short: "Make vectors of texts",
		Long: `Prints a vector of length 1 for every text, a JSON line each: {"index":0,"embedding":[...]}.
Texts come from the arguments, or one a line from --file or standard input. The closer two texts are in meaning, the
larger the sum of the products of their vectors.

MODEL is an embedding model, such as BitNet-embedding 0.6B and 270M, whose end-of-text token and pooling are
taken care of; of a model that writes text it is the state behind the last token. Embedding models are
trained with a prefix in front of questions: their model card says which.`,
		Example: `  trit embed bitnet-embeddings-0.6b-bf16-i2_s.gguf "query: What is BitNet?"
  trit embed ./model --prefix "query: " --file questions.txt > vectors.jsonl`,
		Args: modelAndText,
		RunE: func(cmd *cobra.Command, args []string) error {
			texts := args[1:]
			if len(texts) == 0 || file != "" {
				lines, err := readPrompt(cmd, texts, file)
				if err != nil {
					return err
				}
				texts = strings.Split(strings.TrimSuffix(strings.ReplaceAll(lines, "\r\n", "\n"), "\n"), "\n")
			}
			if o.Dimensions < 0 {
				return usagef("--dimensions cannot be negative")
			}
			m, err := f.open(cmd, args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			bar := progress(cmd, "embed", false)
			defer bar.Done()
			out := json.NewEncoder(cmd.OutOrStdout())
			const group = 64 // texts between two signs of life
			for i := 0; i < len(texts); i += group {
				part := texts[i:min(i+group, len(texts))]
				vectors, err := m.Embed(cmd.Context(), part, o)
				if err != nil {
					return err
				}
				for n, v := range vectors {
					if err := out.Encode(embedding{i + n, v}); err != nil {
						return err
					}
				}
				bar.Set(int64(i+len(part)), int64(len(texts)))
			}
			return nil
		},
	}
	f.add(cmd)
	f.addPooling(cmd)
	fl := cmd.Flags()
	fl.StringVarP(&file, "file", "f", "", "read texts from this file, one a line; - is standard input")
	fl.StringVar(&o.Prefix, "prefix", "", "put this in front of every text")
	fl.IntVar(&o.Dimensions, "dimensions", 0, "keep the first so many numbers (default all)")
	return cmd
}

// embedding is a line of what trit embed prints.
type embedding struct {
	Index     int       `json:"index"`
	Embedding []float32 `json:"embedding"`
}

// addPooling adds the flag of the commands that make vectors.
func (f *modelFlags) addPooling(cmd *cobra.Command) {
	list := []string{string(model.PoolLast), string(model.PoolMean)}
	cmd.Flags().StringVar((*string)(&f.Pooling), "pooling", "", "how an embedding model makes one vector of a text's states: "+strings.Join(list, " or ")+" (default what it was trained for)")
	cmd.RegisterFlagCompletionFunc("pooling", cobra.FixedCompletions(list, cobra.ShellCompDirectiveNoFileComp))
}
