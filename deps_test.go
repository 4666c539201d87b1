package trit_test

import (
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// may lists, for each package, what it may import from this module and from elsewhere. The order is
// that of the data: a package imports only from lines above its own. Test files are free.
var may = []struct {
	pkg  string // a trailing /... covers the folders below as well
	own  string
	them string
}{
	{"internal/kernel", "", "golang.org/x/sys/cpu"},
	{"internal/par", "", ""},
	{"internal/gemm", "internal/kernel internal/par", "golang.org/x/sys/cpu"},
	{"internal/term", "", "golang.org/x/term github.com/vbauerster/mpb/v8 github.com/vbauerster/mpb/v8/decor"},
	{"internal/arena", "", "golang.org/x/sys/unix"},
	{"internal/tempfile", "", "golang.org/x/sys/unix"},
	{"internal/infile", "", ""},
	{"internal/mapped", "internal/infile", "golang.org/x/sys/unix golang.org/x/sys/windows"},
	{"gguf", "", ""},
	{"safetensors", "", ""},
	{"hub", "gguf internal/infile", "golang.org/x/sys/unix golang.org/x/sys/windows"},
	{"tokenizer/...", "tokenizer/... gguf internal/infile", "golang.org/x/text/unicode/norm golang.org/x/text/cases golang.org/x/text/language"},
	{"sample", "", ""},
	{"ternary", "internal/kernel internal/par", ""},
	{"grammar", "tokenizer", ""},
	{"data", "tokenizer internal/infile internal/mapped internal/tempfile", ""},
	{"weights", "gguf safetensors ternary internal/infile internal/mapped", "golang.org/x/sys/unix"},
	{"model/part", "gguf safetensors weights ternary internal/arena internal/infile internal/kernel internal/par", ""},
	{"model", "model/part weights", ""},
	{"model/family", "model model/part weights gguf internal/infile", ""},
	{"model/engine", "model model/part weights internal/kernel internal/mapped internal/par", ""},
	{"model/cpu", "gguf model model/engine model/part weights ternary internal/arena internal/infile internal/kernel internal/par internal/tempfile", ""},
	{"model/enginetest", "model model/cpu model/family weights", ""},
	{"accel/...", "accel/... model model/cpu model/engine model/enginetest model/family model/part weights safetensors ternary internal/kernel internal/par", "golang.org/x/sys/unix github.com/ebitengine/purego"},
	{"train/...", "train/... model model/family model/part data weights ternary tokenizer gguf safetensors internal/kernel internal/gemm internal/infile internal/par internal/tempfile", "github.com/ebitengine/purego gonum.org/v1/plot/..."},
	{".", "model model/cpu model/family model/part weights tokenizer sample ternary", ""},
	{"demo", "", ""},
	{"convert", "model model/family model/part weights tokenizer ternary gguf safetensors internal/infile internal/mapped internal/tempfile", ""},
	{"eval", ". data internal/infile model model/cpu model/part weights tokenizer sample safetensors gguf ternary internal/kernel", "golang.org/x/sys/unix golang.org/x/sys/windows"},
	{"server/...", "server/... . grammar model sample tokenizer internal/infile", "github.com/VictoriaMetrics/metrics"},
	{"bench/...", "...", "golang.org/x/sys/unix"},
	{"cmd/trit", "...", "github.com/spf13/cobra github.com/peterh/liner"},
}

const module = "github.com/tritlm/trit"

func covers(list, pkg string) bool {
	return slices.ContainsFunc(strings.Fields(list), func(p string) bool {
		if p == "..." {
			return true
		}
		prefix, tree := strings.CutSuffix(p, "/...")
		return pkg == prefix || tree && strings.HasPrefix(pkg, prefix+"/")
	})
}

// TestImports holds the import table: who may use whom, so that the folder list stays the data flow.
func TestImports(t *testing.T) {
	err := filepath.WalkDir(".", func(file string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if file != "." && (name[0] == '.' || name[0] == '_' || name == "testdata" || hasGoMod(file)) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		pkg := path.Dir(filepath.ToSlash(file))
		row := slices.IndexFunc(may, func(m struct{ pkg, own, them string }) bool { return covers(m.pkg, pkg) })
		if row < 0 {
			t.Errorf("%s: package %s is not in the import table: say there what it may import", file, pkg)
			return nil
		}
		src, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			return err
		}
		for _, spec := range src.Imports {
			imp, _ := strconv.Unquote(spec.Path.Value)
			own, ours := strings.CutPrefix(imp, module)
			first, _, _ := strings.Cut(imp, "/")
			switch {
			case ours:
				if own = strings.TrimPrefix(own, "/"); own == "" {
					own = "."
				}
				if !covers(may[row].own, own) {
					t.Errorf("%s: %s may not import %s", file, pkg, own)
				}
			case strings.Contains(first, ".") && !covers(may[row].them, imp):
				t.Errorf("%s: %s may not import %s", file, pkg, imp)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func hasGoMod(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

// TestTableIsADirection checks the table itself: each row names only rows above it, so there is no way round.
func TestTableIsADirection(t *testing.T) {
	for i, m := range may {
		for _, own := range strings.Fields(m.own) {
			if own == "..." || own == m.pkg {
				continue
			}
			at := slices.IndexFunc(may, func(m struct{ pkg, own, them string }) bool {
				return m.pkg == own || covers(m.pkg, strings.TrimSuffix(own, "/..."))
			})
			if at < 0 || at >= i {
				t.Errorf("%s names %s, which is not above it", m.pkg, own)
			}
		}
	}
}
