"""Every step is taken once, and no target has a better place in the order than another."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.bench.plan import Rung, parse_isls, parse_shares, rungs_of, steps_of, written
from gateway.bench.target import TargetError, parse_target, require_apart, with_told


@given(st.integers(1, 5), st.integers(0, 2), st.integers(1, 6), st.integers())
def test_every_step_once(targets: int, warm_up: int, repeats: int, seed: int) -> None:
    rungs = rungs_of([1024, 8192], [0.0, 0.5])
    steps = steps_of(rungs, targets, warm_up, repeats, seed)
    assert len(set(steps)) == len(steps) == len(rungs) * targets * (warm_up + repeats)
    assert [step.round for step in steps] == sorted(step.round for step in steps)
    assert sum(step.round < 0 for step in steps) == len(rungs) * targets * warm_up


@given(st.integers(2, 5), st.integers())
def test_each_target_takes_each_place_equally_often(targets: int, seed: int) -> None:
    steps = steps_of([Rung(1024), Rung(2048)], targets, 0, 2 * targets, seed)
    places = Counter(
        (steps[start].rung, steps[start + place].target, place)
        for start in range(0, len(steps), targets)
        for place in range(targets)
    )
    assert set(places.values()) == {2}
    assert len(places) == 2 * targets * targets


def test_the_order_is_the_seeds() -> None:
    rungs = rungs_of([1024, 2048, 4096], [0.0])
    assert steps_of(rungs, 3, 1, 3, 1) == steps_of(rungs, 3, 1, 3, 1)
    assert steps_of(rungs, 3, 1, 3, 1) != steps_of(rungs, 3, 1, 3, 2)


def test_the_primed_part_is_whole_blocks() -> None:
    assert Rung(1000, 0.5).primed_tokens(128) == 384
    assert Rung(1000).primed_tokens(128) == 0


def test_lengths() -> None:
    assert parse_isls("1k, 24K,500") == [1024, 24_576, 500]
    assert [written(24_576), written(500)] == ["24k", "500"]
    for wrong in ("", "k", "-1k", "4", "1.5k", "1m", "²k"):
        with pytest.raises(ValueError, match="not a prompt length"):
            parse_isls(wrong)


def test_shares() -> None:
    assert parse_shares("0,0.5,0.9") == [0.0, 0.5, 0.9]
    for wrong in ("1", "-0.1", "half", "nan", ""):
        with pytest.raises(ValueError, match="not a share"):
            parse_shares(wrong)


def test_a_target_says_engine_and_gpus_in_its_name() -> None:
    target = parse_target("W4A8 vLLM TP2=http://h:8000/v1/")
    assert (target.config, target.told_engine, target.gpus, target.url) == ("W4A8", "vLLM", 2, "http://h:8000")
    assert parse_target("plain=http://h:8000").gpus is None
    assert parse_target("W4A8 vLLM TP4=").url == ""


def test_a_target_behind_a_gateway_is_pinned() -> None:
    assert parse_target("a=http://gw:8080#replica=fp4-0").headers == (("x-prefixgate-replica", "fp4-0"),)
    assert parse_target("a=http://gw:8080#pool=fp4").headers == (("x-prefixgate-pool", "fp4"),)


@pytest.mark.parametrize(
    "text",
    ["http://h:8000", "=http://h", "a=ftp://h", "a=h:8000", "a=http://", "a=http://h:0", "a=http://h:x", "a=http://h?x=1",
     "a=http://h#shard=1", "a=http://h#replica=", "a=http://h#replica", "a=http://user@h"],
)  # fmt: skip
def test_what_is_no_target_is_refused(text: str) -> None:
    with pytest.raises(TargetError):
        parse_target(text)


def test_names_are_apart_and_options_name_them() -> None:
    with pytest.raises(TargetError, match="two targets are called `a`"):
        require_apart(["a", "b", "a"])
    require_apart(["a", "b"])
    targets = [parse_target("a b=http://h:1")]
    assert with_told(targets, ["a b=2"], "--gpus") == {"a b": "2"}
    with pytest.raises(TargetError, match="--gpus `c=2`"):
        with_told(targets, ["c=2"], "--gpus")
