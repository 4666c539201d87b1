//go:build unix

package weights

import (
	"os"

	"golang.org/x/sys/unix"
)

func mmap(f *os.File, n int) ([]byte, func() error, error) {
	data, err := unix.Mmap(int(f.Fd()), 0, n, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, err
	}
	return data, func() error { return unix.Munmap(data) }, nil
}

// release tells the system that the pages wholly inside b will not be read again soon, so that a matrix that was
// repacked does not count twice. b is part of a mapping; reading it afterwards is still right, only slower.
func release(b []byte) {
	b = wholePages(b, os.Getpagesize())
	if len(b) > 0 {
		_ = unix.Madvise(b, unix.MADV_DONTNEED) // advice only: the mapping is read-only and file-backed
	}
}
