#!/usr/bin/env python3
"""Checks that a model written by trit says in other programs what it says in trit.

    crosscheck.py MODEL --expect FILE [--with transformers llama.cpp] [--dtype float32] [--json]

MODEL is a Hugging Face folder or a GGUF. FILE holds prompts and trit's greedy continuations, all as token ids: a
reference file of reference.py's format, or JSON: [{"prompt": [ids], "tokens": [ids]}, ...].

A folder is loaded by transformers (from_pretrained, dtype as said), a GGUF by llama.cpp (llama-cpp-python) and,
when asked for, by transformers (gguf_file=). Each continues the prompts greedily in its own way and is then fed
trit's tokens, so that every step can be compared even after the texts have parted. A step where it prefers another
token is a near tie when trit's token lies within --tie standard deviations of that step's logits below its best
(0.1: one activation code that rounds the other way can move a small model's logits that far); it is counted, not
hidden. Exit status: 0 all steps equal or near ties, 1 otherwise, 2 could not be loaded.
"""

import argparse
import json
import os
import sys

import reference  # beside this file


def read_expected(path):
    """[(prompt ids, expected ids)]"""
    if path.endswith(".json"):
        with open(path) as f:
            return [(e["prompt"], e["tokens"]) for e in json.load(f)]
    from safetensors import safe_open

    out = []
    with safe_open(path, framework="pt") as f:
        for n in range(int(f.metadata()["prompts"])):
            out.append((f.get_tensor(f"prompt.{n}.ids").tolist(), f.get_tensor(f"prompt.{n}.greedy").tolist()))
    return out


class Transformers:
    def __init__(self, model, dtype):
        import torch
        import transformers

        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        self.name = f"transformers {transformers.__version__}, {dtype}"
        if os.path.isdir(model):
            self.model = reference.load(model, getattr(torch, dtype))
        else:
            self.model = transformers.AutoModelForCausalLM.from_pretrained(
                os.path.dirname(os.path.abspath(model)), gguf_file=os.path.basename(model),
                dtype=getattr(torch, dtype), attn_implementation="eager").eval()

    def logits(self, ids, first):
        """[len(ids) - first, V]: after ids[:first+1], ids[:first+2], …"""
        import torch

        with torch.no_grad():
            return self.model(torch.tensor([ids])).logits[0, first:].float().numpy()

    def greedy(self, ids, count):
        return reference.greedy(self.model, ids, count)[0].tolist()


class LlamaCpp:
    def __init__(self, model, threads, longest):
        import llama_cpp

        self.lib = llama_cpp
        self.name = f"llama.cpp (llama-cpp-python {llama_cpp.__version__})"
        self.llm = llama_cpp.Llama(model_path=model, n_ctx=longest, n_batch=longest, n_threads=threads, n_threads_batch=threads,
                                   n_gpu_layers=0, logits_all=True, verbose=False)
        self.vocab = self.llm.n_vocab()

    def logits(self, ids, first):
        import numpy as np

        self.llm.reset()
        self.llm.eval(ids)
        return np.array(self.llm.scores[first:len(ids)], dtype=np.float32)

    def greedy(self, ids, count):
        import numpy as np

        self.llm.reset()
        self.llm.eval(ids)
        out = []
        for i in range(count):
            out.append(int(np.argmax(self.llm.scores[self.llm.n_tokens - 1])))
            if i + 1 < count:
                self.llm.eval(out[-1:])
        return out


def compare(engine, expected, tie):
    rows = []
    for prompt, want in expected:
        own = engine.greedy(prompt, len(want))
        prefix = next((i for i, (a, b) in enumerate(zip(own, want)) if a != b), len(want))
        logits = engine.logits(prompt + want[:-1], len(prompt) - 1)
        other, near, worst = 0, 0, 0.0
        for row, token in zip(logits, want):
            if row.argmax() != token:
                other += 1
                gap = float((row.max() - row[token]) / row.std())
                worst = max(worst, gap)
                near += gap <= tie
        rows.append({"prompt_tokens": len(prompt), "steps": len(want), "equal_prefix": prefix, "other_choice": other,
                     "near_ties": near, "largest_gap_in_std": round(worst, 5)})
    return rows


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model")
    p.add_argument("--expect", required=True)
    p.add_argument("--with", dest="engines", nargs="*", choices=["transformers", "llama.cpp"],
                   help="default: transformers for a folder, llama.cpp for a GGUF")
    p.add_argument("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    p.add_argument("--tie", type=float, default=0.1, metavar="STD")
    p.add_argument("--threads", type=int, default=os.cpu_count())
    p.add_argument("--json", action="store_true")
    args = p.parse_args(argv)
    reference.setup(args.threads)
    expected = read_expected(args.expect)
    engines = args.engines or (["transformers"] if os.path.isdir(args.model) else ["llama.cpp"])
    status, report = 0, []
    for which in engines:
        try:
            if which == "transformers":
                engine = Transformers(args.model, args.dtype)
            else:
                engine = LlamaCpp(args.model, args.threads, max(len(a) + len(b) for a, b in expected))
        except Exception as e:  # whatever the other program says, this is its verdict on the file
            report.append({"engine": which, "error": f"{type(e).__name__}: {e}"})
            status = 2
            continue
        rows = compare(engine, expected, args.tie)
        report.append({"engine": engine.name, "prompts": rows})
        if any(r["other_choice"] > r["near_ties"] for r in rows):
            status = max(status, 1)
    if args.json:
        json.dump({"model": args.model, "tie_in_std": args.tie, "engines": report}, sys.stdout, indent=1)
        print()
    else:
        for r in report:
            if "error" in r:
                print(f"{r['engine']}: {r['error']}")
                continue
            print(r["engine"])
            for n, row in enumerate(r["prompts"]):
                print(f"  prompt {n} ({row['prompt_tokens']} tokens): equal for {row['equal_prefix']} of {row['steps']} tokens; "
                      f"fed the same tokens it prefers another one at {row['other_choice']} steps, {row['near_ties']} of them "
                      f"near ties (largest gap {row['largest_gap_in_std']} std)")
    sys.exit(status)


if __name__ == "__main__":
    main()
