#!/usr/bin/env python3
"""Records every configuration key that transformers and llama.cpp know for the families that trit reads.

    keys.py --out ../../testdata/keys

hf.json, {class: {key: default}}:
    LlamaConfig, BitNetConfig, Qwen3Config, Gemma3TextConfig   the fields of the class, those of its parents included
    BitNetQuantConfig   keys of quantization_config
    RopeParameters      keys of rope_parameters and rope_scaling; null: no default
    shared              what code that all models share reads out of any configuration, a field of its class or not (attention
                        masks, cache, rotary positions), and what the classes take besides their fields and move elsewhere; null
gguf.json, {prefix: [key]}: gguf-py's constants of the shape and arithmetic of a model, without their prefix, "{arch}" or "split".

A test of package model holds that each is classified: used, harmless, or refused. The defaults are what a key means that is
not there. The pinned versions are those of requirements.txt.
"""

import argparse
import dataclasses
import inspect
import json
import os
import re
import sys


# Arguments of from_pretrained and push_to_hub, which no config.json has.
DOWNLOAD = {"cache_dir", "commit_message", "force_download", "gguf_file", "local_files_only", "proxies", "repo_id",
            "return_unused_kwargs", "revision", "subfolder", "token", "trust_remote_code", "validate"}


def fields(cls):
    """{field: default} of a configuration class; what only the instance knows (head_dim of null) stays as the class has it."""
    out = {}
    for f in dataclasses.fields(cls):
        value = f.default
        if value is dataclasses.MISSING:
            value = f.default_factory() if f.default_factory is not dataclasses.MISSING else None
        out[f.name] = value
    for name, value in cls().to_dict().items():  # written to config.json though it is no field
        out.setdefault(name, value)
    out.pop("transformers_version", None)
    return out | {"model_type": cls.model_type, "transformers_version": None}


def taken(source):
    """What a class takes besides its fields."""
    return set(re.findall(r'kwargs\.(?:pop|get)\("([a-z]\w*)"', source))


def hf():
    import transformers
    from transformers import cache_utils, configuration_utils, masking_utils, modeling_rope_utils
    from transformers.models.gemma3 import modeling_gemma3
    from transformers.models.bitnet import modeling_bitnet
    from transformers.models.llama import modeling_llama
    from transformers.models.qwen3 import modeling_qwen3
    from transformers.utils.quantization_config import BitNetQuantConfig

    classes = [transformers.LlamaConfig, transformers.BitNetConfig, transformers.Qwen3Config, transformers.Gemma3TextConfig]
    out = {cls.__name__: fields(cls) for cls in classes}
    signature = inspect.signature(BitNetQuantConfig.__init__).parameters.values()
    out["BitNetQuantConfig"] = {p.name: p.default for p in signature if p.default is not p.empty} | {"quant_method": "bitnet"}
    out["RopeParameters"] = dict.fromkeys([*modeling_rope_utils.RopeParameters.__annotations__, "type"])

    text = "".join(inspect.getsource(m) for m in (cache_utils, masking_utils, modeling_rope_utils, modeling_bitnet, modeling_gemma3,
                                                  modeling_llama, modeling_qwen3))
    read = set(re.findall(r'(?:getattr|hasattr)\((?:self\.)?config, *"([a-z]\w*)"', text))
    config = "".join(inspect.getsource(m) for m in (configuration_utils, modeling_rope_utils))
    read |= taken(config) | set(re.findall(r'hasattr\(self, "([a-z]\w*)"', config))
    for cls in classes:
        own = taken(inspect.getsource(sys.modules[cls.__module__]))
        out[cls.__name__] = dict.fromkeys(sorted(own)) | out[cls.__name__]
    out["shared"] = dict.fromkeys(sorted(read - DOWNLOAD))
    return {cls: dict(sorted(keys.items())) for cls, keys in out.items()}


def gguf_keys():
    from gguf.constants import Keys

    out = {}
    for group in vars(Keys).values():
        for name in vars(group).values() if inspect.isclass(group) else ():
            if isinstance(name, str) and re.fullmatch(r"[a-z{][\w.{}]*\.[\w.{}]+", name):
                prefix, _, rest = name.partition(".")
                out.setdefault(prefix, set()).add(rest)
    return {prefix: sorted(out[prefix]) for prefix in ("split", "{arch}")}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True)
    args = p.parse_args()
    os.makedirs(args.out, exist_ok=True)
    for name, value in (("hf.json", hf()), ("gguf.json", gguf_keys())):
        with open(os.path.join(args.out, name), "w") as f:
            json.dump(value, f, indent=1, default=str)
            f.write("\n")


if __name__ == "__main__":
    main()
