"""Small versions of what `make bench-experiments` judges: false verdicts, coverage, power."""

import numpy as np
import pytest
from split_traffic import ARMS, Traffic, observe

from gateway.experiments.analysis import figure
from gateway.experiments.growth import looks
from gateway.experiments.metrics import estimate
from gateway.experiments.sample import samples
from gateway.experiments.terms import ArmTerms, Terms

TERMS = Terms(tuple(ArmTerms(name) for name in ARMS))
SESSIONS, FAMILIES = Traffic(200), Traffic(60, size=30, life=1.0)


@pytest.mark.parametrize("traffic", [SESSIONS, FAMILIES], ids=["sessions", "families that recur"])
@pytest.mark.parametrize("metric", ["ttft_p50", "hit_rate"])
def test_equal_arms_are_rarely_ever_called_different(traffic: Traffic, metric: str) -> None:
    terms = Terms(TERMS.arms, metric=metric)
    false = 0
    for seed in range(40):
        seen = looks(observe(traffic, np.random.default_rng(seed)), terms, 8)
        false += any(one.verdict in ("better", "worse") for look in seen for one in look.comparisons)
    assert false <= 3  # 2 are expected at the most; 4 or more then have a chance of one in seven


@pytest.mark.parametrize("metric", ["ttft_p50", "hit_rate"])
def test_intervals_hold_the_truth(metric: str) -> None:
    many = observe(Traffic(100_000), np.random.default_rng(0))
    truth = np.median(many.ttft_s) if metric == "ttft_p50" else many.cached_tokens.sum() / many.prompt_tokens.sum()
    held = []
    for seed in range(100):
        for arm in samples(observe(Traffic(400), np.random.default_rng(seed)), TERMS):
            one = figure(metric, estimate(arm, metric), TERMS)
            assert one.low is not None
            assert one.high is not None
            held.append(one.low <= truth <= one.high)
    assert 0.9 <= np.mean(held) <= 0.99


def test_a_true_difference_is_found() -> None:
    traffic = Traffic(1500, size=0, prompt_spread=0.1, noise=0.2)
    found = [
        any(one.verdict == "worse" for look in seen for one in look.comparisons)
        for seed in range(20)
        if (seen := looks(observe(traffic, np.random.default_rng(seed), slower=0.15), TERMS, 5))
    ]
    assert sum(found) >= 16
