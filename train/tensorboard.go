package train

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math"
	"os"
	"path/filepath"
	"time"
)

// eventFile writes TensorBoard's event files: TFRecords (length, its masked CRC, data, its masked CRC) of Event
// protocol buffers with scalar summaries. Field numbers are those of tensorboard/compat/proto: Event
// {1 wall_time double, 2 step int64, 3 file_version string, 5 summary}, Summary {1 value}, Value {1 tag
// string, 2 simple_value float}.
type eventFile struct{ f *os.File }

func newEventFile(dir string, now time.Time) (*eventFile, error) {
	host, err := os.Hostname()
	if err != nil {
		host = "host"
	}
	f, err := os.OpenFile(filepath.Join(dir, fmt.Sprintf("events.out.tfevents.%d.%s", now.Unix(), host)), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666)
	if err != nil {
		return nil, fmt.Errorf("train: %w", err)
	}
	e := &eventFile{f}
	if err := e.event(now, 0, field(3, []byte("brain.Event:2"))); err != nil {
		f.Close()
		return nil, err
	}
	return e, nil
}

func (e *eventFile) Close() error { return e.f.Close() }

func (e *eventFile) record(r Record) error {
	var s []byte
	add := func(tag string, v float64) {
		value := field(1, []byte(tag))
		value = append(value, 2<<3|5)
		value = binary.LittleEndian.AppendUint32(value, math.Float32bits(float32(v)))
		s = append(s, field(1, value)...)
	}
	add("loss/train", r.Loss)
	if r.Val != nil {
		add("loss/validation", *r.Val)
	}
	add("lr", r.LR)
	add("grad_norm", r.GradNorm)
	add("tokens_per_s", r.TokensPerS)
	for _, c := range r.Codes {
		add("zero/"+c.Name, c.Zero)
		add("flipped/"+c.Name, c.Flipped)
	}
	return e.event(time.Now(), int64(r.Step), field(5, s))
}

// field is a length-delimited field.
func field(n int, b []byte) []byte {
	h := binary.AppendUvarint(nil, uint64(n<<3|2))
	h = binary.AppendUvarint(h, uint64(len(b)))
	return append(h, b...)
}

func (e *eventFile) event(now time.Time, step int64, rest []byte) error {
	ev := []byte{1<<3 | 1}
	ev = binary.LittleEndian.AppendUint64(ev, math.Float64bits(float64(now.UnixNano())/1e9))
	ev = append(ev, 2<<3)
	ev = binary.AppendUvarint(ev, uint64(step))
	ev = append(ev, rest...)
	masked := func(b []byte) uint32 {
		c := crc32.Checksum(b, castagnoli)
		return (c>>15 | c<<17) + 0xa282ead8
	}
	rec := binary.LittleEndian.AppendUint64(nil, uint64(len(ev)))
	rec = binary.LittleEndian.AppendUint32(rec, masked(rec))
	rec = append(rec, ev...)
	rec = binary.LittleEndian.AppendUint32(rec, masked(ev))
	if _, err := e.f.Write(rec); err != nil {
		return fmt.Errorf("train: %w", err)
	}
	return nil
}
