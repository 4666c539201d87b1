package server

import (
	"encoding/json"
	"sync"
)

// responseStore keeps responses for those that follow them, the least recently used first.
type responseStore struct {
	mu    sync.Mutex
	list  []*keptResponse
	bytes int
	limit int
}

// keptResponse is a response, what it answered, and the conversation up to and with it.
type keptResponse struct {
	id, owner string
	object    json.RawMessage
	items     map[string]json.RawMessage // its output, by id
	input     json.RawMessage
	messages  []chatMessage
	bytes     int
}

func (k *responseStore) put(r *keptResponse) {
	r.bytes = 4096 + 2*len(r.input) + 3*len(r.object)
	for _, m := range r.messages {
		r.bytes += 256 + len(m.Content.text) + len(m.Thought)
		for _, t := range m.ToolCalls {
			r.bytes += 128 + len(t.Function.Arguments)
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.list = append(k.list, r)
	for k.bytes += r.bytes; k.bytes > k.limit && len(k.list) > 0; k.list = k.list[1:] {
		k.bytes -= k.list[0].bytes
	}
}

// get returns a response of this owner and makes it recent.
func (k *responseStore) get(id, owner string) *keptResponse {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, r := range k.list {
		if r.id == id && r.owner == owner {
			k.list = append(append(k.list[:i], k.list[i+1:]...), r)
			return r
		}
	}
	return nil
}

func (k *responseStore) remove(id, owner string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	for i, r := range k.list {
		if r.id == id && r.owner == owner {
			k.list, k.bytes = append(k.list[:i], k.list[i+1:]...), k.bytes-r.bytes
			return true
		}
	}
	return false
}

// item is an output item of a response that is kept, nil if there is none.
func (k *responseStore) item(id, owner string) json.RawMessage {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, r := range k.list {
		if r.owner == owner && r.items[id] != nil {
			return r.items[id]
		}
	}
	return nil
}
