"""What agents are built with, against a server: python frameworks.py URL

The model under test is scripted, as the Go test TestContractAgents does it: asked to "add" it thinks, says "One moment."
and calls the tool add with {"a": 5}; told "six" it answers "It is six."; to "Hi" it says "Hello there!". Packages
that are not installed are named and passed over; requirements.txt has the versions that this was written for.
"""
import asyncio
import importlib
import json
import sys
import tempfile

url = sys.argv[1]
ran, missing = [], []
NAME = "fake"


def test(*needs):
    def run(f):
        for n in needs:
            try:
                importlib.import_module(n)
            except ImportError:
                missing.append(n)
                return f
        f()
        ran.append(f.__name__)
        return f
    return run


PARAMETERS = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": False}


@test("openai")
def openai_responses():
    import openai
    import pydantic
    c = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
    r = c.responses.create(model=NAME, input="Hi", temperature=0)
    assert r.output_text == "Hello there!" and r.status == "completed", r
    tools = [{"type": "function", "name": "add", "parameters": PARAMETERS, "strict": True}]
    r = c.responses.create(model=NAME, input="Please add.", tools=tools, temperature=0)
    assert [x.type for x in r.output] == ["reasoning", "message", "function_call"] and r.usage.output_tokens_details.reasoning_tokens > 0, r
    call = r.output[-1]
    assert json.loads(call.arguments) == {"a": 5}
    answer = [{"type": "function_call_output", "call_id": call.call_id, "output": "six"}]
    assert c.responses.create(model=NAME, previous_response_id=r.id, input=answer, tools=tools, temperature=0).output_text == "It is six."
    assert c.responses.create(model=NAME, input=[{"role": "user", "content": "Please add."}, *r.output, *answer], tools=tools, temperature=0, store=False).output_text == "It is six."
    assert c.responses.retrieve(r.id).id == r.id
    c.responses.delete(r.id)
    with c.responses.stream(model=NAME, input="Please add.", tools=tools, temperature=0) as s:
        kinds = [e.type for e in s]
        final = s.get_final_response()
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed" and final.output[-1].arguments == call.arguments

    class Way(pydantic.BaseModel):
        n: int

    assert isinstance(c.responses.parse(model=NAME, input="?", text_format=Way, max_output_tokens=60).output_parsed, Way)


@test("openai")
def openai_streams_of_calls():
    import openai
    c = openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
    tools = [{"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}]
    with c.chat.completions.stream(model=NAME, messages=[{"role": "user", "content": "Please add."}], tools=tools, temperature=0) as s:
        for _ in s:
            pass
        m = s.get_final_completion().choices[0].message
    assert json.loads(m.tool_calls[0].function.arguments) == {"a": 5} and m.content == "One moment." and m.reasoning_content == "I add.", m


@test("anthropic")
def anthropic_messages():
    import anthropic
    c = anthropic.Anthropic(base_url=url, api_key="none", max_retries=0)
    assert c.models.list().data[0].id == NAME
    ask = [{"role": "user", "content": "Please add."}]
    more = dict(model=NAME, max_tokens=2000, tools=[{"name": "add", "input_schema": PARAMETERS}], thinking={"type": "enabled", "budget_tokens": 1024})
    m = c.messages.create(messages=ask, **more)
    assert [b.type for b in m.content] == ["thinking", "text", "tool_use"] and m.stop_reason == "tool_use" and m.content[2].input == {"a": 5}, m
    after = ask + [{"role": "assistant", "content": m.content}, {"role": "user", "content": [{"type": "tool_result", "tool_use_id": m.content[2].id, "content": "six"}]}]
    assert c.messages.create(messages=after, **more).content[-1].text == "It is six."
    with c.messages.stream(messages=ask, **more) as s:
        text = "".join(s.text_stream)
        final = s.get_final_message()
    assert text == "One moment." and final.content[2].input == {"a": 5} and final.usage.output_tokens == m.usage.output_tokens
    assert c.messages.count_tokens(model=NAME, messages=ask).input_tokens > 5
    assert c.messages.create(model=NAME, max_tokens=20, messages=[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]).content[0].text == " there!"
    try:
        c.messages.create(model="nobody", max_tokens=5, messages=ask)
        raise AssertionError("no error")
    except anthropic.NotFoundError as e:
        assert e.body["error"]["type"] == "not_found_error"


@test("agents")
def openai_agents():
    import agents
    import openai
    agents.set_tracing_disabled(True)

    @agents.function_tool
    def add(a: int) -> str:
        """adds"""
        assert a == 5
        return "six"

    async def loop():
        client = openai.AsyncOpenAI(base_url=url + "/v1", api_key="none", max_retries=0)
        for model in (agents.OpenAIResponsesModel(NAME, client), agents.OpenAIChatCompletionsModel(NAME, client)):
            a = agents.Agent(name="x", instructions="Be kind.", model=model, tools=[add], model_settings=agents.ModelSettings(temperature=0))
            assert (await agents.Runner.run(a, "Please add.")).final_output == "It is six."
            r = agents.Runner.run_streamed(a, "Please add.")
            async for _ in r.stream_events():
                pass
            assert r.final_output == "It is six."

    asyncio.run(loop())


@test("langchain_openai")
def langchain_openai():
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI, OpenAIEmbeddings

    @tool
    def add(a: int) -> str:
        """adds"""
        return "six"

    for responses in (False, True):
        llm = ChatOpenAI(model=NAME, base_url=url + "/v1", api_key="none", temperature=0, max_retries=0, use_responses_api=responses)
        history = [HumanMessage("Please add.")]
        m = llm.bind_tools([add]).invoke(history)
        assert m.tool_calls[0]["args"] == {"a": 5}, m
        history += [m, ToolMessage("six", tool_call_id=m.tool_calls[0]["id"])]
        assert "It is six." in str(llm.bind_tools([add]).invoke(history).content)
        whole = None
        for chunk in llm.bind_tools([add]).stream([HumanMessage("Please add.")]):
            whole = chunk if whole is None else whole + chunk
        assert whole.tool_calls[0]["args"] == {"a": 5}, whole
    e = OpenAIEmbeddings(model=NAME, base_url=url + "/v1", api_key="none", check_embedding_ctx_length=False, max_retries=0)
    assert len(e.embed_documents([f"document {i}" for i in range(200)])) == 200


@test("langchain_ollama")
def langchain_ollama():
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_core.tools import tool
    from langchain_ollama import ChatOllama, OllamaEmbeddings

    @tool
    def add(a: int) -> str:
        """adds"""
        return "six"

    llm = ChatOllama(model=NAME, base_url=url, temperature=0, repeat_penalty=1.0).bind_tools([add])
    history = [HumanMessage("Please add.")]
    m = llm.invoke(history)
    assert m.tool_calls[0]["args"] == {"a": 5}, m
    history += [m, ToolMessage("six", tool_call_id=m.tool_calls[0]["id"])]
    assert llm.invoke(history).content == "It is six."
    assert len(OllamaEmbeddings(model=NAME, base_url=url).embed_documents([f"document {i}" for i in range(200)])) == 200


@test("ollama")
def ollama_client():
    import ollama
    c = ollama.Client(host=url)
    assert c.list().models[0].model == NAME and "tools" in c.show(NAME).capabilities
    tools = [{"type": "function", "function": {"name": "add", "parameters": PARAMETERS}}]
    options = {"temperature": 0, "repeat_penalty": 1}
    m = c.chat(NAME, [{"role": "user", "content": "Please add."}], tools=tools, think=True, options=options).message
    assert m.thinking == "I add." and m.content == "One moment." and m.tool_calls[0].function.arguments == {"a": 5}, m
    history = [{"role": "user", "content": "Please add."}, m, {"role": "tool", "tool_name": "add", "content": "six"}]
    assert c.chat(NAME, history, tools=tools, options=options).message.content == "It is six."
    parts = list(c.chat(NAME, [{"role": "user", "content": "Hi"}], stream=True, options=options))
    assert "".join(p.message.content for p in parts) == "Hello there!" and parts[-1].done
    g = c.generate(NAME, "Hi", options=options)
    assert g.response == "Hello there!" and c.generate(NAME, "Hi", context=g.context, options=options).response == "Hello there!"
    assert len(c.embed(NAME, ["x"] * 200).embeddings) == 200


@test("llm")
def llm_tool():
    import os
    with tempfile.TemporaryDirectory() as d:
        os.environ["LLM_USER_PATH"] = d
        with open(os.path.join(d, "extra-openai-models.yaml"), "w") as f:
            f.write(f"- model_id: {NAME}\n  model_name: {NAME}\n  api_base: {url}/v1\n  supports_tools: true\n  supports_schema: true\n")
        import llm

        def add(a: int) -> str:
            "adds"
            return "six"

        m = llm.get_model(NAME)
        m.key = "none"
        assert m.prompt("Hi", temperature=0).text() == "Hello there!"
        assert "It is six." in m.chain("Please add.", tools=[add], options={"temperature": 0}).text()


@test("instructor", "openai", "pydantic")
def instructor_models():
    import instructor
    import openai
    import pydantic

    class Way(pydantic.BaseModel):
        n: int
        word: str = pydantic.Field(max_length=8)

    for mode in (instructor.Mode.TOOLS, instructor.Mode.JSON, instructor.Mode.JSON_SCHEMA):
        c = instructor.from_openai(openai.OpenAI(base_url=url + "/v1", api_key="none", max_retries=0), mode=mode)
        w = c.chat.completions.create(model=NAME, messages=[{"role": "user", "content": "?"}], response_model=Way, max_tokens=200, max_retries=3 if mode == instructor.Mode.JSON else 0) if mode != instructor.Mode.JSON else None
        assert w is None or isinstance(w, Way)


@test("pydantic_ai")
def pydantic_ai():
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
    from pydantic_ai.providers.openai import OpenAIProvider
    from pydantic_ai.models.anthropic import AnthropicModel
    from pydantic_ai.providers.anthropic import AnthropicProvider
    import anthropic

    async def loop():
        provider = OpenAIProvider(base_url=url + "/v1", api_key="none")
        for model in (OpenAIChatModel(NAME, provider=provider), OpenAIResponsesModel(NAME, provider=provider),
                      AnthropicModel(NAME, provider=AnthropicProvider(anthropic_client=anthropic.AsyncAnthropic(base_url=url, api_key="none")))):
            agent = Agent(model)

            @agent.tool_plain
            def add(a: int) -> str:
                """adds"""
                assert a == 5
                return "six"

            assert (await agent.run("Please add.")).output == "It is six.", model

    asyncio.run(loop())


print("ok:", *ran)
if missing:
    print("not installed:", *missing)
