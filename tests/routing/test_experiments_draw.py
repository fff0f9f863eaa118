"""The draw: by hashes alone, in proportion to the weights, and moving no more units than it must."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from gateway.routing.chain import ChainForm, PrefixChain, chain, token_chain
from gateway.routing.decision import RouteRequest
from gateway.routing.experiments.assignment import arm_of, chain_of, prompt_tokens, takes_part, unit_of
from gateway.routing.experiments.definition import Arm, Experiment

UNITS = range(4000)


def experiment(unit: str = "session", name: str = "e", **more: object) -> Experiment:
    arms = more.pop("arms", (Arm("a", 0.5), Arm("b", 0.5)))
    return Experiment(name, unit, arms, "a", **more)  # type: ignore[arg-type]


def asked(text: str = "x" * 600, session: str | None = None, **more: object) -> RouteRequest:
    given = {"request_id": "r", "chain": chain(b"m", text.encode()), **more}
    return RouteRequest(model="m", streams=True, accepted_at=0.0, session=session, **given)  # type: ignore[arg-type]


def units(of: Experiment) -> list[int]:
    return [unit_of(of, asked(session=f"s{number}"), PrefixChain()) for number in UNITS]


def arms(of: Experiment) -> list[str]:
    return [arm_of(of, unit).name for unit in units(of)]


@pytest.mark.parametrize("weights", [(1.0, 1.0), (0.9, 0.1), (1.0, 2.0, 3.0)])
def test_arms_get_their_share(weights: tuple[float, ...]) -> None:
    weighed = tuple(Arm(str(place), weight) for place, weight in enumerate(weights))
    seen = Counter(arms(experiment(arms=weighed)))
    expected = [weight / sum(weights) * len(UNITS) for weight in weights]
    assert chisquare([seen[arm.name] for arm in weighed], expected).pvalue > 0.001


def test_an_arm_without_weight_gets_nothing() -> None:
    assert set(arms(experiment(arms=(Arm("a", 0.0), Arm("b", 0.5))))) == {"b"}


def test_experiments_draw_apart_from_each_other() -> None:
    pairs = Counter(zip(arms(experiment(name="one")), arms(experiment(name="two")), strict=True))
    assert chisquare(list(pairs.values())).pvalue > 0.001


def test_more_weight_takes_units_and_gives_none_away() -> None:
    before = arms(experiment(arms=(Arm("a", 0.5), Arm("b", 0.5), Arm("c", 0.5))))
    after = arms(experiment(arms=(Arm("a", 0.5), Arm("b", 1.0), Arm("c", 0.5))))
    moved = Counter((old, new) for old, new in zip(before, after, strict=True) if old != new)
    assert set(moved) == {("a", "b"), ("c", "b")}
    assert sum(moved.values()) == pytest.approx(len(UNITS) / 6, rel=0.15)  # what has to move, and no more


@given(st.floats(0, 1), st.floats(0, 1), st.floats(0, 2000), st.floats(0, 2000))
def test_whoever_takes_part_goes_on_taking_part(less: float, more: float, early: float, late: float) -> None:
    less, more = sorted((less, more))
    early, late = sorted((early, late))
    ramping = experiment(traffic=more, ramp_s=1000.0)
    for unit in units(ramping)[:100]:
        assert takes_part(ramping, unit, early) <= takes_part(ramping, unit, late)
        assert takes_part(experiment(traffic=less), unit, 0.0) <= takes_part(experiment(traffic=more), unit, 0.0)


def test_a_ramp_grows_to_the_share_and_says_nothing_of_the_arm() -> None:
    ramping = experiment(traffic=0.5, ramp_s=100.0, began_at=10.0)
    drawn = units(ramping)
    shares = [sum(takes_part(ramping, unit, at) for unit in drawn) / len(drawn) for at in (9.0, 10.0, 60.0, 110.0, 1e9)]
    assert shares == pytest.approx([0.0, 0.0, 0.25, 0.5, 0.5], abs=0.02)
    within = Counter(arm_of(ramping, unit).name for unit in drawn if takes_part(ramping, unit, 1e9))
    assert chisquare(list(within.values())).pvalue > 0.001


def unit(kind: str, request: RouteRequest, **more: object) -> int:
    return unit_of(experiment(kind, **more), request, chain_of(request))


def test_a_conversation_is_one_family_and_a_shared_system_prompt_is_not() -> None:
    system = "You are kind. " * 400  # 5,600 bytes: 1,400 tokens
    first, other = system + "a" * 4000, system + "b" * 4000
    assert unit("prefix-family", asked(first)) == unit("prefix-family", asked(first + " and then" * 999))
    assert unit("prefix-family", asked(first)) != unit("prefix-family", asked(other))
    short = {"family_tokens": 1000}
    assert unit("prefix-family", asked(first), **short) == unit("prefix-family", asked(other), **short)


def test_families_are_of_tokens_where_there_is_no_text() -> None:
    form = ChainForm(256, "x")

    def request(tokens: bytes) -> RouteRequest:
        return asked(chain=PrefixChain(), token_chains=(token_chain(form, tokens),))

    begin = b"abcd" * 2048
    assert unit("prefix-family", request(begin)) == unit("prefix-family", request(begin + b"efgh" * 3000))
    assert unit("prefix-family", request(begin)) != unit("prefix-family", request(b"e" + begin[1:]))
    assert prompt_tokens(chain_of(request(begin))) == 2048


def test_who_has_no_unit_goes_by_the_next() -> None:
    tiny = asked("hi", session="s")
    assert unit("prefix-family", tiny) == unit("session", tiny) == unit("session", asked(session="s"))
    assert unit("session", asked()) == unit("prefix-family", asked())
    lone = asked("hi")
    assert unit("prefix-family", lone) == unit("session", lone) == unit("request", asked(session="s"))
    assert unit("tenant", asked(tenant="t")) == unit("tenant", asked("y" * 9000, session="s", tenant="t"))
    assert unit("request", asked(request_id="1")) != unit("request", asked(request_id="2"))
