package hub

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const commit = "0123456789abcdef0123456789abcdef01234567"

// fakeHub answers like the hub for one repository. Large files are redirected to a second server,
// as the hub does, and every fault a network has can be put in front of that one.
type fakeHub struct {
	*httptest.Server
	cdn   *httptest.Server
	files map[string][]byte
	token string // asked for when not empty

	mu       sync.Mutex
	requests []string
	fault    func(w http.ResponseWriter, r *http.Request, data []byte) bool // of the second server; true when it answered
	api      func(w http.ResponseWriter, r *http.Request) bool
	hash     func(name, hash string) string
}

func newFakeHub(t *testing.T, files map[string][]byte) *fakeHub {
	h := &fakeHub{files: files}
	h.cdn = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.note("cdn " + r.Method + " " + r.URL.Path + " " + r.Header.Get("Range"))
		if r.Header.Get("Authorization") != "" {
			t.Error("the token was sent to the host that the hub redirects to")
		}
		data := h.files[strings.TrimPrefix(r.URL.Path, "/")]
		if h.fault != nil && h.fault(w, r, data) {
			return
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.note("hub " + r.Method + " " + r.URL.Path)
		if h.token != "" && r.Header.Get("Authorization") != "Bearer "+h.token {
			w.Header().Set("X-Error-Code", "GatedRepo")
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if h.api != nil && h.api(w, r) {
			return
		}
		if strings.HasPrefix(r.URL.Path, "/api/models/o/m/revision/") {
			rev := strings.TrimPrefix(r.URL.Path, "/api/models/o/m/revision/")
			if rev != "main" && rev != "v1" && rev != commit {
				w.Header().Set("X-Error-Code", "RevisionNotFound")
				w.WriteHeader(http.StatusNotFound)
				return
			}
			type sibling struct {
				Name string `json:"rfilename"`
			}
			var list []sibling
			for n := range h.files {
				list = append(list, sibling{n})
			}
			json.NewEncoder(w).Encode(map[string]any{"sha": commit, "siblings": list})
			return
		}
		name := strings.TrimPrefix(r.URL.Path, "/o/m/resolve/"+commit+"/")
		data, ok := h.files[name]
		if !ok {
			w.WriteHeader(http.StatusNotFound)
			return
		}
		hash := func(s string) string {
			if h.hash != nil {
				return h.hash(name, s)
			}
			return s
		}
		w.Header().Set("X-Repo-Commit", commit)
		if len(data) > 1000 { // as a file in git LFS
			sum := sha256.Sum256(data)
			w.Header().Set("Etag", `"not-the-hash-of-the-file"`)
			w.Header().Set("X-Linked-Etag", `"`+hash(hex.EncodeToString(sum[:]))+`"`)
			w.Header().Set("X-Linked-Size", strconv.Itoa(len(data)))
			http.Redirect(w, r, h.cdn.URL+"/"+name, http.StatusFound)
			return
		}
		sum := sha1.Sum(append(fmt.Appendf(nil, "blob %d\x00", len(data)), data...))
		w.Header().Set("Etag", `"`+hash(hex.EncodeToString(sum[:]))+`"`)
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}))
	t.Cleanup(func() { h.Server.Close(); h.cdn.Close() })
	return h
}

func (h *fakeHub) note(s string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.requests = append(h.requests, strings.TrimSpace(s))
}

func (h *fakeHub) count(prefix string) (n int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, r := range h.requests {
		if strings.HasPrefix(r, prefix) {
			n++
		}
	}
	return n
}

func (h *fakeHub) options(t *testing.T) Options {
	return Options{
		Endpoint: h.URL, Cache: t.TempDir(), Backoff: time.Millisecond, Retries: 3, Stall: 5 * time.Second,
		Log: func(s string) { t.Log(s) },
	}
}

func random(n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(n)})
	r.Read(b)
	return b
}

func model() map[string][]byte {
	return map[string][]byte{
		"config.json":           []byte(`{"model_type":"bitnet"}`),
		"tokenizer.json":        []byte(`{}`),
		"tokenizer_config.json": []byte(`{"x":1}`),
		"model.safetensors":     random(3<<20 + 17),
		"pytorch_model.bin":     []byte("pickle"),
		"README.md":             []byte("read me"),
		"../evil":               []byte("evil"),
		"sub/other.safetensors": []byte("x"),
	}
}

// check pulls and compares every file that a model needs.
func check(t *testing.T, h *fakeHub, o Options) string {
	t.Helper()
	dir, err := Pull(t.Context(), Ref{Repo: "o/m"}, o)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"} {
		got, err := os.ReadFile(filepath.Join(dir, n))
		if err != nil || !bytes.Equal(got, h.files[n]) {
			t.Fatalf("%s: %d bytes, %v", n, len(got), err)
		}
	}
	if left := incomplete(t, o.Cache); len(left) > 0 {
		t.Fatalf("left behind: %v", left)
	}
	return dir
}

func incomplete(t *testing.T, cache string) []string {
	found, err := filepath.Glob(filepath.Join(cache, "models--o--m", "blobs", "*.incomplete"))
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestPullWritesTheSharedCacheLayout(t *testing.T) {
	h := newFakeHub(t, model())
	o := h.options(t)
	var last Progress
	o.Progress = func(p Progress) { last = p }
	dir := check(t, h, o)
	root := filepath.Join(o.Cache, "models--o--m")
	if want := filepath.Join(root, "snapshots", commit); dir != want {
		t.Errorf("path %s, want %s", dir, want)
	}
	if ref, _ := os.ReadFile(filepath.Join(root, "refs", "main")); string(ref) != commit {
		t.Errorf("refs/main is %q", ref)
	}
	sum := sha256.Sum256(h.files["model.safetensors"])
	if runtime.GOOS != "windows" {
		to, err := os.Readlink(filepath.Join(dir, "model.safetensors"))
		if err != nil || filepath.ToSlash(to) != "../../blobs/"+hex.EncodeToString(sum[:]) {
			t.Errorf("link to %q, %v", to, err)
		}
	}
	if _, err := os.Stat(filepath.Join(o.Cache, ".locks", "models--o--m", hex.EncodeToString(sum[:])+".lock")); err != nil {
		t.Error(err)
	}
	for _, n := range []string{"README.md", "pytorch_model.bin", "sub/other.safetensors", "../evil"} {
		if _, err := os.Stat(filepath.Join(dir, n)); err == nil {
			t.Errorf("%s was fetched", n)
		}
	}
	if last.Done != last.Total || last.Total < 3<<20 {
		t.Errorf("progress ended at %+v", last)
	}
	gets := h.count("cdn GET")
	check(t, h, o)
	if h.count("cdn GET") != gets {
		t.Error("a second pull read the weights again")
	}
}

func TestResolveAsksNobodyWhenTheModelIsHere(t *testing.T) {
	h := newFakeHub(t, model())
	o := h.options(t)
	first, err := Resolve(t.Context(), "o/m", o)
	if err != nil {
		t.Fatal(err)
	}
	n := h.count("")
	again, err := Resolve(t.Context(), "o/m", o)
	if err != nil || again != first {
		t.Fatalf("%s, %v", again, err)
	}
	if h.count("") != n {
		t.Error("the network was asked")
	}
	o.Offline = true
	if _, err := Resolve(t.Context(), "o/m", o); err != nil {
		t.Error(err)
	}
	if _, err := Resolve(t.Context(), "o/m@"+commit, o); err != nil {
		t.Error(err)
	}
	if _, err := Resolve(t.Context(), "o/m@v1", o); !errors.Is(err, ErrOffline) {
		t.Errorf("a revision that is not here, offline: %v", err)
	}
	if got := Names(o); len(got) != 1 || got[0] != "o/m" {
		t.Errorf("names %v", got)
	}
	os.Remove(filepath.Join(first, "model.safetensors"))
	if _, err := Resolve(t.Context(), "o/m", o); !errors.Is(err, ErrOffline) {
		t.Errorf("weights gone, offline: %v", err)
	}
}

func TestResolvePaths(t *testing.T) {
	dir := t.TempDir()
	if got, err := Resolve(t.Context(), dir, Options{}); err != nil || got != dir {
		t.Errorf("%s, %v", got, err)
	}
	for _, ref := range []string{"./nothing", "/nothing/here", "nothing", "model.gguf", "a/b.gguf", dir + "/missing", "~/x/y"} {
		_, err := Resolve(t.Context(), ref, Options{Endpoint: "http://127.0.0.1:1", Cache: dir})
		if !errors.Is(err, os.ErrNotExist) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

func TestParseRef(t *testing.T) {
	for s, want := range map[string]Ref{
		"microsoft/bitnet-b1.58-2B-4T": {Repo: "microsoft/bitnet-b1.58-2B-4T"},
		"o/m@v1":                       {Repo: "o/m", Revision: "v1"},
		"o/m@refs/pr/1":                {Repo: "o/m", Revision: "refs/pr/1"},
		"o/m/a/b.gguf@v1":              {Repo: "o/m", File: "a/b.gguf", Revision: "v1"},
	} {
		got, err := ParseRef(s)
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", s, got, err)
		}
		if got.String() != s {
			t.Errorf("%s is written %s", s, got)
		}
	}
	for _, s := range []string{"", "m", "/m", "o/", "o/m@", "o/m@../..", "../m", "o/..", "o/m/../x", "o/m//x", "o/a--b", "o/m/\\x", "o m/x", "o/m@a b"} {
		if got, err := ParseRef(s); err == nil {
			t.Errorf("%q was read as %+v", s, got)
		}
	}
}

func TestDroppedConnectionsAreContinued(t *testing.T) {
	h := newFakeHub(t, model())
	h.files["model.safetensors"] = random(6 << 20)
	drops := 0 // more in a row than o.Retries, each after a megabyte
	h.fault = func(w http.ResponseWriter, r *http.Request, data []byte) bool {
		if drops++; drops > 4 {
			return false
		}
		var from int
		fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(data)-from))
		if from > 0 {
			w.WriteHeader(http.StatusPartialContent)
		}
		w.Write(data[from:min(len(data), from+1<<20+drops)]) // then the handler ends early
		panic(http.ErrAbortHandler)
	}
	check(t, h, h.options(t))
	if h.count("cdn GET /model.safetensors bytes=") != 4 {
		t.Errorf("not continued: %q", h.requests)
	}
}

func TestAServerThatNeverDeliversEnds(t *testing.T) {
	h := newFakeHub(t, model())
	h.fault = func(w http.ResponseWriter, r *http.Request, data []byte) bool {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		w.Write(data[:10])
		panic(http.ErrAbortHandler)
	}
	_, err := Pull(t.Context(), Ref{Repo: "o/m"}, h.options(t))
	if !errors.Is(err, ErrNetwork) || !strings.Contains(err.Error(), "3 attempts") || !strings.Contains(err.Error(), "model.safetensors") {
		t.Fatal(err)
	}
}

func TestLengthsThatLie(t *testing.T) {
	for name, tc := range map[string]struct {
		fault func(w http.ResponseWriter, r *http.Request, data []byte) bool
		want  error
	}{
		"longer than announced by the hub": {func(w http.ResponseWriter, r *http.Request, data []byte) bool {
			w.Header().Set("Content-Length", strconv.Itoa(len(data)+5))
			w.Write(append(data, "12345"...))
			return true
		}, ErrHash},
		"endless, with no length": {func(w http.ResponseWriter, r *http.Request, data []byte) bool {
			for range 100 {
				if _, err := w.Write(data); err != nil {
					break
				}
				w.(http.Flusher).Flush()
			}
			return true
		}, ErrHash},
		"shorter, and says so": {func(w http.ResponseWriter, r *http.Request, data []byte) bool {
			w.Header().Set("Content-Length", "100")
			w.Write(data[:100])
			return true
		}, ErrNetwork},
	} {
		t.Run(name, func(t *testing.T) {
			h := newFakeHub(t, model())
			h.fault = tc.fault
			o := h.options(t)
			_, err := Pull(t.Context(), Ref{Repo: "o/m"}, o)
			if err == nil || (!errors.Is(err, tc.want) && !strings.Contains(err.Error(), "asked for bytes")) {
				t.Fatalf("error %v", err)
			}
			for _, f := range incomplete(t, o.Cache) {
				if st, _ := os.Stat(f); st.Size() > int64(len(h.files["model.safetensors"])) {
					t.Errorf("%d bytes written", st.Size())
				}
			}
			if _, err := Cached(Ref{Repo: "o/m"}, o); err == nil {
				t.Error("it counts as cached")
			}
		})
	}
}

func TestAWrongHashIsNeverKept(t *testing.T) {
	h := newFakeHub(t, model())
	h.hash = func(name, hash string) string {
		if name == "model.safetensors" {
			return strings.Repeat("ab", 32)
		}
		return hash
	}
	o := h.options(t)
	_, err := Pull(t.Context(), Ref{Repo: "o/m"}, o)
	if !errors.Is(err, ErrHash) || !strings.Contains(err.Error(), "model.safetensors") {
		t.Fatal(err)
	}
	if n := h.count("cdn GET"); n != 2 {
		t.Errorf("%d attempts, want one more after the first", n)
	}
	if left := incomplete(t, o.Cache); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
	if _, err := os.Stat(filepath.Join(o.Cache, "models--o--m", "blobs", strings.Repeat("ab", 32))); err == nil {
		t.Error("the blob was kept")
	}

	h.hash = func(name, hash string) string { return "W/bad" }
	if _, err := Pull(t.Context(), Ref{Repo: "o/m"}, h.options(t)); err == nil || !strings.Contains(err.Error(), "no hash") {
		t.Errorf("no usable hash: %v", err)
	}
}

func TestADamagedPartIsReadAgain(t *testing.T) {
	h := newFakeHub(t, model())
	o := h.options(t)
	data := h.files["model.safetensors"]
	sum := sha256.Sum256(data)
	part := filepath.Join(o.Cache, "models--o--m", "blobs", hex.EncodeToString(sum[:])+".incomplete")
	for name, old := range map[string][]byte{
		"other bytes": random(1 << 20), "too long": random(5 << 20), "just as long": random(len(data)), "good start": data[:12345], "whole": data,
	} {
		t.Run(name, func(t *testing.T) {
			os.RemoveAll(filepath.Join(o.Cache, "models--o--m"))
			os.MkdirAll(filepath.Dir(part), 0o755)
			if err := os.WriteFile(part, old, 0o644); err != nil {
				t.Fatal(err)
			}
			check(t, h, o)
		})
	}
}

func TestServersWithoutRanges(t *testing.T) {
	for _, status := range []int{http.StatusOK, http.StatusRequestedRangeNotSatisfiable} {
		h := newFakeHub(t, model())
		h.fault = func(w http.ResponseWriter, r *http.Request, data []byte) bool {
			if r.Header.Get("Range") != "" && status != http.StatusOK {
				w.WriteHeader(status)
				return true
			}
			w.Write(data)
			return true
		}
		o := h.options(t)
		sum := sha256.Sum256(h.files["model.safetensors"])
		blobs := filepath.Join(o.Cache, "models--o--m", "blobs")
		os.MkdirAll(blobs, 0o755)
		os.WriteFile(filepath.Join(blobs, hex.EncodeToString(sum[:])+".incomplete"), random(1000), 0o644)
		check(t, h, o)
	}
}

func TestStatuses(t *testing.T) {
	always := func(status int, header, value string) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			if header != "" {
				w.Header().Set(header, value)
			}
			w.WriteHeader(status)
			return true
		}
	}
	for name, tc := range map[string]struct {
		api  func(w http.ResponseWriter, r *http.Request) bool
		want error
		text string
	}{
		"401":          {always(401, "", ""), ErrAccess, "HF_TOKEN"},
		"401 no repo":  {always(401, "X-Error-Code", "RepoNotFound"), ErrAccess, "check the name"},
		"403 gated":    {always(403, "X-Error-Code", "GatedRepo"), ErrAccess, "accept its terms"},
		"404":          {always(404, "", ""), ErrNotFound, "check the name"},
		"404 revision": {always(404, "X-Error-Code", "RevisionNotFound"), ErrNotFound, "no revision"},
		"429":          {always(429, "", ""), ErrNetwork, "429"},
		"500":          {always(500, "", ""), ErrNetwork, "500"},
		"418":          {always(418, "", ""), nil, "418"},
		"not a hub": {func(w http.ResponseWriter, r *http.Request) bool {
			io.WriteString(w, "<html>")
			return true
		}, nil, "not answer like a hub"},
		"no commit": {func(w http.ResponseWriter, r *http.Request) bool { io.WriteString(w, `{"sha":"../../x"}`); return true }, nil, "commit"},
		"endless redirect": {func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, r.URL.Path, http.StatusFound)
			return true
		}, ErrNetwork, "redirects"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newFakeHub(t, model())
			h.api = tc.api
			_, err := Pull(t.Context(), Ref{Repo: "o/m"}, h.options(t))
			if err == nil || (tc.want != nil && !errors.Is(err, tc.want)) || !strings.Contains(err.Error(), tc.text) || strings.Contains(err.Error(), "\n") {
				t.Fatal(err)
			}
			t.Log(err)
		})
	}
}

func TestTooManyRequestsIsWaitedFor(t *testing.T) {
	h := newFakeHub(t, model())
	var n atomic.Int32
	h.api = func(w http.ResponseWriter, r *http.Request) bool {
		if n.Add(1) > 2 {
			return false
		}
		w.WriteHeader(http.StatusTooManyRequests)
		return true
	}
	check(t, h, h.options(t))
}

func TestToken(t *testing.T) {
	h := newFakeHub(t, model())
	h.token = "secret"
	o := h.options(t)
	if _, err := Pull(t.Context(), Ref{Repo: "o/m"}, o); !errors.Is(err, ErrAccess) {
		t.Fatal(err)
	}
	o.Token = "secret"
	check(t, h, o)
	for _, r := range h.requests {
		if strings.Contains(r, "secret") {
			t.Error(r)
		}
	}
}

func TestARenamedRepositoryIsFollowed(t *testing.T) {
	h := newFakeHub(t, model())
	h.api = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "old/name") {
			http.Redirect(w, r, strings.Replace(r.URL.Path, "old/name", "o/m", 1), http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
	o := h.options(t)
	dir, err := Pull(t.Context(), Ref{Repo: "old/name"}, o)
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "model.safetensors")); !bytes.Equal(got, h.files["model.safetensors"]) {
		t.Error("other bytes")
	}
}

func TestNoNetwork(t *testing.T) {
	o := Options{Endpoint: "http://127.0.0.1:1", Cache: t.TempDir(), Backoff: time.Millisecond, Retries: 2}
	_, err := Resolve(t.Context(), "o/m", o)
	if !errors.Is(err, ErrNetwork) {
		t.Fatal(err)
	}
	h := newFakeHub(t, model())
	good := h.options(t)
	check(t, h, good)
	good.Endpoint = o.Endpoint
	if _, err := Pull(t.Context(), Ref{Repo: "o/m"}, good); err != nil {
		t.Errorf("pull of a cached model with no network: %v", err)
	}
}

func TestSilenceEnds(t *testing.T) {
	h := newFakeHub(t, model())
	over := make(chan struct{})
	defer close(over)
	h.fault = func(w http.ResponseWriter, r *http.Request, data []byte) bool {
		w.Write(data[:1000])
		w.(http.Flusher).Flush()
		select {
		case <-over:
		case <-r.Context().Done():
		}
		return true
	}
	o := h.options(t)
	o.Stall = 100 * time.Millisecond
	o.Retries = 2
	_, err := Pull(t.Context(), Ref{Repo: "o/m"}, o)
	if !errors.Is(err, ErrNetwork) || !strings.Contains(err.Error(), "nothing arrived") {
		t.Fatal(err)
	}
}

func TestCancelLeavesWhatTheNextPullContinues(t *testing.T) {
	h := newFakeHub(t, model())
	ctx, cancel := context.WithCancel(t.Context())
	h.fault = func(w http.ResponseWriter, r *http.Request, data []byte) bool {
		if r.Header.Get("Range") != "" {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		w.Write(data[:2<<20])
		w.(http.Flusher).Flush()
		time.Sleep(200 * time.Millisecond)
		cancel()
		<-r.Context().Done()
		return true
	}
	o := h.options(t)
	_, err := Pull(ctx, Ref{Repo: "o/m"}, o)
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	left := incomplete(t, o.Cache)
	if len(left) != 1 {
		t.Fatalf("left %v", left)
	}
	if st, _ := os.Stat(left[0]); st.Size() != 2<<20 {
		t.Errorf("%d bytes kept", st.Size())
	}
	check(t, h, o)
	if h.count(fmt.Sprintf("cdn GET /model.safetensors bytes=%d-", 2<<20)) != 1 {
		t.Errorf("not continued: %q", h.requests)
	}
}

func TestTwoPullsAtOnceReadOnce(t *testing.T) {
	h := newFakeHub(t, model())
	h.fault = func(w http.ResponseWriter, r *http.Request, data []byte) bool {
		time.Sleep(100 * time.Millisecond)
		return false
	}
	o := h.options(t)
	o.Log = nil
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			if _, err := Pull(t.Context(), Ref{Repo: "o/m"}, o); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	check(t, h, o)
	if n := h.count("cdn GET"); n != 1 {
		t.Errorf("the weights were read %d times", n)
	}
}

func TestVerifyFindsADamagedBlob(t *testing.T) {
	h := newFakeHub(t, model())
	o := h.options(t)
	dir := check(t, h, o)
	f, err := os.OpenFile(filepath.Join(dir, "model.safetensors"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte("damage"), 1000)
	f.Close()
	o.Verify = true
	check(t, h, o)
}

func TestUnwritableCache(t *testing.T) {
	h := newFakeHub(t, model())
	o := h.options(t)
	file := filepath.Join(o.Cache, "file")
	os.WriteFile(file, nil, 0o644)
	o.Cache = filepath.Join(file, "below") // holds for root too, unlike permissions
	_, err := Pull(t.Context(), Ref{Repo: "o/m"}, o)
	if err == nil || !strings.Contains(err.Error(), "cannot be written") || !strings.Contains(err.Error(), "HF_HUB_CACHE") {
		t.Fatal(err)
	}
}

func TestFullDisk(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("needs /dev/full")
	}
	h := newFakeHub(t, model())
	o := h.options(t)
	sum := sha256.Sum256(h.files["model.safetensors"])
	blobs := filepath.Join(o.Cache, "models--o--m", "blobs")
	os.MkdirAll(blobs, 0o755)
	part := filepath.Join(blobs, hex.EncodeToString(sum[:])+".incomplete")
	if err := os.Symlink("/dev/full", part); err != nil {
		t.Fatal(err)
	}
	_, err := Pull(t.Context(), Ref{Repo: "o/m"}, o)
	if err == nil || !strings.Contains(err.Error(), "no space left") || !strings.Contains(err.Error(), "free some space") {
		t.Fatal(err)
	}
	if h.count("cdn GET") != 1 {
		t.Error("a full disk was tried again")
	}
	if _, err := Cached(Ref{Repo: "o/m"}, o); err == nil {
		t.Error("it counts as cached")
	}
	os.Remove(part)
	check(t, h, o)
}

func TestShardsAndGGUFs(t *testing.T) {
	h := newFakeHub(t, map[string][]byte{
		"config.json":                      []byte("{}"),
		"model.safetensors.index.json":     []byte(`{"weight_map":{"a":"model-00001-of-00002.safetensors","b":"model-00002-of-00002.safetensors","c":"model-00001-of-00002.safetensors"}}`),
		"model-00001-of-00002.safetensors": random(2000),
		"model-00002-of-00002.safetensors": random(3000),
		"consolidated.safetensors":         random(9000),
	})
	o := h.options(t)
	dir, err := Pull(t.Context(), Ref{Repo: "o/m"}, o)
	if err != nil {
		t.Fatal(err)
	}
	for n, want := range map[string]bool{"model-00001-of-00002.safetensors": true, "model-00002-of-00002.safetensors": true, "consolidated.safetensors": false} {
		if _, err := os.Stat(filepath.Join(dir, n)); (err == nil) != want {
			t.Errorf("%s: %v", n, err)
		}
	}
	os.Remove(filepath.Join(dir, "model-00002-of-00002.safetensors"))
	if _, err := Cached(Ref{Repo: "o/m"}, o); err == nil {
		t.Error("complete with a shard missing")
	}

	h = newFakeHub(t, map[string][]byte{"a.gguf": random(2000), "README.md": nil})
	o = h.options(t)
	file, err := Pull(t.Context(), Ref{Repo: "o/m"}, o)
	if err != nil || filepath.Base(file) != "a.gguf" {
		t.Fatal(file, err)
	}
	h.files["b.gguf"] = random(3000)
	if _, err := Pull(t.Context(), Ref{Repo: "o/m"}, o); err == nil || !strings.Contains(err.Error(), "a.gguf") || !strings.Contains(err.Error(), "b.gguf") {
		t.Error(err)
	}
	if file, err = Pull(t.Context(), Ref{Repo: "o/m", File: "b.gguf"}, o); err != nil || filepath.Base(file) != "b.gguf" {
		t.Error(file, err)
	}
	if _, err := Pull(t.Context(), Ref{Repo: "o/m", File: "c.gguf"}, o); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}

	// A model in several files is pulled whole, by its repository's name or by that of any part.
	h = newFakeHub(t, map[string][]byte{"q/m-00001-of-00003.gguf": random(2000), "q/m-00002-of-00003.gguf": random(3000), "q/m-00003-of-00003.gguf": random(100)})
	for _, ref := range []Ref{{Repo: "o/m"}, {Repo: "o/m", File: "q/m-00002-of-00003.gguf"}} {
		o = h.options(t)
		file, err = Pull(t.Context(), ref, o)
		if want := cmp.Or(ref.File, "q/m-00001-of-00003.gguf"); err != nil || filepath.Base(file) != path.Base(want) {
			t.Fatal(file, err)
		}
		for n := range h.files {
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), path.Base(n))); err != nil {
				t.Error(err)
			}
		}
		os.Remove(filepath.Join(filepath.Dir(file), "m-00003-of-00003.gguf"))
		if _, err := Cached(ref, o); !errors.Is(err, ErrOffline) || !strings.Contains(err.Error(), "m-00003-of-00003.gguf is not there") {
			t.Error("complete with a part missing:", err)
		}
	}
	delete(h.files, "q/m-00001-of-00003.gguf")
	if _, err := Pull(t.Context(), Ref{Repo: "o/m", File: "q/m-00002-of-00003.gguf"}, o); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "m-00001-of-00003.gguf is not there") {
		t.Error(err)
	}

	h = newFakeHub(t, map[string][]byte{"config.json": []byte("{}"), "pytorch_model.bin": random(2000)})
	if _, err := Pull(t.Context(), Ref{Repo: "o/m"}, h.options(t)); !errors.Is(err, errors.ErrUnsupported) || !strings.Contains(err.Error(), "pickle") {
		t.Error(err)
	}
	if h.count("cdn") != 0 {
		t.Error("a pickle was fetched")
	}
	h = newFakeHub(t, map[string][]byte{"README.md": nil})
	if _, err := Pull(t.Context(), Ref{Repo: "o/m"}, h.options(t)); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
}
