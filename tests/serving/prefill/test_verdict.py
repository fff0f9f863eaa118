"""Before and after: what counts as worse, and what is too little to say."""

from random import Random

import pytest

from gateway.prefill.verdict import ENOUGH, Figures, Timed, Window, compare


def predict_ms(tokens: float) -> float:
    return 20.0 + 0.07 * tokens


def traffic(slower: float, count: int, seed: int, spread: float = 0.05, longer: float = 1.0) -> tuple[Timed, ...]:
    """Prefills of all lengths that take `slower` times as predicted, long ones `longer` times as much."""
    rng = Random(seed)
    made = []
    for _ in range(count):
        tokens = rng.randint(100, 30_000)
        factor = slower * (longer if tokens > 8192 else 1.0) * rng.lognormvariate(0.0, spread)
        made.append(Timed(tokens, predict_ms(tokens) * factor, predict_ms(tokens)))
    return tuple(made)


@pytest.mark.parametrize("seed", range(5))
def test_what_is_twenty_per_cent_slower_is_worse_and_what_is_seven_faster_is_not(seed: int) -> None:
    before = Window(traffic(1.0, 60, seed))
    worse = compare("r", before, Window(traffic(1.2, 40, 100 + seed)), 8192, 0.1)
    assert worse.worse.startswith("prefill takes longer than the 10% that are tolerated: +")
    better = compare("r", before, Window(traffic(1.0, 60, 200 + seed, longer=0.93)), 8192, 0.1)
    assert better.worse == ""
    assert better.long is not None
    assert better.long.low < -0.07 < better.long.high
    assert better.long.share < -0.03


def test_long_prompts_alone_can_be_worse() -> None:
    before, after = traffic(1.0, 200, 1), traffic(1.0, 200, 2)
    mixed = tuple(one._replace(ms=one.ms * (1.3 if one.uncached_tokens > 20_000 else 1.0)) for one in after)
    assert "of more than 20,000 tokens" in compare("r", Window(before), Window(mixed), 20_000, 0.2).worse


def test_noise_is_no_reason() -> None:
    """One stall, or measurements that are all over the place."""
    before = Window(traffic(1.0, 40, 1))
    stalled = (*traffic(1.0, 30, 2), Timed(1000, 60_000.0, 90.0))
    assert compare("r", before, Window(stalled), 8192, 0.1).worse == ""
    assert compare("r", before, Window(traffic(1.15, ENOUGH, 3, spread=0.8)), 8192, 0.1).worse == ""


def test_too_little_traffic_says_nothing() -> None:
    before = Window(traffic(1.0, 40, 1), (), Figures(12.0, 600_000, 0.4, 0, 12_000.0))
    after = Window(traffic(3.0, ENOUGH - 1, 2), (), Figures(15.0, 534_464, 0.5, 0, None))
    said = compare("r", before, after, 8192, 0.1)
    assert (said.prefill, said.worse) == (None, "")
    assert said.sentence == (
        "too little traffic to compare prefill times; ITL 12.0 → 15.0 ms; KV cache 600,000 → 534,464 tokens; "
        "room for 50 → 45 requests of the usual size"
    )


@pytest.mark.parametrize("seed", range(5))
def test_what_others_go_through_too_is_none_of_its_doing(seed: int) -> None:
    """A machine that became slower for all is no reason; one replica that did is, whatever the others'."""
    before = Window(traffic(1.0, 60, seed), traffic(1.0, 120, 50 + seed))
    alike = Window(traffic(1.4, 40, 100 + seed), traffic(1.4, 80, 150 + seed))
    assert compare("r", before, alike, 8192, 0.1).worse == ""
    alone = Window(traffic(1.4, 40, 100 + seed), traffic(1.0, 80, 150 + seed))
    assert compare("r", before, alone, 8192, 0.1).worse


def test_other_lengths_than_before_are_no_difference() -> None:
    """Short prompts take longer than the curve says, and after the change there are many more of them."""

    def short(count: int, seed: int) -> tuple[Timed, ...]:
        return tuple(one._replace(uncached_tokens=200, ms=90.0, predicted_ms=34.0) for one in traffic(1.0, count, seed))

    before = Window((*traffic(1.0, 60, 1), *short(4, 2)))
    after = compare("r", before, Window((*traffic(1.0, 20, 3), *short(60, 4))), 8192, 0.1)
    assert after.prefill is not None
    assert abs(after.prefill.share) < 0.05
