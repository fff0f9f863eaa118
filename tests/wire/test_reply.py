import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.reports import RequestTiming, Usage
from gateway.wire.reply import Reply, read_reply, read_timing, read_usage
from gateway.wire.request import Endpoint

FIXTURES = Path(__file__).parent.parent / "fixtures" / "wire"

odd = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=3) | st.just(10**30),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
details = st.fixed_dictionaries({}, optional={"cached_tokens": odd}) | odd
usages = st.fixed_dictionaries(
    {},
    optional={
        **dict.fromkeys(["prompt_tokens", "completion_tokens", "input_tokens", "output_tokens"], odd),
        **dict.fromkeys(["cache_read_input_tokens", "cache_creation_input_tokens"], odd),
        **dict.fromkeys(["prompt_tokens_details", "input_tokens_details"], details),
    },
)


def reply(endpoint: Endpoint, **body: object) -> Reply | None:
    return read_reply(endpoint, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("name", "usage"),
    [
        ("vllm-0.25.chat.json", Usage(469, 4, 464)),
        ("vllm-0.32.chat.json", Usage(500, 4, 384)),
        ("sglang-0.5.16.chat.json", Usage(469, 4, 468)),
    ],
)
def test_real_replies(name: str, usage: Usage) -> None:
    assert read_reply(Endpoint.CHAT, (FIXTURES / name).read_bytes()) == Reply(usage, None)


@pytest.mark.parametrize(
    ("endpoint", "usage", "read"),
    [
        (Endpoint.COMPLETIONS, {"prompt_tokens": 5, "completion_tokens": 2}, Usage(5, 2, None)),
        (Endpoint.CHAT, {"prompt_tokens": 5, "prompt_tokens_details": None}, Usage(5, 0, None)),
        (Endpoint.CHAT, {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 0}}, Usage(5, 0, 0)),
        (Endpoint.CHAT, {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": None}}, Usage(5, 0, None)),
        (Endpoint.CHAT, {"prompt_tokens": 5, "prompt_tokens_details": {"cached_tokens": 6}}, Usage(5, 0, None)),
        (
            Endpoint.RESPONSES,
            {"input_tokens": 9, "output_tokens": 1, "input_tokens_details": {"cached_tokens": 8}},
            Usage(9, 1, 8),
        ),
        (Endpoint.MESSAGES, {"input_tokens": 9, "output_tokens": 1}, Usage(9, 1, None)),
        (
            Endpoint.MESSAGES,
            {"input_tokens": 5, "cache_read_input_tokens": 464, "cache_creation_input_tokens": 3, "output_tokens": 4},
            Usage(472, 4, 464),
        ),
        (Endpoint.MESSAGES, {"input_tokens": 5, "cache_read_input_tokens": None}, Usage(5, 0, None)),
        (Endpoint.EMBEDDINGS, {"prompt_tokens": 7, "total_tokens": 7}, Usage(7, 0, None)),
        (Endpoint.RERANK, {"total_tokens": 7}, None),
        (Endpoint.CHAT, None, None),
        (Endpoint.CHAT, [5], None),
        (Endpoint.CHAT, {"prompt_tokens": -1}, None),
        (Endpoint.CHAT, {"prompt_tokens": 1.5}, None),
        (Endpoint.CHAT, {"prompt_tokens": "5"}, None),
        (Endpoint.CHAT, {"prompt_tokens": True}, None),
        (Endpoint.CHAT, {"prompt_tokens": 10**30}, None),
        (Endpoint.CHAT, {"prompt_tokens": 5, "completion_tokens": -2}, Usage(5, 0, None)),
    ],
)
def test_usage(endpoint: Endpoint, usage: object, read: Usage | None) -> None:
    assert reply(endpoint, usage=usage) == Reply(read, None)


@pytest.mark.parametrize(
    ("metrics", "timing"),
    [
        ({"time_to_first_token_ms": 741.2, "queue_time_ms": 3.1, "mean_itl_ms": None}, RequestTiming(741.2, 3.1)),
        ({"time_to_first_token_ms": 5, "queue_time_ms": 0}, RequestTiming(5.0, 0.0)),
        ({"time_to_first_token_ms": 0.0}, RequestTiming(0.0, None)),
        ({"time_to_first_token_ms": 5, "queue_time_ms": "3"}, RequestTiming(5.0, None)),
        ({"time_to_first_token_ms": 5, "queue_time_ms": -1}, RequestTiming(5.0, None)),
        ({"time_to_first_token_ms": None, "queue_time_ms": 3.1}, None),
        ({"time_to_first_token_ms": "741.2"}, None),
        ({"time_to_first_token_ms": True}, None),
        ({"time_to_first_token_ms": -0.1}, None),
        ({"time_to_first_token_ms": 1e12}, None),
        ({"time_to_first_token_ms": 10**400}, None),
        ({"time_to_first_token_ms": [5]}, None),
        ({"queue_time_ms": 3.1}, None),
        ({}, None),
        (None, None),
        ([741.2], None),
        ("741.2", None),
        (741.2, None),
    ],
)
def test_timing(metrics: object, timing: RequestTiming | None) -> None:
    assert read_timing(metrics) == timing
    usage = {"prompt_tokens": 5}
    assert reply(Endpoint.CHAT, usage=usage, metrics=metrics) == Reply(Usage(5), None, timing)


def test_no_metrics_are_no_timing() -> None:
    assert reply(Endpoint.CHAT, usage={"prompt_tokens": 5}) == Reply(Usage(5), None, None)


@pytest.mark.parametrize("metrics", [b'{"time_to_first_token_ms":1e999}', b'{"\xff":1}', b"NaN", b"[" * 5000])
def test_metrics_that_cannot_be_read(metrics: bytes) -> None:
    read = read_reply(Endpoint.CHAT, b'{"usage":{"prompt_tokens":5},"metrics":' + metrics + b"}")
    assert read in (Reply(Usage(5)), None)


@given(odd | st.fixed_dictionaries({}, optional=dict.fromkeys(["time_to_first_token_ms", "queue_time_ms"], odd)))
def test_odd_metrics_never_raise_and_are_believable(metrics: object) -> None:
    timing = read_timing(metrics)
    assert timing is None or (0 <= timing.prefill_ms <= 1e9 and 0 <= (timing.queue_ms or 0) <= 1e9)


def test_only_a_responses_object_has_an_id() -> None:
    assert reply(Endpoint.RESPONSES, id="resp_1") == Reply(None, "resp_1")
    assert reply(Endpoint.RESPONSES, id=5) == Reply(None, None)
    assert reply(Endpoint.CHAT, id="chatcmpl-1") == Reply(None, None)


@pytest.mark.parametrize("body", [b"", b"[]", b'"x"', b"{", b"<html>", b"\xff", b'{"a":' + b"[" * 100_000])
def test_what_is_not_a_json_object_is_no_reply(body: bytes) -> None:
    assert read_reply(Endpoint.CHAT, body) is None


@pytest.mark.parametrize("usage", [b'{"prompt_tokens":1e999}', b'{"prompt_tokens":5,"\xff":1}', b"1" + b"0" * 5000])
def test_usage_that_cannot_be_read(usage: bytes) -> None:
    assert read_reply(Endpoint.CHAT, b'{"usage":' + usage + b"}") in (Reply(), None)


@given(st.sampled_from(Endpoint), st.binary(max_size=60))
def test_any_bytes_can_be_read(endpoint: Endpoint, body: bytes) -> None:
    read = read_reply(endpoint, body)
    assert read is None or isinstance(read, Reply)


@given(st.sampled_from(Endpoint), usages)
def test_odd_usage_never_raises_and_is_believable(endpoint: Endpoint, usage: dict[str, Any]) -> None:
    read = read_usage(endpoint, usage)
    assert read is None or 0 <= (read.cached_tokens or 0) <= read.prompt_tokens
    assert read is None or read.completion_tokens >= 0
