package train

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"testing"

	"github.com/tritlm/trit/internal/par"
)

// FuzzCheckpoint looks for checkpoints that panic, take for ever, or pass although they are damaged.
func FuzzCheckpoint(f *testing.F) {
	pool := par.New(1)
	f.Cleanup(pool.Close)
	path := filepath.Join(f.TempDir(), "last.ckpt")
	c, err := Preset("tiny", "llama", "ternary")
	if err != nil {
		f.Fatal(err)
	}
	c.VocabSize, c.HiddenSize, c.IntermediateSize, c.NumLayers, c.NumHeads, c.NumKVHeads, c.Block = 4, 8, 8, 1, 2, 2, 4
	m, err := New(c, pool, 1)
	if err != nil {
		f.Fatal(err)
	}
	t, err := NewTrainer(m, DefaultOptions())
	if err != nil {
		f.Fatal(err)
	}
	if err := t.Save(path, []byte(`{"model":{}}`)); err != nil {
		f.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		f.Fatal(err)
	}
	for _, change := range []map[string]any{
		nil, {"steps": int64(1) << 62}, {"steps": -1}, {"lora": map[string]any{"rank": int64(1) << 62, "targets": []string{"q_proj"}}},
		{"options": map[string]any{"max_iters": int64(1) << 62}}, {"options": map[string]any{"eval_batches": int64(1) << 62}},
		{"config": map[string]any{"num_layers": int64(1) << 62}}, {"best": -1e308}, {"crc32c": 1},
	} {
		f.Add(describe(f, whole, change), uint16(0), byte(0))
	}
	f.Add(describe(f, whole, nil), uint16(7), byte(1))
	head := 8 + int(binary.LittleEndian.Uint64(whole))
	f.Fuzz(func(t *testing.T, description []byte, at uint16, change byte) {
		file := described(t, whole, description)
		damaged := change != 0 && int(at) < len(whole)-head
		if damaged {
			file[len(file)-1-int(at)] ^= change
		}
		if err := os.WriteFile(path, file, 0o600); err != nil {
			t.Fatal(err)
		}
		c, err := OpenCheckpoint(path)
		if err != nil {
			if !errors.Is(err, ErrCheckpoint) {
				t.Errorf("%v is not ErrCheckpoint", err)
			}
			return
		}
		if c.Lora != nil { // needs its base
			return
		}
		tr, err := c.Load(pool)
		if err != nil {
			return
		}
		if damaged || tr.Steps < 0 || tr.Model.NumParams() == 0 {
			t.Errorf("accepted: damaged %v, step %d, %d parameters", damaged, tr.Steps, tr.Model.NumParams())
		}
	})
}

// TestCheckpointFieldsAreBounded: a field that would make a run go on for ever, or its memory overflow, is refused when the
// checkpoint is opened or loaded.
func TestCheckpointFieldsAreBounded(t *testing.T) {
	pool := par.New(1)
	defer pool.Close()
	path := filepath.Join(t.TempDir(), "last.ckpt")
	c, err := Preset("tiny", "llama", "ternary")
	if err != nil {
		t.Fatal(err)
	}
	c.VocabSize = 16
	m, err := New(c, pool, 1)
	if err != nil {
		t.Fatal(err)
	}
	tr, err := NewTrainer(m, DefaultOptions())
	if err != nil {
		t.Fatal(err)
	}
	if err := tr.Save(path, nil); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	open := func() error {
		c, err := OpenCheckpoint(path)
		if err == nil {
			_, err = c.Load(pool)
		}
		return err
	}
	if err := open(); err != nil {
		t.Fatal(err)
	}
	const huge = int64(1) << 62
	for name, change := range map[string]map[string]any{
		"steps":          {"steps": huge},
		"negative steps": {"steps": -1},
		"rank":           {"lora": map[string]any{"rank": huge, "alpha": 1, "targets": []string{"q_proj"}}},
		"alpha":          {"lora": map[string]any{"rank": 1, "alpha": -1, "targets": []string{"q_proj"}}},
		"batch_size":     {"options": map[string]any{"batch_size": huge}},
		"batch × block":  {"options": map[string]any{"batch_size": 1 << 16}, "config": map[string]any{"block": 1 << 14}},
		"accumulate":     {"options": map[string]any{"accumulate": huge}},
		"max_iters":      {"options": map[string]any{"max_iters": huge}},
		"eval_batches":   {"options": map[string]any{"eval_batches": huge}},
		"sample_tokens":  {"options": map[string]any{"sample_tokens": huge}},
		"num_layers":     {"config": map[string]any{"num_layers": huge}},
		"vocab_size":     {"config": map[string]any{"vocab_size": huge}},
	} {
		if err := os.WriteFile(path, described(t, whole, describe(t, whole, change)), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := open(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// describe changes fields of a checkpoint's description.
func describe(t testing.TB, file []byte, change map[string]any) []byte {
	t.Helper()
	n := binary.LittleEndian.Uint64(file)
	var head map[string]json.RawMessage
	var meta map[string]string
	desc := map[string]any{}
	for _, err := range []error{
		json.Unmarshal(file[8:8+n], &head), json.Unmarshal(head["__metadata__"], &meta), json.Unmarshal([]byte(meta["trit"]), &desc),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for k, v := range change {
		old, ok := desc[k].(map[string]any)
		if fields, is := v.(map[string]any); is && ok {
			maps.Copy(old, fields)
			continue
		}
		desc[k] = v
	}
	return mustJSON(t, desc)
}

// described is a checkpoint with another description.
func described(t testing.TB, file, description []byte) []byte {
	t.Helper()
	n := binary.LittleEndian.Uint64(file)
	var head map[string]json.RawMessage
	if err := json.Unmarshal(file[8:8+n], &head); err != nil {
		t.Fatal(err)
	}
	head["__metadata__"] = mustJSON(t, map[string]string{"trit": string(description)})
	text := mustJSON(t, head)
	text = append(text, bytes.Repeat([]byte(" "), (8-len(text)%8)%8)...)
	return append(append(binary.LittleEndian.AppendUint64(nil, uint64(len(text))), text...), file[8+n:]...)
}

func mustJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
