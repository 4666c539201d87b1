package kernel

import "syscall"

// hugePages returns memory that the system backs with huge pages if it can, and what gives it back.
func hugePages(n int) (b []byte, free func()) {
	b, err := syscall.Mmap(-1, 0, n, syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_ANON|syscall.MAP_PRIVATE)
	if err != nil {
		return make([]byte, n), func() {}
	}
	syscall.Madvise(b, syscall.MADV_HUGEPAGE)
	return b, func() { syscall.Munmap(b) }
}
