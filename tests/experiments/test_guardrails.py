"""Arms are stopped when they are surely worse, and only then."""

from dataclasses import replace

import numpy as np
from split_traffic import ARMS, Traffic, observe

from gateway.experiments.analysis import analyse
from gateway.experiments.guardrails import guardrail_breaches
from gateway.experiments.observations import Observations
from gateway.experiments.terms import ArmTerms, Guardrails, Terms

TERMS = Terms(tuple(ArmTerms(name) for name in ARMS))
ALIKE = Traffic(400, size=3, prompt_spread=0.1, noise=0.2)


def seen(slower: float = 0.0) -> Observations:
    return observe(ALIKE, np.random.default_rng(6), slower=slower)


def failing(observations: Observations, arm: int, every: int) -> Observations:
    return replace(observations, failed=(observations.arm == arm) & (np.arange(len(observations)) % every == 0))


def test_equal_arms_go_on() -> None:
    assert guardrail_breaches(seen(), TERMS) == ()


def test_an_arm_that_fails_is_stopped() -> None:
    (one,) = guardrail_breaches(failing(seen(), arm=1, every=5), TERMS)
    assert (one.arm, one.metric) == ("other", "error_rate")
    assert one.low > one.limit == TERMS.guardrails.error_rate
    assert one.sentence.startswith("other is to be stopped: its error rate is higher than that of control by ")


def test_an_arm_whose_requests_others_answer_is_stopped() -> None:
    observations = seen()
    (one,) = guardrail_breaches(replace(observations, crossed=observations.arm == 1), TERMS)
    assert one.metric == "error_rate"


def test_a_slow_arm_is_stopped() -> None:
    (one,) = guardrail_breaches(seen(slower=1.0), TERMS)
    assert one.metric == "ttft_p50"
    assert "25 %" in one.sentence


def test_a_regression_within_the_limit_goes_on() -> None:
    assert guardrail_breaches(seen(slower=0.2), TERMS) == ()


def test_a_control_that_fails_stops_no_other() -> None:
    assert guardrail_breaches(failing(seen(), arm=0, every=2), TERMS) == ()


def test_nothing_is_stopped_before_the_least_units() -> None:
    patient = Terms(TERMS.arms, guardrails=Guardrails(minimum_units=1000))
    assert guardrail_breaches(failing(seen(slower=3.0), arm=1, every=2), patient) == ()


def test_nothing_observed_stops_nothing() -> None:
    assert guardrail_breaches(observe(Traffic(0), np.random.default_rng(1)), TERMS) == ()
    assert guardrail_breaches(seen(slower=1.0), Terms(())) == ()


def test_a_report_tells_the_same_breaches() -> None:
    observations = failing(seen(slower=1.0), arm=1, every=3)
    breaches = guardrail_breaches(observations, TERMS)
    assert len(breaches) == 2
    assert analyse("x", observations, TERMS).breaches == breaches
