"""What is counted of copies, of one process and of several together."""

from random import Random

import msgspec

from engines.reports import Usage
from gateway.routing.facts import Dispatched, Finished, FirstToken, Outcome, Refused
from gateway.serving.shadowing.tally import MOST_PAIRS, Fate, ShadowFigures, Tally, merged_shadows
from gateway.serving.shadowing.timing import Timing
from gateway.wire.answer_text import body_text, parting, stream_text
from gateway.wire.request import Endpoint


def timing(ttft_s: float | None, cached: int | None = 0, itl_s: float | None = None) -> Timing:
    return Timing(ttft_s, itl_s, 9.0, Usage(100, 10, cached), Outcome.COMPLETED)


def figures(tally: Tally) -> ShadowFigures:
    return tally.figures("s", "q", 1.0, "timing", 1, 2)


def test_pairs() -> None:
    tally = Tally(Random(1))
    for own, copy in ((1.0, 2.0), (1.0, 0.5), (2.0, 2.2)):
        tally.pair(timing(own, 50, 0.01), timing(copy, 25, 0.03))
    tally.pair(timing(None), timing(None))
    shown = figures(tally).summary()
    assert (shown.paired, shown.own_ttft_s, shown.copy_ttft_s) == (3, 1.0, 2.0)
    assert shown.ttft_ratio == 1.1
    assert (shown.own_hit_rate, shown.copy_hit_rate) == (0.5, 0.25)
    assert shown.own_itl_s is not None
    assert shown.copy_itl_s is not None
    assert round(shown.copy_itl_s / shown.own_itl_s, 6) == 3


def test_nothing_yet() -> None:
    shown = figures(Tally(Random(1))).summary()
    assert (shown.ttft_ratio, shown.own_hit_rate, shown.own_itl_s) == (None, None, None)


def test_the_sample_is_bounded_and_uniform() -> None:
    tally = Tally(Random(1))
    count = 5 * MOST_PAIRS
    for number in range(1, count + 1):
        tally.pair(timing(float(number)), timing(1.0))
    shown = figures(tally)
    assert (shown.paired, len(shown.pairs)) == (count, MOST_PAIRS)
    mean = sum(pair.own_ttft_s for pair in shown.pairs) / MOST_PAIRS
    assert 0.94 < mean / (count / 2) < 1.06


def test_of_texts_only_counts_and_places_stay() -> None:
    tally = Tally(Random(1))
    tally.texts("secret of a", "secret of a")
    tally.texts("secret of a", "secret of b")
    shown = figures(tally)
    assert (shown.same, shown.differed, shown.parted.total) == (1, 1, 10)
    assert b"secret" not in msgspec.json.encode(shown)


def test_of_several_processes_together() -> None:
    parts = []
    for number in range(3):
        tally = Tally(Random(1))
        tally.count(Fate.MIRRORED)
        tally.first_token(0.3)
        tally.pair(timing(1.0, 10), timing(2.0 + number, 20))
        tally.texts("a", "a")
        parts.append((figures(tally),))
    sent = [msgspec.msgpack.decode(msgspec.msgpack.encode(part), type=tuple[ShadowFigures, ...]) for part in parts]
    [whole] = merged_shadows(sent)
    assert whole.counts["mirrored"] == whole.paired == whole.same == sum(whole.ttft.counts) == 3
    assert (whole.inflight, whole.waiting) == (6, 3)
    assert whole.summary().ttft_ratio == 3.0
    ended = merged_shadows([sent[0], (sent[1][0].counted(),)])[0]
    assert (ended.inflight, ended.paired) == (2, 2)
    assert merged_shadows([(), ()]) == ()


def test_timing_counts_from_the_attempt_that_answered() -> None:
    own = Timing()
    own.learn(Dispatched(1, 10.0, 0, 0))
    own.learn(Dispatched(2, 15.0, 0, 0))
    own.learn(FirstToken(2, 16.0))
    own.learn(Finished(2, 18.0, Outcome.COMPLETED, Usage(5, 5), 5))
    assert (own.ttft_s, own.itl_s, own.total_s, own.outcome) == (1.0, 0.5, 3.0, Outcome.COMPLETED)
    refused = Timing()
    refused.learn(Refused(1.0, "m", Outcome.REJECTED))
    assert (refused.outcome, refused.ttft_s) == (Outcome.REJECTED, None)


def test_the_text_of_answers() -> None:
    assert body_text(b'{"choices": [{"message": {"content": "a", "reasoning": "hm "}}]}') == "hm a"
    assert body_text(b'{"choices": [{"text": "a"}]}') == "a"
    assert body_text(b'{"choices": [{"message": {"content": null, "tool_calls": [{}]}}]}') is None
    assert body_text(b'{"choices": []}') is body_text(b"no") is body_text(b"[" * 100_000) is None
    frames = [
        b'data: {"choices": [{"index": 0, "delta": {"reasoning_content": "hm "}}]}\n\n',
        b'data: {"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]}\n\ndata: [DONE]\n\n',
    ]
    assert stream_text(Endpoint.CHAT, frames) == "hm a"
    assert stream_text(Endpoint.CHAT, frames[:1]) is None, "it did not come to its end"
    assert stream_text(Endpoint.CHAT, [b"data: {nonsense}\n\n"]) is None


def test_where_texts_part() -> None:
    assert parting("ab", "ab") is None
    assert parting("ab", "ac") == 1
    assert parting("ab", "abc") == parting("abc", "ab") == 2
