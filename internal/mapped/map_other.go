//go:build !unix && !windows

package mapped

import (
	"errors"
	"os"
)

func mmap(*os.File, int) ([]byte, func() error, error) { return nil, nil, errors.ErrUnsupported }

// Release is advice that this system does not take.
func Release([]byte) {}

func identify(f *os.File) (identity, error) {
	st, err := f.Stat()
	if err != nil {
		return identity{}, err
	}
	return identity{size: st.Size(), modified: st.ModTime().UnixNano()}, nil
}
