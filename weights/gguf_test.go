package weights

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tritlm/trit/gguf"
)

// splitFiles is a small model in parts, by name: a norm and an embedding of 4 columns.
func splitFiles(t testing.TB, count int) map[string][]byte {
	t.Helper()
	files := map[string][]byte{}
	for i := range count {
		s := gguf.Split{No: i, Count: count, Tensors: count}
		kv := s.KV()
		if i == 0 {
			kv = append(gguf.KV{{Key: "general.architecture", Value: "llama"}, {Key: "llama.block_count", Value: uint32(1)}}, kv...)
		}
		files[s.PartName("m")] = ggufFile(t, kv, strings.Repeat("t", i+1)+".weight")
	}
	return files
}

func ggufFile(t testing.TB, kv gguf.KV, names ...string) []byte {
	t.Helper()
	var list []gguf.Tensor
	for _, n := range names {
		list = append(list, gguf.Tensor{Name: n, Type: gguf.F32, Shape: []int{4}})
	}
	var b bytes.Buffer
	if err := gguf.Write(&b, kv, list, func(w io.Writer, t gguf.Tensor) error {
		_, err := w.Write(bytes.Repeat([]byte{0, 0, byte(len(t.Name)), 0x3f}, 4))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func writeFiles(t testing.TB, files map[string][]byte) string {
	t.Helper()
	dir := t.TempDir()
	for n, data := range files {
		if err := os.WriteFile(filepath.Join(dir, n), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestAnyPartOpensAll: tensors, metadata and fingerprint are the same from each part.
func TestAnyPartOpensAll(t *testing.T) {
	const count = 3
	dir := writeFiles(t, splitFiles(t, count))
	var prints [count][32]byte
	for i := range count {
		path := filepath.Join(dir, gguf.Split{No: i, Count: count}.PartName("m"))
		s, err := Open(path, nil)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.Join(s.Names(), " "); got != "t.weight tt.weight ttt.weight" {
			t.Error(got)
		}
		if arch, _ := s.GGUF().KV.String("general.architecture"); arch != "llama" || len(s.Parts()) != count || s.Path() != path {
			t.Error(arch, s.Parts(), s.Path())
		}
		for _, n := range s.Names() {
			v := make([]float32, 4)
			if err := s.tensors[n].floats(v); err != nil || v[3] < 0.5 || v[0] != v[3] {
				t.Error(n, v, err)
			}
		}
		if prints[i], err = s.Fingerprint(); err != nil || prints[i] != prints[0] {
			t.Error("another fingerprint", err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "m-00003-of-00003.gguf"), ggufFile(t, gguf.Split{No: 2, Count: 3, Tensors: 3}.KV(), "four.weight"), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Open(filepath.Join(dir, "m-00001-of-00003.gguf"), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if f, err := s.Fingerprint(); err != nil || f == prints[0] {
		t.Error("the last part is not in the fingerprint", err)
	}
}

// TestPartsThatDoNotFit: every inconsistency is refused by the name of the part, whichever part was asked for.
func TestPartsThatDoNotFit(t *testing.T) {
	part := func(no, count, tensors int) gguf.KV { return gguf.Split{No: no, Count: count, Tensors: tensors}.KV() }
	const first, second, third = "m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"
	for _, c := range []struct {
		name   string
		change func(f map[string][]byte)
		want   string
	}{
		{"missing", func(f map[string][]byte) { delete(f, second) }, second + ": part 2 of 3 is missing; put all parts"},
		{"two missing", func(f map[string][]byte) { delete(f, second); delete(f, third) }, "is missing, and 1 others"},
		{"another count", func(f map[string][]byte) { f[second] = ggufFile(t, part(1, 4, 3), "tt.weight") }, second + ": its name says that it is part 2 of 3, and its keys part 2 of 4"},
		{"another number", func(f map[string][]byte) { f[second] = ggufFile(t, part(2, 3, 3), "tt.weight") }, second + ": its name says that it is part 2 of 3, and its keys part 3 of 3"},
		{"two exchanged", func(f map[string][]byte) { f[second], f[third] = f[third], f[second] }, second + ": its name says that it is part 2 of 3, and its keys part 3 of 3"},
		{"other tensors", func(f map[string][]byte) { f[second] = ggufFile(t, part(1, 3, 9), "tt.weight") }, second + ": split.tensors.count is 9, and 3 in other parts"},
		{"no keys", func(f map[string][]byte) { f[second] = ggufFile(t, nil, "tt.weight") }, second + ": it has no split keys"},
		{"a tensor twice", func(f map[string][]byte) { f[second] = ggufFile(t, part(1, 3, 3), "t.weight") }, second + `: tensor "t.weight" is in `},
		{"a tensor less", func(f map[string][]byte) { f[second] = ggufFile(t, part(1, 3, 3)) }, "2 tensors are in its parts and split.tensors.count says 3"},
		{"another architecture", func(f map[string][]byte) {
			f[second] = ggufFile(t, append(part(1, 3, 3), gguf.Pair{Key: "general.architecture", Value: "qwen3"}), "tt.weight")
		}, second + `: key "general.architecture" has another value than in the first part`},
		{"a key of its own", func(f map[string][]byte) {
			f[second] = ggufFile(t, append(part(1, 3, 3), gguf.Pair{Key: "llama.rope.freq_base", Value: float32(1)}), "tt.weight")
		}, second + `: key "llama.rope.freq_base" is in this part and not in the first one`},
		{"an unknown key", func(f map[string][]byte) {
			f[second] = ggufFile(t, append(part(1, 3, 3), gguf.Pair{Key: "split.hash", Value: "x"}), "tt.weight")
		}, second + `: key "split.hash" is not known`},
		{"part of none", func(f map[string][]byte) { f[second] = ggufFile(t, part(3, 3, 3), "tt.weight") }, `key "split.no" is 3 and "split.count" 3: there is no such part`},
		{"a key missing", func(f map[string][]byte) { f[second] = ggufFile(t, part(1, 3, 3)[:2], "tt.weight") }, `key "split.tensors.count": no such key`},
		{"a key of text", func(f map[string][]byte) {
			kv := part(1, 3, 3)
			kv.Set("split.no", "1")
			f[second] = ggufFile(t, kv, "tt.weight")
		}, `key "split.no" is a string`},
		{"cut off", func(f map[string][]byte) { f[second] = f[second][:len(f[second])-20] }, second + `: tensor "tt.weight"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			files := splitFiles(t, 3)
			c.change(files)
			dir := writeFiles(t, files)
			said := false
			for name := range files {
				s, err := Open(filepath.Join(dir, name), nil)
				if c.name == "no keys" && name == second { // a whole file by itself, though no model
					continue
				}
				if err == nil {
					s.Close()
					t.Fatalf("%s opened", name)
				}
				if strings.Contains(err.Error(), "\n") || len(err.Error()) > 600 {
					t.Error(err)
				}
				said = said || strings.Contains(err.Error(), c.want)
				if c.name == "missing" && !errors.Is(err, fs.ErrNotExist) {
					t.Error(err)
				}
			}
			if !said {
				s, err := Open(filepath.Join(dir, first), nil)
				t.Errorf("%v %v does not say %q", s, err, c.want)
			}
		})
	}
}

func TestFolderOfGGUFFiles(t *testing.T) {
	dir := writeFiles(t, splitFiles(t, 2))
	if _, err := Open(dir, nil); err == nil || !strings.Contains(err.Error(), "open one of them, such as "+filepath.Join(dir, "m-00001-of-00002.gguf")) {
		t.Error(err)
	}
}

// TestNamesOfParts: a part has to be named as llama.cpp names it, a whole model may be named anything.
func TestNamesOfParts(t *testing.T) {
	open := func(name string, data []byte) (*Set, error) {
		return Open(filepath.Join(writeFiles(t, map[string][]byte{name: data}), name), nil)
	}
	kv := gguf.KV{{Key: "general.architecture", Value: "llama"}}
	if _, err := open("model.gguf", ggufFile(t, append(kv, gguf.Split{No: 1, Count: 2, Tensors: 1}.KV()...), "t.weight")); err == nil ||
		!strings.Contains(err.Error(), "it is part 2 of 2; name it NAME-00002-of-00002.gguf") {
		t.Error(err)
	}
	for _, name := range []string{"model.gguf", "model-00001-of-00001.gguf"} {
		s, err := open(name, ggufFile(t, append(kv, gguf.Split{Count: 1, Tensors: 1}.KV()...), "t.weight"))
		if err != nil {
			t.Fatal(err)
		}
		s.Close()
		if _, err := open(name, ggufFile(t, append(kv, gguf.Split{Count: 1, Tensors: 2}.KV()...), "t.weight")); err == nil {
			t.Error("a tensor is missing")
		}
	}
	s, err := open("model-00001-of-00002.gguf", ggufFile(t, kv, "t.weight"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if len(s.Notes()) != 1 || !strings.Contains(s.Notes()[0], "taken for a whole model") {
		t.Error(s.Notes())
	}
}

// FuzzSplit opens two files whose split keys say anything, under the names of two parts: what opens is consistent.
func FuzzSplit(f *testing.F) {
	for _, s := range [][2]uint64{{0, 1}, {1, 0}, {0, 0}, {1, 1}} {
		f.Add(s[0], s[1], uint64(2), uint64(2), uint64(2), uint64(2), uint8(0), "split.no", uint64(0), false)
	}
	f.Add(uint64(0), uint64(1), uint64(2), uint64(2), uint64(2), uint64(2), uint8(1), "llama.block_count", uint64(1), true)
	f.Add(uint64(0), uint64(1<<16), uint64(1), uint64(2), uint64(1<<40), uint64(2), uint8(2), "general.architecture", uint64(1), false)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, no0, no1, count0, count1, tensors0, tensors1 uint64, kind uint8, key string, value uint64, same bool) {
		kv := gguf.KV{{Key: "general.architecture", Value: "llama"}}
		names := [2]string{"a.weight", "b.weight"}
		if same {
			names[1] = names[0]
		}
		for i, v := range [2][3]uint64{{no0, count0, tensors0}, {no1, count1, tensors1}} {
			for j, k := range []string{"split.no", "split.count", "split.tensors.count"} {
				switch kind >> i % 3 {
				case 0:
					kv.Set(k, uint16(v[j]))
				case 1:
					kv.Set(k, v[j])
				case 2:
					kv.Set(k, int32(v[j]))
				}
			}
			if i == 1 && key != "" && len(key) < 100 {
				kv.Set(key, value)
			}
			var b bytes.Buffer
			if gguf.Write(&b, kv, []gguf.Tensor{{Name: names[i], Type: gguf.F32, Shape: []int{1}}}, func(w io.Writer, _ gguf.Tensor) error {
				_, err := w.Write(make([]byte, 4))
				return err
			}) != nil {
				return
			}
			if err := os.WriteFile(filepath.Join(dir, gguf.Split{No: i, Count: 2}.PartName("m")), b.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			kv = nil
		}
		for i := range 2 {
			s, err := Open(filepath.Join(dir, gguf.Split{No: i, Count: 2}.PartName("m")), nil)
			if err != nil {
				if strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "m-0000") {
					t.Fatalf("not one line that names a part: %v", err)
				}
				continue
			}
			split, ok, err := s.Parts()[0].KV.Split()
			if err != nil || !ok || split.Count != 2 || len(s.Parts()) != 2 || len(s.Names()) != 2 || split.Tensors != 2 || same {
				t.Fatalf("%+v %v %v: %v opened", split, ok, err, s.Names())
			}
			s.Close()
		}
	})
}
