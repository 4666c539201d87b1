//go:build unix

package main

import (
	"bytes"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// trit runs a command line that must end by itself soon.
func runTrit(t *testing.T, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	c := exec.Command("trit", args...)
	var out, errs bytes.Buffer
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	late := false
	kill := time.AfterFunc(20*time.Second, func() { late = true; c.Process.Kill() })
	err := c.Wait()
	kill.Stop()
	if late {
		t.Errorf("%q had to be killed", args)
	}
	return out.String(), errs.String(), exitCode(err)
}

// Paths that name no file, wherever a command takes one: one line that names path and kind, at once.
func TestWhatIsNoFileIsRefused(t *testing.T) {
	dir := t.TempDir()
	pipe, socket, folder := filepath.Join(dir, "pipe.gguf"), filepath.Join(dir, "socket.gguf"), filepath.Join(dir, "folder.gguf")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	zero := filepath.Join(dir, "zero.gguf")
	if err := os.Symlink("/dev/zero", zero); err != nil {
		t.Fatal(err)
	}
	golden := filepath.Join(dir, "golden")
	copyFolder(t, "../../testdata/goldens/bitnet-2b4t", golden)
	// with replaces one of the model's files by a link.
	with := func(name, to string) string {
		other := filepath.Join(dir, strings.ReplaceAll(name, ".", "-")+filepath.Base(to))
		copyFolder(t, golden, other)
		if err := os.RemoveAll(filepath.Join(other, name)); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(to, filepath.Join(other, name)); err != nil {
			t.Fatal(err)
		}
		return other
	}
	kinds := map[string]string{pipe: "is a pipe", socket: "is a socket", zero: "is a device"}
	var lines [][]string // what it must say, then the arguments
	for path, want := range kinds {
		lines = append(lines,
			[]string{want, "run", path, "x"}, []string{want, "inspect", path}, []string{want, "tokenize", path, "x"},
			[]string{want, "convert", path, filepath.Join(dir, "out"), "--to", "hf-packed"},
			[]string{want, "verify", golden, "--reference", path},
			[]string{want, "batch", "demo", path, filepath.Join(dir, "answers")},
			[]string{want, "serve", "demo", "--addr", "127.0.0.1:0", "--key-file", path},
			[]string{want, "serve", "demo", "--addr", "127.0.0.1:0", "--tls-cert", path, "--tls-key", path},
			[]string{want, "train", "--tokenizer", path, "--save-dir", filepath.Join(dir, "run")},
		)
		for _, name := range []string{"config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"} {
			lines = append(lines, []string{want, "run", with(name, path), "x"})
		}
		adapter := filepath.Join(dir, "adapter"+filepath.Base(path))
		if err := os.Mkdir(adapter, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(adapter, "adapter_config.json")); err != nil {
			t.Fatal(err)
		}
		checkpoint := filepath.Join(dir, filepath.Base(path)+".ckpt")
		if err := os.Symlink(path, checkpoint); err != nil {
			t.Fatal(err)
		}
		lines = append(lines, []string{want, "run", golden, "x", "--adapter", adapter}, []string{want, "run", checkpoint, "x"})
		if path != pipe { // texts may come through one
			lines = append(lines, []string{want, "run", "demo", "--file", path}, []string{want, "train", path, "--save-dir", filepath.Join(dir, "run")},
				[]string{want, "eval", "demo", "--choices", path})
		}
	}
	lines = append(lines, []string{"is a folder", "verify", golden, "--reference", folder}, []string{"is a folder", "run", "demo", "--file", folder},
		[]string{"is a folder", "batch", "demo", folder, filepath.Join(dir, "answers")})
	for _, l := range lines {
		_, stderr, code := runTrit(t, l[1:]...)
		if code == exitOK || !strings.Contains(stderr, l[0]) || strings.Count(strings.TrimSpace(stderr), "\n") > 0 || strings.Contains(stderr, "goroutine") {
			t.Errorf("%q: exit code %d, %.300q, want %q", l[1:], code, stderr, l[0])
		}
	}
}

// A pipe that nobody writes to is waited for, and a signal ends the wait; one that somebody writes to is read.
func TestTextsThroughPipes(t *testing.T) {
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	if err := unix.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"run", "demo", "--file", pipe}, {"run", "demo", "--file", "-"}, {"eval", "demo", "--choices", pipe},
		{"train", pipe, "--save-dir", filepath.Join(dir, "run")}, {"train", "-", "--save-dir", filepath.Join(dir, "run")},
	} {
		c := exec.Command("trit", append(args, "-q")...)
		var errs bytes.Buffer
		c.Stderr = &errs
		in, err := c.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(300 * time.Millisecond)
		kill := time.AfterFunc(20*time.Second, func() { c.Process.Kill() })
		c.Process.Signal(syscall.SIGTERM)
		if code := exitCode(c.Wait()); code != exitInterrupted {
			t.Errorf("%q: exit code %d, %q", args, code, errs.String())
		}
		kill.Stop()
		in.Close()
	}
	go os.WriteFile(pipe, []byte("The river"), 0)
	through, stderr, code := runTrit(t, "run", "demo", "--file", pipe, "-n", "5", "-q")
	direct, _, _ := runTrit(t, "run", "demo", "The river", "-n", "5", "-q")
	if code != exitOK || through != direct {
		t.Errorf("through a pipe: %q (%s), want %q", through, stderr, direct)
	}
}

// Under umask 077 nothing that trit writes can be read by others, and under 022 by all but what is private.
func TestFilesFollowTheUmask(t *testing.T) {
	home := t.TempDir()
	for _, umask := range []string{"077", "022"} {
		dir := t.TempDir()
		requests := filepath.Join(dir, "in.jsonl")
		if err := os.WriteFile(requests, []byte(`{"custom_id":"a","method":"POST","url":"/v1/completions","body":{"prompt":"x","max_tokens":1}}`), 0o600); err != nil {
			t.Fatal(err)
		}
		before := map[string]bool{requests: true, dir: true}
		for _, line := range []string{
			"trit train --preset tiny --max-iters 2 --batch-size 2 --save-dir D/run -q",
			"trit train --max-iters 3 --save-dir D/run --resume -q",
			"trit report D/run -o D/report -q",
			"trit train export D/run D/exported -q",
			"trit convert D/run D/model.gguf --to gguf-iq2_bn -q",
			"trit synth tiny D/synth -q",
			"trit convert D/run D/folder --to hf-bf16 -q",
			"trit batch demo D/in.jsonl D/out.jsonl",
		} {
			c := exec.Command("sh", "-c", "umask "+umask+"; "+strings.ReplaceAll(line, "D/", dir+"/"))
			c.Env = append(os.Environ(), "HOME="+home)
			if out, err := c.CombinedOutput(); err != nil {
				t.Errorf("%s: %v: %.500s", line, err, out)
			}
		}
		files := 0
		filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err != nil || before[path] {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			want := fs.FileMode(0o600)
			if umask == "022" {
				want = 0o644
			}
			if d.IsDir() {
				want |= want >> 2 & 0o111
			}
			if files++; info.Mode().Perm() != want {
				t.Errorf("umask %s: %s has mode %03o, want %03o", umask, path, info.Mode().Perm(), want)
			}
			return nil
		})
		if files < 15 {
			t.Errorf("only %d files were written", files)
		}
	}
}
