//go:build unix

package main

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestCtrlC interrupts commands at work: exit code 130, one line, nothing half-written.
func TestCtrlC(t *testing.T) {
	dir := t.TempDir()
	for _, tc := range []struct {
		name string
		args []string
		wait string // on stdout, before the signal; "" waits a moment
	}{
		{"run", []string{"run", "demo", "hello", "--ignore-eos", "--max-tokens", "0", "-q"}, " "},
		{"synth", []string{"synth", "bitnet-2b4t", filepath.Join(dir, "big"), "-q"}, ""},
		{"synth gguf", []string{"synth", "bitnet-2b4t", filepath.Join(dir, "big.gguf"), "--format", "gguf-i2_s", "-q"}, ""},
		{"bench", []string{"bench", "demo", "--repeats", "10000", "-q"}, ""},
		{"chat", []string{"chat", "demo", "-q"}, ""},
		{"chat waiting", []string{"chat", "demo", "-q"}, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := exec.Command("trit", tc.args...)
			var stderr bytes.Buffer
			c.Stderr = &stderr
			in, err := c.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			if tc.name == "chat" {
				fmt.Fprintln(in, "hello")
			}
			out, err := c.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			kill := time.AfterFunc(time.Minute, func() { c.Process.Kill() })
			defer kill.Stop()
			if tc.wait != "" {
				bufio.NewReader(out).ReadString(tc.wait[0])
			} else {
				time.Sleep(time.Second)
			}
			sig := syscall.SIGINT
			if tc.args[0] == "chat" {
				sig = syscall.SIGTERM // there Ctrl-C only ends an answer
			}
			start := time.Now()
			c.Process.Signal(sig)
			err = c.Wait()
			if code := exitCode(err); code != exitInterrupted || strings.TrimSpace(stderr.String()) != "trit: interrupted" {
				t.Errorf("exit code %d, stderr %q", code, stderr.String())
			}
			if d := time.Since(start); d > 10*time.Second {
				t.Errorf("it took %v to stop", d)
			}
		})
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
