package weights

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"os"
)

// Fingerprint tells this model's weights from others without reading all of them: a hash over the configuration and,
// of each weight file, its size, the time it was last changed, its beginning (the directory of its tensors) and
// samples all through it.
func (s *Set) Fingerprint() (sum [32]byte, err error) {
	const (
		begin   = 64 << 10
		sample  = 4 << 10
		samples = 64
	)
	h := sha256.New()
	fmt.Fprintf(h, "trit weights 1\x00%s\x00%d\x00", s.i2s, len(s.hfConfig))
	h.Write(s.hfConfig)
	for _, b := range s.blobs {
		changed := int64(0)
		if b.unmap != nil {
			st, err := os.Stat(b.name)
			if err != nil {
				return sum, fmt.Errorf("weights: %w", err)
			}
			changed = st.ModTime().UnixNano()
		}
		writeInts(h, int64(len(b.data)), changed)
		h.Write(b.data[:min(begin, len(b.data))])
		for i := range samples {
			at := len(b.data) / samples * i
			h.Write(b.data[at:min(at+sample, len(b.data))])
		}
	}
	return [32]byte(h.Sum(nil)), nil
}

func writeInts(w io.Writer, v ...int64) {
	for _, x := range v {
		w.Write(binary.LittleEndian.AppendUint64(nil, uint64(x))) // to a hash: cannot fail
	}
}
