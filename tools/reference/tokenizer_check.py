"""Loads what package tokenizer wrote into other programs, and prints the ids they give.

    python tools/reference/tokenizer_check.py DIR

DIR holds texts.json (a list of strings) and folders with a tokenizer.json and
tokenizer_config.json, .gguf files that hold a vocabulary only, and train.txt, a text to train 1500 byte-level BPE tokens on.
Prints one JSON object: {"NAME": [[ids of text 0], …], "NAME transformers": …, "NAME.gguf": …, "trained": [tokens]}.
The test TestOtherPrograms runs it.
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
    text = (root / "train.txt").read_text()
    tok = tokenizers.Tokenizer(tokenizers.models.BPE())
    tok.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Split(tokenizers.Regex(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), "isolated"),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.train_from_iterator([text], tokenizers.trainers.BpeTrainer(
        vocab_size=1500, min_frequency=2, show_progress=False, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    out["trained"] = [tok.id_to_token(i) for i in range(tok.get_vocab_size())]
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    main()
