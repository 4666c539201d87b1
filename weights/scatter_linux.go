package weights

import (
	"os"

	"golang.org/x/sys/unix"
)

// scatter tells the system that b, part of a mapping, will be read here and there: where the system's cache holds the
// file in huge pages, a read must not bring 2 MiB into this process's memory.
func scatter(b []byte) {
	b = wholePages(b, os.Getpagesize())
	if len(b) > 0 {
		_ = unix.Madvise(b, unix.MADV_NOHUGEPAGE) // advice only
	}
}
