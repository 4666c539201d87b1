package driver

import (
	"bufio"
	"bytes"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"unsafe"
)

// Words go over as they are, each once, and nothing behind them is touched.
func TestWordsAreStoredAndLoaded(t *testing.T) {
	for n := range 9 {
		src, dst, back := make([]byte, 4*n+4), bytes.Repeat([]byte{0xEE}, 4*n+8), make([]byte, 4*n+4)
		for i := range src {
			src[i] = byte(i + 1)
		}
		storeWords(unsafe.Pointer(&dst[0]), unsafe.Pointer(&src[0]), n)
		loadWords(unsafe.Pointer(&back[0]), unsafe.Pointer(&dst[0]), n)
		if !bytes.Equal(dst[:4*n], src[:4*n]) || !bytes.Equal(back[:4*n], src[:4*n]) || dst[4*n] != 0xEE {
			t.Errorf("%d words: % x of % x, back % x", n, dst, src, back)
		}
	}
	storeFence()
}

// What reads and writes a card's windows has no locked instruction in it, whatever the compiler makes of the source: not
// by name (LOCK, XCHG with memory; on arm64 exclusive and atomic loads and stores), and no wide or repeated one either.
func TestNoLockedInstructionTouchesAWindow(t *testing.T) {
	var bad, wide *regexp.Regexp
	switch runtime.GOARCH {
	case "amd64":
		bad, wide = regexp.MustCompile(`\b(LOCK|XCHG[BWLQ]? .*\(|CMPXCHG|XADD|REP|MFENCE)`), regexp.MustCompile(`\b(MOVS[BWLQ]|V?MOV[A-Z]* .*X[0-9])`)
	case "arm64":
		bad, wide = regexp.MustCompile(`\b(LDAXR|STLXR|LDXR|STXR|SWP[A-Z]*|LDADD[A-Z]*|CAS[A-Z]*)`), regexp.MustCompile(`\b(LDP|STP|FMOV)`)
	default:
		t.Skip("SKIPPED: no card works with this processor")
	}
	if testing.Short() {
		t.Skip("builds trit")
	}
	exe := filepath.Join(t.TempDir(), "trit") // a test's own binary has no symbols
	if out, err := exec.Command("go", "build", "-o", exe, "github.com/tritlm/trit/cmd/trit").CombinedOutput(); err != nil {
		t.Skipf("SKIPPED: go build: %v: %s", err, out)
	}
	out, err := exec.Command("go", "tool", "objdump", "-s", `accel/tensix/driver\.((storeWords|loadWords|storeFence)(\.abi0)?|\(\*cardWindow\)\.(Read|Write|Fence|at))$`, exe).CombinedOutput()
	if err != nil {
		t.Skipf("SKIPPED: go tool objdump: %v: %s", err, out)
	}
	seen := map[string]int{}
	name := ""
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		line := s.Text()
		if f, ok := strings.CutPrefix(line, "TEXT "); ok {
			name, _, _ = strings.Cut(f[strings.LastIndex(f, "driver."):], " ")
			seen[name] = 0
			continue
		}
		if name == "" || strings.TrimSpace(line) == "" {
			continue
		}
		seen[name]++
		if bad.MatchString(line) || strings.Contains(name, "Words") && wide.MatchString(line) {
			t.Errorf("%s: %s", name, strings.TrimSpace(line))
		}
	}
	for _, f := range []string{"storeWords", "loadWords", "Write", "Read"} {
		n := 0
		for name, lines := range seen {
			if strings.Contains(name, f) {
				n += lines
			}
		}
		if n < 4 {
			t.Errorf("%s was not disassembled (%v)", f, seen)
		}
	}
}
