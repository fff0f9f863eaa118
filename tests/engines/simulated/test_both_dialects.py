"""What both dialects promise alike, on real sockets."""

import asyncio
import json
import re
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from engines.simulated.settings import SimulatorSettings

DIALECTS = pytest.mark.parametrize("dialect", ["vllm", "sglang"])
MESSAGES = [{"role": "user", "content": "word " * 2000}]
CHAT = "/v1/chat/completions"


def frames(body: str) -> list[dict[str, Any]]:
    """The JSON frames of an event stream."""
    return [json.loads(line[6:]) for line in body.splitlines() if line.startswith("data: {")]


def sample(page: str, name: str) -> float:
    """The sum of one metric's series."""
    values = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", page, re.MULTILINE)
    assert values, name
    return sum(map(float, values))


async def page(client: httpx.AsyncClient) -> str:
    return (await client.get("/metrics")).text


def shows(client: httpx.AsyncClient, name: str, wanted: float) -> Callable[[], Awaitable[bool]]:
    """Whether a metric has this value."""

    async def check() -> bool:
        return sample(await page(client), name) == wanted

    return check


def running_name(dialect: str) -> str:
    return "vllm:num_requests_running" if dialect == "vllm" else "sglang:num_running_reqs"


@DIALECTS
async def test_one_frame_a_token_and_the_stream_says_what_the_body_says(dialect: str, connect: Any) -> None:
    async with connect(dialect=dialect) as client:
        body = {"messages": MESSAGES, "max_tokens": 30, "ignore_eos": True}
        whole = (await client.post(CHAT, json=body)).json()
        streamed = await client.post(CHAT, json={**body, "stream": True})
    assert streamed.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert streamed.text.endswith("data: [DONE]\n\n")
    deltas = [frame["choices"][0]["delta"] for frame in frames(streamed.text)]
    texts = [delta["content"] for delta in deltas if delta.get("content")]
    assert len(texts) == 30
    assert "".join(texts) == whole["choices"][0]["message"]["content"]
    assert whole["usage"]["completion_tokens"] == 30
    assert whole["choices"][0]["finish_reason"] == "length"


@DIALECTS
async def test_the_second_time_it_is_cached_and_salts_isolate(dialect: str, connect: Any) -> None:
    async with connect(dialect=dialect) as client:
        said = []
        for salt in (None, None, "a", "a", "b"):
            body = {"messages": MESSAGES, "max_tokens": 2, **({"cache_salt": salt} if salt else {})}
            usage = (await client.post(CHAT, json=body)).json()["usage"]
            said.append((usage["prompt_tokens_details"] or {}).get("cached_tokens", 0))
    tokens = usage["prompt_tokens"]
    full = (tokens - 1) // 256 * 256
    assert said == [0, full, 0, full, 0]


@DIALECTS
async def test_a_conversation_extends_its_own_prefix(dialect: str, connect: Any) -> None:
    async with connect(dialect=dialect, block_tokens=4) as client:
        messages: list[dict[str, Any]] = [{"role": "user", "content": "Hello there"}]
        thinking = {"chat_template_kwargs": {"thinking": False}}
        known = 0
        for question in ("And then?", "Why?", "Bye"):
            answer = (await client.post(CHAT, json={"messages": messages, "max_tokens": 40, **thinking})).json()
            cached = (answer["usage"]["prompt_tokens_details"] or {}).get("cached_tokens", 0)
            assert known - 4 <= cached <= known
            known = answer["usage"]["total_tokens"]
            reply = {"role": "assistant", "content": answer["choices"][0]["message"]["content"]}
            messages += [reply, {"role": "user", "content": question}]


@DIALECTS
async def test_usage_frames_come_when_asked_for(dialect: str, connect: Any) -> None:
    async with connect(dialect=dialect) as client:
        body = {"messages": MESSAGES, "max_tokens": 3, "stream": True}
        plain = frames((await client.post(CHAT, json=body)).text)
        options = {"include_usage": True, "continuous_usage_stats": True}
        asked = frames((await client.post(CHAT, json={**body, "stream_options": options})).text)
        completion = {"prompt": "abc", "max_tokens": 3, "stream": True, "stream_options": options}
        text = frames((await client.post("/v1/completions", json=completion)).text)
    assert not any(frame.get("usage") for frame in plain)
    assert all(frame["usage"] for frame in asked + text)
    assert asked[-1]["choices"] == text[-1]["choices"] == []
    assert asked[-1]["usage"]["completion_tokens"] == text[-1]["usage"]["completion_tokens"] == 3
    counts = [frame["usage"]["completion_tokens"] for frame in text]
    assert counts == sorted(counts)


@DIALECTS
async def test_several_prompts_and_samples(dialect: str, connect: Any) -> None:
    async with connect(dialect=dialect) as client:
        body = {"prompt": ["one", "two!!"], "n": 2, "max_tokens": 5}
        answer = (await client.post("/v1/completions", json=body)).json()
        stream = {"messages": MESSAGES, "n": 2, "max_tokens": 5, "stream": True}
        streamed = frames((await client.post(CHAT, json=stream)).text)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    assert len({choice["text"] for choice in answer["choices"]}) == 4
    assert answer["usage"]["prompt_tokens"] == 3
    assert answer["usage"]["completion_tokens"] == 20
    ends = [frame["choices"][0] for frame in streamed if frame["choices"][0]["finish_reason"]]
    assert sorted(end["index"] for end in ends) == [0, 1]


@DIALECTS
async def test_tool_calls_and_thoughts_in_every_form(dialect: str, connect: Any) -> None:
    tool = {"type": "function", "function": {"name": "look", "parameters": {"properties": {"q": {"type": "string"}}}}}
    body = {"messages": MESSAGES, "tools": [tool], "tool_choice": "required", "max_tokens": 100}
    thinking = {"messages": MESSAGES, "chat_template_kwargs": {"thinking": True}, "max_tokens": 40}
    async with connect(dialect=dialect) as client:
        whole = (await client.post(CHAT, json=body)).json()["choices"][0]
        streamed = frames((await client.post(CHAT, json={**body, "stream": True})).text)
        thought = (await client.post(CHAT, json=thinking)).json()
        thinking_stream = frames((await client.post(CHAT, json={**thinking, "stream": True})).text)
    call = whole["message"]["tool_calls"][0]["function"]
    assert whole["finish_reason"] == "tool_calls"
    assert list(json.loads(call["arguments"])) == ["q"]
    parts = [c for frame in streamed for c in frame["choices"][0]["delta"].get("tool_calls") or ()]
    assert parts[0]["function"] == {"name": "look", "arguments": ""}
    assert parts[0]["id"]
    assert "".join(part["function"]["arguments"] for part in parts) == call["arguments"]
    assert streamed[-1]["choices"][0]["finish_reason"] == "tool_calls"
    key = "reasoning" if dialect == "vllm" else "reasoning_content"
    message = thought["choices"][0]["message"]
    assert message[key]
    deltas = [frame["choices"][0]["delta"] for frame in thinking_stream]
    assert "".join(delta.get(key) or "" for delta in deltas) == message[key]
    assert "".join(delta.get("content") or "" for delta in deltas) == message["content"]


@DIALECTS
async def test_anthropic_messages(dialect: str, connect: Any) -> None:
    tool = {"name": "look", "input_schema": {"type": "object", "properties": {"q": {"type": "string"}}}}
    body = {"messages": MESSAGES, "max_tokens": 40}
    calling = {**body, "tools": [tool], "tool_choice": {"type": "any"}}
    async with connect(dialect=dialect) as client:
        whole = (await client.post("/v1/messages", json=body)).json()
        streamed = (await client.post("/v1/messages", json={**body, "stream": True})).text
        thinking = {**body, "thinking": {"type": "enabled"}}
        thought = (await client.post("/v1/messages", json=thinking)).json()
        thinking_stream = frames((await client.post("/v1/messages", json={**thinking, "stream": True})).text)
        call = (await client.post("/v1/messages", json=calling)).json()
        calls = frames((await client.post("/v1/messages", json={**calling, "stream": True})).text)
        cut = (await client.post("/v1/messages", json={**calling, "max_tokens": 5})).json()
        counted = (await client.post("/v1/messages/count_tokens", json=body)).json()
        bad = await client.post("/v1/messages", json={"max_tokens": 3})
        bad_count = await client.post("/v1/messages/count_tokens", json={})
    assert re.findall(r"^event: (.*)", streamed, re.MULTILINE)[:3] == [
        "message_start",
        "content_block_start",
        "content_block_delta",
    ]
    events = frames(streamed)
    text = "".join(event["delta"]["text"] for event in events if event["type"] == "content_block_delta")
    assert [text] == [block["text"] for block in whole["content"]]
    assert [event["type"] for event in events[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[-2]["delta"]["stop_reason"] == whole["stop_reason"] == "max_tokens"
    assert events[-2]["usage"]["cache_read_input_tokens"] == counted["input_tokens"] // 256 * 256
    assert [block["type"] for block in thought["content"]] == ["thinking", "text"]
    starts = [event for event in thinking_stream if event["type"] == "content_block_start"]
    assert [start["content_block"]["type"] for start in starts] == ["thinking", "text"]
    assert [start["index"] for start in starts] == [0, 1]
    assert call["stop_reason"] == "tool_use"
    assert list(call["content"][0]["input"]) == ["q"]
    parts = [event["delta"]["partial_json"] for event in calls if event["type"] == "content_block_delta"]
    assert json.loads("".join(parts)) == call["content"][0]["input"]
    assert (cut["stop_reason"], cut["content"][0]["input"]) == ("max_tokens", {})
    assert (bad.status_code, bad.json()["error"]["type"]) == (400, "invalid_request_error")
    assert bad_count.status_code == 400


@DIALECTS
async def test_responses_are_stored_and_continued(dialect: str, connect: Any) -> None:
    async with connect(dialect=dialect, block_tokens=4) as client:
        plain = {"chat_template_kwargs": {"thinking": False}}
        first = (await client.post("/v1/responses", json={"input": "Tell me more about it", **plain})).json()
        assert first["status"] == "completed"
        assert (await client.get(f"/v1/responses/{first['id']}")).json() == first
        body = {"input": "Go on", "previous_response_id": first["id"], **plain}
        second = (await client.post("/v1/responses", json=body)).json()
        assert second["previous_response_id"] == first["id"]
        assert second["usage"]["input_tokens_details"]["cached_tokens"] >= first["usage"]["total_tokens"] - 4
        assert (await client.post(f"/v1/responses/{first['id']}/cancel")).status_code == 400
        assert (await client.delete(f"/v1/responses/{first['id']}")).json()["deleted"]
        for gone in (
            await client.get(f"/v1/responses/{first['id']}"),
            await client.delete(f"/v1/responses/{first['id']}"),
            await client.post(f"/v1/responses/{first['id']}/cancel"),
            await client.post("/v1/responses", json=body),
        ):
            assert gone.status_code == 404
            assert "not found" in gone.json()["error"]["message"]
        unkept = (await client.post("/v1/responses", json={"input": "x", "store": False})).json()
        assert (await client.get(f"/v1/responses/{unkept['id']}")).status_code == 404
        assert (await client.post("/v1/responses", json={"input": "x", "background": True})).status_code == 400


@DIALECTS
async def test_responses_stream(dialect: str, connect: Any) -> None:
    tool = {"type": "function", "name": "look", "parameters": {"properties": {"q": {"type": "string"}}}}
    calling = {"input": "Hi", "tools": [tool], "tool_choice": "required", "stream": True}
    thinking = {"input": "Hi", "chat_template_kwargs": {"thinking": True}, "stream": True}
    async with connect(dialect=dialect) as client:
        body = {"input": "Hi", "max_output_tokens": 5, "stream": True, "instructions": "Be brief."}
        events = frames((await client.post("/v1/responses", json=body)).text)
        calls = frames((await client.post("/v1/responses", json=calling)).text)
        thoughts = frames((await client.post("/v1/responses", json=thinking)).text)
        kept = (await client.get(f"/v1/responses/{calls[-1]['response']['id']}")).json()
        after = {"input": "So?", "previous_response_id": kept["id"]}
        again = await client.post("/v1/responses", json=after)
        after["previous_response_id"] = thoughts[-1]["response"]["id"]
        third = await client.post("/v1/responses", json=after)
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    assert [event["type"] for event in events[:4]] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    deltas = [event["delta"] for event in events if event["type"] == "response.output_text.delta"]
    assert len(deltas) == 5
    final = events[-1]["response"]
    assert (events[-1]["type"], final["incomplete_details"]) == (
        "response.incomplete",
        {"reason": "max_output_tokens"},
    )
    assert final["output"][0]["content"][0]["text"] == "".join(deltas)
    done = next(event for event in calls if event["type"] == "response.function_call_arguments.done")
    assert kept["output"][0]["arguments"] == done["arguments"]
    assert kept["output"][0]["name"] == "look"
    assert [item["type"] for item in thoughts[-1]["response"]["output"]] == ["reasoning", "message"]
    assert again.status_code == third.status_code == 200


@DIALECTS
async def test_tokenize_and_detokenize(dialect: str, connect: Any) -> None:
    async with connect(dialect=dialect) as client:
        body = (await client.post("/tokenize", json={"prompt": "Hello, world"})).json()
        assert (body["count"], body["max_model_len"]) == (3, 131_072)
        back = (await client.post("/detokenize", json={"tokens": body["tokens"]})).json()
        assert back == {"prompt": "Hello, world"}
        chat = (await client.post("/tokenize", json={"messages": MESSAGES})).json()
        usage = (await client.post(CHAT, json={"messages": MESSAGES, "max_tokens": 1})).json()["usage"]
        assert chat["count"] == usage["prompt_tokens"]
        for bad in ({"messages": 3}, {"prompt": {}}):
            assert (await client.post("/tokenize", json=bad)).status_code == 400
        for wrong in ({}, {"tokens": ["x"]}):
            assert (await client.post("/detokenize", json=wrong)).status_code == 400
        assert (await client.post("/detokenize", content=b"{")).status_code == 400


@DIALECTS
async def test_what_a_generating_engine_does_not_serve(dialect: str, connect: Any) -> None:
    async with connect(dialect=dialect) as client:
        for path in ("/v1/embeddings", "/v1/rerank", "/nonsense"):
            answer = await client.post(path, json={})
            assert (answer.status_code, answer.json()) == (404, {"detail": "Not Found"})
        assert (await client.get(CHAT)).json() == {"detail": "Method Not Allowed"}


@DIALECTS
async def test_bodies_that_are_no_json_object(dialect: str, connect: Any) -> None:
    async with connect(dialect=dialect) as client:
        for content in (b"{", b"[]", b"\xff", b""):
            answer = await client.post(CHAT, content=content)
            assert answer.status_code == 400
            assert "1 validation error" in answer.text


@DIALECTS
async def test_a_client_that_leaves_frees_its_request(dialect: str, connect: Any, until: Any) -> None:
    # Slow enough that the request cannot end by itself before its client leaves.
    body = {"messages": MESSAGES, "max_tokens": 100_000, "ignore_eos": True, "stream": True}
    async with connect(dialect=dialect, speed=20.0) as client:
        async with client.stream("POST", CHAT, json=body) as answer:
            async for line in answer.aiter_lines():
                if "content" in line:
                    break
            await until(shows(client, running_name(dialect), 1))
        await until(shows(client, running_name(dialect), 0))
        unary = asyncio.create_task(client.post(CHAT, json={**body, "stream": False}))
        await until(shows(client, running_name(dialect), 1))
        unary.cancel()
        await until(shows(client, running_name(dialect), 0))
        metrics = await page(client)
    if dialect == "vllm":
        assert 'finished_reason="abort",model_name="deepseek-v4-flash"} 2.0' in metrics
    else:
        assert sample(metrics, "sglang:num_aborted_requests_total") == 2


@DIALECTS
async def test_one_queue_place_is_one_waiting_request(dialect: str, connect: Any, until: Any) -> None:
    long = {"messages": MESSAGES, "max_tokens": 100_000, "ignore_eos": True, "stream": True}
    async with connect(dialect=dialect, max_running=1, max_queued=1, speed=20.0) as client:
        async with client.stream("POST", CHAT, json=long):
            await until(shows(client, running_name(dialect), 1))
            waiting = asyncio.create_task(client.post(CHAT, json={"messages": MESSAGES, "max_tokens": 1}))
            name = "vllm:num_requests_waiting" if dialect == "vllm" else "sglang:num_queue_reqs"
            await until(shows(client, name, 1))
            refused = await client.post(CHAT, json={"messages": MESSAGES})
            assert refused.status_code == 503
            several = await client.post("/v1/completions", json={"prompt": ["a", "b"]})
            assert several.status_code == 503
        assert (await waiting).status_code == 200


@DIALECTS
async def test_counters_add_up(dialect: str, connect: Any) -> None:
    async with connect(dialect=dialect) as client:
        usages = []
        for _ in range(3):
            answer = await client.post(CHAT, json={"messages": MESSAGES, "max_tokens": 7, "ignore_eos": True})
            usages.append(answer.json()["usage"])
        metrics = await page(client)
    prompt_tokens = sum(usage["prompt_tokens"] for usage in usages)
    cached = sum((usage["prompt_tokens_details"] or {}).get("cached_tokens", 0) for usage in usages)
    assert cached > 0
    engine = dialect
    assert sample(metrics, f"{engine}:prompt_tokens_total") == prompt_tokens
    assert sample(metrics, f"{engine}:generation_tokens_total") == 21
    assert sample(metrics, f"{engine}:time_to_first_token_seconds_count") == 3
    assert sample(metrics, f"{engine}:inter_token_latency_seconds_count") == 18
    if dialect == "vllm":
        assert sample(metrics, "vllm:prefix_cache_queries_total") == prompt_tokens
        assert sample(metrics, "vllm:prefix_cache_hits_total") == cached
        assert sample(metrics, "vllm:prompt_tokens_cached_total") == cached
    else:
        assert sample(metrics, "sglang:cached_tokens_total") == cached
        assert sample(metrics, "sglang:num_requests_total") == 3
    buckets = re.findall(
        rf'^{engine}:time_to_first_token_seconds_bucket{{.*le="([^"]+)".*}} (\S+)$', metrics, re.MULTILINE
    )
    assert [float(count) for _, count in buckets] == sorted(float(count) for _, count in buckets)
    assert buckets[-1] == ("+Inf", "3.0")


@DIALECTS
async def test_the_key_guards_what_the_engine_guards(dialect: str, connect: Any) -> None:
    async with connect(dialect=dialect, api_key="secret") as client:
        refused = await client.get("/v1/models")
        assert (refused.status_code, refused.json()) == (401, {"error": "Unauthorized"})
        allowed = await client.get("/v1/models", headers={"Authorization": "Bearer secret"})
        assert allowed.json()["data"][0]["id"] == "deepseek-v4-flash"
        assert (await client.get("/metrics")).status_code == 200
        tokenize = await client.post("/tokenize", json={"prompt": "x"})
        assert tokenize.status_code == (200 if dialect == "vllm" else 401)


async def collect(client: httpx.AsyncClient, body: dict[str, Any], parts: list[bytes]) -> None:
    async with client.stream("POST", CHAT, json=body) as answer:
        async for part in answer.aiter_raw():
            parts.append(part)  # noqa: PERF401 - what came before the cut must be kept


@DIALECTS
async def test_ordered_faults(dialect: str, connect: Any) -> None:
    body = {"messages": MESSAGES, "max_tokens": 20, "ignore_eos": True}
    async with connect(dialect=dialect) as client:
        await client.post("/sim/fault", json={"status": 500})
        assert (await client.post(CHAT, json=body)).status_code == 500
        assert (await client.post(CHAT, json=body)).status_code == 200
        await client.post("/sim/fault", json={"cut_after_tokens": 3})
        parts: list[bytes] = []
        with pytest.raises(httpx.RemoteProtocolError):
            await collect(client, {**body, "stream": True}, parts)
        text = b"".join(parts).decode()
        assert "DONE" not in text
        assert len([frame for frame in frames(text) if frame["choices"][0]["delta"].get("content")]) == 3
        await client.post("/sim/fault", json={"cut_after_tokens": 0})
        with pytest.raises(httpx.RemoteProtocolError):
            await client.post(CHAT, json={**body, "stream": True})
        await client.post("/sim/fault", json={"unhealthy": True, "stall_s": 0.2})
        assert (await client.get("/health")).status_code == 503
        assert (await client.post(CHAT, json=body)).status_code == 200
        await client.post("/sim/fault", json={})
        assert (await client.get("/health")).status_code == 200


async def test_the_clock_keeps_up_with_many_streams(connect: Any) -> None:
    body = {"max_tokens": 50, "ignore_eos": True, "stream": True}
    async with connect(speed=1000.0) as client:
        answers = await asyncio.gather(
            *(client.post(CHAT, json={"messages": [{"role": "user", "content": f"{n}"}], **body}) for n in range(40))
        )
        lag = sample(await page(client), "simulated_clock_lag_seconds")
    assert all(len(frames(answer.text)) == 51 for answer in answers)
    assert lag >= 0


async def test_adapters_are_models_with_a_cache_of_their_own(connect: Any) -> None:
    async with connect(adapters=("tuned",)) as client:
        cards = (await client.get("/v1/models")).json()["data"]
        assert [card["id"] for card in cards] == ["deepseek-v4-flash", "tuned"]
        assert cards[1]["parent"] == "deepseek-v4-flash"
        for model in ("deepseek-v4-flash", "tuned"):
            usage = (await client.post(CHAT, json={"model": model, "messages": MESSAGES})).json()["usage"]
            assert usage["prompt_tokens_details"]["cached_tokens"] == 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"profile": "nonsense"}, "no profile is called"),
        ({"dialect": "sglang", "profile": "vllm-w4a8"}, "not one of sglang"),
        ({"speed": 0.0}, "speed"),
        ({"dialect": "sglang", "chunk_tokens": 1000}, "multiple"),
        ({"max_running": 0}, "at least 1"),
        ({"kv_tokens": 1000, "chunk_tokens": 16_384}, "no room"),
    ],
)
def test_settings_that_no_engine_would_start_with(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        SimulatorSettings(**changes)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_process_cleanly(number: signal.Signals) -> None:
    code = "from engines.simulated.server import *; run(SimulatorSettings(), lambda url: print(url, flush=True))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert httpx.get(f"{url}/health").status_code == 200
        process.send_signal(number)
        assert process.wait(timeout=30) == 0


async def test_a_taken_port_is_an_error(connect: Any) -> None:
    async with connect() as client:
        with pytest.raises(OSError, match="in use"):
            async with connect(port=client.base_url.port):
                pass
