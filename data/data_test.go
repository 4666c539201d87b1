package data

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/tritlm/trit/tokenizer"
)

func TestReadText(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) string {
		p := filepath.Join(dir, name)
		os.MkdirAll(filepath.Dir(p), 0o755)
		if err := os.WriteFile(p, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return p
	}
	if s, err := ReadText(t.Context(), "", nil); err != nil || len(s) < 15000 {
		t.Errorf("built-in text: %d bytes, %v", len(s), err)
	}
	if s, err := ReadText(t.Context(), "-", strings.NewReader("hello")); err != nil || s != "hello" {
		t.Errorf("standard input: %q, %v", s, err)
	}
	write("folder/b.txt", "second")
	write("folder/a.md", "first\n")
	write("folder/c.png", "\xff\xfe")
	if s, err := ReadText(t.Context(), filepath.Join(dir, "folder"), nil); err != nil || s != "first\nsecond\n" {
		t.Errorf("folder: %q, %v", s, err)
	}
	if _, err := ReadText(t.Context(), write("empty.txt", " \n\t"), nil); !errors.Is(err, ErrEmpty) {
		t.Errorf("empty file: %v", err)
	}
	if _, err := ReadText(t.Context(), write("none/x.png", "x"), nil); err != nil {
		t.Errorf("a file is read whatever its name: %v", err)
	}
	if _, err := ReadText(t.Context(), filepath.Join(dir, "none"), nil); !errors.Is(err, ErrEmpty) {
		t.Errorf("folder without text: %v", err)
	}
	if _, err := ReadText(t.Context(), write("latin.txt", "caf\xe9"), nil); err == nil || !strings.Contains(err.Error(), "byte 3") {
		t.Errorf("Latin-1: %v", err)
	}
	if _, err := ReadText(t.Context(), filepath.Join(dir, "missing"), nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

func TestVocabulariesRoundTrip(t *testing.T) {
	text := Builtin() + "naïve — 日本語 🙂\r\n\tend  of   it 123 don't"
	chars, err := Chars(text)
	if err != nil {
		t.Fatal(err)
	}
	byteV, err := Bytes()
	if err != nil {
		t.Fatal(err)
	}
	bpe, err := TrainBPE(text, 400)
	if err != nil {
		t.Fatal(err)
	}
	if bpe.Size() != 400 {
		t.Errorf("BPE has %d tokens", bpe.Size())
	}
	if byteV.Size() != 256 {
		t.Errorf("bytes have %d tokens", byteV.Size())
	}
	for name, v := range map[string]*Vocab{"chars": chars, "bytes": byteV, "bpe": bpe} {
		ids := v.EncodeAll(text)
		if got := v.Decode(ids); got != text {
			t.Errorf("%s: does not give the text back", name)
		}
		for _, id := range ids {
			if int(id) >= v.Size() || id < 0 {
				t.Fatalf("%s: token %d of %d", name, id, v.Size())
			}
		}
		again, err := NewVocab(v.JSON)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(again.Encode("the fox", tokenizer.EncodeOptions{}), v.Encode("the fox", tokenizer.EncodeOptions{})) {
			t.Errorf("%s: reading the JSON again changes tokens", name)
		}
	}
	if n, m := len(bpe.EncodeAll(text)), len(text); n*3 > m*2 {
		t.Errorf("400 tokens compress %d bytes only to %d", m, n)
	}
	if _, err := Chars("aaaa"); err == nil || !strings.Contains(err.Error(), "one character") {
		t.Errorf("one character: %v", err)
	}
	if _, err := TrainBPE(text, 100); err == nil {
		t.Error("a byte-level vocabulary of 100 was accepted")
	}
}

// TestBPELearnsTheFrequentPair pins the order of merges on a text small enough to do by hand.
func TestBPELearnsTheFrequentPair(t *testing.T) {
	v, err := TrainBPE("ab ab ab abc", 258)
	if err != nil {
		t.Fatal(err)
	}
	// " ab" occurs three times and "ab" once at the start: the pair ab four times, then space+ab three times.
	for id, want := range map[int32]string{256: "ab", 257: " ab"} {
		if got := v.Decode([]int32{id}); got != want {
			t.Errorf("token %d is %q, want %q", id, got, want)
		}
	}
}

func TestTokensKeepAndCheck(t *testing.T) {
	ids := make([]int32, 1000)
	for i := range ids {
		ids[i] = int32(i * 7 % 300)
	}
	path := filepath.Join(t.TempDir(), "t.bin")
	for _, vocab := range []int{300, 1 << 17} {
		var b bytes.Buffer
		if err := WriteTokens(&b, ids, vocab); err != nil {
			t.Fatal(err)
		}
		os.WriteFile(path, b.Bytes(), 0o644)
		tok, err := OpenTokens(path)
		if err != nil {
			t.Fatal(err)
		}
		got := make([]int32, len(ids))
		if err := tok.read(got, 0); err != nil || !slices.Equal(got, ids) || tok.Len() != len(ids) || tok.Vocab() != vocab {
			t.Errorf("vocabulary %d: %v", vocab, err)
		}
		for b, err := range tok.Batches(1, 0, 3, 10) {
			if err != nil {
				t.Fatal(err)
			}
			for i := range 3 {
				if !slices.Equal(b.IDs[i*10+1:(i+1)*10], b.Targets[i*10:(i+1)*10-1]) {
					t.Error("targets are not the next tokens")
				}
			}
			break
		}
		tok.Close()
		cut := b.Bytes()[:b.Len()-1]
		for name, bad := range map[string][]byte{"empty": {}, "short": cut[:10], "cut": cut, "magic": append([]byte("NOTTOKENS"), cut[9:]...), "width": append(append([]byte(shardMagic), 3, 0, 0, 0), cut[12:]...)} {
			os.WriteFile(path, bad, 0o644)
			if _, err := OpenTokens(path); !errors.Is(err, ErrFormat) {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	var b bytes.Buffer
	WriteTokens(&b, []int32{1, 2, 500, 3, 4}, 300)
	tok, err := parseTokens(b.Bytes(), "x")
	if err != nil {
		t.Fatal(err)
	}
	for _, err := range tok.Spread(1, 1, 4) {
		if !errors.Is(err, ErrFormat) {
			t.Errorf("token outside the vocabulary: %v", err)
		}
	}
	for _, err := range NewTokens(ids[:10], 300).Batches(1, 0, 2, 10) {
		if !errors.Is(err, ErrShort) {
			t.Errorf("block longer than the data: %v", err)
		}
	}
}

// TestBatchesContinue: batch n is the same whether or not the batches before it were drawn.
func TestBatchesContinue(t *testing.T) {
	ids := make([]int32, 500)
	for i := range ids {
		ids[i] = int32(i)
	}
	tok := NewTokens(ids, 500)
	var all []Batch
	for b, err := range tok.Batches(9, 0, 2, 8) {
		if err != nil {
			t.Fatal(err)
		}
		if all = append(all, b); len(all) == 6 {
			break
		}
	}
	n := 4
	for b := range tok.Batches(9, n, 2, 8) {
		if !slices.Equal(b.IDs, all[n].IDs) {
			t.Fatalf("batch %d differs", n)
		}
		if n++; n == 6 {
			break
		}
	}
}

func TestFetch(t *testing.T) {
	body := "some text"
	sum := sha256.Sum256([]byte(body))
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/ok" {
			http.NotFound(w, r)
			return
		}
		w.Write([]byte(body))
	}))
	defer srv.Close()
	s := Source{Name: "test", File: "t.txt", URL: srv.URL + "/ok", SHA256: hex.EncodeToString(sum[:]), Size: 100}
	dir := t.TempDir()
	p, err := Fetch(context.Background(), srv.Client(), s, dir, "", "")
	if err != nil {
		t.Fatal(err)
	}
	srv.Close() // the second time needs no network
	if _, err := Fetch(context.Background(), srv.Client(), s, dir, "", ""); err != nil {
		t.Error(err)
	}
	if _, err := Fetch(context.Background(), srv.Client(), s, t.TempDir(), "", ""); err == nil || !strings.Contains(err.Error(), "--from") {
		t.Errorf("offline: %v", err)
	}
	if _, err := Fetch(context.Background(), nil, s, t.TempDir(), p, ""); err != nil {
		t.Errorf("from a local copy: %v", err)
	}
	s.SHA256 = strings.Repeat("0", 64)
	if _, err := Fetch(context.Background(), nil, s, t.TempDir(), p, ""); err == nil || !strings.Contains(err.Error(), "sha256") {
		t.Errorf("wrong content: %v", err)
	}
}

// TestFetchArchive takes a text out of an archive whose checksum is right, and out of no other.
func TestFetchArchive(t *testing.T) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.Create("folder/text.raw")
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("some text"))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b.Bytes())
	archive := filepath.Join(t.TempDir(), "a.zip")
	if err := os.WriteFile(archive, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
	s := Source{Name: "test", File: "t.txt", SHA256: hex.EncodeToString(sum[:]), Member: "folder/text.raw", Size: 100}
	dir := t.TempDir()
	p, err := Fetch(context.Background(), nil, s, dir, archive, "")
	if err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(p); string(got) != "some text" {
		t.Errorf("the text is %q", got)
	}
	if _, err := Fetch(context.Background(), nil, s, dir, "nowhere", ""); err != nil {
		t.Errorf("the second time needs no archive: %v", err)
	}
	s.Member = "other"
	if _, err := Fetch(context.Background(), nil, s, t.TempDir(), archive, ""); err == nil || !strings.Contains(err.Error(), "other") {
		t.Errorf("no such member: %v", err)
	}
	s.SHA256 = strings.Repeat("0", 64)
	if _, err := Fetch(context.Background(), nil, s, t.TempDir(), archive, ""); err == nil || !strings.Contains(err.Error(), "sha256") {
		t.Errorf("wrong content: %v", err)
	}
}

// TestFetchFromServers: an archive over HTTP, whole; and everything else that a server, or none, may answer: one error that
// says what to try, and nothing left in the folder.
func TestFetchFromServers(t *testing.T) {
	var b bytes.Buffer
	z := zip.NewWriter(&b)
	w, err := z.Create("folder/text.raw")
	if err != nil {
		t.Fatal(err)
	}
	w.Write([]byte("some text"))
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	archive, sum := b.Bytes(), sha256.Sum256(b.Bytes())
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/a.zip":
			w.Write(archive)
		case "/moved":
			http.Redirect(w, r, "/a.zip", http.StatusFound)
		case "/cut": // the connection ends early
			w.Header().Set("Content-Length", strconv.Itoa(len(archive)))
			w.Write(archive[:len(archive)/2])
		case "/short": // and here it only seems whole
			w.Write(archive[:len(archive)/2])
		case "/other":
			w.Write(append([]byte{0}, archive[1:]...))
		case "/page":
			w.Write([]byte("<html>log in</html>"))
		case "/endless":
			for range 1000 {
				w.Write(archive)
			}
		case "/empty":
		default:
			http.NotFound(w, r)
		}
	}))
	defer srv.Close()
	s := Source{
		Name: "test", File: "t.txt", URL: srv.URL + "/a.zip", SHA256: hex.EncodeToString(sum[:]),
		Member: "folder/text.raw", Size: int64(len(archive)),
	}
	for _, url := range []string{"", srv.URL + "/moved"} {
		p, err := Fetch(context.Background(), srv.Client(), s, t.TempDir(), "", url)
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(p); string(got) != "some text" {
			t.Errorf("%q: the text is %q", url, got)
		}
	}
	fails := func(s Source, url string, want ...string) {
		t.Helper()
		dir := t.TempDir()
		_, err := Fetch(context.Background(), srv.Client(), s, dir, "", url)
		if err == nil {
			t.Errorf("%s: no error", url)
			return
		}
		for _, w := range append(want, "--from") {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: %v: does not say %q", url, err, w)
			}
		}
		if left, _ := os.ReadDir(dir); len(left) != 0 {
			t.Errorf("%s: left behind: %v", url, left)
		}
	}
	fails(s, srv.URL+"/nothing", "404", "a.zip")
	fails(s, srv.URL+"/cut", "EOF")
	fails(s, srv.URL+"/short", "sha256", "cut off")
	fails(s, srv.URL+"/other", "sha256", s.SHA256, "--url")
	fails(s, srv.URL+"/page", "sha256")
	fails(s, srv.URL+"/endless", "larger than")
	fails(s, srv.URL+"/empty", "sha256")
	for _, known := range Sources { // another file at a known address
		known.URL = srv.URL + "/a.zip"
		fails(known, "", "sha256", known.SHA256)
	}
	srv.Close()
	fails(s, "", "test", "without a network", "a.zip")
}

// FuzzTokens: whatever a shard holds, reading it returns an error or tokens below the vocabulary.
func FuzzTokens(f *testing.F) {
	var b bytes.Buffer
	WriteTokens(&b, []int32{1, 2, 3, 4, 5, 6}, 10)
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:17])
	f.Fuzz(func(t *testing.T, raw []byte) {
		tok, err := parseTokens(raw, "fuzz")
		if err != nil {
			return
		}
		for b, err := range tok.Batches(1, 0, 2, 3) {
			if err == nil {
				for _, id := range b.IDs {
					if id < 0 || int(id) >= tok.Vocab() {
						t.Fatalf("token %d of %d", id, tok.Vocab())
					}
				}
			}
			break
		}
	})
}
