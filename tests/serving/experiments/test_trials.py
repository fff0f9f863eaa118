"""Trials: what commands and files make of them, and what is told of it."""

import pytest
from msgspec import structs

from gateway.config.experiments import ArmConfig, ExperimentConfig
from gateway.serving.experiments.trial import (
    RUNNING,
    STOPPED,
    WAITING,
    Begin,
    Define,
    End,
    EndArm,
    Forget,
    Trials,
    after,
    events_between,
    of_file,
)
from gateway.serving.membership.refusal import PlanError

E = ExperimentConfig("e", {"a": 0.5, "b": 0.5})


def kinds(before: Trials, now: Trials) -> list[str]:
    return [event.kind for event in events_between(before, now)]


def test_the_files_experiments_begin_by_themselves_unless_told_to_wait() -> None:
    manual = structs.replace(E, name="m", start="manual")
    trials = of_file([E, manual], (), 7.0)
    assert [(one.state, one.counts_from) for one in trials] == [(RUNNING, 7.0), (WAITING, 0.0)]
    assert kinds((), trials) == ["defined", "started", "defined"]


def test_a_restart_goes_on_where_the_one_before_was() -> None:
    stopped = after(of_file([E], (), 7.0), End("e", 9.0, "enough"))
    assert of_file([E], stopped, 20.0) == stopped
    running = of_file([E], (), 7.0)
    assert of_file([E], running, 20.0) == running


def test_other_terms_go_on_counting_and_other_arms_count_anew() -> None:
    trials = of_file([E], (), 7.0)
    more = after(trials, Define(structs.replace(E, traffic=0.5, tie_percent=1.0), 9.0))
    assert (more[0].counts_from, more[0].began_at) == (7.0, 7.0)
    weights = after(more, Define(structs.replace(E, arms={"a": 0.9, "b": 0.1}), 11.0))
    assert (weights[0].counts_from, weights[0].began_at) == (11.0, 7.0)
    assert "began anew" in events_between(more, weights)[0].said
    assert "began anew" not in events_between(trials, more)[0].said


def test_started_again_it_counts_anew() -> None:
    stopped = after(of_file([E], (), 7.0), End("e", 9.0, "enough"))
    assert (stopped[0].state, stopped[0].counts_to) == (STOPPED, 9.0)
    again = after(stopped, Begin("e", 11.0))
    assert (again[0].state, again[0].counts_from, again[0].counts_to) == (RUNNING, 11.0, float("inf"))
    assert kinds(stopped, again) == ["started"]
    assert after(again, Begin("e", 13.0)) == again


def test_a_guardrail_stops_an_arm_once_and_never_the_control() -> None:
    trials = of_file([E], (), 7.0)
    stopped = after(trials, EndArm("e", "b", 9.0, "too slow"))
    assert (stopped[0].state, stopped[0].counts_to) == (RUNNING, 9.0)
    assert [(event.kind, event.arm) for event in events_between(trials, stopped)] == [("arm stopped", "b")]
    assert after(stopped, EndArm("e", "b", 10.0, "again")) == stopped
    with pytest.raises(PlanError, match="control"):
        after(trials, EndArm("e", "a", 9.0, "no"))
    with pytest.raises(PlanError, match="no arm `c`"):
        after(trials, EndArm("e", "c", 9.0, "no"))


def test_what_leaves_the_file_is_stopped_and_kept_and_begins_anew_when_it_is_back() -> None:
    left = of_file([], of_file([E], (), 7.0), 9.0)
    assert [(one.state, one.why, one.ended_at) for one in left] == [(STOPPED, "the file names it no longer", 9.0)]
    assert of_file([], left, 10.0) == left
    back = of_file([E], left, 11.0)
    assert [(one.state, one.counts_from) for one in back] == [(RUNNING, 11.0)]
    assert after(left, Forget("e")) == ()


def test_what_the_api_made_survives_reloads_until_it_is_forgotten() -> None:
    api = ExperimentConfig("x", {"p": ArmConfig(policy="prefix"), "t": ArmConfig(policy="ttft")})
    trials = after(of_file([E], (), 7.0), Define(api, 8.0))
    reloaded = of_file([], trials, 9.0)
    assert [(one.name, one.state) for one in reloaded] == [("e", STOPPED), ("x", RUNNING)]
    assert [one.name for one in after(reloaded, Forget("x"))] == ["e"]
    with pytest.raises(PlanError, match="configuration file's"):
        after(trials, Forget("e"))
    with pytest.raises(PlanError, match="no experiment `y`"):
        after(trials, Begin("y", 1.0))
