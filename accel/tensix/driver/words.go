//go:build (amd64 || arm64) && !purego

package driver

import "unsafe"

// storeWords stores n 32-bit words of ordinary memory at dst, one after the other, with plain stores: no locked
// instruction, which would read device memory, and no other width. loadWords is its inverse.
//
//go:noescape
func storeWords(dst, src unsafe.Pointer, n int)

//go:noescape
func loadWords(dst, src unsafe.Pointer, n int)

// storeFence returns when the stores before it, those in write-combining buffers too, are on their way, in front of
// all that follow. It touches no memory.
func storeFence()
