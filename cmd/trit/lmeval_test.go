package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
)

// TestLMEval runs eval/lmeval/compare.py: lm-evaluation-harness against trit serve, and trit eval, must give the same
// numbers. Skipped where Python has no lm_eval.
func TestLMEval(t *testing.T) {
	python := os.Getenv("TRIT_TEST_PYTHON")
	if python == "" {
		python = "python3"
	}
	if testing.Short() || exec.Command(python, "-c", "import lm_eval, aiohttp, tenacity").Run() != nil {
		t.Skip("-short, or no Python with lm_eval[api] (TRIT_TEST_PYTHON names one): trit eval is not compared with it")
	}
	trit := filepath.Join(t.TempDir(), "trit")
	if runtime.GOOS == "windows" {
		trit += ".exe"
	}
	if out, err := exec.Command("go", "build", "-o", trit, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	out, err := exec.Command(python, "../../eval/lmeval/compare.py", trit, "../../testdata/goldens/bitnet-2b4t", "demo").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	t.Logf("%s", out)
}
