#!/usr/bin/env python3
"""Measures what float rounding makes of a right model with its depth: transformers in float32 against transformers in float64.

    depth.py [--depths 1 2 4 8 12 16 24] [--seeds 8] [--out DIR]

The two differ in the last bits of every sum, as trit and transformers do. That alone is nothing (the rows "no flip"). But where an
activation lies on the edge between two int8 steps, it falls to one side in one and to the other side in the other, which is
1/127 of the token's largest in one place, and moves what is near an edge in the layers behind. For each depth the table has, over
random models of matrix.py's kind, the loss of correlation 1-r of the state behind the last block and of the logits, and
the largest difference of a logit as a share of their range: the median and the largest of the seeds. With --out, the models
of the last seed stay there, with references for `trit verify`.
"""

import argparse
import copy
import os
import shutil
import sys
import tempfile

import matrix  # beside this file
import reference


def loss(a, b):
    import torch

    return 1 - torch.corrcoef(torch.stack([a.flatten().double(), b.flatten().double()]))[0, 1].item()


def measure(base, depth, width, seed, folder):
    import torch

    heads = {"num_attention_heads": 4} if base.startswith("bitnet") else {}
    case = matrix.Case(base, f"depth-{depth}", {"num_hidden_layers": depth, "hidden_size": width, "intermediate_size": 2 * width} | heads)
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    matrix.build(case, folder, seed)
    model = reference.load(folder, torch.float32)
    ids = matrix.prompts(model.config.vocab_size)[-1]
    at = list(range(len(ids)))
    narrow = reference.forward(model, ids, at)
    wide = copy.deepcopy(model).double()
    for m in wide.modules():
        if isinstance(m.__dict__.get("dtype"), torch.dtype):
            m.dtype = torch.float64
    wide = reference.forward(wide, ids, at)
    span = wide["logits"].max() - wide["logits"].min()
    return ([loss(narrow[f"hidden.{n}"], wide[f"hidden.{n}"]) for n in range(1, depth + 1)] + [loss(narrow["logits"], wide["logits"])],
            ((narrow["logits"] - wide["logits"]).abs().max() / span).item())


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--depths", nargs="*", type=int, default=[1, 2, 4, 8, 12, 16, 24])
    p.add_argument("--bases", nargs="*", default=["llama-online", "llama-bit", "bitnet", "qwen3-online", "llama"])
    p.add_argument("--widths", nargs="*", type=int, default=[32, 128])
    p.add_argument("--seeds", type=int, default=8)
    p.add_argument("--out")
    args = p.parse_args()
    reference.setup(1)
    import numpy as np
    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print("| base | width | depth | 1-r behind the last block: median | largest | logits: median | largest | difference ÷ range: median | largest |")
    print("|---|---|---|---|---|---|---|---|---|")
    for base in args.bases:
        for width in args.widths:
            for depth in args.depths:
                with tempfile.TemporaryDirectory() as scratch:
                    got = [measure(base, depth, width, seed, os.path.join(args.out or scratch, f"{base}.{width}.{depth}")) for seed in range(1, args.seeds + 1)]
                last = [g[0][-2] for g in got]
                logits = [g[0][-1] for g in got]
                share = [g[1] for g in got]
                print(f"| {base} | {width} | {depth} | " + " | ".join(f"{f(v):.1e}" for v in (last, logits, share) for f in (np.median, max)) + " |", flush=True)


if __name__ == "__main__":
    main()
