#!/usr/bin/env python3
"""Golden vectors for the packages gguf, safetensors and ternary, made by the implementations that users run.

    python tools/reference/formats.py --bitnet-cpp DIR --ik-llama DIR
    python tools/reference/formats.py --blocks

writes ternary/testdata/golden.json, gguf/testdata/{golden.json,python.gguf} and
safetensors/testdata/{python,torch}.safetensors; with --blocks only gguf/testdata/blocks.json, blocks of
random bytes and what gguf.quants makes of them, which needs nothing but numpy and gguf. The vectors in the tree were made with the versions that
each file names under "versions".

  llama.cpp      the C quantisers, through ctypes from the libggml-base that llama-cpp-python ships, and the
                 Python package gguf; where both can do a type they must agree
  bitnet.cpp     microsoft/BitNet, src/ggml-bitnet-mad.cpp: quantize_i2_s cut out of the file and compiled
                 three times, as its x86, ARM and x86-without-ACT_PARALLEL builds would
  ik_llama.cpp   ikawrakow/ik_llama.cpp, ggml/src/iqk/iqk_quantize.cpp: the quantisers of iq1_bn and iq2_bn, likewise
  transformers   pack_weights and WeightQuant of integrations/bitnet.py
  ptq1_0, pq2_0  are Prism's; written here from the element order that its fork documents
"""

import argparse
import base64
import ctypes
import importlib.metadata
import json
import pathlib
import re
import subprocess
import tempfile

import gguf
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]


def b64(a):
    return base64.b64encode(a if isinstance(a, bytes) else np.ascontiguousarray(a).tobytes()).decode()


def versions(*names):
    return {n: importlib.metadata.version(n) for n in names}


class Ggml:
    """quantize_row_*_ref and dequantize_row_* of llama.cpp's C library."""

    def __init__(self):
        import llama_cpp

        self.lib = ctypes.CDLL(str(pathlib.Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))

    def quantize(self, name, x, nbytes):
        out = np.zeros(nbytes, np.uint8)
        f = getattr(self.lib, f"quantize_row_{name}_ref")
        f.restype = None
        f(x.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(x.size))
        return out

    def dequantize(self, name, b, n):
        out = np.zeros(n, np.float32)
        f = getattr(self.lib, f"dequantize_row_{name}")
        f.restype = None
        f(b.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(n))
        return out


def compile_run(code, flags, x, nbytes, rows, cols):
    """Compiles C++ code that defines `extern "C" void run(const float*, void*, int64_t, int64_t)` and calls it."""
    with tempfile.TemporaryDirectory() as d:
        src, lib = pathlib.Path(d, "q.cpp"), pathlib.Path(d, "q.so")
        src.write_text(code)
        subprocess.run(["g++", "-O1", "-w", "-shared", "-fPIC", *flags, "-o", lib, src], check=True)
        out = np.full(nbytes, 0, np.uint8)
        ctypes.CDLL(str(lib)).run(x.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p),
                                  ctypes.c_int64(rows), ctypes.c_int64(cols))
        return out


def i2s(bitnet, x, rows, cols, variant):
    text = (bitnet / "src/ggml-bitnet-mad.cpp").read_text()
    body = re.search(r"^size_t quantize_i2_s\(.*?^}", text, re.S | re.M).group(0)
    head = """
#include <cassert>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#define GGML_TYPE_I2_S 36
static size_t ggml_row_size(int, int64_t n) { return n; }
"""
    sets = {
        "x86": "#define __AVX2__ 1\n#define ACT_PARALLEL\n#define QK_I2_S 128\n",
        "x4": "#define __AVX2__ 1\n#define QK_I2_S 128\n",
        "arm": "#undef __SSSE3__\n#undef __AVX__\n#undef __AVX2__\n#undef __AVX512F__\n#define __ARM_NEON 1\n#define QK_I2_S 64\n",
    }[variant]
    tail = '\nextern "C" void run(const float *x, void *y, int64_t r, int64_t c) { quantize_i2_s(x, y, r, c, nullptr); }\n'
    return compile_run(head + sets + body + tail, [], x, rows * cols // 4 + 32, rows, cols)


def iqbn(ik, x, rows, cols, bits, repack=False):
    text = (ik / "ggml/src/iqk/iqk_quantize.cpp").read_text()
    cut = lambda pattern: re.search(pattern, text, re.S | re.M).group(0)
    head = """
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#define QK_IQ1BN 64
typedef uint16_t ggml_half;
typedef struct { uint8_t ql[12]; uint8_t extra; } block_iq1_bn;
typedef struct { uint8_t qs[16]; } block_iq2_bn;
static ggml_half half(float f) { _Float16 h = (_Float16)f; ggml_half u; memcpy(&u, &h, 2); return u; }
#define GGML_FP32_TO_FP16 half
"""
    parts = [
        cut(r"^struct IQ1BNQuantizer \{.*?^};"),
        cut(r"^const uint8_t IQ1BNQuantizer::k_mult.*?;"),
        cut(r"^void IQ1BNQuantizer::quantize_one_row_1bn\(.*?^}"),
        cut(r"^void IQ1BNQuantizer::quantize_one_row_2bn\(.*?^}"),
    ]
    row = cols // 64 * 13 + 2 if bits == 1 else cols // 64 * 16 + 4
    last = ""
    if repack:
        head += f"""
#define GGML_ASSERT(x)
#define GGML_TYPE_IQ2_BN 135
static size_t ggml_row_size(int, int64_t) {{ return {row}; }}
"""
        parts.append(cut(r"^void repack_iq2_bn\(.*?^}"))
        last = f"static char copy[{rows * row}]; memcpy(copy, y, sizeof copy); for (int64_t r = 0; r < rows; r += 4) repack_iq2_bn(4, cols, copy + r*{row}, (char *)y + r*{row}, false);"
    tail = f"""
extern "C" void run(const float *x, void *y, int64_t rows, int64_t cols) {{
    IQ1BNQuantizer q;
    for (int64_t r = 0; r < rows; r++)
        q.quantize_one_row_{bits}bn(x + r*cols, (block_iq{bits}_bn *)((char *)y + r*{row}), cols, nullptr);
    {last}
}}
"""
    return compile_run(head + "\n".join(parts) + tail, ["-mf16c"], x, rows * row, rows, cols)


def prism(codes, name):
    """One scale (0.25) per 128 weights. codes are 0..2."""
    d = np.float16(0.25).tobytes()
    out = b""
    for block in codes.reshape(-1, 128):
        if name == "pq2_0":
            qs = bytes(int(sum(int(block[4 * i + j]) << (2 * j) for j in range(4))) for i in range(32))
            out += d + qs
            continue
        trits = [[0] * 5 for _ in range(26)]  # byte, digit (most significant first)
        for e in range(128):
            if e < 80:
                byte, n = e & 15, e >> 4
            elif e < 120:
                byte, n = 16 + ((e - 80) & 7), (e - 80) >> 3
            else:
                byte, n = 24 + ((e - 120) & 1), (e - 120) >> 1
            trits[byte][n] = int(block[e])
        qs = b""
        for t in trits:
            q = 0
            for digit in t:
                q = 3 * q + digit
            qs += bytes([(q * 256 + 242) // 243])
        out += qs + d
    return out


def ternary_vectors(args):
    rng = np.random.default_rng(158)
    ggml = Ggml()
    out = []

    def add(name, source, codes, packed, scale):
        rows, cols = codes.shape
        out.append(dict(name=name, source=source, rows=rows, cols=cols, scale=scale, codes=b64(codes.astype(np.uint8)), packed=b64(packed)))

    codes = rng.integers(0, 3, (8, 512))
    x = np.ascontiguousarray((codes - 1).astype(np.float32) * np.float32(0.25))
    for variant in "x86", "arm", "x4":
        add(f"i2_s ({variant})", "bitnet.cpp quantize_i2_s", codes, i2s(args.bitnet_cpp, x, 8, 512, variant), 0.25)
    for name, t in ("tq1_0", gguf.GGMLQuantizationType.TQ1_0), ("tq2_0", gguf.GGMLQuantizationType.TQ2_0):
        py = gguf.quants.quantize(x, t)
        c = ggml.quantize(name, x, py.size)
        assert (py.reshape(-1) == c).all(), name
        add(name, "llama.cpp quantize_row_ref = gguf.quants", codes, c, 0.25)
    q2 = ggml.quantize("q2_0", x, 8 * 512 // 64 * 18)
    assert (ggml.dequantize("q2_0", q2, x.size) == x.reshape(-1)).all()
    add("q2_0", "llama.cpp quantize_row_q2_0_ref", codes, q2, 0.25)
    add("pq2_0", "element order of Prism's fork", codes, prism(codes, "pq2_0"), 0.25)
    add("ptq1_0", "element order of Prism's fork", codes, prism(codes, "ptq1_0"), 0.25)
    for bits in 1, 2:
        add(f"iq{bits}_bn", "ik_llama.cpp IQ1BNQuantizer", codes, iqbn(args.ik_llama, x, 8, 512, bits), 0.25)
    add("iq2_bn_r4", "ik_llama.cpp IQ1BNQuantizer and repack_iq2_bn", codes, iqbn(args.ik_llama, x, 8, 512, 2, repack=True), 0.25)
    for rows, cols in (16, 32), (10, 24):
        c = rng.integers(0, 3, (rows, cols))
        packed = hf.pack_weights(torch.tensor(c - 1, dtype=torch.int8))
        add("hf", "transformers pack_weights", c, packed.numpy(), 1.5)

    quant = []
    for name, w in (
        ("normal", rng.normal(0, 0.02, (24, 40))),
        ("ties", np.tile(np.array([0.5, -0.5, 1.5, -1.5, 0.0, 2.0, 1.0, 1.0]), (2, 4))),  # mean|W| = 1
        ("tiny", np.full((4, 16), 1e-7)),
        ("zero", np.zeros((3, 5))),
        ("wide", rng.standard_t(2, (17, 33))),
    ):
        for dtype in torch.float32, torch.bfloat16, torch.float16:
            t = torch.tensor(w).to(dtype)
            v = hf.WeightQuant.apply(t).float().numpy()  # values, rounded to dtype
            exact = hf.WeightQuant.apply(t.float()).numpy()
            bits = t.view(torch.int32 if dtype == torch.float32 else torch.int16).numpy()
            quant.append(dict(name=f"{name} {str(dtype)[6:]}", rows=w.shape[0], cols=w.shape[1], bits=b64(bits),
                              codes=b64((np.sign(exact) + 1).astype(np.uint8)),
                              scale=float(np.abs(exact).max()), rounded=float(np.abs(v).max())))
    write("ternary/testdata/golden.json", dict(
        script="tools/reference/formats.py", versions=versions("gguf", "llama-cpp-python", "transformers", "torch"),
        layouts=out, absmean=quant))


def gguf_vectors():
    rng = np.random.default_rng(43)
    ggml = Ggml()
    x = rng.normal(0, 1, 768).astype(np.float32)
    x[:32] = 0
    x[32:64] *= 1e-6
    x[64:96] *= 1e4
    x[256:512] *= np.repeat(rng.uniform(0.01, 3, 16), 16).astype(np.float32)
    x[512:768] = 0
    x[520] = -1
    out = []
    T = gguf.GGMLQuantizationType
    for name, t in ("f32", T.F32), ("f16", T.F16), ("bf16", T.BF16), ("q8_0", T.Q8_0), ("q4_0", T.Q4_0), ("q6_k", T.Q6_K):
        block, size = gguf.GGML_QUANT_SIZES[t]
        if name in ("f32", "f16"):
            b = x.astype({"f32": np.float32, "f16": np.float16}[name]).view(np.uint8)
        elif name == "q6_k":
            b = ggml.quantize("q6_K", x, x.size // block * size)
        else:
            b = gguf.quants.quantize(x, t)
            if name != "bf16":
                assert (b == ggml.quantize(name, x, b.size)).all(), name
        y = gguf.quants.dequantize(b, t)
        if name in ("q8_0", "q4_0", "q6_k"):
            assert (y == ggml.dequantize(name.replace("_k", "_K"), b, x.size)).all(), name
        out.append(dict(name=name, x=b64(x), packed=b64(b), y=b64(y.astype(np.float32))))
    write("gguf/testdata/golden.json", dict(
        script="tools/reference/formats.py", versions=versions("gguf", "llama-cpp-python"), types=out))

    w = gguf.GGUFWriter(ROOT / "gguf/testdata/python.gguf", "bitnet-b1.58")
    w.add_block_count(2)
    w.add_layer_norm_rms_eps(1e-5)
    w.add_uint8("t.u8", 200)
    w.add_int64("t.i64", -(1 << 40))
    w.add_float64("t.f64", 0.1)
    w.add_bool("t.bool", True)
    w.add_token_list(["<s>", "a", "Ġé"])
    w.add_token_scores([0.0, -1.0, -2.5])
    w.add_token_types([3, 1, 1])
    w.add_array("t.ints", [1, -2, 3])
    w.add_tensor("a.f32", np.arange(6, dtype=np.float32).reshape(2, 3))
    w.add_tensor("b.f16", np.arange(12, dtype=np.float16).reshape(3, 2, 2))
    q = (rng.integers(0, 3, (2, 256)) - 1).astype(np.float32)
    w.add_tensor("c.tq1", gguf.quants.quantize(q, T.TQ1_0), raw_dtype=T.TQ1_0)
    w.add_tensor("d.q8", gguf.quants.quantize(x[:64].reshape(1, 64), T.Q8_0), raw_dtype=T.Q8_0)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def block_vectors():
    """Every block type that gguf.quants decodes and trit reads: random bytes, the float16 fields finite numbers."""
    rng = np.random.default_rng(7)
    halves = {"Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0], "IQ4_NL": [0], "Q2_K": [80, 82], "Q3_K": [108],
              "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208]}
    out = []
    for name, fields in halves.items():
        t = gguf.GGMLQuantizationType[name]
        block, size = gguf.GGML_QUANT_SIZES[t]
        n = 3 if block == 256 else 6
        b = rng.integers(0, 256, (n, size), dtype=np.uint8)
        for at in fields:
            b[:, at:at + 2] = rng.normal(0, 0.1, n).astype(np.float16).view(np.uint8).reshape(n, 2)
        b[0, fields[0]:fields[0] + 2] = np.array([3], np.uint16).view(np.uint8)  # a subnormal half
        y = gguf.quants.dequantize(b.reshape(1, -1), t)
        out.append(dict(name=name.lower(), packed=b64(b), y=b64(y.astype(np.float32))))
    write("gguf/testdata/blocks.json", dict(script="tools/reference/formats.py --blocks", versions=versions("gguf", "numpy"), types=out))


def safetensors_vectors():
    d = ROOT / "safetensors/testdata"
    safetensors.numpy.save_file({
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array([[1, 2], [3, 4]], np.uint8),
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 3), np.float16),
        "é": np.array([True, False]),
    }, d / "python.safetensors", metadata={"format": "np"})
    safetensors.torch.save_file({
        "w": torch.tensor([[1.5, -2.0, 3.25]], dtype=torch.bfloat16),
        "h": torch.tensor([0.5, 65504.0], dtype=torch.float16),
    }, d / "torch.safetensors", metadata={"format": "pt"})


def write(path, obj):
    (ROOT / path).write_text(json.dumps(obj, indent=1) + "\n")
    print(path, (ROOT / path).stat().st_size)


def check(paths):
    """Opens files that trit wrote with the reference readers and prints what they saw."""
    for p in paths:
        if p.endswith(".gguf"):
            r = gguf.GGUFReader(p)
            seen = {t.name: [t.tensor_type.name, [int(n) for n in t.shape], b64(bytes(t.data.tobytes()))] for t in r.tensors}
            kv = {k: f.contents() for k, f in r.fields.items() if not k.startswith("GGUF.")}
        else:
            seen, kv = {}, {}
            with safetensors.safe_open(p, "pt") as f:
                kv = f.metadata() or {}
                for k in f.keys():
                    t = f.get_tensor(k)
                    seen[k] = [str(t.dtype)[6:], list(t.shape), b64(t.contiguous().view(torch.uint8).numpy()) if t.numel() and t.dim() else ""]
        print(json.dumps(dict(tensors=seen, metadata=kv)))


if __name__ == "__main__":
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--bitnet-cpp", type=pathlib.Path, help="a checkout of microsoft/BitNet")
    a.add_argument("--ik-llama", type=pathlib.Path, help="a checkout of ikawrakow/ik_llama.cpp")
    a.add_argument("--blocks", action="store_true", help="write gguf/testdata/blocks.json alone")
    a.add_argument("--check", nargs="+", metavar="FILE", help="only read these files and print what is in them")
    args = a.parse_args()
    if args.blocks:
        block_vectors()
        raise SystemExit
    import safetensors.numpy
    import safetensors.torch
    import torch
    from transformers.integrations import bitnet as hf

    if args.check:
        check(args.check)
    else:
        if not args.bitnet_cpp or not args.ik_llama:
            a.error("--bitnet-cpp and --ik-llama are needed")
        for folder in "ternary", "gguf", "safetensors":
            (ROOT / folder / "testdata").mkdir(exist_ok=True)
        ternary_vectors(args)
        gguf_vectors()
        safetensors_vectors()
