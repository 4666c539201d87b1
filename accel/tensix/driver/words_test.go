package driver

import (
	"bufio"
	"bytes"
	"os"
	"os/exec"
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
	var bad *regexp.Regexp
	switch runtime.GOARCH {
	case "amd64":
		bad = regexp.MustCompile(`\b(LOCK|XCHG[BWLQ]? .*\(|CMPXCHG|XADD|REP|MOVS[BWLQ]\b|V?MOV(N|D|U|A)[A-Z]* .*X[0-9]|MFENCE)`)
	case "arm64":
		bad = regexp.MustCompile(`\b(LDAXR|STLXR|LDXR|STXR|SWP[A-Z]*|LDADD[A-Z]*|CAS[A-Z]*|LDP|STP\.)`)
	default:
		t.Skip("SKIPPED: no card works with this processor")
	}
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("go", "tool", "objdump", "-s", `accel/tensix/driver\.(storeWords|loadWords|storeFence|\(\*cardWindow\)\.(Read|Write|Fence|at))$`, exe).CombinedOutput()
	if err != nil {
		t.Skipf("SKIPPED: go tool objdump: %v: %s", err, out)
	}
	seen := map[string]int{}
	name := ""
	for s := bufio.NewScanner(bytes.NewReader(out)); s.Scan(); {
		line := s.Text()
		if f, ok := strings.CutPrefix(line, "TEXT "); ok {
			name, _, _ = strings.Cut(f[strings.LastIndexByte(f[:strings.IndexByte(f, '(')+1], '/')+1:], " ")
			seen[name] = 0
			continue
		}
		if name == "" || strings.TrimSpace(line) == "" {
			continue
		}
		seen[name]++
		// stores to the stack are not to a window
		if bad.MatchString(line) && !strings.Contains(line, "(SP)") && !strings.Contains(line, "(RSP)") {
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
