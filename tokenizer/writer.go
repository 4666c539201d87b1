package tokenizer

import "strings"

// Writer turns a stream of tokens into text that may be shown: whole characters, and nothing that could yet become a
// stop string.
type Writer struct {
	decoder *Decoder
	stop    []string
	text    string // decoded and not shown
	ready   int    // of text, that can no longer be part of a stop string
	stopped bool   // a stop string was met; text ends before it
	by      string // that one
}

// NewWriter writes what d decodes, up to the first of the stop strings; empty ones do not count.
func NewWriter(d *Decoder, stop []string) *Writer { return &Writer{decoder: d, stop: stop} }

// Push adds a token and reports whether a stop string is complete; the text is cut in front of it then.
func (w *Writer) Push(id int32) bool {
	w.text += w.decoder.Push(id)
	return w.scan()
}

func (w *Writer) scan() bool {
	first := -1
	for _, stop := range w.stop {
		if i := strings.Index(w.text, stop); stop != "" && i >= 0 && (first < 0 || i < first) {
			first, w.by = i, stop
		}
	}
	if first >= 0 {
		w.text, w.ready, w.stopped = w.text[:first], first, true
		return true
	}
	held := 0
	for _, stop := range w.stop {
		for n := min(len(stop)-1, len(w.text)); n > held; n-- {
			if strings.HasSuffix(w.text, stop[:n]) {
				held = n
				break
			}
		}
	}
	w.ready = len(w.text) - held
	return false
}

// Take gives what may be shown now.
func (w *Writer) Take() string {
	out := w.text[:w.ready]
	w.text, w.ready = w.text[w.ready:], 0
	return out
}

// End gives all that is left, for no token follows. It may meet a stop string itself.
func (w *Writer) End() string {
	if !w.stopped {
		w.text += w.decoder.Flush()
		if !w.scan() {
			w.ready = len(w.text)
		}
	}
	return w.Take()
}

// Stop is the stop string that was met, "" if none was.
func (w *Writer) Stop() string { return w.by }

// Stopped reports whether a stop string was met.
func (w *Writer) Stopped() bool { return w.stopped }
