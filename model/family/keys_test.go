package family

import (
	"encoding/json"
	"os"
	"slices"
	"testing"
)

// hfKeys reads what tools/reference/keys.py recorded of transformers: the keys of each configuration class with their
// defaults. "shared" are those that any class may be asked for.
func hfKeys(t *testing.T) map[string]map[string]any {
	t.Helper()
	var keys map[string]map[string]any
	readKeys(t, "../../testdata/keys/hf.json", &keys)
	return keys
}

// ggufKeys reads what keys.py recorded of gguf-py: keys without their prefix, by prefix: "{arch}" and "split".
func ggufKeys(t *testing.T) map[string][]string {
	t.Helper()
	var keys map[string][]string
	readKeys(t, "../../testdata/keys/gguf.json", &keys)
	return keys
}

func readKeys(t *testing.T, path string, into any) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// classified says of a family's key whether it is known to be used, harmless or refused. Nil until the families say so.
var classified func(class, key string) bool

// classifiedGGUF is the same for a key behind the architecture's name.
var classifiedGGUF func(arch, key string) bool

// TestEveryKeyIsClassified: no key that transformers or llama.cpp knows is passed over in silence.
func TestEveryKeyIsClassified(t *testing.T) {
	hf, gguf := hfKeys(t), ggufKeys(t)
	for _, class := range []string{"LlamaConfig", "BitNetConfig", "Qwen3Config", "Gemma3TextConfig", "BitNetQuantConfig", "RopeParameters", "shared"} {
		if len(hf[class]) < 5 {
			t.Errorf("hf.json has %d keys of %s", len(hf[class]), class)
		}
	}
	if !slices.Contains(gguf["{arch}"], "rope.scaling.type") || !slices.Contains(gguf["split"], "count") {
		t.Error("gguf.json lacks keys that every version of gguf-py has")
	}
	if classified == nil || classifiedGGUF == nil {
		t.Skip("the families do not classify their keys yet")
	}
	for class, keys := range hf {
		for key := range keys {
			if !classified(class, key) {
				t.Errorf("%s.%s: neither used, harmless nor refused", class, key)
			}
		}
	}
	for _, f := range families {
		for _, arch := range f.gguf {
			for _, key := range gguf["{arch}"] {
				if !classifiedGGUF(arch, key) {
					t.Errorf("%s.%s: neither used, harmless nor refused", arch, key)
				}
			}
		}
	}
}
