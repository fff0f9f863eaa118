"""How many requests an engine takes: what it says, what it showed, and what it refused."""

from math import inf

import pytest

from engines.reports import LoadReport
from gateway.routing.capacity import EngineCapacity

WAITING = LoadReport(waiting_requests=4, kv_usage=0.5)
CALM = LoadReport(waiting_requests=0, kv_usage=0.5)
SHORT = LoadReport(waiting_requests=4, kv_usage=0.97)


def test_nothing_is_known_at_first() -> None:
    capacity = EngineCapacity()
    assert not capacity.is_full(10_000, 0.0)
    capacity.reported(LoadReport(), 500, stuck=True)
    capacity.reported(WAITING, 500, stuck=False)
    assert capacity.limit == inf, "those who wait may wait for their prefill"


def test_its_own_word() -> None:
    capacity = EngineCapacity()
    capacity.states(8)
    assert [capacity.is_full(inflight, 0.0) for inflight in (7, 8, 9)] == [False, True, True]
    for _ in range(50):
        capacity.reported(CALM, 8, stuck=False)
    assert capacity.limit == 8


def test_who_waits_for_room_shows_what_it_carries() -> None:
    capacity = EngineCapacity()
    capacity.reported(SHORT, 20, stuck=False)
    assert capacity.limit == 16
    assert capacity.is_full(16, 0.0)
    assert not capacity.is_full(15, 0.0)


def test_a_late_prompt_is_a_sign_when_it_is_late_again() -> None:
    capacity = EngineCapacity()
    capacity.reported(WAITING, 20, stuck=True)
    capacity.reported(CALM, 20, stuck=True)
    capacity.reported(WAITING, 20, stuck=True)
    assert capacity.limit == inf
    capacity.reported(WAITING, 20, stuck=True)
    assert capacity.limit == 16


def test_preemptions() -> None:
    capacity = EngineCapacity()
    for total in (7, 7):
        capacity.reported(LoadReport(waiting_requests=0, preemptions_total=total), 30, stuck=False)
    assert capacity.limit == inf
    capacity.reported(LoadReport(waiting_requests=2, preemptions_total=8), 30, stuck=False)
    assert capacity.limit == 28


def test_it_grows_again_while_it_binds_and_nobody_waits() -> None:
    capacity = EngineCapacity()
    capacity.reported(SHORT, 14, stuck=False)
    capacity.reported(CALM, 5, stuck=False)
    assert capacity.limit == 10, "it did not bind"
    for inflight in (10, 11, 13):
        capacity.reported(CALM, inflight, stuck=False)
    assert capacity.limit == pytest.approx(13.3, abs=0.5)


def test_with_none_of_ours_there_is_room() -> None:
    """Others may fill it for ever."""
    capacity = EngineCapacity()
    capacity.reported(LoadReport(waiting_requests=99, kv_usage=1.0), 0, stuck=False)
    assert not capacity.is_full(0, 0.0)
    assert not capacity.is_full(1, 0.0)


def test_a_refusal_is_a_measurement() -> None:
    capacity = EngineCapacity()
    capacity.refused(7, 10.0)
    assert capacity.limit == 6
    assert not capacity.is_full(5, 10.0), "one of the six has ended"


def test_who_refuses_the_only_one_is_closed_for_longer_and_longer() -> None:
    capacity = EngineCapacity()
    now, pauses = 10.0, []
    for _ in range(6):
        capacity.refused(1, now)
        assert capacity.is_full(0, now)
        pauses.append(capacity.closed_until - now)
        now = capacity.closed_until
        assert not capacity.is_full(0, now)
    assert pauses == [0.5, 1, 2, 4, 8, 8]


def test_the_wait_for_room() -> None:
    capacity = EngineCapacity()
    capacity.states(4)
    assert capacity.wait_ms(3, 8000, 0.0) == 0
    assert capacity.wait_ms(4, 8000, 0.0) == 2000
    capacity.refused(1, 0.0)
    assert capacity.wait_ms(0, 8000, 0.0) == 500


def test_a_new_process_is_as_unknown_as_the_first() -> None:
    capacity = EngineCapacity()
    capacity.states(64)
    capacity.refused(1, 10.0)
    capacity.restarted()
    assert (capacity.limit, capacity.is_full(5, 10.0)) == (64, False)
