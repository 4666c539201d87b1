package convert

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/tritlm/trit/internal/tempfile"
)

// stage is a temporary folder beside the destination, in which everything gets the name that it will have. Nothing is at the
// destination before all of it is written, on the disk and checked.
type stage struct {
	dir     string
	release func()
	file    *os.File // under way
	*bufio.Writer
}

func newStage(dst string) (*stage, error) {
	dir, release, err := tempfile.Mkdir(dst)
	if err != nil {
		return nil, err
	}
	return &stage{dir: dir, release: release}, nil
}

// create begins the next file, whose name may have folders in it.
func (s *stage) create(name string) (io.Writer, error) {
	if err := s.finish(); err != nil {
		return nil, err
	}
	name = filepath.Join(s.dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(name), 0o777); err != nil {
		return nil, err
	}
	f, err := os.Create(name)
	if err != nil {
		return nil, err
	}
	s.file, s.Writer = f, bufio.NewWriterSize(f, 1<<20)
	return s, nil
}

// finish brings the file under way to the disk.
func (s *stage) finish() error {
	if s.file == nil {
		return nil
	}
	f := s.file
	s.file = nil
	return errors.Join(s.Flush(), f.Sync(), f.Close())
}

// close removes what was not published.
func (s *stage) close() error {
	err := errors.Join(s.finish(), os.RemoveAll(s.dir))
	s.release()
	return err
}

// publishFiles gives the files of these names their place in the folder to. The first one is the last to come: whoever finds
// it finds the others.
func (s *stage) publishFiles(to string, names []string) error {
	for i, name := range slices.Backward(names) {
		if err := os.Rename(filepath.Join(s.dir, name), filepath.Join(to, name)); err != nil {
			for _, done := range names[i+1:] {
				os.Remove(filepath.Join(to, done))
			}
			return err
		}
	}
	return nil
}

// publishFolder gives the folder of this name its place, instead of what is at dst.
func (s *stage) publishFolder(name, dst string) error {
	if err := os.RemoveAll(dst); err != nil {
		return err
	}
	return os.Rename(filepath.Join(s.dir, name), dst)
}

// checkFiles refuses files that are there already, unless they are to be overwritten.
func checkFiles(dir string, names []string, overwrite bool) error {
	for _, n := range names {
		if _, err := os.Lstat(filepath.Join(dir, n)); err == nil && !overwrite {
			return fmt.Errorf("%s: %w; remove it or ask to overwrite it", filepath.Join(dir, n), fs.ErrExist)
		}
	}
	return nil
}

// checkFolder refuses a folder that is not empty, unless it is to be overwritten and a model's.
func checkFolder(dst string, overwrite bool) error {
	there, err := os.ReadDir(dst)
	switch {
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return err
	case len(there) > 0 && !overwrite:
		return fmt.Errorf("%w and is not empty; remove it or ask to overwrite it", fs.ErrExist)
	case len(there) > 0 && !slices.ContainsFunc(there, func(d fs.DirEntry) bool { return d.Name() == "config.json" }):
		return fmt.Errorf("%w and holds no model (no config.json), so it is not overwritten", fs.ErrExist)
	}
	return nil
}
