"""The BitNet embedding models, for which transformers has no class of their own.

Qwen3 and Gemma 3 text of transformers, with every linear layer of a block replaced by one that norms
its input by an RMSNorm of its own (`*_proj.norm.weight`, w and not 1+w in Gemma too) and is quantised
as it is used (W1.58A8): microsoft/BitNet utils/convert-bitnet-embedding-to-gguf.py and
docs/bitnet-embeddings-i2s-guide.md. Everything else is transformers' own code. The checkpoint is that
of the bare model: no "model." in front of its names, no head. Here the head is the embedding, so that
logits exist and the models pass the tests of all the others.
"""

import json
import os

import torch
import torch.nn.functional as F
from torch import nn
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Qwen3Config, Qwen3ForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from onebitllm import quantize_activation, quantize_weight

CLASSES = {"Qwen3Model": (Qwen3Config, Qwen3ForCausalLM), "Gemma3TextModel": (Gemma3TextConfig, Gemma3ForCausalLM)}


class BitLinear(nn.Linear):
    def __init__(self, inp, out, eps):
        super().__init__(inp, out, bias=False)
        self.norm = LlamaRMSNorm(inp, eps=eps)

    def forward(self, x):
        return F.linear(quantize_activation(self.norm(x)), quantize_weight(self.weight))


def load(folder, dtype=None):
    """The model of a folder with a head tied to its embedding; dtype None: as the file has it."""
    from safetensors.torch import load_file

    with open(os.path.join(folder, "config.json")) as f:
        raw = json.load(f)
    config_class, model_class = CLASSES[raw["architectures"][0]]
    for key in ("architectures", "torch_dtype", "transformers_version", "model_type"):
        raw.pop(key, None)
    model = model_class(config_class(**raw, attn_implementation="eager"))
    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for name, old in list(block.named_children()):
                if isinstance(old, nn.Linear):
                    setattr(block, name, BitLinear(old.in_features, old.out_features, model.config.rms_norm_eps))
    state = {"model." + name: t.to(dtype or t.dtype) for name, t in load_file(os.path.join(folder, "model.safetensors")).items()}
    state["lm_head.weight"] = state["model.embed_tokens.weight"]
    model.load_state_dict(state, strict=True, assign=True)  # assign: RoPE's inverse frequencies stay float32
    model.tie_weights()
    return model.eval()


def embeddings(model, ids):
    """{"last", "mean"}: unit vectors of the text, from the state of its last token and from the mean of all."""
    with torch.no_grad():
        x = torch.tensor([ids])
        states = model.model(input_ids=x, attention_mask=torch.ones_like(x), use_cache=False).last_hidden_state[0].float()
    return {"last": F.normalize(states[-1], dim=0), "mean": F.normalize(states.mean(0), dim=0)}
