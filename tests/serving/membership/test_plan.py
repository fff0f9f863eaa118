"""The plan: what each command makes of it, and what holds after any of them."""

from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config import build, changes
from gateway.serving.membership.member import API, DISCOVERY, FILE
from gateway.serving.membership.plan import (
    Add,
    Command,
    Configure,
    Drain,
    Plan,
    Remove,
    Resume,
    after,
    first_plan,
)
from gateway.serving.membership.refusal import PlanError

URLS = [f"http://r{number}" for number in range(6)]
POOLS = ("p", "q")


def config(pools: dict[str, list[str]], *, discovers: bool = False) -> object:
    more = {"discovery": {"dns": "engine:8000"}} if discovers else {}
    listed = [{"name": name, "engine": "vllm", "replicas": urls, **more} for name, urls in pools.items()]
    return build({"pools": listed})


@st.composite
def configs(draw: st.DrawFn) -> object:
    urls = draw(st.permutations(URLS))
    first = draw(st.integers(1, 3))
    pools = {"p": urls[:first], "q": urls[first : first + draw(st.integers(1, 2))]}
    kept = draw(st.sampled_from([("p",), ("q",), POOLS]))
    return config({name: pools[name] for name in kept}, discovers=draw(st.booleans()))


NAMES = st.sampled_from([f"{pool}-{number}" for pool in POOLS for number in range(4)] + ["named"])
COMMANDS = st.one_of(
    st.builds(
        Add,
        st.sampled_from([*POOLS, "none"]),
        st.sampled_from(URLS),
        st.none() | NAMES,
        st.sampled_from([API, DISCOVERY]),
    ),
    st.builds(Drain, NAMES),
    st.builds(Resume, NAMES),
    st.builds(Remove, NAMES, st.booleans()),
    st.builds(Configure, configs()),
)


def follow(plan: Plan, commands: list[Command]) -> Plan:
    for command in commands:
        with suppress(PlanError):
            plan = after(plan, command)
    return plan


@given(configs(), st.lists(COMMANDS, max_size=20))
def test_names_and_urls_are_unique_and_pools_are_there(start: object, commands: list[Command]) -> None:
    plan = first_plan(start)  # type: ignore[arg-type]
    for command in commands:
        plan = follow(plan, [command])
        pools = {pool.name for pool in plan.config.pools}
        assert len({one.name for one in plan.members}) == len(plan.members)
        assert len({one.url for one in plan.members}) == len(plan.members)
        assert {one.pool for one in plan.members} <= pools
        assert {spec.name for spec in plan.specs()} == pools
        assert sum(len(spec.replicas) for spec in plan.specs()) == len(plan.members)
        if isinstance(command, Configure):
            listed = {(pool.name, url) for pool in plan.config.pools for url in pool.replicas}
            assert {(one.pool, one.url) for one in plan.members if one.origin == FILE} == listed
            assert changes(plan.config, command.config).changed == ()


@given(configs(), st.lists(COMMANDS, max_size=12))
def test_a_file_that_is_read_twice_changes_nothing_more(start: object, commands: list[Command]) -> None:
    plan = follow(first_plan(start), commands)  # type: ignore[arg-type]
    read = after(plan, Configure(start))  # type: ignore[arg-type]
    assert after(read, Configure(start)) == read  # type: ignore[arg-type]


@given(configs(), st.lists(COMMANDS, max_size=12))
def test_what_goes_over_the_line_comes_to_the_same_plan(start: object, commands: list[Command]) -> None:
    """The parent and all workers follow copies of the commands."""
    decoder = msgspec.msgpack.Decoder(Command)
    copies = [decoder.decode(msgspec.msgpack.encode(command)) for command in commands]
    assert copies == commands
    assert follow(first_plan(start), copies) == follow(first_plan(start), commands)  # type: ignore[arg-type]


def test_drains_and_names_survive_a_reload_that_keeps_the_url() -> None:
    plan = first_plan(config({"p": URLS[:3]}))  # type: ignore[arg-type]
    plan = follow(plan, [Drain("p-2"), Configure(config({"p": [URLS[2], URLS[4]]}))])  # type: ignore[arg-type]
    assert [(one.name, one.url, one.draining) for one in plan.members] == [
        ("p-2", URLS[2], True),
        ("p-0", URLS[4], False),
    ]


def test_what_was_discovered_goes_with_its_discovery() -> None:
    plan = first_plan(config({"p": URLS[:1]}, discovers=True))  # type: ignore[arg-type]
    plan = follow(plan, [Add("p", URLS[1], origin=DISCOVERY), Add("p", URLS[2], origin=API)])
    plan = after(plan, Configure(config({"p": URLS[:1]})))  # type: ignore[arg-type]
    assert [one.url for one in plan.members] == [URLS[0], URLS[2]]


def test_what_cannot_be_is_refused_with_a_status() -> None:
    plan = first_plan(config({"p": URLS[:1]}))  # type: ignore[arg-type]
    for command, status in (
        (Add("none", URLS[1]), 404),
        (Add("p", URLS[0] + "/"), 409),
        (Add("p", URLS[1], "p-0"), 409),
        (Add("p", "nowhere"), 400),
        (Add("p", URLS[1], "no name"), 400),
        (Drain("nobody"), 404),
        (Resume("nobody"), 404),
    ):
        with pytest.raises(PlanError) as caught:
            after(plan, command)
        assert caught.value.status == status
    assert after(plan, Remove("nobody")) == plan
