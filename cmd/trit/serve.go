package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit"
	"github.com/tritlm/trit/internal/infile"
	"github.com/tritlm/trit/server"
)

func newServeCmd() *cobra.Command {
	var f modelFlags
	var o server.Options
	var s serveFlags
	cmd := &cobra.Command{
		Use:   "serve MODEL [MODEL ...]",
		Short: "Serve models over HTTP: OpenAI's and Ollama's protocols, a chat page, metrics",
		Long: `Answers OpenAI's and Ollama's protocols, many requests at once, and shows a chat page at /.

It listens on this machine only, unless --addr says otherwise; then give it keys with --key-file. The first
SIGTERM or Ctrl-C lets accepted requests finish, the second one stops at once.`,
		Example: `  trit serve demo
  trit serve microsoft/bitnet-b1.58-2B-4T --addr :8080 --key-file keys.txt
  curl localhost:8080/v1/chat/completions -d '{"messages":[{"role":"user","content":"Hello"}]}'`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usagef("trit serve: MODEL is missing; usage: trit serve MODEL [MODEL ...]")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error { return s.run(cmd, args, &f, o) },
	}
	f.add(cmd)
	f.addPooling(cmd)
	fl := cmd.Flags()
	fl.StringVar(&s.addr, "addr", "localhost:8080", "where to listen, HOST:PORT")
	fl.BoolVar(&s.activated, "socket-activation", false, "take the socket from systemd instead of --addr")
	fl.StringArrayVar(&s.names, "name", nil, "what requests call the model (default its name or file); once per model, in order")
	fl.BoolVar(&o.AnyModel, "any-model", false, "answer requests for unknown models with the first one")
	fl.StringVar(&s.keyFile, "key-file", "", "file of bearer keys that are let in, one per line")
	fl.StringVar(&s.cert, "tls-cert", "", "certificate file; with --tls-key the server speaks HTTPS")
	fl.StringVar(&s.key, "tls-key", "", "private key file")
	fl.StringArrayVar(&o.Origins, "cors-origin", nil, "origin of web pages that may use the server, such as https://example.org, or *")
	fl.StringArrayVar(&o.Hosts, "host", nil, "host name that the server answers for (default: on loopback localhost, else any)")
	fl.IntVar(&o.MaxBatch, "max-batch", 64, "sequences computed at the same time")
	fl.IntVar(&o.MaxQueue, "max-queue", 256, "sequences that may wait; more get 429")
	fl.StringVar(&s.memory, "cache-memory", "1GiB", "memory for keys and values of all sequences")
	fl.IntVar(&o.MaxTokens, "max-tokens", 2048, "tokens written for requests that do not say how many")
	fl.IntVar(&o.PrefillTokens, "prefill-tokens", 512, "tokens of prompts computed in one step")
	fl.DurationVar(&o.QueueTimeout, "queue-timeout", time.Minute, "longest wait in the queue")
	fl.DurationVar(&o.RequestTimeout, "request-timeout", 15*time.Minute, "longest time for an answer")
	fl.DurationVar(&s.drain, "drain-timeout", 10*time.Minute, "longest time for accepted requests to finish after SIGTERM")
	fl.IntVar(&s.connections, "max-connections", 4096, "connections at the same time")
	fl.StringVar(&s.level, "log-level", "info", "debug, info, warn or error")
	fl.BoolVar(&o.LogPrompts, "log-prompts", false, "write prompts and answers into the log")
	return cmd
}

type serveFlags struct {
	addr, keyFile, cert, key, memory, level string
	names                                   []string
	activated                               bool
	drain                                   time.Duration
	connections                             int
}

func (s *serveFlags) run(cmd *cobra.Command, refs []string, f *modelFlags, o server.Options) error {
	ctx := cmd.Context()
	var level slog.Level
	if err := level.UnmarshalText([]byte(s.level)); err != nil {
		return usagef("--log-level %q is not debug, info, warn or error", s.level)
	}
	o.Log = slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level}))
	o.Version = version()
	var err error
	if o.CacheBytes, err = parseBytes(s.memory); err != nil {
		return usagef("--cache-memory: %v", err)
	}
	if o.MaxBatch < 1 || o.MaxQueue < 1 || o.MaxTokens < 1 || o.PrefillTokens < 1 || s.connections < 1 {
		return usagef("--max-batch, --max-queue, --max-tokens, --prefill-tokens and --max-connections must be above 0")
	}
	if o.QueueTimeout <= 0 || o.RequestTimeout <= 0 || s.drain < 0 {
		return usagef("--queue-timeout and --request-timeout must be above 0, --drain-timeout not below")
	}
	for _, origin := range o.Origins {
		if u, err := url.Parse(origin); origin != "*" && (err != nil || u.Host == "" || u.Scheme+"://"+u.Host != origin) {
			return usagef("--cors-origin %q is not an origin such as https://example.org, or *", origin)
		}
	}
	if (s.cert == "") != (s.key == "") {
		return usagef("--tls-cert and --tls-key go together")
	}
	var tlsConfig *tls.Config
	if s.cert != "" {
		pair, err := readPair(s.cert, s.key)
		if err != nil {
			return fmt.Errorf("--tls-cert %s, --tls-key %s: %w", s.cert, s.key, err)
		}
		tlsConfig = &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}}
	}
	if len(s.names) > len(refs) {
		return usagef("%d names for %d models", len(s.names), len(refs))
	}
	ids := map[string]string{}
	for i, ref := range refs {
		id := modelID(ref)
		if i < len(s.names) {
			id = s.names[i]
		}
		if before, ok := ids[id]; ok || id == "" {
			return usagef("%s and %s would both be called %q; give each a --name of its own", before, ref, id)
		}
		ids[id] = ref
	}
	if s.keyFile != "" {
		if o.Keys, err = readKeys(s.keyFile); err != nil {
			return fmt.Errorf("--key-file: %w", err)
		}
	}
	host, _, err := net.SplitHostPort(s.addr)
	if err != nil {
		return usagef("--addr %q is not HOST:PORT", s.addr)
	}
	ip := net.ParseIP(host)
	loopback := host == "localhost" || ip != nil && ip.IsLoopback()
	if loopback && len(o.Hosts) == 0 && !s.activated {
		o.Hosts = []string{"localhost", "127.0.0.1", "::1", host}
	}
	if !loopback && len(o.Keys) == 0 {
		o.Log.Warn("anyone who reaches this address can use the server; --key-file asks for keys", "addr", s.addr)
	}

	if !s.activated { // an address that cannot be had is better known before a large model is loaded
		l, err := s.listen(ctx)
		if err != nil {
			return err
		}
		l.Close()
	}
	var models []server.Model
	for i, ref := range refs {
		m, err := f.open(cmd, ref)
		if err != nil {
			return err
		}
		defer m.Close()
		sm := serverModel(m, ref)
		if i < len(s.names) {
			sm.ID = s.names[i]
		}
		models = append(models, sm)
		o.Log.Info("model loaded", "model", sm.ID, "context", m.MaxContext(), "seconds", m.LoadTime().Seconds())
	}
	l, err := s.listen(ctx)
	if err != nil {
		return err
	}
	srv, err := server.New(o, models...)
	if err != nil {
		l.Close()
		return err
	}
	defer srv.Close()
	h := srv.HTTPServer()
	failed := make(chan error, 1)
	go func() {
		if h.TLSConfig = tlsConfig; tlsConfig != nil {
			failed <- h.ServeTLS(server.LimitListener(l, s.connections), "", "")
			return
		}
		failed <- h.Serve(server.LimitListener(l, s.connections))
	}()
	scheme := "http"
	if s.cert != "" {
		scheme = "https"
	}
	o.Log.Info("listening", "addr", l.Addr().String())
	if !quiet {
		at := l.Addr().String()
		if a, ok := l.Addr().(*net.TCPAddr); ok && a.IP.IsUnspecified() {
			at = fmt.Sprintf("localhost:%d", a.Port) // every address of this machine will do; this one can be clicked on
		}
		fmt.Fprintf(cmd.OutOrStdout(), "chat at %s://%s  ·  API at %s://%s/v1\n", scheme, at, scheme, at)
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	o.Log.Info("draining", "longest", s.drain.String())
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.drain)
	defer cancel()
	err = srv.Drain(end) // new requests get 503 meanwhile, and /ready fails
	if err == nil {
		err = h.Shutdown(end)
	}
	if errors.Is(err, context.DeadlineExceeded) {
		h.Close()
		return fmt.Errorf("requests were still running %v after the signal", s.drain)
	}
	if err == nil || errors.Is(err, http.ErrServerClosed) {
		o.Log.Info("drained")
		return nil
	}
	return err
}

// modelID is what requests call a model that has no --name.
func modelID(ref string) string {
	if _, err := os.Stat(ref); err != nil {
		return ref // on the hub, or built in
	}
	return strings.TrimSuffix(filepath.Base(filepath.Clean(ref)), ".gguf")
}

// serverModel describes an opened model to the server.
func serverModel(m *trit.Model, ref string) server.Model {
	sm := server.Model{ID: modelID(ref), Engine: m.Engine(), Tokenizer: m.Tokenizer(), MaxContext: m.MaxContext(), Format: "safetensors"}
	info, err := os.Stat(ref)
	if strings.HasSuffix(ref, ".gguf") {
		sm.Format = "gguf"
	}
	if err != nil {
		return sm
	}
	sm.Created = info.ModTime()
	sm.Bytes = info.Size()
	if info.IsDir() {
		sm.Bytes = 0
		files, _ := filepath.Glob(filepath.Join(ref, "*.safetensors")) // the pattern is valid
		for _, file := range files {
			if i, err := os.Stat(file); err == nil {
				sm.Bytes += i.Size()
			}
		}
	}
	return sm
}

// listen opens the socket, or takes the one that systemd opened (sd_listen_fds(3)).
func (s *serveFlags) listen(ctx context.Context) (net.Listener, error) {
	if !s.activated {
		l, err := new(net.ListenConfig).Listen(ctx, "tcp", s.addr)
		if err != nil {
			return nil, fmt.Errorf("%w; choose another port with --addr", err)
		}
		return l, nil
	}
	if os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) || os.Getenv("LISTEN_FDS") != "1" {
		return nil, errors.New("--socket-activation: systemd gave this process no socket")
	}
	file := os.NewFile(3, "socket")
	defer file.Close()
	return net.FileListener(file)
}

// maxKeys bounds the files of keys and certificates.
const maxKeys = 16 << 20

// readKeys reads keys, one per line; blank lines and lines that begin with # are passed over.
func readKeys(path string) ([]string, error) {
	b, err := infile.Read(path, maxKeys)
	if err != nil {
		return nil, err
	}
	var keys []string
	lines := bufio.NewScanner(bytes.NewReader(b))
	for lines.Scan() {
		if k := strings.TrimSpace(lines.Text()); k != "" && k[0] != '#' {
			if len(k) < 8 {
				return nil, fmt.Errorf("%s: a key has fewer than 8 characters", path)
			}
			keys = append(keys, k)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("%s: no keys in it; one per line", path)
	}
	return keys, nil
}

// readPair reads a certificate and its key.
func readPair(cert, key string) (tls.Certificate, error) {
	c, err := infile.Read(cert, maxKeys)
	if err != nil {
		return tls.Certificate{}, err
	}
	k, err := infile.Read(key, maxKeys)
	if err != nil {
		return tls.Certificate{}, err
	}
	return tls.X509KeyPair(c, k)
}

// parseBytes reads sizes such as 512MiB, 4GiB, 2G or 1000000.
func parseBytes(text string) (int64, error) {
	number := strings.TrimRight(text, "BbIi")
	shift := 0
	if n := len(number); n > 0 {
		if i := strings.IndexByte("KMGT", number[n-1]&^0x20); i >= 0 {
			number, shift = number[:n-1], 10*(i+1)
		}
	}
	v, err := strconv.ParseFloat(strings.TrimSpace(number), 64)
	if err != nil || !(v > 0) || v*float64(int64(1)<<shift) > 1<<60 {
		return 0, fmt.Errorf("%q is not a size such as 512MiB or 4GiB", text)
	}
	return int64(v * float64(int64(1)<<shift)), nil
}
