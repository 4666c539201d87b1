package weights

import (
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"runtime/debug"

	"github.com/tritlm/trit/internal/mapped"
)

// Fingerprint tells this model's weights from others without reading all of them: a hash over the configuration and,
// of each weight file, its size and inode, when it was last written to and changed, its beginning (the directory of its
// tensors) and samples all through it. So an edit in place shows even when the file's time was set back, where the system
// tells the time of a change; elsewhere when it meets a sample.
func (s *Set) Fingerprint() (sum [32]byte, err error) {
	defer mapped.Recover(debug.SetPanicOnFault(true), &err)
	const (
		begin   = 64 << 10
		sample  = 4 << 10
		samples = 64
	)
	h := sha256.New()
	fmt.Fprintf(h, "trit weights 2\x00%s\x00%d\x00", s.i2s, len(s.hfConfig))
	h.Write(s.hfConfig)
	for _, b := range s.blobs {
		writeInts(h, int64(len(b.data)))
		if b.file != nil {
			writeInts(h, b.file.Key()...)
		}
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
