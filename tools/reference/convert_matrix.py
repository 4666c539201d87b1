#!/usr/bin/env python3
"""Writes models in every form out of every form with `trit convert`, and reads what was written with other programs.

    python tools/reference/convert_matrix.py --trit ./trit [--work DIR] [--json FILE] [--no-transformers] [MODEL ...]

with the packages of requirements.txt. MODEL is a Hugging Face folder or a GGUF file (then transformers is not asked); without
any they are the goldens in testdata, and random models of `trit synth` that are wide enough for blocks of 256.

Each model is written in every form; each of these again in every form. Of every pair one of this is said:

  exact      everything that was written is what the model says, to the bit: codes, scales, floats, keys, tokens
  rounded    the same, but for tensors that trit itself said the form cannot hold in full
  refused    trit said why, in one line, and left nothing behind
  WRONG      anything else

What was written is read here, not by trit: folders by safetensors and tokenizers, GGUF files by the package gguf and its
gguf.quants, and where that does not know a type (i2_s, q2_0, iq1_bn, iq2_bn) by the few lines below, from the layouts'
descriptions. transformers then runs every folder, and the GGUF files of floats, in float32, and its logits are compared
with those that it computes for the model itself (correlation of at least 0.99999, the same best token everywhere; 0.999 of what
is said to be rounded).
Exit status: 0 when nothing is WRONG.
"""

import argparse
import collections
import functools
import hashlib
import json
import os
import pathlib
import shutil
import struct
import subprocess
import sys
import tempfile

import gguf
import numpy as np
from safetensors.numpy import load_file as load_safetensors

import exact  # beside this file: bfloat16 without torch

os.environ["TQDM_DISABLE"] = "1"
ROOT = pathlib.Path(__file__).resolve().parents[2]
FORMS = ["hf-packed", "hf-bf16", "hf-f32", "gguf-i2_s", "gguf-tq1_0", "gguf-tq2_0", "gguf-q2_0", "gguf-iq1_bn", "gguf-iq2_bn",
         "gguf-pq2_0", "gguf-ptq1_0", "gguf-q1_0", "gguf-f16", "gguf-bf16", "gguf-f32"]
SYNTH = [("tiny", []), ("tiny-llama", []), ("tiny-gemma3-embedding", []),
         ("bonsai-tiny", ["--format", "gguf-pq2_0"]), ("bonsai-tiny", ["--format", "gguf-q1_0"])]
PROBES = ["The river, which had risen.", "  two  spaces\n\n12345 it's naïve 你好 👍🏽", "def f(x):\n    return x**2", "<s>[INST] x </s><|eot_id|>"]


class Model:
    """What a model's files say: tensors by canonical name, ("codes", int8 [r, c], float32 scale [r]) or ("floats", float32),
    the keys that both kinds of files have, and the ids of the probes where there is a tokenizer.json."""

    def __init__(self):
        self.tensors, self.keys, self.ids = {}, {}, None


def canonical(name):
    for a, b in (("self_attn.inner_attn_ln", "self_attn.attn_sub_norm"), ("mlp.ffn_layernorm", "mlp.ffn_sub_norm"), ("_proj.norm.", "_proj.rms_norm.")):
        name = name.replace(a, b)
    return name if name.startswith(("model.", "lm_head")) else "model." + name


def absmean(w):
    s = np.float32(1) / np.maximum(np.float32(np.abs(w, dtype=np.float64).mean()), np.float32(1e-5))
    return np.clip(np.rint(w * s), -1, 1).astype(np.int8), np.full(w.shape[0], np.float32(1) / s, np.float32)


def unpack(u8, rows):
    """transformers' packing: rows in four blocks, two bits each. Source: integrations/bitnet.py, unpack_weights."""
    parts = [((u8 >> (2 * i)) & 3).astype(np.int8) - 1 for i in range(4)]
    return np.concatenate(parts)[:rows]


def read_folder(path):
    m = Model()
    config = json.loads((path / "config.json").read_text())
    raw = {}
    for f in sorted(path.glob("model*.safetensors")):
        raw.update(exact.read_safetensors(str(f)))
    q = config.get("quantization_config")
    ternary = q is not None or config.get("weight_bits") == 1 or config.get("architectures", [""])[0] == "BitnetForCausalLM" or any("_proj.norm." in n for n in raw)
    skip = (q or {}).get("modules_to_not_convert")
    skip = ["lm_head"] if skip is None else skip
    divide = (q or {}).get("linear_class", "bitlinear") != "autobitlinear"
    heads, kv = config["num_attention_heads"], config.get("num_key_value_heads") or config["num_attention_heads"]
    hd = config.get("head_dim") or config["hidden_size"] // heads
    height = {"q_proj": heads * hd, "k_proj": kv * hd, "v_proj": kv * hd, "gate_proj": config["intermediate_size"], "up_proj": config["intermediate_size"]}
    scales = {}
    for name, t in raw.items():
        if name.endswith("weight_scale"):
            s = np.float32(t.astype(np.float32).reshape(-1)[0])
            scales[name[: -len("_scale")]] = np.float32(1) / s if divide else s
    for name, t in raw.items():
        if name.endswith("weight_scale") or name.endswith("rotary_emb.inv_freq"):
            continue
        if name == "lm_head.weight" and config.get("tie_word_embeddings"):
            continue
        part = name.split(".")[-2]
        if t.dtype == np.uint8:
            rows = height.get(part, config["hidden_size"] if part != "lm_head" else config["vocab_size"])
            m.tensors[canonical(name)] = ("codes", unpack(np.asarray(t), rows), np.full(rows, scales[name], np.float32))
        elif ternary and name.endswith(("_proj.weight", "lm_head.weight")) and not any(name.startswith(s + ".") or ("." + s + ".") in name for s in skip):  # the goldens' lists are names, not patterns
            m.tensors[canonical(name)] = ("codes", *absmean(t.astype(np.float32)))
        else:
            m.tensors[canonical(name)] = ("floats", t.astype(np.float32))
            if name.endswith(".bias") and name[:-5] + ".weight" in scales and not divide:  # AutoBitLinear multiplies it too
                m.tensors[canonical(name)] = ("floats", t.astype(np.float32) * scales[name[:-5] + ".weight"])
    rope = config.get("rope_parameters") or {}
    m.keys = {"layers": config["num_hidden_layers"], "width": config["hidden_size"], "ffn": config["intermediate_size"], "heads": heads, "kv_heads": kv,
              "head_dim": hd, "eps": np.float32(config.get("rms_norm_eps", 1e-6)), "theta": np.float32(rope.get("rope_theta") or config.get("rope_theta", 1e4)),
              "context": config["max_position_embeddings"]}
    if (path / "tokenizer.json").exists():
        import tokenizers

        t = tokenizers.Tokenizer.from_file(str(path / "tokenizer.json"))
        m.ids = [t.encode(p).ids for p in PROBES]
    return m


# Types that the package gguf has no decoder for: codes and scales by rows. Layouts: see package ternary.
def trit(b, n):
    return ((((b.astype(np.uint32) * 3**n) & 255) * 3) >> 8).astype(np.int8)


def i2_s(data, rows, cols):
    b = data[: rows * cols // 4].reshape(-1, 32)
    codes = np.stack([(b >> s) & 3 for s in (6, 4, 2, 0)], 1).reshape(rows, cols).astype(np.int8) - 1
    return codes, np.full(rows, data[rows * cols // 4:][:4].view(np.float32)[0])


def halves(b):
    return np.ascontiguousarray(b).view(np.float16)[:, :, 0].astype(np.float32)


def q2(data, rows, cols, group):
    b = data.reshape(rows, cols // group, 2 + group // 4)
    codes = np.stack([(b[:, :, 2:] >> s) & 3 for s in (0, 2, 4, 6)], -1).reshape(rows, cols).astype(np.int8) - 1
    return codes, halves(b[:, :, :2])


def q2_0(data, rows, cols):
    return q2(data, rows, cols, 64)


def pq2_0(data, rows, cols):
    return q2(data, rows, cols, 128)


def q1_0(data, rows, cols):
    b = data.reshape(rows, cols // 128, 18)
    return np.unpackbits(b[:, :, 2:], axis=-1, bitorder="little").reshape(rows, cols).astype(np.int8) * 2 - 1, halves(b[:, :, :2])


def ptq1_0(data, rows, cols):
    b = data.reshape(rows, cols // 128, 28)
    planes = [trit(b[:, :, 0:16], n) for n in range(5)] + [trit(b[:, :, 16:24], n) for n in range(5)] + [trit(b[:, :, 24:26], n) for n in range(4)]
    return np.concatenate(planes, -1).reshape(rows, cols) - 1, halves(b[:, :, 26:28])


def iq2_bn(data, rows, cols):
    b = data.reshape(rows, 4 + cols // 4)
    q = b[:, 4:].reshape(rows, cols // 64, 16)
    codes = np.stack([(q >> s) & 3 for s in (0, 2, 4, 6)], 2).reshape(rows, cols).astype(np.int8) - 1
    return codes, b[:, :4].copy().view(np.float32)[:, 0]


def iq1_bn(data, rows, cols):
    b = data.reshape(rows, 2 + cols // 64 * 13)
    q = b[:, 2:].reshape(rows, cols // 64, 13)
    out = np.zeros((rows, cols // 64, 64), np.int8)
    for i in range(4):
        for k in range(3):
            for j in range(5):
                out[:, :, 16 * i + 5 * k + j] = trit(q[:, :, 3 * i + k], 4 - j)
        out[:, :, 16 * i + 15] = trit(q[:, :, 12], 4 - i)
    return out.reshape(rows, cols) - 1, b[:, :2].copy().view(np.float16)[:, 0].astype(np.float32)


OWN = {36: ("i2_s", i2_s, lambda r, c: r * c // 4 + 32), 42: ("q2_0", q2_0, lambda r, c: r * c // 64 * 18),
       41: ("q1_0", q1_0, lambda r, c: r * c // 128 * 18), 142: ("pq2_0", pq2_0, lambda r, c: r * c // 128 * 34),
       143: ("ptq1_0", ptq1_0, lambda r, c: r * c // 128 * 28), 134: ("iq1_bn", iq1_bn, lambda r, c: r * (2 + c // 64 * 13)), 135: ("iq2_bn", iq2_bn, lambda r, c: r * (4 + c // 4))}
TERNARY = {"TQ1_0", "TQ2_0"} | {v[0].upper() for v in OWN.values()}


def directory(path):
    """The metadata and tensors of a GGUF file, read from its description (ggml docs/gguf.md)."""
    data = np.memmap(path, np.uint8, "r")
    raw, at = data.tobytes(), 0

    def take(fmt):
        nonlocal at
        v = struct.unpack_from("<" + fmt, raw, at)
        at += struct.calcsize("<" + fmt)
        return v[0]

    def string():
        nonlocal at
        n = take("Q")
        at += n
        return raw[at - n:at].decode("utf-8", "surrogateescape")

    def value(kind):
        if kind == 8:
            return string()
        if kind == 9:
            kind, n = take("I"), take("Q")
            return [value(kind) for _ in range(n)]
        return take("BbHhIif?"[kind] if kind < 8 else "??Qqd"[kind - 8])

    assert raw[:4] == b"GGUF"
    at = 4
    assert take("I") == 3
    tensors, kvs = take("Q"), take("Q")
    kv = {}
    for _ in range(kvs):
        key = string()
        kv[key] = value(take("I"))
    infos = []
    for _ in range(tensors):
        name = string()
        dims = [take("Q") for _ in range(take("I"))]
        infos.append((name, dims[::-1], take("I"), take("Q")))
    start = -(-at // 32) * 32
    out, end = [], 0
    for name, shape, kind, offset in infos:
        assert offset == end, f"{name}: offset {offset}, expected {end}"
        if kind in OWN:
            size = OWN[kind][2](*shape)
        else:
            block, nbytes = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(kind)]
            size = int(np.prod(shape)) // block * nbytes
        end = -(-(offset + size) // 32) * 32
        out.append((name, shape, kind, data[start + offset:start + offset + size]))
    return kv, out


HF_NAMES = {"attn_norm": "input_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
            "attn_output": "self_attn.o_proj", "attn_sub_norm": "self_attn.attn_sub_norm", "attn_q_norm": "self_attn.q_norm",
            "attn_k_norm": "self_attn.k_norm", "ffn_norm": "post_attention_layernorm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj",
            "ffn_down": "mlp.down_proj", "ffn_sub_norm": "mlp.ffn_sub_norm"}
GEMMA_NAMES = {"post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}
WHOLE = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


def hf_name(arch, name):
    module, ending = name.rsplit(".", 1)
    if module in WHOLE:
        return f"{WHOLE[module]}.{ending}"
    _, layer, part = module.split(".")
    own = part.endswith("_norm_in")
    part = part.removesuffix("_norm_in")
    names = HF_NAMES | (GEMMA_NAMES if arch == "gemma3" else {})
    return f"model.layers.{layer}.{names[part]}{'.rms_norm' if own else ''}.{ending}"


def read_gguf(path):
    m = Model()
    kv, tensors = directory(path)
    if not any(t[2] in OWN for t in tensors):  # all types known: the package's own reader must agree on where everything is
        seen = {t.name: (int(t.tensor_type), bytes(t.data.tobytes())) for t in gguf.GGUFReader(path).tensors}
        assert seen == {n: (k, d.tobytes()) for n, _, k, d in tensors}, "the package gguf reads something else"
    arch = kv["general.architecture"]
    full = list(kv.get("trit.weight_scales", []))
    heads = {"attn_q": kv[arch + ".attention.head_count"], "attn_k": kv[arch + ".attention.head_count_kv"]}
    for name, shape, kind, data in tensors:
        part = name.split(".")[-2]
        data = np.asarray(data)
        if kind in OWN:
            codes, scale = OWN[kind][1](data, *shape)
            if scale.ndim == 1:
                t = ("codes", codes, scale)
            elif (scale == scale[:, :1]).all():
                t = ("codes", codes, scale[:, 0])
            else:  # weights alone were quantised
                t = ("floats", (codes.reshape(*scale.shape, -1) * scale[:, :, None]).reshape(shape))
        else:
            kind = gguf.GGMLQuantizationType(kind)
            x = gguf.quants.dequantize(data, kind).astype(np.float32).reshape(shape)
            t = ("floats", x)
            if kind.name in TERNARY and np.array_equal(x, np.sign(x) * np.abs(x).max(1, keepdims=True)):
                t = ("codes", np.sign(x).astype(np.int8), np.abs(x).max(1))
        if t[0] == "codes" and full:
            s = np.float32(full.pop(0))
            near = t[2][t[2] > 0]
            assert (np.abs(near / s - 1) < 2**-10).all(), f"{name}: trit.weight_scales is {s}, the blocks have {near}"
            t = (t[0], t[1], np.full(shape[0], s))
        if arch == "llama" and part in heads:  # rows of pairs that rotate together are neighbours
            h = heads[part]
            order = np.arange(shape[0]).reshape(h, shape[0] // h // 2, 2).swapaxes(1, 2).reshape(-1)
            t = (t[0], *(a[order] for a in t[1:]))
        if arch == "gemma3" and name.endswith("_norm.weight"):
            t = ("floats+1", t[1])
        m.tensors[canonical(hf_name(arch, name))] = t
    k = lambda key: kv[f"{arch}.{key}"]
    m.keys = {"layers": k("block_count"), "width": k("embedding_length"), "ffn": k("feed_forward_length"), "heads": k("attention.head_count"),
              "kv_heads": k("attention.head_count_kv"), "head_dim": k("attention.key_length"), "eps": np.float32(k("attention.layer_norm_rms_epsilon")),
              "theta": np.float32(k("rope.freq_base")), "context": k("context_length")}
    return m


def read(path):
    return read_folder(path) if path.is_dir() else read_gguf(path)


def compare(want, got, may_round, weights_alone):
    """What differs: a list of words."""
    bad = [f"{key} is {got.keys[key]} instead of {want.keys[key]}" for key in want.keys if want.keys[key] != got.keys[key]]
    if set(want.tensors) != set(got.tensors):
        bad.append(f"tensors {sorted(set(want.tensors) ^ set(got.tensors))[:4]} are on one side only")
    for name in sorted(set(want.tensors) & set(got.tensors)):
        a, b = want.tensors[name], got.tensors[name]
        if (a[0] == "codes") != (b[0] == "codes"):  # right for a model of weights alone only
            if not weights_alone:
                bad.append(f"{name}: {a[0]} became {b[0]}")
                continue
            a, b = (("floats", v[1] * v[2][:, None]) if v[0] == "codes" else v for v in (a, b))
        if a[0] == "codes":
            if not np.array_equal(a[1], b[1]):
                bad.append(f"{name}: {(a[1] != b[1]).sum()} other codes")
            rows = (a[1] != 0).any(1) & (b[2] != 0)  # a row of zeros has no scale in some layouts
            off = np.abs(a[2][rows].astype(np.float64) / b[2][rows] - 1).max(initial=0)
            # torch and numpy add a mean in float32 in other orders than trit: that is its last bits
            if off > (2**-8 if name in may_round else 2**-22):
                bad.append(f"{name}: scale {b[2][0]} instead of {a[2][0]}")
        else:
            x, y = a[1].astype(np.float64), b[1].astype(np.float64)
            if a[0] != b[0]:  # Gemma's 1+w, in float32
                x, y = (np.float32(1) + v[1] if v[0] == "floats" else v[1] for v in (a, b))
            same = x == y if name not in may_round else np.abs(x - y) <= (2**-8 + 2**-10) * np.abs(x) + 1e-30  # rounded twice at most
            if not same.all():
                bad.append(f"{name}: {(~same).sum()} other numbers, {y[~same][0]} instead of {x[~same][0]}")
    if want.ids is not None and got.ids is not None and want.ids != got.ids:
        bad.append("the tokenizer gives other ids")
    return bad


class Transformers:
    """Logits of models in float32, each file once."""

    def __init__(self, threads):
        import torch
        import transformers

        import reference

        reference.setup(threads)
        self.torch, self.transformers, self.reference, self.known = torch, transformers, reference, {}

    def key(self, path):
        h = hashlib.sha256()
        for f in sorted(path.rglob("*") if path.is_dir() else [path]):
            if f.suffix in (".safetensors", ".gguf") and "reference" not in f.name or f.name == "config.json":
                h.update(f.name.encode() + f.read_bytes())
        return h.digest()

    def logits(self, path, online):
        key = self.key(path)
        if key not in self.known:
            ids = self.torch.tensor([[1, 5, 9, 200, 44, 7, 100, 63]])
            with self.torch.no_grad():
                self.known[key] = self.load(path, online)(ids)[0].float().numpy()
        return self.known[key]

    def load(self, path, online):
        """A function from ids to logits."""
        auto = functools.partial(self.transformers.AutoModelForCausalLM.from_pretrained, dtype=self.torch.float32, attn_implementation="eager")
        if not path.is_dir():
            model = auto(str(path.parent), gguf_file=path.name).eval()
            return lambda ids: model(ids).logits
        config = json.loads((path / "config.json").read_text())
        if config["architectures"][0] in ("Qwen3Model", "Gemma3TextModel") and "quantization_config" in config:
            # What trit writes of an embedding model runs in transformers' own class: its norms are those of AutoBitLinear.
            model = self.transformers.AutoModel.from_pretrained(str(path), dtype=self.torch.float32, attn_implementation="eager").eval()
            for param in model.parameters():
                if param.is_floating_point():
                    param.data = param.data.float()
            return lambda ids: model(ids).last_hidden_state @ model.get_input_embeddings().weight.T
        model = self.reference.load(str(path), self.torch.float32, bitlinear_online=online)
        return lambda ids: model(ids).logits

    def compare(self, source, path, rounded, source_online):
        a, b = self.logits(source, source_online), self.logits(path, False)
        corr = float(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1])
        if corr >= (0.999 if rounded else 0.99999) and (rounded or (a.argmax(-1) == b.argmax(-1)).all()):
            return None, corr
        return f"transformers' logits correlate to {corr:.6f}, best tokens equal in {(a.argmax(-1) == b.argmax(-1)).mean():.0%}", corr


def runs_elsewhere(path, form, want):
    """Whether transformers has a class that computes what the files say."""
    if path.is_dir():  # 1bitLLM's own code, here onebitllm.py, takes masters only
        return form != "hf-packed" or json.loads((path / "config.json").read_text())["architectures"][0] != "BitnetForCausalLM"
    return form in ("gguf-f16", "gguf-bf16", "gguf-f32") and want.tensors["model.layers.0.mlp.up_proj.weight"][0] == "floats"


def run(trit, source, form, dst, flags):
    """(report, None) or (None, words)"""
    p = subprocess.run([trit, "convert", str(source), str(dst), "--to", form, "--json", *flags], capture_output=True, text=True, timeout=600)
    if p.returncode == 0:
        return json.loads(p.stdout), None
    lines = p.stderr.strip().split("\n")
    if dst.exists() or len(lines) != 1 or not lines[0].startswith("trit: "):
        raise RuntimeError(f"exit {p.returncode}, {'something' if dst.exists() else 'nothing'} left behind: {p.stderr!r}")
    return None, lines[0][len("trit: "):].replace(str(dst), "OUT").removeprefix("convert: OUT: ").removeprefix("convert: ")


def reason(words):
    """The kind of a refusal, for counting."""
    for text, kind in (("is not a multiple of", "widths are no multiples of the type's block"), ("stores floats", "a form of floats for a ternary model"),
                       ("stores ternary", "a ternary form for a model of floats"), ("RMSNorm inside each BitLinear", "GGUF has no norm inside BitLinear"),
                       ("has no name for this pre-tokenizer", "llama.cpp has no name for the pre-tokenizer"), ("cannot say what this model", "a key that the form cannot say")):
        if text in words:
            return kind
    return words


def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("models", nargs="*", type=pathlib.Path)
    p.add_argument("--trit", required=True)
    p.add_argument("--work", type=pathlib.Path)
    p.add_argument("--json", type=pathlib.Path)
    p.add_argument("--no-transformers", action="store_true")
    p.add_argument("--threads", type=int, default=2)
    args = p.parse_args(argv)
    args.trit = os.path.abspath(args.trit)
    work = pathlib.Path(tempfile.mkdtemp(dir=args.work))
    models = args.models
    if not models:
        models = sorted(d.parent for d in (ROOT / "testdata/goldens").glob("*/config.json"))
        for preset, flags in SYNTH:
            model = work / (f"{preset}-{flags[1]}.gguf" if flags else preset)
            subprocess.run([args.trit, "synth", "-q", preset, str(model), *flags], check=True, stdout=subprocess.DEVNULL)
            models.append(model)
    ref = None if args.no_transformers else Transformers(args.threads)
    rows, corrs = [], []
    for source in models:
        want = read(source)
        # Falcon-E's prequantized masters are BitNet's although their configuration does not say so.
        online = source.name.endswith("prequantized")
        if online:
            for name, t in want.tensors.items():
                if name.endswith("_proj.weight"):
                    want.tensors[name] = ("codes", *absmean(t[1]))
        firsts = {}

        def pair(a, path, b, rounded, keep):
            dst = work / f"{source.stem}-{a}-{b}{'.gguf' if b.startswith('gguf') else ''}"
            row = {"model": source.name, "from": a, "to": b}
            rows.append(row)
            try:
                report, words = run(args.trit, path, b, dst, ["--quantize"] if online else [])
                if report is None:
                    row.update(result="refused", words=words)
                    return
                now = rounded | {canonical(n) for n in report.get("rounded", [])}
                bad = compare(want, read(dst), now, source.is_file())
                row.update(result="rounded" if now else "exact", rounded=sorted(now))
                if not bad and ref and source.is_dir() and runs_elsewhere(dst, b, want):
                    words, corr = ref.compare(source, dst, bool(now), online)
                    row["transformers"] = corr
                    bad += [words] if words else []
                if bad:
                    row.update(result="WRONG", words="; ".join(bad[:5]))
                if keep:
                    firsts[b] = (dst, now)
            except Exception as e:
                row.update(result="WRONG", words=f"{type(e).__name__}: {str(e)[:300]}")
            finally:
                if b not in firsts or firsts[b][0] != dst:
                    shutil.rmtree(dst, ignore_errors=True) if dst.is_dir() else dst.unlink(missing_ok=True)
            if row["result"] == "WRONG":
                print(f"WRONG {source.name}: {a} -> {b}: {row['words']}", file=sys.stderr)

        for b in FORMS:
            pair("source", source, b, set(), True)
        for a, (path, rounded) in list(firsts.items()):
            for b in FORMS:
                pair(a, path, b, rounded, False)
        done = [r for r in rows if r["model"] == source.name]
        print(source.name, dict(collections.Counter(r["result"] for r in done)), flush=True)
        for path, _ in firsts.values():
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.rmtree(work)
    print(f"\n{'from / to':12}" + "".join(f"{f.removeprefix('gguf-'):>10}" for f in FORMS) + "    exact+rounded/refused/WRONG")
    for a in ["source", *FORMS]:
        cells = []
        for b in FORMS:
            c = collections.Counter(r["result"] for r in rows if r["from"] == a and r["to"] == b)
            cells.append(f"{c['exact']}+{c['rounded']}/{c['refused']}/{c['WRONG']}" if c else "-")
        print(f"{a:12}" + "".join(f"{c:>10}" for c in cells))
    total = collections.Counter(r["result"] for r in rows)
    print(f"\n{len(rows)} pairs: {dict(total)}; run by transformers: {sum('transformers' in r for r in rows)}, "
          f"smallest correlation {min((r['transformers'] for r in rows if 'transformers' in r), default=1):.7f}")
    for kind, n in collections.Counter(reason(r["words"]) for r in rows if r["result"] == "refused").most_common():
        print(f"  refused {n}: {kind}")
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(1 if total["WRONG"] else 0)


if __name__ == "__main__":
    main()
