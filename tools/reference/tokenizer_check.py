"""Loads what package tokenizer wrote into other programs, and prints the ids they give.

    python tools/reference/tokenizer_check.py DIR

DIR holds texts.json (a list of strings) and folders with a tokenizer.json and
tokenizer_config.json, and .gguf files that hold a vocabulary only. Prints one JSON object:
{"NAME": [[ids of text 0], …], "NAME transformers": …, "NAME.gguf": …}. The test TestOtherPrograms runs it.
"""

import json
import pathlib
import sys

import tokenizers


def main():
    root = pathlib.Path(sys.argv[1])
    texts = json.loads((root / "texts.json").read_text())
    out = {}
    for d in sorted(p for p in root.iterdir() if p.is_dir()):
        tok = tokenizers.Tokenizer.from_file(str(d / "tokenizer.json"))
        tok.encode_special_tokens = True
        out[d.name] = [tok.encode(t, add_special_tokens=False).ids for t in texts]
        out[d.name + " special"] = [tok.encode(t, add_special_tokens=True).ids for t in texts]
        out[d.name + " decoded"] = [tok.decode(ids) for ids in out[d.name]]
        from transformers import AutoTokenizer
        auto = AutoTokenizer.from_pretrained(str(d))
        out[d.name + " transformers"] = [auto(t, add_special_tokens=False, split_special_tokens=True)["input_ids"] for t in texts]
    ggufs = sorted(root.glob("*.gguf"))
    if ggufs:
        import llama_cpp
        for g in ggufs:
            m = llama_cpp.Llama(str(g), vocab_only=True, verbose=False)
            # llama.cpp aborts on characters that a vocabulary without byte tokens lacks.
            only = set("ab c\n\"\\äß世界😀-") if g.stem == "wide" else None
            out[g.name] = [m.tokenize(t.encode(), add_bos=False, special=False)
                           if only is None or set(t) <= only else [] for t in texts]
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    main()
