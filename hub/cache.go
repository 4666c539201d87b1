package hub

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/tritlm/trit/gguf"
	"github.com/tritlm/trit/internal/infile"
)

// cacheDir is the folder of o, or the default one below the user's home.
func cacheDir(o Options) (string, error) {
	if o.Cache != "" {
		return filepath.Abs(o.Cache)
	}
	home, err := os.UserHomeDir()
	if err != nil {
		return "", fmt.Errorf("hub: no home folder to keep the cache in: %w; name a cache folder", err)
	}
	return filepath.Join(home, ".cache", "huggingface", "hub"), nil
}

func repoFolder(repo string) string { return "models--" + strings.ReplaceAll(repo, "/", "--") }

// Cached returns the path of a model that is complete in the cache: the snapshot's folder, or the
// .gguf file where that is what the repository has. It never touches the network.
func Cached(r Ref, o Options) (string, error) {
	dir, err := cacheDir(o)
	if err != nil {
		return "", err
	}
	missing := func(why string) (string, error) {
		return "", fmt.Errorf("hub: %s: %w: %s; run `trit pull %s` while online", r, ErrOffline, why, r)
	}
	root := filepath.Join(dir, repoFolder(r.Repo))
	commit := r.revision()
	if !commitText.MatchString(commit) {
		text, err := infile.Read(filepath.Join(root, "refs", filepath.FromSlash(commit)), 1<<12)
		if err != nil {
			return missing("no revision " + commit + " in " + dir)
		}
		if commit = strings.TrimSpace(string(text)); !commitText.MatchString(commit) {
			return missing("refs/" + r.revision() + " names no commit")
		}
	}
	snapshot := filepath.Join(root, "snapshots", commit)
	names, err := snapshotFiles(snapshot)
	if err != nil {
		return missing("no snapshot " + commit + " in " + dir)
	}
	need, err := choose(names, r)
	if err != nil {
		return missing(err.Error())
	}
	for _, f := range need.files {
		if _, err := os.Stat(filepath.Join(snapshot, filepath.FromSlash(f))); err != nil {
			return missing(f + " is not there")
		}
	}
	if need.index != "" {
		shards, err := readShards(filepath.Join(snapshot, filepath.FromSlash(need.index)))
		if err != nil {
			return missing(err.Error())
		}
		for _, s := range shards {
			if _, err := os.Stat(filepath.Join(snapshot, s)); err != nil {
				return missing(s + " is not there")
			}
		}
	}
	return filepath.Join(snapshot, filepath.FromSlash(need.open)), nil
}

// snapshotFiles lists a snapshot's files with forward slashes, links followed, missing targets left out.
func snapshotFiles(snapshot string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(snapshot, func(p string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return nil
		}
		if _, err := os.Stat(p); err != nil {
			return nil // a link whose blob is gone
		}
		rel, err := filepath.Rel(snapshot, p)
		if err != nil {
			return err
		}
		names = append(names, filepath.ToSlash(rel))
		return nil
	})
	return names, err
}

// readShards lists the weight files that a model.safetensors.index.json names.
func readShards(file string) ([]string, error) {
	text, err := infile.Read(file, infile.Text)
	if err != nil {
		return nil, err
	}
	var index struct {
		WeightMap map[string]string `json:"weight_map"`
	}
	if err := json.Unmarshal(text, &index); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Base(file), err)
	}
	var shards []string
	for _, s := range index.WeightMap {
		if !safeName(s) {
			return nil, fmt.Errorf("%s: %q is not a file's name", filepath.Base(file), s)
		}
		if !slices.Contains(shards, s) {
			shards = append(shards, s)
		}
	}
	slices.Sort(shards)
	return shards, nil
}

// Names lists the models in the cache that have a snapshot, as "owner/name", sorted.
func Names(o Options) []string {
	dir, err := cacheDir(o)
	if err != nil {
		return nil
	}
	found, _ := filepath.Glob(filepath.Join(dir, "models--*", "snapshots"))
	var names []string
	for _, f := range found {
		owner, name, ok := strings.Cut(strings.TrimPrefix(filepath.Base(filepath.Dir(f)), "models--"), "--")
		if ok {
			names = append(names, owner+"/"+name)
		}
	}
	slices.Sort(names)
	return names
}

// A choice is what to take from a repository.
type choice struct {
	files []string // without the shards that index names
	index string   // a model.safetensors.index.json, whose shards are wanted too
	open  string   // what to hand to weights.Open, relative to the snapshot; "" is the folder
}

// small are the files beside the weights that say what the model is and how it reads and writes.
// added_tokens.json, vocab.json, merges.txt and tekken.json repeat what tokenizer.json says, so they
// are taken only where that is missing.
var small = []string{
	"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
	"special_tokens_map.json", "chat_template.jinja", "chat_template.json", "tokenizer.model",
}

// choose picks what a model needs out of the names in its repository: configuration, tokenizer and
// one form of the weights, safetensors before GGUF. Pickles (pytorch_model.bin) can run code when
// they are read, so they are neither fetched nor opened.
func choose(names []string, r Ref) (choice, error) {
	has := func(n string) bool { return slices.Contains(names, n) }
	if r.File != "" {
		if !has(r.File) {
			return choice{}, fmt.Errorf("%w: no file %s%s", ErrNotFound, r.File, listSome(names))
		}
		return chooseFile(names, r.File)
	}
	var c choice
	for _, n := range small {
		if has(n) {
			c.files = append(c.files, n)
		}
	}
	if !has("tokenizer.json") {
		for _, n := range []string{"vocab.json", "merges.txt", "added_tokens.json", "tekken.json"} {
			if has(n) {
				c.files = append(c.files, n)
			}
		}
	}
	var tensors, ggufs []string
	for _, n := range names {
		switch {
		case path.Ext(n) == ".jinja" && path.Dir(n) == "additional_chat_templates":
			c.files = append(c.files, n)
		case path.Ext(n) == ".safetensors" && !strings.Contains(n, "/"):
			tensors = append(tensors, n)
		case path.Ext(n) == ".gguf":
			if _, part, ok := gguf.ParsePartName(n); !ok || part.No == 0 { // the first part stands for all
				ggufs = append(ggufs, n)
			}
		}
	}
	const index = "model.safetensors.index.json"
	switch {
	case has("config.json") && has(index):
		c.index = index
		c.files = append(c.files, index)
		return c, nil
	case has("config.json") && has("model.safetensors"):
		c.files = append(c.files, "model.safetensors")
		return c, nil
	case has("config.json") && len(tensors) == 1:
		c.files = append(c.files, tensors[0])
		return c, nil
	case len(ggufs) == 1:
		return chooseFile(names, ggufs[0])
	case len(ggufs) > 1:
		var i2s []string
		for _, n := range ggufs {
			if strings.Contains(strings.ToLower(n), "i2_s") {
				i2s = append(i2s, n)
			}
		}
		if len(i2s) == 1 {
			return chooseFile(names, i2s[0])
		}
		return choice{}, fmt.Errorf("it has several models; name one, for example %s/%s (there are %s)", r.Repo, ggufs[0], strings.Join(ggufs, ", "))
	case slices.ContainsFunc(names, func(n string) bool { return path.Ext(n) == ".bin" || path.Ext(n) == ".pt" || path.Ext(n) == ".pth" }):
		return choice{}, fmt.Errorf("%w: it has its weights only as a Python pickle, which can run code and which trit never reads; convert it to safetensors first", errors.ErrUnsupported)
	}
	return choice{}, fmt.Errorf("%w: no weights (.safetensors or .gguf) in it%s", ErrNotFound, listSome(names))
}

// chooseFile takes one file, and where that is a part of a GGUF model in several files, all of them.
func chooseFile(names []string, file string) (choice, error) {
	prefix, part, ok := gguf.ParsePartName(file)
	if !ok {
		return choice{files: []string{file}, open: file}, nil
	}
	c := choice{open: file}
	for part.No = range part.Count {
		n := part.PartName(prefix)
		if !slices.Contains(names, n) {
			return choice{}, fmt.Errorf("%w: %s is one of %d parts of a model, and %s is not there", ErrNotFound, file, part.Count, n)
		}
		c.files = append(c.files, n)
	}
	return c, nil
}

func listSome(names []string) string {
	if len(names) == 0 {
		return "; it is empty"
	}
	const most = 8
	if len(names) > most {
		return fmt.Sprintf("; it has %s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return "; it has " + strings.Join(names, ", ")
}

// link puts snapshot/file in place: a relative link to the blob, or the blob itself where the
// system has no links (Windows without developer mode).
func link(blob, pointer string) error {
	if err := os.MkdirAll(filepath.Dir(pointer), 0o777); err != nil {
		return err
	}
	rel, err := filepath.Rel(filepath.Dir(pointer), blob)
	if err != nil {
		return err
	}
	if old, err := os.Readlink(pointer); err == nil && old == rel {
		return nil
	}
	tmp := temporaryName(pointer)
	if err := os.Symlink(rel, tmp); err != nil {
		if runtime.GOOS != "windows" {
			return err
		}
		return os.Rename(blob, pointer)
	}
	if err := os.Rename(tmp, pointer); err != nil {
		os.Remove(tmp)
		return err
	}
	return nil
}

// temporaryName is a name beside file that no other download uses, in this process or another.
func temporaryName(file string) string {
	return fmt.Sprintf("%s.%d-%016x.tmp", file, os.Getpid(), rand.Uint64())
}

// writeRef records what a branch or tag means now; the old text or the new one is there at any moment.
func writeRef(file, commit string) error {
	if err := os.MkdirAll(filepath.Dir(file), 0o777); err != nil {
		return err
	}
	tmp := temporaryName(file)
	if err := os.WriteFile(tmp, []byte(commit), 0o666); err != nil {
		os.Remove(tmp)
		return err
	}
	if err := os.Rename(tmp, file); err != nil {
		os.Remove(tmp)
		return err
	}
	return nil
}
