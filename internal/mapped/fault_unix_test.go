//go:build unix

package mapped

import (
	"errors"
	"os"
	"runtime/debug"
	"strings"
	"testing"
	"unsafe"

	"github.com/tritlm/trit/internal/kernel"
	"github.com/tritlm/trit/internal/par"
)

const changeTimes = true

// TestFaults cuts a file and then reads it in every way that trit does: in Go, in the assembly of every tier, which has
// frames and has none, and on a worker of a pool. Each is an error that names the file, not the end of the process.
func TestFaults(t *testing.T) {
	const n = 1 << 16
	var reads []func(b []byte)
	x := make([]float32, n)
	reads = append(reads,
		func(b []byte) { x[0] = float32(b[len(b)-1]) },
		func(b []byte) { copy(make([]byte, len(b)), b) },
		func(b []byte) { kernel.Dot(floats(b), x[:len(b)/4]) },
		func(b []byte) { kernel.DotBF16(halves(b), x[:len(b)/2]) },
		func(b []byte) { kernel.DotF16(halves(b), x[:len(b)/2]) },
		func(b []byte) { kernel.Max(floats(b)) },
		func(b []byte) { kernel.Sum(floats(b)) },
	)
	was := kernel.Tier()
	defer kernel.SetTier(was)
	pool := par.New(3)
	defer pool.Close()
	for _, tier := range kernel.Tiers() {
		if err := kernel.SetTier(tier); err != nil {
			t.Fatal(err)
		}
		for i, read := range reads {
			for _, where := range []string{"here", "one piece", "on the pool"} {
				path, _ := write(t, n)
				f := open1(t, path)
				if err := os.Truncate(path, 4096); err != nil {
					t.Fatal(err)
				}
				err := func() (err error) {
					defer Recover(debug.SetPanicOnFault(true), &err)
					switch where {
					case "here":
						read(f.Data)
					case "one piece":
						pool.For(1, 1, func(int, int) { read(f.Data) })
					case "on the pool":
						pool.Run(64, func(int, int) { read(f.Data) })
					}
					return nil
				}()
				if !errors.Is(err, ErrChanged) || !strings.HasPrefix(err.Error(), path+": ") || !strings.Contains(err.Error(), "cut from 65536 bytes to 4096") {
					t.Errorf("%s, read %d, %s: %v", tier, i, where, err)
				}
				f.Close()
			}
		}
	}
	done := 0
	pool.Run(10, func(int, int) {}) // the pool goes on
	pool.For(1, 1, func(int, int) { done++ })
	if done != 1 {
		t.Error("the pool is unusable")
	}
}

func floats(b []byte) []float32 {
	return unsafe.Slice((*float32)(unsafe.Pointer(&b[0])), len(b)/4)
}

func halves(b []byte) []uint16 {
	return unsafe.Slice((*uint16)(unsafe.Pointer(&b[0])), len(b)/2)
}
