"""TTFT at equal prompts and cached fractions is kept apart from what comes through the hit rate."""

import numpy as np
import pytest
from split_traffic import ARMS, Traffic, observe

from gateway.experiments.analysis import analyse
from gateway.experiments.report import Report
from gateway.experiments.terms import ArmTerms, Terms

TERMS = Terms(tuple(ArmTerms(name) for name in ARMS))
SESSIONS = Traffic(6000, size=5)


def report(slower: float, less_cached: float) -> Report:
    return analyse("x", observe(SESSIONS, np.random.default_rng(4), slower, less_cached), TERMS)


def test_a_slower_engine_is_slower_at_equal_prompts() -> None:
    (one,) = report(slower=0.2, less_cached=0.0).separations
    assert one.equal == pytest.approx(0.2, abs=0.03)
    assert one.low is not None
    assert one.low > 0.1
    assert one.through_hit_rate == pytest.approx(0.0, abs=0.03)
    assert one.covered > 0.8


def test_a_smaller_cache_is_not_a_slower_engine() -> None:
    (one,) = report(slower=0.0, less_cached=0.3).separations
    assert one.whole is not None
    assert one.whole > 0.2
    assert one.equal == pytest.approx(0.0, abs=0.03)
    assert one.through_hit_rate is not None
    assert one.through_hit_rate > 0.2


def test_the_three_parts_make_the_whole() -> None:
    (one,) = report(slower=0.2, less_cached=0.3).separations
    assert None not in (one.whole, one.equal, one.through_hit_rate, one.through_prompts)
    product = np.prod([1 + (part or 0.0) for part in (one.equal, one.through_hit_rate, one.through_prompts)])
    assert 1 + (one.whole or 0.0) == pytest.approx(product)


def test_strata_are_all_requests() -> None:
    found = report(slower=0.0, less_cached=0.0)
    assert sum(one.share for one in found.strata) == pytest.approx(1.0)
    for place, arm in enumerate(found.arms):
        assert sum(one.arms[place].requests for one in found.strata) == arm.requests


def test_in_a_stratum_the_slower_engine_is_slower() -> None:
    large = [one for one in report(slower=0.3, less_cached=0.0).strata if one.share > 0.05]
    assert len(large) >= 4
    for one in large:
        control, other = (arm.ttft_p50_s for arm in one.arms)
        assert control is not None
        assert other is not None
        assert other > 1.1 * control
