"""Renders chat templates with Jinja2, set up as Hugging Face transformers does, as reference for
tokenizer/jinja.

    python tools/reference/chat_templates.py --out tokenizer/jinja/testdata/chat.jsonl tokenizer/jinja/testdata/templates
    python tools/reference/chat_templates.py --snippets tokenizer/jinja/testdata/snippets.txt --out tokenizer/jinja/testdata/snippets.jsonl

The first writes, for each *.jinja and each conversation below, one JSON object a line: template,
vars, and output or error. The second renders one-line templates that exercise the language.
Settings: transformers/utils/chat_template_utils.py, _compile_jinja_template.
"""

import argparse
import datetime
import json
import pathlib

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

NOW = datetime.datetime(2025, 4, 15, 9, 5, 7)


class Generation(Extension):
    """{% generation %} … {% endgeneration %}: marks the assistant's text, and writes it."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller):
        return caller()


def environment():
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda f: NOW.strftime(f)
    return env


SYSTEM = {"role": "system", "content": "  You are a helpful assistant. \n"}
TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "Tell the weather <now> at a place, \"exactly\" & 'truly' — é世界",
        "parameters": {"type": "object", "properties": {
            "location": {"type": "string", "description": "City\nand country"},
            "unit": {"type": "string", "enum": ["c", "f"], "default": None},
            "days": {"type": "integer", "minimum": 1, "maximum": 7.5}},
            "required": ["location"], "additionalProperties": False},
        "return": {"type": "object", "description": "what it is like"}}},
    {"type": "function", "function": {"name": "stop", "description": "Stops.", "parameters": {"type": "object", "properties": {}}}},
]
CALL = {"role": "assistant", "content": "", "tool_calls": [
    {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": {"location": "Paris", "unit": "c", "days": 2}}}]}
RESULT = {"role": "tool", "content": "{\"temp\": 21.5}", "name": "get_weather", "tool_call_id": "call00001"}


def user(text):
    return {"role": "user", "content": text}


def assistant(text):
    return {"role": "assistant", "content": text}


CONVERSATIONS = {
    "one": dict(messages=[user("Hello")]),
    "one, no prompt": dict(messages=[user("Hello")], add_generation_prompt=False),
    "system": dict(messages=[SYSTEM, user(" Hi there!  ")]),
    "turns": dict(messages=[SYSTEM, user("What is 1+1?"), assistant(" 2 \n"), user("And 2+2?\n\nReally?")]),
    "turns, ends with assistant": dict(messages=[user("a"), assistant("b"), user("c"), assistant("<think>\nhm\n</think>\n\nd")], add_generation_prompt=False),
    "unicode": dict(messages=[user("naïve 世界 😀 \u00a0x\u2028y"), assistant("Straße"), user("<b>&amp;</b> \"q\" 'a'")]),
    "tools": dict(messages=[SYSTEM, user("Weather in Paris?")], tools=TOOLS),
    "tool call": dict(messages=[user("Weather in Paris?"), CALL, RESULT], tools=TOOLS),
    "tool answer": dict(messages=[SYSTEM, user("Weather?"), CALL, RESULT, assistant("21.5 degrees."), user("Thanks")], tools=TOOLS),
    "two calls": dict(messages=[user("Both"), {"role": "assistant", "content": "Let me see.", "tool_calls": CALL["tool_calls"] + [
        {"id": "call00002", "type": "function", "function": {"name": "stop", "arguments": {}}}]}, RESULT, {"role": "tool", "content": "ok", "name": "stop", "tool_call_id": "call00002"}], tools=TOOLS),
    "bad order": dict(messages=[assistant("I begin"), user("no")]),
    "two users": dict(messages=[user("a"), user("b")]),
    "empty": dict(messages=[user("")]),
    "thinking": dict(messages=[user("Hi")], enable_thinking=True, thinking=True, reasoning_effort="high"),
    "no thinking": dict(messages=[user("Hi"), assistant("<think>a</think>b"), user("c")], enable_thinking=False, thinking=False),
    "documents": dict(messages=[user("Hi")], documents=[{"title": "T1", "text": "body"}, {"title": "T2", "text": "more\nlines"}]),
}
VARS = {
    "s": "Hello world", "u": "naïve 世界😀", "l": [1, 2, 3, 4, 5],
    "d": {"b": 1, "a": "x", "nested": {"list": [1, {"x": "deep"}]}},
    "people": [{"name": "Ann", "age": 31, "admin": True, "address": {"city": "Oslo"}},
               {"name": "Bob", "age": 25, "admin": False, "address": {"city": "Rome"}},
               {"name": "Cy", "age": 40, "admin": False, "address": {"city": "Lima"}, "zip": "9"}],
    "tree": [{"n": 1, "c": [{"n": 2, "c": [{"n": 3}]}, {"n": 4}]}, {"n": 5}],
    "messages": [SYSTEM, {"role": "user", "content": "q1"}, {"role": "assistant", "content": "a1"}, {"role": "user", "content": "q2"}],
}
TOKENS = dict(bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<pad>")


def conversations():
    for name, c in CONVERSATIONS.items():
        yield name, {**TOKENS, "add_generation_prompt": True, "tools": None, "documents": None, **c}


def render(env, source, variables):
    try:
        return {"output": env.from_string(source).render(**variables)}
    except Exception as e:  # whatever the template does wrong is the result
        return {"error": f"{type(e).__name__}: {e}"}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True)
    p.add_argument("--snippets")
    p.add_argument("folders", nargs="*")
    a = p.parse_args()
    env = environment()
    with open(a.out, "w", encoding="utf-8") as f:
        def put(row):
            f.write(json.dumps(row, ensure_ascii=False) + "\n")
        if a.snippets:
            put({"name": "", "vars": VARS})
            for s in pathlib.Path(a.snippets).read_text(encoding="utf-8").splitlines():
                if not s.startswith("##"):
                    s = s.replace("⏎", "\n")
                    put({"template": s, **render(env, s, VARS)})
        elif a.folders:
            rows = [(name, v) for name, v in conversations()]
            for name, v in rows:
                put({"name": name, "vars": v})
            for folder in a.folders:
                for path in sorted(pathlib.Path(folder).glob("**/*.jinja")):
                    source = path.read_bytes().decode()
                    for name, v in rows:
                        put({"file": path.name, "conversation": name, **render(env, source, v)})


if __name__ == "__main__":
    main()
