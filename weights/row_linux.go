//go:build linux && (amd64 || arm64 || loong64 || ppc64le || riscv64)

package weights

import (
	"os"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// rowsByCall says that single rows are read by a call of the system and not through the mapping.
const rowsByCall = true

// readAt reads a row of a file into buf. The scheduler is not told of the system call, as it is not told of the page
// fault that reading the mapping would be: what has the file in the system's cache, as is usual, is back in two
// microseconds, and a worker that came back late to a processor that was given away would hold up all others.
func readAt(f *os.File, buf []byte, at int64) bool {
	n, _, err := syscall.RawSyscall6(syscall.SYS_PREAD64, f.Fd(), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), uintptr(at), 0, 0)
	return err == 0 && int(n) == len(buf)
}

// scattered tells the system that rows of the file will be read here and there: nothing is gained by reading ahead.
func scattered(f *os.File) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM) // advice only
}
