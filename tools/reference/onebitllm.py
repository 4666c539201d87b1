"""BitnetForCausalLM of the 1bitLLM checkpoints, for which transformers has no class.

Llama with a norm before the output projection of attention (inner_attn_ln) and one before the
down projection (ffn_layernorm), SiLU gate, tied head, and every linear layer of a block quantised
as it is used (W1.58A8): arXiv:2402.17764 section 2. The pieces that are plain Llama are
transformers' own; only what differs is written here.
"""

import json
import os

import torch
import torch.nn.functional as F
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaRMSNorm


def quantize_weight(w):
    """clamp(round(w/s), -1, 1)·s with s = mean|w| of the whole matrix, in float32, back in w's dtype."""
    scale = 1.0 / w.float().abs().mean().clamp(min=1e-5)
    return ((w.float() * scale).round().clamp(-1, 1) / scale).to(w.dtype)


def quantize_activation(x):
    """round(x·127/a)·a/127 with a = max|x| of each token, in float32, back in x's dtype."""
    scale = 127.0 / x.float().abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)
    return ((x.float() * scale).round().clamp(-128, 127) / scale).to(x.dtype)


class BitLinear(nn.Linear):
    def forward(self, x):
        return F.linear(quantize_activation(x), quantize_weight(self.weight), self.bias)


class NormThen(nn.Module):
    """norm, then linear: stands where Llama has the linear layer alone."""

    def __init__(self, norm, linear):
        super().__init__()
        self.norm, self.linear = norm, linear

    def forward(self, x):
        return self.linear(self.norm(x))


# checkpoint name -> name in the module tree built below
RENAME = {
    "self_attn.inner_attn_ln.weight": "self_attn.o_proj.norm.weight",
    "self_attn.o_proj.weight": "self_attn.o_proj.linear.weight",
    "mlp.ffn_layernorm.weight": "mlp.down_proj.norm.weight",
    "mlp.down_proj.weight": "mlp.down_proj.linear.weight",
}


class BitnetForCausalLM(LlamaForCausalLM):
    def __init__(self, config):
        super().__init__(config)
        for layer in self.model.layers:
            for block, names in ((layer.self_attn, ("q_proj", "k_proj", "v_proj", "o_proj")),
                                 (layer.mlp, ("gate_proj", "up_proj", "down_proj"))):
                for name in names:
                    old = getattr(block, name)
                    setattr(block, name, BitLinear(old.in_features, old.out_features, bias=old.bias is not None))
            layer.self_attn.o_proj = NormThen(
                LlamaRMSNorm(layer.self_attn.o_proj.in_features, eps=config.rms_norm_eps), layer.self_attn.o_proj)
            layer.mlp.down_proj = NormThen(
                LlamaRMSNorm(layer.mlp.down_proj.in_features, eps=config.rms_norm_eps), layer.mlp.down_proj)

    @classmethod
    def from_pretrained(cls, folder, dtype=None):
        """dtype None: as the file has it."""
        from safetensors.torch import load_file

        with open(os.path.join(folder, "config.json")) as f:
            raw = json.load(f)
        for key in ("architectures", "input_bits", "weight_bits", "torch_dtype", "_name_or_path", "transformers_version"):
            raw.pop(key, None)
        config = LlamaConfig(**raw, attn_implementation="eager")
        model = cls(config)
        state = {}
        for name, t in load_file(os.path.join(folder, "model.safetensors")).items():
            head, _, tail = name.partition(".layers.")
            if tail:
                number, _, rest = tail.partition(".")
                name = f"{head}.layers.{number}.{RENAME.get(rest, rest)}"
            state[name] = t.to(dtype or t.dtype)
        if config.tie_word_embeddings:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        model.load_state_dict(state, strict=True, assign=True)  # assign: RoPE's inverse frequencies stay float32
        model.tie_weights()
        return model.eval()
