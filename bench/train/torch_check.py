"""torch_check.py CHECKPOINT BATCHES OUT: gradients of the first batch, then the loss of an optimizer step on each.

CHECKPOINT  a trit checkpoint
BATCHES     JSON {"batch": B, "block": S, "ids": [[...], ...], "targets": [[...], ...]}
OUT         safetensors: the gradients by parameter name, and "losses" [steps] in float64
"""
import json
import sys

import torch
from safetensors.torch import save_file

import torch_models

torch.set_num_threads(1)
m, meta = torch_models.load(sys.argv[1])
b = json.load(open(sys.argv[2]))
o = meta["options"]
opt = torch_models.optimizer(m, o)
losses, grads = [], {}
for ids, targets in zip(b["ids"], b["targets"]):
    ids = torch.tensor(ids).view(b["batch"], b["block"])
    targets = torch.tensor(targets).view(b["batch"], b["block"])
    opt.zero_grad()
    loss = m(ids, targets)
    loss.backward()
    if not losses:
        grads = {n: p.grad.clone().contiguous() for n, p in m.named_parameters()}
    if o["clip"] > 0:
        torch.nn.utils.clip_grad_norm_(m.parameters(), o["clip"])
    opt.step()
    losses.append(loss.item())
grads["losses"] = torch.tensor(losses, dtype=torch.float64)
save_file(grads, sys.argv[3])
