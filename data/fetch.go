package data

import (
	"archive/zip"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	pathpkg "path"
	"path/filepath"
	"time"

	"github.com/tritlm/trit/internal/infile"
	"github.com/tritlm/trit/internal/tempfile"
)

// Source is a public text that Fetch knows.
type Source struct {
	Name, About string
	URL         string
	SHA256      string // of what is downloaded
	Member      string // the text's name in it, when that is a zip archive
	File        string // what to name the text
	Size        int64  // of what is downloaded, to bound it
}

// maxMember bounds a text in an archive.
const maxMember = 256 << 20

// Sources are the texts by name.
var Sources = []Source{
	{
		Name: "shakespeare", About: "tiny Shakespeare, 1.1 MB of plays (Karpathy, char-rnn)", File: "shakespeare.txt", Size: 1115394,
		URL:    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
		SHA256: "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
	},
	{
		// The archive that Merity et al. 2016 (arXiv:1609.07843) published. Its first address, research.metamind.io on S3, is gone;
		// this copy is the one that llama.cpp's scripts fetch. Checksum: as other projects pin it (Megatron-based ones among them).
		Name: "wikitext-2", About: "WikiText-2 raw, training part, 11 MB of articles (Merity et al. 2016)", File: "wikitext-2.txt", Size: 4721645,
		URL:    "https://huggingface.co/datasets/ggml-org/ci/resolve/main/wikitext-2-raw-v1.zip",
		SHA256: "ef7edb566e3e2b2d31b29c1fdb0c89a4cc683597484c3dc2517919c615435a11", Member: "wikitext-2-raw/wiki.train.raw",
	},
}

// Fetch stores a source in dir and returns its path. A file that is there already and has the right content is kept, as is
// a text out of an archive, which was checked when it was written. from, when not empty, is a local copy of what is
// downloaded to take instead of the network; url another address.
func Fetch(ctx context.Context, client *http.Client, s Source, dir, from, url string) (string, error) {
	path := filepath.Join(dir, s.File)
	if b, err := infile.Read(path, maxText); err == nil && len(b) > 0 && (s.Member != "" || s.check(b) == nil) {
		return path, nil
	}
	var b []byte
	var err error
	if from != "" {
		if b, err = infile.ReadText(ctx, from, maxText); err != nil {
			return "", fmt.Errorf("data: %w", err)
		}
	} else {
		if url == "" {
			url = s.URL
		}
		if b, err = download(ctx, client, url, 4*s.Size); err != nil {
			return "", fmt.Errorf("data: %s: %w; without a network give a copy of %s with --from FILE, or train on any text of your own", s.Name, err, pathpkg.Base(s.URL))
		}
		from = url
	}
	if err := s.check(b); err != nil {
		return "", fmt.Errorf("data: %s: %w", from, err)
	}
	if s.Member != "" {
		if b, err = member(b, s.Member); err != nil {
			return "", fmt.Errorf("data: %s: %w", from, err)
		}
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return "", fmt.Errorf("data: %w", err)
	}
	tmp, err := tempfile.Create(path, tempfile.Shared)
	if err != nil {
		return "", fmt.Errorf("data: %w", err)
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(b)
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return "", fmt.Errorf("data: %w", err)
	}
	if err := os.Rename(tmp.Name(), path); err != nil {
		return "", fmt.Errorf("data: %w", err)
	}
	return path, nil
}

// member is one file of a zip archive.
func member(archive []byte, name string) ([]byte, error) {
	z, err := zip.NewReader(bytes.NewReader(archive), int64(len(archive)))
	if err != nil {
		return nil, err
	}
	f, err := z.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxMember+1))
	if err == nil && len(b) > maxMember {
		err = fmt.Errorf("%s is larger than %d bytes: not the file it should be", name, maxMember)
	}
	return b, err
}

func (s *Source) check(b []byte) error {
	sum := sha256.Sum256(b)
	if got := hex.EncodeToString(sum[:]); got != s.SHA256 {
		return fmt.Errorf("sha256 %s, want %s: not %s as it was published, or cut off; fetch it again, or another copy with --url or --from", got, s.SHA256, pathpkg.Base(s.URL))
	}
	return nil
}

func download(ctx context.Context, client *http.Client, url string, limit int64) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Minute)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	res, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("GET %s: %s", url, res.Status)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("GET %s: larger than %d bytes: not the file it should be", url, limit)
	}
	return b, err
}
