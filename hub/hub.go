// Package hub finds a model by name: a local path, the Hugging Face cache on this machine, or a
// download from the hub into that cache.
//
// The cache has the layout of the Python package huggingface_hub, so both share one copy of a file:
//
//	models--OWNER--NAME/blobs/HASH               a file's bytes, named by what they hash to
//	models--OWNER--NAME/blobs/HASH.incomplete    a download under way, or one to resume
//	models--OWNER--NAME/snapshots/COMMIT/FILE    a relative link to a blob
//	models--OWNER--NAME/refs/REVISION            the commit that a branch or tag meant last
//	.locks/models--OWNER--NAME/HASH.lock         held while HASH is written
//
// Layout: huggingface_hub, "Understand caching" in its documentation. The package reads no
// environment variable: the command passes what HF_HOME and its like say in Options.
package hub

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"
)

// DefaultEndpoint is the public hub.
const DefaultEndpoint = "https://huggingface.co"

// What can go wrong, for errors.Is. Every error also says what to try.
var (
	ErrNotFound = errors.New("not found")
	ErrAccess   = errors.New("access denied")
	ErrOffline  = errors.New("not in the cache, and offline")
	ErrNetwork  = errors.New("the hub cannot be reached")
	ErrHash     = errors.New("the bytes are not what the hub says they are")
)

// Options says where and how. The zero value is the public hub, no token and the cache in the
// user's home folder.
type Options struct {
	Endpoint string       // the hub's address; "" is DefaultEndpoint
	Cache    string       // the cache folder; "" is ~/.cache/huggingface/hub
	Token    string       // sent to Endpoint only, never to where it redirects
	Offline  bool         // use what the cache has, ask nobody
	Verify   bool         // hash again the files that are already there
	Client   *http.Client // nil is one with sensible time-outs

	// Progress is told about bytes as they arrive, about ten times a second and at the end.
	Progress func(Progress)
	// Log is told, in one line, what a person may want to know: a retry, a wait for a lock.
	Log func(line string)

	Stall   time.Duration // give up on a connection that is silent this long; 0 is one minute
	Backoff time.Duration // first wait before a retry, doubled each time; 0 is one second
	Retries int           // attempts in a row that bring nothing; 0 is 5
}

// Progress is how far a download is, over all of its files.
type Progress struct {
	File        string // the file being read
	Done, Total int64  // bytes, of all files; Done counts what was there before
}

// Ref names a model on the hub.
type Ref struct {
	Repo     string // "owner/name"
	File     string // one file of the repository, "" for what the model needs
	Revision string // branch, tag or commit; "" is main
}

func (r Ref) String() string {
	s := r.Repo
	if r.File != "" {
		s += "/" + r.File
	}
	if r.Revision != "" {
		s += "@" + r.Revision
	}
	return s
}

func (r Ref) revision() string {
	if r.Revision == "" {
		return "main"
	}
	return r.Revision
}

var (
	repoPart     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,95}$`)
	revisionText = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}$`)
	commitText   = regexp.MustCompile(`^[0-9a-f]{40}$`)
)

// ParseRef reads "owner/name", "owner/name@revision" or "owner/name/file.gguf@revision".
func ParseRef(s string) (Ref, error) {
	var r Ref
	rest, rev, hasRev := strings.Cut(s, "@")
	parts := strings.SplitN(rest, "/", 3)
	bad := func(why string) (Ref, error) {
		return Ref{}, fmt.Errorf("hub: %q is not a model's name: %s; write owner/name, owner/name@revision or owner/name/file.gguf", s, why)
	}
	if len(parts) < 2 {
		return bad("it has no owner")
	}
	for _, p := range parts[:2] {
		if !repoPart.MatchString(p) || strings.Contains(p, "--") || strings.Contains(p, "..") {
			return bad(fmt.Sprintf("%q cannot be part of one", p))
		}
	}
	r.Repo = parts[0] + "/" + parts[1]
	if len(parts) == 3 {
		if !safeName(parts[2]) {
			return bad(fmt.Sprintf("%q is not a file's name", parts[2]))
		}
		r.File = parts[2]
	}
	if hasRev {
		if !revisionText.MatchString(rev) || strings.Contains(rev, "..") {
			return bad(fmt.Sprintf("%q is not a revision", rev))
		}
		r.Revision = rev
	}
	return r, nil
}

// safeName reports whether a name from the network may become a path below a folder, here and on
// every other system.
func safeName(name string) bool {
	if name == "" || len(name) > 512 || strings.ContainsAny(name, "\\:*?\"<>|\x00") || !filepath.IsLocal(filepath.FromSlash(name)) {
		return false
	}
	for part := range strings.SplitSeq(name, "/") {
		if part == "" || part == "." || part == ".." || strings.HasSuffix(part, ".incomplete") {
			return false
		}
	}
	return true
}

// Resolve turns what a person typed into a path that can be opened: ref itself where it is a file
// or folder, the cached copy of a hub model where it is complete, and otherwise a new download
// (Pull). It asks the network nothing when the model is on this machine.
func Resolve(ctx context.Context, ref string, o Options) (string, error) {
	_, err := os.Stat(ref)
	if err == nil {
		return ref, nil
	}
	if looksLocal(ref) || !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("%s: %w", ref, pathCause(err))
	}
	r, perr := ParseRef(ref)
	if perr != nil {
		return "", fmt.Errorf("%s: %w; to name a model of the hub, write owner/name", ref, os.ErrNotExist)
	}
	if path, err := Cached(r, o); err == nil {
		return path, nil
	} else if o.Offline {
		return "", err
	}
	return Pull(ctx, r, o)
}

// looksLocal reports whether a name that does not exist was surely meant as a path.
func looksLocal(ref string) bool {
	if filepath.IsAbs(ref) || strings.HasPrefix(ref, ".") || strings.HasPrefix(ref, "~") || strings.Contains(ref, `\`) {
		return true
	}
	if strings.Count(ref, "/") < 2 && (strings.HasSuffix(ref, ".gguf") || strings.HasSuffix(ref, ".safetensors")) {
		return true
	}
	first, _, _ := strings.Cut(ref, "/")
	st, err := os.Stat(first)
	return err == nil && st.IsDir() && strings.Contains(ref, "/")
}

// pathCause is the reason without the path and system call that os puts around it.
func pathCause(err error) error {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}
