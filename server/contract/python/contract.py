"""OpenAI's own Python client against a server: python contract.py URL [chat]

With "chat" the model under test says "Hello there!" to "hello", as the fake engine of the tests does;
otherwise any model will do.
"""
import json
import sys

import openai

url, scripted = sys.argv[1], "chat" in sys.argv[2:]
client = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0, timeout=120)
model = client.models.list().data[0].id
assert client.models.retrieve(model).id == model
user = [{"role": "user", "content": "hello"}]
ran = []


def test(f):
    try:
        f()
        ran.append(f.__name__)
    except openai.BadRequestError as e:
        if e.code != "invalid_grammar" or "vocabulary" not in e.message or scripted:
            raise
        ran.append(f"({f.__name__}: this model's vocabulary cannot spell JSON)")


@test
def chat():
    r = client.chat.completions.create(model=model, messages=user, max_tokens=20, temperature=0)
    assert r.choices[0].message.role == "assistant" and r.choices[0].finish_reason in ("stop", "length")
    assert r.usage.total_tokens == r.usage.prompt_tokens + r.usage.completion_tokens
    if scripted:
        assert r.choices[0].message.content == "Hello there!", r
    again = client.chat.completions.create(model=model, messages=user, max_tokens=20, temperature=0)
    assert again.choices[0].message.content == r.choices[0].message.content


@test
def seeds():
    say = lambda seed: client.chat.completions.create(model=model, messages=[{"role": "user", "content": "?"}], max_tokens=12, seed=seed, temperature=1.5).choices[0].message.content
    assert say(1) == say(1) != say(2)


@test
def stream():
    whole = client.chat.completions.create(model=model, messages=user, max_tokens=20, temperature=0)
    text, usage, finish, roles = "", None, None, 0
    for chunk in client.chat.completions.create(model=model, messages=user, max_tokens=20, temperature=0, stream=True, stream_options={"include_usage": True}):
        if chunk.usage:
            usage = chunk.usage
        for c in chunk.choices:
            roles += c.delta.role == "assistant"
            text += c.delta.content or ""
            finish = c.finish_reason or finish
    assert text == whole.choices[0].message.content and finish == whole.choices[0].finish_reason and roles == 1
    assert usage.completion_tokens == whole.usage.completion_tokens


@test
def stream_helper():
    with client.chat.completions.stream(model=model, messages=user, max_tokens=20, temperature=0) as s:
        kinds = {e.type for e in s}
        final = s.current_completion_snapshot
    assert final.choices[0].message.content is not None and "chunk" in kinds


@test
def chat_logprobs():
    r = client.chat.completions.create(model=model, messages=user, max_tokens=4, temperature=0, logprobs=True, top_logprobs=3)
    for t in r.choices[0].logprobs.content:
        assert t.logprob <= 0 and len(t.top_logprobs) == 3 and t.logprob == t.top_logprobs[0].logprob
        assert isinstance(t.bytes, list)


@test
def completions():
    r = client.completions.create(model=model, prompt=["a b", "c d"], n=2, max_tokens=4, temperature=0, echo=True, logprobs=2)
    assert [c.index for c in r.choices] == [0, 1, 2, 3]
    assert r.choices[0].text.startswith("a b") and r.choices[3].text.startswith("c d") and r.choices[0].text == r.choices[1].text
    lp = r.choices[0].logprobs
    assert lp.token_logprobs[0] is None and len(lp.tokens) == len(lp.token_logprobs) == len(lp.top_logprobs) == len(lp.text_offset)
    parts = list(client.completions.create(model=model, prompt="a b", max_tokens=4, temperature=0, stream=True))
    assert "a b" + "".join(c.text for p in parts for c in p.choices) == r.choices[0].text


@test
def embeddings():
    r = client.embeddings.create(model=model, input=["one", "two words"])
    assert len(r.data) == 2 and abs(sum(x * x for x in r.data[1].embedding) - 1) < 1e-3
    f = client.embeddings.create(model=model, input=["one", "two words"], encoding_format="float")
    assert max(abs(a - b) for a, b in zip(r.data[1].embedding, f.data[1].embedding)) < 1e-6


@test
def tools():
    parameters = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}, "days": {"type": "integer", "minimum": 1, "maximum": 9}}, "required": ["city", "days"], "additionalProperties": False}
    kit = [{"type": "function", "function": {"name": "weather", "description": "the weather", "parameters": parameters, "strict": True}}]
    ask = [{"role": "user", "content": "weather?"}]
    for choice in ("required", {"type": "function", "function": {"name": "weather"}}):
        r = client.chat.completions.create(model=model, messages=ask, tools=kit, tool_choice=choice, max_tokens=300, seed=3, parallel_tool_calls=False)
        call = r.choices[0].message.tool_calls[0]
        arguments = json.loads(call.function.arguments)
        assert r.choices[0].finish_reason == "tool_calls" and call.function.name == "weather"
        assert set(arguments) == {"city", "days"} and 1 <= arguments["days"] <= 9
    done = ask + [r.choices[0].message.model_dump(exclude_none=True), {"role": "tool", "tool_call_id": call.id, "content": "sunny"}]
    client.chat.completions.create(model=model, messages=done, tools=kit, max_tokens=5)
    client.chat.completions.create(model=model, messages=done, tools=kit, tool_choice="none", max_tokens=5)
    got = {}
    for chunk in client.chat.completions.create(model=model, messages=ask, tools=kit, tool_choice="required", max_tokens=300, seed=3, stream=True, parallel_tool_calls=False):
        for d in (chunk.choices[0].delta.tool_calls or []) if chunk.choices else []:
            got.setdefault(d.index, "")
            got[d.index] += d.function.arguments
    assert json.loads(got[0])["days"] >= 1


@test
def strict_schema():
    schema = {"type": "object", "properties": {"steps": {"type": "array", "items": {"$ref": "#/$defs/step"}, "maxItems": 2}, "ok": {"type": "boolean"}}, "required": ["steps", "ok"], "additionalProperties": False,
              "$defs": {"step": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 12}, "kind": {"enum": ["a", "b"]}}, "required": ["name", "kind"], "additionalProperties": False}}}
    for seed in range(5):
        r = client.chat.completions.create(model=model, messages=user, seed=seed, max_tokens=200, response_format={"type": "json_schema", "json_schema": {"name": "plan", "strict": True, "schema": schema}})
        v = json.loads(r.choices[0].message.content)
        assert set(v) == {"steps", "ok"} and len(v["steps"]) <= 2 and r.choices[0].finish_reason == "stop"
    r = client.chat.completions.create(model=model, messages=user, max_tokens=100, response_format={"type": "json_object"})
    assert isinstance(json.loads(r.choices[0].message.content), dict)


@test
def parse_helper():
    import pydantic

    class Answer(pydantic.BaseModel):
        word: str = pydantic.Field(max_length=10)
        number: int

    r = client.chat.completions.parse(model=model, messages=user, max_tokens=100, response_format=Answer, seed=1)
    assert isinstance(r.choices[0].message.parsed, Answer)


@test
def errors():
    def fails(kind, status, **args):
        try:
            client.chat.completions.create(**{"model": model, "messages": user, **args})
        except kind as e:
            assert e.status_code == status and e.body["message"] and e.request_id, e
            return e
        raise AssertionError(f"no {kind}")

    assert fails(openai.NotFoundError, 404, model="nobody").code == "model_not_found"
    assert fails(openai.BadRequestError, 400, temperature=-1).param == "temperature"
    fails(openai.BadRequestError, 400, messages=[])
    assert fails(openai.BadRequestError, 400, messages=[{"role": "user", "content": "word " * 300_000}]).code == "context_length_exceeded"


print("ok:", *ran)
