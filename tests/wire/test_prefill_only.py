"""A request made into one that only prefills: the prompt is the same, and nothing more is asked for."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.wire.prefill_only import prefill_only
from gateway.wire.request import Endpoint

MESSAGES = [{"role": "system", "content": "be good"}, {"role": "user", "content": "hello"}]


def test_one_token_and_no_stream_are_asked_for() -> None:
    body = {
        "model": "m",
        "messages": MESSAGES,
        "tools": [{"type": "function", "function": {"name": "f"}}],
        "cache_salt": "s",
        "chat_template_kwargs": {"thinking": True},
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 500,
        "max_completion_tokens": 400,
        "n": 3,
        "logprobs": True,
        "rid": "live",
    }
    said = prefill_only(Endpoint.CHAT, json.dumps(body).encode())
    assert said is not None
    kept = ("model", "messages", "tools", "cache_salt", "chat_template_kwargs")
    assert json.loads(said) == {name: body[name] for name in kept} | {"max_tokens": 1, "stream": False}


def test_each_api_has_its_own_limit() -> None:
    said = prefill_only(Endpoint.RESPONSES, b'{"input": "a", "max_output_tokens": 9, "store": true}')
    assert said is not None
    assert json.loads(said) == {"input": "a", "max_output_tokens": 1, "store": False, "stream": False}
    said = prefill_only(Endpoint.COMPLETIONS, b'{"prompt": [1, 2], "echo": true}')
    assert said is not None
    assert json.loads(said) == {"prompt": [1, 2], "max_tokens": 1, "stream": False}


@pytest.mark.parametrize(
    ("endpoint", "body"),
    [
        (Endpoint.RESPONSES, b'{"input": "a", "previous_response_id": "resp_1"}'),
        (Endpoint.EMBEDDINGS, b'{"input": "a"}'),
        (Endpoint.CHAT, b"[]"),
        (Endpoint.CHAT, b"{"),
    ],
)
def test_what_has_no_prompt_of_its_own_is_left(endpoint: Endpoint, body: bytes) -> None:
    assert prefill_only(endpoint, body) is None


@given(st.lists(st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant"]), "content": st.text()})))
def test_the_prompt_stays_the_same(messages: list[dict[str, str]]) -> None:
    body = json.dumps({"model": "m", "messages": messages, "n": 2, "stream": True}).encode()
    said = prefill_only(Endpoint.CHAT, body)
    assert said is not None
    assert json.loads(said)["messages"] == messages
