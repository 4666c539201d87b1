//go:build unix && !linux

package eval

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// PeakMemory is the most memory that this process ever held, in bytes; 0 when unknown.
func PeakMemory() int64 {
	var u unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &u) != nil {
		return 0
	}
	if runtime.GOOS == "darwin" {
		return int64(u.Maxrss)
	}
	return int64(u.Maxrss) << 10
}
