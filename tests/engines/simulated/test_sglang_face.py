"""SGLang's own words: frames, ids, errors, loads and aborts, compared with what a real engine was recorded to say."""

import asyncio
import json
from typing import Any

import httpx

MESSAGES = [{"role": "user", "content": "word " * 600}]
CHAT = "/v1/chat/completions"
MODEL = "deepseek-v4-flash"


def read_frames(answer: httpx.Response) -> list[Any]:
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


async def test_the_frames_of_a_chat_are_the_recorded_ones(connect: Any) -> None:
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 1, "stream": True, "rid": "abc"}
    async with connect(dialect="sglang") as client:
        for _ in range(2):
            answer = await client.post(CHAT, json={**body, "stream_options": {"include_usage": True}})
    frames = read_frames(answer)
    word = frames[1]["choices"][0]["delta"]["content"]
    head = f'data: {{"id":"abc","object":"chat.completion.chunk","created":{frames[0]["created"]},"model":"{MODEL}"'
    assert answer.text.split("\n\n") == [
        head + ',"choices":[{"index":0,"delta":{"reasoning_content":null,"role":"assistant","content":""},'
        '"logprobs":null,"finish_reason":null,"matched_stop":null}]}',
        head + f',"choices":[{{"index":0,"delta":{{"reasoning_content":null,"content":"{word}"}},'
        '"logprobs":null,"finish_reason":null,"matched_stop":null}]}',
        head + ',"choices":[{"index":0,"delta":{"reasoning_content":null},'
        '"logprobs":null,"finish_reason":"length","matched_stop":null}]}',
        head + ',"choices":[],"usage":{"prompt_tokens":761,"total_tokens":762,"completion_tokens":1,'
        '"prompt_tokens_details":{"cached_tokens":512},"reasoning_tokens":0}}',
        "data: [DONE]",
        "",
    ]


async def test_a_body_and_its_usage(connect: Any) -> None:
    async with connect(dialect="sglang") as client:
        cold = (await client.post(CHAT, json={"messages": MESSAGES, "max_tokens": 2})).json()
        warm = (await client.post(CHAT, json={"messages": MESSAGES, "max_tokens": 2})).json()
    assert list(cold) == ["id", "object", "created", "model", "choices", "usage", "metadata"]
    assert list(cold["choices"][0]["message"]) == ["role", "content", "reasoning_content", "tool_calls"]
    assert cold["usage"]["prompt_tokens_details"] is None
    assert warm["usage"]["prompt_tokens_details"] == {"cached_tokens": 512}
    assert cold["usage"]["reasoning_tokens"] == 0


async def test_without_cache_report_there_are_no_details(connect: Any) -> None:
    async with connect(dialect="sglang", report_cached_tokens=False) as client:
        for _ in range(2):
            usage = (await client.post(CHAT, json={"messages": MESSAGES, "max_tokens": 2})).json()["usage"]
        assert usage["prompt_tokens_details"] is None
        assert (await client.get("/server_info")).json()["enable_cache_report"] is False


async def test_errors_are_flat(connect: Any) -> None:
    async with connect(dialect="sglang", context_tokens=1000) as client:
        long = [{"role": "user", "content": "word " * 2000}]
        for stream in (False, True):
            answer = await client.post(CHAT, json={"messages": long, "stream": stream})
            assert (answer.status_code, answer.json()) == (
                400,
                {
                    "object": "error",
                    "message": "The input (2511 tokens) is longer than the model's context length (1000 tokens).",
                    "type": "BadRequestError",
                    "param": None,
                    "code": 400,
                },
            )
        answer = await client.post(CHAT, json={"messages": MESSAGES, "max_tokens": 900})
        assert answer.json()["message"].startswith("Requested token count exceeds the model's maximum context length")
        bad = await client.post(CHAT, json={"messages": MESSAGES, "max_tokens": "zzz"})
        assert (bad.status_code, bad.json()["type"], bad.json()["param"]) == (400, "Bad Request", None)
        nested = await client.post("/v1/responses", json={"input": 7})
        assert nested.json()["error"]["code"] == 400
        any_model = await client.post(CHAT, json={"messages": MESSAGES, "model": "whatever"})
        assert any_model.json()["model"] == "whatever"


async def test_overload_of_a_stream_is_a_frame(connect: Any) -> None:
    async with connect(dialect="sglang", max_queued=0) as client:
        unary = await client.post(CHAT, json={"messages": MESSAGES})
        stream = await client.post(CHAT, json={"messages": MESSAGES, "stream": True})
        anthropic = await client.post("/v1/messages", json={"messages": MESSAGES, "stream": True})
        health = await client.get("/health")
    error = {
        "object": "error",
        "message": "The request queue is full.",
        "type": "503",
        "param": None,
        "code": 503,
    }
    assert (unary.status_code, unary.json()) == (503, error)
    assert stream.status_code == 200
    assert stream.text == f"data: {json.dumps({'error': error}, separators=(',', ':'))}\n\ndata: [DONE]\n\n"
    assert anthropic.text.startswith("event: error\n")
    assert health.status_code == 503


async def test_rids_and_aborts(connect: Any, until: Any) -> None:
    long = {"messages": MESSAGES, "max_tokens": 100_000, "ignore_eos": True}
    async with connect(dialect="sglang", speed=20.0) as client:

        async def both_run() -> bool:
            return bool((await client.get("/v1/loads")).json()["loads"][0]["num_running_reqs"] == 2)

        streamed = asyncio.create_task(client.post(CHAT, json={**long, "rid": "one-a", "stream": True}))
        unary = asyncio.create_task(client.post(CHAT, json={**long, "rid": "one-b"}))
        await until(both_run)
        duplicate = await client.post(CHAT, json={**long, "rid": "one-b"})
        assert duplicate.status_code == 400
        assert duplicate.json()["message"] == "Duplicate request ID detected: one-b"
        assert (await client.post("/flush_cache")).status_code == 400
        assert (await client.post("/abort_request", json={"rid": "nobody"})).status_code == 200
        assert not unary.done()
        assert (await client.post("/abort_request", content=b"{")).status_code == 400
        await client.post("/abort_request", json={"rid": "one-"})
        frames = read_frames(await streamed)
        assert frames[-1]["choices"][0]["finish_reason"] == "abort"
        body = (await unary).json()
        assert body["choices"][0]["finish_reason"] == "abort"
        assert body["id"] == "one-b"
        last = asyncio.create_task(client.post("/v1/messages", json={**long, "rid": "two"}))
        responses = {"input": "x", "max_output_tokens": 100_000, "ignore_eos": True, "stream": True}
        other = asyncio.create_task(client.post("/v1/responses", json=responses))
        await until(both_run)
        await client.post("/abort_request", json={"abort_all": True})
        assert (await last).json()["stop_reason"] == "end_turn"
        assert read_frames(await other)[-1]["type"] == "response.cancelled"
        assert (await client.get("/flush_cache")).status_code == 200


async def test_loads_tell_the_work_in_the_queue(connect: Any, until: Any) -> None:
    long = {"messages": MESSAGES, "max_tokens": 100_000, "ignore_eos": True, "stream": True}
    async with connect(dialect="sglang", max_running=1, speed=20.0) as client:
        async with client.stream("POST", CHAT, json=long):
            waiting = asyncio.create_task(
                client.post("/v1/completions", json={"prompt": list(range(3000)), "max_tokens": 1, "rid": "w"})
            )
            load: dict[str, Any] = {}

            async def one_waits() -> bool:
                load.update((await client.get("/v1/loads")).json()["loads"][0])
                return bool(load["num_waiting_reqs"])

            await until(one_waits)
        assert (await waiting).status_code == 200
        after = (await client.get("/v1/loads")).json()
    assert load["num_waiting_uncached_tokens"] == 3000
    assert load["num_running_reqs"] == 1
    assert load["num_used_tokens"] >= 768
    assert load["num_total_tokens"] == load["num_used_tokens"] + 3000
    assert load["token_usage"] > 0
    assert list(load)[:10] == [
        *("timestamp", "dp_rank", "num_running_reqs", "num_waiting_reqs", "num_waiting_uncached_tokens"),
        *("num_used_tokens", "num_total_tokens", "num_active_tokens", "num_prealloc_ready_tokens"),
        "max_total_num_tokens",
    ]
    assert after["loads"][0]["total_prefill_uncached_tokens"] == 3761
    assert after["loads"][0]["total_prefill_busy_us"] > 0
    assert (after["version"], after["num_accelerators"]) == ("0.5.23", 2)


async def test_pages(connect: Any) -> None:
    async with connect(dialect="sglang", profile="sglang-fp8-tp4", chunk_tokens=16_384, mixed_chunk=True) as client:
        info = (await client.get("/server_info")).json()
        assert info == (await client.get("/get_server_info")).json()
        assert (info["chunked_prefill_size"], info["page_size"], info["tp_size"]) == (16_384, 256, 4)
        assert info["enable_mixed_chunk"] is True
        capacity = (600_000 - 8 * 8192) // 256 * 256
        assert info["internal_states"][0]["memory_usage"]["token_capacity"] == capacity
        assert (await client.get("/model_info")).json()["is_generation"]
        assert (await client.get("/get_model_info")).json()["served_model_name"] == MODEL
        assert (await client.get("/ready")).status_code == 200
        card = (await client.get(f"/v1/models/{MODEL}")).json()
        assert (card["owned_by"], card["max_model_len"]) == ("sglang", 131_072)
        assert (await client.get("/v1/models")).json()["data"][0]["id"] == MODEL
        missing = await client.get("/v1/models/nobody")
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
        page = (await client.get("/metrics")).text
        assert "process_start_time_seconds" not in page
        assert "sglang:cached_tokens_total" not in page
        assert (await client.post("/v1/tokenize", json={"prompt": "abcd"})).json()["count"] == 1


async def test_metrics_need_their_flag(connect: Any) -> None:
    async with connect(dialect="sglang", expose_metrics=False) as client:
        assert (await client.get("/metrics")).status_code == 404
        assert (await client.get("/server_info")).json()["enable_metrics"] is False


async def test_health_generates_a_token_unless_told_not_to(connect: Any) -> None:
    generated = []
    for generates in (True, False):
        async with connect(dialect="sglang", health_generates=generates) as client:
            assert (await client.get("/health")).status_code == 200
            page = (await client.get("/metrics")).text
            generated.append(
                'sglang:generation_tokens_total{engine_type="unified",model_name="deepseek-v4-flash"} 1.0' in page
            )
            assert (await client.get("/health_generate")).status_code == 200
    assert generated == [True, False]
