package demo_test

import (
	"context"
	"io/fs"
	"strings"
	"testing"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/demo"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/sample"
	"github.com/tritlm/trit/train"
)

// TestTheDemoSpeaks loads the embedded model and looks for English in what it writes.
func TestTheDemoSpeaks(t *testing.T) {
	var size int64
	fs.WalkDir(demo.FS(), ".", func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			t.Fatal(err)
		}
		if i, err := d.Info(); err == nil && !d.IsDir() {
			size += i.Size()
		}
		return nil
	})
	if size > 3<<20 {
		t.Errorf("the embedded model has %d bytes, more than 3 MiB", size)
	}
	m, err := trit.OpenFS(context.Background(), demo.FS(), "demo", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	have := family.ShapeOf(m.Config())
	if p, err := train.Preset("demo", "bitnet", "ternary"); err != nil || have.HiddenSize != p.HiddenSize || have.IntermediateSize != p.IntermediateSize ||
		have.NumLayers != p.NumLayers || have.NumHeads != p.NumHeads || have.NumKVHeads != p.NumKVHeads || have.MaxContext != p.Block {
		t.Errorf("the model has not the shape of the preset demo, %+v: %v", p, err)
	}
	var b strings.Builder
	for p, err := range m.NewSession().Generate(context.Background(), "ROMEO:\n", trit.GenerateOptions{MaxTokens: 240, Options: sample.Options{Temperature: 0.7, Seed: 1}}) {
		if err != nil {
			t.Fatal(err)
		}
		b.WriteString(p.Text)
	}
	text := b.String()
	t.Logf("ROMEO:\n%s", text)
	known := 0
	words := strings.Fields(strings.ToLower(text))
	common := " the and to of i a my in you that is not with his your be for have it this me he but as thou so him will what her no thy all by we shall are "
	for _, w := range words {
		if strings.Contains(common, " "+strings.Trim(w, ".,;:!?'")+" ") {
			known++
		}
	}
	if known*6 < len(words) {
		t.Errorf("%d of %d words are common English ones", known, len(words))
	}
}
