//go:build linux && (amd64 || arm64)

// Package simtest runs tests on the vendor's simulator, each in a process of its own: the simulator is a singleton
// and ends its process on any violation of the chip's rules.
package simtest

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/tritlm/trit/accel/tensix/ttsim"
)

const child = "TRIT_TTSIM_CHILD"

// Run calls f with an open simulator in a child process that runs just this test. It skips, loudly, when the
// environment names no simulator.
func Run(t *testing.T, f func(t *testing.T, s *ttsim.Sim)) {
	t.Helper()
	RunWith(t, false, f)
}

// RunWith is Run; modelled asks for the simulator that models resets of units.
func RunWith(t *testing.T, modelled bool, f func(t *testing.T, s *ttsim.Sim)) {
	t.Helper()
	if inChild(t, modelled, f) {
		return
	}
	out, err := Child(t, t.Name())
	if err != nil {
		t.Fatalf("%v in the child process\n%s", err, out)
	}
	t.Log(out)
}

// Dies runs f as Run does, expects that the simulator ends its process, and returns what it said.
func Dies(t *testing.T, f func(t *testing.T, s *ttsim.Sim)) string {
	t.Helper()
	if inChild(t, false, f) {
		t.Log("the simulator did not mind")
		return ""
	}
	out, err := Child(t, t.Name())
	if err == nil {
		t.Fatalf("the simulator should have ended its process\n%s", out)
	}
	return out
}

// inChild runs f if this is the test's child process.
func inChild(t *testing.T, modelled bool, f func(t *testing.T, s *ttsim.Sim)) bool {
	t.Helper()
	env := ttsim.Env
	if modelled {
		env = ttsim.EnvReset
	}
	lib := os.Getenv(env)
	if lib == "" {
		t.Skipf("SKIPPED: no simulator: set %s to the path of libttsim.so (Blackhole build of github.com/tenstorrent/ttsim)", env)
	}
	if os.Getenv(child) != t.Name() {
		return false
	}
	s, err := ttsim.Open(lib)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	s.ModelsReset = modelled
	f(t, s)
	return true
}

// Child runs the named test of this binary in a child process and returns what it printed.
func Child(t *testing.T, name string) (string, error) {
	t.Helper()
	var parts []string
	for _, p := range strings.Split(name, "/") {
		parts = append(parts, "^"+p+"$")
	}
	args := []string{"-test.run", strings.Join(parts, "/"), "-test.v", "-test.count=1"}
	for _, a := range os.Args[1:] {
		if strings.HasPrefix(a, "-test.timeout=") || strings.HasPrefix(a, "-long") || strings.HasPrefix(a, "-test.short") {
			args = append(args, a)
		}
	}
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), child+"="+name)
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}
