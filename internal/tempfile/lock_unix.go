//go:build unix

package tempfile

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// hold locks f until it is closed, or its process ends. It is false when f has been removed meanwhile. Where a file system has no locks nobody
// removes what it cannot lock either.
func hold(f *os.File) bool {
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return false
	}
	var st unix.Stat_t
	return unix.Fstat(int(f.Fd()), &st) == nil && st.Nlink > 0
}

// removeStale removes what no process holds.
func removeStale(path string, _ bool) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
		os.RemoveAll(path)
	}
}
