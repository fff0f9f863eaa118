"""Waterfalls: sums that add up, also over what was forgotten key by key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.waterfall import Waterfall, Waterfalls

TOKENS = st.integers(0, 10_000)
REQUESTS = st.lists(st.tuples(TOKENS, TOKENS, TOKENS, TOKENS), max_size=30)
KEYED = st.lists(st.tuples(st.sampled_from("abcdefgh"), TOKENS, TOKENS, TOKENS, TOKENS), max_size=60)


@given(REQUESTS)
def test_each_step_leads_to_the_next(requests: list[tuple[int, int, int, int]]) -> None:
    fall = Waterfall()
    for prompt, available, routed, delivered in requests:
        fall.add(prompt, max(available, routed), routed, delivered)
    assert fall.requests == len(requests)
    assert fall.available - fall.routing_loss == fall.routed
    assert fall.routed - fall.index_loss + fall.index_gain == fall.delivered
    assert min(fall.routing_loss, fall.index_loss, fall.index_gain) >= 0
    assert fall.prompt_tokens == sum(request[0] for request in requests)


def test_losses_and_gains_of_different_requests_do_not_cancel() -> None:
    fall = Waterfall()
    fall.add(10_000, 9000, 8000, 3000)
    fall.add(10_000, 8000, 8000, 9000)
    assert (fall.routing_loss, fall.index_loss, fall.index_gain) == (1000, 5000, 1000)


def test_the_hit_rate_is_a_ratio_of_sums() -> None:
    """A mean of ratios would be 0.5."""
    fall = Waterfall()
    assert fall.hit_rate is None
    fall.add(9000, 0, 0, 0)
    fall.add(1000, 1000, 1000, 1000)
    assert fall.hit_rate == pytest.approx(0.1)


@given(KEYED, st.integers(1, 5), st.integers(0, 9))
def test_what_is_forgotten_goes_on_counting(
    requests: list[tuple[str, int, int, int, int]], limit: int, shown: int
) -> None:
    falls: Waterfalls[str] = Waterfalls(limit)
    total = Waterfall()
    for key, *tokens in requests:
        falls.of(key).add(*tokens)
        total.add(*tokens)
    largest, rest = falls.largest(shown), falls.rest(shown)
    assert len(largest) <= min(limit, shown)
    for name in Waterfall.__slots__:
        assert sum(getattr(fall, name) for fall in (*(fall for _, fall in largest), rest)) == getattr(total, name)


@given(KEYED)
def test_the_largest_come_first(requests: list[tuple[str, int, int, int, int]]) -> None:
    falls: Waterfalls[str] = Waterfalls(100)
    for key, *tokens in requests:
        falls.of(key).add(*tokens)
    sizes = [fall.prompt_tokens for _, fall in falls.largest(100)]
    assert sizes == sorted(sizes, reverse=True)
    assert len(sizes) == len({key for key, *_ in requests})
    assert falls.largest(2) == falls.largest(100)[:2]


def test_the_longest_unused_key_is_forgotten() -> None:
    falls: Waterfalls[str] = Waterfalls(2)
    falls.of("ann").add(1, 0, 0, 0)
    falls.of("bob").add(2, 0, 0, 0)
    falls.of("ann").add(4, 0, 0, 0)
    falls.of("cem").add(8, 0, 0, 0)
    assert [key for key, _ in falls.largest(9)] == ["cem", "ann"]
    assert falls.rest(0).prompt_tokens == 15
    assert falls.rest(9).prompt_tokens == falls.others.prompt_tokens == 2
