package weights

import (
	"io/fs"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/safetensors"
)

// Planned are files that are yet to be written, as a Set without data: what their configuration will say can be read, and no
// tensor but those of known, by their name in the file, whose bytes are here.
//
// PlannedFolder is that of a Hugging Face folder with the small files of fsys and one model.safetensors.
func PlannedFolder(fsys fs.FS, name string, tensors []safetensors.Tensor) (*Set, error) {
	s := &Set{path: name, folder: &folder{fsys: fsys, name: name}, tensors: map[string]*tensor{}}
	if err := s.readConfig(); err != nil {
		return nil, err
	}
	for _, t := range tensors {
		s.tensors[t.Name] = &tensor{file: name, dtype: t.DType, typ: ggmlType(t.DType), shape: t.Shape}
		s.names = append(s.names, t.Name)
	}
	return s, nil
}

// PlannedGGUF is that of a GGUF file.
func PlannedGGUF(name string, kv gguf.KV, tensors []gguf.Tensor, known map[string][]byte) *Set {
	s := &Set{path: name, tensors: map[string]*tensor{}, gguf: &gguf.File{Name: name, KV: kv, Tensors: tensors}}
	s.parts = []*gguf.File{s.gguf}
	s.arch, _ = kv.String("general.architecture")
	for _, t := range tensors {
		s.tensors[t.Name] = &tensor{file: name, typ: t.Type, shape: t.Shape, data: known[t.Name]}
		s.names = append(s.names, t.Name)
	}
	return s
}
