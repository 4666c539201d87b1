#!/usr/bin/env python3
"""Golden vectors of weight-only matrices for package ternary, made by the libraries that users run.

    python tools/reference/groups.py

writes ternary/testdata/groups.json: random matrices [3, 512] in layouts with a scale for each group, and the values that
the library reads from them. Needs numpy and the Python packages gguf (tq1_0, tq2_0) and mlx (affine, 1 and 2 bits; pip
install "mlx[cpu]").
"""

import base64
import importlib.metadata
import json
import pathlib

import gguf
import mlx.core as mx
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
ROWS, COLS = 3, 512


def b64(a):
    return base64.b64encode(np.ascontiguousarray(a).tobytes()).decode()


def main():
    rng = np.random.default_rng(2026)
    out = {"versions": {n: importlib.metadata.version(n) for n in ("gguf", "mlx", "numpy")}, "matrices": []}

    def add(name, source, values, **parts):
        parts = {k: b64(v) if isinstance(v, np.ndarray) else v for k, v in parts.items()}
        out["matrices"].append({"name": name, "source": source, "rows": ROWS, "cols": COLS, "values": b64(values.astype(np.float32)), **parts})

    for t in (gguf.GGMLQuantizationType.TQ1_0, gguf.GGMLQuantizationType.TQ2_0):
        scale = np.repeat(rng.uniform(0.001, 0.1, (ROWS, COLS // 256)).astype(np.float16).astype(np.float32), 256, axis=1)
        w = rng.integers(-1, 2, (ROWS, COLS)).astype(np.float32) * scale
        packed = gguf.quants.quantize(w, t)
        add(t.name.lower(), "gguf", gguf.quants.dequantize(packed, t), packed=packed)

    for bits in (1, 2):
        for group in (32, 64, 128):
            d = rng.uniform(0.001, 0.1, (ROWS, COLS // group)).astype(np.float16)
            q = rng.integers(0, 2 if bits == 1 else 3, (ROWS, COLS)).astype(np.uint32)
            per = 32 // bits
            words = (q.reshape(ROWS, -1, per) << (bits * np.arange(per, dtype=np.uint32))).sum(axis=-1, dtype=np.uint32)
            scales, biases = (2 * d, -d) if bits == 1 else (d, -d)
            values = mx.dequantize(mx.array(words), mx.array(scales), mx.array(biases), group_size=group, bits=bits)
            add(f"mlx {bits} bits, groups of {group}", "mlx", np.array(values.astype(mx.float32)), packed=words, bits=bits,
                scales=scales.astype(np.float32), biases=biases.astype(np.float32))

    path = ROOT / "ternary/testdata/groups.json"
    path.write_text(json.dumps(out, indent=1) + "\n")
    print(path, path.stat().st_size)


main()
