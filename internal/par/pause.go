//go:build (amd64 || arm64) && !purego

package par

// pause tells the CPU that this is a spin loop: some tens of cycles in which a sibling thread gets the core.
func pause()
