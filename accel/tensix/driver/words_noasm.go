//go:build purego || (!amd64 && !arm64)

package driver

import (
	"sync/atomic"
	"unsafe"
)

func storeWords(dst, src unsafe.Pointer, n int) {
	for i := range n {
		*(*uint32)(unsafe.Add(dst, 4*i)) = *(*uint32)(unsafe.Add(src, 4*i))
	}
}

func loadWords(dst, src unsafe.Pointer, n int) {
	for i := range n {
		*(*uint32)(unsafe.Add(dst, 4*i)) = *(*uint32)(unsafe.Add(src, 4*i))
	}
}

var fence atomic.Uint32 // ordinary memory

func storeFence() { fence.Add(1) }
