package server_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"go/types"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// files is the order of the package: what a file uses of the others stands above it. First the parts
// that compute tokens, then what a request is and how its answer is made; a protocol is one file at the end, which translates
// into the one and out of the other, and uses no other protocol.
var order = strings.Fields(`
	options.go text.go queue.go prefix.go metrics.go guide.go scheduler.go
	errors.go message.go request.go store.go models.go form.go python.go reader.go answer.go chat.go jobs.go core.go embed.go logprobs.go
	net.go fields.go http.go
	openai.go responses.go anthropic.go ollama.go llamacpp.go tokens.go page.go server.go
`)

// protocols may not use each other; what they share is above them.
var protocols = strings.Fields("openai.go responses.go anthropic.go ollama.go llamacpp.go tokens.go page.go")

type noImports struct{}

func (noImports) Import(path string) (*types.Package, error) {
	p := types.NewPackage(path, filepath.Base(path))
	p.MarkComplete()
	return p, nil
}

// TestFilesGoOneWay holds the order of the files.
func TestFilesGoOneWay(t *testing.T) {
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var parsed []*ast.File
	for _, n := range names {
		if strings.HasSuffix(n, "_test.go") {
			continue
		}
		if !slices.Contains(order, n) {
			t.Errorf("%s is not in the order of files: say there where it belongs", n)
		}
		f, err := parser.ParseFile(fset, n, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		parsed = append(parsed, f)
	}
	info := types.Info{Uses: map[*ast.Ident]types.Object{}}
	conf := types.Config{Importer: noImports{}, Error: func(error) {}} // what other packages have is not known, and not asked
	pkg, _ := conf.Check("server", fset, parsed, &info)
	seen := map[string]bool{}
	for id, obj := range info.Uses {
		if obj.Pkg() != pkg || obj.Pos() == token.NoPos {
			continue
		}
		from, to := fset.Position(id.Pos()).Filename, fset.Position(obj.Pos()).Filename
		if from == to {
			continue
		}
		key := from + " uses " + id.Name + " of " + to
		if seen[key] {
			continue
		}
		seen[key] = true
		switch i, j := slices.Index(order, from), slices.Index(order, to); {
		case slices.Contains(protocols, from) && slices.Contains(protocols, to):
			t.Errorf("%s: a protocol stands by itself", key)
		case i < j:
			t.Errorf("%s, which comes later", key)
		}
	}
	if len(seen) < 100 {
		t.Errorf("only %d uses were found", len(seen))
	}
}
