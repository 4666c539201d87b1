//go:build !linux

package model

// arena hands out memory for weights.
type arena struct{}

func (a *arena) alloc(n int) []byte { return make([]byte, n) }

func (a *arena) release() {}

func (a *arena) discard([]byte) {}
