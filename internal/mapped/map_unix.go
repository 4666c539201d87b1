//go:build unix

package mapped

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func mmap(f *os.File, n int) ([]byte, func() error, error) {
	data, err := unix.Mmap(int(f.Fd()), 0, n, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, err
	}
	return data, func() error { return unix.Munmap(data) }, nil
}

// Release tells the system that the pages wholly inside b, a part of a File's Data, will not be read again soon, so that
// what was made of them does not count twice. Reading them afterwards is still right, only slower.
func Release(b []byte) {
	b = wholePages(b, os.Getpagesize())
	if len(b) > 0 {
		_ = unix.Madvise(b, unix.MADV_DONTNEED) // advice only: the mapping is read-only and of a file
	}
}

func identify(f *os.File) (identity, error) {
	var st unix.Stat_t
	for {
		err := unix.Fstat(int(f.Fd()), &st)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return identity{}, err
		}
		return identity{
			size: st.Size, modified: unix.TimespecToNsec(st.Mtim), changed: unix.TimespecToNsec(st.Ctim),
			device: uint64(st.Dev), inode: st.Ino, links: uint64(st.Nlink), mode: uint32(st.Mode), owner: st.Uid, group: st.Gid,
		}, nil
	}
}

// wholePages cuts b down to the pages that lie wholly inside it.
func wholePages(b []byte, page int) []byte {
	if len(b) == 0 {
		return nil
	}
	start := uintptr(unsafe.Pointer(&b[0]))
	skip := int((uintptr(page) - start%uintptr(page)) % uintptr(page))
	if skip >= len(b) {
		return nil
	}
	b = b[skip:]
	return b[:len(b)/page*page]
}
