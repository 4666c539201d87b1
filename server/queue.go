package server

import "slices"

// fairQueue gives clients their turns one after the other, each in the order of its own requests: a
// client that sends a thousand does not stand before one that sends its first.
type fairQueue[T any] struct {
	byClient map[string][]T
	turns    []string // clients that wait, next one first
	n        int
}

func (f *fairQueue[T]) push(client string, q T) {
	if len(f.byClient[client]) == 0 {
		f.turns = append(f.turns, client)
	}
	f.byClient[client] = append(f.byClient[client], q)
	f.n++
}

// pop takes the first sequence that may start: of the client whose turn it is, or the next one's.
func (f *fairQueue[T]) pop(may func(T) bool) (q T, ok bool) {
	for i, c := range f.turns {
		list := f.byClient[c]
		if !may(list[0]) {
			continue
		}
		q = list[0]
		f.turns = slices.Delete(f.turns, i, i+1)
		var none T
		if list[0] = none; len(list) > 1 {
			f.byClient[c] = list[1:]
			f.turns = append(f.turns, c)
		} else {
			delete(f.byClient, c)
		}
		f.n--
		return q, true
	}
	return q, false
}

// remove takes out all that drop says.
func (f *fairQueue[T]) remove(drop func(T) bool) (dropped []T) {
	f.turns = slices.DeleteFunc(f.turns, func(c string) bool {
		list := slices.DeleteFunc(f.byClient[c], func(q T) bool {
			if drop(q) {
				dropped = append(dropped, q)
				return true
			}
			return false
		})
		if f.byClient[c] = list; len(list) == 0 {
			delete(f.byClient, c)
		}
		return len(list) == 0
	})
	f.n -= len(dropped)
	return dropped
}
