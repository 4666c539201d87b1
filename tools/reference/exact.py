#!/usr/bin/env python3
"""Checks the goldens against the arithmetic that they stand for, written down once more and plainly.

    exact.py ../../testdata/goldens [NAME ...]

Every product of a quantised layer is taken in integers (int8 activations, ternary weights, one scale each),
everything else in float64. The table says how far transformers' float32 is from that: what is left is the
rounding of float32, plus, rarely, an activation that lies so near a half that its code differs by one.
numpy alone; no torch, no transformers.
"""

import json
import os
import sys

import numpy as np

DTYPES = {"F32": np.float32, "F16": np.float16, "U8": np.uint8, "I32": np.int32}


def read_safetensors(path):
    with open(path, "rb") as f:
        data = f.read()
    n = int.from_bytes(data[:8], "little")
    header = json.loads(data[8:8 + n])
    out = {}
    for name, t in header.items():
        if name == "__metadata__":
            continue
        raw = data[8 + n + t["data_offsets"][0]:8 + n + t["data_offsets"][1]]
        if t["dtype"] == "BF16":
            a = (np.frombuffer(raw, np.uint16).astype(np.uint32) << 16).view(np.float32)
        else:
            a = np.frombuffer(raw, DTYPES[t["dtype"]])
        out[name] = a.reshape(t["shape"])
    return out


def half_even(x):
    return np.rint(x)


class Model:
    def __init__(self, folder):
        with open(os.path.join(folder, "config.json")) as f:
            self.c = c = json.load(f)  # of two equal keys the last counts, here as in transformers
        self.w = {}
        for file in sorted(os.listdir(folder)):
            if file.startswith("model") and file.endswith(".safetensors"):
                self.w.update(read_safetensors(os.path.join(folder, file)))
        self.q = c.get("quantization_config")
        self.heads, self.kv = c["num_attention_heads"], c["num_key_value_heads"]
        self.hd = c.get("head_dim") or c["hidden_size"] // self.heads
        self.eps = c["rms_norm_eps"]
        folder = os.path.basename(os.path.normpath(folder))
        self.online = c["architectures"][0] == "BitnetForCausalLM" or "prequantized" in folder
        if self.q:
            self.online = self.q.get("quantization_mode") == "online"
        self.codes = {}
        self.slack = np.inf  # distance of the activation nearest to a half, in units of its int8 code

    def norm(self, x, name, eps=None):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + (eps or self.eps)) * self.w[name + ".weight"].astype(np.float64)

    def ternary(self, name):
        """(codes [out, in], scale) of a linear layer, or None when it is a plain float one."""
        if name not in self.codes:
            w = self.w[name + ".weight"]
            if w.dtype == np.uint8:
                codes = np.concatenate([(w >> (2 * i)) & 3 for i in range(4)]).astype(np.int64) - 1
                scale = float(self.w[name + ".weight_scale"][0])
                if self.q.get("linear_class") != "autobitlinear":
                    scale = 1 / scale
                self.codes[name] = codes, scale
            elif self.online and name != "lm_head":
                scale = np.abs(w.astype(np.float64)).mean()
                self.codes[name] = np.clip(half_even(w / scale), -1, 1).astype(np.int64), scale
            else:
                self.codes[name] = None
        return self.codes[name]

    def linear(self, x, name):
        if name + ".rms_norm.weight" in self.w:
            x = self.norm(x, name + ".rms_norm", self.q.get("rms_norm_eps", 1e-6))
        t = self.ternary(name)
        if t is None:
            y = x @ self.w[name + ".weight"].astype(np.float64).T
        else:
            codes, scale = t
            a = np.maximum(np.abs(x).max(-1, keepdims=True), 1e-5)
            x = x * (127 / a)
            self.slack = min(self.slack, np.abs(x - np.floor(x) - 0.5).min())
            y = (np.clip(half_even(x), -128, 127).astype(np.int64) @ codes.T) * (scale * a / 127)
        if name + ".bias" in self.w:
            y = y + self.w[name + ".bias"].astype(np.float64)
        return y

    def forward(self, ids):
        c, n = self.c, len(ids)
        out = {}
        x = self.w["model.embed_tokens.weight"][ids].astype(np.float64)
        out["hidden.0"] = x
        angle = np.arange(n)[:, None] / c["rope_theta"] ** (np.arange(0, self.hd, 2) / self.hd)
        cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]

        def rope(v):
            a, b = np.split(v, 2, -1)
            return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

        for i in range(c["num_hidden_layers"]):
            p = f"model.layers.{i}."
            h = self.norm(x, p + "input_layernorm")
            q = self.linear(h, p + "self_attn.q_proj").reshape(n, self.heads, self.hd)
            k = self.linear(h, p + "self_attn.k_proj").reshape(n, self.kv, self.hd)
            v = self.linear(h, p + "self_attn.v_proj").reshape(n, self.kv, self.hd)
            if p + "self_attn.q_norm.weight" in self.w:
                q, k = self.norm(q, p + "self_attn.q_norm"), self.norm(k, p + "self_attn.k_norm")
            q, k = rope(q), np.repeat(rope(k), self.heads // self.kv, 1)
            s = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(self.hd)
            s = np.where(np.tril(np.ones((n, n), bool)), s, -np.inf)
            s = np.exp(s - s.max(-1, keepdims=True))
            o = np.einsum("hqk,khd->qhd", s / s.sum(-1, keepdims=True), np.repeat(v, self.heads // self.kv, 1))
            o = o.reshape(n, -1)
            for sub in ("attn_sub_norm", "inner_attn_ln"):
                if p + f"self_attn.{sub}.weight" in self.w:
                    o = self.norm(o, p + f"self_attn.{sub}")
            x = x + self.linear(o, p + "self_attn.o_proj")
            h = self.norm(x, p + "post_attention_layernorm")
            g, u = self.linear(h, p + "mlp.gate_proj"), self.linear(h, p + "mlp.up_proj")
            g = np.maximum(g, 0) ** 2 if c["hidden_act"] == "relu2" else g / (1 + np.exp(-g))
            h = g * u
            for sub in ("ffn_sub_norm", "ffn_layernorm"):
                if p + f"mlp.{sub}.weight" in self.w:
                    h = self.norm(h, p + f"mlp.{sub}")
            x = x + self.linear(h, p + "mlp.down_proj")
            out[f"hidden.{i + 1}"] = x
        out["final"] = self.norm(x, "model.norm")
        if c.get("tie_word_embeddings"):
            out["logits"] = out["final"] @ self.w["model.embed_tokens.weight"].astype(np.float64).T
        else:
            out["logits"] = self.linear(out["final"], "lm_head")
        return out


def main():
    root, only = sys.argv[1], sys.argv[2:]
    print("| golden | reference | largest difference of a hidden state ÷ its rms | of the logits ÷ their range "
          "| median of the same | correlation | top-1 | greedy steps equal, teacher forced |")
    print("|---|---|---|---|---|---|---|---|")
    for name in sorted(os.listdir(root)):
        folder = os.path.join(root, name)
        if not os.path.exists(os.path.join(folder, "config.json")) or (only and name not in only):
            continue
        model = Model(folder)
        for short in ("f32", "bf16"):
            ref = read_safetensors(os.path.join(folder, f"reference.{short}.safetensors"))
            hidden, diff, rng, flat, top, rows, equal, steps = 0, [], 0, [], 0, 0, 0, 0
            for n in range(3):
                p = f"prompt.{n}."
                ids, greedy, at = ref[p + "ids"], ref[p + "greedy"], ref[p + "positions"]
                got = model.forward(np.concatenate([ids, greedy[:-1]]))
                for key in got:
                    want, have = ref[p + key].astype(np.float64), got[key][at]
                    if key == "logits":
                        diff.append(np.abs(have - want).ravel())
                        rng = max(rng, want.max() - want.min())
                        flat.append(np.stack([have.ravel(), want.ravel()]))
                        top += (have.argmax(-1) == want.argmax(-1)).sum()
                        rows += len(at)
                    else:
                        hidden = max(hidden, (np.abs(have - want) / np.sqrt((want * want).mean(-1, keepdims=True))).max())
                equal += (got["logits"][len(ids) - 1:].argmax(-1) == greedy).sum()
                steps += len(greedy)
            diff = np.concatenate(diff)
            corr = np.corrcoef(np.concatenate(flat, 1))[0, 1]
            print(f"| {name} | {short} | {hidden:.1e} | {diff.max() / rng:.1e} | {np.median(diff) / rng:.1e} "
                  f"| {corr:.9f} | {top}/{rows} | {equal}/{steps} |", flush=True)


if __name__ == "__main__":
    main()
