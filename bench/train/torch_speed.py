"""torch_speed.py: tokens/s of training the study's model in PyTorch on random tokens (speed does not depend on them).

    torch_speed.py [--arch llama] [--precision ternary] [--batch N] [--steps N] [--compile] [--threads N]

The configuration is the study's: 65 characters, 512 wide, 8 heads, 8 layers, block 128, batch 32, AdamW at 2e-4.
"""
import argparse
import json
import os
import resource
import time

import torch

import torch_models

p = argparse.ArgumentParser()
p.add_argument("--arch", default="llama")
p.add_argument("--precision", default="ternary")
p.add_argument("--batch", type=int, default=32)
p.add_argument("--steps", type=int, default=3)
p.add_argument("--compile", action="store_true")
p.add_argument("--threads", type=int, default=os.cpu_count())
a = p.parse_args()
torch.manual_seed(1)
torch.set_num_threads(a.threads)
c = dict(arch=a.arch, precision=a.precision, vocab_size=65, hidden_size=512, intermediate_size=2048, num_layers=8, num_heads=8,
         num_kv_heads=4 if a.arch == "bitnet" else 8, block=128, rope_theta=10000.0, norm_eps=1e-5)
m = torch_models.Model(c)
opt = torch_models.optimizer(m, dict(weight_decay=0.01, lr=2e-4, beta1=0.9, beta2=0.999, eps=1e-8))
run = torch.compile(m) if a.compile else m


def step():
    ids = torch.randint(65, (a.batch, 129))
    opt.zero_grad(set_to_none=True)
    loss = run(ids[:, :-1], ids[:, 1:])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
    opt.step()
    return loss.item()


def spent():
    """Processor seconds of this process and of those that it waited for, the C++ compiler among them."""
    return sum(u.ru_utime + u.ru_stime for u in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


first_cpu, start = spent(), time.perf_counter()
step()  # allocation, compilation
first, first_cpu = time.perf_counter() - start, spent() - first_cpu
cpu, start = time.process_time(), time.perf_counter()
for _ in range(a.steps):
    step()
wall, cpu = time.perf_counter() - start, time.process_time() - cpu
tokens = a.steps * a.batch * 128
print(json.dumps({
    "what": f"torch {torch.__version__}" + (" compile" if a.compile else " eager"), "tokens_per_s": tokens / wall,
    "tokens_per_cpu_s": tokens / cpu, "threads": a.threads, "steps": a.steps, "first_step_s": first, "first_step_cpu_s": first_cpu, "peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
