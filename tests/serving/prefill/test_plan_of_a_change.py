"""The plan's part in a change: one at a time, replicas taken and given back, the wish kept or not."""

from typing import Any

import msgspec
import pytest

from engines.reports import PrefillSettings
from gateway.config import Config, build
from gateway.serving.membership.changing import BeginChange, CancelChange, EndChange, GiveBack, TakeReplica
from gateway.serving.membership.plan import (
    Command,
    Configure,
    Drain,
    Plan,
    PlanError,
    Remove,
    Resume,
    after,
    first_plan,
)

SMALL, LARGE = PrefillSettings(chunk_tokens=8192), PrefillSettings(chunk_tokens=16_384)


def config(chunk: int = 8192) -> Config:
    pool: dict[str, Any] = {"engine": "sglang", "prefill": {"chunk_tokens": chunk, "min_up": 2}}
    return build(
        {"pools": [{"name": name, "replicas": [f"http://{name}{n}" for n in range(2)], **pool} for name in "pq"]}
    )


def follow(*commands: Command, plan: Plan | None = None) -> Plan:
    plan = plan or first_plan(config())
    for command in commands:
        plan = after(plan, command)
    return plan


def wish(plan: Plan, pool: str = "p") -> PrefillSettings:
    found = plan.pool(pool)
    assert found is not None
    assert found.prefill.min_up == 2  # how a pool is changed is no part of the wish
    return found.prefill.settings()


def draining(plan: Plan) -> list[str]:
    return [one.name for one in plan.members if one.draining]


BEGUN = BeginChange("c", "p", 1, LARGE)


def test_there_is_one_change_at_a_time() -> None:
    plan = follow(BEGUN)
    assert (wish(plan), wish(plan, "q")) == (LARGE, SMALL)
    with pytest.raises(PlanError, match="one at a time") as caught:
        after(plan, BeginChange("d", "q", 0, LARGE))
    assert caught.value.status == 409
    plan = follow(EndChange("c", kept=True), BeginChange("d", "q", 0, LARGE), plan=plan)
    assert (wish(plan), wish(plan, "q")) == (LARGE, LARGE)


def test_a_taken_replica_is_the_changes_until_it_is_given_back() -> None:
    plan = follow(BEGUN, TakeReplica("c", "p-0"))
    assert draining(plan) == ["p-0"]
    for command in (Drain("p-0"), Resume("p-0")):
        with pytest.raises(PlanError, match="cancel that first"):
            after(plan, command)
    assert draining(after(plan, GiveBack("c"))) == []


def test_one_that_an_operator_drained_stays_so() -> None:
    plan = follow(Drain("p-0"), BEGUN, TakeReplica("c", "p-0"), GiveBack("c"), EndChange("c", kept=True))
    assert draining(plan) == ["p-0"]


@pytest.mark.parametrize("kept", [True, False])
def test_the_end_gives_back_and_keeps_the_wish_or_not(kept: bool) -> None:
    plan = follow(BEGUN, TakeReplica("c", "p-1"), EndChange("c", kept=kept))
    assert (draining(plan), plan.change) == ([], None)
    assert wish(plan) == (LARGE if kept else SMALL)


def test_the_files_newer_word_stands_whatever_becomes_of_the_change() -> None:
    plan = follow(BEGUN, Configure(config(4096)), EndChange("c", kept=False))
    assert wish(plan).chunk_tokens == 4096


def test_a_taken_replica_may_be_removed() -> None:
    plan = follow(BEGUN, TakeReplica("c", "p-0"), Remove("p-0"), EndChange("c", kept=False))
    assert [one.name for one in plan.members] == ["p-1", "q-0", "q-1"]


@pytest.mark.parametrize("command", [TakeReplica("x", "p-0"), GiveBack("x"), CancelChange("x"), EndChange("x", True)])
def test_nothing_is_heard_of_a_change_that_does_not_run(command: Command) -> None:
    for plan in (first_plan(config()), follow(BEGUN)):
        with pytest.raises(PlanError, match="is over"):
            after(plan, command)


def test_a_change_goes_over_the_line() -> None:
    decoder = msgspec.msgpack.Decoder(Command)
    for command in (BEGUN, TakeReplica("c", "p-0"), GiveBack("c"), CancelChange("c"), EndChange("c", kept=False)):
        assert decoder.decode(msgspec.msgpack.encode(command)) == command
    assert follow(BEGUN, CancelChange("c")).change == msgspec.structs.replace(follow(BEGUN).change, cancelled=True)
