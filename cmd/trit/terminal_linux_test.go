package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// onTerminal runs trit with a terminal as its output and returns what came out there.
func onTerminal(t *testing.T, args ...string) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip("no terminals here:", err)
	}
	defer master.Close()
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err == nil {
		err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0)
	}
	if err != nil {
		t.Skip("no terminals here:", err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skip("no terminals here:", err)
	}
	c := exec.Command("trit", args...)
	c.Stdout, c.Stderr = slave, slave
	got := make(chan string)
	go func() {
		b, _ := io.ReadAll(master) // ends in an error when the last one has closed the terminal
		got <- string(b)
	}()
	c.Run()
	slave.Close()
	return <-got
}

// What files, models and command lines bring along is shown on a terminal, and obeyed by none; a pipe gets it as it is.
func TestNoEscapesOnATerminal(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a\x1b[2Jb\u009bc\u202ed")
	copyFolder(t, "../../testdata/goldens/bitnet-2b4t", dir)
	text := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(text, bytes.Repeat([]byte("\x1b[31m red\u009b \u202e \x07\n"), 400), 0o644); err != nil {
		t.Fatal(err)
	}
	run := filepath.Join(t.TempDir(), "run")
	for _, args := range [][]string{
		{"inspect", dir},
		{"run", dir + "/nothing.gguf", "x"},
		{"tokenize", "demo", "a\x1b]0;title\x07b"},
		{"run", "demo", "--stop", "\x1b", "--temperature", "-1", "\x1b[2J"},
		{"train", text, "--model", "llama", "--preset", "tiny", "--max-iters", "2", "--save-dir", run, "--batch-size", "2"},
		{"run", run, "\x1b[31m", "-n", "200", "--temperature", "5", "--seed", "1"},
		{"\x1b[2J"},
	} {
		out := onTerminal(t, args...)
		for i, r := range out {
			if (r < ' ' && r != '\n' && r != '\t' && r != '\r' || r >= 0x7f && r <= 0x9f || r == 0x202e) && !ours(out[i:]) {
				t.Errorf("%q writes %q", args, out[max(0, i-40):min(len(out), i+40)])
				break
			}
		}
		if out == "" {
			t.Errorf("%q writes nothing", args)
		}
	}
	out, _ := exec.Command("trit", "inspect", dir).CombinedOutput()
	if !strings.Contains(string(out), "a\x1b[2Jb\u009bc\u202ed") {
		t.Errorf("through a pipe: %q", out)
	}
}

// ours says whether out begins with what trit itself says to a terminal: clear the line, move up, show or hide the cursor.
func ours(out string) bool {
	for _, s := range []string{"\x1b[K", "\x1b[J", "\x1b[1A", "\x1b[2K", "\x1b[?25l", "\x1b[?25h"} {
		if strings.HasPrefix(out, s) {
			return true
		}
	}
	return false
}
