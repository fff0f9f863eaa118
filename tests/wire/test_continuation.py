"""From what a client was sent of a stream to the request that goes on with it."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.registry import dialect
from gateway.wire.continuation import Continuation, answer_in, begun_text, continuation, obstacle_in, stops_of
from gateway.wire.request import Endpoint, parse
from gateway.wire.sampling import Obstacle
from gateway.wire.splicing import SplicedWatcher, Splicer, StrayedError
from gateway.wire.stream import GarbledError
from gateway.wire.transcript import Said, Transcript, read_said

VLLM = dialect("vllm")
SGLANG = dialect("sglang")
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "stream": True}
TEXT = {"model": "m", "prompt": "Once", "stream": True, "max_tokens": 10}


def frame(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": finish}
    chunk = {"id": "c-1", "object": "chat.completion.chunk", "created": 7, "model": "m", "choices": [choice], **more}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


ROLE = frame({"role": "assistant", "content": ""})


def said_of(*pieces: bytes) -> Said:
    return read_said(Endpoint.CHAT, list(pieces))


def request(endpoint: Endpoint, **more: Any) -> bytes:
    return json.dumps({**(CHAT if endpoint is Endpoint.CHAT else TEXT), **more}).encode()


def test_what_was_said_is_read_from_pieces_of_any_size() -> None:
    usage = {"prompt_tokens": 5, "completion_tokens": 2, "total_tokens": 7}
    stream = (
        ROLE
        + frame({"reasoning": "so"})
        + b": comment\n\n"
        + frame({"content": "a b"})
        + frame({"content": "ä"}, usage=usage)
    )
    for size in (1, 7, len(stream)):
        said = said_of(*[stream[at : at + size] for at in range(0, len(stream), size)])
        assert (said.text, said.reasoning, said.frames, said.thoughts) == ("a bä", "so", [3, 4], 1)
        assert said.head == {"id": "c-1", "object": "chat.completion.chunk", "created": 7, "model": "m"}
        assert (said.usage, said.usage_sent, said.finish_reason, said.odd) == (usage, False, None, False)
        assert said.tokens_of("a b") == 1


@pytest.mark.parametrize(
    ("pieces", "stops", "expected"),
    [
        ([ROLE, frame({"content": "a"})], ["b"], None),
        ([ROLE], [], None),
        ([], [], Obstacle.UNREADABLE),
        ([b"data: {{{\n\n"], [], Obstacle.UNREADABLE),
        ([b'data: {"choices":[1]}\n\n'], [], Obstacle.UNREADABLE),
        ([frame({"tool_calls": [{"index": 0}]})], [], Obstacle.TOOL_CALL),
        ([frame({"reasoning_content": "hm"})], [], Obstacle.REASONING),
        ([frame({"reasoning": "hm"}), frame({"content": "a"})], [], None),
        ([frame({"content": "the en"})], ["x", "end"], Obstacle.STOP),
        ([frame({"content": "the end"})], ["end"], None),
        ([frame({"content": "the en"}, "length")], ["end"], None),
    ],
)
def test_what_was_said_may_stand_in_the_way(pieces: list[bytes], stops: list[str], expected: Obstacle | None) -> None:
    assert obstacle_in(said_of(*pieces), stops) == expected


REQUESTS: list[tuple[Endpoint, dict[str, Any], Obstacle | None]] = [
    (Endpoint.CHAT, {}, None),
    (Endpoint.CHAT, {"stream": False}, Obstacle.ENDPOINT),
    (Endpoint.CHAT, {"n": 1, "logprobs": False, "tool_choice": "auto", "response_format": {"type": "text"}}, None),
    (Endpoint.CHAT, {"response_format": None, "structured_outputs": None, "seed": None, "presence_penalty": 0}, None),
    (Endpoint.CHAT, {"n": 2}, Obstacle.CHOICES),
    (Endpoint.CHAT, {"use_beam_search": True}, Obstacle.CHOICES),
    (Endpoint.CHAT, {"logprobs": True}, Obstacle.LOGPROBS),
    (Endpoint.CHAT, {"seed": 1}, Obstacle.SEED),
    (Endpoint.CHAT, {"seed": 1, "temperature": 0}, None),
    (Endpoint.CHAT, {"seed": 1, "temperature": 0.0}, None),
    (Endpoint.CHAT, {"frequency_penalty": 1}, Obstacle.PENALTY),
    (Endpoint.CHAT, {"tool_choice": "required"}, Obstacle.STRUCTURED),
    (Endpoint.CHAT, {"tool_choice": {"type": "function", "function": {"name": "f"}}}, Obstacle.STRUCTURED),
    (Endpoint.CHAT, {"response_format": {"type": "json_schema", "json_schema": {}}}, Obstacle.STRUCTURED),
    (Endpoint.CHAT, {"guided_regex": "a+"}, Obstacle.STRUCTURED),
    (Endpoint.CHAT, {"messages": [*CHAT["messages"], {"role": "assistant", "content": "x"}]}, Obstacle.PROMPT),  # type: ignore[misc]
    (Endpoint.CHAT, {"add_generation_prompt": False}, Obstacle.PROMPT),
    (Endpoint.COMPLETIONS, {}, None),
    (Endpoint.COMPLETIONS, {"logprobs": 0}, Obstacle.LOGPROBS),
    (Endpoint.COMPLETIONS, {"max_tokens": None}, Obstacle.NO_LIMIT),
    (Endpoint.COMPLETIONS, {"prompt": [1, 2]}, Obstacle.PROMPT),
    (Endpoint.COMPLETIONS, {"prompt": ["a", "b"]}, Obstacle.PROMPT),
    (Endpoint.COMPLETIONS, {"suffix": "x"}, Obstacle.PROMPT),
    (Endpoint.COMPLETIONS, {"best_of": 2}, Obstacle.CHOICES),
]


@pytest.mark.parametrize(("endpoint", "more", "expected"), REQUESTS)
def test_what_was_asked_may_stand_in_the_way(
    endpoint: Endpoint, more: dict[str, Any], expected: Obstacle | None
) -> None:
    assert parse(endpoint, request(endpoint, **more)).obstacle == expected


def test_the_continuation_of_a_chat() -> None:
    body = request(Endpoint.CHAT, max_tokens=10, min_tokens=4, x=1.50, top_p=0.9)
    said = said_of(ROLE, frame({"content": "So it"}), frame({"content": " is. \n"}))
    made = continuation(Endpoint.CHAT, body, said, 3, VLLM.continue_chat)
    assert isinstance(made, Continuation)
    sent = json.loads(made.body)
    assert sent["messages"] == [*CHAT["messages"], {"role": "assistant", "content": "So it is."}]  # type: ignore[misc]
    assert (sent["continue_final_message"], sent["add_generation_prompt"]) == (True, False)
    assert (sent["max_tokens"], sent["min_tokens"], sent["top_p"]) == (7, 1, 0.9)
    assert b'"x":1.5' in made.body
    assert (made.expected, made.tokens, made.ended) == (" \n", 3, False)
    begun = continuation(Endpoint.CHAT, body, said, 3, SGLANG.continue_chat)
    assert isinstance(begun, Continuation)
    assert json.loads(begun.body)["continue_final_message"] is True


def test_thoughts_go_along_only_where_they_reach_the_prompt() -> None:
    said = said_of(ROLE, frame({"reasoning": "hm"}), frame({"content": "So"}))
    made = continuation(Endpoint.CHAT, request(Endpoint.CHAT), said, 3, VLLM.continue_chat)
    assert isinstance(made, Continuation)
    assert json.loads(made.body)["messages"][-1] == {"role": "assistant", "content": "So", "reasoning": "hm"}
    assert continuation(Endpoint.CHAT, request(Endpoint.CHAT), said, 3, SGLANG.continue_chat) is Obstacle.REASONING


def test_nothing_said_yet_is_asked_again_as_it_was() -> None:
    made = continuation(
        Endpoint.CHAT, request(Endpoint.CHAT), said_of(ROLE, frame({"content": "\n"})), 0, VLLM.continue_chat
    )
    assert isinstance(made, Continuation)
    assert json.loads(made.body) == CHAT
    assert made.expected == "\n"


def test_an_echoed_prompt_is_no_part_of_the_answer() -> None:
    body = request(Endpoint.COMPLETIONS, echo=True)
    said = Said(head={"id": "c"}, text="Once upon", frames=[9])
    made = continuation(Endpoint.COMPLETIONS, body, said, 1, VLLM.continue_chat)
    assert isinstance(made, Continuation)
    sent = json.loads(made.body)
    assert (sent["prompt"], sent["echo"], sent["max_tokens"]) == ("Once upon", False, 9)
    assert answer_in(Endpoint.COMPLETIONS, body, "Once upon") == " upon"
    assert begun_text(Endpoint.COMPLETIONS, said) == "Once upon"
    assert stops_of(request(Endpoint.COMPLETIONS, stop="x")) == ["x"]
    assert stops_of(request(Endpoint.COMPLETIONS, stop=["x", "y"])) == ["x", "y"]


def spliced(
    said: Said, rest: bytes, size: int = 10_000, *, wants_usage: bool = True, **more: Any
) -> list[dict[str, Any]]:
    made = Continuation(b"", **{"expected": "", "tokens": 2, **more})
    watcher = SplicedWatcher(Endpoint.CHAT, Splicer(Endpoint.CHAT, said, made, wants_usage=wants_usage))
    out = b"".join(watcher.feed(rest[at : at + size]) for at in range(0, len(rest), size)) + watcher.finish()
    return [json.loads(one.removeprefix(b"data: ")) for one in out.split(b"\n\n") if one and b"[DONE]" not in one]


SAID = said_of(ROLE, frame({"content": "a b"}))


def other(delta: dict[str, Any], finish: str | None = None, **more: Any) -> bytes:
    return frame(delta, finish, id="other", created=9, **more)


@given(size=st.integers(1, 900))
def test_the_rest_of_the_stream_is_the_first_ones(size: int) -> None:
    usage = {
        "prompt_tokens": 12,
        "completion_tokens": 3,
        "total_tokens": 15,
        "prompt_tokens_details": {"cached_tokens": 11},
    }
    end = b"data: " + json.dumps({"id": "other", "choices": [], "usage": usage}).encode() + b"\n\ndata: [DONE]\n\n"
    rest = other({"role": "assistant", "content": ""}) + other({"content": " c"}) + other({}, "stop") + end
    text, finish, counted = spliced(SAID, rest, size)
    assert {(one["id"], one["created"]) for one in (text, finish, counted)} == {("c-1", 7)}
    assert text["choices"][0]["delta"] == {"content": " c"}
    assert finish["choices"][0]["finish_reason"] == "stop"
    whole = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}
    assert counted["usage"] == {**whole, "prompt_tokens_details": {"cached_tokens": 10}}
    assert [one["choices"] != [] for one in spliced(SAID, rest, size, wants_usage=False)] == [True, True]


@pytest.mark.parametrize(
    ("expected", "pieces", "passed"),
    [
        ("\n\n", ["\n\n", "x"], ["x"]),
        ("\n\n", ["\n", "\nx"], ["x"]),
        ("\n", ["\n    y"], ["    y"]),
        ("\n\n", ["\n", "z"], ["z"]),
        (" ", ["q"], ["q"]),
        ("", [" q"], [" q"]),
    ],
)
def test_what_templates_strip_is_not_said_twice(expected: str, pieces: list[str], passed: list[str]) -> None:
    rest = b"".join(other({"content": piece}) for piece in pieces)
    assert [one["choices"][0]["delta"]["content"] for one in spliced(SAID, rest, expected=expected)] == passed


def test_an_answer_that_was_at_its_limit_only_ends() -> None:
    [end] = spliced(SAID, other({"content": "more"}) + other({"content": "and more"}, "stop"), ended=True)
    assert (end["choices"][0]["delta"], end["choices"][0]["finish_reason"]) == ({"content": ""}, "length")


def test_text_that_is_taken_for_thoughts_is_not_passed_on() -> None:
    with pytest.raises(StrayedError):
        spliced(SAID, other({"reasoning": "c"}))
    with pytest.raises(GarbledError):
        spliced(SAID, b"data: {{\n\n")
    for odd in ([1], "x", [{"index": 0}], [{"index": 0, "delta": {"content": 5}}]):
        with pytest.raises(StrayedError):
            spliced(SAID, b"data: " + json.dumps({"choices": odd}).encode() + b"\n\n")


def test_errors_and_comments_pass() -> None:
    rest = b": alive\n\n" + b'data: {"error":{"message":"x"}}\n\n'
    watcher = SplicedWatcher(Endpoint.CHAT, Splicer(Endpoint.CHAT, SAID, Continuation(b"", "", 1), wants_usage=True))
    assert watcher.feed(rest) == rest
    assert watcher.error == b'{"error":{"message":"x"}}'


def test_a_transcript_is_bounded() -> None:
    assert Transcript(5).whole
    assert not Transcript(-1).whole
