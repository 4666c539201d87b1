#!/usr/bin/env python3
"""Measures trit beside other engines on the same synthetic model, alternating, in one run.

    compare.py --trit ./trit
    compare.py --trit ./trit --preset bitnet-2b4t --rounds 5 --threads 2 --work /tmp/compare \\
        --peer "bitnet.cpp I2_S=/path/to/llama-bench,{i2_s}" \\
        --peer "ik_llama.cpp IQ2_BN=/path/to/llama-bench,{iq2_bn},-rtr,1"

`trit synth` makes a random model of the preset's shape once, `trit convert` writes it in every format that an engine
reads, and then each round runs every engine once, one after the other, so that a machine that slows down slows all
of them. Reported are medians with minimum–maximum over the rounds, and ratios to trit taken round by round.

    decode tg64     64 tokens one at a time, from an empty context
    decode tg64@2k  64 tokens behind 2,000 (of the peers those whose llama-bench knows -gp)
    prompt pp128    128 tokens in one piece
    prompt pp512    512 tokens in one piece

Engines: trit on the packed folder and the same as I2_S and TQ2_0 GGUF; llama.cpp (llama-cpp-python) on TQ1_0 and
TQ2_0; transformers on the packed folder in bf16 (8 tokens decoded: it is slow); torch, the matrix products of the
model alone in bf16, which is the most that a dense torch program could reach; and any llama-bench given by --peer,
where {i2_s}, {tq1_0}, {tq2_0}, {iq1_bn}, {iq2_bn} stand for the converted files.

llama.cpp has no squared ReLU for BitNet: its copy of the file says architecture "bitnet" (SiLU) instead of
"bitnet-b1.58". Shapes, bytes and products are the same; the text is not, and nobody reads it here.
Needs the packages of tools/reference/requirements.txt.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time

TESTS = ("tg64", "tg64@2k", "pp128", "pp512")


# --- models --------------------------------------------------------------------------------------


def run(command):
    print("+", " ".join(command), file=sys.stderr, flush=True)
    subprocess.run(command, check=True, stdout=sys.stderr)


def measured(command):
    """Runs command; returns its standard output and its peak memory in MB."""
    with tempfile.TemporaryFile("w+") as err:
        p = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True)
        out = p.stdout.read()
        _, status, usage = os.wait4(p.pid, 0)
        p.returncode = os.waitstatus_to_exitcode(status)
        if p.returncode:
            err.seek(0)
            raise subprocess.CalledProcessError(p.returncode, command, out, err.read())
    return out, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6


class Models:
    """The synthetic model in each format, written when first asked for."""

    def __init__(self, trit, preset, work):
        self.trit, self.preset, self.work = trit, preset, work
        os.makedirs(work, exist_ok=True)

    def folder(self):
        path = os.path.join(self.work, self.preset)
        if not os.path.exists(os.path.join(path, "config.json")):
            run([self.trit, "synth", self.preset, path, "--seed", "1"])
        return path

    def gguf(self, kind):
        path = os.path.join(self.work, f"{self.preset}-{kind}.gguf")
        if not os.path.exists(path):
            run([self.trit, "convert", self.folder(), path, "--to", "gguf-" + kind])
        return path

    def mainline(self, kind):
        """The GGUF for llama.cpp, which knows BitNet only as architecture "bitnet"."""
        path = os.path.join(self.work, f"{self.preset}-{kind}-mainline.gguf")
        if not os.path.exists(path):
            rename_architecture(self.gguf(kind), path, "bitnet-b1.58", "bitnet")
        return path


def rename_architecture(src, dst, old, new):
    """Copies a GGUF, changing general.architecture and the keys that begin with it."""
    sizes = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
    with open(src, "rb") as f:
        magic, version, tensors, pairs = struct.unpack("<4sIQQ", f.read(24))
        assert magic == b"GGUF" and version in (2, 3), f"{src}: not a GGUF of version 2 or 3"

        def string():
            return f.read(struct.unpack("<Q", f.read(8))[0])

        def put(s):
            return struct.pack("<Q", len(s)) + s

        def value(kind):
            if kind == 8:
                return put(string())
            if kind == 9:
                head = f.read(12)
                inner, n = struct.unpack("<IQ", head)
                return head + (f.read(sizes[inner] * n) if inner in sizes else b"".join(value(inner) for _ in range(n)))
            return f.read(sizes[kind])

        out, align = [struct.pack("<4sIQQ", magic, version, tensors, pairs)], 32
        for _ in range(pairs):
            key, kind = string(), f.read(4)
            body = value(struct.unpack("<I", kind)[0])
            if key == b"general.alignment":
                align = struct.unpack("<I", body)[0]
            if key == b"general.architecture" and body == put(old.encode()):
                body = put(new.encode())
            if key.startswith(old.encode() + b"."):
                key = new.encode() + key[len(old):]
            out.append(put(key) + kind + body)
        for _ in range(tensors):
            name, dims = string(), f.read(4)
            out.append(put(name) + dims + f.read(8 * struct.unpack("<I", dims)[0] + 12))
        f.seek(-f.tell() % align, 1)
        head = b"".join(out)
        with open(dst + ".part", "wb") as g:
            g.write(head + b"\0" * (-len(head) % align))
            shutil.copyfileobj(f, g, 1 << 24)
    os.replace(dst + ".part", dst)


# --- engines: each returns {test: tokens/s, "peak_mb": …} of one run -----------------------------


def bench_trit(trit, model, threads):
    got = {"peak_mb": 0}
    for test, prompt, tokens in (("tg64", 1, 64), ("tg64@2k", 2000, 64), ("pp128", 128, 1), ("pp512", 512, 1)):
        if test not in TESTS:
            continue
        out, peak = measured([trit, "bench", model, "--json", "--prompt-tokens", str(prompt), "--tokens", str(tokens),
                              "--threads", str(threads), "--repeats", "1", "--no-bandwidth"])
        r = json.loads(out)
        got[test] = r["decode_tokens_per_second"] if test.startswith("tg64") else r["prompt_tokens_per_second"]
        got["peak_mb"] = max(got["peak_mb"], peak)
    return got


def bench_llama_bench(binary, model, extra, threads):
    prompts = ",".join(t[2:] for t in TESTS if t.startswith("pp")) or "0"
    if "tg64@2k" in TESTS and "-gp" in subprocess.run([binary, "--help"], capture_output=True, text=True).stdout:
        extra = [*extra, "-gp", "2000,64"]
    out, peak = measured([binary, "-m", model, "-p", prompts, "-n", "64" if "tg64" in TESTS else "0", "-t", str(threads), "-r", "1", "-o", "json", *extra])
    got = {"peak_mb": peak}
    # Some builds print warnings between the lines of their JSON.
    for r in json.loads("\n".join(line for line in out.splitlines() if line[:1] in " []{}")):
        both = r["n_gen"] and r["n_prompt"]
        got["tg64@2k" if both else f"tg{r['n_gen']}" if r["n_gen"] else f"pp{r['n_prompt']}"] = r["avg_ts"]
    return got


def child(kind, model, threads):
    """The engines that are Python libraries run in a process of their own, so that memory is theirs alone."""
    out, peak = measured([sys.executable, os.path.abspath(__file__), "--child", kind, model, "--threads", str(threads)])
    return json.loads(out.strip().splitlines()[-1]) | {"peak_mb": peak}


def timed(tokens, f):
    start = time.perf_counter()
    f()
    return tokens / (time.perf_counter() - start)


def child_llama(model, threads):
    from llama_cpp import Llama

    llm = Llama(model_path=model, n_ctx=1024, n_batch=512, n_ubatch=512, n_threads=threads, n_threads_batch=threads,
                n_gpu_layers=0, verbose=False)
    ids = [(7 * i + 11) % llm.n_vocab() for i in range(512)]

    def prompt(n):
        llm.reset()
        llm.eval(ids[:n])

    def decode():
        llm.reset()
        for i in ids[:64]:
            llm.eval([i])

    prompt(8)
    return {"tg64": timed(64, decode), "pp128": timed(128, lambda: prompt(128)), "pp512": timed(512, lambda: prompt(512))}


def child_transformers(model, threads):
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    m = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16, attn_implementation="sdpa").eval()
    ids = torch.tensor([[(7 * i + 11) % m.config.vocab_size for i in range(512)]])

    def prompt(n):
        m(ids[:, :n], logits_to_keep=1)

    def decode():
        m.generate(ids[:, :1], attention_mask=torch.ones(1, 1), do_sample=False, min_new_tokens=8, max_new_tokens=8)

    with torch.no_grad():
        prompt(8)
        return {"tg64": timed(8, decode), "pp128": timed(128, lambda: prompt(128)), "pp512": timed(512, lambda: prompt(512))}


def child_torch(model, threads):
    import torch

    torch.set_num_threads(threads)
    with open(os.path.join(model, "config.json")) as f:
        c = json.load(f)
    d, ff, kv = c["hidden_size"], c["intermediate_size"], c["num_key_value_heads"]
    hd = c.get("head_dim") or d // c["num_attention_heads"]
    h = c["num_attention_heads"] * hd
    block = [(h, d), (kv * hd, d), (kv * hd, d), (d, h), (ff, d), (ff, d), (d, ff)]
    weights = [torch.randint(-1, 2, s).to(torch.bfloat16) for _ in range(c["num_hidden_layers"]) for s in block]
    head = torch.randn(c["vocab_size"], d, dtype=torch.bfloat16)

    def step(tokens):
        inputs = {n: torch.randn(tokens, n, dtype=torch.bfloat16) for n in {d, h, ff}}
        for w in weights:
            torch.nn.functional.linear(inputs[w.shape[1]], w)
        torch.nn.functional.linear(inputs[d][-1:], head)

    with torch.no_grad():
        step(1)
        return {"tg64": timed(16, lambda: [step(1) for _ in range(16)]), "pp128": timed(128, lambda: step(128)),
                "pp512": timed(512, lambda: step(512))}


CHILDREN = {"llama": child_llama, "transformers": child_transformers, "torch": child_torch}


# --- the run -------------------------------------------------------------------------------------


def cpu_name():
    try:
        with open("/proc/cpuinfo") as f:
            return next(line.split(":", 1)[1].strip() for line in f if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def spread(values):
    digits = 2 if statistics.median(values) < 10 else 1
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f}–{max(values):.{digits}f})"


def table(results, base):
    lines = [f"| Engine | {' | '.join(TESTS)} | peak MB | trit ÷ it: {' | '.join(TESTS)} |", "|" + "---|" * (2 + 2 * len(TESTS))]
    for name, rounds in results.items():
        ok = [r for r in rounds if "error" not in r]
        if not ok:
            lines.append(f"| {name} | {rounds[0]['error'] if rounds else 'not run'} | | | | | | |")
            continue
        cells = [spread([r[t] for r in ok]) if all(t in r for r in ok) else "–" for t in TESTS]
        peak = [r["peak_mb"] for r in ok if "peak_mb" in r]
        ratios = []
        for t in TESTS:
            pairs = [b[t] / r[t] for b, r in zip(results[base], rounds) if t in b and t in r]
            ratios.append(f"{statistics.median(pairs):.2f}×" if pairs else "–")
        lines.append(f"| {name} | {' | '.join(cells)} | {max(peak):.0f} | {' | '.join(ratios)} |" if peak else
                     f"| {name} | {' | '.join(cells)} | – | {' | '.join(ratios)} |")
    return "\n".join(lines)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--trit", help="the trit binary")
    p.add_argument("--preset", default="bitnet-2b4t")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--work", default="compare-work", help="folder for the models; kept")
    p.add_argument("--peer", action="append", default=[], metavar="NAME=BENCH,MODEL[,ARG…]", help="another llama-bench")
    p.add_argument("--tests", nargs="*", default=list(TESTS), choices=TESTS, help="measure these only; the libraries measure all")
    p.add_argument("--skip", nargs="*", default=[], metavar="WORD", help="leave out engines whose name contains WORD")
    p.add_argument("--json", metavar="FILE", help="also write every single measurement")
    p.add_argument("--child", nargs=2, metavar=("KIND", "MODEL"), help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.child:
        print(json.dumps(CHILDREN[args.child[0]](args.child[1], args.threads)))
        return
    globals()["TESTS"] = tuple(args.tests)
    if not args.trit:
        p.error("--trit is needed")

    models, t = Models(os.path.abspath(args.trit), args.preset, args.work), args.threads
    engines = {
        "trit, packed folder": lambda: bench_trit(models.trit, models.folder(), t),
        "trit, I2_S": lambda: bench_trit(models.trit, models.gguf("i2_s"), t),
        "trit, TQ2_0": lambda: bench_trit(models.trit, models.gguf("tq2_0"), t),
        "llama.cpp, TQ1_0": lambda: child("llama", models.mainline("tq1_0"), t),
        "llama.cpp, TQ2_0": lambda: child("llama", models.mainline("tq2_0"), t),
        "transformers, bf16": lambda: child("transformers", models.folder(), t),
        "torch, products only, bf16": lambda: child("torch", models.folder(), t),
    }
    for peer in args.peer:
        name, _, rest = peer.partition("=")
        binary, model, *extra = rest.split(",")

        def one(binary=binary, model=model, extra=extra):
            path = models.gguf(model[1:-1]) if model.startswith("{") else model
            return bench_llama_bench(binary, path, extra, t)

        engines[name] = one
    engines = {n: f for n, f in engines.items() if not any(word in n for word in args.skip)}

    results = {name: [] for name in engines}
    for r in range(args.rounds):
        for name, f in engines.items():
            if results[name] and "error" in results[name][0]:
                continue  # what cannot run once is not tried again
            try:
                results[name].append(f())
            except (subprocess.CalledProcessError, OSError, ValueError, KeyError) as e:
                last = (getattr(e, "stderr", None) or str(e)).strip().splitlines()
                results[name].append({"error": last[-1][:200] if last else type(e).__name__})
            print(f"round {r + 1}/{args.rounds}: {name}: {results[name][-1]}", file=sys.stderr, flush=True)
    base = next(iter(engines))
    print(f"{args.preset}, {t} threads, {args.rounds} rounds, {cpu_name()}, {time.strftime('%Y-%m-%d')}\n")
    print(table(results, base))
    if args.json:
        with open(args.json, "w") as f:
            json.dump({"preset": args.preset, "threads": t, "cpu": cpu_name(), "results": results}, f, indent=1)


if __name__ == "__main__":
    main()
