// Package tempfile makes the temporary files and folders that later get the name of what they hold. A process that is
// killed leaves them behind; the next one tells them from what others are writing by a lock, and removes them.
package tempfile

import (
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"strings"
)

// Modes of what is made: those of any file or folder, less what the process's umask takes, or for its owner alone.
const (
	Shared  os.FileMode = 0o666
	Private os.FileMode = 0o600
)

// Create makes a file beside path, named .BASE.NUMBER.tmp, and removes what dead processes left there under such names.
// The caller renames it to path or removes it. Until it is closed no Create, Mkdir or Sweep removes it.
func Create(path string, mode os.FileMode) (*os.File, error) {
	dir, base := filepath.Dir(path), filepath.Base(path)
	sweep(dir, base)
	for {
		f, err := os.OpenFile(name(dir, base), os.O_RDWR|os.O_CREATE|os.O_EXCL, mode)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if hold(f) {
			return f, nil
		}
		f.Close() // a Sweep was there first
	}
}

func name(dir, base string) string {
	return filepath.Join(dir, fmt.Sprintf(".%s.%d.tmp", base, rand.Uint64()))
}

// Mkdir is Create for a folder, shared. The caller calls release when it has renamed or removed it.
func Mkdir(path string) (dir string, release func(), err error) {
	parent, base := filepath.Dir(path), filepath.Base(path)
	sweep(parent, base)
	for {
		dir := name(parent, base)
		err := os.Mkdir(dir, 0o777)
		if errors.Is(err, fs.ErrExist) {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		f, err := os.Open(dir)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			return "", nil, err
		}
		if hold(f) {
			return dir, func() { f.Close() }, nil
		}
		f.Close()
	}
}

// Sweep removes what dead processes left in dir, whatever it was to become.
func Sweep(dir string) { sweep(dir, "") }

var pattern = regexp.MustCompile(`^\.(.+)\.[0-9]+\.tmp$`)

// sweep removes the temporaries of base, or of all for "". What cannot be removed stays: it is nobody's content.
func sweep(dir, base string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), ".tmp") {
			continue
		}
		if m := pattern.FindStringSubmatch(e.Name()); m != nil && (base == "" || m[1] == base) {
			removeStale(filepath.Join(dir, e.Name()), e.IsDir())
		}
	}
}
