"""Reports: verdicts that are true, and corners in which nothing may be said."""

from dataclasses import fields, replace
from math import nan

import msgspec
import numpy as np
import pytest
from split_traffic import ARMS, Traffic, observe

from gateway.experiments.analysis import analyse
from gateway.experiments.growth import first
from gateway.experiments.metrics import METRICS
from gateway.experiments.observations import Observations
from gateway.experiments.report import Comparison, Report
from gateway.experiments.terms import ArmTerms, Terms

TERMS = Terms(tuple(ArmTerms(name) for name in ARMS))
ALIKE = Traffic(3000, size=1, size_spread=0.5, prompt_spread=0.1, noise=0.1)
"""Traffic in which small differences are seen."""


def rng(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


def only(observations: Observations, kept: np.ndarray) -> Observations:
    columns = {one.name: getattr(observations, one.name)[kept] for one in fields(observations) if one.name != "arms"}
    return replace(observations, **columns)


def verdict(report: Report, metric: str = "ttft_p50") -> Comparison:
    (found,) = (one for one in report.comparisons if one.metric == metric)
    return found


def test_a_slower_arm_is_worse() -> None:
    report = analyse("chunks", observe(ALIKE, rng(), slower=0.15), TERMS)
    one = verdict(report)
    assert (one.verdict, one.needed_units) == ("worse", 0)
    assert one.low is not None
    assert one.high is not None
    assert 0 < one.low < 0.15 < one.high
    assert report.sentence.startswith("other: worse than control by ")
    assert "TTFT p50 is higher (+" in report.sentence


def test_a_faster_arm_is_better_and_the_control_can_be_either() -> None:
    seen = observe(ALIKE, rng(), slower=0.15)
    one = verdict(analyse("chunks", seen, Terms(TERMS.arms, control="other")))
    assert (one.arm, one.against, one.verdict) == ("control", "other", "better")
    assert "lower" in one.sentence


def test_two_percent_are_a_tie() -> None:
    report = analyse(
        "w4a8-vs-w4a16", observe(Traffic(20_000, 0, prompt_spread=0.1, noise=0.1), rng(), slower=0.02), TERMS
    )
    assert verdict(report).verdict == "tie"
    assert "tie within ±5 % in TTFT p50" in report.sentence


def test_little_data_says_how_much_more() -> None:
    one = verdict(analyse("early", observe(Traffic(120), rng(), slower=0.05), TERMS))
    assert one.verdict == "unclear"
    assert one.needed_units is not None
    assert one.needed_units > 100
    assert "not enough data: about " in one.sentence


def test_hit_rates_are_compared_in_points() -> None:
    one = verdict(analyse("caches", observe(ALIKE, rng(), less_cached=0.5), TERMS), "hit_rate")
    assert (one.scale, one.verdict) == ("points", "worse")
    assert one.change == pytest.approx(-0.24, abs=0.05)
    assert "points" in one.sentence


@pytest.mark.parametrize("count", [0, 1, 2, 3, 10])
def test_almost_nothing_observed_gives_no_verdict(count: int) -> None:
    report = analyse("young", first(observe(ALIKE, rng()), count), TERMS)
    assert {one.verdict for one in report.comparisons} == {"unclear"}
    assert "not enough data" in report.sentence
    assert msgspec.json.decode(msgspec.json.encode(report), type=Report) == report


def test_an_arm_without_requests() -> None:
    seen = observe(ALIKE, rng())
    report = analyse("one-sided", only(seen, seen.arm == 0), TERMS)
    assert verdict(report).change is None
    assert "other has had no requests." in report.warnings
    assert not report.sample_ratio.ok


def test_one_unit_in_each_arm() -> None:
    seen = observe(ALIKE, rng())
    report = analyse("two-units", replace(seen, unit=seen.arm.astype(np.uint64)), TERMS)
    assert verdict(report).verdict == "unclear"
    assert verdict(report).low is None
    figure = report.arms[0].figures[1]
    assert figure.value is not None
    assert (figure.low, figure.high) == (None, None)
    assert any(warning.startswith("The largest unit holds 100% of the requests") for warning in report.warnings)


def test_an_engine_that_tells_nothing() -> None:
    seen = observe(ALIKE, rng())
    unknown = np.full(len(seen), nan)
    silent = ("ttft_s", "itl_s", "request_s", "prompt_tokens", "cached_tokens", "completion_tokens")
    report = analyse("silent", replace(seen, **dict.fromkeys(silent, unknown)), TERMS)
    assert verdict(report).change is None
    assert verdict(report, "hit_rate").change is None
    assert report.strata == ()
    assert report.separations[0].equal is None
    msgspec.json.encode(report)


def test_some_values_missing_are_left_out() -> None:
    seen = observe(ALIKE, rng(), slower=0.15)
    some = np.where(np.arange(len(seen)) % 3 == 0, nan, seen.ttft_s)
    report = analyse("partly", replace(seen, ttft_s=some), TERMS)
    assert verdict(report).verdict == "worse"
    assert report.arms[0].figures[1].requests < report.arms[0].requests


def test_constant_times_are_equal() -> None:
    seen = observe(ALIKE, rng())
    report = analyse("constant", replace(seen, ttft_s=np.full(len(seen), 0.2)), TERMS)
    assert verdict(report).verdict == "tie"
    assert verdict(report).change == 0


def test_crossed_requests_are_errors_and_no_times() -> None:
    seen = observe(ALIKE, rng())
    crossed = (seen.arm == 1) & (np.arange(len(seen)) % 4 == 0)
    moved = replace(seen, crossed=crossed, ttft_s=np.where(crossed, 100.0, seen.ttft_s))
    report = analyse("failing", moved, TERMS)
    assert report.arms[1].crossed == crossed.sum()
    assert verdict(report, "error_rate").change == pytest.approx(0.25, abs=0.02)
    assert verdict(report, "failover_rate").verdict == "worse"
    mean = next(one for one in report.arms[1].figures if one.metric == "ttft_mean")
    assert mean.value is not None
    assert mean.value < 5
    assert any("were answered outside of it" in warning for warning in report.warnings)


def test_units_that_fell_otherwise_than_the_weights_say() -> None:
    seen = observe(ALIKE, rng(), slower=0.15)
    report = analyse("lost", only(seen, (seen.arm == 0) | (seen.unit % 5 != 0)), TERMS)
    assert not report.sample_ratio.ok
    assert report.sentence.startswith("Not to be trusted: Units did not fall to the arms as the weights say")
    weighted = Terms((ArmTerms("control", 5), ArmTerms("other", 4)))
    assert analyse("meant", only(seen, (seen.arm == 0) | (seen.unit % 5 != 0)), weighted).sample_ratio.ok


def test_an_arm_of_weight_nought_has_no_part_in_the_sample_ratio() -> None:
    arms = (*TERMS.arms, ArmTerms("stopped", 0.0))
    ratio = analyse("two-of-three", observe(ALIKE, rng()), Terms(arms)).sample_ratio
    assert ratio.ok
    assert ratio.p is not None
    assert ratio.expected[2] == 0


def test_arms_are_matched_by_name() -> None:
    seen = observe(ALIKE, rng(), slower=0.15)
    turned = replace(seen, arms=ARMS[::-1], arm=(1 - seen.arm).astype(np.int16))
    assert analyse("x", turned, TERMS) == analyse("x", seen, TERMS)


def test_arms_that_are_no_more_are_left_out() -> None:
    seen = replace(observe(ALIKE, rng()), arms=("control", "gone"))
    report = analyse("x", seen, TERMS)
    assert [arm.name for arm in report.arms] == ["control", "other"]
    assert any("no longer has are left out" in warning for warning in report.warnings)


def test_three_arms_share_the_chance_of_a_false_verdict() -> None:
    seen = observe(ALIKE, rng())
    two = verdict(analyse("x", seen, TERMS))
    three = analyse("x", seen, Terms((*TERMS.arms, ArmTerms("third"))))
    same = next(one for one in three.verdicts if one.arm == "other")
    assert two.low is not None
    assert same.low is not None
    assert same.low < two.low
    assert len(three.verdicts) == 2


def test_moved_units_are_told() -> None:
    seen = observe(ALIKE, rng())
    report = analyse("ramp", replace(seen, unit=seen.unit % 2000), TERMS)
    assert any("changed arms, as weights were changed" in warning for warning in report.warnings)


def test_request_level_assignment_is_warned_of() -> None:
    report = analyse("x", observe(Traffic(500, size=0), rng()), Terms(TERMS.arms, unit="request"))
    assert any("holds half as much" in warning for warning in report.warnings)


def test_throughput_and_cost_follow_from_gpus_and_price() -> None:
    seen = observe(ALIKE, rng())
    arms = (ArmTerms("control", gpus=2, usd_per_gpu_hour=3.0), ArmTerms("other"))
    report = analyse("cost", seen, Terms(arms, running_s=1800))
    found = {one.metric: one.value for one in report.arms[0].figures}
    tokens = float((seen.prompt_tokens + seen.completion_tokens)[seen.arm == 0].sum())
    assert found["tokens_per_gpu_s"] == pytest.approx(tokens / 1800 / 2)
    assert found["usd_per_million_tokens"] == pytest.approx(2 * 3.0 * 0.5 / tokens * 1e6)
    assert not {"tokens_per_gpu_s", "usd_per_million_tokens"} & {one.metric for one in report.arms[1].figures}


def test_every_figure_lies_within_its_interval() -> None:
    report = analyse("x", observe(Traffic(800), rng()), TERMS)
    for arm in report.arms:
        assert {one.metric for one in arm.figures} <= set(METRICS)
        for one in arm.figures:
            assert one.value is not None
            assert one.low is None or one.low <= one.value
            assert one.high is None or one.value <= one.high


def test_power_rises_with_the_units() -> None:
    lines = analyse("x", observe(Traffic(800), rng()), TERMS).power
    chances = [line.probability for line in lines]
    assert len(chances) > 2
    assert chances == sorted(chances)
    assert lines[0].units_per_arm == 400
    assert "a true difference of 10 % in TTFT p50 is found" in lines[0].sentence


def test_an_unknown_metric_is_refused() -> None:
    with pytest.raises(ValueError, match="judged by one of ttft_mean"):
        analyse("x", observe(ALIKE, rng()), Terms(TERMS.arms, metric="tokens_per_gpu_s"))


def test_no_arms_at_all() -> None:
    report = analyse("empty", observe(Traffic(0), rng()), Terms(()))
    assert report.sentence == "Not enough data: there are no two arms to compare."
