"""What the storm's judgement is worth: each thing that can be wrong with an answer, or with the ledger, is found."""

import json
from dataclasses import replace
from random import Random

import pytest
from fake_engine import DONE, frame, usage_frame
from storm.account import Account
from storm.asks import CHAT, Ask, Traffic
from storm.disturbances import KINDS
from storm.reading import Choice, CutError, Said, UnsoundError, agree, read_stream, read_whole
from storm.schedule import Disturbance, plan
from storm.visitor import Visit

ASK = Ask("chat", CHAT, b"{}", streams=True)
WITH_USAGE = replace(ASK, body=b'{"stream_options": {"include_usage": true}}')
ERROR = b'data: {"type":"error","error":{"message":"it died"}}\n\n'


def last(text: str = "", **more: object) -> bytes:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": "stop", **more}
    chunk = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]}
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def test_a_sound_stream() -> None:
    said = read_stream(ASK, frame("a") + frame("b") + last("c") + DONE)
    assert said == Said({0: Choice("abc", finish="stop")})
    assert read_stream(WITH_USAGE, frame("a") + last() + usage_frame(9, 4) + DONE).tokens == (9, 2)


@pytest.mark.parametrize(
    ("ask", "raw"),
    [
        (ASK, frame("a") + last()),  # no [DONE]
        (ASK, frame("a") + DONE),  # no finish reason
        (ASK, b""),
        (ASK, DONE),
        (ASK, frame("a") + last() + DONE.rstrip(b"\n")),
        (ASK, frame("a") + last() + DONE + DONE),
        (ASK, frame("a") + last() + DONE + frame("b")),
        (ASK, last() + frame("b") + DONE),  # it goes on after its end
        (ASK, frame("a") + b"data: {\n\n" + last() + DONE),
        (ASK, frame("a") + b"<html>\n\n" + last() + DONE),
        (ASK, frame("a") + ERROR + frame("b")),
        (ASK, frame("a") + ERROR + DONE),
        (ASK, frame("a") + frame("b", id="d") + last() + DONE),  # another engine's id
        (ASK, frame("a") + last() + usage_frame(9, 4) + DONE),  # usage that nobody asked for
        (WITH_USAGE, frame("a") + last() + DONE),
    ],
)
def test_an_unsound_stream(ask: Ask, raw: bytes) -> None:
    with pytest.raises(UnsoundError):
        read_stream(ask, raw)


def test_a_cut_stream() -> None:
    with pytest.raises(CutError, match="it died"):
        read_stream(ASK, frame("a") + ERROR)


def test_an_unsound_body() -> None:
    for raw in (b"", b"{}", b"[]", b'{"choices": []}', b'{"choices": [{}], "usage": {}}'):
        with pytest.raises(UnsoundError):
            read_whole(ASK, raw)


def test_another_answer_does_not_agree() -> None:
    expected = Said({0: Choice("abc", finish="stop")}, (9, 3))
    assert agree(Said({0: Choice("abc", finish="stop")}), expected)
    assert not agree(Said({0: Choice("abcd", finish="stop")}), expected)
    assert not agree(Said({0: Choice("abc", finish="length")}), expected)
    assert not agree(Said({0: Choice("abc", finish="stop")}, (9, 4)), expected)
    assert not agree(Said(), expected)


def account() -> Account:
    visits = [Visit(ASK, f"r{n}", n, n + 1.0, "completed", replica="v-0") for n in range(4)]
    return Account(
        4, visits, [Disturbance("crash", "v-0", 0.5, 1.5)], {}, (80, 85, 90), {"completed": 4}, None, True, []
    )


def test_all_is_well() -> None:
    assert account().complaints() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"booked": "still booked: v-0"}, "still booked"),
        ({"memory_mib": (80, 85, 190)}, "memory grew from 85 to 190"),
        ({"gateway_ended": {"completed": 3}}, "4 requests were sent, and the gateway counts 3"),
        ({"wrong": ["the gateway ended with 1"]}, "ended with 1"),
        ({"disturbances": [Disturbance("drain", "v-0", 0, 1, wrong="not drained")]}, "drain v-0: not drained"),
        ({"sent": 1, "visits": [Visit(ASK, "r", 0, 1, "failed")], "gateway_ended": {"x": 1}}, "1 requests failed"),
        ({"sent": 5, "gateway_ended": {"completed": 5}}, "what became of 1 requests"),
    ],
)
def test_what_is_complained_of(changes: dict, words: str) -> None:
    [complaint] = replace(account(), **changes).complaints()
    assert words in complaint


def test_a_failure_is_put_down_to_what_was_wrong_with_its_replica() -> None:
    made = account()
    made.visits[0].outcome = made.visits[3].outcome = "failed"
    made.disturbances = [*made.disturbances, Disturbance("slow", "v-1", 0, 1.7)]
    rows = {row.kind: (row.in_flight, row.failed) for row in made.rows()}
    assert rows == {"crash": (2, 1), "slow": (2, 0), "-": (2, 1)}
    assert [one["during"] for one in made.failures(0.0)] == [["crash v-0", "slow v-1"], []]


def test_a_seed_gives_one_plan_and_one_traffic() -> None:
    one, other = (plan(Random(7), list(KINDS), 4, 1.0, (0.5, 2)) for _ in range(2))
    assert one == other
    assert {planned.kind for planned in one[: len(KINDS)]} == set(KINDS)
    first, second = Traffic(7, 50, 0.1), Traffic(7, 50, 0.1)
    assert first.corpus == second.corpus
    assert [first.draw() for _ in range(100)] == [second.draw() for _ in range(100)]
    assert Traffic(8, 50, 0.1).corpus != first.corpus
