#!/usr/bin/env python3
"""Answers bench/schema's questions with llguidance and xgrammar: see main.go. Needs: pip install llguidance xgrammar.

Reads JSON lines: first the vocabulary, then {"engine": name, "task": {"schema": …, "tests": [[token, …], …]}}; answers
each with {"error"} or {"first", "masks", "verdict"}, times in microseconds, as MaskBench takes them."""

import base64
import json
import os
import sys
import time

import llguidance
import xgrammar
from llguidance.numpy import allocate_token_bitmask, fill_next_token_bitmask


class Tokens:
    """What llguidance asks of a tokenizer."""

    def __init__(self, v):
        self.tokens = [base64.b64decode(x) for x in v["tokens"]]
        self.special_token_ids = v["special"]
        for i in self.special_token_ids:
            self.tokens[i] = b"\xff<special %d>" % i
        self.eos_token_id = v["stop"][0]
        self.bos_token_id = None
        self.ids = {}
        for i, t in enumerate(self.tokens):
            self.ids.setdefault(t, i)
        self.longest = max(map(len, self.tokens))

    def __call__(self, text):
        if isinstance(text, str):
            text = text.encode()
        out = []
        while text:
            for n in range(min(self.longest, len(text)), 0, -1):
                if text[:n] in self.ids:
                    out.append(self.ids[text[:n]])
                    text = text[n:]
                    break
            else:
                text = text[1:]
        return out


class Llguidance:
    def __init__(self, v):
        self.tokenizer = llguidance.LLTokenizer(llguidance.TokenizerWrapper(Tokens(v)))
        self.mask = allocate_token_bitmask(1, self.tokenizer.vocab_size)

    def compile(self, schema):
        self.first = llguidance.LLMatcher(self.tokenizer, json.dumps({"grammars": [{"json_schema": schema}]}))
        if self.first.is_error():
            raise ValueError(self.first.get_error())
        self.matcher = self.first

    def reset(self):
        self.matcher = self.first.deep_copy()

    def fill(self):
        fill_next_token_bitmask(self.matcher, self.mask, 0)

    def commit(self, t):
        ok = (int(self.mask[0, t // 32]) >> (t % 32)) & 1
        if ok:
            self.matcher.consume_token(t)
        return bool(ok)

    def end(self):
        return self.matcher.is_accepting()


class Xgrammar:
    def __init__(self, v):
        tokens = Tokens(v).tokens
        info = xgrammar.TokenizerInfo(tokens, vocab_type=xgrammar.VocabType.RAW, vocab_size=len(tokens), stop_token_ids=v["stop"])
        self.mask = xgrammar.allocate_token_bitmask(1, info.vocab_size)
        self.compiler = xgrammar.GrammarCompiler(info, max_threads=1, cache_enabled=False)

    def compile(self, schema):
        self.grammar = self.compiler.compile_json_schema(json.dumps(schema), any_whitespace=False, strict_mode=True)
        self.reset()

    def reset(self):
        self.matcher = xgrammar.GrammarMatcher(self.grammar)

    def fill(self):
        self.matcher.fill_next_token_bitmask(self.mask)

    def commit(self, t):
        return self.matcher.accept_token(t)

    def end(self):
        return self.matcher.is_completed()


def run(engine, task):
    us = lambda since: (time.perf_counter() - since) * 1e6
    start = time.perf_counter()
    try:
        engine.compile(task["schema"])
        engine.fill()
    except Exception as e:
        return {"error": repr(e)[:300]}
    out = {"first": us(start), "masks": [], "verdict": []}
    try:
        for tokens in task["tests"]:
            engine.reset()
            ok = True
            for t in tokens:
                start = time.perf_counter()
                engine.fill()
                ok = engine.commit(t)
                out["masks"].append(us(start))
                if not ok:
                    break
            out["verdict"].append(bool(ok and engine.end()))
    except Exception as e:
        return {"error": repr(e)[:300]}
    return out


def main():
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what the engines print is no answer
    v = json.loads(sys.stdin.readline())
    engines = {"llguidance": Llguidance(v), "xgrammar": Xgrammar(v)}
    if len(sys.argv) > 1:
        engines = {k: e for k, e in engines.items() if k in sys.argv[1:]}
    print(json.dumps(list(engines)), file=answer, flush=True)
    for line in sys.stdin:
        q = json.loads(line)
        print(json.dumps(run(engines[q["engine"]], q["task"])), file=answer, flush=True)


if __name__ == "__main__":
    main()
