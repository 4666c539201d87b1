package weights_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tritlm/trit/weights"
)

// TestMLX compares every number of bits with what mlx.core.dequantize reads (tools/reference/mlx_affine.py). MLX multiplies and adds in
// one rounding on some machines and in two on others: a last bit is left to it.
func TestMLX(t *testing.T) {
	data, err := os.ReadFile("testdata/mlx.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	modules := map[string]any{"bits": 4, "group_size": 64}
	for _, bits := range []int{2, 3, 4, 5, 6, 8} {
		for _, group := range []int{32, 64, 128} {
			modules[fmt.Sprintf("b%dg%d", bits, group)] = map[string]any{"bits": bits, "group_size": group}
		}
	}
	dir := folder(t, map[string]any{"quantization": modules}, data)
	set, err := weights.Open(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer set.Close()
	for name := range modules {
		if !strings.HasPrefix(name, "b") || name == "bits" {
			continue
		}
		got, err := set.Dense(name+".weight", 3, 256)
		if err != nil {
			t.Fatal(err)
		}
		want, err := set.Dense(name+".want", 3, 256)
		if err != nil {
			t.Fatal(err)
		}
		a, b := make([]float32, 256), make([]float32, 256)
		for r := range 3 {
			got.Row(a, r)
			want.Row(b, r)
			for i := range a {
				if d := math.Abs(float64(a[i]) - float64(b[i])); d > 3e-7 {
					t.Fatalf("%s: row %d, column %d is %g, want %g", name, r, i, a[i], b[i])
				}
			}
		}
		if set.IsGrouped(name + ".weight") {
			t.Errorf("%s: weights of a normal distribution are taken for ternary ones", name)
		}
	}
}

func TestMLXRefused(t *testing.T) {
	data, err := os.ReadFile("testdata/mlx.safetensors")
	if err != nil {
		t.Fatal(err)
	}
	for words, q := range map[string]any{
		"7 bits":     map[string]any{"bits": 7, "group_size": 64},
		"48":         map[string]any{"bits": 4, "group_size": 48},
		"mxfp4":      map[string]any{"bits": 4, "group_size": 32, "mode": "mxfp4"},
		".b4g64 has": map[string]any{"bits": 4, "group_size": 64, "b4g64": map[string]any{"bits": 9, "group_size": 64}},
		"shape":      map[string]any{"bits": 2, "group_size": 64},
	} {
		set, err := weights.Open(folder(t, map[string]any{"quantization": q}, data), nil)
		if err == nil {
			_, err = set.Dense("b4g64.weight", 3, 256)
			set.Close()
		}
		if err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%v: %v", q, err)
		}
	}
}

// folder writes a folder of a configuration and tensors.
func folder(t *testing.T, config map[string]any, tensors []byte) string {
	t.Helper()
	dir := t.TempDir()
	text, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"config.json": text, "model.safetensors": tensors} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}
