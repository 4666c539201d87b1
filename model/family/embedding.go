package family

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/tritlm/trit/internal/infile"
	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/weights"
)

// projectionNorm is the module of the norms in front of projections of the embedding models, which no configuration mentions:
// with them the masters are BitLinear.
const projectionNorm = "norm"

// hasProjectionNorms says whether there are such norms, under the name of either form.
func hasProjectionNorms(s *weights.Set) bool {
	for _, name := range s.Names() {
		if hf, ok := s.HFName(name); ok && (strings.HasSuffix(hf, "_proj.norm.weight") || strings.HasSuffix(name, "_norm_in.weight")) {
			return true
		}
	}
	return false
}

// embeddingKeys are the keys that embeds of a GGUF file reads.
var embeddingKeys = []string{"pooling_type"}

// embeds makes cfg that of a model for vectors where the file says how they are pooled. Values as in llama.cpp's
// llama.h: 1 is mean, 2 the first token, 3 the last. The published files say 1, which is what their converter writes
// when it is not told; the models are trained with the last token (microsoft/BitNet
// docs/bitnet-embeddings-i2s-guide.md).
func (g *ggufReader) embeds(cfg *model.Config, end string) error {
	if !g.has("pooling_type") {
		return nil
	}
	kind := g.num("pooling_type", 0)
	if g.err == nil && kind != 1 && kind != 3 {
		return fmt.Errorf("%s.pooling_type is %d; mean (1) and last (3) are supported", g.arch, kind)
	}
	cfg.EmbedEnd, cfg.Pooling, cfg.MeanInFile = end, model.PoolLast, kind == 1
	return g.err
}

// embeds makes cfg that of a model for vectors, not text. The pooling is that of sentence-transformers' files.
func embeds(cfg *model.Config, s *weights.Set, end string) error {
	cfg.EmbedEnd, cfg.Pooling = end, model.PoolLast
	var modules []struct{ Path, Type string }
	if ok, err := readJSON(s, "modules.json", &modules); !ok {
		return err
	}
	for _, m := range modules {
		switch kind := m.Type[strings.LastIndexByte(m.Type, '.')+1:]; kind {
		case "Transformer", "Normalize":
			continue
		case "Pooling":
		default:
			return fmt.Errorf("modules.json has a module %q; known: Transformer, Pooling, Normalize", m.Type)
		}
		var p struct {
			Last bool   `json:"pooling_mode_lasttoken"`
			Mean bool   `json:"pooling_mode_mean_tokens"`
			Mode string `json:"pooling_mode"` // newer files
		}
		name := strings.TrimPrefix(m.Path+"/config.json", "/")
		ok, err := readJSON(s, name, &p)
		switch {
		case err != nil:
			return err
		case !ok || p.Last || p.Mode == "lasttoken":
		case p.Mean || p.Mode == "mean":
			cfg.Pooling = model.PoolMean
		default:
			return fmt.Errorf("%s asks for a pooling that is neither lasttoken nor mean_tokens", name)
		}
	}
	return nil
}

// readJSON reads a small file beside config.json; ok is false where there is none.
func readJSON(s *weights.Set, name string, v any) (ok bool, err error) {
	data, err := infile.ReadFS(s.Folder(), name, infile.Text)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, fs.ErrInvalid): // a path out of the folder is not there either
		return false, nil
	case err != nil:
		return false, err
	}
	if err := json.Unmarshal(data, v); err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	return true, nil
}
