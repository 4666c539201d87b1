package kernel

import (
	"encoding/binary"
	"runtime"
)

// peaks are loops over registers that do nothing but multiply and add: what the tier's products could
// reach if memory cost nothing.
type peaks struct {
	int8, f32         func(turns int)
	int8Turn, f32Turn int // multiply-adds a turn
	read              func(b []byte)
}

// ReadAll reads b and does nothing else, as fast as the active tier can: the measure of memory bandwidth.
func ReadAll(b []byte) { active.peak.read(b) }

func peakInt8Generic(turns int) {
	s, x := int32(0), int8(turns)
	for i := range turns {
		s += int32(int8(i)) * int32(x)
	}
	runtime.KeepAlive(s)
}

func peakF32Generic(turns int) {
	s := float32(0)
	for i := range turns {
		s = fma32(float32(i), 0.5, s)
	}
	runtime.KeepAlive(s)
}

func readGeneric(b []byte) {
	s := uint64(0)
	for ; len(b) >= 8; b = b[8:] {
		s += binary.LittleEndian.Uint64(b)
	}
	runtime.KeepAlive(s)
}
