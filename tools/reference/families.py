#!/usr/bin/env python3
"""Makes the golden models: one small random model per family, with transformers' own results beside it.

    families.py --out ../../testdata/goldens [--only NAME ...] [--search]

Each folder looks like a published checkpoint of its family: config.json with that family's keys and
quirks, weights under its tensor names, tokenizer, generation_config.json. Weights are packed by
transformers' own pack_weights, models are loaded by from_pretrained, and what they compute is
written by reference.py to reference.f32.safetensors and reference.bf16.safetensors.

A golden must not hinge on the last bit of a float. So seeds are passed over where an activation of a prompt lies so
near a half that float32 may round it either way, where exact.py's plain arithmetic chooses another token, or
where bf16 is unusually far off; of the rest the one is kept whose greedy steps are the most clear-cut.
"""

import argparse
import json
import math
import os
import shutil
import sys

import numpy as np

import exact  # beside this file
import reference

# Text of our own that the tokenizers are trained on.
TEXT = """
A ternary weight is minus one, zero or plus one. A product with it is a sum, a difference or nothing at all.
The scale of a matrix is the mean of its absolute values, and one number serves the whole matrix.
Each token brings its own scale: the largest absolute value becomes one hundred and twenty-seven.
What is exact stays exact: the order of the sums, the number of threads and the size of the batch do not matter.
User: What does the model read first? Assistant: The model reads the embedding of every token, then block after block.
The river was low that summer, and the children walked across it on the stones that the water had left.
There were 12 stones, 7 of them dry; in 1998 there had been none. It's theirs, they'd say, we'll see, I'm sure you've heard.
"""


class Family:
    """What one golden folder contains.

    config     config.json as a dict
    dtype      dtype of the floating-point tensors in the file
    pack       None: linear layers are stored as floats; "multiply": packed, weight_scale = mean|W|;
               "divide": packed, weight_scale = 1/mean|W|; "divide-bf16": the same computed in bf16 throughout
    tokenizer  "llama3", "falcon", "qwen", "neox", "sentencepiece", "qwen-embedding", "gemma"
    stop       ids of generation_config.json's eos_token_id (default: the config's)
    sub_norms  names of the norms before o_proj and down_proj
    proj_norm  name of the norm that every quantised linear layer has of its own
    qk_norm    norms on the heads of q and k
    bias       the linear layers of blocks have biases
    pack_head  lm_head is packed too
    shards     number of safetensors files
    blocks     0, or: weights are stored as floats that are ternary already, with one scale for each of this many
               shards (of rows for q, k, v, gate, up; of columns for o and down)
    online     config.json does not say so, but the weights are masters to be quantised as they are used
    repeat_key text of a second quantization_config in config.json, after the first
    bare       tensors lack "model." in front, and there is no head
    text       a fourth prompt
    """

    def __init__(self, name, config, dtype="bfloat16", pack=None, tokenizer="llama3", stop=None, sub_norms=None,
                 proj_norm=None, qk_norm=False, bias=False, pack_head=False, shards=1, blocks=0, online=False,
                 repeat_key=None, bare=False, text=None):
        self.name, self.config, self.dtype, self.pack, self.tokenizer, self.stop = name, config, dtype, pack, tokenizer, stop
        self.sub_norms, self.proj_norm, self.qk_norm, self.bias, self.pack_head = sub_norms, proj_norm, qk_norm, bias, pack_head
        self.shards, self.blocks, self.online, self.repeat_key = shards, blocks, online, repeat_key
        self.bare, self.text = bare, text


def bitnet_2b4t(mode):
    return {
        "architectures": ["BitNetForCausalLM"],
        "auto_map": {"AutoConfig": "configuration_bitnet.BitNetConfig",
                     "AutoModelForCausalLM": "modeling_bitnet.BitNetForCausalLM"},
        "bos_token_id": 312, "eos_token_id": 313, "hidden_act": "relu2", "hidden_size": 128, "initializer_range": 0.02,
        "intermediate_size": 256, "max_position_embeddings": 256, "model_type": "bitnet", "rms_norm_eps": 1e-05,
        "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "rope_theta": 500000.0,
        "tie_word_embeddings": True, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 320,
        "quantization_config": {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": mode},
    }


def onebitllm():
    return {
        "_name_or_path": "1bitLLM/bitnet_b1_58-3B", "architectures": ["BitnetForCausalLM"], "attention_bias": False,
        "attention_dropout": 0.0, "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 200,
        "initializer_range": 0.02, "input_bits": 8, "intermediate_size": 136, "max_position_embeddings": 256,
        "model_type": "llama", "num_attention_heads": 2, "num_hidden_layers": 2, "num_key_value_heads": 2,
        "pad_token_id": 320, "pretraining_tp": 1, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0,
        "tie_word_embeddings": True, "torch_dtype": "float16", "transformers_version": "4.39.0", "use_cache": True,
        "vocab_size": 322, "weight_bits": 1,
    }


def llama3_8b_158():
    return {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 312,
        "eos_token_id": 314, "hidden_act": "silu", "hidden_size": 256, "initializer_range": 0.02,
        "intermediate_size": 512, "is_bitnet_config": True, "max_position_embeddings": 256, "mlp_bias": False,
        "model_type": "llama", "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
        "pretraining_tp": 1, "quantization_config": {"modules_to_not_convert": None, "quant_method": "bitnet"},
        "rms_norm_eps": 1e-05, "rope_interleaved": False, "rope_scaling": None, "rope_theta": 500000.0,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.44.0.dev0",
        "use_cache": True, "vocab_size": 320,
    }


def falcon3():
    return {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "eos_token_id": 11,
        "head_dim": 256, "hidden_act": "silu", "hidden_size": 128, "initializer_range": 0.02, "intermediate_size": 256,
        "is_bitnet_config": True, "max_position_embeddings": 256, "mlp_bias": False, "model_type": "llama",
        "num_attention_heads": 2, "num_hidden_layers": 3, "num_key_value_heads": 1, "pretraining_tp": 1,
        "quantization_config": {"modules_to_not_convert": ["lm_head"], "quant_method": "bitnet"},
        "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000042, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "transformers_version": "4.48.0.dev0", "use_cache": True, "vocab_size": 320,
    }


def falcon_e(packed):
    c = {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 1,
        "eos_token_id": 11, "head_dim": 32, "hidden_act": "silu", "hidden_size": 128, "initializer_range": 0.02,
        "intermediate_size": 256, "max_position_embeddings": 256, "mlp_bias": False, "model_type": "llama",
        "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 1, "pretraining_tp": 1,
        "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 1000000.0, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "transformers_version": "4.51.3", "use_cache": True, "vocab_size": 320,
    }
    if packed:
        c |= {"is_bitnet_config": True,
              "quantization_config": {"modules_to_not_convert": ["lm_head"], "quant_method": "bitnet"}}
    return c


def qwen3_bitnet():
    return {
        "architectures": ["Qwen3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 312,
        "eos_token_id": 314, "head_dim": 48, "hidden_act": "silu", "hidden_size": 128, "initializer_range": 0.02,
        "intermediate_size": 256, "max_position_embeddings": 256, "max_window_layers": 2, "model_type": "qwen3",
        "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
        "quantization_config": {"linear_class": "bitlinear", "modules_to_not_convert": [], "quant_method": "bitnet",
                                "quantization_mode": "offline", "use_rms_norm": True},
        "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None,
        "tie_word_embeddings": False, "torch_dtype": "bfloat16", "transformers_version": "4.53.0.dev0",
        "use_cache": True, "use_sliding_window": False, "vocab_size": 320,
    }


def llama_bias():
    return {
        "architectures": ["LlamaForCausalLM"], "attention_bias": True, "attention_dropout": 0.0, "bos_token_id": 312,
        "eos_token_id": 313, "head_dim": 32, "hidden_act": "silu", "hidden_size": 128, "initializer_range": 0.02,
        "intermediate_size": 256, "max_position_embeddings": 256, "mlp_bias": True, "model_type": "llama",
        "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2,
        "quantization_config": {"linear_class": "bitlinear", "modules_to_not_convert": None, "quant_method": "bitnet",
                                "quantization_mode": "offline", "rms_norm_eps": 1e-05, "use_rms_norm": True},
        "rms_norm_eps": 1e-06, "rope_scaling": None, "rope_theta": 500000.0, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "transformers_version": "4.53.0.dev0", "use_cache": True, "vocab_size": 320,
    }


def llama_auto_bias():
    c = llama_bias()
    c["hidden_size"], c["intermediate_size"], c["head_dim"] = 96, 128, 24
    c["quantization_config"] = {"linear_class": "autobitlinear", "quant_method": "bitnet", "quantization_mode": "offline"}
    return c


def bitnet_embedding_06b():
    return {
        "architectures": ["Qwen3Model"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 312,
        "eos_token_id": 312, "head_dim": 64, "hidden_act": "silu", "hidden_size": 128, "initializer_range": 0.02,
        "intermediate_size": 128, "max_position_embeddings": 256, "max_window_layers": 2, "model_type": "qwen3",
        "num_attention_heads": 4, "num_hidden_layers": 2, "num_key_value_heads": 2, "rms_norm_eps": 1e-06,
        "rope_scaling": None, "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": True,
        "torch_dtype": "bfloat16", "transformers_version": "4.57.1", "use_cache": True, "use_sliding_window": False,
        "vocab_size": 320,
    }


def bitnet_embedding_270m():
    return {
        "_sliding_window_pattern": 6, "architectures": ["Gemma3TextModel"], "attention_bias": False,
        "attention_dropout": 0.0, "attn_logit_softcapping": None, "bos_token_id": 2, "eos_token_id": 1,
        "final_logit_softcapping": None, "head_dim": 64, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 128,
        "initializer_range": 0.02, "intermediate_size": 128, "layer_types": ["sliding_attention", "full_attention"],
        "max_position_embeddings": 256, "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 2,
        "num_key_value_heads": 1, "pad_token_id": 0, "query_pre_attn_scalar": 48, "rms_norm_eps": 1e-06,
        "rope_local_base_freq": 10000.0, "rope_scaling": None, "rope_theta": 1000000.0, "sliding_window": 16,
        "torch_dtype": "bfloat16", "transformers_version": "4.57.1", "use_bidirectional_attention": False,
        "use_cache": True, "vocab_size": 320,
    }


def trilm():
    return {
        "architectures": ["LlamaForCausalLM"], "attention_bias": False, "attention_dropout": 0.0, "bos_token_id": 0,
        "dims_per_head": 32, "eos_token_id": 0, "head_dim": 32, "hidden_act": "silu", "hidden_size": 128,
        "initializer_range": 0.02, "intermediate_size": 192, "layer_norm_eps": 1e-05, "max_position_embeddings": 256,
        "mlp_bias": False, "model_type": "llama", "num_attention_heads": 4, "num_hidden_layers": 2,
        "num_key_value_heads": 4, "pretraining_model_parallel": 2, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": None, "rope_theta": 10000.0, "rotary_emb_base": 10000, "rotary_pct": 1.0,
        "tie_word_embeddings": False, "torch_dtype": "float16", "transformers_version": "4.41.0", "use_cache": True,
        "vocab_size": 320,
    }


SUB_NORMS = ("self_attn.attn_sub_norm", "mlp.ffn_sub_norm")


def families():
    """(seed, families) groups; the members of a group have the same weights, stored differently. Seeds by --search."""
    return [
        # microsoft/bitnet-b1.58-2B-4T-bf16 and microsoft/bitnet-b1.58-2B-4T
        (192, [Family("bitnet-2b4t-bf16", bitnet_2b4t("online"), sub_norms=SUB_NORMS, stop=[313, 314]),
               Family("bitnet-2b4t", bitnet_2b4t("offline"), pack="multiply", sub_norms=SUB_NORMS, stop=[313, 314])]),
        # 1bitLLM/bitnet_b1_58-3B: heads of 100, in-features that are no multiple of 16 (there: of 128)
        (132, [Family("onebitllm", onebitllm(), dtype="float16", tokenizer="sentencepiece",
                      sub_norms=("self_attn.inner_attn_ln", "mlp.ffn_layernorm"))]),
        # HF1BitLLM/Llama3-8B-1.58-100B-tokens: two keys of the same name in config.json
        (402, [Family("llama3-8b-1.58", llama3_8b_158(), pack="divide", shards=2, repeat_key='{"quant_method": "bitnet"}')]),
        # tiiuae/Falcon3-1B-Instruct-1.58bit: head_dim apart from hidden_size, no BOS
        (332, [Family("falcon3", falcon3(), pack="divide", tokenizer="falcon")]),
        # tiiuae/Falcon-E-1B-Base and its revision prequantized
        (215, [Family("falcon-e", falcon_e(True), pack="divide-bf16", tokenizer="falcon"),
               Family("falcon-e-prequantized", falcon_e(False), tokenizer="falcon", online=True)]),
        # codys12/Qwen3-8B-BitNet: the head is packed too and has its own norm
        (202, [Family("qwen3-bitnet", qwen3_bitnet(), pack="divide", tokenizer="qwen", proj_norm="rms_norm", qk_norm=True,
                      pack_head=True)]),
        # microsoft/bitnet-embedding-0.6b and -270m before their conversion to GGUF: masters of the bare models, a norm in
        # front of every projection
        (284, [Family("bitnet-embedding-0.6b", bitnet_embedding_06b(), tokenizer="qwen-embedding", proj_norm="norm",
                    qk_norm=True, bare=True, text="query: What does it read?")]),
        (367, [Family("bitnet-embedding-270m", bitnet_embedding_270m(), tokenizer="gemma", proj_norm="norm", qk_norm=True,
                    bare=True, text="query: The river was low")]),
        # codys12/bitnet-r1-*: norm inside BitLinear on Llama; here with biases everywhere
        (263, [Family("llama-bias", llama_bias(), pack="divide", proj_norm="rms_norm", bias=True)]),
        # biases in packed autobitlinear layers: weight_scale multiplies them too
        (3, [Family("llama-auto-bias", llama_auto_bias(), pack="multiply", bias=True)]),
        # SpectraSuite/TriLM_*_Unpacked: ternary already, two model-parallel shards, activations as they are
        (15, [Family("trilm", trilm(), dtype="float16", tokenizer="neox", blocks=2)]),
    ]


# --- weights -------------------------------------------------------------------------------------


def layer_shapes(c):
    """{name: (out, in)} of the linear layers of a block."""
    d, f, h, kv = c["hidden_size"], c["intermediate_size"], c["num_attention_heads"], c["num_key_value_heads"]
    hd = c.get("head_dim") or d // h
    return {
        "self_attn.q_proj": (h * hd, d), "self_attn.k_proj": (kv * hd, d), "self_attn.v_proj": (kv * hd, d),
        "self_attn.o_proj": (d, h * hd), "mlp.gate_proj": (f, d), "mlp.up_proj": (f, d), "mlp.down_proj": (d, f),
    }


def make_tensors(family, seed):
    """State dict as published. Every norm weight, scale and bias is distinct, so that a mix-up shows."""
    import torch

    c = family.config
    g = torch.Generator().manual_seed(seed)
    dtype = getattr(torch, family.dtype)
    d, f, layers, vocab = c["hidden_size"], c["intermediate_size"], c["num_hidden_layers"], c["vocab_size"]
    h = c["num_attention_heads"]
    hd = c.get("head_dim") or d // h
    gemma = c["model_type"] == "gemma3_text"  # whose norms multiply by 1+w
    t = {}

    # Every value is a bf16 one, in float16 files too: a master rounded to bf16 on loading has other ternary codes,
    # and the bf16 reference would then be of another model.
    def normal(shape, std):
        return (torch.randn(shape, generator=g) * std).bfloat16().to(dtype)

    def norm_weight(n):
        w = 0.5 + torch.rand(n, generator=g)
        return (w - 1 if gemma else w).bfloat16().to(dtype)

    def linear(prefix, out, inp, packed, ternary):
        # The standard deviation differs from matrix to matrix: a swapped scale must show.
        std = 1.5 / math.sqrt(inp) * math.exp(0.6 * (torch.rand(1, generator=g).item() - 0.5))
        w = normal((out, inp), std)
        if ternary:
            w = ternarize(w.float(), family.blocks, by_column=prefix.endswith(("o_proj", "down_proj"))).to(dtype)
        if packed:
            from transformers.integrations.bitnet import pack_weights

            # onebitllms (tiiuae) takes the mean and the quotient in the dtype of the weights
            codes, inverse = absmean(w if packed == "divide-bf16" else w.float())
            t[prefix + ".weight"] = pack_weights(codes)
            t[prefix + ".weight_scale"] = (1 / inverse if packed == "multiply" else inverse).to(torch.bfloat16).reshape(1)
        else:
            t[prefix + ".weight"] = w
        if family.bias and prefix != "lm_head":
            t[prefix + ".bias"] = normal((out,), 0.2)
        if family.proj_norm:
            t[f"{prefix}.{family.proj_norm}.weight"] = (0.5 + torch.rand(inp, generator=g)).bfloat16().to(dtype)

    t["model.embed_tokens.weight"] = normal((vocab, d), 0.12 if c.get("tie_word_embeddings") or gemma else 1.0)
    for i in range(layers):
        p = f"model.layers.{i}."
        t[p + "input_layernorm.weight"] = norm_weight(d)
        t[p + "post_attention_layernorm.weight"] = norm_weight(d)
        if gemma:
            t[p + "pre_feedforward_layernorm.weight"] = norm_weight(d)
            t[p + "post_feedforward_layernorm.weight"] = norm_weight(d)
        for name, (out, inp) in layer_shapes(c).items():
            linear(p + name, out, inp, family.pack, family.blocks)
        if family.sub_norms:
            t[p + family.sub_norms[0] + ".weight"] = norm_weight(h * hd)
            t[p + family.sub_norms[1] + ".weight"] = norm_weight(f)
        if family.qk_norm:
            t[p + "self_attn.q_norm.weight"] = norm_weight(hd)
            t[p + "self_attn.k_norm.weight"] = norm_weight(hd)
    t["model.norm.weight"] = norm_weight(d)
    if gemma:
        # Half of them negative: the residual stream carries a token's own embedding to the end, and with the tied head
        # every token would be its own likeliest successor.
        t["model.norm.weight"] = torch.where(torch.rand(d, generator=g) < 0.5, t["model.norm.weight"], -2 - t["model.norm.weight"])
    if family.bare:
        return {name.removeprefix("model."): x for name, x in t.items()}
    if not c.get("tie_word_embeddings"):
        if family.pack_head:
            linear("lm_head", vocab, d, family.pack, False)
        else:
            t["lm_head.weight"] = normal((vocab, d), 0.25)
    return t


def absmean(w):
    """Codes in {-1, 0, 1} and 1/mean|w|, in w's dtype, in the order of transformers' WeightQuant."""
    inverse = 1.0 / w.abs().mean().clamp(min=1e-5)
    return (w * inverse).round().clamp(-1, 1), inverse


def ternarize(w, blocks, by_column):
    """w quantised in `blocks` equal shards of rows (or columns), each with its own absmean scale."""
    import torch

    parts = []
    for part in torch.chunk(w, blocks, dim=1 if by_column else 0):
        codes, inverse = absmean(part)
        parts.append(codes * (1 / inverse).bfloat16().float())
    return torch.cat(parts, dim=1 if by_column else 0)


# --- tokenizers ----------------------------------------------------------------------------------

LLAMA3_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+")

TEMPLATE_2B4T = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}")


TEMPLATE_CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}")

TEMPLATE_FALCON = (
    "{% for message in messages %}{{ '<|' + message['role'] + '|>\\n' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% else %}{{ '\\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}")


def sentencepiece_bpe(vocab, added, folder):
    """SentencePiece BPE with byte fallback, as Llama 2's: writes tokenizer.model, returns the same as tokenizers.Tokenizer."""
    import io

    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.strip().splitlines()), model_writer=model, vocab_size=vocab - len(added), model_type="bpe",
        byte_fallback=True, character_coverage=1.0, split_digits=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, num_threads=1, minloglevel=2)
    with open(os.path.join(folder, "tokenizer.model"), "wb") as f:
        f.write(model.getvalue())
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = {sp.id_to_piece(i): i for i in range(sp.vocab_size())}
    t = Tokenizer(models.BPE(vocab=ids, merges=merges_of(sp, ids), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
                                   decoders.Strip(" ", 1, 0)])
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in ["<unk>", "<s>", "</s>", *added]])
    t.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    for line in TEXT.strip().splitlines():
        assert t.encode(line).ids == [1] + sp.encode(line), line
    return t


def gemma_bpe(vocab):
    """Gemma's kind of tokenizer.json: SentencePiece BPE with byte fallback, no space put in front; <bos> and <eos> around a text."""
    import io

    import sentencepiece
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.strip().splitlines()), model_writer=model, vocab_size=vocab, model_type="bpe",
        byte_fallback=True, character_coverage=1.0, split_digits=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, add_dummy_prefix=False, pad_id=0, eos_id=1, bos_id=2, unk_id=3, pad_piece="<pad>",
        eos_piece="<eos>", bos_piece="<bos>", unk_piece="<unk>", num_threads=1, minloglevel=2)
    sp = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    ids = {sp.id_to_piece(i): i for i in range(sp.vocab_size())}
    t = Tokenizer(models.BPE(vocab=ids, merges=merges_of(sp, ids), unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    t.normalizer = normalizers.Replace(" ", "\u2581")
    t.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    t.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in ["<pad>", "<eos>", "<bos>", "<unk>"]])
    t.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", pair="<bos> $A <eos> <bos>:1 $B:1 <eos>:1", special_tokens=[("<bos>", 2), ("<eos>", 1)])
    for line in TEXT.strip().splitlines():
        assert t.encode(line).ids == [2, *sp.encode(line), 1], line
    return t


def merges_of(sp, ids):
    """A merge for every way to put a piece together from two others, best piece first."""
    merges = []
    for piece, i in ids.items():
        ways = [(piece[:n], piece[n:]) for n in range(1, len(piece)) if piece[:n] in ids and piece[n:] in ids]
        merges += [(sp.get_score(i), pair) for pair in sorted(ways, key=lambda w: (ids[w[0]], ids[w[1]]))]
    return [pair for _, pair in sorted(merges, key=lambda m: m[0], reverse=True)]


def byte_level_bpe(vocab, specials, split=None, bos=None, specials_first=False, eos=None):
    """tokenizers.Tokenizer: byte-level BPE with `vocab` ids, the specials last (or first)."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    t = Tokenizer(models.BPE(ignore_merges=split is not None and eos is None))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    if split is not None:
        t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), byte_level])
    else:
        t.pre_tokenizer = byte_level
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(TEXT.splitlines(), trainers.BpeTrainer(
        vocab_size=vocab if specials_first else vocab - len(specials), show_progress=False,
        special_tokens=[AddedToken(s, normalized=False, special=True) for s in specials] if specials_first else [],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    if not specials_first:
        t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in specials])
    assert t.get_vocab_size() == vocab, t.get_vocab_size()
    if bos:
        post = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1",
                                             special_tokens=[(bos, t.token_to_id(bos))])
        t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), post])
    elif eos:
        post = processors.TemplateProcessing(single=f"$A {eos}", pair=f"$A {eos} $B:1 {eos}:1",
                                             special_tokens=[(eos, t.token_to_id(eos))])
        t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), post])
    else:
        t.post_processor = processors.ByteLevel(trim_offsets=False)
    return t


def write_tokenizer(family, folder):
    vocab = family.config["vocab_size"]
    kind = family.tokenizer
    config = {"clean_up_tokenization_spaces": True, "model_max_length": family.config["max_position_embeddings"],
              "tokenizer_class": "PreTrainedTokenizerFast"}
    if kind == "llama3":
        specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"] + \
            [f"<|reserved_special_token_{i}|>" for i in range(5)]
        t = byte_level_bpe(vocab, specials, LLAMA3_SPLIT, "<|begin_of_text|>")
        config |= {"bos_token": "<|begin_of_text|>", "eos_token": "<|end_of_text|>", "chat_template": TEMPLATE_2B4T}
    elif kind in ("qwen", "qwen-embedding"):
        specials = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"] + [f"<|extra_{i}|>" for i in range(5)]
        t = byte_level_bpe(vocab, specials, LLAMA3_SPLIT.replace(r"\p{N}{1,3}", r"\p{N}"),
                           eos="<|endoftext|>" if kind == "qwen-embedding" else None)
        config |= {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>", "chat_template": TEMPLATE_CHATML}
    elif kind == "falcon":
        # special ids come first; <|endoftext|> is 11
        specials = [f">>UNUSED_{i}<<" for i in range(8)] + ["<|system|>", "<|user|>", "<|assistant|>", "<|endoftext|>"]
        t = byte_level_bpe(vocab, specials, LLAMA3_SPLIT, specials_first=True)
        config |= {"eos_token": "<|endoftext|>", "chat_template": TEMPLATE_FALCON}
    elif kind == "neox":
        t = byte_level_bpe(vocab, ["<|endoftext|>", "<|padding|>"], specials_first=True)
        config |= {"bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    elif kind == "gemma":
        t = gemma_bpe(vocab)
        config |= {"bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>", "add_bos_token": True,
                   "add_eos_token": True, "clean_up_tokenization_spaces": False, "tokenizer_class": "GemmaTokenizerFast"}
    elif kind == "sentencepiece":
        t = sentencepiece_bpe(vocab, ["<pad>", "</line>"], folder)
        config |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>",
                   "add_bos_token": True, "add_eos_token": False, "legacy": False}
    else:
        raise ValueError(kind)
    t.save(os.path.join(folder, "tokenizer.json"), pretty=False)
    config["added_tokens_decoder"] = {
        str(i): {"content": a.content, "lstrip": False, "normalized": False, "rstrip": False, "single_word": False,
                 "special": True}
        for i, a in sorted(t.get_added_tokens_decoder().items())}
    write_json(os.path.join(folder, "tokenizer_config.json"), config)


# --- folders -------------------------------------------------------------------------------------


def write_json(path, value):
    with open(path, "w") as f:
        json.dump(value, f, indent=2, ensure_ascii=False)
        f.write("\n")


def write_weights(family, folder, tensors):
    meta = {"format": "pt"}
    if family.shards == 1:
        reference.write(os.path.join(folder, "model.safetensors"), tensors, meta)
        return
    names = list(tensors)
    cut = [names[i * len(names) // family.shards:(i + 1) * len(names) // family.shards] for i in range(family.shards)]
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": {}}
    for i, part in enumerate(cut):
        file = f"model-{i + 1:05d}-of-{family.shards:05d}.safetensors"
        reference.write(os.path.join(folder, file), {n: tensors[n] for n in part}, meta)
        index["weight_map"] |= {n: file for n in part}
    index["weight_map"] = dict(sorted(index["weight_map"].items()))
    write_json(os.path.join(folder, "model.safetensors.index.json"), index)


def write_folder(family, folder, tensors):
    if os.path.isdir(folder):
        shutil.rmtree(folder)
    os.makedirs(folder)
    path = os.path.join(folder, "config.json")
    write_json(path, family.config)
    if family.repeat_key:
        with open(path) as f:
            text = f.read()
        with open(path, "w") as f:
            f.write(text.removesuffix("\n}\n") + ',\n  "quantization_config": ' + family.repeat_key + "\n}\n")
    generation = {"_from_model_config": True, "bos_token_id": family.config.get("bos_token_id"),
                  "eos_token_id": family.stop or family.config["eos_token_id"], "transformers_version": "4.51.3"}
    write_json(os.path.join(folder, "generation_config.json"), {k: v for k, v in generation.items() if v is not None})
    write_weights(family, folder, tensors)
    write_tokenizer(family, folder)


def prompts(family, folder):
    """Three prompts of 1, 7 and 33 ids, the longer ones starting with BOS where the family has one; the family's text."""
    import torch

    g = torch.Generator().manual_seed(33)
    vocab, bos = family.config["vocab_size"], family.config.get("bos_token_id")
    out = []
    for n in (1, 7, 33):
        ids = torch.randint(0, min(vocab, 300), (n,), generator=g).tolist()
        if n > 1 and bos is not None:
            ids[0] = bos
        out.append(ids)
    if family.text:
        from tokenizers import Tokenizer

        out.append(Tokenizer.from_file(os.path.join(folder, "tokenizer.json")).encode(family.text).ids)
    return out


NEAR = 2e-5  # float32 is off by about 1e-5 of a code there


def slack(group, out, seed):
    """Builds the group; returns how near a half (in units of its int8 code) any activation of the prompts comes."""
    least = math.inf
    for family in group:
        folder = os.path.join(out, family.name)
        write_folder(family, folder, make_tensors(family, seed))
        model = exact.Model(folder)
        for ids in reversed(prompts(family, folder)):
            model.forward(np.array(ids))
            least = min(least, model.slack)
            if least < NEAR:
                return least
    return least


def trial(group, out, beat):
    """The built group's smallest greedy margin, or None when it is unfit as a golden or does not beat `beat`."""
    import torch

    margin = math.inf
    for family in group:
        folder = os.path.join(out, family.name)
        plain = exact.Model(folder)
        model = reference.load(folder, torch.float32, bitlinear_online=family.online)
        distinct, logits = 0, []
        for ids in prompts(family, folder):
            new, _, m = reference.greedy(model, ids, 64)
            margin = min(margin, m.min().item())
            if margin <= beat:
                return None
            distinct += len(set(new.tolist()))
            # The plain arithmetic in float64 must choose the same tokens.
            own = plain.forward(np.array(ids + new.tolist()[:-1]))["logits"][len(ids) - 1:]
            if (own.argmax(-1) != new.numpy()).any():
                return None
            logits.append(reference.forward(model, ids, list(range(len(ids))))["logits"])
        if distinct < 30:
            return None
        model = reference.load(folder, torch.bfloat16, bitlinear_online=family.online)
        coarse = [reference.forward(model, ids, list(range(len(ids))))["logits"] for ids in prompts(family, folder)]
        both = torch.stack([torch.cat(logits).flatten(), torch.cat(coarse).float().flatten()])
        # A model this small can be unlucky in bf16; the goldens should show rounding, not chaos.
        if torch.corrcoef(both)[0, 1] < 0.9993:
            return None
    return margin


def search(group, out, seeds, candidates):
    """The best seed for a group; see the top of this file."""
    best, tried = (0, None), 0
    for seed in range(1, seeds + 1):
        if slack(group, out, seed) < NEAR:
            continue
        tried += 1
        margin = trial(group, out, beat=best[0])
        if margin is not None:
            best = (margin, seed)
        if tried >= candidates and best[1]:
            return best[1]
    sys.exit(f"{group[0].name}: none of {seeds} seeds is fit; try more")


def make(group, out, seed):
    """Writes the folders of a group with their references; returns a row of the table for each."""
    import torch

    rows = []
    for family in group:
        folder = os.path.join(out, family.name)
        write_folder(family, folder, make_tensors(family, seed))
        got, ids = {}, prompts(family, folder)
        for short, dtype in (("f32", "float32"), ("bf16", "bfloat16")):
            model = reference.load(folder, getattr(torch, dtype), bitlinear_online=family.online)
            tensors = reference.reference(model, ids, positions=8)
            texts = [(len(ids) - 1, family.text)] if family.text else ()
            meta = reference.metadata(model, folder, dtype, ids, compiled=False, texts=texts)
            meta["seed"] = str(seed)
            meta.pop("date")  # goldens/README.md has it; without it a rebuild is byte-identical
            reference.write(os.path.join(folder, f"reference.{short}.safetensors"), tensors, meta)
            got[short] = torch.cat([tensors[f"prompt.{n}.logits"].float() for n in range(len(ids))])
            got[short + "margin"] = min(tensors[f"prompt.{n}.greedy_margin"].min().item() for n in range(len(ids)))
        both = torch.corrcoef(torch.stack([got["f32"].flatten(), got["bf16"].flatten()]))[0, 1].item()
        top = (got["f32"].argmax(-1) == got["bf16"].argmax(-1)).float().mean().item()
        size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
        rows.append(f"| {family.name} | {seed} | {size / 1000:.0f} kB | {got['f32'].std():.2f} | {got['f32margin']:.4f} "
                    f"| {both:.5f} | {100 * top:.0f}% |")
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True)
    p.add_argument("--only", nargs="*", default=[])
    p.add_argument("--search", action="store_true", help="look for seeds instead of taking the ones noted in families()")
    p.add_argument("--seeds", type=int, default=1000, help="try at most this many")
    p.add_argument("--candidates", type=int, default=16, help="take the best of this many with no activation near a half")
    p.add_argument("--threads", type=int, default=1)
    args = p.parse_args()
    reference.setup(args.threads)
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print("| golden | seed | size | std of the logits | smallest greedy margin | bf16 against f32 | its top-1 |")
    print("|---|---|---|---|---|---|---|")
    for seed, group in families():
        if not args.only or any(family.name in args.only for family in group):
            if args.search:
                seed = search(group, args.out, args.seeds, args.candidates)
            print("\n".join(make(group, args.out, seed)), flush=True)


if __name__ == "__main__":
    main()
