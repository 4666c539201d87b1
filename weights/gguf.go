package weights

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"reflect"

	"github.com/tritlm/trit/gguf"
)

// openGGUF opens a GGUF file. Of a model in several files any part opens all.
func openGGUF(path string, opt *Options) (set *Set, err error) {
	s := &Set{path: path, tensors: map[string]*tensor{}}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	f, b, err := s.mapGGUF(path)
	if err != nil {
		return nil, err
	}
	split, ok, err := f.KV.Split()
	if err != nil {
		return nil, fmt.Errorf("weights: %s: %w", path, err)
	}
	prefix, named, isPart := gguf.ParsePartName(path)
	switch {
	case ok && split.Count > 1 && !isPart:
		return nil, fmt.Errorf("weights: %s: its keys say that it is %s; name it %s, and the others likewise, so that they are found",
			path, split, split.PartName("NAME"))
	case ok && isPart && (named.No != split.No || named.Count != split.Count):
		return nil, fmt.Errorf("weights: %s: its name says that it is %s, and its keys %s: it was renamed", path, named, split)
	case isPart && !ok && named.Count > 1:
		s.notes = append(s.notes, fmt.Sprintf("its name says that it is %s, but it has no split keys: it is taken for a whole model", named))
	}
	if !ok {
		split = gguf.Split{Count: 1, Tensors: len(f.Tensors)}
	}
	if err := s.readParts(prefix, split, f, b); err != nil {
		return nil, err
	}
	s.arch, _ = s.gguf.KV.String("general.architecture")
	if err := s.readScales(); err != nil {
		return nil, err
	}
	return s, s.chooseI2S(opt.I2SLayout)
}

// mapGGUF maps a file, which the set closes from then on, and reads its directory.
func (s *Set) mapGGUF(path string) (*gguf.File, *blob, error) {
	b, err := mapFile(path)
	if err != nil {
		return nil, nil, err
	}
	s.blobs = append(s.blobs, b)
	f, err := gguf.Read(newReaderAt(b.data), int64(len(b.data)), path)
	return f, b, err
}

// readParts reads the directories of all parts of a model, of which one is open already, and lists their tensors.
func (s *Set) readParts(prefix string, split gguf.Split, open *gguf.File, openBlob *blob) error {
	if err := missingParts(prefix, split); err != nil {
		return err
	}
	blobs := make([]*blob, split.Count)
	s.parts = make([]*gguf.File, split.Count)
	for i := range split.Count {
		s.parts[i], blobs[i] = open, openBlob
		if i == split.No {
			continue
		}
		part := split
		part.No = i
		var err error
		if s.parts[i], blobs[i], err = s.mapGGUF(part.PartName(prefix)); err != nil {
			return err
		}
	}
	s.blobs, s.gguf = blobs, s.parts[0]
	for i, f := range s.parts {
		if err := s.checkPart(f, i, split); err != nil {
			return fmt.Errorf("weights: %s: %w", f.Name, err)
		}
		for _, t := range f.Tensors {
			if other, dup := s.tensors[t.Name]; dup {
				return fmt.Errorf("weights: %s: tensor %q is in %s as well: they are parts of different models", f.Name, t.Name, other.file)
			}
			s.tensors[t.Name] = &tensor{file: f.Name, typ: t.Type, shape: t.Shape, data: blobs[i].data[t.Offset : t.Offset+t.Size]}
			s.names = append(s.names, t.Name)
		}
	}
	if n := len(s.names); n != split.Tensors {
		return fmt.Errorf("weights: %s: %d tensors are in its parts and split.tensors.count says %d: they are parts of different models, or were changed",
			s.path, n, split.Tensors)
	}
	return nil
}

// missingParts names the first part that is not there, before any other is read.
func missingParts(prefix string, split gguf.Split) error {
	missing, first := 0, ""
	for i := range split.Count {
		part := gguf.Split{No: i, Count: split.Count}
		if i == split.No {
			continue
		}
		if _, err := os.Stat(part.PartName(prefix)); errors.Is(err, fs.ErrNotExist) {
			if missing++; missing == 1 {
				first = fmt.Sprintf("%s: %s", part.PartName(prefix), part)
			}
		}
	}
	switch missing {
	case 0:
		return nil
	case 1:
		return fmt.Errorf("weights: %s is missing; put all parts of the model into one folder: %w", first, fs.ErrNotExist)
	}
	return fmt.Errorf("weights: %s is missing, and %d others; put all parts of the model into one folder: %w", first, missing-1, fs.ErrNotExist)
}

// checkPart holds the keys of the part at place i against those of the first one, which has them all.
func (s *Set) checkPart(f *gguf.File, i int, split gguf.Split) error {
	own, ok, err := f.KV.Split()
	if err != nil || split.Count == 1 {
		return err
	}
	split.No = i
	switch {
	case !ok:
		return fmt.Errorf("it has no split keys, and others say that it is %s: a file of another model", split)
	case own.No != split.No || own.Count != split.Count:
		return fmt.Errorf("its name says that it is %s, and its keys %s: a part of another model, or renamed", split, own)
	case own.Tensors != split.Tensors:
		return fmt.Errorf("split.tensors.count is %d, and %d in other parts: a part of another model", own.Tensors, split.Tensors)
	}
	for _, p := range f.KV {
		if gguf.IsSplitKey(p.Key) || p.Key == "general.alignment" || i == 0 {
			continue
		}
		if !s.gguf.KV.Has(p.Key) {
			return fmt.Errorf("key %.100q is in this part and not in the first one, which has the metadata of all: a part of another model", p.Key)
		}
		if !reflect.DeepEqual(p.Value, s.gguf.KV.Get(p.Key)) {
			return fmt.Errorf("key %.100q has another value than in the first part: a part of another model", p.Key)
		}
	}
	return nil
}

// Parts are the directories of a GGUF model's files, in their order: one, or all of a split model; nil for a Hugging Face
// folder.
func (s *Set) Parts() []*gguf.File { return s.parts }
