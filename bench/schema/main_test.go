package main

import (
	"os"
	"path/filepath"
	"testing"
)

// The three measurements run on a collection of one schema each, without other engines.
func TestMeasurements(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("a.json", `[{"description":"d","schema":{"type":"integer"},"tests":[{"description":"t","data":1,"valid":true},{"description":"f","data":"x","valid":false}]}]`)
	if err := suite(dir); err != nil {
		t.Error(err)
	}
	write("a.json", `{"type":"object","properties":{"a":{"type":"string"}},"required":["a"]}`)
	*samples = filepath.Join(dir, "out")
	if err := accept(dir); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(*samples); err != nil || len(b) == 0 {
		t.Errorf("samples: %q, %v", b, err)
	}
	if err := mask(dir); err == nil {
		t.Error("masks without a vocabulary")
	}
	if got := string(spaced([]byte(`{"a,\":":[1,2],"b":{}}`))); got != `{"a,\":": [1, 2], "b": {}}` {
		t.Error(got)
	}
}
