//go:build !linux

package kernel

// hugePages returns memory, and what gives it back.
func hugePages(n int) (b []byte, free func()) { return make([]byte, n), func() {} }
