package cpu

import (
	"bytes"
	"testing"
)

// FuzzPackedIndex looks for indexes of packed copies that panic or lead out of the file, and for damage that passes.
func FuzzPackedIndex(f *testing.F) {
	f.Add([]byte(`[{"name":"a","at":4096,"size":10,"crc32c":1,"rows":2,"cols":2,"scale":[0.5],"kind":"t16 1"}]`), uint16(0), byte(0))
	f.Add([]byte(`[{"name":"a","at":9223372036854775807,"size":9223372036854775807}]`), uint16(0), byte(0))
	f.Add([]byte(`[{"name":"a","at":-1,"size":2}]`), uint16(0), byte(0))
	f.Add([]byte(`[]`), uint16(57), byte(1))
	f.Fuzz(func(t *testing.T, text []byte, at uint16, change byte) {
		p := &packed{key: [32]byte{1, 2, 3}}
		file := append(append(p.header(text), text...), make([]byte, 8192)...)
		damaged := change != 0 && int(at) < packedHead+len(text)
		if damaged {
			file[at] ^= change
		}
		index, err := readIndex(bytes.NewReader(file), int64(len(file)), p.key)
		if err == nil && damaged {
			t.Errorf("byte %d xor %#x was not noticed", at, change)
		}
		for name, e := range index {
			if name != e.Name || e.At < 0 || e.Size < 0 || e.At+e.Size > int64(len(file)) {
				t.Errorf("accepted: %+v", e)
			}
		}
		other := p.key
		other[31]++
		if _, err := readIndex(bytes.NewReader(file), int64(len(file)), other); err == nil {
			t.Error("accepted for other weights")
		}
	})
}
