package weights

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tritlm/trit/internal/infile"
)

// blob is the content of one file: mapped where the system can, read otherwise.
type blob struct {
	name  string // as errors show it
	data  []byte
	unmap func() error
	file  *os.File // open while rows may be read from it, or nil
}

func (b *blob) close() error {
	if b.unmap == nil {
		return nil
	}
	err := b.unmap()
	if b.file != nil {
		err = errors.Join(err, b.file.Close())
	}
	b.data, b.unmap, b.file = nil, nil, nil
	return err
}

// folder is where the files of a model are: a directory on disk, or an fs.FS such as an embedded one.
type folder struct {
	dir  string // "" when fsys is set
	fsys fs.FS
	name string
}

func (f *folder) path(name string) string {
	if f.fsys != nil {
		return f.name + "/" + name
	}
	return filepath.Join(f.dir, name)
}

// readText reads a small file whole. The error is fs.ErrNotExist when it is not there.
func (f *folder) readText(name string) ([]byte, error) {
	if f.fsys != nil {
		return infile.ReadFS(f.fsys, name, infile.Text)
	}
	return infile.Read(f.path(name), infile.Text)
}

func (f *folder) exists(name string) bool {
	if f.fsys != nil {
		_, err := fs.Stat(f.fsys, name)
		return err == nil
	}
	_, err := os.Stat(f.path(name))
	return err == nil
}

func (f *folder) open(name string) (*blob, error) {
	if f.fsys != nil {
		data, err := fs.ReadFile(f.fsys, name)
		if err != nil {
			return nil, fmt.Errorf("weights: %s: %w", f.path(name), err)
		}
		return &blob{name: f.path(name), data: data}, nil
	}
	return mapFile(f.path(name))
}

// mapFile maps a file read-only, or reads it where mapping is not possible.
func mapFile(path string) (*blob, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("weights: %w", err)
	}
	b := &blob{name: path}
	defer func() {
		if b.file == nil {
			file.Close()
		}
	}()
	st, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("weights: %w", err)
	}
	if !st.Mode().IsRegular() {
		return nil, fmt.Errorf("weights: %s: not a regular file", path)
	}
	if st.Size() == 0 {
		return nil, fmt.Errorf("weights: %s: the file is empty; download it again", path)
	}
	if int64(int(st.Size())) != st.Size() {
		return nil, fmt.Errorf("weights: %s: %d bytes do not fit this machine's address space", path, st.Size())
	}
	b.data, b.unmap, err = mmap(file, int(st.Size()))
	if errors.Is(err, errors.ErrUnsupported) {
		b.data = make([]byte, st.Size())
		_, err = io.ReadFull(file, b.data)
	}
	if err != nil {
		return nil, fmt.Errorf("weights: %s: map: %w", path, err)
	}
	if keepFiles {
		b.file = file
	}
	return b, nil
}
