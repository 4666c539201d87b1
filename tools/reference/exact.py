#!/usr/bin/env python3
"""Checks the goldens against the arithmetic that they stand for, written down once more and plainly.

    exact.py ../../testdata/goldens [NAME ...]
    exact.py MODEL_FOLDER --reference ref.safetensors

Every product of a quantised layer is taken in integers (int8 activations, ternary weights, one scale each;
float64 adds them exactly), everything else in float64. The table says how far transformers' float32 is from that: what is left is the
rounding of float32, plus, rarely, an activation that lies so near a half that its code differs by one.
numpy alone; no torch, no transformers.
"""

import argparse
import json
import os

import numpy as np

DTYPES = {"F32": np.float32, "F16": np.float16, "U8": np.uint8, "I32": np.int32}


def read_safetensors(path):
    """{name: array}, mapped where numpy has the dtype; bf16 is a Bf16 that widens what is taken from it."""
    with open(path, "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        header = json.loads(f.read(n))
    data = np.memmap(path, np.uint8, "r", 8 + n)
    out = {}
    for name, t in header.items():
        if name != "__metadata__":
            raw = data[t["data_offsets"][0]:t["data_offsets"][1]]
            a = raw.view(np.uint16 if t["dtype"] == "BF16" else DTYPES[t["dtype"]]).reshape(t["shape"])
            out[name] = Bf16(a) if t["dtype"] == "BF16" else a
    return out


class Bf16:
    """An array of bf16 bit patterns; nothing is widened before it is asked for."""

    def __init__(self, bits):
        self.bits, self.dtype, self.shape = bits, "bf16", bits.shape

    def __getitem__(self, key):
        return (np.asarray(self.bits[key]).astype(np.uint32) << 16).view(np.float32)

    def astype(self, dtype):
        return self[:].astype(dtype)

    def __array__(self, dtype=None, copy=None):
        return self[:].astype(dtype or np.float32)


def rows(w, x):
    """x @ wᵀ in float64, w read a few thousand rows at a time."""
    return np.concatenate([x @ w[i:i + 8192].astype(np.float64).T for i in range(0, w.shape[0], 8192)], -1)


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
        if "embed_tokens.weight" in self.w:  # the bare model, without a head
            self.w = {"model." + name: t for name, t in self.w.items()}
        self.q = c.get("quantization_config")
        self.gemma = c["model_type"] == "gemma3_text"
        self.heads, self.kv = c["num_attention_heads"], c["num_key_value_heads"]
        self.hd = c.get("head_dim") or c["hidden_size"] // self.heads
        self.eps = c["rms_norm_eps"]
        folder = os.path.basename(os.path.normpath(folder))
        self.online = c["architectures"][0] == "BitnetForCausalLM" or "prequantized" in folder
        if self.q:
            self.online = self.q.get("quantization_mode") == "online"
        if "model.layers.0.self_attn.q_proj.norm.weight" in self.w:
            self.online = True
        self.codes = {}
        self.slack = np.inf  # distance of the activation nearest to a half, in units of its int8 code

    def norm(self, x, name, eps=None):
        w = self.w[name + ".weight"].astype(np.float64)
        if self.gemma and "_proj." not in name:
            w = 1 + w
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + (eps or self.eps)) * w

    def ternary(self, name):
        """(codes int8 [out, in], scale) of a linear layer, or None when it is a plain float one."""
        if name in self.codes:
            return self.codes[name]
        w, t = self.w[name + ".weight"], None
        if w.dtype == np.uint8:
            scale = float(self.w[name + ".weight_scale"][0])
            if self.q.get("linear_class") != "autobitlinear":
                scale = 1 / scale
            t = np.concatenate([((w >> (2 * i)) & 3).astype(np.int8) - 1 for i in range(4)]), scale
        elif self.online and name != "lm_head":
            w = w.astype(np.float64)
            scale = np.abs(w).mean()
            t = np.clip(half_even(w / scale), -1, 1).astype(np.int8), scale
        if len(self.codes) < 200 and w.shape[0] * w.shape[1] < 1 << 18:
            self.codes[name] = t  # small models are run often
        return t

    def linear(self, x, name):
        if name + ".rms_norm.weight" in self.w:
            x = self.norm(x, name + ".rms_norm", self.q.get("rms_norm_eps", 1e-6))
        if name + ".norm.weight" in self.w:
            x = self.norm(x, name + ".norm")
        t = self.ternary(name)
        if t is None:
            y = rows(self.w[name + ".weight"], x)
        else:
            codes, scale = t
            a = np.maximum(np.abs(x).max(-1, keepdims=True), 1e-5)
            x = x * (127 / a)
            self.slack = min(self.slack, np.abs(x - np.floor(x) - 0.5).min())
            # Integers: float64 adds them exactly.
            y = rows(codes, np.clip(half_even(x), -128, 127)) * (scale * a / 127)
        if name + ".bias" in self.w:
            bias = self.w[name + ".bias"].astype(np.float64)
            if t and self.q and self.q.get("linear_class") == "autobitlinear" and not self.online:
                bias = bias * t[1]  # inside the product that weight_scale multiplies
            y = y + bias
        return y

    def forward(self, ids):
        c, n = self.c, len(ids)
        out = {}
        x = self.w["model.embed_tokens.weight"][np.asarray(ids)].astype(np.float64)
        if self.gemma:
            x = x * float(np.float32(np.sqrt(c["hidden_size"])))
        out["hidden.0"] = x
        back = np.arange(n)[:, None] - np.arange(n)  # how far behind the query a key is

        def rope(v, base):
            angle = np.arange(n)[:, None] / base ** (np.arange(0, self.hd, 2) / self.hd)
            cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
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
            sliding = c.get("layer_types", ["full_attention"] * (i + 1))[i] == "sliding_attention"
            base = c["rope_local_base_freq"] if sliding else c["rope_theta"]
            q, k = rope(q, base), np.repeat(rope(k, base), self.heads // self.kv, 1)
            s = np.einsum("qhd,khd->hqk", q, k) / np.sqrt(c.get("query_pre_attn_scalar", self.hd))
            s = np.where((back >= 0) & (back < (c["sliding_window"] if sliding else n)), s, -np.inf)
            s = np.exp(s - s.max(-1, keepdims=True))
            o = np.einsum("hqk,khd->qhd", s / s.sum(-1, keepdims=True), np.repeat(v, self.heads // self.kv, 1))
            o = o.reshape(n, -1)
            for sub in ("attn_sub_norm", "inner_attn_ln"):
                if p + f"self_attn.{sub}.weight" in self.w:
                    o = self.norm(o, p + f"self_attn.{sub}")
            o = self.linear(o, p + "self_attn.o_proj")
            if self.gemma:
                o = self.norm(o, p + "post_attention_layernorm")
            x = x + o
            h = self.norm(x, p + ("pre_feedforward_layernorm" if self.gemma else "post_attention_layernorm"))
            g, u = self.linear(h, p + "mlp.gate_proj"), self.linear(h, p + "mlp.up_proj")
            if self.gemma:
                g = g / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (g + 0.044715 * g**3)))
            else:
                g = np.maximum(g, 0) ** 2 if c["hidden_act"] == "relu2" else g / (1 + np.exp(-g))
            h = g * u
            for sub in ("ffn_sub_norm", "ffn_layernorm"):
                if p + f"mlp.{sub}.weight" in self.w:
                    h = self.norm(h, p + f"mlp.{sub}")
            h = self.linear(h, p + "mlp.down_proj")
            if self.gemma:
                h = self.norm(h, p + "post_feedforward_layernorm")
            x = x + h
            out[f"hidden.{i + 1}"] = x
        out["final"] = self.norm(x, "model.norm")
        if c.get("tie_word_embeddings") or "lm_head.weight" not in self.w:
            out["logits"] = rows(self.w["model.embed_tokens.weight"], out["final"])
        else:
            out["logits"] = self.linear(out["final"], "lm_head")
        return out


def compare(model, ref):
    """{name: (largest difference ÷ rms, relative L2 difference, correlation)} over all prompts, and more for the logits."""
    layers, logits, steps, equal, n = {}, [], 0, 0, 0
    while f"prompt.{n}.ids" in ref:
        p = f"prompt.{n}."
        ids, greedy, at = (np.asarray(ref[p + k]) for k in ("ids", "greedy", "positions"))
        got = model.forward(np.concatenate([ids, greedy[:-1]]))
        for name in got:
            have, want = got[name][at], np.asarray(ref[p + name]).astype(np.float64)
            layers.setdefault(name, []).append((have, want))
        equal += int((got["logits"][len(ids) - 1:].argmax(-1) == greedy).sum())
        steps += len(greedy)
        n += 1
    table = {}
    for name, pairs in layers.items():
        have, want = (np.concatenate(x) for x in zip(*pairs))
        diff, rms = have - want, np.sqrt((want * want).mean(-1, keepdims=True))
        table[name] = (np.abs(diff / rms).max(), np.sqrt((diff * diff).sum() / (want * want).sum()),
                       np.corrcoef(have.ravel(), want.ravel())[0, 1])
        logits = have, want
    have, want = logits  # the last name is logits
    span = want.max() - want.min()
    return table, {"largest": np.abs(have - want).max() / span, "median": np.median(np.abs(have - want)) / span,
                   "top": f"{(have.argmax(-1) == want.argmax(-1)).sum()}/{len(want)}", "greedy": f"{equal}/{steps}"}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("folder", help="folder of goldens, or with --reference one model folder")
    p.add_argument("names", nargs="*")
    p.add_argument("--reference", metavar="FILE", help="check one model, layer by layer")
    args = p.parse_args()
    if args.reference:
        table, logits = compare(Model(args.folder), read_safetensors(args.reference))
        print("| layer | largest difference ÷ rms | relative | correlation |\n|---|---|---|---|")
        for name, (largest, relative, correlation) in table.items():
            print(f"| {name} | {largest:.1e} | {relative:.1e} | {correlation:.9f} |")
        print(f"\nlogits: largest difference {logits['largest']:.1e} of their range, top-1 {logits['top']}, "
              f"greedy steps equal {logits['greedy']}")
        return
    print("| golden | reference | hidden states: largest difference ÷ rms | logits: largest ÷ range | median ÷ range "
          "| correlation | top-1 | greedy steps equal |")
    print("|---|---|---|---|---|---|---|---|")
    for name in sorted(os.listdir(args.folder)):
        folder = os.path.join(args.folder, name)
        if not os.path.exists(os.path.join(folder, "config.json")) or (args.names and name not in args.names):
            continue
        model = Model(folder)
        for short in ("f32", "bf16"):
            table, l = compare(model, read_safetensors(os.path.join(folder, f"reference.{short}.safetensors")))
            hidden = max(v[0] for k, v in table.items() if k != "logits")
            print(f"| {name} | {short} | {hidden:.1e} | {l['largest']:.1e} | {l['median']:.1e} | {table['logits'][2]:.9f} "
                  f"| {l['top']} | {l['greedy']} |", flush=True)


if __name__ == "__main__":
    main()
