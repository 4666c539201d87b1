#!/usr/bin/env python3
"""Makes the golden models: one small random model per family, with transformers' own results beside it.

    families.py --out ../../testdata/goldens [--only NAME ...] [--seed-tries N]

Each folder looks like a published checkpoint of its family: config.json with that family's keys and
quirks, weights under its tensor names, tokenizer, generation_config.json. Weights are packed by
transformers' own pack_weights, models are loaded by from_pretrained, and what they compute is
written by reference.py to reference.f32.safetensors and reference.bf16.safetensors.

For each family a few seeds are tried and the one is kept whose greedy continuations have the
largest smallest top-2 margin, so that a golden does not hinge on the last bit of a float.
"""

import argparse
import json
import math
import os
import shutil
import sys

import reference  # beside this file

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

    config    config.json as a dict, or its text where the quirk is in the text
    dtype     dtype of the floating-point tensors in the file
    pack      None: linear layers are stored as floats; "multiply": packed with weight_scale = mean|W|;
              "divide": packed with weight_scale = 1/mean|W|
    """

    def __init__(self, name, about, config, dtype="bfloat16", pack=None, tokenizer="llama3", eos=None, bos=None,
                 sub_norms=None, proj_norm=False, qk_norm=False, pack_head=False, bias=(), shards=1, blocks=0,
                 config_text=None, online=False, extra_reference=None):
        self.name, self.about, self.config, self.dtype, self.pack = name, about, config, dtype, pack
        self.tokenizer, self.eos, self.bos = tokenizer, eos, bos
        self.sub_norms, self.proj_norm, self.qk_norm, self.pack_head = sub_norms, proj_norm, qk_norm, pack_head
        self.bias, self.shards, self.blocks, self.config_text = bias, shards, blocks, config_text
        self.online = online


def base_config(**kw):
    c = {"attention_bias": False, "attention_dropout": 0.0, "initializer_range": 0.02, "use_cache": True}
    c.update(kw)
    return c


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


def families():
    """Groups of families; the members of a group have the same weights, packed differently."""
    out = []
    out.append([Family(
        "bitnet-2b4t-bf16", "microsoft/bitnet-b1.58-2B-4T-bf16: bf16 master weights, quantised as they are used",
        bitnet_2b4t("online"), sub_norms=("self_attn.attn_sub_norm", "mlp.ffn_sub_norm")),
        Family("bitnet-2b4t", "microsoft/bitnet-b1.58-2B-4T: the same weights packed, weight_scale multiplies",
        bitnet_2b4t("offline"), pack="multiply", sub_norms=("self_attn.attn_sub_norm", "mlp.ffn_sub_norm"))])
    return out


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
    t = {}

    def normal(shape, std):
        return torch.randn(shape, generator=g) * std

    def norm_weight(n):
        return (0.5 + torch.rand(n, generator=g)).to(dtype)

    def linear(prefix, out, inp, packed, ternary):
        # The standard deviation differs from matrix to matrix: a swapped scale must show.
        std = 1.5 / math.sqrt(inp) * math.exp(0.6 * (torch.rand(1, generator=g).item() - 0.5))
        w = normal((out, inp), std).to(dtype)
        if ternary:
            w = ternarize(w.float(), family.blocks, by_column=prefix.endswith(("o_proj", "down_proj"))).to(dtype)
        if packed:
            codes, scale = absmean(w)
            from transformers.integrations.bitnet import pack_weights

            t[prefix + ".weight"] = pack_weights(codes)
            t[prefix + ".weight_scale"] = (scale if packed == "multiply" else 1 / scale).to(torch.bfloat16).reshape(1)
        else:
            t[prefix + ".weight"] = w
        if prefix.split(".")[-1] in family.bias:
            t[prefix + ".bias"] = normal((out,), 0.2).to(dtype)
        if family.proj_norm:
            t[prefix + ".rms_norm.weight"] = norm_weight(inp)

    t["model.embed_tokens.weight"] = normal((vocab, d), 0.25 if c.get("tie_word_embeddings") else 1.0).to(dtype)
    for i in range(layers):
        p = f"model.layers.{i}."
        t[p + "input_layernorm.weight"] = norm_weight(d)
        t[p + "post_attention_layernorm.weight"] = norm_weight(d)
        for name, (out, inp) in layer_shapes(c).items():
            linear(p + name, out, inp, family.pack, family.blocks)
        if family.sub_norms:
            t[p + family.sub_norms[0] + ".weight"] = norm_weight(h * hd)
            t[p + family.sub_norms[1] + ".weight"] = norm_weight(f)
        if family.qk_norm:
            t[p + "self_attn.q_norm.weight"] = norm_weight(hd)
            t[p + "self_attn.k_norm.weight"] = norm_weight(hd)
    t["model.norm.weight"] = norm_weight(d)
    if not c.get("tie_word_embeddings"):
        if family.pack_head:
            linear("lm_head", vocab, d, family.pack, False)
        else:
            t["lm_head.weight"] = normal((vocab, d), 0.25).to(dtype)
    return t


def absmean(w):
    """Codes in {-1, 0, 1} and mean|w|, in float32 as transformers' WeightQuant computes them."""
    w = w.float()
    scale = 1.0 / w.abs().mean().clamp(min=1e-5)
    return (w * scale).round().clamp(-1, 1), 1 / scale


def ternarize(w, blocks, by_column):
    """w quantised in `blocks` equal shards of rows (or columns), each with its own absmean scale."""
    import torch

    parts = []
    for part in torch.chunk(w, blocks, dim=1 if by_column else 0):
        codes, scale = absmean(part)
        parts.append(codes * scale.half().float())
    return torch.cat(parts, dim=1 if by_column else 0)


# --- tokenizers ----------------------------------------------------------------------------------

LLAMA3_SPLIT = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
                r"|\s*[\r\n]+|\s+(?!\S)|\s+")

TEMPLATE_2B4T = (
    "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
    "{{ message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}")


def byte_level_bpe(vocab, specials, split=None, bos=None):
    """tokenizers.Tokenizer: byte-level BPE with `vocab` ids, the specials last."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    t = Tokenizer(models.BPE(ignore_merges=split is not None))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split is None)
    if split is not None:
        t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(split), "isolated"), byte_level])
    else:
        t.pre_tokenizer = byte_level
    t.decoder = decoders.ByteLevel()
    t.train_from_iterator(TEXT.splitlines(), trainers.BpeTrainer(
        vocab_size=vocab - len(specials), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet())))
    t.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in specials])
    assert t.get_vocab_size() == vocab, t.get_vocab_size()
    if bos:
        post = processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1",
                                             special_tokens=[(bos, t.token_to_id(bos))])
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
    from safetensors.torch import save_file

    meta = {"format": "pt"}
    if family.shards == 1:
        save_file(tensors, os.path.join(folder, "model.safetensors"), metadata=meta)
        os.chmod(os.path.join(folder, "model.safetensors"), 0o644)
        return
    names = list(tensors)
    cut = [names[i * len(names) // family.shards:(i + 1) * len(names) // family.shards] for i in range(family.shards)]
    index = {"metadata": {"total_size": sum(t.nbytes for t in tensors.values())}, "weight_map": {}}
    for i, part in enumerate(cut):
        file = f"model-{i + 1:05d}-of-{family.shards:05d}.safetensors"
        save_file({n: tensors[n] for n in part}, os.path.join(folder, file), metadata=meta)
        os.chmod(os.path.join(folder, file), 0o644)
        index["weight_map"] |= {n: file for n in part}
    index["weight_map"] = dict(sorted(index["weight_map"].items()))
    write_json(os.path.join(folder, "model.safetensors.index.json"), index)


def write_folder(family, folder, tensors):
    if os.path.isdir(folder):
        shutil.rmtree(folder)
    os.makedirs(folder)
    if family.config_text:
        with open(os.path.join(folder, "config.json"), "w") as f:
            f.write(family.config_text)
    else:
        write_json(os.path.join(folder, "config.json"), family.config)
    generation = {"_from_model_config": True, "bos_token_id": family.config.get("bos_token_id"),
                  "eos_token_id": family.eos if family.eos is not None else family.config.get("eos_token_id")}
    write_json(os.path.join(folder, "generation_config.json"), generation)
    write_weights(family, folder, tensors)
    write_tokenizer(family, folder)


def prompts(family):
    """Three prompts of 1, 7 and 33 ids, the longer ones starting with BOS where the family has one."""
    import torch

    g = torch.Generator().manual_seed(33)
    vocab, bos = family.config["vocab_size"], family.config.get("bos_token_id")
    out = []
    for n in (1, 7, 33):
        ids = torch.randint(0, min(vocab, 300), (n,), generator=g).tolist()
        if n > 1 and bos is not None:
            ids[0] = bos
        out.append(ids)
    return out


def trial(group, out, seed):
    """Builds the group with this seed; returns its smallest greedy margin, fewest distinct tokens, and lowest
    correlation of the bf16 logits with the float32 ones."""
    import torch

    margin, distinct, correlation = math.inf, math.inf, math.inf
    for family in group:
        folder = os.path.join(out, family.name)
        write_folder(family, folder, make_tensors(family, seed))
        model = reference.load(folder, torch.float32, bitlinear_online=family.online)
        count, logits = 0, []
        for ids in prompts(family):
            new, _, m = reference.greedy(model, ids, 64)
            margin = min(margin, m.min().item())
            count += len(set(new.tolist()))
            logits.append(reference.forward(model, ids, list(range(len(ids))))["logits"])
        distinct = min(distinct, count)
        model = reference.load(folder, torch.bfloat16, bitlinear_online=family.online)
        coarse = [reference.forward(model, ids, list(range(len(ids))))["logits"] for ids in prompts(family)]
        both = torch.stack([torch.cat(logits).flatten(), torch.cat(coarse).float().flatten()])
        correlation = min(correlation, torch.corrcoef(both)[0, 1].item())
    return margin, distinct, correlation


def make(group, out, tries):
    """Writes the folders of a group (families that share their weights) with their references."""
    import torch

    best = None
    for seed in range(1, tries + 1):
        margin, distinct, correlation = trial(group, out, seed)
        # A model this small can be unlucky in bf16; the goldens should show rounding, not chaos.
        if distinct >= 30 and correlation >= 0.9993 and (best is None or margin > best[0]):
            best = (margin, seed)
    if best is None:
        sys.exit(f"{group[0].name}: no seed up to {tries} is fit; try more")
    margin, seed = best
    for family in group:
        folder = os.path.join(out, family.name)
        write_folder(family, folder, make_tensors(family, seed))
        got = {}
        for short, dtype in (("f32", "float32"), ("bf16", "bfloat16")):
            model = reference.load(folder, getattr(torch, dtype), bitlinear_online=family.online)
            tensors = reference.reference(model, prompts(family), positions=8)
            meta = reference.metadata(model, folder, dtype, prompts(family), compiled=False)
            meta["seed"] = str(seed)
            meta.pop("date")  # goldens/README.md has it; without it a rebuild is byte-identical
            reference.write(os.path.join(folder, f"reference.{short}.safetensors"), tensors, meta)
            got[short] = torch.cat([tensors[f"prompt.{n}.logits"].float() for n in range(3)])
            got[short + "margin"] = min(tensors[f"prompt.{n}.greedy_margin"].min().item() for n in range(3))
        both = torch.corrcoef(torch.stack([got["f32"].flatten(), got["bf16"].flatten()]))[0, 1].item()
        top = (got["f32"].argmax(-1) == got["bf16"].argmax(-1)).float().mean().item()
        size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
        print(f"| {family.name} | {seed} | {size / 1000:.0f} kB | {got['f32'].std():.2f} | {got['f32margin']:.4f} "
              f"| {both:.5f} | {100 * top:.0f}% |", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True)
    p.add_argument("--only", nargs="*", default=[])
    p.add_argument("--seed-tries", type=int, default=24)
    p.add_argument("--threads", type=int, default=1)
    args = p.parse_args()
    reference.setup(args.threads)
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    print("| golden | seed | size | std of the logits | smallest greedy margin | bf16 against f32 | its top-1 |")
    print("|---|---|---|---|---|---|---|")
    for group in families():
        if not args.only or any(family.name in args.only for family in group):
            make(group, args.out, args.seed_tries)


if __name__ == "__main__":
    main()
