// Package arena hands out memory for weights and caches in huge pages, outside the Go heap.
package arena

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Arena hands out memory for weights in huge pages, outside the Go heap: a decoded token walks through all of it, and
// with 4 KiB pages the address translation alone costs several percent.
type Arena struct {
	chunks [][]byte
	free   []byte
}

const (
	arenaChunk = 64 << 20
	cacheLine  = 64
)

// Alloc gives n zeroed bytes at the start of a cache line.
func (a *Arena) Alloc(n int) []byte {
	n = (n + cacheLine - 1) &^ (cacheLine - 1)
	if n > len(a.free) {
		const huge = 2 << 20
		size := (max(n, arenaChunk) + huge - 1) &^ (huge - 1)
		chunk, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
		if err != nil {
			return make([]byte, n)
		}
		_ = unix.Madvise(chunk, unix.MADV_HUGEPAGE) // advice: without it everything is right and a little slower
		a.chunks = append(a.chunks, chunk)
		a.free = chunk
	}
	b := a.free[:n:n]
	a.free = a.free[n:]
	return b
}

// Discard forgets the contents of b, which was handed out: its memory goes back to the system until b is written again.
func (a *Arena) Discard(b []byte) {
	const small = 4 << 10
	at := uintptr(unsafe.Pointer(&b[0]))
	lo, hi := (at+small-1)&^(small-1)-at, (at+uintptr(len(b)))&^(small-1)-at
	if len(a.chunks) > 0 && lo < hi {
		_ = unix.Madvise(b[lo:hi], unix.MADV_DONTNEED)
	}
}

// Release gives everything back. Nothing handed out may be used afterwards.
func (a *Arena) Release() {
	for _, c := range a.chunks {
		_ = unix.Munmap(c) // cannot fail for a mapping of ours
	}
	*a = Arena{}
}
