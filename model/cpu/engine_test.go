package cpu_test

import (
	"path/filepath"
	"testing"

	"github.com/tritlm/trit/model/cpu"
	"github.com/tritlm/trit/model/enginetest"
)

func TestEngine(t *testing.T) {
	for _, dir := range goldenDirs(t) {
		t.Run(filepath.Base(dir), func(t *testing.T) { enginetest.Run(t, cpu.Backend{Threads: 3}, dir) })
	}
}
