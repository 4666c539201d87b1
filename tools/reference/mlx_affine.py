#!/usr/bin/env python3
"""Writes what MLX makes of small matrices: testdata/mlx.safetensors of package weights.

    mlx_affine.py --out ../../weights/testdata/mlx.safetensors      (needs mlx[cpu]==0.32.4)

For each number of bits, tensors NAME.weight (uint32 words), NAME.scales, NAME.biases as mlx.core.quantize writes them, and
NAME.want as mlx.core.dequantize reads them.
"""

import argparse

import mlx.core as mx
import numpy as np

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--out", required=True)
out = parser.parse_args().out

rng = np.random.default_rng(7)
tensors = {}
for bits in (2, 3, 4, 5, 6, 8):
    for group in (32, 64, 128):
        w = mx.array(rng.standard_normal((3, 256)).astype(np.float32))
        q, scales, biases = mx.quantize(w, group_size=group, bits=bits)
        name = f"b{bits}g{group}"
        tensors[name + ".weight"], tensors[name + ".scales"], tensors[name + ".biases"] = q, scales, biases
        tensors[name + ".want"] = mx.dequantize(q, scales, biases, group_size=group, bits=bits)
mx.save_safetensors(out, tensors, metadata={"mlx": mx.__version__})
