package trit

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/tokenizer"
)

// EmbedOptions say how texts become vectors; the zero value takes them as they are.
type EmbedOptions struct {
	Prefix     string // in front of every text: embedding models are trained with one, such as "query: "
	Dimensions int    // numbers of each vector that are kept, the first ones; 0: all
}

// Embed makes a vector of length 1 of every text: of a model for that, such as BitNet-embedding, as it was trained to;
// of a model that writes text, its state behind the last token.
func (m *Model) Embed(ctx context.Context, texts []string, o EmbedOptions) ([][]float32, error) {
	if o.Dimensions < 0 || o.Dimensions > m.cfg.HiddenSize {
		return nil, fmt.Errorf("trit: %d dimensions; the model has %d", o.Dimensions, m.cfg.HiddenSize)
	}
	tokens := make([][]int32, len(texts))
	for i, text := range texts {
		var err error
		if tokens[i], err = EmbedTokens(m.tokenizer, m.cfg, o.Prefix+text); err != nil {
			return nil, fmt.Errorf("trit: text %d: %w", i+1, err)
		}
		if n := len(tokens[i]); n > m.maxContext {
			return nil, fmt.Errorf("trit: text %d: %d tokens do not fit the context of %d; cut the text: %w", i+1, n, m.maxContext, ErrContextFull)
		}
	}
	var vectors [][]float32
	for len(vectors) < len(texts) {
		v, err := m.embed(ctx, tokens[len(vectors):], o.Dimensions)
		if err != nil {
			return nil, err
		}
		vectors = append(vectors, v...)
	}
	return vectors, nil
}

// embedTokens is how many tokens go through the model together: several short texts, or one long one.
const embedTokens = 512

// embed makes vectors of the first few texts, as many as go together.
func (m *Model) embed(ctx context.Context, texts [][]int32, dims int) ([][]float32, error) {
	var batch []model.Input
	var pools []*model.Pool
	defer func() {
		for _, in := range batch {
			in.Cache.Close()
		}
	}()
	total := 0
	for _, t := range texts {
		if total += len(t); total > embedTokens && len(batch) > 0 {
			break
		}
		cache, err := m.engine.NewCache(len(t))
		if err != nil {
			return nil, err
		}
		p := model.NewPool(m.cfg)
		batch, pools = append(batch, model.Input{Cache: cache, Tokens: t, Hidden: p.Hidden(len(t), true)}), append(pools, p)
	}
	if err := m.engine.Forward(ctx, batch); err != nil {
		return nil, err
	}
	vectors := make([][]float32, len(pools))
	for i, p := range pools {
		p.Add()
		vectors[i] = p.Vector(dims)
	}
	return vectors, nil
}

// EmbedTokens are the tokens of a text that is to become a vector: what the tokenizer puts around a text, and the end
// token that the model was trained to gather the text in.
func EmbedTokens(t *tokenizer.Tokenizer, c *model.Config, text string) ([]int32, error) {
	if !utf8.ValidString(text) {
		return nil, fmt.Errorf("not valid UTF-8 at byte %d", invalidAt(text))
	}
	if err := t.Check(text); err != nil {
		return nil, err
	}
	ids := t.Encode(text, tokenizer.EncodeOptions{AddSpecial: true})
	if end, ok := t.ID(c.EmbedEnd); ok && (len(ids) == 0 || ids[len(ids)-1] != end) {
		ids = append(ids, end)
	}
	if len(ids) == 0 {
		return nil, errors.New("the text is empty, and this model has no token to begin with")
	}
	return slices.Clip(ids), nil
}

// errVectors: text was asked of a model that makes vectors.
var errVectors = errors.New("trit: this model makes vectors of texts and writes none: take trit embed, Model.Embed or /v1/embeddings")
