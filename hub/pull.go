package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/tritlm/trit/internal/infile"
)

// A puller is one Pull.
type puller struct {
	Options
	ref    Ref
	root   string // models--owner--name
	locks  string
	commit string

	done, total int64
	told        time.Time
}

// A remoteFile is what the hub says about a file before it is read.
type remoteFile struct {
	name string
	hash string // 64 hex digits: sha256 of the bytes; 40: sha1 of a git blob
	size int64
}

// Pull brings a model up to date in the cache and returns the path to open. A file that is there
// is not read again; a part of one is continued where it stopped, also when ctx ended the last
// attempt. Every byte is checked against the hash that the hub gives before it gets its name.
func Pull(ctx context.Context, r Ref, o Options) (string, error) {
	if o.Offline {
		return Cached(r, o)
	}
	dir, err := cacheDir(o)
	if err != nil {
		return "", err
	}
	if o.Endpoint == "" {
		o.Endpoint = DefaultEndpoint
	}
	o.Endpoint = strings.TrimRight(o.Endpoint, "/")
	if o.Stall == 0 {
		o.Stall = time.Minute
	}
	if o.Backoff == 0 {
		o.Backoff = time.Second
	}
	if o.Retries == 0 {
		o.Retries = 5
	}
	if o.Client == nil {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = o.Stall
		t.DisableCompression = true // lengths and ranges are of the bytes themselves
		o.Client = &http.Client{Transport: t}
		defer t.CloseIdleConnections()
	}
	p := &puller{Options: o, ref: r, root: filepath.Join(dir, repoFolder(r.Repo)), locks: filepath.Join(dir, ".locks", repoFolder(r.Repo))}
	path, err := p.pull(ctx)
	if err == nil {
		return path, nil
	}
	if ctx.Err() != nil {
		return "", fmt.Errorf("hub: %s: stopped: %w; the next pull continues here", r, context.Cause(ctx))
	}
	if errors.Is(err, ErrNetwork) {
		if path, cerr := Cached(r, o); cerr == nil {
			p.log(fmt.Sprintf("%s cannot be reached; using the copy in the cache", o.Endpoint))
			return path, nil
		}
	}
	return "", fmt.Errorf("hub: %s: %w", r, err)
}

func (p *puller) log(line string) {
	if p.Log != nil {
		p.Log(line)
	}
}

func (p *puller) pull(ctx context.Context) (string, error) {
	names, err := p.list(ctx)
	if err != nil {
		return "", err
	}
	need, err := choose(names, p.ref)
	if err != nil {
		return "", err
	}
	for _, d := range []string{filepath.Join(p.root, "blobs"), p.locks} {
		if err := os.MkdirAll(d, 0o777); err != nil {
			return "", fmt.Errorf("the cache cannot be written: %w; name another folder with --cache or HF_HUB_CACHE", err)
		}
	}
	snapshot := filepath.Join(p.root, "snapshots", p.commit)
	if err := p.fetchAll(ctx, snapshot, need.files, need.index != ""); err != nil {
		return "", err
	}
	if need.index != "" {
		shards, err := readShards(filepath.Join(snapshot, need.index))
		if err != nil {
			return "", err
		}
		if err := p.fetchAll(ctx, snapshot, shards, false); err != nil {
			return "", err
		}
	}
	// The ref moves last: an interrupted pull leaves the model that was there before in use.
	if rev := p.ref.revision(); rev != p.commit {
		if err := writeRef(filepath.Join(p.root, "refs", filepath.FromSlash(rev)), p.commit); err != nil {
			return "", err
		}
	}
	return filepath.Join(snapshot, filepath.FromSlash(need.open)), nil
}

// maxTotal bounds what the hub may say a model has: 1 PiB.
const maxTotal = 1 << 50

// fetchAll brings files into the snapshot. more says that others follow, so the end is not told yet.
func (p *puller) fetchAll(ctx context.Context, snapshot string, names []string, more bool) error {
	files := make([]remoteFile, len(names))
	have := make([]bool, len(names))
	var missing int64
	for i, n := range names {
		f, err := p.head(ctx, n)
		if err != nil {
			return fmt.Errorf("%s: %w", n, err)
		}
		if f.size > maxTotal-p.total {
			return fmt.Errorf("%s: %s says it has %d bytes, and a model has fewer", n, p.Endpoint, f.size)
		}
		files[i] = f
		p.total += f.size
		st, err := os.Stat(p.blob(f))
		if err != nil && p.placed(snapshot, f) {
			have[i] = true // a system without links: the file itself is in the snapshot
		} else if err == nil && st.Size() == f.size {
			if have[i] = true; p.Verify {
				if err := verify(p.blob(f), f); err != nil {
					p.log(fmt.Sprintf("%s: the copy in the cache is damaged; reading it again", n))
					have[i] = false
					os.Remove(p.blob(f))
				}
			}
		}
		if have[i] {
			p.done += f.size
			continue
		}
		missing += f.size
		if st, err := os.Stat(p.blob(f) + ".incomplete"); err == nil && st.Size() <= f.size {
			missing -= st.Size()
		}
	}
	if free := freeSpace(p.root); free >= 0 && free < missing {
		return fmt.Errorf("needs %d MB and %s has %d MB free; free some space, or name another folder with --cache or HF_HUB_CACHE", missing>>20+1, p.root, free>>20)
	}
	for i, f := range files {
		if !have[i] {
			if err := p.fetch(ctx, f); err != nil {
				return fmt.Errorf("%s: %w", f.name, err)
			}
		}
		if _, err := os.Stat(p.blob(f)); err == nil {
			if err := link(p.blob(f), filepath.Join(snapshot, filepath.FromSlash(f.name))); err != nil {
				return err
			}
		}
	}
	if !more {
		p.tell("", true)
	}
	return nil
}

func (p *puller) blob(f remoteFile) string { return filepath.Join(p.root, "blobs", f.hash) }

// placed reports whether the snapshot holds a plain file of the right size and hash, as it does on
// systems without links.
func (p *puller) placed(snapshot string, f remoteFile) bool {
	file := filepath.Join(snapshot, filepath.FromSlash(f.name))
	st, err := os.Lstat(file)
	return err == nil && st.Mode().IsRegular() && st.Size() == f.size && verify(file, f) == nil
}

func (p *puller) tell(file string, now bool) {
	if p.Progress == nil || (!now && time.Since(p.told) < 100*time.Millisecond) {
		return
	}
	p.told = time.Now()
	p.Progress(Progress{File: file, Done: p.done, Total: p.total})
}

// list asks for the commit behind the revision and the names of its files.
func (p *puller) list(ctx context.Context) ([]string, error) {
	u := fmt.Sprintf("%s/api/models/%s/revision/%s", p.Endpoint, p.ref.Repo, url.PathEscape(p.ref.revision()))
	var answer struct {
		SHA      string `json:"sha"`
		Siblings []struct {
			Name string `json:"rfilename"`
		} `json:"siblings"`
	}
	err := p.retry(ctx, func() (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, p.Stall)
		defer cancel()
		resp, err := p.do(ctx, http.MethodGet, u, 0)
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(io.LimitReader(resp.Body, 32<<20))
		if err != nil {
			return false, &temporary{err: fmt.Errorf("%w: %w", ErrNetwork, err)}
		}
		if err := json.Unmarshal(text, &answer); err != nil {
			return false, fmt.Errorf("%s does not answer like a hub: %w", p.Endpoint, err)
		}
		return false, nil
	})
	if err != nil {
		return nil, err
	}
	if !commitText.MatchString(answer.SHA) {
		return nil, fmt.Errorf("%s does not answer like a hub: it gives %q as the commit", p.Endpoint, answer.SHA)
	}
	p.commit = answer.SHA
	var names []string
	for _, s := range answer.Siblings {
		if safeName(s.Name) { // any other name could leave the cache folder
			names = append(names, s.Name)
		}
	}
	return names, nil
}

func (p *puller) fileURL(name string) string {
	parts := strings.Split(name, "/")
	for i := range parts {
		parts[i] = url.PathEscape(parts[i])
	}
	return fmt.Sprintf("%s/%s/resolve/%s/%s", p.Endpoint, p.ref.Repo, p.commit, strings.Join(parts, "/"))
}

var hashText = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)

// head asks for a file's hash and size. The hub answers for its large files with a redirect to
// where the bytes are, and puts hash and size of the file itself into X-Linked-Etag and X-Linked-Size.
func (p *puller) head(ctx context.Context, name string) (remoteFile, error) {
	f := remoteFile{name: name}
	err := p.retry(ctx, func() (bool, error) {
		ctx, cancel := context.WithTimeout(ctx, p.Stall)
		defer cancel()
		resp, err := p.do(ctx, http.MethodHead, p.fileURL(name), 0)
		if err != nil {
			return false, err
		}
		resp.Body.Close()
		tag, size := resp.Header.Get("X-Linked-Etag"), resp.Header.Get("X-Linked-Size")
		if tag == "" {
			tag = resp.Header.Get("Etag")
		}
		if size == "" {
			size = resp.Header.Get("Content-Length")
		}
		f.hash = strings.Trim(strings.TrimPrefix(tag, "W/"), `"`)
		if !hashText.MatchString(f.hash) {
			return false, fmt.Errorf("%s gives no hash for it (ETag %q), so it cannot be checked", p.Endpoint, tag)
		}
		if f.size, err = strconv.ParseInt(size, 10, 64); err != nil || f.size < 0 {
			return false, fmt.Errorf("%s gives no size for it (%q)", p.Endpoint, size)
		}
		return false, nil
	})
	return f, err
}

// A temporary error is worth another attempt, not before wait.
type temporary struct {
	err  error
	wait time.Duration
}

func (e *temporary) Error() string { return e.err.Error() }
func (e *temporary) Unwrap() error { return e.err }

// retry calls try until it succeeds or fails for good. An attempt that reports progress starts the
// count again; it must have brought at least minProgress, so the number of attempts stays bounded.
func (p *puller) retry(ctx context.Context, try func() (progress bool, err error)) error {
	wait := p.Backoff
	for failed := 0; ; {
		progress, err := try()
		var t *temporary
		if err == nil || ctx.Err() != nil || !errors.As(err, &t) {
			return err
		}
		if progress {
			failed, wait = 0, p.Backoff
		}
		if failed++; failed >= p.Retries {
			return fmt.Errorf("%w (%d attempts)", t.err, failed)
		}
		pause := max(t.wait, wait/2+time.Duration(rand.Int64N(int64(wait/2)+1)))
		p.log(fmt.Sprintf("%v; trying again in %v", t.err, pause.Round(100*time.Millisecond)))
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause):
		}
		wait = min(2*wait, 30*time.Second)
	}
}

// do sends one request and turns every status but success into an error that says what to do. A
// HEAD stops at a redirect to another host, whose headers describe the file.
func (p *puller) do(ctx context.Context, method, address string, from int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, address, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("User-Agent", "trit")
	req.Header.Set("Accept-Encoding", "identity")
	if p.Token != "" {
		req.Header.Set("Authorization", "Bearer "+p.Token)
	}
	if from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", from))
	}
	client := *p.Client
	client.CheckRedirect = func(next *http.Request, via []*http.Request) error {
		if len(via) >= 10 {
			return errors.New("too many redirects")
		}
		if next.URL.Host != via[0].URL.Host || next.URL.Scheme != via[0].URL.Scheme {
			if method == http.MethodHead {
				return http.ErrUseLastResponse
			}
			next.Header.Del("Authorization")
		}
		return nil
	}
	resp, err := client.Do(req)
	if err != nil {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // the address is long and signed
		}
		return nil, &temporary{err: fmt.Errorf("%w: %s: %w", ErrNetwork, p.Endpoint, err)}
	}
	if c := resp.StatusCode; c == http.StatusOK || c == http.StatusPartialContent || c == http.StatusRequestedRangeNotSatisfiable ||
		(method == http.MethodHead && c >= 300 && c < 400) {
		return resp, nil
	}
	resp.Body.Close()
	return nil, p.statusError(resp)
}

func (p *puller) statusError(resp *http.Response) error {
	code := resp.Header.Get("X-Error-Code")
	page := p.Endpoint + "/" + p.ref.Repo
	switch s := resp.StatusCode; {
	case code == "GatedRepo":
		return fmt.Errorf("%w: the model asks for consent: accept its terms at %s, then set HF_TOKEN", ErrAccess, page)
	case code == "RevisionNotFound":
		return fmt.Errorf("%w: no revision %s at %s", ErrNotFound, p.ref.revision(), page)
	case s == http.StatusUnauthorized && p.Token == "":
		return fmt.Errorf("%w: no such public model at %s; check the name, or set HF_TOKEN if it is private", ErrAccess, page)
	case s == http.StatusUnauthorized || s == http.StatusForbidden:
		return fmt.Errorf("%w: the hub answers %s for %s; check that the token may read it", ErrAccess, resp.Status, page)
	case s == http.StatusNotFound:
		return fmt.Errorf("%w: no such model, revision or file at %s; check the name", ErrNotFound, page)
	case s == http.StatusTooManyRequests || s == http.StatusRequestTimeout || s >= 500:
		var wait time.Duration
		if n, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && n > 0 {
			wait = min(time.Duration(n)*time.Second, 2*time.Minute)
		}
		return &temporary{err: fmt.Errorf("%w: %s answers %s", ErrNetwork, p.Endpoint, resp.Status), wait: wait}
	}
	return fmt.Errorf("%s answers %s", p.Endpoint, resp.Status)
}

// minProgress is how many bytes make an attempt one that helped.
const minProgress = 1 << 20

// fetch reads one blob under its lock: continue or start, check, fsync, rename.
func (p *puller) fetch(ctx context.Context, f remoteFile) error {
	unlock, err := p.lock(ctx, f)
	if err != nil {
		return err
	}
	defer unlock()
	blob := p.blob(f)
	if st, err := os.Stat(blob); err == nil && st.Size() == f.size {
		p.done += f.size // another process was faster
		return nil
	}
	part := blob + ".incomplete"
	w, err := os.OpenFile(part, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return fmt.Errorf("the cache cannot be written: %w; name another folder with --cache or HF_HUB_CACHE", err)
	}
	defer w.Close()
	base := p.done
	for damaged := false; ; damaged = true {
		p.done = base
		err := p.retry(ctx, func() (bool, error) {
			n, err := p.get(ctx, f, w, base)
			return n >= minProgress, err
		})
		if err != nil {
			return err
		}
		if err = w.Sync(); err != nil {
			return err
		}
		if err = verify(part, f); err == nil {
			break
		}
		if !errors.Is(err, ErrHash) || damaged {
			os.Remove(part)
			return err
		}
		p.log(fmt.Sprintf("%s: %v; reading it once more from the start", f.name, err))
		if err := w.Truncate(0); err != nil {
			return err
		}
	}
	p.done = base + f.size
	p.tell(f.name, true)
	if err := w.Close(); err != nil {
		return err
	}
	return os.Rename(part, blob)
}

// get reads the rest of f behind what w has, and returns how many bytes came.
func (p *puller) get(ctx context.Context, f remoteFile, w *os.File, base int64) (got int64, err error) {
	have, err := w.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, err
	}
	if have > f.size {
		have = 0
		if err := restart(w); err != nil {
			return 0, err
		}
	}
	p.done = base + have
	if have == f.size {
		return 0, nil
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	silent := fmt.Errorf("nothing arrived for %v", p.Stall)
	watch := time.AfterFunc(p.Stall, func() { cancel(silent) })
	defer watch.Stop()
	resp, err := p.do(ctx, http.MethodGet, p.fileURL(f.name), have)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusPartialContent:
		var from int64
		if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-", &from); err != nil || from != have {
			return 0, fmt.Errorf("asked for bytes from %d, the answer is %q", have, resp.Header.Get("Content-Range"))
		}
	case http.StatusRequestedRangeNotSatisfiable:
		if err := restart(w); err != nil {
			return 0, err
		}
		return 0, &temporary{err: fmt.Errorf("%w: it refuses to continue at byte %d", ErrNetwork, have)}
	default: // the whole file again
		if have > 0 {
			have = 0
			if err := restart(w); err != nil {
				return 0, err
			}
		}
	}
	if n := resp.ContentLength; n >= 0 && have+n > f.size {
		return 0, fmt.Errorf("%w: %d bytes announced, %d expected", ErrHash, have+n, f.size)
	}
	buf := make([]byte, 256<<10)
	for {
		n, rerr := resp.Body.Read(buf)
		watch.Reset(p.Stall)
		if n > 0 {
			if have+int64(n) > f.size {
				return got, fmt.Errorf("%w: more than the %d bytes expected", ErrHash, f.size)
			}
			m, werr := w.Write(buf[:n])
			got, have = got+int64(m), have+int64(m)
			p.done = base + have
			if werr != nil {
				return got, fmt.Errorf("%w; free some space and pull again, it continues at byte %d", werr, have)
			}
			p.tell(f.name, false)
		}
		if rerr != nil {
			if have == f.size {
				return got, nil
			}
			if cause := context.Cause(ctx); cause == silent {
				rerr = silent
			}
			var ne net.Error
			if errors.Is(rerr, io.EOF) || errors.As(rerr, &ne) {
				rerr = fmt.Errorf("the connection ended (%w)", rerr)
			}
			return got, &temporary{err: fmt.Errorf("%w: at byte %d of %d: %w", ErrNetwork, have, f.size, rerr)}
		}
	}
}

func restart(w *os.File) error {
	if err := w.Truncate(0); err != nil {
		return err
	}
	_, err := w.Seek(0, io.SeekStart)
	return err
}

// lock waits for the right to write a blob.
func (p *puller) lock(ctx context.Context, f remoteFile) (unlock func(), err error) {
	name := filepath.Join(p.locks, f.hash+".lock")
	l, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o666)
	if err != nil {
		return nil, fmt.Errorf("the cache cannot be written: %w; name another folder with --cache or HF_HUB_CACHE", err)
	}
	for waited := false; ; waited = true {
		ok, err := tryLock(l)
		if err != nil {
			l.Close()
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		if ok {
			return func() { l.Close() }, nil // closing releases it; the file stays, as filelock's does
		}
		if !waited {
			p.log(fmt.Sprintf("waiting for another process that reads %s", f.name))
		}
		select {
		case <-ctx.Done():
			l.Close()
			return nil, ctx.Err()
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// verify compares a file with the size and hash that the hub gave.
func verify(file string, f remoteFile) error {
	r, err := infile.Open(file)
	if err != nil {
		return err
	}
	defer r.Close()
	var h hash.Hash
	if len(f.hash) == 2*sha256.Size {
		h = sha256.New()
	} else { // how git names a file
		h = sha1.New()
		fmt.Fprintf(h, "blob %d\x00", f.size)
	}
	n, err := io.Copy(h, r)
	if err != nil {
		return err
	}
	if n != f.size {
		return fmt.Errorf("%w: %d bytes, %d expected", ErrHash, n, f.size)
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != f.hash {
		return fmt.Errorf("%w: hash %s, %s expected", ErrHash, got, f.hash)
	}
	return nil
}
