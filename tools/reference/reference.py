#!/usr/bin/env python3
"""Writes what transformers computes for a model folder, as the reference `trit verify` reads.

    reference.py MODEL_FOLDER --prompt-ids 1,5,9 --prompt-ids @ids.json --out ref.safetensors
    reference.py MODEL_FOLDER --prompts "The sky" --dtype bfloat16 --out ref.safetensors
    reference.py FULL_SIZE_FOLDER --upcast-per-layer --positions 8 --greedy 16 --out ref.safetensors

The model is loaded by AutoModelForCausalLM.from_pretrained with attn_implementation="eager", as a
user loads it (1bitLLM checkpoints and the embedding models, for which transformers has no class, by
onebitllm.py and embedding.py beside this file). One forward pass per prompt is recorded by hooks, and generate(do_sample=False)
continues each prompt; end-of-sequence ids do not stop it, so every continuation has full length.

The file (P positions of prompt N are stored, T tokens long; D hidden size, V vocabulary):

    prompt.N.ids            I32 [T]     the prompt
    prompt.N.positions      I32 [P]     which positions the rows below belong to, ascending, last = T-1
    prompt.N.hidden.0       [P, D]      output of the embedding
    prompt.N.hidden.l       [P, D]      output of block l = 1..L (residual stream, before the final norm)
    prompt.N.final          [P, D]      output of the final norm
    prompt.N.logits         [P, V]      logits
    prompt.N.greedy         I32 [G]     greedy continuation
    prompt.N.greedy_second  I32 [G]     at each step the id with the second largest logit
    prompt.N.greedy_margin  F32 [G]     largest logit minus second largest, at each step
    prompt.N.embedding.last F32 [D]     embedding models: the prompt's unit vector, of its last token's state
    prompt.N.embedding.mean F32 [D]     the same of the mean of all states

hidden, final and logits have the dtype that the model computed in: F32 or BF16. The metadata
says how it was made: format ("trit-reference 1"), dtype, attention, layers, prompts, class (the Python class), the versions
of torch and transformers, compiled ("false": torch.compile off, the Python text is what ran),
model (folder name), date, and prompt.N.text where the prompt was given as text.
"""

import argparse
import datetime
import gc
import json
import os
import sys

FORMAT = "trit-reference 1"


def parse_args(argv):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model", help="model folder: config.json, *.safetensors")
    p.add_argument("--prompt-ids", action="append", default=[], metavar="1,2,3|@FILE",
                   help="token ids, or @FILE with a JSON list of lists; repeatable")
    p.add_argument("--prompts", action="append", default=[], metavar="TEXT",
                   help="text, tokenized by the folder's own tokenizer with its special tokens; repeatable")
    p.add_argument("--out", required=True)
    p.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    p.add_argument("--positions", type=int, default=0, metavar="K",
                   help="store K positions of each prompt (first, last, evenly between); 0 = all")
    p.add_argument("--greedy", type=int, default=64, metavar="N", help="length of the greedy continuation")
    p.add_argument("--threads", type=int, default=0)
    p.add_argument("--compile", action="store_true",
                   help="leave transformers' torch.compile decorators on (needs a C++ compiler)")
    p.add_argument("--bitlinear-online", action="store_true",
                   help="quantise the linear layers of a plain checkpoint as they are used (master weights whose "
                        "config.json does not say so, such as Falcon-E's prequantized revision)")
    p.add_argument("--upcast-per-layer", action="store_true",
                   help="with float32: hold the weights in bf16 and widen one block at a time (for models whose "
                        "float32 form does not fit in memory; same values, since widening is exact)")
    return p.parse_args(argv)


def load(folder, dtype, upcast_per_layer=False, bitlinear_online=False):
    """Returns the model in evaluation mode, computing in dtype (a torch.dtype)."""
    import torch

    with open(os.path.join(folder, "config.json")) as f:
        config = json.load(f)
    held = torch.bfloat16 if upcast_per_layer else dtype
    architecture = (config.get("architectures") or [""])[0]
    if architecture == "BitnetForCausalLM":
        import onebitllm

        model = onebitllm.BitnetForCausalLM.from_pretrained(folder, dtype=None if upcast_per_layer else dtype)
    elif architecture in ("Qwen3Model", "Gemma3TextModel"):
        import embedding

        model = embedding.load(folder, dtype=None if upcast_per_layer else dtype)
    else:
        from transformers import AutoModelForCausalLM

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=held, attn_implementation="eager")
        # transformers 5 leaves the norms and the embedding of a packed autobitlinear checkpoint in the
        # file's bf16 whatever dtype is asked for; widening them afterwards is exact. (Not model.to(dtype): that
        # would round RoPE's inverse frequencies, which transformers keeps in float32.)
        for param in model.parameters():
            if param.is_floating_point():
                param.data = param.data.to(held)
        if bitlinear_online:
            quantize_online(model)
    model.eval()
    if upcast_per_layer:
        widen_on_use(model, folder, dtype)
    return model


def quantize_online(model):
    """Replaces every linear layer but the head by transformers' AutoBitLinear in online mode, same weights."""
    import torch
    from transformers.integrations.bitnet import AutoBitLinear

    for name, old in list(model.named_modules()):
        if isinstance(old, torch.nn.Linear) and name != "lm_head":
            new = AutoBitLinear(old.in_features, old.out_features, bias=old.bias is not None, online_quant=True)
            new.weight, new.bias = old.weight, old.bias
            model.set_submodule(name, new)


def widen_on_use(model, folder, dtype):
    """Makes each block, the final norm and the head compute in dtype while their weights rest in bfloat16.

    Tensors that the file holds in another float type (trit writes scales in float32) are read again as they are:
    through bfloat16 they would be rounded.
    """
    from safetensors import safe_open

    state = dict(model.named_parameters()) | dict(model.named_buffers())
    for file in sorted(os.listdir(folder)):
        if file.endswith(".safetensors") and not file.startswith("reference"):
            with safe_open(os.path.join(folder, file), framework="pt") as f:
                for name in f.keys():
                    if f.get_slice(name).get_dtype() in ("F32", "F16") and name in state:
                        state[name].data = f.get_tensor(name).to(dtype)

    def before(module, args):
        for m in module.modules():
            if "dtype" in m.__dict__:
                m.dtype = dtype  # transformers' BitLinear unpacks to its own dtype
            for t in [*m.parameters(recurse=False), *m.buffers(recurse=False)]:
                if t.is_floating_point():
                    t.resting, t.data = t.data, t.data.to(dtype)

    def after(module, args, output):
        for t in [*module.parameters(), *module.buffers()]:
            if t.is_floating_point():
                t.data = t.resting
                del t.resting

    for module in [*model.model.layers, model.model.norm, model.lm_head]:
        module.register_forward_pre_hook(before)
        module.register_forward_hook(after)
    model.model.embed_tokens.register_forward_hook(lambda m, a, out: out.to(dtype))


def pick_positions(length, count):
    """Positions to store: all, or `count` of them spread evenly with both ends."""
    if count <= 0 or count >= length:
        return list(range(length))
    if count == 1:
        return [length - 1]
    return sorted({round(i * (length - 1) / (count - 1)) for i in range(count)})


def forward(model, ids, positions):
    """One pass over ids; returns {name: tensor [P, width]} for the embedding, every block, final norm and logits."""
    import torch

    got, handles = {}, []

    def keep(name):
        def hook(module, args, output):
            out = output[0] if isinstance(output, tuple) else output
            got[name] = out[0, positions].detach().clone().contiguous()
        return hook

    base = model.model
    handles.append(base.embed_tokens.register_forward_hook(keep("hidden.0")))
    for i, layer in enumerate(base.layers):
        handles.append(layer.register_forward_hook(keep(f"hidden.{i + 1}")))
    handles.append(base.norm.register_forward_hook(keep("final")))
    try:
        with torch.no_grad():
            x = torch.tensor([ids])
            out = model(input_ids=x, attention_mask=torch.ones_like(x), use_cache=False,
                        logits_to_keep=torch.tensor(positions))
    finally:
        for h in handles:
            h.remove()
    got["logits"] = out.logits[0].detach().clone().contiguous()
    return got


def greedy(model, ids, count):
    """generate(do_sample=False) that no end-of-sequence id stops; returns ids, second ids, margins."""
    import torch
    from transformers import GenerationConfig

    config = GenerationConfig(do_sample=False, num_beams=1, max_new_tokens=count, eos_token_id=None,
                              pad_token_id=0, use_cache=True, return_dict_in_generate=True, output_logits=True)
    model.generation_config = config  # the folder's own would add its eos ids
    x = torch.tensor([ids])
    with torch.no_grad():
        out = model.generate(x, attention_mask=torch.ones_like(x), generation_config=config)
    new = out.sequences[0, len(ids):]
    assert len(new) == count, f"generate stopped after {len(new)} of {count} tokens"
    top = torch.topk(torch.stack([l[0].float() for l in out.logits]), 2, dim=-1)
    margins = (top.values[:, 0] - top.values[:, 1]).contiguous()
    # On an exact tie topk may name either id first; the second one is the one that was not chosen.
    second = torch.where(top.indices[:, 0] == new, top.indices[:, 1], top.indices[:, 0])
    return new, second, margins


def reference(model, prompts, positions=0, greedy_tokens=64):
    """Tensors of the reference file for prompts (lists of ids)."""
    import torch

    tensors = {}
    for n, ids in enumerate(prompts):
        at = pick_positions(len(ids), positions)
        tensors[f"prompt.{n}.ids"] = torch.tensor(ids, dtype=torch.int32)
        tensors[f"prompt.{n}.positions"] = torch.tensor(at, dtype=torch.int32)
        for name, t in forward(model, ids, at).items():
            tensors[f"prompt.{n}.{name}"] = t
        if greedy_tokens > 0:
            new, second, margin = greedy(model, ids, greedy_tokens)
            tensors[f"prompt.{n}.greedy"] = new.to(torch.int32)
            tensors[f"prompt.{n}.greedy_second"] = second.to(torch.int32)
            tensors[f"prompt.{n}.greedy_margin"] = margin
        if type(model.model.layers[0].mlp.up_proj).__module__ == "embedding":
            import embedding

            for name, t in embedding.embeddings(model, ids).items():
                tensors[f"prompt.{n}.embedding.{name}"] = t
        gc.collect()
    return tensors


def metadata(model, folder, dtype, prompts, compiled, texts=()):
    import torch
    import transformers

    meta = {
        "format": FORMAT,
        "model": os.path.basename(os.path.abspath(folder)),
        "class": type(model).__module__ + "." + type(model).__name__,
        "dtype": dtype,
        "attention": "eager",
        "compiled": "true" if compiled else "false",
        "layers": str(len(model.model.layers)),
        "prompts": str(len(prompts)),
        "torch": torch.__version__.split("+")[0],
        "transformers": transformers.__version__,
        "date": datetime.date.today().isoformat(),
    }
    for n, text in texts:
        meta[f"prompt.{n}.text"] = text
    return meta


def write(path, tensors, meta):
    """A safetensors file with the header in a fixed order (safetensors' own writer shuffles the metadata)."""
    import torch

    names = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16", torch.int32: "I32", torch.uint8: "U8"}
    header, data, at = {"__metadata__": dict(sorted(meta.items()))}, [], 0
    # Widest elements first, so that every tensor is aligned.
    for name in sorted(tensors, key=lambda n: (-tensors[n].element_size(), n)):
        t = tensors[name].contiguous()
        header[name] = {"dtype": names[t.dtype], "shape": list(t.shape), "data_offsets": [at, at + t.nbytes]}
        data.append(t.flatten().view(torch.uint8).numpy().tobytes())
        at += t.nbytes
    head = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    head += b" " * (-len(head) % 8)
    with open(path + ".part", "wb") as f:
        f.write(len(head).to_bytes(8, "little") + head)
        f.writelines(data)
    os.replace(path + ".part", path)


def read_prompts(args):
    prompts, texts = [], []
    for spec in args.prompt_ids:
        if spec.startswith("@"):
            with open(spec[1:]) as f:
                prompts += json.load(f)
        else:
            prompts.append([int(s) for s in spec.split(",")])
    if args.prompts:
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(args.model)
        for text in args.prompts:
            texts.append((len(prompts), text))
            prompts.append(tokenizer(text)["input_ids"])
    if not prompts or not all(prompts):
        sys.exit("reference.py: give at least one non-empty prompt by --prompt-ids or --prompts")
    return prompts, texts


def setup(threads=0, compile=False):
    """Before torch is imported: whether transformers' torch.compile decorators act."""
    if not compile:
        os.environ["TORCHDYNAMO_DISABLE"] = "1"
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    if threads:
        torch.set_num_threads(threads)
    torch.manual_seed(0)


def main(argv=None):
    args = parse_args(argv)
    setup(args.threads, args.compile)
    import torch

    if args.upcast_per_layer and args.dtype != "float32":
        sys.exit("reference.py: --upcast-per-layer is for --dtype float32")
    prompts, texts = read_prompts(args)
    model = load(args.model, getattr(torch, args.dtype), args.upcast_per_layer, args.bitlinear_online)
    tensors = reference(model, prompts, args.positions, args.greedy)
    write(args.out, tensors, metadata(model, args.model, args.dtype, prompts, args.compile, texts))
    if args.greedy > 0:
        for n in range(len(prompts)):
            m = tensors[f"prompt.{n}.greedy_margin"]
            print(f"prompt {n}: {len(prompts[n])} tokens, {args.greedy} greedy, smallest top-2 margin {m.min():.4g}")


if __name__ == "__main__":
    main()
