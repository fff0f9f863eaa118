"""Advice that is followed by itself: only when it holds, within bounds, and not too often."""

from gateway.prefill.advice import Advice, Verdict
from gateway.prefill.controller import DAY_S, Bounds, Controller

BOUNDS = Bounds(4096, 16_384, hold_s=600.0, per_day=2)


def advice(to: int | None) -> Advice:
    return Advice("p", Verdict.KEEP if to is None else Verdict.RAISE, 8192, to, "")


def test_advice_must_hold() -> None:
    controller = Controller()
    assert controller.look(advice(16_384), BOUNDS, 0.0) is None
    assert controller.look(advice(16_384), BOUNDS, 599.0) is None
    assert controller.look(advice(16_384), BOUNDS, 600.0) == 16_384


def test_advice_that_changes_its_mind_begins_anew() -> None:
    controller = Controller()
    for now, to in ((0.0, 16_384), (300.0, None), (400.0, 16_384), (900.0, 4096), (1000.0, 16_384)):
        assert controller.look(advice(to), BOUNDS, now) is None
    assert controller.look(advice(16_384), BOUNDS, 1599.0) is None
    assert controller.look(advice(16_384), BOUNDS, 1600.0) == 16_384


def test_bounds_are_kept() -> None:
    controller = Controller()
    for to in (32_768, 2048):
        for now in (0.0, 10_000.0):
            assert controller.look(advice(to), BOUNDS, now) is None


def test_so_many_changes_a_day() -> None:
    controller = Controller()
    begun = []
    for minute in range(0, 3 * 24 * 60, 10):
        now = minute * 60.0
        to = controller.look(advice((16_384, 4096)[len(begun) % 2]), BOUNDS, now)
        if to is not None:
            controller.began(now)
            begun.append(now)
    assert len(begun) == 6
    assert all(third - first >= DAY_S for first, third in zip(begun, begun[2:], strict=False))


def test_what_was_taken_back_is_left_alone_for_a_day() -> None:
    controller = Controller()
    controller.look(advice(16_384), BOUNDS, 0.0)
    controller.began(600.0)
    controller.refused(16_384, 700.0)
    for now in (800.0, 2000.0, 700.0 + DAY_S - 1):
        assert controller.look(advice(16_384), BOUNDS, now) is None
    assert controller.look(advice(16_384), BOUNDS, 700.0 + DAY_S) is None  # it must hold again
    assert controller.look(advice(16_384), BOUNDS, 1300.0 + DAY_S) == 16_384
