package jinja

import (
	"testing"
	"time"
	"unicode/utf8"
)

// FuzzTemplate: parsing and rendering end soon, whatever the template.
func FuzzTemplate(f *testing.F) {
	list := readRenderings(f, "testdata/snippets.jsonl")
	for _, r := range list[1:] {
		f.Add(r.Template)
	}
	v := vars(f, list[0].Vars)
	f.Fuzz(func(t *testing.T, src string) {
		tmpl, err := Parse(src)
		if err != nil {
			return
		}
		start := time.Now()
		out, err := tmpl.Render(v, now)
		if d := time.Since(start); d > 20*time.Second {
			t.Fatalf("%v", d)
		}
		if err == nil && utf8.ValidString(src) && len(out) > maxText {
			t.Fatalf("%d bytes", len(out))
		}
	})
}
