#!/usr/bin/env python3
"""Makes small random models of experts and of recurrent layers, with transformers' own results beside them.

    hybrids.py --out ../../testdata/hybrids [--only NAME ...]

Each folder is what save_pretrained writes of a model of random weights that are rounded to bfloat16, and reference.f32.safetensors
(see reference.py) what transformers computes of it in float32: prompts of 1, 7, 64 and 200 tokens, logits at up to 8 positions of
each, and 64 greedy tokens. Attention is eager; the recurrence is the Python text, as no kernel package is installed.
"""

import argparse
import os
import shutil

import numpy as np
import torch

import reference  # beside this file


def qwen3_moe(**more):
    from transformers import Qwen3MoeConfig
    return Qwen3MoeConfig(**({
        "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 512, "num_experts": 8, "num_experts_per_tok": 3,
        "moe_intermediate_size": 32, "norm_topk_prob": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0} | more))


def qwen3_5(**more):
    from transformers import Qwen3_5TextConfig
    return Qwen3_5TextConfig(**({
        "vocab_size": 96, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 32, "max_position_embeddings": 512, "linear_key_head_dim": 16,
        "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 6, "bos_token_id": 1, "eos_token_id": 2,
        "pad_token_id": 0} | more))


def qwen3_5_moe(**more):
    from transformers import Qwen3_5MoeTextConfig
    return Qwen3_5MoeTextConfig(**({
        "vocab_size": 96, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 32,
        "max_position_embeddings": 512, "linear_key_head_dim": 16, "linear_value_head_dim": 16, "linear_num_key_heads": 2,
        "linear_num_value_heads": 4, "full_attention_interval": 2, "num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 48, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0} | more))


MODELS = {
    "qwen3-moe": (11, qwen3_moe, {}),
    # A layer in two has experts, and their weights are not renormalised.
    "qwen3-moe-steps": (12, qwen3_moe, {"num_hidden_layers": 2, "decoder_sparse_step": 2, "norm_topk_prob": False, "tie_word_embeddings": True}),
    "qwen3.5": (13, qwen3_5, {}),
    "qwen3.5-tied": (14, qwen3_5, {"linear_num_value_heads": 2, "tie_word_embeddings": True, "num_hidden_layers": 2, "full_attention_interval": 2}),
    "qwen3.5-moe": (15, qwen3_5_moe, {}),
}


def randomize(model, seed):
    """Weights that make the text depend on every part: larger than at the start of training, norms other than one."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in sorted(model.named_parameters()):
            if name.endswith("A_log"):
                v = torch.rand(p.shape, generator=g) * 3 - 2
            elif p.dim() == 1:
                v = p + 0.3 * torch.randn(p.shape, generator=g)
            elif "conv1d" in name:
                v = 0.5 * torch.randn(p.shape, generator=g)
            elif "embed_tokens" in name:
                v = torch.randn(p.shape, generator=g)
            else:
                v = torch.randn(p.shape, generator=g) * (1.5 / p.shape[-1] ** 0.5)
            p.copy_(v.to(torch.bfloat16).to(torch.float32))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True)
    p.add_argument("--only", nargs="*", default=list(MODELS))
    a = p.parse_args()
    torch.manual_seed(0)
    reference.setup(2)
    from transformers import AutoModelForCausalLM
    for name in a.only:
        seed, config, more = MODELS[name]
        c = config(**more)
        c._attn_implementation = "eager"
        model = AutoModelForCausalLM.from_config(c).to(torch.float32).eval()
        randomize(model, seed)
        folder = os.path.join(a.out, name)
        shutil.rmtree(folder, ignore_errors=True)
        model.to(torch.bfloat16).save_pretrained(folder)
        generation = os.path.join(folder, "generation_config.json")
        if os.path.exists(generation):
            os.remove(generation)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, attn_implementation="eager").eval()
        rng = np.random.default_rng(seed)
        prompts = [[int(i) for i in rng.integers(3, 96, n)] for n in (1, 7, 64, 200)]
        tensors = {k: v for k, v in reference.reference(model, prompts, positions=8, greedy_tokens=64).items()
                   if ".hidden." not in k and not k.endswith(".final")}
        meta = reference.metadata(model, folder, "float32", prompts, False)
        reference.write(os.path.join(folder, "reference.f32.safetensors"), tensors, meta)
        margin = min(float(np.min(np.asarray(v))) for k, v in tensors.items() if k.endswith("greedy_margin"))
        print(f"{name}: {sum(x.numel() for x in model.parameters())} weights, smallest greedy margin {margin:.5f}", flush=True)


if __name__ == "__main__":
    main()
