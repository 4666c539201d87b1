"""The three architectures of `trit train` in plain PyTorch, for comparison of gradients, losses and speed.

Tensors have the names of trit's checkpoints. BitLinear quantises as transformers' AutoBitLinear does (online), with the
usual (quantised - x).detach() + x straight-through estimator.
"""
import json
import math

import torch
import torch.nn.functional as F
from torch import nn


def ste(x, q):
    return x + (q - x).detach()


class BitLinear(nn.Linear):
    def forward(self, x):
        s = 1.0 / self.weight.abs().mean().clamp(min=1e-5)
        w = ste(self.weight, (self.weight * s).round().clamp(-1, 1) / s)
        a = 127.0 / x.abs().amax(dim=-1, keepdim=True).clamp(min=1e-5)
        return F.linear(ste(x, (x * a).round().clamp(-128, 127) / a), w, self.bias)


class RMSNorm(nn.Module):
    def __init__(self, d, eps):
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(d)), eps

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps))


class Attention(nn.Module):
    def __init__(self, c, linear):
        super().__init__()
        self.h, self.kv, self.hd = c["num_heads"], c["num_kv_heads"], c["hidden_size"] // c["num_heads"]
        self.q_proj = linear(c["hidden_size"], self.h * self.hd)
        self.k_proj = linear(c["hidden_size"], self.kv * self.hd)
        self.v_proj = linear(c["hidden_size"], self.kv * self.hd)
        self.o_proj = linear(self.h * self.hd, c["hidden_size"])
        if c["arch"] == "bitnet":
            self.attn_sub_norm = RMSNorm(c["hidden_size"], c["norm_eps"])

    def forward(self, x, rope):
        B, S, _ = x.shape
        q = self.q_proj(x).view(B, S, self.h, self.hd).transpose(1, 2)
        k = self.k_proj(x).view(B, S, self.kv, self.hd).transpose(1, 2)
        v = self.v_proj(x).view(B, S, self.kv, self.hd).transpose(1, 2)
        if rope is not None:
            cos, sin = rope[0][:S], rope[1][:S]
            q, k = rotate(q, cos, sin), rotate(k, cos, sin)
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.kv != self.h)
        o = o.transpose(1, 2).reshape(B, S, -1)
        if hasattr(self, "attn_sub_norm"):
            o = self.attn_sub_norm(o)
        return self.o_proj(o)


def rotate(x, cos, sin):
    a, b = x.chunk(2, dim=-1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), dim=-1)


class MLP(nn.Module):
    def __init__(self, c, linear):
        super().__init__()
        d, f = c["hidden_size"], c["intermediate_size"]
        self.arch = c["arch"]
        if self.arch != "transformer":
            self.gate_proj = linear(d, f)
        self.up_proj, self.down_proj = linear(d, f), linear(f, d)
        if self.arch == "bitnet":
            self.ffn_sub_norm = RMSNorm(f, c["norm_eps"])

    def forward(self, x):
        u = self.up_proj(x)
        if self.arch == "transformer":
            h = F.gelu(u)
        elif self.arch == "llama":
            h = F.silu(self.gate_proj(x)) * u
        else:
            h = self.ffn_sub_norm(F.relu(self.gate_proj(x)).square() * u)
        return self.down_proj(h)


class Layer(nn.Module):
    def __init__(self, c, linear, norm):
        super().__init__()
        self.input_layernorm, self.self_attn = norm(), Attention(c, linear)
        self.post_attention_layernorm, self.mlp = norm(), MLP(c, linear)

    def forward(self, x, rope):
        x = x + self.self_attn(self.input_layernorm(x), rope)
        return x + self.mlp(self.post_attention_layernorm(x))


class Body(nn.Module):
    def __init__(self, c, linear, norm):
        super().__init__()
        self.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        if c["arch"] == "transformer":
            self.embed_positions = nn.Embedding(c["block"], c["hidden_size"])
        self.layers = nn.ModuleList(Layer(c, linear, norm) for _ in range(c["num_layers"]))
        self.norm = norm()


class Model(nn.Module):
    def __init__(self, c):
        super().__init__()
        vanilla = c["arch"] == "transformer"
        kind = BitLinear if c["precision"] == "ternary" else nn.Linear
        linear = lambda i, o: kind(i, o, bias=vanilla)
        norm = (lambda: nn.LayerNorm(c["hidden_size"], eps=c["norm_eps"])) if vanilla else (lambda: RMSNorm(c["hidden_size"], c["norm_eps"]))
        self.c, self.model = c, Body(c, linear, norm)
        self.lm_head = nn.Linear(c["hidden_size"], c["vocab_size"], bias=False)
        if c["arch"] == "bitnet":
            self.lm_head.weight = self.model.embed_tokens.weight
        self.rope = None
        if not vanilla:
            hd = c["hidden_size"] // c["num_heads"]
            inv = 1.0 / (c["rope_theta"] ** (torch.arange(0, hd, 2, dtype=torch.float64) / hd))
            a = torch.arange(c["block"], dtype=torch.float32)[:, None] * inv.float()[None, :]
            self.register_buffer("cos", a.cos(), persistent=False)
            self.register_buffer("sin", a.sin(), persistent=False)

    def forward(self, ids, targets):
        x = self.model.embed_tokens(ids)
        rope = None
        if self.c["arch"] == "transformer":
            x = x + self.model.embed_positions.weight[: ids.shape[1]]
        else:
            rope = (self.cos, self.sin)
        for layer in self.model.layers:
            x = layer(x, rope)
        logits = self.lm_head(self.model.norm(x))
        return F.cross_entropy(logits.view(-1, logits.shape[-1]), targets.reshape(-1))


def load(path):
    """Builds the model of a trit checkpoint, with its weights."""
    from safetensors import safe_open

    with safe_open(path, "pt") as f:
        meta = json.loads(f.metadata()["trit"])
        m = Model(meta["config"])
        state = {k: f.get_tensor(k) for k in f.keys() if not k.startswith("adam.")}
    missing, unexpected = m.load_state_dict(state, strict=False)
    missing = [k for k in missing if not (k == "lm_head.weight" and m.c["arch"] == "bitnet")]
    assert not missing and not unexpected, (missing, unexpected)
    return m, meta


def optimizer(m, o):
    decay = [p for p in m.parameters() if p.dim() == 2]
    rest = [p for p in m.parameters() if p.dim() != 2]
    return torch.optim.AdamW(
        [{"params": decay, "weight_decay": o["weight_decay"]}, {"params": rest, "weight_decay": 0.0}],
        lr=o["lr"], betas=(o["beta1"], o["beta2"]), eps=o["eps"])
