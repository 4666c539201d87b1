package server

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"io/fs"
	"mime"
	"net/http"
	"path"
	"strings"
	"sync"
)

//go:embed all:web/static
var static embed.FS

// pageFile is a file of the chat page, compressed once.
type pageFile struct {
	body, zipped []byte
	mime, etag   string
}

var pageFiles = sync.OnceValue(func() map[string]pageFile {
	files := map[string]pageFile{}
	err := fs.WalkDir(static, "web/static", func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := static.ReadFile(p)
		if err != nil {
			return err
		}
		var z bytes.Buffer
		g, _ := gzip.NewWriterLevel(&z, gzip.BestCompression) // the level is valid
		if _, err := g.Write(b); err != nil {
			return err
		}
		if err := g.Close(); err != nil {
			return err
		}
		sum := sha256.Sum256(b)
		f := pageFile{b, z.Bytes(), mime.TypeByExtension(path.Ext(p)), `"` + hex.EncodeToString(sum[:8]) + `"`}
		switch path.Ext(p) { // not every system's table has these
		case ".js":
			f.mime = "text/javascript; charset=utf-8"
		case ".svg":
			f.mime = "image/svg+xml"
		case ".txt":
			f.mime = "text/plain; charset=utf-8"
		}
		files[strings.TrimPrefix(p, "web/static")] = f
		return nil
	})
	if err != nil {
		panic(err) // the files are inside the program
	}
	files["/"] = files["/index.html"]
	delete(files, "/index.html")
	return files
})

func isPage(path string) bool {
	_, ok := pageFiles()[path]
	return ok
}

// contentPolicy lets the page load its own files and talk to its own server, and nothing else: no
// inline script, no other origin, no plug-ins, no frames.
const contentPolicy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types trit dompurify"

// pageRoutes serves the files of the chat page.
func pageRoutes(h func(string, func(*response, *http.Request) error)) {
	for name, f := range pageFiles() {
		pattern := "GET " + name
		if name == "/" {
			pattern = "GET /{$}"
		}
		h(pattern, func(w *response, r *http.Request) error {
			head := w.Header()
			head.Set("Content-Type", f.mime)
			head.Set("Content-Security-Policy", contentPolicy)
			head.Set("Referrer-Policy", "no-referrer")
			head.Set("Cross-Origin-Opener-Policy", "same-origin")
			head.Set("Cache-Control", "no-cache")
			head.Set("ETag", f.etag)
			head.Set("Vary", "Accept-Encoding")
			if r.Header.Get("If-None-Match") == f.etag {
				w.WriteHeader(http.StatusNotModified)
				return nil
			}
			body := f.body
			if strings.Contains(r.Header.Get("Accept-Encoding"), "gzip") {
				head.Set("Content-Encoding", "gzip")
				body = f.zipped
			}
			_, err := w.Write(body)
			return ignore(err)
		})
	}
}
