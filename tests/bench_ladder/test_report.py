"""What samples say: figures of the right ones only, and a word about every doubt."""

from collections.abc import Sequence

import pytest

from gateway.bench.intervals import Verdict
from gateway.bench.plan import Rung
from gateway.bench.report import LadderReport, Row, report_on
from gateway.bench.samples import Sample

W4A8 = Row(name="W4A8 vllm TP2", config="W4A8", engine="vllm", gpus=2)
FP8 = Row(name="FP8 sglang TP4", config="FP8", engine="sglang", gpus=4)
PLANNED = Row(name="W4A8 vllm TP4", config="W4A8", engine="vllm", gpus=4, planned=True)


def samples(row: Row, isl: int, times: Sequence[float], **more: object) -> list[Sample]:
    fields = {"prompt_tokens": isl, "cached_tokens": 0, **more}
    return [Sample(target=row.name, round=number, isl=isl, ttft_ms=time, **fields) for number, time in enumerate(times)]


def report(taken: list[Sample], *troubles: str) -> LadderReport:
    return report_on([W4A8, FP8, PLANNED], taken, troubles, {W4A8.name: 256, FP8.name: 256}, 0.03)


def test_the_published_arithmetic() -> None:
    found = report(samples(W4A8, 24_576, [1657, 1658, 1659]) + samples(FP8, 24_576, [892])).rungs
    assert [round(one.tokens_per_s_per_gpu) for one in found] == [7411, 6888]
    assert (found[0].ttft_ms, found[0].q1_ms, found[0].q3_ms, found[0].samples) == (1658, 1657.5, 1658.5, 3)


def test_the_faster_one_need_not_be_better_per_gpu() -> None:
    taken = samples(W4A8, 24_576, [1657, 1658, 1659, 1660]) + samples(FP8, 24_576, [891, 892, 893, 894])
    [found] = report(taken).comparisons
    assert (found.ttft_verdict, found.per_gpu_verdict) == (Verdict.WORSE, Verdict.BETTER)
    assert found.per_gpu == pytest.approx(2 * found.ttft)


def test_answers_out_of_the_cache_are_left_out_and_told() -> None:
    taken = samples(W4A8, 8192, [560, 561]) + samples(W4A8, 8192, [20], cached_tokens=7936)
    found = report(taken)
    [figures] = found.rungs
    assert (figures.samples, figures.left_out, figures.max_ms) == (2, 1, 561)
    assert any("1 of 3 answers are left out" in one for one in found.warnings)


def test_a_primed_part_counts_where_it_was_cached_to_within_a_block() -> None:
    good = samples(W4A8, 8192, [300], cached=0.5, primed_tokens=4096, cached_tokens=4096 - 256)
    bad = samples(W4A8, 8192, [500], cached=0.5, primed_tokens=4096, cached_tokens=1024)
    found = report(good + bad)
    figures = found.figures(W4A8.name, Rung(8192, 0.5))
    assert figures is not None
    assert (figures.samples, figures.left_out) == (1, 1)
    assert figures.tokens_per_s_per_gpu == pytest.approx((8192 - 3840) / 0.3 / 2)
    assert found.headline_isl is None
    assert found.comparisons == []


def test_what_every_prompt_begins_with_may_be_cached() -> None:
    found = report(samples(W4A8, 8192, [560], cached_tokens=16, shared_tokens=20))
    assert found.rungs[0].left_out == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"cached_tokens": None}, "does not say how many tokens were cached"),
        ({"busy": True}, "serving others at 4 of 4"),
        ({"prompt_tokens": 8300}, "1% longer or shorter"),
    ],
)
def test_doubts_are_told(more: dict[str, object], said: str) -> None:
    assert any(said in one for one in report(samples(W4A8, 8192, [560, 561, 562, 563], **more)).warnings)


def test_noise_to_one_side_is_told_and_even_noise_is_not() -> None:
    [told] = report(samples(W4A8, 8192, [560, 561, 562, 800])).warnings
    assert "noise to one side at 8k" in told
    assert "42%" in told
    assert report(samples(W4A8, 8192, [500, 530, 560, 590, 620])).warnings == []


def test_the_line_is_of_what_is_above_the_knee() -> None:
    taken = [one for isl, ms in ((1024, 500), (8192, 564), (16_384, 1111), (24_576, 1658))
             for one in samples(W4A8, isl, [ms, ms])]  # fmt: skip
    [line] = report(taken).lines
    assert line.ms_per_8k == pytest.approx(547)


def test_troubles_and_planned_rows_stay() -> None:
    found = report([], "a trouble")
    assert found.warnings == ["a trouble"]
    assert [row.planned for row in found.rows] == [False, False, True]
    assert (found.headline_isl, found.rungs, found.lines, found.comparisons) == (None, [], [], [])
