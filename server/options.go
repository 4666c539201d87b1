package server

import (
	"log/slog"
	"time"

	"github.com/tritlm/trit/model"
	"github.com/tritlm/trit/tokenizer"
)

// Options for New. The zero value of a field is the default in brackets.
type Options struct {
	MaxBatch      int           // sequences computed at the same time [64]
	MaxQueue      int           // sequences that may wait; beyond it requests get 429 [256]
	CacheBytes    int64         // keys and values of all sequences and kept prefixes [1 GiB]
	PrefillTokens int           // tokens of prompts in one step [512]
	StepTime      time.Duration // what prompts may add to a step while others write [200 ms]
	EchoBytes     int           // scores of prompts (echo with logprobs) held at a time [64 MiB]

	MaxTokens    int   // written for requests that do not say how many [2048]
	MaxBody      int64 // bytes of a request [8 MiB]
	MaxSequences int   // texts of one request: prompts × n [128]
	KeepBytes    int   // responses kept for those that follow them [64 MiB]

	QueueTimeout   time.Duration // in the queue [1 min]
	RequestTimeout time.Duration // for the whole answer [15 min]
	WriteTimeout   time.Duration // for a client to take what was written [30 s]

	AnyModel bool // requests that name an unknown model get the first one instead of an error

	Keys    []string // bearer keys; none: open to all
	Origins []string // browser origins besides the server's own, such as https://example.org, or *
	Hosts   []string // values of the Host header, without port, that are answered; none: all

	Log        *slog.Logger // [slog.Default()]
	LogPrompts bool         // texts too
	Version    string       // of the program
}

// complete puts the defaults in the place of zeros.
func (o *Options) complete() {
	def(&o.MaxBatch, 64)
	def(&o.MaxQueue, 256)
	def(&o.CacheBytes, 1<<30)
	def(&o.PrefillTokens, 512)
	def(&o.StepTime, 200*time.Millisecond)
	def(&o.EchoBytes, 64<<20)
	def(&o.MaxTokens, 2048)
	def(&o.MaxBody, 8<<20)
	def(&o.MaxSequences, 128)
	def(&o.KeepBytes, 64<<20)
	def(&o.QueueTimeout, time.Minute)
	def(&o.RequestTimeout, 15*time.Minute)
	def(&o.WriteTimeout, 30*time.Second)
	def(&o.Log, slog.Default())
	def(&o.Version, "0.0.0")
}

func def[T comparable](v *T, otherwise T) {
	var zero T
	if *v == zero {
		*v = otherwise
	}
}

// A Model to serve. The server does not close it.
type Model struct {
	ID         string // what requests call it
	Engine     model.Engine
	Tokenizer  *tokenizer.Tokenizer
	MaxContext int       // tokens of a sequence; 0: what the engine's Config says
	Created    time.Time // for listings
	Bytes      int64     // size on disk, for listings
	Format     string    // "gguf" or "safetensors", for listings
}
