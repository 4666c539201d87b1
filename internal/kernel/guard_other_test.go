//go:build !unix

package kernel

import "testing"

// guarded returns n bytes; this system has no mmap to put a faulting page behind them.
func guarded(_ testing.TB, n int) []byte { return make([]byte, n) }
