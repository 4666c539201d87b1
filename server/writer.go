package server

import (
	"strings"

	"github.com/tritlm/trit/tokenizer"
)

// writer turns tokens into text that may be shown: whole UTF-8, and nothing that could yet become a
// stop string.
type writer struct {
	decoder *tokenizer.Decoder
	stop    []string
	text    string // decoded and not shown
	ready   int    // of text
	stopped bool   // a stop string was met; text ends before it
}

// push adds a token and reports whether a stop string is complete.
func (w *writer) push(id int32) bool {
	w.text += w.decoder.Push(id)
	return w.scan()
}

func (w *writer) scan() bool {
	first := -1
	for _, stop := range w.stop {
		if i := strings.Index(w.text, stop); i >= 0 && (first < 0 || i < first) {
			first = i
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

// take gives what may be shown now.
func (w *writer) take() string {
	out := w.text[:w.ready]
	w.text, w.ready = w.text[w.ready:], 0
	return out
}

// end gives all that is left.
func (w *writer) end() string {
	w.text += w.decoder.Flush()
	if !w.stopped && !w.scan() {
		w.ready = len(w.text)
	}
	return w.take()
}
