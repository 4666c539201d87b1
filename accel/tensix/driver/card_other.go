//go:build !linux

package driver

import "fmt"

// Cards finds no card: tt-kmd exists for Linux only.
func Cards() ([]int, error) {
	return nil, fmt.Errorf("%w: Tenstorrent's kernel driver exists for Linux only", ErrNoDevice)
}

// OpenCard fails: tt-kmd exists for Linux only.
func OpenCard(n int) (Machine, error) {
	return nil, fmt.Errorf("%w: Tenstorrent's kernel driver exists for Linux only", ErrNoDevice)
}

// InspectCard fails: tt-kmd exists for Linux only.
func InspectCard(n int) (Machine, error) { return OpenCard(n) }

// Attributes finds nothing.
func Attributes(n int) map[string]string { return nil }

// OpenCardAlone fails: tt-kmd exists for Linux only.
func OpenCardAlone(n int) (Machine, error) { return OpenCard(n) }
