package kernel

import "golang.org/x/sys/unix"

// hugePages returns memory that the kernel backs with huge pages if it can.
func hugePages(n int) []byte {
	m, err := unix.Mmap(-1, 0, n, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		panic(err)
	}
	unix.Madvise(m, unix.MADV_HUGEPAGE)
	return m
}
