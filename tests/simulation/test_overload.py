"""Ten times what the engines can serve, in virtual time: they stay busy, waits are bounded, shares are fair."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import pytest
from overload import Client, Fate, Overload, hit_rate, quantile

from gateway.routing.decision import Priority, RejectionReason
from gateway.routing.queue_limits import UNLIMITED, QueueLimits
from gateway.simulation.fleet import SimulatedReplica, parse_fleet

FLEET = parse_fleet("vllm-w4a8:2")
DEADLINE_S = 5.0
LIMITS = QueueLimits(4000, 20_000_000, DEADLINE_S, 60.0)
BATCH = Priority.BATCH
SPAN = (10.0, 60.0)


@cache
def capacity() -> tuple[float, float]:
    """What the fleet does of the usual requests with nothing refused: tokens and requests per second."""
    return capacity_of(Overload(FLEET, [Client("a", 40, until=30)]).run(), (10, 28))


def capacity_of(run: Overload, span: tuple[float, float]) -> tuple[float, float]:
    return run.goodput(*span), sum(span[0] <= one.first_at < span[1] for one in run.served()) / (span[1] - span[0])


def times(factor: float) -> float:
    """So many times the requests that can be served."""
    return factor * capacity()[1]


@cache
def equals() -> Overload:
    """Two tenants who are equal, though one asks for more: both for more than there is."""
    return Overload(FLEET, [Client("a", times(7)), Client("b", times(3))], LIMITS).run()


def share(run: Overload, tenant: str | None = None, priority: Priority | None = None) -> float:
    return run.goodput(*SPAN, tenant, priority) / run.goodput(*SPAN)


def p99_ttft(fates: Sequence[Fate]) -> float:
    return quantile((one.ttft_s for one in fates), 0.99)


def all_answered(run: Overload) -> None:
    """Each was served or refused, never both, and nothing is left."""
    for one in run.fates:
        assert (one.done_at is None) != (one.refused_at is None), one
    assert run.router.holds == 0
    assert [view.inflight for view in run.router.snapshot(run.clock.now).replicas] == [0] * len(run.fleet)


def test_the_engines_stay_busy_and_nobody_waits_too_long() -> None:
    run = equals()
    all_answered(run)
    assert run.goodput(*SPAN) >= 0.9 * capacity()[0]
    assert p99_ttft(run.served()) <= DEADLINE_S
    assert len(run.fates) > 9 * len(run.served())
    late = [one for one in run.refused() if one.refused_at - one.accepted_at > 0.01]  # type: ignore[operator]
    assert len(late) < 0.1 * len(run.served()), "nearly all who are refused are told at once"
    assert all(one.refused_at - one.accepted_at <= DEADLINE_S for one in late)  # type: ignore[operator]


def test_equal_tenants_are_served_alike() -> None:
    assert share(equals(), "a") == pytest.approx(0.5, abs=0.05)


def test_equal_in_tokens_not_in_requests() -> None:
    run = Overload(FLEET, [Client("a", times(5)), Client("b", times(5), own=6000, output=100)], LIMITS).run()
    assert share(run, "a") == pytest.approx(0.5, abs=0.05)
    assert len(run.served("a")) > 2 * len(run.served("b"))


def test_weights() -> None:
    run = Overload(FLEET, [Client("a", times(4)), Client("b", times(6))], replace(LIMITS, weights={"a": 2.0})).run()
    assert share(run, "a") / share(run, "b") == pytest.approx(2.0, rel=0.1)


def test_a_flood_does_not_delay_another_tenant() -> None:
    """The other one asks for a tenth of what there is, which is less than its share."""
    run = Overload(FLEET, [Client("flood", times(10)), Client("other", times(0.1))], LIMITS).run()
    assert run.refused("other") == []
    assert p99_ttft(run.served("other")) < DEADLINE_S / 2
    alone = Overload(FLEET, [Client("other", times(0.1))], LIMITS).run()
    hold_s = run.hold_ms / 1000
    assert p99_ttft(run.served("other")) < p99_ttft(alone.served()) + 2 * hold_s


def test_interactive_comes_first_and_batch_does_not_starve() -> None:
    clients = [Client("a", times(5)), Client("a", times(5), BATCH), Client("b", times(5), BATCH)]
    run = Overload(FLEET, clients, LIMITS).run()
    assert run.goodput(*SPAN) >= 0.9 * capacity()[0]
    assert share(run, priority=BATCH) == pytest.approx(LIMITS.batch_share, abs=0.03)
    assert share(run, "b", BATCH) == pytest.approx(LIMITS.batch_share / 2, abs=0.02)
    assert p99_ttft(run.served(priority=Priority.INTERACTIVE)) <= DEADLINE_S
    assert p99_ttft(run.served(priority=BATCH)) <= LIMITS.batch_deadline_s


def test_batch_takes_what_interactive_leaves() -> None:
    run = Overload(FLEET, [Client("a", times(0.3)), Client("a", times(5), BATCH)], LIMITS).run()
    assert run.goodput(*SPAN) >= 0.9 * capacity()[0]
    assert run.refused(priority=Priority.INTERACTIVE) == []
    assert share(run, priority=BATCH) > 0.5


def test_all_is_as_before_within_a_deadline_of_the_end() -> None:
    run = Overload(FLEET, [Client("a", times(10), until=30), Client("b", times(0.5), until=60)], LIMITS).run()
    after = [one for one in run.fates if one.accepted_at > 30 + DEADLINE_S]
    assert [one for one in after if one.refused_at is not None] == []
    usual = Overload(FLEET, [Client("b", times(0.5))], LIMITS).run()
    settled = [one for one in after if one.accepted_at > 30 + 2 * DEADLINE_S]
    assert p99_ttft(settled) < p99_ttft(usual.served()) + 0.6


def test_prefixes_are_hit_as_often_as_without_a_queue() -> None:
    clients = [Client("a", times(5), until=15), Client("b", times(5), until=15)]
    unqueued = Overload(FLEET, clients, UNLIMITED, hold_ms=0.0).run()
    assert hit_rate(equals().served()) >= hit_rate(unqueued.served()) - 0.01


def test_who_comes_back_when_told_is_let_in() -> None:
    """A burst of forty seconds of work: each has a time of its own to come back at."""
    run = Overload(FLEET, [Client("a", times(10), until=4)], LIMITS, returns=9).run()
    assert len(run.served()) == len(run.fates), "all are served in the end"
    told = [one for one in run.fates if one.tries > 1]
    assert len(told) > 0.7 * len(run.fates)
    assert sum(one.tries == 2 for one in told) > 0.8 * len(told)
    assert max(one.done_at or 0 for one in run.fates) < 1.3 * len(run.fates) / capacity()[1]


def test_a_full_queue_lets_go_of_batch_first() -> None:
    limits = QueueLimits(20, 20_000_000, 60.0, 600.0)
    clients = [Client("a", times(2), until=20), Client("b", times(2), BATCH, until=20)]
    run = Overload(FLEET, clients, limits).run()
    assert run.most_waiting <= 20 + 1
    assert {one.reason for one in run.refused()} == {RejectionReason.QUEUE_FULL}
    assert len(run.refused(priority=BATCH)) > len(run.refused(priority=Priority.INTERACTIVE))
    assert len(run.served(priority=BATCH)) < len(run.served(priority=Priority.INTERACTIVE))


# ── engines that are full of answers ─────────────────────────────────────────────────────────────


def answers(tenant: str, per_s: float, until: float = 60.0) -> Client:
    return Client(tenant, per_s, until=until, own=512, shared=512, output=400)


def narrow(most: int) -> tuple[SimulatedReplica, ...]:
    """Engines that run so many requests at a time, and do not say so."""
    return tuple(replace(one, limits=replace(one.limits, max_running=most)) for one in FLEET)


@cache
def decoded() -> tuple[Overload, float]:
    fleet = narrow(8)
    tokens, requests = capacity_of(Overload(fleet, [answers("a", 20, 40)], hold_ms=0.0).run(), (10, 38))
    limits = replace(LIMITS, interactive_deadline_s=10.0)
    run = Overload(fleet, [answers("a", 5 * requests), answers("b", 5 * requests)], limits)
    return run.run(), tokens


def test_engines_that_are_full_of_answers_stay_busy() -> None:
    run, tokens = decoded()
    all_answered(run)
    assert run.goodput(*SPAN) >= 0.9 * tokens
    assert share(run, "a") == pytest.approx(0.5, abs=0.05)
    learned = [one for one in run.served() if one.accepted_at > 10]
    assert p99_ttft(learned) <= 10.0


def test_how_many_an_engine_runs_is_learned() -> None:
    run, _ = decoded()
    for replica in run.router._fleet.replicas:
        assert 6 <= replica.capacity.limit <= 12


def test_engines_that_refuse_lose_nobody() -> None:
    """They take three at a time, and refuse others: those go back into the queue."""

    def refuses(_: Fate, slot: int, run: Overload) -> bool:
        return run.in_engine(slot) >= 3

    tokens, requests = capacity_of(Overload(narrow(3), [Client("a", 40, until=30)], hold_ms=0.0).run(), (10, 28))
    clients = [Client("a", 5 * requests, until=40), Client("b", 5 * requests, until=40)]
    run = Overload(FLEET, clients, LIMITS, refuses=refuses).run()
    all_answered(run)
    assert run.goodput(10, 40) >= 0.9 * tokens
    assert {one.reason for one in run.refused()} == {RejectionReason.QUEUE_DEADLINE}
    assert run.goodput(10, 40, "a") / run.goodput(10, 40) == pytest.approx(0.5, abs=0.05)
