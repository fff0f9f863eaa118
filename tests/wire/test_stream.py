import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from engines.reports import RequestTiming, Usage
from gateway.wire.request import Endpoint
from gateway.wire.stream import GarbledError, StreamWatcher

FIXTURES = Path(__file__).parent.parent / "fixtures" / "wire"
REAL = {name: (FIXTURES / f"{name}.chat.sse").read_bytes() for name in ("vllm-0.25", "vllm-0.32", "sglang-0.5.16")}

DONE = b"data: [DONE]\n\n"
ERROR = b'{"error": {"object":"error","message":"The request queue is full.","type":"503","code":503}}'
USAGE = (
    b'"usage":{"prompt_tokens":9,"total_tokens":11,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":8}}'
)
USAGE_FRAME = b'data: {"id":"c","choices":[],%b}\n\n' % USAGE
TIMED_FRAME = (
    b'data: {"id":"c","choices":[],%b,"metrics":{"time_to_first_token_ms":741.2,"generation_time_ms":1200.0,'
    b'"queue_time_ms":3.1,"mean_itl_ms":12.1,"tokens_per_second":51.3}}\n\n'
) % USAGE
SGLEXT = b'data: {"id":"c","choices":[],"sglext":{"cached_tokens_details":{"device":8}}}\n\n'


@dataclass(frozen=True)
class Seen:
    """What came out of a stream."""

    output: bytes
    first_token: bool
    content_frames: int
    usage: Usage | None
    error: bytes | None
    done: bool
    aborted_empty: bool
    response_id: str | None
    timing: RequestTiming | None = None


def watch(endpoint: Endpoint, chunks: list[bytes], *, strip_usage: bool = False, limit: int | None = None) -> Seen:
    limits = {} if limit is None else {"frame_limit": limit}
    watcher = StreamWatcher(endpoint, strip_usage=strip_usage, **limits)
    output = b"".join([*map(watcher.feed, chunks), watcher.finish()])
    return Seen(
        output,
        watcher.first_token,
        watcher.content_frames,
        watcher.usage,
        watcher.error,
        watcher.done,
        watcher.aborted_empty,
        watcher.response_id,
        watcher.timing,
    )


def delta(content: object = "a", finish: str | None = None, **more: object) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": finish}
    frame = {"id": "c", "object": "chat.completion.chunk", "choices": [choice], **more}
    return b"data: " + json.dumps(frame, separators=(",", ":")).encode() + b"\n\n"


def event(kind: str, **fields: object) -> bytes:
    body = json.dumps({"type": kind, **fields}, separators=(",", ":"))
    return f"event: {kind}\ndata: {body}\n\n".encode()


RESPONSES = b"".join(
    [
        event("response.created", response={"id": "resp_1", "object": "response", "usage": None, "error": None}),
        event("response.in_progress", response={"id": "resp_1", "status": "in_progress"}),
        event("response.output_item.added", item={"type": "message", "id": "msg_1"}),
        event("response.output_text.delta", item_id="msg_1", delta="error"),
        event("response.output_text.delta", item_id="msg_1", delta="\u00e9"),
        event("response.output_item.done", item={"type": "message", "id": "msg_1"}),
        event(
            "response.completed",
            response={
                "id": "resp_1",
                "usage": {"input_tokens": 9, "output_tokens": 2, "input_tokens_details": {"cached_tokens": 8}},
            },
        ),
    ]
)
MESSAGES = b"".join(
    [
        event(
            "message_start", message={"id": "m", "type": "message", "usage": {"input_tokens": 469, "output_tokens": 0}}
        ),
        event("ping"),
        event("content_block_start", index=0, content_block={"type": "text", "text": ""}),
        event("content_block_delta", index=0, delta={"type": "text_delta", "text": "error"}),
        event("content_block_stop", index=0),
        event(
            "message_delta",
            delta={"stop_reason": "end_turn"},
            usage={"input_tokens": 5, "cache_read_input_tokens": 464, "output_tokens": 3},
        ),
        event("message_stop"),
    ]
)
ODD = b"".join(
    [
        b"\xef\xbb\xbf: keep-alive\n\n",
        b": comment\r\ndata: {\r\ndata: \"choices\" : [ {\"delta\":{\"role\":\"assistant\"}}]}\r\n\r\n",
        b"\n\n\n",
        b"id: 7\rdata:{\"choices\": [{\"delta\":{\"content\":\"x\"}}], \"usage\": null}\r\r",
        b"event: message\ndata: not json\n\r\n",
        b"retry: 10\r\n\n",
        b"data\n\n",
        b"data:\n\n",
        b"data: { \"choices\" : [ ],\ndata: \"usage\" : {\"prompt_tokens\":3}}\n\r",
        delta("\\\"error\\\" \"usage\":{ \"choices\":[] \n\n")[:-1],
        b"\r",
        DONE[:-2],
    ]
)  # fmt: skip

STREAMS: dict[str, tuple[Endpoint, bytes]] = {
    **{name: (Endpoint.CHAT, stream) for name, stream in REAL.items()},
    "responses": (Endpoint.RESPONSES, RESPONSES),
    "messages": (Endpoint.MESSAGES, MESSAGES),
    "error first": (Endpoint.CHAT, b"data: " + ERROR + b"\n\n" + DONE),
    "aborted": (Endpoint.CHAT, delta("") + delta(None, "abort") + USAGE_FRAME + DONE),
    "odd": (Endpoint.CHAT, ODD),
    "two usage frames": (Endpoint.CHAT, delta() + USAGE_FRAME + b"\n" + USAGE_FRAME + b"\n\n" + SGLEXT + DONE),
    "timed": (Endpoint.CHAT, delta() + TIMED_FRAME + DONE),
    "long frames": (Endpoint.CHAT, delta("x" * 90) + b":" * 65 + b"\n\n" + USAGE_FRAME + delta("y" * 70) + DONE),
}


def split_at(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[start:end] for start, end in pairwise(edges)]


@given(
    st.sampled_from(sorted(STREAMS)),
    st.lists(st.integers(0, 5000), max_size=8),
    st.booleans(),
    st.sampled_from([None, 1, 3, 64, 150]),
)
def test_chunks_make_no_difference(name: str, cuts: list[int], strip_usage: bool, limit: int | None) -> None:
    endpoint, stream = STREAMS[name]
    whole = watch(endpoint, [stream], strip_usage=strip_usage, limit=limit)
    assert watch(endpoint, split_at(stream, cuts), strip_usage=strip_usage, limit=limit) == whole
    if not strip_usage:
        assert whole.output == stream


@pytest.mark.parametrize("strip_usage", [False, True])
@pytest.mark.parametrize("limit", [None, 64])
@pytest.mark.parametrize("name", STREAMS)
def test_single_bytes_make_no_difference(name: str, strip_usage: bool, limit: int | None) -> None:
    endpoint, stream = STREAMS[name]
    whole = watch(endpoint, [stream], strip_usage=strip_usage, limit=limit)
    single = [stream[i : i + 1] for i in range(len(stream))]
    assert watch(endpoint, single, strip_usage=strip_usage, limit=limit) == whole
    for cut in range(len(stream)):
        assert watch(endpoint, [stream[:cut], stream[cut:]], strip_usage=strip_usage, limit=limit) == whole


@given(
    st.sampled_from([Endpoint.CHAT, Endpoint.RESPONSES, Endpoint.MESSAGES]),
    st.lists(st.sampled_from([*ODD.split(b"\n"), b"\r", b"\n", b"\r\n", b"\n\n", USAGE_FRAME, b"data: "]), max_size=12),
    st.lists(st.integers(0, 500), max_size=4),
    st.sampled_from([None, 20]),
)
@example(Endpoint.CHAT, [USAGE_FRAME[:-1], b"\r", b"\n", b"x"], [len(USAGE_FRAME)], None)
def test_any_bytes_pass_whatever_the_chunks(
    endpoint: Endpoint, pieces: list[bytes], cuts: list[int], limit: int | None
) -> None:
    stream = b"".join(pieces)

    def seen(chunks: list[bytes]) -> Seen | None:
        """None where a frame is found to be no JSON."""
        try:
            return watch(endpoint, chunks, strip_usage=strip_usage, limit=limit)
        except GarbledError:
            return None

    for strip_usage in (False, True):
        whole = seen([stream])
        assert seen(split_at(stream, cuts)) == whole
        assert whole is None or strip_usage or whole.output == stream


@pytest.mark.parametrize("odd", [b'{"choices":[{"delta":{"content":', b"{{", b"{", b'{"error": {'])
@pytest.mark.parametrize("event", [b"", b"event: message\n"])
def test_a_frame_that_begins_as_json_and_is_none(odd: bytes, event: bytes) -> None:
    frame = event + b"data: " + odd + b"\n\n"
    for chunks in ([frame], [frame[:9], frame[9:]], [b": ping\n\n" + frame]):
        with pytest.raises(GarbledError):
            watch(Endpoint.CHAT, chunks)


@pytest.mark.parametrize(
    ("name", "usage", "frames"),
    [
        ("vllm-0.25", Usage(469, 3, 464), 4),
        ("vllm-0.32", Usage(500, 3, 384), 4),
        ("sglang-0.5.16", Usage(469, 3, 468), 5),
    ],
)
def test_real_streams(name: str, usage: Usage, frames: int) -> None:
    stream = REAL[name]
    passed = watch(Endpoint.CHAT, [stream])
    assert passed == Seen(stream, True, frames, usage, None, True, False, None)
    stripped = watch(Endpoint.CHAT, [stream], strip_usage=True)
    frames_left = [frame for frame in stream.split(b"\n\n") if b'"choices":[]' not in frame]
    assert len(frames_left) == frames + 2
    assert stripped == Seen(b"\n\n".join(frames_left), True, frames, usage, None, True, False, None)


@pytest.mark.parametrize("strip_usage", [False, True])
@pytest.mark.parametrize("endpoint", [Endpoint.CHAT, Endpoint.COMPLETIONS])
def test_times_come_with_the_usage(endpoint: Endpoint, strip_usage: bool) -> None:
    seen = watch(endpoint, [delta() + TIMED_FRAME + DONE], strip_usage=strip_usage)
    assert (seen.usage, seen.timing) == (Usage(9, 2, 8), RequestTiming(741.2, 3.1))
    assert (TIMED_FRAME in seen.output) is not strip_usage


@pytest.mark.parametrize("metrics", ["null", "[]", "5", '"metrics"', "{}", '{"time_to_first_token_ms":"5"}'])
def test_odd_times_are_none(metrics: str) -> None:
    frame = b'data: {"id":"c","choices":[],%b,"metrics":%b}\n\n' % (USAGE, metrics.encode())
    seen = watch(Endpoint.CHAT, [delta() + frame + DONE])
    assert (seen.usage, seen.timing) == (Usage(9, 2, 8), None)


def test_times_without_usage_are_not_read() -> None:
    frame = b'data: {"id":"c","choices":[],"metrics":{"time_to_first_token_ms":5}}\n\n'
    assert watch(Endpoint.CHAT, [delta() + frame + DONE]).timing is None


def test_responses() -> None:
    assert watch(Endpoint.RESPONSES, [RESPONSES]) == Seen(
        RESPONSES, True, 3, Usage(9, 2, 8), None, True, False, "resp_1"
    )
    failed = event("response.failed", response={"id": "r", "error": {"code": "server_error"}})
    seen = watch(Endpoint.RESPONSES, [failed])
    assert (seen.done, seen.first_token, seen.usage, seen.response_id) == (True, False, None, "r")
    assert seen.error == failed.split(b"data: ")[1].strip()
    broken = event("error", code="x", message="no")
    assert watch(Endpoint.RESPONSES, [broken]).error == broken.split(b"data: ")[1].strip()
    odd = event("response.created", response=[]) + event("response.in_progress", response={"id": 5})
    assert watch(Endpoint.RESPONSES, [odd]).response_id is None


def test_messages() -> None:
    assert watch(Endpoint.MESSAGES, [MESSAGES]) == Seen(MESSAGES, True, 2, Usage(469, 3, 464), None, True, False, None)
    error = event("error", error={"type": "overloaded_error", "message": "busy"})
    assert watch(Endpoint.MESSAGES, [error]).error == error.split(b"data: ")[1].strip()
    assert not watch(Endpoint.MESSAGES, [event("ping")]).first_token


def test_usage_of_messages_comes_in_two_parts() -> None:
    start = event("message_start", message={"usage": {"input_tokens": 7, "cache_read_input_tokens": 2}})
    delta_ = event("message_delta", delta={}, usage={"output_tokens": 4, "input_tokens": None})
    assert watch(Endpoint.MESSAGES, [start]).usage == Usage(9, 0, 2)
    assert watch(Endpoint.MESSAGES, [start, delta_, event("message_delta", delta={})]).usage == Usage(9, 4, 2)


def test_an_error_may_be_the_first_frame() -> None:
    seen = watch(Endpoint.CHAT, [b"data: " + ERROR + b"\n\n", b'data: {"error":"second"}\n\n', DONE])
    assert (seen.error, seen.first_token, seen.content_frames, seen.done) == (ERROR, False, 0, True)
    flat = b'{"object":"error","message":"no","code":503}'
    assert watch(Endpoint.CHAT, [b"data: " + flat]).error == flat


@pytest.mark.parametrize("content", ["error", '"error":{}', '{"error": 1}'])
def test_the_word_error_in_content_is_content(content: str) -> None:
    seen = watch(Endpoint.CHAT, [delta(content), delta("x", error=None)])
    assert (seen.error, seen.content_frames) == (None, 2)


@pytest.mark.parametrize(
    "frame",
    [
        b": keep-alive\n\n",
        SGLEXT,
        USAGE_FRAME,
        DONE,
        b"\n\n",
        b"data:\n\n",
        b"event: x\nid: 1\n\n",
        b'data: {"choices":null}\n\n',
    ],
)
def test_what_is_no_first_token(frame: bytes) -> None:
    assert not watch(Endpoint.CHAT, [frame]).first_token


@pytest.mark.parametrize("text", ["choices", " [ ] ", '"choices":[]'])
def test_content_that_looks_like_frames_is_content(text: str) -> None:
    assert watch(Endpoint.CHAT, [delta(text)]).first_token
    assert watch(
        Endpoint.COMPLETIONS, [b'data: {"choices": [{"text": %b}]}\n\n' % json.dumps(text).encode()]
    ).first_token


@pytest.mark.parametrize(
    ("frames", "aborted"),
    [
        ([delta(None, "abort")], True),
        ([delta("", "abort")], True),
        ([delta(""), delta(None, "abort")], True),
        ([b'data: {"choices":[{"text":"","finish_reason":"abort"}]}\n\n'], True),
        ([delta("a", "abort")], False),
        ([delta("a"), delta(None, "abort")], False),
        ([delta(None, "stop")], False),
        ([b'data: {"choices":[{"delta":{"reasoning":"r"}}]}\n\n', delta(None, "abort")], False),
        ([b'data: {"choices":[{"delta":{"tool_calls":[{}]},"finish_reason":"abort"}]}\n\n'], False),
        ([b'data: {"choices":[{"text":"a","finish_reason":"abort"}]}\n\n'], False),
        ([b'data: {"choices":[5, {"finish_reason":"abort"}]}\n\n'], True),
        ([b'data: {"choices":[{"finish_reason":"abort"}\n\n'], False),
    ],
)  # fmt: skip
def test_an_abort_before_any_text(frames: list[bytes], aborted: bool) -> None:
    seen = watch(Endpoint.CHAT, frames)
    assert seen.aborted_empty is aborted
    assert seen.content_frames == len(frames) - aborted
    assert seen.first_token is (seen.content_frames > 0)


def test_usage_is_the_last_that_was_told() -> None:
    running = [delta("a", usage={"prompt_tokens": 9, "completion_tokens": n}) for n in (1, 2)]
    watcher = StreamWatcher(Endpoint.CHAT, strip_usage=True)
    assert watcher.usage is None
    for frame, usage in zip(running, (Usage(9, 1), Usage(9, 2)), strict=True):
        assert watcher.feed(frame) == frame
        assert watcher.usage == usage
    assert watcher.feed(delta("b", usage=None)) != b""
    assert watcher.usage == Usage(9, 2)
    assert watcher.feed(USAGE_FRAME) == b""
    assert watcher.usage == Usage(9, 2, 8)
    assert watcher.content_frames == 3


@pytest.mark.parametrize(
    "frame",
    [
        USAGE_FRAME,
        USAGE_FRAME.replace(b'"choices":[]', b'"choices" : [ ]').replace(b'"usage":', b'"usage" :\t'),
        USAGE_FRAME.replace(b"\n\n", b"\r\n\r\n"),
        USAGE_FRAME.replace(b"data: ", b"event: e\ndata:"),
        USAGE_FRAME.replace(b",", b"\ndata: ,", 1),
    ],
)
def test_the_usage_frame_is_taken_out_whole(frame: bytes) -> None:
    before, after = delta("a"), SGLEXT + DONE
    seen = watch(Endpoint.CHAT, [before + frame + after], strip_usage=True)
    assert seen.output == before + after
    assert seen.usage == Usage(9, 2, 8)
    assert watch(Endpoint.CHAT, [frame], strip_usage=True).output == b""
    assert watch(Endpoint.CHAT, [frame.rstrip()], strip_usage=True).output == b""


@pytest.mark.parametrize(
    "frame",
    [
        SGLEXT,
        delta("a", usage={"prompt_tokens": 3}),
        b'data: {"choices":[],"usage":null}\n\n',
        b'data: {"usage":{"prompt_tokens":3}}\n\n',
        b'data: {"choices":[],"usage":{"prompt_tokens":3}\n\n',
        b'data: {"choices":null,"usage":{"prompt_tokens":3}}\n\n',
        b'data: {"error":{},"choices":[],"usage":{"prompt_tokens":3}}\n\n',
    ],
)
def test_no_other_frame_is_taken_out(frame: bytes) -> None:
    assert watch(Endpoint.CHAT, [frame], strip_usage=True).output == frame


def test_frames_end_with_any_blank_line() -> None:
    ends = [b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r\n", b"\r\n\n", b"\n\r", b"\r\n\r"]
    for end in ends:
        stream = delta("a")[:-2] + end + delta("b")
        seen = watch(Endpoint.CHAT, [stream], strip_usage=True)
        assert (seen.output, seen.content_frames) == (stream, 2)


def test_a_byte_order_mark_is_no_part_of_the_first_line() -> None:
    assert watch(Endpoint.CHAT, [b"\xef\xbb\xbf" + delta("a")]).first_token
    assert watch(Endpoint.CHAT, [b"\xef\xbb\xbf" + USAGE_FRAME], strip_usage=True).output == b""


@pytest.mark.parametrize("excess", [0, 1, 2])
def test_a_frame_over_the_limit_is_not_taken_out(excess: int) -> None:
    for cut in range(len(USAGE_FRAME)):
        chunks = [USAGE_FRAME[:cut], USAGE_FRAME[cut:]]
        seen = watch(Endpoint.CHAT, chunks, strip_usage=True, limit=len(USAGE_FRAME) - excess)
        assert seen.output == (USAGE_FRAME if excess else b"")
        assert seen.usage == Usage(9, 2, 8)


def test_bytes_pass_at_once() -> None:
    plain = StreamWatcher(Endpoint.CHAT, strip_usage=False)
    stripping = StreamWatcher(Endpoint.CHAT, strip_usage=True)
    for chunk in (delta("a"), delta("a")[:9], delta("a")[9:], delta("a") + delta("b")):
        assert plain.feed(chunk) is chunk
    frame = delta("a")
    assert stripping.feed(frame) is frame
    assert stripping.feed(frame + frame[:20]) == frame
    assert stripping.feed(frame[20:]) == frame


@pytest.mark.parametrize("strip_usage", [False, True])
def test_a_frame_without_end_takes_bounded_memory(strip_usage: bool) -> None:
    watcher = StreamWatcher(Endpoint.CHAT, strip_usage=strip_usage, frame_limit=1000)
    begun = delta("a")[:-10]
    passed = len(watcher.feed(begun))
    for _ in range(100):
        passed += len(watcher.feed(b"x" * 500))
    held = len(begun) + 100 * 500 - passed
    assert held == (3 if strip_usage else 0)
    watcher.feed(b'"\n\n')
    assert watcher.content_frames == 1
    assert watcher.feed(USAGE_FRAME) == (b"" if strip_usage else USAGE_FRAME)


def test_what_is_no_event_at_all() -> None:
    with pytest.raises(GarbledError):
        watch(Endpoint.CHAT, [b"<html>busy</html>\n\n"])
    for begun in (b"<html>", b"\n<", b"data: {}\n\n<html>", b"data: {}\n\n\x00"):
        with pytest.raises(GarbledError):  # before the rest of it is there
            watch(Endpoint.CHAT, [begun])
    for fine in (
        b": ping\n\n",
        b"\n\n",
        b"id: 1\n\n",
        b"retry: 5\r\n\r\n",
        b"\xef\xbb\xbfdata: {}\n\n",
        b"\n\ndata: {}\n\n",
    ):
        assert watch(Endpoint.CHAT, [fine]).output == fine
