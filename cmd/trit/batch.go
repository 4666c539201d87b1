package main

import (
	"fmt"
	"log/slog"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/tritlm/trit/server"
	"github.com/tritlm/trit/server/batch"
)

func newBatchCmd() *cobra.Command {
	var f modelFlags
	var o batch.Options
	var shard, memory string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "batch MODEL IN OUT",
		Short: "Answer a file of requests in OpenAI's batch format",
		Long: `Answers every line of IN, requests in OpenAI's batch format, and appends the results to OUT:

  {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": {"messages": [...]}}
  {"id": "...", "custom_id": "a", "response": {"status_code": 200, "request_id": "...", "body": {...}}, "error": null}

Whatever interrupts it, start it again with the same files and it goes on: in the end every line of IN has
exactly one result. Results come in the order in which they are ready. The model that a request names does
not matter. With --shard I/N it answers every N-th line, beginning with line I, counted from 0; give each
shard an OUT of its own.`,
		Example: `  trit batch microsoft/bitnet-b1.58-2B-4T in.jsonl out.jsonl
  trit batch ./model in.jsonl out-3.jsonl --shard 3/8`,
		Args: exactArgs("MODEL", "IN", "OUT"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if shard != "" {
				i, n, ok := strings.Cut(shard, "/")
				var err1, err2 error
				o.Shard, err1 = strconv.Atoi(i)
				o.Of, err2 = strconv.Atoi(n)
				if !ok || err1 != nil || err2 != nil || o.Of < 1 || o.Shard < 0 || o.Shard >= o.Of {
					return usagef("--shard %q is not I/N with 0 ≤ I < N, such as 0/8", shard)
				}
			}
			bytes, err := parseBytes(memory)
			if err != nil {
				return usagef("--cache-memory: %v", err)
			}
			if o.Concurrency < 1 {
				return usagef("--max-batch must be above 0")
			}
			m, err := f.open(cmd, args[0])
			if err != nil {
				return err
			}
			defer m.Close()
			s, err := server.New(server.Options{
				MaxBatch: o.Concurrency, MaxQueue: 1 << 20, CacheBytes: bytes, AnyModel: true, Version: version(),
				QueueTimeout: 24 * time.Hour, RequestTimeout: 24 * time.Hour, MaxBody: 16 << 20,
				Log: slog.New(slog.NewJSONHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn})),
			}, serverModel(m, args[0]))
			if err != nil {
				return err
			}
			defer s.Close()
			p := progress(cmd, "batch", false)
			defer p.Done()
			o.Progress = func(done, total int) { p.Set(int64(done), int64(total)) }
			stats, err := batch.Run(cmd.Context(), s, args[1], args[2], o)
			p.Done()
			if err != nil {
				return err
			}
			if asJSON {
				return printJSON(cmd.OutOrStdout(), map[string]int{"lines": stats.Lines, "before": stats.Before, "answered": stats.Answered, "refused": stats.Refused})
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "%d lines: %d answered now (%d of them refused), %d before\n", stats.Lines, stats.Answered, stats.Refused, stats.Before)
			return err
		},
	}
	f.add(cmd)
	fl := cmd.Flags()
	fl.StringVar(&shard, "shard", "", "answer only a part of the lines: I/N")
	fl.IntVar(&o.Concurrency, "max-batch", 64, "requests computed at the same time")
	fl.StringVar(&memory, "cache-memory", "1GiB", "memory for keys and values of all requests")
	fl.BoolVar(&asJSON, "json", false, "print the counts as JSON")
	return cmd
}
