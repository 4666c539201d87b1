//go:build mpi && linux

package mpi_test

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// These tests run the real program under the real mpirun: go test -tags mpi ./train/mpi. They are skipped where there is none.

var options = []string{"--preset", "tiny", "--model", "bitnet", "--batch-size", "8", "--lr", "3e-3", "--sample-tokens", "0", "--threads", "1"}

func build(t *testing.T) (trit string) {
	t.Helper()
	if _, err := exec.LookPath("mpirun"); err != nil {
		t.Skip("no mpirun on this machine")
	}
	trit = filepath.Join(t.TempDir(), "trit")
	if out, err := exec.Command("go", "build", "-tags", "mpi", "-o", trit, "../../cmd/trit").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return trit
}

// mpirun is n processes of trit train; as root OpenMPI wants to be asked twice.
func mpirun(n int, trit string, args ...string) *exec.Cmd {
	all := append([]string{"--oversubscribe", "-np", strconv.Itoa(n), trit, "train"}, append(args, options...)...)
	if os.Getuid() == 0 {
		all = append([]string{"--allow-run-as-root"}, all...)
	}
	return exec.Command("mpirun", all...)
}

func TestProcessesWriteTheSameModel(t *testing.T) {
	trit := build(t)
	dir := t.TempDir()
	var want []byte
	for _, n := range []int{1, 2, 4} {
		run := filepath.Join(dir, strconv.Itoa(n))
		if out, err := mpirun(n, trit, "--save-dir", run, "--max-iters", "40", "--eval-every", "20").CombinedOutput(); err != nil {
			t.Fatalf("%d processes: %v\n%s", n, err, out)
		}
		got, err := os.ReadFile(filepath.Join(run, "model.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = got
		} else if !bytes.Equal(got, want) {
			t.Errorf("%d processes wrote another model than one", n)
		}
	}
}

// TestKilledProcessEndsTheRun kills one of two processes: mpirun ends the other with a message, and the last checkpoint is
// good for one process alone.
func TestKilledProcessEndsTheRun(t *testing.T) {
	trit := build(t)
	for _, victim := range []string{"0", "1"} {
		run := filepath.Join(t.TempDir(), "run")
		cmd := mpirun(2, trit, "--save-dir", run, "--max-iters", "100000", "--save-every", "5", "--eval-every", "0")
		var out bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &out
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		pid := 0
		for start := time.Now(); pid == 0 || records(run) < 10; time.Sleep(50 * time.Millisecond) {
			if pid == 0 {
				pid = process(trit, victim)
			}
			if time.Since(start) > time.Minute {
				cmd.Process.Kill()
				t.Fatalf("the run did not start:\n%s", out.String())
			}
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		select {
		case err := <-ended:
			if err == nil {
				t.Errorf("rank %s killed: mpirun reports success", victim)
			}
		case <-time.After(time.Minute):
			cmd.Process.Kill()
			t.Fatalf("rank %s killed: the others went on", victim)
		}
		if !strings.Contains(out.String(), "signal 9") {
			t.Errorf("rank %s killed: no word of it:\n%s", victim, out.String())
		}
		before := records(run)
		again := exec.Command(trit, "train", "--save-dir", run, "--resume", "--max-iters", strconv.Itoa(before+20))
		if text, err := again.CombinedOutput(); err != nil {
			t.Fatalf("rank %s killed: the checkpoint is of no use: %v\n%s", victim, err, text)
		}
		if n := records(run); n < before+20 {
			t.Errorf("rank %s killed at step %d: %d records after going on to step %d", victim, before, n, before+20)
		}
	}
}

// records counts the lines of a run's metrics.jsonl.
func records(run string) int {
	b, _ := os.ReadFile(filepath.Join(run, "metrics.jsonl"))
	return bytes.Count(b, []byte("\n"))
}

// process finds the process of a program that mpirun started as a rank.
func process(program, rank string) (pid int) {
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		exe, _ := os.Readlink(filepath.Join(d, "exe"))
		env, _ := os.ReadFile(filepath.Join(d, "environ"))
		if exe == program && bytes.Contains(env, []byte("\x00OMPI_COMM_WORLD_RANK="+rank+"\x00")) {
			pid, _ = strconv.Atoi(filepath.Base(d))
			return pid
		}
	}
	return 0
}
