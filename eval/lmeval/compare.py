"""Shows that `trit eval` and lm-evaluation-harness through `trit serve` give the same numbers.

    pip install "lm_eval[api]"
    go build -o trit ./cmd/trit
    python eval/lmeval/compare.py ./trit MODEL [MODEL ...]

Every log-likelihood of every choice, and that of the text, must be the same to the last bit; so must the accuracies.
lm_eval adds the tokens' log-probabilities with Python's sum, which is compensated from Python 3.12 on and then differs
in the last bits from adding them one by one: there the log-likelihoods may differ by one part in 10^12. The model must
have a begin-of-text or end-of-text token for the text; without one only the choices are compared.
"""
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.request

os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import lm_eval
from lm_eval.tasks import TaskManager

here = pathlib.Path(__file__).resolve().parent
exact = sys.version_info < (3, 12)


def same(a, b):
    return a == b if exact else math.isclose(a, b, rel_tol=1e-12)


def serve(trit, model):
    """Starts a server on a free port; returns the process and its URL, which it prints."""
    p = subprocess.Popen([trit, "serve", model, "--addr", "127.0.0.1:0", "--name", "m", "--log-level", "error"], stdout=subprocess.PIPE, text=True)
    for line in p.stdout:
        if "chat at " in line:
            url = line.split("chat at ")[1].split()[0].rstrip("/")
            return p, url
    raise SystemExit(f"{trit} serve {model} did not start (exit {p.wait()})")


def compare(trit, model):
    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        os.environ["HF_DATASETS_CACHE"] = str(tmp / "cache")
        tasks = []
        for name in "choices", "text":
            text = (here / f"{name}.yaml").read_text()
            (tmp / f"{name}.yaml").write_text(text.replace(f"test: {name}.jsonl", f"test: {here / name}.jsonl"))
        (tmp / "text.txt").write_text(json.loads((here / "text.jsonl").read_text())["text"])
        p, url = serve(trit, model)
        try:
            info = json.load(urllib.request.urlopen(url + "/tokenizer_info"))
            window = info["model_max_length"] - 2 # lm_eval keeps one token for what it generates, and one for itself
            begins = info["bos_token"] or info["eos_token"]
            tasks = ["trit_choices"] + (["trit_text"] if begins else [])
            args = f"model=m,base_url={url}/v1/completions,tokenizer_backend=remote,num_concurrent=4,max_length={window + 2}"
            theirs = lm_eval.simple_evaluate("local-completions", model_args=args, tasks=tasks, log_samples=True, bootstrap_iters=0,
                                             task_manager=TaskManager(include_path=str(tmp), include_defaults=False))
        finally:
            p.terminate()
            p.wait()
        run = [trit, "eval", model, "-q", "--json", "--context", str(window), "--choices", str(here / "choices.jsonl"), "--samples", str(tmp / "samples.jsonl")]
        if begins:
            run += ["--text", str(tmp / "text.txt")]
        ours = json.loads(subprocess.run(run, check=True, stdout=subprocess.PIPE).stdout)
        answers = [json.loads(l) for l in (tmp / "samples.jsonl").read_text().splitlines()]

    wrong = n = 0
    for s in sorted(theirs["samples"]["trit_choices"], key=lambda s: s["doc_id"]):
        for k, (a, b) in enumerate(zip((float(r[0][0]) for r in s["resps"]), answers[s["doc_id"]]["log_likelihoods"], strict=True)):
            n += 1
            if not same(a, b):
                wrong += 1
                print(f"question {s['doc_id']}, choice {k}: lm_eval {a!r}, trit eval {b!r}")
    r = theirs["results"]["trit_choices"]
    for name in "acc", "acc_norm", "acc_bytes":
        a, b = r[f"{name},none"], ours["choices"][name]["value"]
        print(f"{name:10} lm_eval {a:.6f}  trit eval {b:.6f}")
        wrong += a != b
    print(f"{n} log-likelihoods of choices compared")
    if begins:
        (s,) = theirs["samples"]["trit_text"]
        a, b = float(s["resps"][0][0] if isinstance(s["resps"][0], (list, tuple)) else s["resps"][0]), ours["text"]["log_likelihood"]
        print(f"text       lm_eval {a!r}  trit eval {b!r}")
        wrong += not same(a, b)
        r = theirs["results"]["trit_text"]
        for name in "word_perplexity", "byte_perplexity", "bits_per_byte":
            a, b = r[f"{name},none"], ours["text"][name]
            print(f"{name:16} lm_eval {a!r}  trit eval {b!r}")
            wrong += not math.isclose(a, b, rel_tol=1e-13) # exp and log differ in the last bit between libraries
    return wrong


if __name__ == "__main__":
    if len(sys.argv) < 3:
        raise SystemExit(__doc__)
    print(f"lm_eval {lm_eval.__version__}, Python {sys.version.split()[0]}: {'equal to the last bit' if exact else 'equal to 1e-12'} is asked")
    wrong = 0
    for model in sys.argv[2:]:
        print(f"== {model}")
        wrong += compare(sys.argv[1], model)
    print("ok: everything is equal" if not wrong else f"FAILED: {wrong} differ")
    sys.exit(wrong > 0)
