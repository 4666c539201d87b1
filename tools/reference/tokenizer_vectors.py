"""Reference vectors for package tokenizer, from Hugging Face tokenizers and sentencepiece.

    python tools/reference/tokenizer_vectors.py --data ../shared/data/tokenizers --out /tmp/ref [--count 10000]

Writes, under --out, tokenizer.json files built from the public vocabularies in --data and files
of vectors: one JSON object a line, {"text": …, "ids": […]}. Nothing of it is part of the
repository except small samples (tokenizer/testdata/*.jsonl, made with --count 200), so that the tests need no Python.
"""

import argparse
import base64
import json
import os
import random
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def byte_alphabet():
    """The byte-level alphabet: byte → character (openai/gpt-2, bytes_to_unicode)."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {}, 256
    for b in range(256):
        if b in keep:
            table[b] = chr(b)
        else:
            table[b] = chr(extra)
            extra += 1
    return table


def llama3_special():
    names = ["<|begin_of_text|>", "<|end_of_text|>"]
    names += [f"<|reserved_special_token_{i}|>" for i in range(4)]
    names += ["<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>"]
    names += [f"<|reserved_special_token_{i}|>" for i in range(5, 251)]
    return names


def llama3(path):
    """A tokenizer.json as published for Llama 3, from the ranks of tokenizer.model."""
    alphabet = byte_alphabet()
    text = lambda raw: "".join(alphabet[b] for b in raw)
    ranks = {}
    with open(path, "rb") as f:
        for line in f:
            token, rank = line.split()
            ranks[base64.b64decode(token)] = int(rank)
    merges = []
    for token, rank in ranks.items():
        halves = [(token[:i], token[i:]) for i in range(1, len(token))]
        halves = [(l, r) for l, r in halves if l in ranks and r in ranks]
        halves.sort(key=lambda p: (ranks[p[0]], ranks[p[1]]))
        merges += [(rank, text(l), text(r)) for l, r in halves]
    merges.sort(key=lambda m: m[0])
    tok = Tokenizer(models.BPE({text(t): r for t, r in ranks.items()}, [(l, r) for _, l, r in merges],
                               ignore_merges=True))
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tok.decoder = decoders.ByteLevel()
    tok.add_special_tokens([AddedToken(n, special=True, normalized=False) for n in llama3_special()])
    tok.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 128000)])])
    return tok


# Characters by the ranges that matter to pre-tokenizers, all of them in Unicode 15.
RANGES = [(0x20, 0x7E)] * 12 + [(0x30, 0x39)] * 3 + [(0x09, 0x0D)] * 2 + [
    (0x80, 0xFF), (0x100, 0x17F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x5FF), (0x600, 0x6FF),
    (0x900, 0x97F), (0xE00, 0xE7F), (0x1780, 0x17FF), (0x1E00, 0x1EFF), (0x2000, 0x206F),
    (0x2070, 0x209F), (0x2150, 0x218F), (0x2190, 0x22FF), (0x3000, 0x30FF), (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3), (0xE000, 0xE0FF), (0xFB00, 0xFB4F), (0xFE00, 0xFE0F), (0xFF00, 0xFFEF),
    (0x10400, 0x1044F), (0x1D400, 0x1D7FF), (0x1F300, 0x1F6FF), (0x1F900, 0x1F9FF), (0x20000, 0x2A6DF),
    (0xE0100, 0xE01EF)]
WORDS = ["the", " the", "Hello", " world", "I'm", "we'LL", "they've", "don't", "'S", "'ſ", "'Re", "  ", "   ",
         "\n\n", "\r\n", " \n", "\t\t", "\u00a0", "\u3000", "...", "!!!", "://", "123456", "3.14", "naïve", "Straße",
         "e\u0301", "안녕", "世界", "😀", "👨‍👩‍👧", "🏳️‍🌈", "नमस्ते", "مرحبا", "<|eot_id|>", "<s>", "</s>", "▁", "_", "Ġ"]


def random_text(rng, ranges=RANGES):
    out = []
    for _ in range(rng.randint(1, 24)):
        if rng.random() < 0.35:
            out.append(rng.choice(WORDS))
        elif rng.random() < 0.5:
            lo, hi = rng.choice(ranges)
            out.append("".join(chr(rng.randint(lo, hi)) for _ in range(rng.randint(1, 6))))
        else:
            out.append(rng.choice([" ", "  ", "\n", "\t", " a", "b ", "1", "99", "'"]) * rng.randint(1, 4))
    text = "".join(out)
    return "".join(c for c in text if unicodedata.category(c) != "Cn")


def write(path, rows):
    with open(path, "w", encoding="utf-8") as f:
        for row in rows:
            f.write(json.dumps(row, ensure_ascii=False) + "\n")


def vectors(tok, count, seed):
    """Special tokens in the text are text, as with EncodeOptions{}."""
    rng = random.Random(seed)
    tok.encode_special_tokens = True
    texts = [random_text(rng) for _ in range(count)]
    for text, e in zip(texts, tok.encode_batch(texts, add_special_tokens=False)):
        yield {"text": text, "ids": e.ids}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--count", type=int, default=10000)
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    tok = llama3(os.path.join(a.data, "llama-bpe", "tokenizer.model"))
    tok.save(os.path.join(a.out, "llama3.json"), pretty=False)
    write(os.path.join(a.out, "llama3.jsonl"), vectors(tok, a.count, 1))


if __name__ == "__main__":
    main()
