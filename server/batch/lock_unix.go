//go:build unix

package batch

import (
	"os"
	"syscall"
)

// lock is held until f is closed, also by the end of the process.
func lock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) }
