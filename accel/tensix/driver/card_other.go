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
