"""Reference folders for package tokenizer: vocab.json with merges.txt, tekken.json, special tokens and chat
templates in all the files that may name them, as Hugging Face transformers reads them; and expressions, as Hugging
Face tokenizers matches them.

    python tools/reference/tokenizer_formats.py --out tokenizer/testdata/formats --count 12

It trains a small vocabulary on a few lines of its own and writes

    folders.json    a row for each folder: its files (or the name of a shared one), and what AutoTokenizer makes of it:
                    vectors [text, ids without special tokens, ids with them, decoded], special ids, chat templates
    patterns.json   rows of random expressions: [expression, behavior, invert, text, pieces, text with "-" for matches]

transformers 5.23.0, tokenizers 0.23.3. tekken.json folders have BOS in front of the ids with special tokens, as
mistral-common 1.13.1 puts it (AutoTokenizer alone leaves it out); their plain ids are the same in both.
"""

import argparse
import base64
import json
import os
import pathlib
import random
import tempfile

from tokenizer_vectors import GPT4O, QWEN2, byte_alphabet, random_text

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
import tokenizers
from transformers import AutoTokenizer
from transformers.models.qwen3_5 import Qwen3_5Tokenizer

TEXT = """The quick brown fox doesn't jump over 12345 lazy dogs; they're naïve, aren't they?
Straße, 世界 and 안녕 are words, so is नमस्ते. e\u0301 is é, and 😀 a face.
    def f(x):  return x ** 2 + 3.14  # indented code
The the THE then there these those, over and over and over again.
"""


def train(pattern, specials):
    """Vocabulary and merges of a byte-level BPE of 400 tokens."""
    tok = tokenizers.Tokenizer(tokenizers.models.BPE())
    tok.pre_tokenizer = tokenizers.pre_tokenizers.Sequence([
        tokenizers.pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated"),
        tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.train_from_iterator([TEXT], tokenizers.trainers.BpeTrainer(
        vocab_size=400, show_progress=False, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()))
    model = json.loads(tok.to_str())["model"]
    vocab = model["vocab"]
    for name in specials:
        vocab[name] = len(vocab)
    return vocab, model["merges"]


def tekken(vocab, specials, count, size):
    back = {c: b for b, c in byte_alphabet().items()}
    tokens = sorted((len(text) > 1, rank, bytes(back[c] for c in text)) for text, rank in vocab.items())
    tokens = [bytes([b]) for b in range(256)] + [raw for long, _, raw in tokens if long]  # as mistral-common wants them
    rows = []
    for rank, raw in enumerate(tokens):
        rows.append({"rank": rank, "token_bytes": base64.b64encode(raw).decode(), "token_str": raw.decode("utf-8", "replace")})
    f = {"config": {"pattern": GPT4O, "num_vocab_tokens": len(rows), "default_vocab_size": size, "default_num_special_tokens": count, "version": "v3"},
         "vocab": rows}
    if specials is not None:
        f["special_tokens"] = [{"rank": i, "token_str": s, "is_control": True} for i, s in enumerate(specials)]
    return f


def added(content, special=True, **flags):
    return {"content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": not special, "special": special, **flags}


GEMMA = {"version": "1.0", "truncation": None, "padding": None,
         "added_tokens": [{"id": i, **added(s, sp, normalized=False)} for i, (s, sp) in enumerate(
             [("<pad>", True), ("<eos>", True), ("<bos>", True), ("<unk>", True), ("\n\n", False), ("▁▁", False), ("▁▁▁", False), ("<start_of_turn>", True)])],
         "normalizer": {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
         "pre_tokenizer": {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
         "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                            "special_tokens": {"<bos>": {"id": "<bos>", "ids": [2], "tokens": ["<bos>"]}}},
         "decoder": {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
         "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>", "continuing_subword_prefix": None, "end_of_word_suffix": None,
                   "fuse_unk": True, "byte_fallback": True, "ignore_merges": False}}


def gemma():
    f = json.loads(json.dumps(GEMMA))
    vocab = {a["content"]: a["id"] for a in f["added_tokens"]}
    for b in range(256):
        vocab[f"<0x{b:02X}>"] = len(vocab)
    for s in ["▁", "a", "b", "e", "h", "t", "\n", "th", "the", "▁the", "▁a", "▁▁▁▁", "é"]:
        vocab.setdefault(s, len(vocab))
    f["model"]["vocab"] = vocab
    f["model"]["merges"] = [["▁", "▁"], ["▁▁", "▁▁"], ["▁▁", "▁"], ["t", "h"], ["th", "e"], ["▁", "the"], ["▁", "a"], ["\n", "\n"]]
    return f


def folders():
    """Names, and files by name; {"use": NAME} is the file of that shared name."""
    vocab, merges = train(QWEN2, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>"])
    shared = {"vocab.json": json.dumps(vocab, ensure_ascii=False, separators=(",", ":")),
              "merges.txt": "#version: 0.2\n" + "".join(f"{l} {r}\n" for l, r in merges)}
    old = {"vocab.json": None, "merges.txt": None}
    base = len(vocab)
    yield "gpt2, the vocabulary alone", {**old, "config.json": {"model_type": "gpt2"}}
    yield "gpt2, by its class", {**old, "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "add_bos_token": True, "bos_token": "<s>", "eos_token": "<|im_end|>"}}
    yield "gpt2, space in front", {**old, "tokenizer_config.json": {"tokenizer_class": "GPT2TokenizerFast", "add_prefix_space": True, "eos_token": None}}
    yield "qwen2", {**old, "tokenizer_config.json": {"tokenizer_class": "Qwen2Tokenizer", "eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>", "<|im_end|>"]}}
    yield "qwen3, by its family", {**old, "config.json": {"model_type": "qwen3"}}
    yield "qwen3.5", {**old, "tokenizer_config.json": {"tokenizer_class": "Qwen3_5Tokenizer"}}
    yield "older files", {**old, "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>"},
                          "special_tokens_map.json": {"bos_token": "<|im_start|>", "eos_token": {"content": "<|im_end|>", "lstrip": True, "rstrip": False, "single_word": False, "normalized": False},
                                                      "additional_special_tokens": ["<new>"], "extra_special_tokens": ["<newer>"]},
                          "added_tokens.json": {"<new>": base, "newer word": base + 1, "<newer>": base + 2}}
    yield "older files that do not count", {**old, "tokenizer_config.json": {"tokenizer_class": "GPT2Tokenizer", "bos_token": "<s>", "added_tokens_decoder": {
        str(base): added("<x>", lstrip=True), str(base + 1): added("some words", False)}},
        "special_tokens_map.json": {"bos_token": "<|im_start|>"}, "added_tokens.json": {"<new>": base}}
    whole = {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [{"id": vocab["<s>"], **added("<s>", rstrip=True)}, {"id": base, **added("<t>", False)}],
             "normalizer": None, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
             "post_processor": None, "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
             "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": False,
                       "byte_fallback": False, "ignore_merges": False, "vocab": vocab, "merges": merges}}
    shared["tokenizer.json"] = json.dumps(whole, ensure_ascii=False, separators=(",", ":"))
    one = {"tokenizer.json": None}
    fast = {"tokenizer_class": "PreTrainedTokenizerFast"}
    yield "tokens of the configuration", {**one, "tokenizer_config.json": {**fast, "bos_token": "<s>", "eos_token": "<|im_end|>", "add_bos_token": True, "image_token": "<|im_start|>"}}
    yield "flags of the configuration", {**one, "tokenizer_config.json": {**fast, "eos_token": "<|endoftext|>", "added_tokens_decoder": {
        str(vocab["<s>"]): added("<s>", lstrip=True), str(base): added("<t>"), str(base + 1): added("<u>")}}}
    yield "template, configuration", {**one, "tokenizer_config.json": {**fast, "chat_template": "config"}}
    yield "template, jinja", {**one, "tokenizer_config.json": {**fast, "chat_template": "config"}, "chat_template.jinja": "jinja"}
    yield "template, json and configuration", {**one, "tokenizer_config.json": {**fast, "chat_template": "config"}, "chat_template.json": {"chat_template": "json"}}
    yield "template, json and jinja", {**one, "tokenizer_config.json": fast, "chat_template.json": {"chat_template": "json"}, "chat_template.jinja": "jinja"}
    yield "templates, named", {**one, "tokenizer_config.json": {**fast, "chat_template": [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]}}
    yield "templates, more", {**one, "tokenizer_config.json": {**fast, "chat_template": "config"}, "chat_template.jinja": "jinja",
                              "additional_chat_templates/tool_use.jinja": "tools", "additional_chat_templates/rag.jinja": "rag"}
    yield "templates, more alone", {**one, "tokenizer_config.json": {**fast, "chat_template": "config"}, "additional_chat_templates/rag.jinja": "rag"}
    plain, _ = train(GPT4O, [])
    names = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    yield "tekken", {"tekken.json": tekken(plain, names, 20, 20 + len(plain) - 30), "config.json": {"model_type": "mistral"}, "chat_template.jinja": "{{ bos_token }}[INST]{{ messages[0].content }}[/INST]"}
    yield "tekken, without names", {"tekken.json": tekken(plain, None, 30, 30 + len(plain)), "config.json": {"model_type": "mistral"}}
    yield "gemma", {"tokenizer.json": gemma(), "tokenizer_config.json": {"tokenizer_class": "GemmaTokenizerFast", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>", "pad_token": "<pad>"}}
    yield None, shared


# mistral-common is not needed: these are its names, version 1.13.1, tekken.py.
DEFAULT = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]", "[TOOL_CALLS]",
           "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"]


def reference(name, files, texts):
    with tempfile.TemporaryDirectory() as d:
        for file, content in files.items():
            path = pathlib.Path(d, file)
            path.parent.mkdir(exist_ok=True)
            if file == "tekken.json" and "special_tokens" not in content: # transformers asks mistral-common for them
                content = {**content, "special_tokens": [{"rank": i, "token_str": s, "is_control": True} for i, s in enumerate(DEFAULT)]}
            path.write_text(content if isinstance(content, str) else json.dumps(content, ensure_ascii=False), encoding="utf-8")
        if name == "qwen3.5":  # AutoTokenizer does not find its vocab.json
            merges = [tuple(l.split(" ")) for l in files["merges.txt"].splitlines()[1:]]
            tok = Qwen3_5Tokenizer(vocab=json.loads(files["vocab.json"]), merges=merges)
        else:
            tok = AutoTokenizer.from_pretrained(d)
    around = [tok.convert_tokens_to_ids("<s>")] if "tekken.json" in files else []
    vectors = []
    for t in texts:
        plain = tok(t, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        vectors.append([t, plain, around + tok(t)["input_ids"], tok.decode(plain)])
    template = tok.chat_template
    return {"name": name, "class": type(tok).__name__, "vectors": vectors, "templates": {"default": template} if isinstance(template, str) else template or {},
            "special": sorted(i for i, a in tok.added_tokens_decoder.items() if a.special),
            "roles": {k: tok.convert_tokens_to_ids(v) for k in ("bos_token", "eos_token") if (v := getattr(tok, k)) is not None}}


ATOMS = ["a", "b", "ab", ".", r"\s", r"\p{L}", r"\d", "[ab]", "[^a]", r"\b", "(?=a)", "(?!b)", "(?<=a)", "(?<!ab)", "^", "$", "é", r"\p{N}{1,2}"]
BEHAVIORS = ["isolated", "removed", "merged_with_previous", "merged_with_next", "contiguous"]


def expression(rng, depth=0):
    k = rng.random()
    if depth > 3 or k < 0.4:
        return rng.choice(ATOMS)
    if k < 0.6:
        return "".join(expression(rng, depth + 1) for _ in range(rng.randint(1, 3)))
    if k < 0.75:
        return "(?:" + "|".join(expression(rng, depth + 1) for _ in range(rng.randint(2, 3))) + ")"
    if k < 0.82:
        return "(?>" + expression(rng, depth + 1) + ")"
    return "(?:" + expression(rng, depth + 1) + ")" + rng.choice(["*", "+", "?", "*?", "+?", "??", "{2}", "{1,2}", "*+", "++", "{0,2}"])


def patterns(count):
    rng = random.Random(7)
    rows = []
    for re in [r"(?=(\d{3})+(?!\d))", "x*", "(?=b)"] + [expression(rng) for _ in range(count)]:
        try:
            compiled = tokenizers.Regex(re)
        except Exception:  # not an expression of Oniguruma
            continue
        text = "".join(rng.choice("aab b1é2\n 345") for _ in range(rng.randint(0, 12)))
        how, invert = rng.choice(BEHAVIORS), rng.random() < 0.3
        pieces = [p for p, _ in tokenizers.pre_tokenizers.Split(compiled, behavior=how, invert=invert).pre_tokenize_str(text)]
        rows.append([re, how, invert, text, pieces, tokenizers.normalizers.Replace(compiled, "-").normalize_str(text)])
    return rows


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True)
    p.add_argument("--count", type=int, default=12)
    a = p.parse_args()
    out = pathlib.Path(a.out)
    out.mkdir(exist_ok=True)
    rows, shared = [], {}
    all_folders = list(folders())
    shared = all_folders.pop()[1]
    for n, (name, files) in enumerate(all_folders):
        rng = random.Random(n)
        texts = ["", "  two   spaces    and\n\nlines", "<s>a <|im_start|> b<|im_end|><new> <newer> some words newer word<x><t> <u>", "[INST]hi[/INST]</s><SPECIAL_7>"]
        texts += [random_text(rng) for _ in range(a.count)]
        rows.append({**reference(name, {f: shared[f] if c is None else c for f, c in files.items()}, texts),
                     "files": {f: c if isinstance(c, str) or c is None else json.dumps(c, ensure_ascii=False, separators=(",", ":")) for f, c in files.items()}})
    dump = lambda name, v: (out / name).write_text(json.dumps(v, ensure_ascii=False, separators=(",", ":")).replace('},{"name"', '},\n{"name"') + "\n", encoding="utf-8")
    dump("folders.json", {"shared": shared, "folders": rows})
    dump("patterns.json", patterns(40 * a.count))


if __name__ == "__main__":
    main()
