"""Reference vectors for package tokenizer, from Hugging Face tokenizers and SentencePiece.

    python tools/reference/tokenizer_vectors.py --data ../shared/data/tokenizers --out FOLDER --count 10000
    python tools/reference/tokenizer_vectors.py --data ../shared/data/tokenizers --out tokenizer/testdata --count 60

For each pipeline it puts the public vocabularies of --data under stages of Hugging Face tokenizers and
writes NAME.json: the tokenizer.json without vocabulary and merges, and vectors of random text:
[text, ids without special tokens, ids with them, decoded]. llama2-sp.json has the ids of SentencePiece
itself. The second command made what is in tokenizer/testdata (tokenizers 0.23.3, sentencepiece 0.2.3).
"""

import argparse
import base64
import json
import os
import random
import struct
import unicodedata

from tokenizers import Tokenizer


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


def read_gguf(path):
    """The metadata of a GGUF file."""
    data, at = open(path, "rb").read(), 4
    scalar = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}

    def take(f):
        nonlocal at
        v = struct.unpack_from("<" + f, data, at)[0]
        at += struct.calcsize(f)
        return v

    def string():
        nonlocal at
        n = take("Q")
        at += n
        return data[at - n:at].decode("utf-8")

    def value(kind):
        if kind == 8:
            return string()
        if kind == 9:
            kind, n = take("I"), take("Q")
            return [value(kind) for _ in range(n)]
        return take(scalar[kind])

    take("I"), take("Q")
    return {string(): value(take("I")) for _ in range(take("Q"))}


def base_llama3(data):
    """Vocabulary and merges of Llama 3 from the ranks of tokenizer.model."""
    alphabet = byte_alphabet()
    text = lambda raw: "".join(alphabet[b] for b in raw)
    ranks = {}
    with open(os.path.join(data, "llama-bpe", "tokenizer.model"), "rb") as f:
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
    return {text(t): r for t, r in ranks.items()}, [[l, r] for _, l, r in merges]


def base_gpt2(data):
    kv = read_gguf(os.path.join(data, "gpt-2", "vocab.gguf"))
    return ({t: i for i, t in enumerate(kv["tokenizer.ggml.tokens"])},
            [m.split(" ") for m in kv["tokenizer.ggml.merges"]])


def base_llama2(data):
    """Merges from scores, as transformers converts SentencePiece models."""
    kv = read_gguf(os.path.join(data, "llama-spm", "vocab.gguf"))
    vocab = {t: i for i, t in enumerate(kv["tokenizer.ggml.tokens"])}
    merges = []
    for piece, i in vocab.items():
        halves = [(piece[:k], piece[k:]) for k in range(1, len(piece))]
        halves = [(l, r) for l, r in halves if l in vocab and r in vocab]
        halves.sort(key=lambda p: (vocab[p[0]], vocab[p[1]]))
        merges += [(kv["tokenizer.ggml.scores"][i], l, r) for l, r in halves]
    merges.sort(key=lambda m: -m[0])
    return vocab, [[l, r] for _, l, r in merges]


def llama3_special():
    names = ["<|begin_of_text|>", "<|end_of_text|>"]
    names += [f"<|reserved_special_token_{i}|>" for i in range(4)]
    names += ["<|start_header_id|>", "<|end_header_id|>", "<|reserved_special_token_4|>", "<|eot_id|>"]
    return names + [f"<|reserved_special_token_{i}|>" for i in range(5, 251)]


def added(i, content, special=True, **flags):
    return {"id": i, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
            "normalized": not special, "special": special, **flags}


def split(regex, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": regex}, "behavior": behavior, "invert": invert}


def sequence(*stages):
    return {"type": "Sequence", "pretokenizers": list(stages)}


def byte_level(regex=False, space=False):
    return {"type": "ByteLevel", "add_prefix_space": space, "trim_offsets": True, "use_regex": regex}


def template(single):
    """Post-processor for "BOS $A EOS" given as [(name, id) or None]."""
    return {"type": "TemplateProcessing",
            "single": [{"Sequence": {"id": "A", "type_id": 0}} if s is None else {"SpecialToken": {"id": s[0], "type_id": 0}} for s in single],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {s[0]: {"id": s[0], "ids": [s[1]], "tokens": [s[0]]} for s in single if s}}


def pipeline(base, pre=None, normalizer=None, decoder=None, post=None, added_tokens=(), **model):
    flags = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
             "fuse_unk": False, "byte_fallback": False, "ignore_merges": False, **model}
    return base, {"version": "1.0", "truncation": None, "padding": None, "added_tokens": list(added_tokens),
                  "normalizer": normalizer, "pre_tokenizer": pre, "post_processor": post, "decoder": decoder, "model": flags}


LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace("{1,3}", "")
GPT4O = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CL100K = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|\s+(?!\S)|\s"
DEEPSEEK = [r"\p{N}{1,3}", r"[一-龥぀-ゟ゠-ヿ]+",
            r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"]
KIMI = (r"[\p{Han}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
        r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
SPM_DECODER = {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                                                {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
SPM_NORMALIZER = {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "▁"},
                                                      {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]}
LLAMA2_ADDED = [added(0, "<unk>"), added(1, "<s>"), added(2, "</s>")]
LLAMA2 = dict(added_tokens=LLAMA2_ADDED, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


def metaspace(scheme, cut):
    return {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": cut}


def punctuation(behavior):
    return {"type": "Punctuation", "behavior": behavior}


def digits(individual):
    return {"type": "Digits", "individual_digits": individual}


def pipelines():
    gpt2_added = [added(50256, "<|endoftext|>")]

    def gpt2(*stages, **more):
        return pipeline("gpt-2", sequence(*stages), decoder=BYTES, **{"added_tokens": gpt2_added, **more})

    return {
        "llama3": pipeline("llama-bpe", sequence(split(LLAMA3), byte_level()), decoder=BYTES, ignore_merges=True,
                           post={"type": "Sequence", "processors": [{"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": False, "use_regex": True},
                                                                    template([("<|begin_of_text|>", 128000), None])]},
                           added_tokens=[added(128000 + i, n) for i, n in enumerate(llama3_special())]),
        "gpt2": gpt2(byte_level(True)),
        "gpt2-space": gpt2(byte_level(True, True), post=template([("<|endoftext|>", 50256), None, ("<|endoftext|>", 50256)])),
        "qwen2": gpt2(split(QWEN2), byte_level(), normalizer={"type": "NFC"},
                      added_tokens=gpt2_added + [added(50257, "<|im_start|>"), added(50258, "<|im_end|>"), added(50259, "<think>", False, normalized=False)]),
        "neox": gpt2(byte_level(True), normalizer={"type": "NFC"},
                     added_tokens=gpt2_added + [added(50257 + i, " " * (24 - i), False) for i in range(23)] + [added(50280, "|||É|||", False)]),
        "falcon": gpt2(punctuation("Contiguous"), byte_level(True), digits(False), split("[0-9][0-9][0-9]"),
                       added_tokens=gpt2_added + [added(50257, ">>TITLE<<")]),
        "falcon3": gpt2(split(LLAMA3), digits(True), byte_level()),
        "starcoder": gpt2(digits(True), byte_level(True)),
        "gpt4o": gpt2(split(GPT4O), byte_level()),
        "cl100k": gpt2(split(CL100K), byte_level()),
        "deepseek": gpt2(*[split(r) for r in DEEPSEEK], byte_level()),
        "kimi": gpt2(split(KIMI), byte_level()),
        "removed": gpt2(split(QWEN2, "Removed", True), byte_level()),
        "previous": gpt2(split(r"\s", "MergedWithPrevious"), byte_level()),
        "next": gpt2(split(r"[aeiou]+", "MergedWithNext"), byte_level()),
        "contiguous": gpt2(split(r"\p{Lu}", "Contiguous"), punctuation("MergedWithNext"), byte_level()),
        "look": gpt2(split(r"(?<=\p{L})\p{N}|(?<!\s)[.,](?=\s)|\b\w\w\b|(?>a+)b|x*?y|[[:punct:]]{2,4}"), byte_level()),
        "flags": gpt2(byte_level(True), added_tokens=gpt2_added + [
            added(50257, "<L>", lstrip=True), added(50258, "<R>", rstrip=True), added(50259, "<B>", lstrip=True, rstrip=True),
            added(4775, "word", False, single_word=True), added(15496, "Hello", False, lstrip=True),
            added(50260, "<|endo"), added(50261, "<s>", False, normalized=False, single_word=True)]),
        "lower": gpt2(byte_level(True), normalizer={"type": "Sequence", "normalizers": [
            {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"}, {"type": "Strip", "strip_left": True, "strip_right": False},
            {"type": "Replace", "pattern": {"Regex": "\\s{2,}"}, "content": " "}]}, added_tokens=gpt2_added + [added(50257, "aaab", False)]),
        "nfkc": gpt2(byte_level(True), normalizer={"type": "NFKC"}),
        "llama2": pipeline("llama-spm", None, SPM_NORMALIZER, SPM_DECODER, template([("<s>", 1), None]), **LLAMA2),
        "llama2-first": pipeline("llama-spm", metaspace("first", False), None, SPM_DECODER, template([("<s>", 1), None, ("</s>", 2)]), **LLAMA2),
        "llama2-always": pipeline("llama-spm", metaspace("always", True), None, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always", "split": True}, **LLAMA2),
        "llama2-never": pipeline("llama-spm", metaspace("never", True), None, {"type": "Metaspace", "replacement": "▁", "prepend_scheme": "never", "split": True}, **LLAMA2),
        "llama2-unk": pipeline("llama-spm", {"type": "WhitespaceSplit"}, None, {"type": "Fuse"}, **{**LLAMA2, "byte_fallback": False}),
        "llama2-unks": pipeline("llama-spm", {"type": "Whitespace"}, None, {"type": "Fuse"}, **{**LLAMA2, "byte_fallback": False, "fuse_unk": False}),
        "llama2-bert": pipeline("llama-spm", {"type": "BertPreTokenizer"}, None, None, **{**LLAMA2, "unk_token": None, "byte_fallback": False}),
        "gemma": pipeline("llama-spm", {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False},
                          {"type": "Replace", "pattern": {"String": " "}, "content": "▁"},
                          {"type": "Sequence", "decoders": [{"type": "Replace", "pattern": {"String": "▁"}, "content": " "}, {"type": "ByteFallback"}, {"type": "Fuse"}]},
                          template([("<s>", 1), None]), **LLAMA2),
    }


# Characters by the ranges that matter to pre-tokenizers. Left out are those unassigned in Python's Unicode,
# and U+061D, punctuation that Hugging Face's Punctuation stage is too old to know.
RANGES = [(0x20, 0x7E)] * 12 + [(0x30, 0x39)] * 3 + [(0x09, 0x0D)] * 2 + [
    (0x80, 0xFF), (0x100, 0x17F), (0x370, 0x3FF), (0x400, 0x4FF), (0x590, 0x5FF), (0x600, 0x6FF),
    (0x900, 0x97F), (0xE00, 0xE7F), (0x1780, 0x17FF), (0x1E00, 0x1EFF), (0x2000, 0x206F),
    (0x2070, 0x209F), (0x2150, 0x218F), (0x2190, 0x22FF), (0x3000, 0x30FF), (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3), (0xE000, 0xE0FF), (0xFB00, 0xFB4F), (0xFE00, 0xFE0F), (0xFF00, 0xFFEF),
    (0x10400, 0x1044F), (0x1D400, 0x1D7FF), (0x1F300, 0x1F6FF), (0x1F900, 0x1F9FF), (0x20000, 0x2A6DF),
    (0xE0100, 0xE01EF)]
WORDS = ["the", " the", "Hello", " world", "I'm", "we'LL", "they've", "don't", "'S", "'ſ", "'Re", "  ", "   ",
         "\n\n", "\r\n", " \n", "\t\t", "\u00a0", "\u3000", "...", "!!!", "://", "123456", "3.14", "naïve", "Straße",
         "e\u0301", "안녕", "世界", "😀", "👨‍👩‍👧", "🏳️‍🌈", "नमस्ते", "مرحبا", "<|eot_id|>", "<s>", "</s>", "▁", "_", "Ġ",
         "<|endoftext|>", "<|im_start|>", "<think>", "<L>", "<R>", "<B>", "word", " word ", "HELLO", "|||É|||", ">>TITLE<<", "<0x41>",
         "Ａ１", "ﬁ", "aaab", "xxy", "McDonald", "iPhone", "²", "½"]


def random_text(rng):
    out = []
    for _ in range(rng.randint(1, 24)):
        if rng.random() < 0.4:
            out.append(rng.choice(WORDS))
        elif rng.random() < 0.5:
            lo, hi = rng.choice(RANGES)
            out.append("".join(chr(rng.randint(lo, hi)) for _ in range(rng.randint(1, 6))))
        else:
            out.append(rng.choice([" ", "  ", "\n", "\t", " a", "b ", "1", "99", "'"]) * rng.randint(1, 4))
    return "".join(c for c in "".join(out) if unicodedata.category(c) != "Cn" and c != "\u061d")


def vectors(tok, texts):
    tok.encode_special_tokens = True
    plain = [tok.encode(t, add_special_tokens=False).ids for t in texts]
    tok.encode_special_tokens = False
    special = [tok.encode(t, add_special_tokens=True).ids for t in texts]
    return [[t, p, s, tok.decode(p)] for t, p, s in zip(texts, plain, special)]


def sentencepiece(data, texts):
    """Ids of SentencePiece, for a model made of the same pieces."""
    os.environ.setdefault("PROTOCOL_BUFFERS_PYTHON_IMPLEMENTATION", "python")
    import sentencepiece as spm
    from sentencepiece import sentencepiece_model_pb2 as pb
    kv = read_gguf(os.path.join(data, "llama-spm", "vocab.gguf"))
    m = pb.ModelProto()
    for t, s, k in zip(*(kv["tokenizer.ggml." + n] for n in ("tokens", "scores", "token_type"))):
        m.pieces.add(piece=t, score=s, type=k)
    m.trainer_spec.model_type = 2
    m.trainer_spec.byte_fallback = True
    m.normalizer_spec.name = "identity"
    m.normalizer_spec.add_dummy_prefix = True
    m.normalizer_spec.remove_extra_whitespaces = False
    model = m.SerializeToString()
    sp = spm.SentencePieceProcessor(model_proto=model)
    return model, [[t, sp.encode(t), None, sp.decode(sp.encode(t))] for t in texts]


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--data", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--count", type=int, default=10000)
    a = p.parse_args()
    os.makedirs(a.out, exist_ok=True)
    bases = {"gpt-2": base_gpt2(a.data), "llama-bpe": base_llama3(a.data), "llama-spm": base_llama2(a.data)}

    def write(name, row):
        with open(os.path.join(a.out, name + ".json"), "w", encoding="utf-8") as f:
            json.dump(row, f, ensure_ascii=False, separators=(",", ":"))
            f.write("\n")

    for n, (name, (base, spec)) in enumerate(pipelines().items()):
        rng = random.Random(n)
        texts = [random_text(rng) for _ in range(a.count)]
        whole = json.loads(json.dumps(spec))
        whole["model"]["vocab"], whole["model"]["merges"] = bases[base]
        tok = Tokenizer.from_str(json.dumps(whole))
        write(name, {"base": base, "tokenizer": spec, "vectors": vectors(tok, texts)})
    rng = random.Random(1000)
    # SentencePiece reads "▁" as a space and stops at NUL; Hugging Face and llama.cpp do not differ there.
    texts = [random_text(rng) for _ in range(a.count)]
    model, rows = sentencepiece(a.data, texts)
    write("llama2-sp", {"base": "llama-spm", "vectors": rows})
    if a.count >= 1000:
        with open(os.path.join(a.out, "llama2.model"), "wb") as f:
            f.write(model)


if __name__ == "__main__":
    main()
