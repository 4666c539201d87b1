package eval

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/cpu"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/weights"
)

// matrix is a quarter of the models that tools/reference/matrix.py makes, with what each must be.
const matrix = "../testdata/matrix"

// load opens a model folder up to an engine; notes are what people are told of it.
func load(t *testing.T, dir string) (e model.Engine, notes []string, err error) {
	t.Helper()
	set, err := weights.Open(dir, nil)
	if err != nil {
		return nil, nil, err
	}
	t.Cleanup(func() { set.Close() })
	cfg, err := family.Read(set)
	if err != nil {
		return nil, nil, err
	}
	if e, err = (cpu.Backend{Threads: 1}).Load(t.Context(), cfg, set); err == nil {
		t.Cleanup(func() { e.Close() })
	}
	return e, slices.Concat(set.Notes(), cfg.Notes), err
}

// TestMatrix: over the keys of a configuration that can change the arithmetic, a model is exact or refused by name.
func TestMatrix(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(matrix, "expected.json"))
	if err != nil {
		t.Fatal(err)
	}
	var expected map[string]string
	if err := json.Unmarshal(b, &expected); err != nil {
		t.Fatal(err)
	}
	dirs, err := filepath.Glob(filepath.Join(matrix, "*", "config.json"))
	if err != nil || len(dirs) != len(expected) || len(dirs) < 150 {
		t.Fatalf("%d folders, %d in expected.json: %v", len(dirs), len(expected), err)
	}
	for name, want := range expected {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(matrix, name)
			e, notes, err := load(t, dir)
			if note, ok := strings.CutPrefix(want, "note: "); ok {
				if err != nil || !strings.Contains(strings.Join(notes, "\n"), note) {
					t.Errorf("%v; noted: %q, want something of %q", err, notes, note)
				}
				return
			}
			if want != "" {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("loading gives the error %v, want one of %q", err, want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			ref, err := ReadReference(filepath.Join(dir, "ref.safetensors"))
			if err != nil {
				t.Fatal(err)
			}
			// No activation of these is near a half, so that only float32's own rounding may differ.
			tol := Tolerance{Correlation: 0.99999999, MaxDifference: 1e-4, NearTie: 1e-4}
			if deep := strings.Contains(name, ".depth-"); deep {
				if r, err := Verify(t.Context(), e, ref, Tolerance{Correlation: 0.99999, MaxDifference: 0.01, NearTie: 0.005}, nil); err != nil || r.OK() {
					t.Errorf("%v: this right model does not show why the tolerance grows with depth", err)
				}
				tol = DefaultTolerance(ref.DType())
			}
			r, err := Verify(t.Context(), e, ref, tol, nil)
			if err != nil {
				t.Fatal(err)
			}
			if !r.OK() {
				t.Error(strings.Join(r.Failures, "\n"))
			}
		})
	}
}
