"""torch_curve.py DIR [--nudge X] [--threads N] [--out NAME] [--compare FILE]: PyTorch on the weights and batches of `curve`.

DIR holds init.ckpt and batches.json (bench/train/curve). Losses go to DIR/NAME (torch.jsonl), a line a step, so that a run
that was stopped still says something. Then the curves are compared with DIR/trit.jsonl, or with FILE, whose lines have "step"
and "loss" as well (a run's metrics.jsonl).

--nudge X multiplies every initial weight by 1 + X·u, u uniform in -1..1: how far two PyTorch runs part that differ by a
rounding of their weights is the noise that any other difference has to be measured with.
"""
import argparse
import json
import os
import sys

import torch

import torch_models

p = argparse.ArgumentParser()
p.add_argument("dir")
p.add_argument("--nudge", type=float, default=0.0)
p.add_argument("--threads", type=int, default=1)
p.add_argument("--out", default="torch.jsonl")
p.add_argument("--compare")
p.add_argument("--only-compare", action="store_true")
a = p.parse_args()


def losses(path):
    return {r["step"]: r["loss"] for r in map(json.loads, open(path)) if "loss" in r and r["step"] > 0}


out = os.path.join(a.dir, a.out)
if not a.only_compare:
    torch.set_num_threads(a.threads)
    m, meta = torch_models.load(os.path.join(a.dir, "init.ckpt"))
    if a.nudge:
        torch.manual_seed(0)
        with torch.no_grad():
            for w in m.parameters():
                w.mul_(1 + a.nudge * (2 * torch.rand_like(w) - 1))
    b, o = json.load(open(os.path.join(a.dir, "batches.json"))), meta["options"]
    opt = torch_models.optimizer(m, o)
    with open(out, "w") as f:
        for n, (ids, targets) in enumerate(zip(b["ids"], b["targets"]), 1):
            ids = torch.tensor(ids).view(b["batch"], b["block"])
            targets = torch.tensor(targets).view(b["batch"], b["block"])
            opt.zero_grad()
            loss = m(ids, targets)
            loss.backward()
            if o["clip"] > 0:
                torch.nn.utils.clip_grad_norm_(m.parameters(), o["clip"])
            opt.step()
            print(json.dumps({"step": n, "loss": loss.item()}), file=f, flush=True)

ours, theirs = losses(a.compare or os.path.join(a.dir, "trit.jsonl")), losses(out)
steps = sorted(set(ours) & set(theirs))
if not steps:
    sys.exit("no step in common")
diff = [ours[s] - theirs[s] for s in steps]
last = range(max(0, len(steps) - 50), len(steps))
mean = lambda xs: sum(xs) / len(xs)
print(f"{len(steps)} steps: mean difference {mean(diff):+.5f}, mean of its size {mean([abs(d) for d in diff]):.5f}, largest {max(map(abs, diff)):.5f}; "
      f"mean loss of the last {len(last)}: {mean([ours[steps[i]] for i in last]):.4f} against {mean([theirs[steps[i]] for i in last]):.4f}")
for s in steps:
    if s in (1, 2, 5, 10, 20, 50, 100, 150, 200, 250, 300):
        print(f"step {s:4d}  {ours[s]:.5f}  {theirs[s]:.5f}  {ours[s] - theirs[s]:+.5f}")
