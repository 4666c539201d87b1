package family

import (
	"encoding/json"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/tritlm/trit/gguf"
)

// readRecorded reads a list of tools/reference/keys.py: hf.json has the keys of transformers' configuration classes with their
// defaults, gguf.json those of gguf-py by prefix.
func readRecorded(t *testing.T, file string, into any) {
	t.Helper()
	path := "../../testdata/keys/" + file
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
}

// TestEveryHFKeyIsClassified: every key of a family's configuration class, and of what transformers' shared code reads of any
// configuration, is used, harmless or refused; and a default that trit takes is the class's.
func TestEveryHFKeyIsClassified(t *testing.T) {
	var recorded map[string]map[string]any
	readRecorded(t, "hf.json", &recorded)
	checked := 0
	for _, f := range families {
		class := recorded[f.keys.class]
		if class == nil {
			continue // not a class of transformers, or not one that keys.py lists
		}
		checked++
		for _, keys := range []map[string]any{class, recorded["shared"]} {
			for key := range keys {
				unknown, err := f.keys.check([]byte(`{"` + key + `": "a value that nobody allows"}`))
				if err == nil && len(unknown) > 0 {
					t.Errorf("%s: %s.%s is neither used, harmless nor refused", f.name, f.keys.class, key)
				}
			}
		}
		var defaults map[string]any
		if err := json.Unmarshal([]byte(f.keys.defaults), &defaults); err != nil {
			t.Fatal(err)
		}
		for key, ours := range defaults {
			if theirs := class[key]; theirs != nil && !reflect.DeepEqual(ours, theirs) {
				t.Errorf("%s: %s is %v where it is missing, but %v in %s", f.name, key, ours, theirs, f.keys.class)
			}
		}
	}
	if checked < 4 {
		t.Errorf("only %d families have a class in hf.json", checked)
	}
}

// TestEveryRopeKeyIsRead: what rope_parameters may hold is read, or belongs to a kind that is refused by name.
func TestEveryRopeKeyIsRead(t *testing.T) {
	var recorded map[string]map[string]any
	readRecorded(t, "hf.json", &recorded)
	refused := map[string]bool{"short_factor": true, "long_factor": true, "mrope_section": true} // longrope; several axes
	read := jsonNames(reflect.TypeFor[hfRope]())
	for key := range recorded["RopeParameters"] {
		if !read[key] && !refused[key] {
			t.Errorf("rope_parameters.%s is not read", key)
		}
	}
}

func jsonNames(s reflect.Type) map[string]bool {
	names := map[string]bool{}
	for i := range s.NumField() {
		name, _, _ := strings.Cut(s.Field(i).Tag.Get("json"), ",")
		names[name] = true
	}
	return names
}

// TestEveryGGUFKeyIsClassified: a key behind the architecture's name that gguf-py knows is used, harmless or refused by name.
func TestEveryGGUFKeyIsClassified(t *testing.T) {
	var recorded map[string][]string
	readRecorded(t, "gguf.json", &recorded)
	if len(recorded["{arch}"]) < 100 {
		t.Fatalf("%d keys in gguf.json", len(recorded["{arch}"]))
	}
	for _, f := range families {
		for _, arch := range f.gguf {
			taken := map[string]bool{}
			for _, list := range [][]string{ggufUsed, ggufHarmless, f.ggufKeys} {
				for _, key := range list {
					taken[key] = true
				}
			}
			for _, key := range recorded["{arch}"] {
				g := &ggufReader{arch: arch, kv: gguf.KV{{Key: arch + "." + key, Value: uint32(7)}}}
				if err := g.checkKeys(f); (err == nil) != taken[key] || err != nil && !strings.Contains(err.Error(), arch+"."+key) {
					t.Errorf("%s.%s: taken %v: %v", arch, key, taken[key], err)
				}
			}
		}
	}
}
