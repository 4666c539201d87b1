"""torch_lora.py BASE ADAPTER BATCHES OUT: the same as torch_check.py for adapters, by transformers and peft.

BASE     a Hugging Face folder
ADAPTER  a folder of adapter_config.json and adapter_model.safetensors
BATCHES  JSON {"batch": B, "block": S, "ids": [[...], ...], "targets": [[...], ...], "options": {...}, "probe": [...]}
OUT      safetensors: the gradients of the first batch by the names in the adapter's file, "losses" [steps] in float64, and
         "logits" [len(probe), V] of the adapter's model before any step
"""
import json
import sys

import torch
import torch.nn.functional as F
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM

torch.set_num_threads(1)
base = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
torch.nn.Module.float(base)
m = PeftModel.from_pretrained(base, sys.argv[2], is_trainable=True)
b = json.load(open(sys.argv[3]))
o = b["options"]
out = {}
with torch.no_grad():
    out["logits"] = m(torch.tensor([b["probe"]])).logits[0].contiguous()
params = {n.replace(".default.", "."): p for n, p in m.named_parameters() if p.requires_grad}
opt = torch.optim.AdamW(params.values(), lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"], weight_decay=o["weight_decay"])
losses = []
for ids, targets in zip(b["ids"], b["targets"]):
    ids = torch.tensor(ids).view(b["batch"], b["block"])
    targets = torch.tensor(targets)
    opt.zero_grad()
    logits = m(ids).logits
    loss = F.cross_entropy(logits.view(-1, logits.shape[-1]), targets)
    loss.backward()
    if not losses:
        out |= {n: p.grad.clone().contiguous() for n, p in params.items()}
    if o["clip"] > 0:
        torch.nn.utils.clip_grad_norm_(list(params.values()), o["clip"])
    opt.step()
    losses.append(loss.item())
out["losses"] = torch.tensor(losses, dtype=torch.float64)
save_file(out, sys.argv[4])
