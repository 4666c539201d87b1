package main

import (
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"trit": func() { os.Exit(run()) }})
}

// TestScripts runs testdata/script through the real command line, each script in a folder and with a
// home of its own. GOLDENS is the folder of golden models, prompt and invalid are files, and HF_ENDPOINT a hub that has them as
// golden/NAME; trit must ask no other.
func TestScripts(t *testing.T) {
	goldens, err := filepath.Abs("../../testdata/goldens")
	if err != nil {
		t.Fatal(err)
	}
	hub := goldenHub(t, goldens)
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script",
		Setup: func(e *testscript.Env) error {
			home := filepath.Join(e.WorkDir, "home")
			e.Setenv("HOME", home)
			e.Setenv("USERPROFILE", home)
			e.Setenv("XDG_STATE_HOME", "")
			e.Setenv("GOLDENS", goldens)
			e.Setenv("HF_ENDPOINT", hub)
			e.Setenv("HF_HOME", filepath.Join(home, "hf"))
			for _, v := range []string{"HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE", "XDG_CACHE_HOME"} {
				e.Setenv(v, "")
			}
			return errors.Join(os.Mkdir(home, 0o755),
				os.WriteFile(filepath.Join(e.WorkDir, "prompt"), []byte("The river"), 0o644), // no newline
				os.WriteFile(filepath.Join(e.WorkDir, "invalid"), []byte("The \xff river"), 0o644),
				os.WriteFile(filepath.Join(e.WorkDir, "ones"), []byte("aaaaaaaaaaaaaaaa"), 0o644))
		},
		Condition: func(cond string) (bool, error) {
			switch cond {
			case "devfull":
				return runtime.GOOS == "linux", nil
			case "card":
				_, err := os.Stat("/dev/tenstorrent")
				return err == nil, nil
			}
			return false, fmt.Errorf("no condition %s", cond)
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits,
			"json":  checkJSON,
			"tofull": func(ts *testscript.TestScript, _ bool, args []string) {
				full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
				ts.Check(err)
				defer full.Close()
				c := exec.Command(args[0], args[1:]...)
				c.Dir, c.Stdout = ts.Getenv("WORK"), full
				c.Env = append(os.Environ(), "HOME="+ts.Getenv("HOME"))
				if err := c.Run(); exitCode(err) != exitFailure {
					ts.Fatalf("writing to a full disk: %v", err)
				}
			},
		},
	})
}

// exits CODE COMMAND... wants that exit code and, for all but 0, an error of exactly one line, the last on stderr.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 2 {
		ts.Fatalf("usage: exits CODE COMMAND...")
	}
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	if got := exitCode(err); got != want {
		ts.Fatalf("exit code %d, want %d (%v)", got, want, err)
	}
	text := ts.ReadFile("stderr")
	lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	if last := lines[len(lines)-1]; want != 0 && !strings.HasPrefix(last, "trit: ") {
		ts.Fatalf("no line of error:\n%s", text)
	}
	for _, bad := range []string{"panic:", "goroutine ", "Usage:"} {
		if strings.Contains(text, bad) {
			ts.Fatalf("stderr has %q:\n%s", bad, text)
		}
	}
	if want == exitFailure && len(lines) != 1 {
		ts.Fatalf("the error has %d lines:\n%s", len(lines), text)
	}
}

func exitCode(err error) int {
	var e *exec.ExitError
	if errors.As(err, &e) {
		return e.ExitCode()
	}
	if err != nil {
		return -1
	}
	return 0
}

// checkJSON KEY... wants stdout to be one JSON object that has the keys, "a.b" for nested ones; KEY=TEXT also their value.
func checkJSON(ts *testscript.TestScript, neg bool, args []string) {
	var v map[string]any
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("stdout")), &v))
	for _, arg := range args {
		key, want, valued := strings.Cut(arg, "=")
		var at any = v
		for part := range strings.SplitSeq(key, ".") {
			m, _ := at.(map[string]any)
			var ok bool
			if at, ok = m[part]; !ok {
				ts.Fatalf("no %s in the JSON", key)
			}
		}
		if got := fmt.Sprint(at); valued && got != want {
			ts.Fatalf("%s is %s, want %s", key, got, want)
		}
	}
}

// goldenHub serves the golden models as a hub does.
func goldenHub(t *testing.T, goldens string) string {
	const commit = "0123456789abcdef0123456789abcdef01234567"
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if rest, ok := strings.CutPrefix(r.URL.Path, "/api/models/golden/"); ok {
			name, _, _ := strings.Cut(rest, "/")
			files, err := os.ReadDir(filepath.Join(goldens, name))
			if err != nil {
				http.NotFound(w, r)
				return
			}
			type sibling struct {
				Name string `json:"rfilename"`
			}
			var list []sibling
			for _, f := range files {
				if !strings.HasPrefix(f.Name(), "reference.") {
					list = append(list, sibling{f.Name()})
				}
			}
			json.NewEncoder(w).Encode(map[string]any{"sha": commit, "siblings": list})
			return
		}
		name, file, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/golden/"), "/resolve/"+commit+"/")
		data, err := os.ReadFile(filepath.Join(goldens, name, file))
		if !ok || err != nil {
			http.NotFound(w, r)
			return
		}
		sum := sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(data)), data...))
		w.Header().Set("Etag", `"`+hex.EncodeToString(sum[:])+`"`)
		if strings.HasSuffix(file, ".safetensors") {
			sum := sha256.Sum256(data)
			w.Header().Set("X-Linked-Etag", `"`+hex.EncodeToString(sum[:])+`"`)
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		w.Write(data)
	}))
	t.Cleanup(s.Close)
	return s.URL
}
