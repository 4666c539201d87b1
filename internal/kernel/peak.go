package kernel

import (
	"encoding/binary"
	"runtime"
	"time"
)

// peaks are loops over registers that do nothing but multiply and add: what the tier's products could
// reach if memory cost nothing.
type peaks struct {
	int8, f32         func(turns int)
	int8Turn, f32Turn int // multiply-adds a turn
	read              func(b []byte)
}

// PeakInt8 measures the active tier's int8 multiply-adds a second of the calling thread, for about d.
func PeakInt8(d time.Duration) float64 {
	return measurePeak(active.peak.int8, active.peak.int8Turn, d)
}

// PeakF32 measures the active tier's float32 multiply-adds a second of the calling thread, for about d.
func PeakF32(d time.Duration) float64 {
	return measurePeak(active.peak.f32, active.peak.f32Turn, d)
}

// ReadAll reads b and does nothing else, as fast as the active tier can: the measure of memory bandwidth.
func ReadAll(b []byte) { active.peak.read(b) }

// measurePeak takes the best of short runs, as another process on the core makes a run slower only.
func measurePeak(f func(turns int), macs int, d time.Duration) float64 {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	best := 0.0
	const turns = 10_000
	for start := time.Now(); time.Since(start) < d || best == 0; {
		t := time.Now()
		f(turns)
		best = max(best, float64(turns*macs)/time.Since(t).Seconds())
	}
	return best
}

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
