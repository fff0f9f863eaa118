"""Journals and Mooncake traces as traces: what is kept, what is left out and told, and what had been measured."""

from collections.abc import Iterable
from typing import Any

import pytest

from gateway.journal.lines import FleetPool, JournalError, JournalHeader, JournalLine, encode
from gateway.simulation.reading import read_trace
from gateway.simulation.trace import TraceRequest

MOONCAKE = (
    b'{"timestamp": 1000, "input_length": 1300, "output_length": 500, "hash_ids": [0, 1, 2]}\n',
    b'{"timestamp": 3000, "input_length": 1024, "output_length": 3, "hash_ids": [0, 14]}\n',
)
HEADER = JournalHeader(1, 1000.0, "salt", (FleetPool("p", "vllm", ("p-0",)),))


def line(**fields: Any) -> JournalLine:
    asked: dict[str, Any] = {
        "timestamp": 0.0,
        "input_length": 1000,
        "output_length": 10,
        "hash_ids": (1, 2),
        "block_tokens": 256.0,
        "model": "m",
        "endpoint": "/v1/chat/completions",
        "replica": "p-0",
        "policy": "ttft",
    }
    return JournalLine(**{**asked, **fields})


def journal(lines: Iterable[JournalLine]) -> list[bytes]:
    return [encode(HEADER), *map(encode, lines)]


def test_a_mooncake_trace() -> None:
    """The last id may be of a partial block, and is shared by those who end there."""
    reading = read_trace(MOONCAKE, "m")
    assert reading.trace.name == "m"
    assert reading.trace.requests == (
        TraceRequest(0.0, 1300, 500, (0, 1, 2), 512.0),
        TraceRequest(2.0, 1024, 3, (0, 14), 512.0),
    )
    assert (reading.recorded, reading.fleet, reading.notes) == ((), (), ())
    assert reading.trace.uncached() == [1300, 512]


def test_a_journal_keeps_its_fleet_and_sessions() -> None:
    reading = read_trace(journal([line(session="s"), line(timestamp=2500.0, hash_ids=())]), "j")
    first, second = reading.trace.requests
    assert (first.session, first.ids, first.id_tokens) == ("s", (1, 2), 256.0)
    assert (second.at, second.ids, second.session) == (2.5, (), None)
    assert reading.fleet == HEADER.fleet


def test_prompts_that_share_a_prefix_have_ids_of_one_width() -> None:
    """Of text, an id covers a little more or less in each prompt: together the mean by tokens, families apart."""
    lines = [
        line(block_tokens=250.0, input_length=1000),
        line(block_tokens=270.0, input_length=3000, hash_ids=(1, 9)),
        line(block_tokens=256.0, hash_ids=(5, 6)),
    ]
    widths = [one.id_tokens for one in read_trace(journal(lines), "j").trace.requests]
    assert widths == [265.0, 265.0, 256.0]


def test_what_is_left_out_is_told() -> None:
    lines = [
        line(),
        line(endpoint="/v1/embeddings"),
        line(endpoint="/v1/rerank"),
        line(input_length=0),
        line(outcome="rejected"),
        line(outcome="engine_rejected"),
        line(outcome="client_gone"),
        line(model="other"),
    ]
    reading = read_trace(journal(lines), "j")
    assert len(reading.trace.requests) == 3
    rejected, promptless, models = reading.notes
    assert rejected == "left out for having been rejected: 2"
    assert promptless.endswith(": 3")
    assert "2 models" in models


def test_a_journal_that_broke_off_is_read_up_to_there() -> None:
    reading = read_trace([*journal([line()]), b'{"timestamp": 1'], "j")
    assert len(reading.trace.requests) == 1
    assert "line 3" in reading.notes[0]


def test_what_was_measured() -> None:
    """An engine that ever says what is cached had nothing cached where it is silent; others are not counted."""
    lines = [
        line(cached=500, ttft_ms=100.0),
        line(cached=None, ttft_ms=300.0),
        line(cached=None, replica="silent", ttft_ms=None),
        line(cached=900, outcome="client_gone"),
        line(cached=None, outcome="engine_failed"),
    ]
    (recorded,) = read_trace(journal(lines), "j").recorded
    assert recorded.policy == ""
    assert (recorded.requests, recorded.broken) == (5, 1)
    assert recorded.hit_rate == 0.25
    assert recorded.ttfts_s == (0.1, 0.3)


def test_what_was_measured_by_policy() -> None:
    lines = [line(ttft_ms=100.0), line(policy="random", ttft_ms=200.0), line(policy="random", ttft_ms=400.0)]
    recorded = read_trace(journal(lines), "j").recorded
    assert [(one.policy, one.requests, one.ttfts_s, one.hit_rate) for one in recorded] == [
        ("", 3, (0.1, 0.2, 0.4), None),
        ("random", 2, (0.2, 0.4), None),
        ("ttft", 1, (0.1,), None),
    ]


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (b'{"timestamp": -1, "input_length": 1, "output_length": 1, "hash_ids": []}', "line 2: `timestamp`"),
        (b'{"timestamp": 1, "input_length": 1, "output_length": 1}', "line 2: .*hash_ids"),
        (b'{"timestamp": 1, "input_length": "x", "output_length": 1, "hash_ids": []}', "line 2: `input_length`"),
        (b"nonsense", "line 2: not valid JSON"),
        (b'{"prefixgate_journal": 9, "started_at": 1, "salt_id": ""}', "line 2: the journal has version 9"),
    ],
)
def test_a_bad_line_is_named(bad: bytes, complaint: str) -> None:
    with pytest.raises(JournalError, match=complaint):
        read_trace([MOONCAKE[0], bad, MOONCAKE[1]], "t")
