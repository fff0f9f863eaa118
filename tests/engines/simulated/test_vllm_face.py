"""vLLM's own words: frames, ids, errors and pages, compared with what a real engine was recorded to say."""

import json
from typing import Any

import httpx

MESSAGES = [{"role": "user", "content": "word " * 600}]
CHAT = "/v1/chat/completions"
MODEL = "deepseek-v4-flash"


def read_frames(answer: httpx.Response) -> list[Any]:
    return [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]


async def test_the_frames_of_a_chat_are_the_recorded_ones(connect: Any) -> None:
    body = {"model": MODEL, "messages": MESSAGES, "max_tokens": 2, "stream": True}
    async with connect() as client:
        answer = await client.post(
            CHAT, json={**body, "stream_options": {"include_usage": True}}, headers={"X-Request-Id": "abc"}
        )
    lines = answer.text.split("\n\n")
    frames = read_frames(answer)
    created = frames[0]["created"]
    words = [frame["choices"][0]["delta"]["content"] for frame in frames[1:3]]
    head = f'data: {{"id":"chatcmpl-abc","object":"chat.completion.chunk","created":{created},"model":"{MODEL}"'
    assert lines == [
        head + ',"choices":[{"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,'
        '"finish_reason":null}],"prompt_token_ids":null,"prompt_text":null}',
        head + f',"choices":[{{"index":0,"delta":{{"content":"{words[0]}"}},"logprobs":null,'
        '"finish_reason":null,"token_ids":null}]}',
        head + f',"choices":[{{"index":0,"delta":{{"content":"{words[1]}"}},"logprobs":null,'
        '"finish_reason":"length","stop_reason":null,"token_ids":null}]}',
        head + ',"choices":[],"usage":{"prompt_tokens":764,"total_tokens":766,"completion_tokens":2,'
        '"prompt_tokens_details":{"cached_tokens":0,"created_cache_tokens":512}},'
        '"system_fingerprint":"vllm-0.33.0-51f0a1e5"}',
        "data: [DONE]",
        "",
    ]


async def test_the_keys_of_a_body_are_the_recorded_ones(connect: Any) -> None:
    async with connect() as client:
        body = (await client.post(CHAT, json={"messages": MESSAGES, "max_tokens": 2})).json()
    assert list(body) == [
        *("id", "object", "created", "model", "choices", "service_tier", "system_fingerprint", "usage"),
        *("prompt_logprobs", "prompt_token_ids", "prompt_text", "kv_transfer_params", "ec_transfer_params", "metrics"),
    ]
    assert list(body["choices"][0]) == [
        *("index", "message", "logprobs", "finish_reason", "stop_reason", "token_ids", "routed_experts"),
    ]
    assert list(body["choices"][0]["message"]) == [
        *("role", "content", "refusal", "annotations", "audio", "function_call", "reasoning"),
    ]
    assert body["usage"]["prompt_tokens_details"]["multimodal_tokens"] is None
    assert body["metrics"] is None


async def test_without_its_flag_nothing_is_said_of_the_cache(connect: Any) -> None:
    async with connect(report_cached_tokens=False) as client:
        whole = (await client.post(CHAT, json={"messages": MESSAGES})).json()
        stream = {"messages": MESSAGES, "stream": True, "stream_options": {"include_usage": True}}
        frames = read_frames(await client.post(CHAT, json=stream))
        anthropic = (await client.post("/v1/messages", json={"messages": MESSAGES, "max_tokens": 2})).json()
    assert whole["usage"]["prompt_tokens_details"] is None
    assert "prompt_tokens_details" not in frames[-1]["usage"]
    assert "cache_read_input_tokens" not in anthropic["usage"]


async def test_per_request_metrics(connect: Any) -> None:
    async with connect(per_request_metrics=True, speed=10.0) as client:
        body = {"messages": MESSAGES, "max_tokens": 4}
        whole = (await client.post(CHAT, json=body)).json()
        stream = {"prompt": "x", "max_tokens": 1, "stream": True, "stream_options": {"include_usage": True}}
        frames = read_frames(await client.post("/v1/completions", json=stream))
        chat = read_frames(await client.post(CHAT, json={**body, **stream}))
        several = (await client.post(CHAT, json={**body, "n": 2})).json()
    assert several["metrics"] is None
    # 764 tokens at a tenth of 17 + (564 - 17) x 764 / 8192 ms.
    assert abs(whole["metrics"]["time_to_first_token_ms"] - 6.80) < 0.01
    assert abs(whole["metrics"]["mean_itl_ms"] - 1.015) < 0.001
    assert frames[-1]["metrics"]["mean_itl_ms"] is None
    assert chat[-1]["metrics"]["tokens_per_second"] > 0


async def test_ids(connect: Any) -> None:
    async with connect() as client:
        body = {"messages": MESSAGES, "max_tokens": 1}
        ids = [
            (await client.post(CHAT, json={**body, "request_id": "b"}, headers={"X-Request-Id": "h"})).json()["id"],
            (await client.post(CHAT, json={**body, "request_id": "b"})).json()["id"],
            (await client.post("/v1/completions", json={"prompt": "x", "request_id": "b"})).json()["id"],
            (await client.post("/v1/responses", json={"input": "x"})).json()["id"],
        ]
    assert ids[:3] == ["chatcmpl-h", "chatcmpl-b", "cmpl-b"]
    assert ids[3].startswith("resp_")


async def test_errors_are_nested(connect: Any) -> None:
    async with connect(context_tokens=1000) as client:

        async def refuse(path: str = CHAT, **fields: Any) -> tuple[int, Any]:
            answer = await client.post(path, json={"messages": MESSAGES, **fields})
            return answer.status_code, answer.json()["error"]

        status, error = await refuse(model="nobody")
        assert (status, error["type"], error["param"]) == (404, "NotFoundError", "model")
        assert error["message"] == "The model `nobody` does not exist."
        status, error = await refuse(max_tokens="zzz")
        assert (status, error["type"], error["param"]) == (400, "Bad Request", "body.max_tokens")
        assert error["message"].startswith("1 validation error:\n  {'type': 'int_parsing', 'loc': 'body.max_tokens'")
        status, error = await refuse(messages=[{"role": "user", "content": "word " * 2000}])
        assert (status, error["type"], error["param"], error["code"]) == (400, "BadRequestError", "input_tokens", 400)
        assert error["message"].startswith("This model's maximum context length is 1000 tokens. However, your prompt")
        assert error["message"].endswith("(parameter=input_tokens, value=1001)")
        assert (await refuse(max_tokens=1001))[1]["param"] == "max_tokens"
        assert (await refuse(stream_options={"include_usage": True}))[1]["param"] == "stream_options"
        for salt in ("a/b", "x" * 200):
            assert (await refuse(cache_salt=salt))[1]["param"] == "cache_salt"
        clamped = await client.post(CHAT, json={"messages": MESSAGES, "max_tokens": 900, "ignore_eos": True})
        assert clamped.json()["usage"]["total_tokens"] == 1000


async def test_overload_is_a_503_before_the_stream(connect: Any) -> None:
    async with connect(max_queued=0) as client:
        answer = await client.post(CHAT, json={"messages": MESSAGES, "stream": True})
        page = (await client.get("/metrics")).text
    assert answer.status_code == 503
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("Service Unavailable", 503)
    assert "Please try again later or on a different instance." in error["message"]
    assert 'reason="max_num_queued_reqs"} 1.0' in page


async def test_pages(connect: Any) -> None:
    async with connect(chunk_tokens=16_384, max_running=7, version="0.32.0", kv_tokens=100_000) as client:
        assert (await client.get("/version")).json() == {"version": "0.32.0"}
        assert (await client.get("/health")).content == (await client.get("/ping")).content == b""
        assert (await client.get("/load")).json() == {"server_load": 0}
        info = (await client.get("/server_info?config_format=json")).json()["vllm_config"]
        assert info["scheduler_config"]["max_num_batched_tokens"] == 16_384
        assert info["scheduler_config"]["max_num_seqs"] == 7
        blocks = (100_000 - 8 * 8192) // 256
        assert info["cache_config"]["num_gpu_blocks"] == blocks
        assert "max_num_batched_tokens" in (await client.get("/server_info")).json()["vllm_config"]
        card = (await client.get("/v1/models")).json()["data"][0]
        assert (card["owned_by"], card["max_model_len"]) == ("vllm", blocks * 256)
        page = (await client.get("/metrics")).text
        assert f'kv_cache_size_tokens="{blocks * 256}"' in page
        assert 'block_size="256"' in page
        assert "\nprocess_start_time_seconds " in page
        await client.post(CHAT, json={"messages": MESSAGES})
        assert (await client.post("/reset_prefix_cache")).json() == {"success": True}
        usage = (await client.post(CHAT, json={"messages": MESSAGES})).json()["usage"]
        assert usage["prompt_tokens_details"]["cached_tokens"] == 0


async def test_dev_pages_need_dev_mode(connect: Any) -> None:
    async with connect(dev_mode=False) as client:
        assert (await client.get("/server_info")).status_code == 404
        assert (await client.post("/reset_prefix_cache")).status_code == 404


async def test_the_cache_is_not_reset_under_a_request_and_load_counts_it(connect: Any) -> None:
    async with connect(speed=20.0) as client:
        body = {"messages": MESSAGES, "max_tokens": 100_000, "ignore_eos": True, "stream": True}
        async with client.stream("POST", CHAT, json=body) as answer:
            async for line in answer.aiter_lines():
                if line:
                    break
            assert (await client.post("/reset_prefix_cache")).json() == {"success": False}
            assert (await client.get("/load")).json() == {"server_load": 1}
