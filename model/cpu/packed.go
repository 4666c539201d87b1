package cpu

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/tritlm/trit/internal/arena"
	"github.com/tritlm/trit/internal/infile"
	"github.com/tritlm/trit/internal/par"
	"github.com/tritlm/trit/internal/tempfile"
	"github.com/tritlm/trit/weights"
)

// packed is a copy on disk of what loading computes: the ternary matrices in the layout the kernels want (T16 or T5,
// down_proj by columns too) and the head's screen. With it a model starts as fast as the file can be read.
//
// The file, all little endian:
//
//	0   8 bytes   "tritpak2"
//	8   uint64    length of the index
//	16  uint32    CRC-32C of the key and the index
//	24  32 bytes  the key: the fingerprint of the weights that it is a copy of
//	56  the index in JSON, padding to 4096, the pieces, each with a CRC-32C in the index
//
// It is written under another name, synced and renamed, so it is whole or not there. What does not match its checksum all
// the same is made again.
type packed struct {
	path  string
	key   [32]byte
	file  *os.File // nil while there is none to read
	index map[string]packedPiece

	pieces []loadedPiece // all that was loaded, for save
	missed bool          // some of them were not in the file
}

type packedPiece struct {
	Name  string    `json:"name"`
	At    int64     `json:"at"`
	Size  int64     `json:"size"`
	CRC   uint32    `json:"crc32c"`
	Rows  int       `json:"rows"`
	Cols  int       `json:"cols"`
	Scale []float32 `json:"scale,omitempty"` // ternary
	Kind  string    `json:"kind"`            // layout and version: a piece of another kind is not used
}

type loadedPiece struct {
	packedPiece
	data []byte
}

// store is where an engine's weights lie: in huge pages, read from the packed copy when that has them.
type store struct {
	arena  arena.Arena
	packed *packed // nil without a copy
	pool   *par.Pool
}

// piece gives room for size bytes and fills it from the packed copy; ok is false when the caller has to make the
// content, and say so to made.
func (s *store) piece(name, kind string, rows, cols, size int) (data []byte, scale []float32, ok bool) {
	data = s.arena.Alloc(size)[:size]
	if s.packed == nil {
		return data, nil, false
	}
	e, ok := s.packed.read(name, kind, rows, cols, s.pool, data)
	return data, e.Scale, ok
}

// made hands a piece that was just made to the packed copy.
func (s *store) made(name, kind string, rows, cols int, scale []float32, data []byte) {
	if s.packed != nil {
		s.packed.add(name, kind, rows, cols, scale, data)
	}
}

const (
	packedMagic = "tritpak2"
	packedHead  = 56
	packedAlign = 4096
	maxIndex    = 64 << 20
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openPacked looks for the copy of the set's weights in dir. Without a usable one it returns an empty packed, which
// save then writes.
func openPacked(dir string, w *weights.Set) (*packed, error) {
	key, err := w.Fingerprint()
	if err != nil {
		return nil, err
	}
	p := &packed{path: filepath.Join(dir, hex.EncodeToString(key[:16])+".tritpack"), key: key}
	f, err := infile.Open(p.path)
	if err != nil {
		return p, nil
	}
	st, err := f.Stat()
	if err == nil {
		p.index, err = readIndex(f, st.Size(), key)
	}
	if err != nil {
		f.Close() // damaged or of another version: made again
		return p, nil
	}
	p.file = f
	now := time.Now()
	_ = os.Chtimes(p.path, now, now) // in use: see removeOldCopies; a copy that cannot be touched can be read
	return p, nil
}

// header is what stands in front of an index.
func (p *packed) header(index []byte) []byte {
	h := binary.LittleEndian.AppendUint64([]byte(packedMagic), uint64(len(index)))
	sum := crc32.Update(crc32.Checksum(p.key[:], castagnoli), castagnoli, index)
	return append(binary.LittleEndian.AppendUint64(h, uint64(sum)), p.key[:]...)
}

// readIndex reads the index of a copy of size bytes; an error when anything of it is not as it was written for that key.
func readIndex(f io.ReaderAt, size int64, key [32]byte) (map[string]packedPiece, error) {
	var head [packedHead]byte
	if _, err := f.ReadAt(head[:], 0); err != nil {
		return nil, err
	}
	n := binary.LittleEndian.Uint64(head[8:])
	if n > maxIndex || int64(n) > size-packedHead {
		return nil, errors.New("not a packed copy")
	}
	text := make([]byte, n)
	if _, err := f.ReadAt(text, packedHead); err != nil && err != io.EOF {
		return nil, err
	}
	if !bytes.Equal(head[:], (&packed{key: key}).header(text)) {
		return nil, errors.New("not a whole packed copy of these weights")
	}
	var list []packedPiece
	if err := json.Unmarshal(text, &list); err != nil {
		return nil, err
	}
	index := map[string]packedPiece{}
	for _, e := range list {
		if e.At < 0 || e.Size < 0 || e.At > size || e.Size > size-e.At {
			return nil, fmt.Errorf("piece %q lies outside the file", e.Name)
		}
		index[e.Name] = e
	}
	return index, nil
}

// read fills dst with a piece of that name and kind; ok is false when there is none that is sound.
func (p *packed) read(name, kind string, rows, cols int, pool *par.Pool, dst []byte) (e packedPiece, ok bool) {
	if p.file == nil {
		return e, false
	}
	e, ok = p.index[name]
	if !ok || e.Kind != kind || e.Rows != rows || e.Cols != cols || e.Size != int64(len(dst)) {
		return e, false
	}
	// Each worker reads a part; the parts' checksums would not combine, so the whole is checked after.
	const part = 1 << 20
	failed := make([]bool, (len(dst)+part-1)/part)
	pool.For(len(failed), 1, func(lo, hi int) {
		for i := lo; i < hi; i++ {
			b := dst[i*part : min((i+1)*part, len(dst))]
			if _, err := p.file.ReadAt(b, e.At+int64(i*part)); err != nil {
				failed[i] = true
			}
		}
	})
	for _, f := range failed {
		if f {
			return e, false
		}
	}
	if crc32.Checksum(dst, castagnoli) != e.CRC {
		return e, false
	}
	p.pieces = append(p.pieces, loadedPiece{e, dst})
	return e, true
}

// add remembers a piece that was not in the copy. data must stay as it is until save is done.
func (p *packed) add(name, kind string, rows, cols int, scale []float32, data []byte) {
	p.missed = true
	p.pieces = append(p.pieces, loadedPiece{packedPiece{Name: name, Size: int64(len(data)), Rows: rows, Cols: cols, Scale: scale, Kind: kind}, data})
}

// forget drops the pieces of a kind, which are about to be made again together.
func (p *packed) forget(kind string) {
	p.pieces = slices.DeleteFunc(p.pieces, func(e loadedPiece) bool { return e.Kind == kind })
}

// save writes the copy, when anything was missing in it.
func (p *packed) save() (err error) {
	if !p.missed {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(p.path), 0o777); err != nil {
		return err
	}
	tmp, err := tempfile.Create(p.path, tempfile.Private) // who may read the model is not known
	if err != nil {
		return err
	}
	defer func() {
		tmp.Close()
		if err != nil {
			os.Remove(tmp.Name())
		}
	}()
	list := make([]packedPiece, len(p.pieces))
	var text []byte
	for range 2 { // the index's length depends on the offsets in it, and they on its length
		at := (int64(packedHead+len(text)) + 1<<16) &^ (packedAlign - 1)
		for i := range p.pieces {
			e := &p.pieces[i].packedPiece
			e.CRC = crc32.Checksum(p.pieces[i].data, castagnoli)
			e.At = at
			at = (at + e.Size + packedAlign - 1) &^ (packedAlign - 1)
			list[i] = *e
		}
		if text, err = json.Marshal(list); err != nil {
			return err
		}
	}
	w := bufio.NewWriterSize(tmp, 1<<20)
	w.Write(p.header(text)) // a failed write shows at Flush
	w.Write(text)
	at := int64(packedHead + len(text))
	for _, e := range p.pieces {
		if e.At < at {
			return fmt.Errorf("model: packed copy: piece %q at %d overlaps the index of %d bytes", e.Name, e.At, at)
		}
		w.Write(make([]byte, e.At-at))
		if _, err := w.Write(e.data); err != nil {
			return err
		}
		at = e.At + e.Size
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), p.path)
}

func (p *packed) close() {
	if p.file != nil {
		p.file.Close()
		p.file = nil
	}
}

// packedMin is how many weights make a packed copy worth its disk: below it, unpacking takes no time to speak of.
var packedMin int64 = 256 << 20

// packedKeep is how long a copy is kept that is not used.
const packedKeep = 30 * 24 * time.Hour

// removeOldCopies deletes the packed copies in dir that were not used for so long, and unfinished ones that nobody writes.
func removeOldCopies(dir string, unused time.Duration) error {
	tempfile.Sweep(dir)
	files, err := filepath.Glob(filepath.Join(dir, "*.tritpack"))
	errs := []error{err}
	for _, f := range files {
		if st, err := os.Stat(f); err == nil && time.Since(st.ModTime()) > unused {
			errs = append(errs, os.Remove(f))
		}
	}
	return errors.Join(errs...)
}
