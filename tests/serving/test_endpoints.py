"""Every endpoint of the main port."""

import json

import pytest
from fake_engine import by_call, fake_engine, frame, models, response, stream, whole
from gateways import chat, client, gateway_of, gateway_over, openai_error, outcomes, post, until

NOT_FOUND = b'{"detail":"Not Found"}'
HELLO = [{"role": "user", "content": "hi"}]
USAGE = {"prompt_tokens": 7, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 2}}
RESPONSES_USAGE = {"input_tokens": 7, "output_tokens": 3, "input_tokens_details": {"cached_tokens": 2}}
MESSAGES_USAGE = {"input_tokens": 5, "output_tokens": 3, "cache_read_input_tokens": 2}
ENDPOINTS = {
    "/v1/chat/completions": ({"messages": HELLO}, {"usage": USAGE}),
    "/v1/completions": ({"prompt": "hi"}, {"usage": USAGE}),
    "/v1/responses": ({"input": "hi"}, {"id": "resp_1", "usage": RESPONSES_USAGE}),
    "/v1/messages": ({"messages": HELLO, "max_tokens": 3}, {"usage": MESSAGES_USAGE}),
    "/v1/embeddings": ({"input": ["a", "b"]}, {"usage": {"prompt_tokens": 7}}),
    "/v1/rerank": ({"query": "q", "documents": ["a"]}, {"usage": {"prompt_tokens": 7}}),
    "/tokenize": ({"prompt": "hi"}, {"tokens": [1], "count": 1}),
    "/detokenize": ({"tokens": [1]}, {"prompt": "hi"}),
}


@pytest.mark.parametrize("engine_name", ["vllm", "sglang"])
async def test_each_reaches_its_counterpart(engine_name: str) -> None:
    async with fake_engine() as engine, gateway_over(engine.url, engine=engine_name) as run:
        for path, (fields, reply) in ENDPOINTS.items():
            engine.answer = by_call({f"POST {path}": whole(json.dumps(reply).encode())})
            answer = await post(run, {"model": "m", **fields}, path + "?a=b")
            assert (path, answer.status_code, answer.json()) == (path, 200, reply)
            received = json.loads(engine.requests[-1].body)
            generates = path.startswith(("/v1/chat", "/v1/comp", "/v1/resp", "/v1/mess"))
            assert ("rid" in received) == (engine_name == "sglang" and generates), path
        [series] = run.gateway.snapshot().series
        assert series.outcomes == {"completed": len(ENDPOINTS)}
        assert (series.prompt_tokens, series.completion_tokens) == (6 * 7, 4 * 3)
        assert series.delivered_tokens == 4 * 2


async def test_streams_of_each_kind_are_counted() -> None:
    frames = {
        "/v1/completions": (b'data: {"choices":[{"text":"x"}]}\n\n', b"data: [DONE]\n\n"),
        "/v1/responses": (
            b'data: {"type":"response.output_text.delta","delta":"x"}\n\n',
            b'data: {"type":"response.completed","response":{"usage":{"input_tokens":7,"output_tokens":3}}}\n\n',
        ),
        "/v1/messages": (
            b'event: message_start\ndata: {"type":"message_start","message":{"usage":{"input_tokens":7}}}\n\n',
            b'event: content_block_delta\ndata: {"type":"content_block_delta"}\n\n',
            b'event: message_delta\ndata: {"type":"message_delta","usage":{"output_tokens":3}}\n\n',
            b'event: message_stop\ndata: {"type":"message_stop"}\n\n',
        ),
    }
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        for path, pieces in frames.items():
            engine.answer = stream(*pieces)
            answer = await post(run, {"model": "m", "stream": True, **ENDPOINTS[path][0]}, path)
            assert answer.content == b"".join(pieces)
        [series] = run.gateway.snapshot().series
        assert series.outcomes == {"completed": 3}
        assert sum(series.histograms["ttft_seconds"].counts) == 3
        assert (series.prompt_tokens, series.completion_tokens) == (14, 6)


async def test_an_endpoint_that_the_engine_does_not_have() -> None:
    async with (
        fake_engine(whole(NOT_FOUND, 404)) as a,
        fake_engine(whole(NOT_FOUND, 404)) as b,
        gateway_over(a.url, b.url) as run,
    ):
        for path in ("/v1/embeddings", "/tokenize", "/v1/rerank"):
            answer = await post(run, {"model": "m", **ENDPOINTS[path][0]}, path)
            assert answer.status_code == 404
            error = openai_error(answer)
            assert error["code"] == "endpoint_not_served"
            assert error["message"] == f"the engines of pool p do not serve {path}"
        a.answer = b.answer = whole(b'{"detail":"Method Not Allowed"}', 405)
        assert (await post(run, {"model": "m", "prompt": "x"}, "/tokenize")).status_code == 404
        assert outcomes(run) == {"engine_rejected": 4}


async def test_models_are_those_of_all_pools() -> None:
    async with fake_engine() as engine:
        engine.pages["/v1/models"] = response(models("base", "org/adapter"))
        pools = [
            {"name": "a", "engine": "vllm", "replicas": [engine.url]},
            {"name": "b", "engine": "vllm", "replicas": ["http://127.0.0.1:9"], "model": "down"},
        ]
        async with gateway_of(pools) as run, client(run) as http:
            listed = (await http.get("/v1/models")).json()
            assert listed["object"] == "list"
            assert {card["id"] for card in listed["data"]} == {"base", "org/adapter", "down"}
            assert {card["object"] for card in listed["data"]} == {"model"}
            assert {card["id"]: card.get("max_model_len") for card in listed["data"]}["down"] is None
            assert (await http.get("/v1/models/org/adapter")).json()["id"] == "org/adapter"
            missing = await http.get("/v1/models/none")
            assert missing.status_code == 404
            assert openai_error(missing)["code"] == "model_not_found"
            assert (await post(run, chat(model="org/adapter"))).status_code == 200
            assert (await post(run, chat(model="down"))).status_code == 503


async def test_health_and_readiness() -> None:
    async with fake_engine() as engine:
        late = {"name": "late", "engine": "vllm", "replicas": ["http://127.0.0.1:9"], "model": "late"}
        pools = [{"name": "a", "engine": "vllm", "replicas": [engine.url], "model": "m"}, late]
        async with gateway_of(pools) as run, client(run) as http:
            assert (await http.get("/health")).status_code == 200
            assert (await http.head("/health")).status_code == 200
            answer = await http.get("/ready")
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
            assert answer.json()["ready"] is False
            assert answer.json()["models"] == {"m": True, "late": False}
            assert answer.json()["replicas"]["a-0"] == "up"
            assert "failed" in answer.json()["replicas"]["late-0"]
        async with gateway_of(pools[:1]) as run, client(run) as http:
            answer = await http.get("/ready")
            assert (answer.status_code, answer.json()["ready"]) == (200, True)


async def test_requests_keep_the_engines_connection() -> None:
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        for answers in (whole(), stream(frame("a"), b"data: [DONE]\n\n"), whole(b'{"error":{"message":"no"}}', 400)):
            engine.answer = answers
            for streams in (False, True):
                await post(run, chat(stream=streams))
        await until(lambda: len(engine.requests) == 6)
        assert len({request.connection for request in engine.requests}) == 1


async def test_what_is_only_tokenised_is_not_taken_for_cached() -> None:
    """/tokenize and /v1/embeddings leave nothing in an engine's prefix cache."""
    async with fake_engine() as engine, gateway_over(engine.url) as run:
        body = chat("the same long text " * 200)
        engine.answer = whole(b'{"count": 1, "tokens": [1]}')
        assert (await post(run, body, "/tokenize")).status_code == 200
        engine.answer = whole()
        first = await post(run, body)
        second = await post(run, body)
    assert first.headers["x-prefixgate-predicted-cached-tokens"] == "0"
    assert int(second.headers["x-prefixgate-predicted-cached-tokens"]) > 500
