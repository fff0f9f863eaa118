"""Real clients against the gateway over simulated engines: the openai and anthropic SDKs, httpx and curl."""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import anthropic
import httpx
import openai
import pytest
from gateways import gateway_of, nothing_is_booked, outcomes

from engines.simulated.server import serving
from engines.simulated.settings import SimulatorSettings
from gateway.serving.server import RunningGateway

MODEL = "deepseek-v4-flash"
HELLO = [{"role": "user", "content": "hello there"}]
LOOK = {
    "type": "function",
    "function": {"name": "look", "parameters": {"type": "object", "properties": {"where": {"type": "string"}}}},
}


@pytest.fixture(params=["vllm", "sglang"])
async def run(request: pytest.FixtureRequest) -> AsyncIterator[RunningGateway]:
    """A gateway over two simulated replicas of one dialect."""
    async with AsyncExitStack() as stack:
        settings = SimulatorSettings(dialect=request.param, model=MODEL, speed=50, default_output_tokens=8)
        urls = [await stack.enter_async_context(serving(settings)) for _ in range(2)]
        pool = {"name": "p", "engine": request.param, "model": MODEL, "replicas": urls}
        running = await stack.enter_async_context(gateway_of([pool]))
        yield running
        assert nothing_is_booked(running)


@pytest.fixture
async def sdk(run: RunningGateway) -> AsyncIterator[openai.AsyncOpenAI]:
    async with openai.AsyncOpenAI(base_url=run.url + "/v1", api_key="none", max_retries=0, timeout=20) as client:
        yield client


async def test_openai_models(sdk: openai.AsyncOpenAI) -> None:
    assert [model.id for model in (await sdk.models.list()).data] == [MODEL]
    assert (await sdk.models.retrieve(MODEL)).id == MODEL
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        await sdk.models.retrieve("gpt-0")


async def test_openai_chat_streams_the_same_text(sdk: openai.AsyncOpenAI) -> None:
    whole = await sdk.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=6)
    assert whole.usage is not None
    assert whole.usage.completion_tokens == 6
    stream = await sdk.chat.completions.create(model=MODEL, messages=HELLO, max_tokens=6, stream=True)
    chunks = [chunk async for chunk in stream]
    assert all(chunk.choices for chunk in chunks), "the usage frame that we asked for is ours alone"
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    options = {"include_usage": True}
    stream = await sdk.chat.completions.create(
        model=MODEL, messages=HELLO, max_tokens=6, stream=True, stream_options=options
    )
    last = [chunk async for chunk in stream][-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.prompt_tokens == whole.usage.prompt_tokens


async def test_openai_tools(sdk: openai.AsyncOpenAI) -> None:
    answer = await sdk.chat.completions.create(model=MODEL, messages=HELLO, tools=[LOOK], tool_choice="required")
    calls = answer.choices[0].message.tool_calls
    assert calls
    assert calls[0].function.name == "look"
    json.loads(calls[0].function.arguments)
    stream = await sdk.chat.completions.create(
        model=MODEL, messages=HELLO, tools=[LOOK], tool_choice="required", stream=True
    )
    deltas = [call async for chunk in stream for call in chunk.choices[0].delta.tool_calls or []]
    assert "".join(delta.function.arguments or "" for delta in deltas) == calls[0].function.arguments


async def test_openai_completions(sdk: openai.AsyncOpenAI) -> None:
    whole = await sdk.completions.create(model=MODEL, prompt="once upon a time", max_tokens=5)
    stream = await sdk.completions.create(model=MODEL, prompt="once upon a time", max_tokens=5, stream=True)
    assert "".join([chunk.choices[0].text async for chunk in stream]) == whole.choices[0].text


async def test_openai_responses_are_found_again(sdk: openai.AsyncOpenAI) -> None:
    first = await sdk.responses.create(model=MODEL, input="remember the word swordfish " * 40, max_output_tokens=8)
    assert (await sdk.responses.retrieve(first.id)).output_text == first.output_text
    second = await sdk.responses.create(
        model=MODEL, input="which word?", previous_response_id=first.id, max_output_tokens=8
    )
    assert second.previous_response_id == first.id
    async with sdk.responses.stream(model=MODEL, input="and now?", previous_response_id=second.id) as stream:
        kinds = [event.type async for event in stream]
    assert kinds[0] == "response.created"
    assert kinds[-1] == "response.completed"
    with pytest.raises(openai.NotFoundError):
        await sdk.responses.retrieve("resp_nowhere")


async def test_openai_errors(sdk: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="do not serve /v1/embeddings"):
        await sdk.embeddings.create(model=MODEL, input="x")
    with pytest.raises(openai.NotFoundError, match="does not exist") as unknown:
        await sdk.chat.completions.create(model="gpt-0", messages=HELLO)
    assert unknown.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as long:
        await sdk.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "x" * 900_000}])
    assert "longer than" in long.value.message or "maximum context length" in long.value.message
    with pytest.raises(openai.BadRequestError, match="messages"):
        await sdk.chat.completions.create(model=MODEL, messages=[])


async def test_anthropic_messages(run: RunningGateway) -> None:
    async with anthropic.AsyncAnthropic(base_url=run.url, api_key="none", max_retries=0, timeout=20) as client:
        whole = await client.messages.create(model=MODEL, messages=HELLO, max_tokens=6, system="be brief")
        assert whole.usage.output_tokens == 6
        async with client.messages.stream(model=MODEL, messages=HELLO, max_tokens=6, system="be brief") as stream:
            text = "".join([piece async for piece in stream.text_stream])
        assert text == whole.content[0].text
        tool = {"name": "look", "input_schema": {"type": "object", "properties": {}}}
        called = await client.messages.create(
            model=MODEL, messages=HELLO, max_tokens=64, tools=[tool], tool_choice={"type": "any"}
        )
        assert called.stop_reason == "tool_use"
        with pytest.raises(anthropic.NotFoundError, match="does not exist"):
            await client.messages.create(model="gpt-0", messages=HELLO, max_tokens=6)


async def test_curl_streams(run: RunningGateway) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("curl is not installed")
    body = json.dumps({"model": MODEL, "messages": HELLO, "stream": True, "max_tokens": 4})
    process = await asyncio.create_subprocess_exec(
        *(curl, "-sSN", "--noproxy", "*", f"{run.url}/v1/chat/completions"),
        *("-H", "content-type: application/json", "-d", body),
        stdout=asyncio.subprocess.PIPE,
    )
    output, _ = await process.communicate()
    frames = output.decode().strip().split("\n\n")
    assert process.returncode == 0
    assert frames[-1] == "data: [DONE]"
    assert len(frames) >= 6


async def test_a_later_turn_goes_where_its_prefix_is(run: RunningGateway) -> None:
    """The engine's own count of cached tokens is what is asserted, for sessions that run at the same time."""
    async with httpx.AsyncClient(base_url=run.url, trust_env=False, timeout=20) as client:

        async def session(number: int) -> None:
            messages = [{"role": "user", "content": f"document {number} " * 2000}]
            first = await client.post("/v1/chat/completions", json={"model": MODEL, "messages": messages})
            answer = first.json()["choices"][0]["message"]["content"]
            messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "go on"}]
            second = await client.post("/v1/chat/completions", json={"model": MODEL, "messages": messages})
            assert second.headers["x-prefixgate-replica"] == first.headers["x-prefixgate-replica"]
            usage = second.json()["usage"]
            before = first.json()["usage"]["prompt_tokens"]
            assert usage["prompt_tokens_details"]["cached_tokens"] >= before // 256 * 256
            assert int(second.headers["x-prefixgate-predicted-cached-tokens"]) >= 0.9 * (before - 256)

        await asyncio.gather(*(session(number) for number in range(6)))
    assert outcomes(run) == {"completed": 12}
