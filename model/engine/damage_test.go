package engine_test

import (
	"encoding/binary"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/model/cpu"
	"github.com/tritlm/trit/model/family"
	"github.com/tritlm/trit/safetensors"
	"github.com/tritlm/trit/weights"
)

// TestDamagedTensorsAreNamed: a NaN or an infinity in any float tensor ends loading or the first pass with the tensor's name.
func TestDamagedTensorsAreNamed(t *testing.T) {
	for _, name := range []string{"bitnet.plain", "llama-online.mixture-1", "llama.bias", "llama-rms.skip-suffix-k", "gemma3.plain", "llama-bit.skip-q-bias"} {
		dir := filepath.Join("../../testdata/matrix", name)
		original, err := os.ReadFile(filepath.Join(dir, "model.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		config, err := os.ReadFile(filepath.Join(dir, "config.json"))
		if err != nil {
			t.Fatal(err)
		}
		file, err := safetensors.Read(strings.NewReader(string(original)), int64(len(original)), name)
		if err != nil {
			t.Fatal(err)
		}
		for i := range file.Tensors {
			tensor := &file.Tensors[i]
			if tensor.DType == safetensors.U8 {
				continue
			}
			for _, bad := range []float64{math.NaN(), math.Inf(1)} {
				damaged := append([]byte(nil), original...)
				put(damaged[tensor.Offset:][:tensor.Size], tensor.DType, bad)
				folder := t.TempDir()
				if err := os.WriteFile(filepath.Join(folder, "model.safetensors"), damaged, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(folder, "config.json"), config, 0o600); err != nil {
					t.Fatal(err)
				}
				if err := firstPass(t, folder); err == nil || !strings.Contains(err.Error(), tensor.Name) {
					t.Errorf("%s with %g in %s: %v", name, bad, tensor.Name, err)
				}
			}
		}
	}
}

// put overwrites the first element.
func put(b []byte, typ safetensors.DType, x float64) {
	switch typ {
	case safetensors.F32:
		binary.LittleEndian.PutUint32(b, math.Float32bits(float32(x)))
	case safetensors.BF16:
		binary.LittleEndian.PutUint16(b, uint16(math.Float32bits(float32(x))>>16))
	case safetensors.F16:
		bits := uint16(0x7c00)
		if math.IsNaN(x) {
			bits++
		}
		binary.LittleEndian.PutUint16(b, bits)
	}
}

// firstPass loads the folder and computes logits of every token that the vocabulary has.
func firstPass(t *testing.T, folder string) error {
	t.Helper()
	set, err := weights.Open(folder, nil)
	if err != nil {
		return err
	}
	defer set.Close()
	cfg, err := family.Read(set)
	if err != nil {
		return err
	}
	e, err := cpu.Backend{Threads: 1}.Load(t.Context(), cfg, set)
	if err != nil {
		return err
	}
	defer e.Close()
	cache, err := e.NewCache(cfg.VocabSize)
	if err != nil {
		return err
	}
	defer cache.Close()
	in := model.Input{Cache: cache, Logits: make([]float32, cfg.VocabSize)}
	for i := range cfg.VocabSize {
		in.Tokens = append(in.Tokens, int32(i))
	}
	return e.Forward(t.Context(), []model.Input{in})
}
