package weights

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/tritlm/trit/internal/infile"
	"github.com/tritlm/trit/internal/mapped"
)

// blob is the content of one file.
type blob struct {
	name string // as errors show it
	data []byte
	file *mapped.File // where data is, nil when it came with the program
}

func (b *blob) close() error {
	if b.file == nil {
		return nil
	}
	b.data = nil
	return b.file.Close()
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
	f, err := mapped.Open(path)
	if err != nil {
		return nil, fmt.Errorf("weights: %w", err)
	}
	return &blob{name: path, data: f.Data, file: f}, nil
}

// ErrChanged is in the error for a model whose files were changed while it was in use.
var ErrChanged = mapped.ErrChanged

// Check returns an error, which is ErrChanged and names the file, when somebody wrote to a file of the set or cut it since
// it was opened: what is computed from it since then is of no model. It is one call of the system for each file.
func (s *Set) Check() error {
	for _, b := range s.blobs {
		if b.file == nil {
			continue
		}
		if err := b.file.Check(); err != nil {
			return fmt.Errorf("weights: %w", err)
		}
	}
	return nil
}
