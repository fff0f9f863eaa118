"""Calibration: what a replica delivers of what is believed, learned from its reports alone."""

from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.calibration import Calibration, DeliveryCurve, Overlap

BLOCK = 128
TOKENS = st.integers(0, 20_000)
OVERLAPS = st.builds(Overlap, TOKENS, TOKENS, TOKENS)
HISTORIES = st.lists(st.tuples(OVERLAPS, st.integers(0, 60_000), st.sampled_from([1, 16, 64, 256])), max_size=60)


def learned(history: list[tuple[Overlap, int, int]]) -> Calibration:
    calibration = Calibration()
    for overlap, delivered, block in history:
        calibration.observe(overlap, delivered, block)
    return calibration


def blocks(rng: Random, most: int = 60) -> int:
    """Tokens in so many whole blocks."""
    return BLOCK * rng.randrange(1, most)


def expected(calibration: Calibration, *tokens: int) -> list[int]:
    return [calibration.expect(Overlap(confirmed=one)) for one in tokens]


# ── laws ─────────────────────────────────────────────────────────────────────────────────────────


@given(OVERLAPS)
def test_all_that_is_believed_is_expected_while_nothing_was_learned(overlap: Overlap) -> None:
    assert Calibration().expect(overlap) == overlap.total == sum(overlap)
    assert overlap.settled == overlap.confirmed + overlap.inferred


@given(HISTORIES, OVERLAPS)
def test_no_more_is_expected_than_is_believed(history: list[tuple[Overlap, int, int]], overlap: Overlap) -> None:
    assert 0 <= learned(history).expect(overlap) <= overlap.total


@given(HISTORIES, OVERLAPS, st.tuples(TOKENS, TOKENS, TOKENS))
def test_who_believes_more_expects_no_less(
    history: list[tuple[Overlap, int, int]], overlap: Overlap, more: tuple[int, int, int]
) -> None:
    calibration = learned(history)
    larger = Overlap(*(one + another for one, another in zip(overlap, more, strict=True)))
    assert calibration.expect(overlap) <= calibration.expect(larger)


@given(HISTORIES)
def test_the_corners_of_the_curves_rise(history: list[tuple[Overlap, int, int]]) -> None:
    calibration = learned(history)
    for curve in (calibration.confirmed, calibration.inferred, calibration.promised):
        for (x0, y0), (x1, y1) in pairwise(curve.points):
            assert x0 < x1
            assert y0 <= y1
        assert all(-1e-6 <= y <= x * (1 + 1e-9) for x, y in curve.points)


@given(st.lists(st.tuples(TOKENS, st.integers(0, 20_000)), max_size=40), st.integers(0, 60_000))
def test_a_curve_alone_rises_from_nothing(history: list[tuple[int, int]], tokens: int) -> None:
    curve = DeliveryCurve()
    for believed, delivered in history:
        curve.observe(believed, min(believed, delivered), 16)
    assert curve.expect(0) == 0
    assert curve.expect(tokens) <= curve.expect(tokens + 1) + 1e-6


# ── what is exact stays exact ────────────────────────────────────────────────────────────────────


def test_exact_beliefs_are_left_alone() -> None:
    rng, calibration = Random(1), Calibration()
    for _ in range(300):
        overlap = Overlap(blocks(rng), blocks(rng), blocks(rng))
        assert calibration.expect(overlap) in (overlap.total, overlap.total - overlap.total % calibration.quantum)
        calibration.observe(overlap, overlap.total, BLOCK)
    assert calibration.observations == 300
    for _ in range(100):
        overlap = Overlap(blocks(rng, 200), blocks(rng), blocks(rng))
        assert calibration.expect(overlap) == overlap.total


def test_a_failure_in_twenty_does_not_blur_what_is_exact_else() -> None:
    """An average would be wrong for all twenty."""
    rng, calibration = Random(1), Calibration()
    for n in range(400):
        tokens = blocks(rng)
        calibration.observe(Overlap(tokens), 0 if n % 20 == 0 else tokens, BLOCK)
    assert expected(calibration, 512, 1024, 5120, 7552) == [512, 1024, 5120, 7552]


def test_beliefs_that_are_rounded_count_as_exact() -> None:
    rng, calibration = Random(1), Calibration()
    for _ in range(300):
        tokens = rng.randrange(200, 8000)
        calibration.observe(Overlap(inferred=tokens), tokens - rng.randrange(64), 128)
    assert calibration.inferred.expect(1000) == pytest.approx(1000)


def test_what_comes_beyond_belief_is_no_loss() -> None:
    calibration = Calibration()
    for n in range(50):
        calibration.observe(Overlap(confirmed=1000 + n), 3000 + n, 16)
    assert calibration.confirmed.expect(1020) == pytest.approx(1020)


# ── engines that deliver less, in a way of their own ─────────────────────────────────────────────


def test_half_is_expected_of_an_engine_that_delivers_half() -> None:
    rng, calibration = Random(1), Calibration()
    for _ in range(300):
        tokens = rng.randrange(100, 8000)
        calibration.observe(Overlap(inferred=tokens), tokens // 2, 16)
    for tokens in (500, 1000, 3000, 7000):
        assert calibration.expect(Overlap(inferred=tokens)) == pytest.approx(tokens / 2, rel=0.1)


@pytest.mark.parametrize("block", [16, 64, 128, 256])
def test_an_engine_that_always_recomputes_the_last_block_is_learned(block: int) -> None:
    """As vLLM does where it drafts tokens (MTP, EAGLE)."""
    rng, calibration = Random(1), Calibration()
    for _ in range(150):
        tokens = block * rng.randrange(1, 60)
        calibration.observe(Overlap(tokens), tokens - block, block)
    assert calibration.shortfall == block
    for times in (1, 2, 3, 8, 31, 59, 80):
        assert calibration.expect(Overlap(block * times)) == block * (times - 1)
    for _ in range(150):  # drafting was switched off
        tokens = block * rng.randrange(1, 60)
        calibration.observe(Overlap(tokens), tokens, block)
    assert calibration.shortfall == 0
    assert expected(calibration, 8 * block, 59 * block) == [8 * block, 59 * block]


@pytest.mark.parametrize("quantum", [256, 1024, 4096])
def test_hits_in_large_multiples_are_learned_and_unlearned(quantum: int) -> None:
    rng, calibration = Random(1), Calibration()
    for _ in range(200):
        tokens = blocks(rng, 200)
        calibration.observe(Overlap(tokens), tokens - tokens % quantum, BLOCK)
    assert calibration.quantum == quantum
    for tokens in range(BLOCK, 30_000, BLOCK):
        assert calibration.expect(Overlap(tokens)) == tokens - tokens % quantum
    for _ in range(200):
        tokens = blocks(rng, 200)
        calibration.observe(Overlap(tokens), tokens, BLOCK)
    assert calibration.quantum == BLOCK
    assert calibration.minimum == 0, "what missed long ago may hit by now"
    assert expected(calibration, 5 * BLOCK, 99 * BLOCK) == [5 * BLOCK, 99 * BLOCK]


def test_a_few_hits_alike_are_no_quantum() -> None:
    calibration = Calibration()
    for _ in range(50):
        calibration.observe(Overlap(confirmed=8192), 8192, 16)
    assert calibration.quantum == 1
    assert calibration.expect(Overlap(confirmed=1000)) == 1000


def test_the_smallest_hit_is_learned_from_three_misses_and_forgotten_with_a_smaller_hit() -> None:
    calibration = Calibration()
    for n in range(10):
        calibration.observe(Overlap(confirmed=2000 + n), 2000 + n, 16)
    for miss in range(3):
        assert calibration.minimum == 0
        calibration.observe(Overlap(confirmed=900 + miss), 0, 16)
    assert calibration.minimum == 2000
    assert expected(calibration, 1999, 2005) == [0, 2005]
    calibration.observe(Overlap(confirmed=900), 900, 16)
    assert calibration.minimum == 0


# ── whose loss it was ────────────────────────────────────────────────────────────────────────────


def test_losses_are_laid_to_the_last_part_that_should_have_followed() -> None:
    rng, calibration = Random(1), Calibration()
    for _ in range(200):
        overlap = Overlap(blocks(rng), blocks(rng) + 4 * BLOCK, blocks(rng))
        calibration.observe(overlap, overlap.confirmed + overlap.inferred // 2, BLOCK)
    assert calibration.confirmed.expect(5000) == pytest.approx(5000)
    assert calibration.inferred.expect(5000) == pytest.approx(2500, rel=0.1)
    assert calibration.promised.points == (), "of the promised part nothing could be seen"


def test_each_way_of_knowing_is_believed_by_itself() -> None:
    rng, calibration = Random(1), Calibration()
    for _ in range(200):
        tokens = blocks(rng) + BLOCK
        calibration.observe(Overlap(confirmed=tokens), tokens, BLOCK)
        calibration.observe(Overlap(inferred=tokens), tokens // 2, BLOCK)
        calibration.observe(Overlap(promised=tokens), 0, BLOCK)
    assert calibration.confirmed.expect(3000) == pytest.approx(3000)
    assert calibration.inferred.expect(3000) == pytest.approx(1500, rel=0.1)
    assert calibration.promised.expect(3000) == pytest.approx(0, abs=150)
    assert calibration.expect(Overlap(3072, 3072, 3072)) == pytest.approx(4608, rel=0.05)


# ── and back ─────────────────────────────────────────────────────────────────────────────────────


def test_an_engine_that_delivered_nothing_is_believed_again_when_it_delivers() -> None:
    rng, calibration = Random(1), Calibration()
    for _ in range(100):
        calibration.observe(Overlap(blocks(rng)), 0, BLOCK)
    assert calibration.expect(Overlap(4096)) < 400
    for _ in range(300):
        tokens = blocks(rng)
        calibration.observe(Overlap(tokens), tokens, BLOCK)
    assert expected(calibration, 4096, 7552) == [4096, 7552]
    assert expected(calibration, 512) >= [256], "of such small ones there were few"
