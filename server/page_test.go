package server

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestPage runs the chat page in a browser (web/test/page.mjs). It needs node, chromium and, once,
// npm ci in web/test; TRIT_TEST_SHOTS names a folder to keep the screenshots in.
func TestPage(t *testing.T) {
	node, err := exec.LookPath("node")
	if err != nil {
		t.Skip("no node: the chat page is not tested")
	}
	chromium, err := exec.LookPath("chromium")
	if err != nil {
		t.Skip("no chromium: the chat page is not tested")
	}
	if _, err := os.Stat("web/test/node_modules/playwright-core"); err != nil {
		t.Skip("the chat page is not tested: run npm ci in server/web/test first")
	}
	f := newFake(t)
	f.pause = 4 * time.Millisecond
	f.replies = map[string]string{
		"hello":         "Hello there!",
		"Explain how":   "A bicycle stays upright because its rider, or its steering geometry, **steers into the fall**.\n\n1. It leans to one side.\n2. The front wheel turns to that side.\n3. The wheels come back under the weight.\n\nThat is all. The spinning wheels help a little, and less than most people think.",
		"say long":      strings.Repeat("Word after word it goes on. ", 400),
		"show markdown": "## Ternary weights\n\nA *ternary* weight is one of **−1, 0, +1**. A matrix product then needs no multiplication:\n\n```go\nfor i, w := range row {\n\tswitch w {\n\tcase 1:\n\t\tsum += x[i]\n\tcase -1:\n\t\tsum -= x[i]\n\t}\n}\n```\n\n- each weight takes `log₂ 3 ≈ 1.58` bits\n- the product is an integer, hence exact\n\n| weights | bits | GB for 2 B |\n|---|---|---|\n| float16 | 16 | 4.0 |\n| int4 | 4 | 1.0 |\n| ternary | 1.58 | 0.4 |\n\n> Small numbers, large models.\n\nMore in the [paper](https://arxiv.org/abs/2402.17764).",
		"attack me":     "<script>window.pwned = 1</script>\n\n<img src=x onerror=\"window.pwned = 2\">\n\n[click](javascript:window.pwned=3) ![pic](https://example.com/x.png \"t\")\n\n<style>body{display:none}</style><iframe srcdoc=\"<script>parent.pwned=4</script>\"></iframe>\n\n<a href=\"data:text/html,x\" onclick=\"window.pwned=5\">link</a> <form action=/x><input></form>\n\n```html\n<script>window.pwned = 6</script>\n```\n\n<svg><use href=\"data:x\"/></svg><math><mtext></mtext></math>",
	}
	_, h := serve(t, f, Options{})
	shots := os.Getenv("TRIT_TEST_SHOTS")
	if shots == "" {
		shots = t.TempDir()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, node, filepath.Join("web", "test", "page.mjs"), h.URL, shots, chromium)
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}
