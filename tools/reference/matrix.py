#!/usr/bin/env python3
"""Makes a matrix of small random models, one for every configuration key that can change the arithmetic, and judges trit by it.

    matrix.py make DIR [--only NAME ...]           # the folders, with what transformers computes beside each
    matrix.py run DIR --trit ./trit [--json FILE]  # exact, refused or WRONG, for each
    matrix.py goldens ../../testdata/matrix         # the quarter of them that the suite runs

`make` has transformers itself save every model (1bitLLM's by onebitllm.py beside this file, the embedding models by embedding.py),
edits config.json and the tensors as the case says, loads the folder again by from_pretrained and writes what that computes in
float32 to ref.safetensors. Where transformers refuses to load a folder there is no reference, and case.json has its words.

The weights are no noise: every matrix has its own spread and every norm, bias and scale its own numbers, so that one
taken for another shows. Seeds are passed over where an activation lies so near a half that float32 may round it either way.

`run` says for each folder
    exact     trit verify passes, far more strictly than by default: correlation 0.99999999
    close     it passes by default only, and an activation lies within 1e-5 of a half
    refused   trit does not load it; with its words
    beyond    transformers does not load it, trit does
    WRONG     trit loads it and computes something else, or it panics, hangs or dies
and exits with 1 when there is a WRONG one. In the quarter, expected.json says what each must be.
"""

import argparse
import collections
import copy
import gc
import json
import math
import os
import shutil
import subprocess
import sys
import time

import families  # beside this file
import reference

PROMPTS = (1, 7, 40)  # tokens; the longest passes every window and every original context below
GREEDY = 8
POSITIONS = 4  # of each prompt
NEAR = 3e-5  # of an int8 step: what float32's order of sums may move an activation

SHAPE = {"vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
         "num_key_value_heads": 2, "max_position_embeddings": 128, "rms_norm_eps": 1e-5, "bos_token_id": 1, "eos_token_id": 2,
         "pad_token_id": None}

ONLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}
AUTO = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
BIT = {"quant_method": "bitnet", "linear_class": "bitlinear", "quantization_mode": "offline"}
RMS = {"use_rms_norm": True, "rms_norm_eps": 1e-6}

# name: (transformers class, configuration beyond SHAPE, quantization_config)
BASES = {
    "bitnet": ("BitNetForCausalLM", {}, ONLINE),
    "bitnet-packed": ("BitNetForCausalLM", {}, AUTO),
    "llama": ("LlamaForCausalLM", {"head_dim": 16}, None),  # TriLM's class
    "llama-online": ("LlamaForCausalLM", {"head_dim": 16}, ONLINE),
    "llama-auto": ("LlamaForCausalLM", {"head_dim": 16}, AUTO),
    "llama-bit": ("LlamaForCausalLM", {"head_dim": 16}, BIT),  # Llama3-8B-1.58, Falcon3, Falcon-E
    "llama-rms": ("LlamaForCausalLM", {"head_dim": 16}, ONLINE | RMS),
    "llama-rms-bit": ("LlamaForCausalLM", {"head_dim": 16}, BIT | RMS),
    "qwen3": ("Qwen3ForCausalLM", {"head_dim": 16}, None),
    "qwen3-online": ("Qwen3ForCausalLM", {"head_dim": 16}, ONLINE),
    "qwen3-bit": ("Qwen3ForCausalLM", {"head_dim": 16}, BIT),
    "qwen3-rms-bit": ("Qwen3ForCausalLM", {"head_dim": 16}, BIT | RMS),
    "qwen2": ("Qwen2ForCausalLM", {}, None),
    "qwen2-online": ("Qwen2ForCausalLM", {}, ONLINE),
    "qwen2-bit": ("Qwen2ForCausalLM", {}, BIT),
    "hunyuan": ("HunYuanDenseV1ForCausalLM", {"head_dim": 16}, None),
    "hunyuan-online": ("HunYuanDenseV1ForCausalLM", {"head_dim": 16}, ONLINE),
    "hunyuan-bit": ("HunYuanDenseV1ForCausalLM", {"head_dim": 16}, BIT),
    "gemma3": ("Gemma3ForCausalLM", {"head_dim": 16, "sliding_window": 12, "query_pre_attn_scalar": 24}, None),
    "gemma3-online": ("Gemma3ForCausalLM", {"head_dim": 16, "sliding_window": 12, "query_pre_attn_scalar": 24}, ONLINE),
    "gemma3-bit": ("Gemma3ForCausalLM", {"head_dim": 16, "sliding_window": 12, "query_pre_attn_scalar": 24}, BIT),
}


class Case:
    """One folder.

    base      of BASES
    config    keys given to the configuration class
    quant     what is set in quantization_config (None: the base's own)
    edit      keys set in config.json after saving; DROP removes one. As a published file may have them.
    tensors   what is done to the tensors after saving: {tensors}, model's configuration -> None
    dtype     of the floating-point tensors in the file
    skip      modules_to_not_convert for packing, when it is not what quantization_config says
    shards    number of safetensors files
    prompt    tokens of the longest prompt, when it is not that of PROMPTS
    seed      the seed, near a half or not
    """

    def __init__(self, base, kind, config=None, quant=None, edit=None, tensors=None, dtype="float32", skip=None, shards=1,
                 prompt=None, seed=None):
        self.base, self.kind, self.name = base, kind, f"{base}.{kind}"
        self.config, self.quant, self.edit, self.tensors = config or {}, quant or {}, edit or {}, tensors
        self.dtype, self.skip, self.shards, self.prompt, self.seed = dtype, skip, shards, prompt, seed


DROP = object()


def rope(kind, **keys):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0} | keys}


YARN = {"factor": 4.0, "original_max_position_embeddings": 32}
LONG = {"factor": 4.0, "original_max_position_embeddings": 24, "short_factor": [1.0, 1.1, 1.3, 1.6, 2.0, 2.5, 3.0, 4.0],
        "long_factor": [1.2, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0]}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}


def common(base):
    """The keys that every family has, for one base."""
    cls, own, quant = BASES[base]
    packed = quant and quant["quantization_mode"] == "offline"
    gemma, bitnet, llama = cls.startswith("Gemma"), cls.startswith("BitNet"), cls.startswith("Llama")
    divided = cls.startswith(("BitNet", "Qwen2"))  # head_dim is hidden_size divided by the heads
    act = "hidden_activation" if gemma else "hidden_act"

    def case(kind, config=None, **more):
        return Case(base, kind, config, **more)

    yield case("plain")
    yield case("tied", {"tie_word_embeddings": True})
    yield case("untied", {"tie_word_embeddings": False})
    yield case("tie-missing", {"tie_word_embeddings": False}, edit={"tie_word_embeddings": DROP})
    yield case("tied-tie-missing", {"tie_word_embeddings": True}, edit={"tie_word_embeddings": DROP})
    yield case("tied-but-head", {"tie_word_embeddings": True}, tensors=add_head)
    yield case("tied-same-head", {"tie_word_embeddings": True}, tensors=copy_head)
    yield case("bias", {"attention_bias": True} | ({"mlp_bias": True} if llama else {}))
    if llama:
        yield case("attention-bias", {"attention_bias": True})
        yield case("mlp-bias", {"mlp_bias": True})
    yield case("gqa1", {"num_key_value_heads": 1})
    yield case("mha", {"num_key_value_heads": 4})
    if not divided:
        yield case("head-10", {"head_dim": 10})
        yield case("head-wide", {"head_dim": 40})
    if llama:
        yield case("head-missing", {"head_dim": SHAPE["hidden_size"] // 4}, edit={"head_dim": DROP})
        yield case("head-null", {"head_dim": SHAPE["hidden_size"] // 4}, edit={"head_dim": None})
    yield case("widths", {"hidden_size": 36, "intermediate_size": 52, "vocab_size": 101} | ({"num_attention_heads": 2, "num_key_value_heads": 1} if divided else {}))
    if not packed:  # transformers packs by four rows
        yield case("odd", {"hidden_size": 45, "num_attention_heads": 3, "num_key_value_heads": 3, "intermediate_size": 53, "vocab_size": 97}
                   | ({"hidden_size": 54} if divided else {"head_dim": 14}))
    yield case("deep", {"num_hidden_layers": 5, "hidden_size": 16} | ({"num_attention_heads": 2} if divided else {}))
    yield case("one-layer", {"num_hidden_layers": 1})
    yield case("eps", {"rms_norm_eps": 0.05})
    yield case("act-gelu", {act: "gelu"})
    yield case("act-silu" if bitnet or gemma else "act-relu2", {act: "silu" if bitnet or gemma else "relu2"})
    yield case("act-missing", {act: {"Gemm": "gelu_pytorch_tanh", "BitN": "relu2"}.get(cls[:4], "silu")}, edit={act: DROP})
    yield case("f16", dtype="float16")
    yield case("bf16", dtype="bfloat16")
    yield case("unknown-key", edit={"attention_multiplier": 0.3, "logits_scaling": 8.0, "embedding_multiplier": 12.0,
                                    "residual_multiplier": 0.22, "use_qk_norm": True, "parallel_attn": True})
    yield case("extra-layer", tensors=extra_layer)
    yield case("extra-tensor", tensors=extra_tensor)
    yield case("inv-freq", tensors=inv_freq)
    if gemma:
        for kind, p in (("linear", {"factor": 8.0}), ("dynamic", {"factor": 2.0}), ("yarn", YARN), ("llama3", LLAMA3)):
            yield case("rope-" + kind, {"rope_parameters": {
                "full_attention": {"rope_type": kind, "rope_theta": 1e6} | p,
                "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}, "layer_types": ["sliding_attention", "full_attention"]})
        return
    yield case("rope-theta", rope("default", rope_theta=33.0))
    yield case("rope-old", edit={"rope_parameters": DROP, "rope_theta": 77.0, "rope_scaling": {"type": "linear", "factor": 2.0}})
    yield case("rope-missing", {}, edit={"rope_parameters": DROP})
    yield case("rope-linear", rope("linear", factor=4.0))
    yield case("rope-dynamic", {"max_position_embeddings": 64} | rope("dynamic", factor=2.0))
    yield case("rope-yarn", rope("yarn", **YARN))
    yield case("rope-longrope", rope("longrope", **(LONG if not divided else LONG | {
        "short_factor": LONG["short_factor"][:4], "long_factor": LONG["long_factor"][:4]})))
    yield case("rope-llama3", rope("llama3", **LLAMA3))


def gemma_only(base):
    def case(kind, config=None, **more):
        return Case(base, kind, config, **more)

    sliding, full = "sliding_attention", "full_attention"
    yield case("full-only", {"layer_types": [full, full]})
    yield case("sliding-only", {"layer_types": [sliding, sliding]})
    yield case("full-first", {"layer_types": [full, sliding]})
    yield case("pattern-2", {"num_hidden_layers": 4, "sliding_window_pattern": 2})
    yield case("pattern-old", {"num_hidden_layers": 4, "layer_types": [sliding, full] * 2},
               edit={"layer_types": DROP, "sliding_window_pattern": 2})
    yield case("pattern-underscore", {"num_hidden_layers": 4, "layer_types": [sliding, full] * 2},
               edit={"layer_types": DROP, "_sliding_window_pattern": 2})
    yield case("window-1", {"sliding_window": 1})
    yield case("query-scalar", {"query_pre_attn_scalar": 100})
    yield case("query-scalar-missing", {"query_pre_attn_scalar": 256}, edit={"query_pre_attn_scalar": DROP})
    yield case("attn-softcap", {"attn_logit_softcapping": 2.0})
    yield case("final-softcap", {"final_logit_softcapping": 3.0})
    yield case("bidirectional", {"use_bidirectional_attention": True})
    yield case("rope-local", {"rope_parameters": {full: {"rope_type": "default", "rope_theta": 500.0},
                                                  sliding: {"rope_type": "default", "rope_theta": 20.0}}})
    yield case("rope-local-linear", {"rope_parameters": {full: {"rope_type": "default", "rope_theta": 500.0},
                                                         sliding: {"rope_type": "linear", "rope_theta": 20.0, "factor": 3.0}}})
    yield case("rope-old-keys", {"layer_types": [sliding, full]},
               edit={"rope_parameters": DROP, "rope_theta": 3000.0, "rope_local_base_freq": 50.0,
                     "rope_scaling": {"rope_type": "linear", "factor": 3.0}})


def qwen_only(base):
    def case(kind, config=None, **more):
        return Case(base, kind, config, **more)

    sliding, full = "sliding_attention", "full_attention"
    yield case("sliding", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1})
    yield case("sliding-all", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 0})
    yield case("sliding-none", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2})
    yield case("sliding-off", {"use_sliding_window": False, "sliding_window": 5, "max_window_layers": 0})
    yield case("sliding-types", {"use_sliding_window": True, "sliding_window": 6, "layer_types": [sliding, full]})
    yield case("sliding-types-missing", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 1}, edit={"layer_types": DROP})
    yield case("sliding-off-types", {"use_sliding_window": True, "sliding_window": 6, "layer_types": [sliding, full]},
               edit={"use_sliding_window": False})
    yield case("sliding-null", {"use_sliding_window": True, "sliding_window": 6, "max_window_layers": 0},
               edit={"sliding_window": None, "layer_types": DROP})
    yield case("sliding-yarn", {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1} | rope("yarn", **YARN))
    if base == "qwen3":
        yield case("head-128-missing", {"head_dim": 128}, edit={"head_dim": DROP})


def ropes(base):
    """Every number of every kind of rotary positions, on one base."""
    def case(kind, parameters, config=None, **more):
        return Case(base, "rope-" + kind, (config or {}) | parameters, **more)

    yield case("yarn-betas", rope("yarn", **YARN, beta_fast=4.0, beta_slow=0.5))
    yield case("yarn-factor", rope("yarn", **YARN, attention_factor=1.7))
    yield case("yarn-mscale", rope("yarn", **YARN, mscale=0.7, mscale_all_dim=1.3))
    yield case("yarn-untruncated", rope("yarn", **YARN, truncate=False))
    yield case("yarn-implicit", rope("yarn", factor=4.0), {"max_position_embeddings": 64})
    yield case("yarn-mismatch", rope("yarn", factor=3.0, original_max_position_embeddings=24))
    yield case("longrope-short", rope("longrope", **LONG | {"original_max_position_embeddings": 100}))
    yield case("longrope-factor", rope("longrope", **LONG, attention_factor=1.4))
    yield case("dynamic-beyond", rope("dynamic", factor=2.0), {"max_position_embeddings": 30})
    yield case("partial", rope("default", partial_rotary_factor=0.5))
    yield case("partial-top", {}, edit={"partial_rotary_factor": 0.5})
    yield case("partial-yarn", rope("yarn", **YARN, partial_rotary_factor=0.5))
    yield case("partial-linear", rope("linear", factor=2.0, partial_rotary_factor=0.5))
    yield case("proportional", rope("proportional", partial_rotary_factor=0.5))
    yield case("linear-below-1", rope("linear", factor=0.5))
    yield case("unknown-kind", {}, edit={"rope_parameters": {"rope_type": "su", "rope_theta": 10000.0}})
    yield case("both-keys", {}, edit={"rope_scaling": {"rope_type": "linear", "factor": 4.0, "rope_theta": 500.0}})
    yield case("theta-top", {}, edit={"rope_theta": 500.0})
    yield case("theta-top-only", {}, edit={"rope_theta": 500.0, "rope_parameters": {"rope_type": "default"}})
    yield case("scaling-null", {}, edit={"rope_theta": 500.0, "rope_parameters": DROP, "rope_scaling": None})
    yield case("old-llama3", {}, edit={"rope_theta": 500.0, "rope_parameters": DROP, "rope_scaling": {"type": "llama3"} | LLAMA3})
    yield case("old-yarn", {}, edit={"rope_theta": 500.0, "rope_parameters": DROP, "rope_scaling": {"type": "yarn"} | YARN})
    yield case("llama3-implicit", rope("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0), {"max_position_embeddings": 64})


SKIPS = {
    "null": None, "empty": [], "head": ["lm_head"],
    "suffix": ["lm_head", "proj"], "suffix-q": ["lm_head", "q_proj"], "suffix-up": ["lm_head", "up_proj"], "suffix-gate": ["lm_head", "gate_proj"],
    "suffix-k": ["lm_head", "k_proj"], "suffix-v": ["lm_head", "v_proj"], "suffix-o": ["lm_head", "o_proj"], "suffix-down": ["lm_head", "down_proj"],
    "suffix-qk": ["lm_head", "q_proj", "k_proj"], "suffix-part": ["lm_head", "n_proj"],  # the end of down_proj
    "suffix-qkv-gate": ["lm_head", "q_proj", "k_proj", "v_proj", "gate_proj"],
    "prefix": ["lm_head", "model.layers.0"], "prefix-deep": ["lm_head", "model.layers.1.mlp"], "prefix-model": ["model"],
    "prefix-number": ["lm_head", "model.layers.1"],  # not layer 10 or 11
    "regex": ["lm_head", r"model\.layers\.[01]\.mlp"], "regex-star": ["lm_head", r".*\.v_proj"], "regex-half": ["lm_head", r"model.layers.\d+.self_attn.(q|o)_proj"],
    "regex-boundary": ["lm_head", r".*mlp.gate"], "regex-alternative": ["lm_head", r"model.layers.0.mlp|model.layers.1.self_attn"],
    "regex-flags": ["lm_head", r"(?i:MODEL)\.layers\.0\.self_attn"], "regex-look": ["lm_head", r"model\.layers\.(?!0)\d+"],
    "weight": ["lm_head.weight"], "part": ["lm"], "empty-string": [""], "self-attn": ["lm_head", "self_attn"],
}


def skips(base, kinds):
    many = {"num_hidden_layers": 12, "hidden_size": 16, "intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1}
    for kind in kinds:
        config = many if kind == "prefix-number" else {}
        if SKIPS[kind] is not None or kind == "null":
            yield Case(base, "skip-" + kind, config, quant={"modules_to_not_convert": SKIPS[kind]})
    yield Case(base, "skip-null-tied", {"tie_word_embeddings": True}, quant={"modules_to_not_convert": None})
    yield Case(base, "skip-empty-tied", {"tie_word_embeddings": True}, quant={"modules_to_not_convert": []})
    yield Case(base, "skip-q-bias", {"attention_bias": True}, quant={"modules_to_not_convert": ["lm_head", "q_proj", "o_proj"]})


def singles():
    """What stands for itself."""
    yield Case("bitnet", "noquant", edit={"quantization_config": DROP})
    yield Case("bitnet", "noquant-tied", {"tie_word_embeddings": True}, edit={"quantization_config": DROP})
    yield Case("bitnet", "quant-null", edit={"quantization_config": None})
    yield Case("bitnet", "mlp-bias-key", edit={"mlp_bias": True})
    yield Case("bitnet", "head-dim", {"head_dim": 24})
    yield Case("bitnet", "kv-null", {"num_key_value_heads": 4}, edit={"num_key_value_heads": None})
    yield Case("bitnet", "no-architectures", edit={"architectures": None})
    yield Case("bitnet", "auto-map", edit={"auto_map": {"AutoConfig": "configuration_bitnet.BitNetConfig"}})
    yield Case("bitnet", "eps-missing", {"rms_norm_eps": 1e-5}, edit={"rms_norm_eps": DROP})
    yield Case("bitnet", "rms", {}, quant=RMS)
    yield Case("bitnet-packed", "rms", {}, quant=RMS)
    yield Case("bitnet-packed", "bitlinear", {}, quant={"linear_class": "bitlinear"})
    yield Case("bitnet-packed", "scale-bf16", dtype="bfloat16")
    for act in ("relu", "gelu_new", "gelu_pytorch_tanh", "gelu_fast", "quick_gelu", "swish", "tanh", "sigmoid", "mish", "relu6", "leaky_relu",
                "gelu_python", "linear", "gelu_10", "laplace"):
        yield Case("llama", "act-" + act, {"hidden_act": act})
    for act in ("relu", "gelu_new", "gelu_pytorch_tanh", "swish"):
        yield Case("bitnet", "act-" + act, {"hidden_act": act})
        yield Case("llama-bit", "act-" + act, {"hidden_act": act})
    yield Case("gemma3", "act-hidden-act", edit={"hidden_act": "silu"})
    yield Case("llama", "pretraining-tp", {"pretraining_tp": 2})
    yield Case("llama", "kv-missing", {"num_key_value_heads": 4}, edit={"num_key_value_heads": DROP})
    yield Case("llama", "kv-null", {"num_key_value_heads": 4}, edit={"num_key_value_heads": None})
    yield Case("llama", "eps-missing", {"rms_norm_eps": 1e-6}, edit={"rms_norm_eps": DROP})
    yield Case("llama", "eps-tiny", {"rms_norm_eps": 1e-12})
    yield Case("llama", "window-key", edit={"sliding_window": 5, "use_sliding_window": True, "layer_types": ["sliding_attention"] * 2})
    yield Case("llama", "softcap-key", edit={"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0})
    yield Case("llama", "causal-key", edit={"is_causal": False})
    yield Case("llama", "dropout", {"attention_dropout": 0.5})
    yield Case("llama", "chunk-size", edit={"chunk_size_feed_forward": 4})
    yield Case("llama", "sharded", shards=3)
    yield Case("llama", "no-architectures", edit={"architectures": None})
    yield Case("llama", "torch-dtype", dtype="float16", edit={"dtype": DROP, "torch_dtype": "float16"})
    yield Case("llama", "dtype-differs", dtype="float16", edit={"dtype": "float32"})
    yield Case("llama", "bias-missing", {"attention_bias": False}, edit={"attention_bias": True})
    yield Case("llama", "bias-unasked", {"attention_bias": True}, edit={"attention_bias": False})
    yield Case("llama", "bias-key-missing", {"attention_bias": True}, edit={"attention_bias": DROP})
    yield Case("llama", "fewer-layers", {"num_hidden_layers": 3}, edit={"num_hidden_layers": 2})
    yield Case("llama", "more-layers", edit={"num_hidden_layers": 3})
    yield Case("llama", "vocab-smaller", edit={"vocab_size": 90})
    yield Case("llama", "bare", tensors=bare)
    yield Case("llama-bit", "minimal", quant={"modules_to_not_convert": None, "linear_class": DROP, "quantization_mode": DROP})
    yield Case("llama-bit", "is-bitnet-config", quant={"linear_class": DROP, "quantization_mode": DROP}, edit={"is_bitnet_config": True})
    yield Case("llama-bit", "mode-online", quant={"quantization_mode": "online"})
    yield Case("llama-bit", "masters", edit={}, tensors=None, skip=[".*"])  # floats where packed rows are due
    yield Case("llama-bit", "contradiction", quant={"modules_to_not_convert": ["lm_head"]}, skip=["lm_head", "q_proj"])
    yield Case("llama-bit", "contradiction-packed", quant={"modules_to_not_convert": ["lm_head", "q_proj"]}, skip=["lm_head"])
    yield Case("llama-auto", "contradiction-packed", quant={"modules_to_not_convert": ["lm_head", "q_proj"]}, skip=["lm_head"])
    yield Case("llama-auto", "masters", skip=[".*"])
    yield Case("llama-auto", "masters-scales", tensors=unit_scales, skip=[".*"])
    yield Case("llama-online", "packed", skip=["lm_head"], tensors=pack_all)
    yield Case("llama-online", "unknown-method", quant={"quant_method": "bitnet158"})
    yield Case("llama-online", "unknown-class", quant={"linear_class": "bitblas"})
    yield Case("llama-online", "unknown-mode", quant={"quantization_mode": "dynamic"})
    yield Case("llama-rms", "norm-eps", quant={"rms_norm_eps": 0.05})
    yield Case("llama-rms-bit", "norm-eps", quant={"rms_norm_eps": 0.05})
    yield Case("llama-rms", "eps-missing", quant={"rms_norm_eps": DROP})
    yield Case("llama-rms", "eps-null", quant={"rms_norm_eps": None})
    yield Case("llama-online", "rms-tensors-unasked", quant=RMS, edit={"quantization_config": ONLINE})
    yield Case("llama-online", "tiny-weights", tensors=shrink)
    yield Case("llama-online", "zero-matrix", tensors=zero_matrix)
    yield Case("llama-bit", "zero-matrix", tensors=zero_codes)
    yield Case("llama-online", "huge-weights", tensors=grow)
    yield Case("llama-online", "dropout", {"attention_dropout": 0.5})
    yield Case("llama-online", "wide", {"hidden_size": 272, "intermediate_size": 400, "vocab_size": 77, "num_hidden_layers": 1}, dtype="bfloat16")
    yield Case("llama-bit", "wide", {"hidden_size": 272, "intermediate_size": 400, "vocab_size": 76, "num_hidden_layers": 1}, dtype="bfloat16")
    yield Case("llama-bit", "sharded", shards=3)
    yield Case("llama-bit", "scale-scalar", tensors=scalar_scales)
    yield Case("llama-bit", "code-3", tensors=fourth_code)
    yield Case("qwen3", "mlp-bias-key", edit={"mlp_bias": True})
    yield Case("qwen3", "eps-missing", {"rms_norm_eps": 1e-6}, edit={"rms_norm_eps": DROP})
    # Not clear of a half: what the tolerance of trit verify by depth is for.
    yield Case("llama-bit", "depth-12", {"num_hidden_layers": 12, "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "head_dim": 16}, seed=38, dtype="bfloat16")
    yield Case("qwen3-bit", "skip-head-packed", quant={"modules_to_not_convert": []})


def long():
    """Prompts beyond 256 tokens, by which attention and the blocks of a prompt are cut, and windows on both sides of that."""
    room = {"max_position_embeddings": 1024}
    for base in ("llama", "llama-online", "bitnet", "qwen3-rms-bit", "gemma3"):
        yield Case(base, "long", room, prompt=600)
    for window in (31, 256, 257, 300):
        yield Case("qwen3", f"sliding-long-{window}", room | {"use_sliding_window": True, "sliding_window": window, "max_window_layers": 1}, prompt=600)
        yield Case("gemma3", f"window-long-{window}", room | {"sliding_window": window, "num_hidden_layers": 2,
                                                              "layer_types": ["sliding_attention", "full_attention"]}, prompt=600)
    yield Case("llama", "rope-yarn-long", room | rope("yarn", factor=8.0, original_max_position_embeddings=128), prompt=900)
    yield Case("llama", "rope-llama3-long", room | rope("llama3", **LLAMA3 | {"original_max_position_embeddings": 256}), prompt=900)
    yield Case("llama", "head-128", {"head_dim": 128})
    yield Case("llama-online", "head-256", {"head_dim": 256, "num_attention_heads": 2, "num_key_value_heads": 1})
    yield Case("qwen3-bit", "heads-16", {"num_attention_heads": 16, "num_key_value_heads": 2, "head_dim": 4})


PROJECTIONS = ["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]


def mixtures(count):
    """Several keys at once, by chance: any of the projections dense, layer by layer, with biases, ties, kinds of heads and of positions."""
    import random as chance

    for n in range(count):
        r = chance.Random(n)
        base = r.choice([b for b, (_, _, quant) in BASES.items() if quant])
        cls, _, quant = BASES[base]
        share = r.choice([0.15, 0.5, 0.85])
        skip = [f"model.layers.{i}.{p}" for i in range(3) for p in PROJECTIONS if r.random() < share]
        skip += r.choice([[], ["lm_head"], ["lm_head"], ["lm_head"]])
        r.shuffle(skip)
        config = {"num_hidden_layers": 3, "num_key_value_heads": r.choice([1, 2, 4]), "rms_norm_eps": r.choice([1e-6, 1e-5, 1e-2]),
                  "tie_word_embeddings": "lm_head" in skip and r.random() < 0.4, "attention_bias": r.random() < 0.4}
        if cls.startswith("Qwen2"):
            del config["attention_bias"]
        if cls.startswith("Llama"):
            config["mlp_bias"] = r.random() < 0.4
        if not cls.startswith(("BitNet", "Qwen2")):
            config["head_dim"] = r.choice([8, 16, 20] if quant["quantization_mode"] == "offline" else [6, 16, 20])  # packed by four rows
        if not cls.startswith("Gemma"):
            config["hidden_act"] = r.choice(["silu", "relu2", "gelu", "gelu_pytorch_tanh"])
            config |= r.choice([{}, rope("linear", factor=3.0), rope("yarn", **YARN), rope("llama3", **LLAMA3)])
        if cls.startswith("Qwen"):
            config |= r.choice([{}, {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": r.choice([0, 1, 2])}])
        yield Case(base, f"mixture-{n}", config, quant={"modules_to_not_convert": skip} | r.choice([{}, {}, RMS | {"rms_norm_eps": 1e-3}]),
                   dtype=r.choice(["float32", "float16", "bfloat16"]))


# 1bitLLM's own class and the embedding models: families.py has how they look.
def foreign():
    big = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 2, "vocab_size": 96,
           "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    subs = ("self_attn.inner_attn_ln", "mlp.ffn_layernorm")
    for kind, change in {
        "plain": {}, "gqa": {"num_attention_heads": 4}, "untied": {"tie_word_embeddings": False}, "eps": {"rms_norm_eps": 0.05},
        "act-relu2": {"hidden_act": "relu2"}, "act-gelu": {"hidden_act": "gelu"}, "theta": {"rope_theta": 50.0},
        "rope-linear": {"rope_scaling": {"type": "linear", "factor": 3.0}}, "rope-yarn": {"rope_scaling": {"rope_type": "yarn"} | YARN},
        "rope-dynamic": {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}}, "head-24": {"head_dim": 24}, "odd": {"hidden_size": 52, "intermediate_size": 37, "vocab_size": 91},
        "f32": {"_dtype": "float32"}, "deep": {"num_hidden_layers": 4},
    }.items():
        c = families.onebitllm() | big | {"max_position_embeddings": 128} | change
        dtype = c.pop("_dtype", "float16")
        f = families.Family(f"onebitllm.{kind}", c, dtype=dtype, sub_norms=subs)
        yield f
    small = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "vocab_size": 96,
             "bos_token_id": 1, "eos_token_id": 2, "max_position_embeddings": 128}
    for kind, change in {
        "plain": {}, "eps": {"rms_norm_eps": 0.05}, "sliding": {"use_sliding_window": True, "sliding_window": 9, "max_window_layers": 1},
        "rope-yarn": {"rope_scaling": {"rope_type": "yarn"} | YARN}, "gqa1": {"num_key_value_heads": 1},
    }.items():
        yield families.Family(f"embedding-qwen3.{kind}", families.bitnet_embedding_06b() | small | change, proj_norm="norm", qk_norm=True, bare=True)
    for kind, change in {
        "plain": {}, "full": {"layer_types": ["full_attention"] * 2}, "scalar": {"query_pre_attn_scalar": 9},
        "local": {"rope_local_base_freq": 30.0, "rope_theta": 300.0}, "softcap": {"final_logit_softcapping": 3.0},
    }.items():
        yield families.Family(f"embedding-gemma3.{kind}", families.bitnet_embedding_270m() | small | change, proj_norm="norm", qk_norm=True, bare=True)


# --- what is done to tensors -----------------------------------------------------------------------


def random(shape, std, seed=99):
    import torch

    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) * std


def add_head(t, c):
    t["lm_head.weight"] = random(t["model.embed_tokens.weight"].shape, 0.3).to(t["model.embed_tokens.weight"].dtype)


def copy_head(t, c):
    t["lm_head.weight"] = t["model.embed_tokens.weight"].clone()


def extra_layer(t, c):
    n = c["num_hidden_layers"]
    for name in [k for k in t if k.startswith("model.layers.0.")]:
        t[name.replace("layers.0.", f"layers.{n}.")] = t[name].clone()


def extra_tensor(t, c):
    t["model.layers.0.self_attn.rel_pos.weight"] = random((4, 4), 1.0)


def inv_freq(t, c):
    hd = c.get("head_dim") or c["hidden_size"] // c["num_attention_heads"]
    import torch

    for i in range(c["num_hidden_layers"]):
        t[f"model.layers.{i}.self_attn.rotary_emb.inv_freq"] = 1 / 10000 ** (torch.arange(0, hd, 2).float() / hd)


def bare(t, c):
    for name in list(t):
        if name.startswith("model."):
            t[name.removeprefix("model.")] = t.pop(name)


def unit_scales(t, c):
    import torch

    for name in [k for k in t if k.endswith("proj.weight")]:
        t[name + "_scale"] = torch.ones(1)


def pack_all(t, c):
    from transformers.integrations.bitnet import pack_weights

    for name in [k for k in t if k.endswith("proj.weight")]:
        codes, inverse = families.absmean(t[name].float())
        t[name], t[name + "_scale"] = pack_weights(codes), (1 / inverse).reshape(1)


def shrink(t, c):
    for name in [k for k in t if k.endswith("proj.weight")]:
        t[name] = t[name] * 1e-6  # below the 1e-5 that the mean of absolute values is held at


def grow(t, c):
    for name in [k for k in t if k.endswith("proj.weight")]:
        t[name] = t[name] * 1e4


def zero_matrix(t, c):
    t["model.layers.0.mlp.down_proj.weight"].zero_()
    t["model.layers.1.self_attn.q_proj.weight"].zero_()


def zero_codes(t, c):
    t["model.layers.0.mlp.down_proj.weight"].fill_(0b01010101)


def scalar_scales(t, c):
    for name in [k for k in t if k.endswith("weight_scale")]:
        t[name] = t[name].reshape(())


def fourth_code(t, c):
    t["model.layers.0.mlp.up_proj.weight"][3, 5] = 0b11111111


def cases():
    for base in BASES:
        yield from common(base)
    for base in ("gemma3", "gemma3-online"):
        yield from gemma_only(base)
    for base in ("qwen2", "qwen3", "qwen3-online", "qwen3-rms-bit"):
        yield from qwen_only(base)
    yield from ropes("llama")
    yield from (c for c in ropes("qwen3-online") if "partial" in c.kind or "yarn" in c.kind)
    yield from skips("llama-online", SKIPS)
    yield from skips("llama-bit", ["null", "empty", "suffix", "suffix-q", "suffix-up", "suffix-k", "suffix-o", "suffix-down", "suffix-qkv-gate", "prefix", "regex-star", "weight"])
    yield from skips("llama-auto", ["null", "empty", "suffix-q", "suffix-gate", "suffix-v", "prefix"])
    yield from skips("llama-rms", ["null", "empty", "suffix-q", "suffix-k", "suffix-up", "suffix-gate", "suffix-down", "prefix", "regex"])
    yield from skips("llama-rms-bit", ["null", "empty", "suffix-q", "suffix-k", "suffix-up", "suffix-o"])
    yield from skips("bitnet", ["null", "empty", "suffix-q", "suffix-up", "suffix-gate", "suffix-o", "suffix-down", "suffix-part", "regex-half"])
    yield from skips("bitnet-packed", ["null", "suffix-q", "suffix-up", "suffix-down", "prefix"])
    yield from skips("qwen3-online", ["null", "empty", "suffix-q", "suffix-v", "suffix-up"])
    yield from skips("qwen3-rms-bit", ["null", "empty", "suffix-k", "suffix-gate"])
    yield from skips("qwen2-online", ["null", "empty", "suffix-q", "suffix-v", "suffix-up", "regex"])
    yield from skips("hunyuan-online", ["null", "suffix-q", "suffix-k", "suffix-up", "prefix"])
    yield from skips("gemma3-online", ["null", "suffix-q", "suffix-up", "prefix"])
    yield from singles()
    yield from long()
    yield from mixtures(120)


# --- the quarter that is committed --------------------------------------------------------------------

# What the suite runs: name: "" for exact, or what the refusal must name; "note: …" for what is noted although it loads.
GOLDENS = dict.fromkeys("""
    bitnet.plain bitnet.tied bitnet.tie-missing bitnet.tied-but-head bitnet.tied-same-head bitnet.bias bitnet.gqa1 bitnet.mha bitnet.eps
    bitnet.act-silu bitnet.act-missing bitnet.f16 bitnet.rope-missing bitnet.noquant bitnet.noquant-tied
    bitnet.quant-null bitnet.rms bitnet.skip-null bitnet.skip-empty bitnet.skip-suffix-q bitnet.skip-suffix-up bitnet.skip-suffix-gate
    bitnet.skip-suffix-o bitnet.skip-suffix-down bitnet.skip-suffix-part bitnet.skip-regex-half bitnet.skip-q-bias bitnet.skip-empty-tied
    bitnet-packed.plain bitnet-packed.tied bitnet-packed.bitlinear bitnet-packed.skip-suffix-q bitnet-packed.skip-suffix-up
    bitnet-packed.rope-yarn
    llama.plain llama.tied-but-head llama.bias llama.head-missing llama.head-null llama.deep llama.one-layer llama.act-relu2
    llama.rope-linear llama.rope-yarn llama.rope-llama3 llama.rope-yarn-betas llama.rope-yarn-factor llama.rope-yarn-mscale
    llama.rope-yarn-untruncated llama.rope-yarn-implicit llama.rope-old-yarn llama.rope-both-keys llama.rope-theta-top
    llama.rope-scaling-null llama.rope-old-llama3 llama.pretraining-tp llama.sharded llama.eps-missing llama.inv-freq
    llama-online.plain llama-online.skip-null llama-online.skip-empty llama-online.skip-suffix llama-online.skip-suffix-q
    llama-online.skip-suffix-k llama-online.skip-suffix-v llama-online.skip-suffix-up llama-online.skip-suffix-gate
    llama-online.skip-suffix-down llama-online.skip-suffix-qk llama-online.skip-suffix-qkv-gate llama-online.skip-prefix
    llama-online.skip-prefix-deep llama-online.skip-regex llama-online.skip-regex-alternative llama-online.skip-regex-star
    llama-online.skip-empty-string llama-online.skip-weight llama-online.skip-q-bias
    llama-online.skip-empty-tied llama-online.widths llama-online.zero-matrix llama-online.tiny-weights
    llama-auto.plain llama-auto.skip-suffix-q llama-auto.skip-suffix-gate llama-auto.skip-empty
    llama-bit.plain llama-bit.minimal llama-bit.skip-empty llama-bit.skip-suffix llama-bit.skip-suffix-q llama-bit.skip-suffix-up
    llama-bit.skip-suffix-k llama-bit.skip-regex-star llama-bit.skip-q-bias llama-bit.f16 llama-bit.zero-matrix
    llama-rms.plain llama-rms.skip-suffix-q llama-rms.skip-suffix-k llama-rms.skip-suffix-up llama-rms.skip-suffix-gate llama-rms.skip-regex
    llama-rms.norm-eps llama-rms.eps-missing
    llama-rms-bit.plain llama-rms-bit.skip-suffix-q llama-rms-bit.skip-suffix-k llama-rms-bit.skip-suffix-up llama-rms-bit.norm-eps
    qwen3.plain qwen3.sliding qwen3.sliding-all qwen3.sliding-off qwen3.sliding-types qwen3.sliding-types-missing qwen3.sliding-null
    qwen3.sliding-yarn qwen3.tied-but-head qwen3.bias qwen3-online.sliding qwen3-online.skip-suffix-up qwen3-online.rope-yarn
    qwen3-bit.plain qwen3-rms-bit.plain qwen3-rms-bit.sliding qwen3-rms-bit.skip-suffix-gate qwen3-rms-bit.skip-suffix-k
    gemma3.plain gemma3.untied gemma3.tie-missing gemma3.tied-but-head gemma3.pattern-2 gemma3.pattern-old gemma3.pattern-underscore
    gemma3.full-first gemma3.window-1 gemma3.query-scalar gemma3.rope-local gemma3.rope-old-keys gemma3.rope-linear
    gemma3-online.skip-suffix-q gemma3-online.skip-suffix-up gemma3-bit.plain
    llama-bit.depth-12 hunyuan-online.mixture-0 llama-bit.mixture-1 bitnet-packed.mixture-2 qwen3-online.mixture-3
    qwen3-bit.mixture-5 llama-online.mixture-6 qwen2-online.mixture-7 gemma3-online.mixture-9 gemma3-bit.mixture-12
    llama-auto.mixture-14 llama-rms-bit.mixture-15 qwen2-bit.mixture-16 hunyuan-bit.mixture-17 llama-rms.mixture-18
    qwen3-rms-bit.mixture-23 bitnet.mixture-31
    qwen2.plain qwen2.sliding qwen2-online.plain qwen2-online.skip-suffix-q qwen2-bit.plain
    hunyuan.plain hunyuan.tied-but-head hunyuan-online.skip-suffix-up hunyuan-bit.plain
    onebitllm.plain onebitllm.untied onebitllm.odd embedding-qwen3.plain embedding-qwen3.sliding embedding-gemma3.plain
""".split(), "") | {
    "bitnet.tied-tie-missing": "lm_head.weight", "llama.tied-tie-missing": "lm_head.weight",
    "llama.rope-dynamic": "dynamic", "llama.rope-longrope": "longrope", "llama.rope-partial-top": "partial_rotary_factor",
    "llama.rope-proportional": "proportional", "llama.rope-unknown-kind": "su", "llama.causal-key": "is_causal",
    "llama.extra-layer": "model.layers.2.", "llama.fewer-layers": "model.layers.2.", "llama.more-layers": "model.layers.2.",
    "llama.extra-tensor": "rel_pos", "llama.bias-unasked": "q_proj.bias", "llama.bias-missing": ".bias",
    "llama.act-mish": "mish", "llama.vocab-smaller": "embed_tokens",
    "llama-bit.contradiction": "q_proj", "llama-bit.contradiction-packed": "note: q_proj", "llama-bit.masters": "_proj", "llama-bit.code-3": "code 3",
    "llama-auto.masters": "_proj", "llama-online.unknown-method": "bitnet158",
    "llama-online.packed": "quantization_mode", "llama-online.unknown-class": "linear_class", "llama-online.unknown-mode": "quantization_mode", "llama-online.skip-regex-look": "(?!",
    "gemma3.attn-softcap": "attn_logit_softcapping", "gemma3.final-softcap": "final_logit_softcapping",
    "gemma3.bidirectional": "use_bidirectional_attention", "gemma3.rope-local-linear": "linear", "gemma3.rope-dynamic": "dynamic",
    "onebitllm.rope-dynamic": "dynamic", "embedding-gemma3.softcap": "final_logit_softcapping",
}
SMALL = {"vocab_size": 48, "hidden_size": 16, "intermediate_size": 24}


# --- building ----------------------------------------------------------------------------------------


def fill(model, seed, gemma, tied):
    """Random weights in place."""
    import torch

    g = torch.Generator().manual_seed(seed)
    for name, p in sorted(model.named_parameters()):
        with torch.no_grad():
            if name.endswith("norm.weight") or "layernorm" in name or "sub_norm" in name:
                w = 0.5 + torch.rand(p.shape, generator=g)
                if gemma and name == "model.norm.weight":  # see families.make_tensors
                    w = torch.where(torch.rand(p.shape, generator=g) < 0.5, w, -w)
                w = w - 1 if gemma else w
            elif name.endswith("bias"):
                w = torch.randn(p.shape, generator=g) * 0.4
            elif "embed_tokens" in name:
                w = torch.randn(p.shape, generator=g) * (0.2 if tied or gemma else 1.0)
            elif "lm_head" in name:
                w = torch.randn(p.shape, generator=g) * 0.3
            else:
                std = 1.5 / math.sqrt(p.shape[1]) * math.exp(0.6 * (torch.rand(1, generator=g).item() - 0.5))
                w = torch.randn(p.shape, generator=g) * std
            p.copy_(w.bfloat16())  # so that every dtype of file holds the same


def quantization(case):
    quant = BASES[case.base][2]
    if quant is None:
        return None
    return {k: v for k, v in (quant | case.quant).items() if v is not DROP}


def converted(model, quant, skip):
    """Names of the linear modules that transformers makes BitLinear."""
    import torch
    from transformers.quantizers.base import HfQuantizer
    from transformers.quantizers.quantizers_utils import should_convert_module

    if skip is None:
        skip = quant.get("modules_to_not_convert")
    names = HfQuantizer.get_modules_to_not_convert(model, skip, model._keep_in_fp32_modules)
    return [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear) and should_convert_module(n, names)]


def write_tensors(folder, tensors, shards):
    for file in os.listdir(folder):
        if file.endswith(".safetensors") or file.endswith(".index.json"):
            os.remove(os.path.join(folder, file))
    f = families.Family("", {}, shards=shards)
    families.write_weights(f, folder, tensors)


def build(case, folder, seed):
    """Writes the folder of a case, without its reference."""
    import torch
    import transformers
    from safetensors.torch import load_file
    from transformers.integrations.bitnet import pack_weights

    cls, own, _ = BASES[case.base]
    model_class = getattr(transformers, cls)
    keys = SHAPE | own | case.config
    if cls.startswith("BitNet") and "head_dim" not in keys:
        keys.pop("head_dim", None)
    config = model_class.config_class(**copy.deepcopy(keys))
    model = model_class(config)
    gemma = cls.startswith("Gemma")
    fill(model, seed, gemma, config.tie_word_embeddings)
    quant = quantization(case)
    bit = converted(model, quant, case.skip) if quant else []
    model.to(getattr(torch, case.dtype)).save_pretrained(folder)
    tensors = load_file(os.path.join(folder, "model.safetensors"))
    with open(os.path.join(folder, "config.json")) as f:
        written = json.load(f)
    if quant:
        written["quantization_config"] = quant
        g = torch.Generator().manual_seed(seed + 1000)
        for name in bit:
            if quant.get("use_rms_norm"):
                n = model.get_submodule(name).in_features
                tensors[name + ".rms_norm.weight"] = (0.5 + torch.rand(n, generator=g)).bfloat16().to(getattr(torch, case.dtype))
            if BASES[case.base][2]["quantization_mode"] == "offline" and name + ".weight" in tensors:
                w = tensors[name + ".weight"].float()
                codes, inverse = families.absmean(w)
                scale = 1 / inverse if quant.get("linear_class") == "autobitlinear" else inverse
                tensors[name + ".weight"] = pack_weights(codes)
                tensors[name + ".weight_scale"] = scale.reshape(1).bfloat16().to(getattr(torch, case.dtype))
    for key, value in case.edit.items():
        if value is DROP:
            written.pop(key, None)
        else:
            written[key] = value
    if case.tensors:
        case.tensors(tensors, written)
    write_tensors(folder, tensors, case.shards)
    families.write_json(os.path.join(folder, "config.json"), written)


def build_foreign(family, folder, seed):
    tensors = families.make_tensors(family, seed)
    families.write_json(os.path.join(folder, "config.json"), family.config)
    families.write_weights(family, folder, tensors)


class Slack:
    """How near a half any quantised activation came, in int8 steps; watches every quantiser of transformers and of ours."""

    def __init__(self):
        import onebitllm
        import torch
        from transformers.integrations import bitnet

        self.least = math.inf
        old_forward, old_quant, old_ours = bitnet.ActQuant.forward, bitnet.BitLinear.activation_quant, onebitllm.quantize_activation

        def see(x):
            x = x.detach().double()
            x = x * (127 / x.abs().amax(-1, keepdim=True).clamp(min=1e-5))
            self.least = min(self.least, (x - x.floor() - 0.5).abs().min().item())

        def forward(ctx, x):
            see(x)
            return old_forward(ctx, x)

        def activation_quant(module, x, num_bits=8):
            see(x)
            return old_quant(module, x, num_bits)

        def ours(x):
            see(x)
            return old_ours(x)

        bitnet.ActQuant.forward = staticmethod(forward)
        bitnet.BitLinear.activation_quant = activation_quant
        onebitllm.quantize_activation = ours
        if "embedding" in sys.modules:
            sys.modules["embedding"].quantize_activation = ours


def prompts(vocab, longest=None):
    import torch

    g = torch.Generator().manual_seed(33)
    lengths = (*PROMPTS[:-1], longest or PROMPTS[-1])
    return [torch.randint(0, vocab, (n,), generator=g).tolist() for n in lengths]


def make(item, out, watch, seeds):
    """Builds one folder with its reference; returns a line about it."""
    import torch

    folder = os.path.join(out, item.name)
    about, best = {}, (-1.0, 0)
    tries = [*range(1, seeds + 1), None]
    if getattr(item, "seed", None):
        tries, best = [None], (0, item.seed)
    for seed in tries:
        last = seed is None
        seed = seed or best[1]  # none is clear of a half: the clearest
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        if isinstance(item, Case):
            build(item, folder, seed)
        else:
            build_foreign(item, folder, seed)
        try:
            if made_up := missing(item, folder):
                about = {"transformers": "makes up tensors that the file lacks: " + ", ".join(made_up[:4])}
                break
            model = reference.load(folder, torch.float32)
            vocab = model.config.vocab_size
            ids = prompts(vocab, getattr(item, "prompt", None))
            watch.least = math.inf
            for prompt in ids:
                with torch.no_grad():
                    model(input_ids=torch.tensor([prompt]), use_cache=False)
            if watch.least < NEAR and not last:
                best = max(best, (watch.least, seed))
                continue
            tensors = reference.reference(model, ids, positions=8 if getattr(item, "seed", None) else POSITIONS, greedy_tokens=GREEDY)
        except Exception as e:  # whatever transformers says of such a folder is the result
            words = " ".join(str(e).split())
            about = {"transformers": f"{type(e).__name__}: {words[:300]}"}
            break
        if not all(torch.isfinite(t).all() for t in tensors.values() if t.is_floating_point()):
            about = {"transformers": "computes numbers that are not finite"}
            break
        if not agrees(model, tensors, len(ids)):
            about = {"cache": "generate() computes something else than the forward pass; no greedy continuation is kept"}
            tensors = {name: t for name, t in tensors.items() if ".greedy" not in name}
        meta = reference.metadata(model, folder, "float32", ids, compiled=False)
        meta |= {"seed": str(seed), "slack": f"{watch.least:.1e}"}
        meta.pop("date")
        reference.write(os.path.join(folder, "ref.safetensors"), tensors, meta)
        break
    if "transformers" in about:
        stub(folder)
    families.write_json(os.path.join(folder, "case.json"), {"name": item.name} | about)
    return about.get("transformers", f"seed {seed}, slack {watch.least:.1e}")


def stub(folder):
    """A reference of zeros, by which run sees whether trit loads what transformers does not."""
    import torch

    with open(os.path.join(folder, "config.json")) as f:
        c = json.load(f)
    tensors = {"prompt.0.ids": torch.ones(1, dtype=torch.int32), "prompt.0.final": torch.zeros(1, c["hidden_size"]),
               "prompt.0.logits": torch.zeros(1, c["vocab_size"])}
    tensors |= {f"prompt.0.hidden.{n}": torch.zeros(1, c["hidden_size"]) for n in range(c["num_hidden_layers"] + 1)}
    reference.write(os.path.join(folder, "stub.safetensors"), tensors, {"format": reference.FORMAT, "dtype": "float32"})


def missing(item, folder):
    """Tensors of the model that the file does not have and from_pretrained therefore makes up."""
    from transformers import AutoModelForCausalLM

    if not isinstance(item, Case):
        return []  # loaded strictly
    _, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    return sorted(info["missing_keys"])


def agrees(model, tensors, prompts):
    """Whether transformers' cache and its forward pass choose the same tokens."""
    import torch

    for n in range(prompts):
        ids, new = tensors[f"prompt.{n}.ids"], tensors[f"prompt.{n}.greedy"]
        with torch.no_grad():
            logits = model(input_ids=torch.cat([ids, new[:-1]]).long()[None], use_cache=False).logits[0, len(ids) - 1:]
        chosen = logits.gather(1, new.long()[:, None])[:, 0]
        if (logits.max(-1).values - chosen > 1e-3 * (logits.max() - logits.min())).any():
            return False
    return True


def everything():
    seen = set()
    for item in [*cases(), *foreign()]:
        if item.name in seen:
            raise SystemExit(f"matrix.py: two cases are called {item.name}")
        seen.add(item.name)
        yield item


def make_goldens(args):
    global PROMPTS, GREEDY, POSITIONS
    PROMPTS, GREEDY, POSITIONS = (40,), 4, 2
    SHAPE.update(SMALL)
    for _, own, _ in BASES.values():
        own.update({"head_dim": 8} if "head_dim" in own else {})
    LONG.update({k: LONG[k][:4] for k in ("short_factor", "long_factor")})
    items = {item.name: item for item in everything()}
    for name in GOLDENS:
        if isinstance(items[name], Case):
            items[name].dtype = "bfloat16" if items[name].dtype == "float32" else items[name].dtype
        else:
            items[name].config |= SMALL | {"vocab_size": 47} if name.endswith(".odd") else SMALL
    make_all(args, [items[name] for name in GOLDENS])
    for name in GOLDENS:  # what the suite does not read
        for file in ("case.json", "stub.safetensors", "generation_config.json", *(["ref.safetensors"] if GOLDENS[name] else [])):
            if os.path.exists(path := os.path.join(args.dir, name, file)):
                os.remove(path)
    families.write_json(os.path.join(args.dir, "expected.json"), GOLDENS)


def make_all(args, items):
    reference.setup(args.threads)
    import transformers

    import embedding  # noqa: F401  before Slack, which patches it

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    watch = Slack()
    gc.freeze()  # what is imported need not be looked through each time
    os.makedirs(args.dir, exist_ok=True)
    for item in items:
        if args.only and not any(word in item.name for word in args.only):
            continue
        if args.missing and os.path.exists(os.path.join(args.dir, item.name, "case.json")):
            continue
        start = time.time()
        try:
            line = make(item, args.dir, watch, args.seeds)
        except Exception as e:  # the configuration class itself refuses: there is no such model
            shutil.rmtree(os.path.join(args.dir, item.name), ignore_errors=True)
            line = f"NOT MADE, {type(e).__name__}: {' '.join(str(e).split())[:200]}"
        print(f"{item.name}: {line} ({time.time() - start:.1f} s)", flush=True)


# --- judging -----------------------------------------------------------------------------------------


STRICT = ["--min-correlation", "0.99999999", "--max-difference", "0.0001"]


def verify(trit, folder, file, *more):
    """(exit code, words) of trit verify."""
    command = [trit, "verify", folder, "--reference", os.path.join(folder, file), "--no-packed-copy", *more]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return -1, "it does not end within 120 s"
    return done.returncode, " ".join(done.stderr.split())


def judge(trit, folder):
    """(verdict, words) for one folder."""
    with open(os.path.join(folder, "case.json")) as f:
        refused = json.load(f).get("transformers")
    if refused:
        code, words = verify(trit, folder, "stub.safetensors")
    else:
        code, words = verify(trit, folder, "ref.safetensors", *STRICT)
    if "panic:" in words or "goroutine " in words or code < 0:
        return "WRONG", "panic: " + words[:400]
    if code == 3 and not refused:
        if slack(folder) < NEAR / 3 and verify(trit, folder, "ref.safetensors")[0] == 0:
            return "close", "an activation is so near a half that float32 may round it either way; " + words[:200]
        return "WRONG", words[:400]
    if code not in (0, 3):
        return "refused", words.replace(folder + "/", "").replace(folder, "")[:400]
    return ("beyond", f"transformers: {refused}; trit: {words[:200]}") if refused else ("exact", "")


def slack(folder):
    with open(os.path.join(folder, "ref.safetensors"), "rb") as f:
        n = int.from_bytes(f.read(8), "little")
        return float(json.loads(f.read(n))["__metadata__"]["slack"])


REASONS = (  # what a refusal is about, by a word of it; the first that fits counts
    ("rope_scaling type", "kinds of rotary positions"), ("partial_rotary_factor", "partial rotary positions"),
    ("sliding_attention has rope_type", "scaled rotary positions in sliding layers"), ("hidden_act", "activation functions"),
    ("nothing in a model", "tensors that nobody reads"), ("bias is false", "biases that the configuration denies"),
    ("missing", "tensors that the file lacks"), ("softcapping", "soft caps"), ("bidirectional", "attention that looks ahead"),
    ("is_causal", "attention that looks ahead"), ("layer_types", "windows without their keys"), ("quant", "quantization_config"),
    ("shape", "shapes"), ("malformed", "damage"),
)


def reasons(results):
    out = collections.defaultdict(list)
    for name, verdict, words in results:
        if verdict == "refused":
            out[next((reason for word, reason in REASONS if word in words), "other")].append(name)
    return dict(sorted(out.items(), key=lambda kv: -len(kv[1])))


def run_all(args):
    results = []
    for name in sorted(os.listdir(args.dir)):
        folder = os.path.join(args.dir, name)
        if not os.path.exists(os.path.join(folder, "case.json")) or (args.only and not any(w in name for w in args.only)):
            continue
        verdict, words = judge(args.trit, folder)
        results.append((name, verdict, words))
        if verdict == "WRONG" or args.all:
            print(f"{verdict:8s} {name}: {words}", flush=True)
    counts = collections.Counter(v for _, v, _ in results)
    print(f"\n{len(results)} models: " + ", ".join(f"{counts[v]} {v}" for v in ("exact", "close", "refused", "beyond", "WRONG")))
    for reason, names in reasons(results).items():
        print(f"{len(names):5d} refused: {reason}: {', '.join(names[:4])}{', …' if len(names) > 4 else ''}")
    if args.json:
        families.write_json(args.json, {n: {"verdict": v, "words": w} for n, v, w in results})
    return counts["WRONG"] == 0


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="verb", required=True)
    m = sub.add_parser("make", help="make the folders")
    m.add_argument("dir")
    m.add_argument("--only", nargs="*", default=[], help="cases with one of these words in their name")
    m.add_argument("--missing", action="store_true", help="only those that are not there yet")
    m.add_argument("--seeds", type=int, default=12, help="try so many for one without an activation near a half")
    m.add_argument("--threads", type=int, default=1)
    g = sub.add_parser("goldens", help="make the quarter that is committed, smaller still and in bf16")
    g.add_argument("dir")
    g.add_argument("--only", nargs="*", default=[])
    g.add_argument("--missing", action="store_true")
    g.add_argument("--seeds", type=int, default=40)
    g.add_argument("--threads", type=int, default=1)
    r = sub.add_parser("run", help="judge trit by the folders")
    r.add_argument("dir")
    r.add_argument("--trit", default="./trit")
    r.add_argument("--only", nargs="*", default=[])
    r.add_argument("--all", action="store_true", help="a line for every model, not for the WRONG ones only")
    r.add_argument("--json", metavar="FILE", help="write the verdicts there")
    args = p.parse_args()
    if args.verb == "make":
        make_all(args, everything())
    elif args.verb == "goldens":
        make_goldens(args)
    elif not run_all(args):
        sys.exit(1)


if __name__ == "__main__":
    main()
