package gguf

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Split says which part of a model in several files a file is. The first part has the metadata, the others these keys
// alone; every part has some of the tensors. Source: llama.cpp tools/gguf-split, llama_split_path.
type Split struct {
	No      int // split.no, from 0
	Count   int // split.count, parts
	Tensors int // split.tensors.count, of all parts together
}

// The keys of Split.
const (
	splitPrefix  = "split."
	splitNo      = "split.no"
	splitCount   = "split.count"
	splitTensors = "split.tensors.count"
)

// MaxParts is how many parts a model can have: their number is stored in 16 bits.
const MaxParts = 1<<16 - 1

// Split reads the keys of a split model; ok is false where there are none of them.
func (kv KV) Split() (s Split, ok bool, err error) {
	for _, p := range kv {
		switch {
		case !strings.HasPrefix(p.Key, splitPrefix):
		case p.Key == splitNo, p.Key == splitCount, p.Key == splitTensors:
			ok = true
		default:
			return s, false, fmt.Errorf("key %.100q is not known: the file needs a newer trit: %w", p.Key, ErrFormat)
		}
	}
	if !ok {
		return s, false, nil
	}
	for _, f := range []struct {
		key  string
		dst  *int
		most uint64
	}{{splitNo, &s.No, MaxParts - 1}, {splitCount, &s.Count, MaxParts}, {splitTensors, &s.Tensors, 1<<31 - 1}} {
		n, err := kv.Uint(f.key)
		if err != nil {
			return s, false, err
		}
		if n > f.most {
			return s, false, fmt.Errorf("key %q is %d, at most %d: %w", f.key, n, f.most, ErrFormat)
		}
		*f.dst = int(n)
	}
	if s.No >= s.Count {
		return s, false, fmt.Errorf("key %q is %d and %q %d: there is no such part: %w", splitNo, s.No, splitCount, s.Count, ErrFormat)
	}
	return s, true, nil
}

// IsSplitKey says whether the key is one that tells parts from each other.
func IsSplitKey(key string) bool { return strings.HasPrefix(key, splitPrefix) }

// KV are the keys that say so, in the types that llama.cpp writes.
func (s Split) KV() KV {
	return KV{{splitNo, uint16(s.No)}, {splitCount, uint16(s.Count)}, {splitTensors, int32(s.Tensors)}}
}

func (s Split) String() string { return fmt.Sprintf("part %d of %d", s.No+1, s.Count) }

var partName = regexp.MustCompile(`^(.*)-(\d{5})-of-(\d{5})(\.(?i:gguf))$`)

// ParsePartName takes the name of a part, PREFIX-00002-of-00005.gguf, apart; ok is false for any other name. Tensors is not
// set.
func ParsePartName(name string) (prefix string, s Split, ok bool) {
	m := partName.FindStringSubmatch(name)
	if m == nil {
		return "", s, false
	}
	no, _ := strconv.Atoi(m[2]) // five digits
	count, _ := strconv.Atoi(m[3])
	if no < 1 || no > count || count > MaxParts {
		return "", s, false
	}
	return m[1], Split{No: no - 1, Count: count}, true
}

// PartName is the name of the part, or path, in front of which all parts have the same prefix.
func (s Split) PartName(prefix string) string {
	return fmt.Sprintf("%s-%05d-of-%05d.gguf", prefix, s.No+1, s.Count)
}
