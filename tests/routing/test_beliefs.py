"""From depths in links to tokens, and the memory of disappointments."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.routing.beliefs import Beliefs, CacheView, overlap_of
from gateway.routing.chain import PrefixChain
from gateway.routing.index import Depths

DEPTHS = st.tuples(*[st.integers(0, 300)] * 3).map(lambda three: Depths(*sorted(three)))


@given(DEPTHS, st.floats(1, 300), st.none() | st.sampled_from([1, 16, 128, 256]), st.integers(1, 30_000))
def test_an_overlap_is_of_whole_engine_blocks_and_never_of_the_last_token(
    depths: Depths, link_tokens: float, engine_block: int | None, prompt_tokens: int
) -> None:
    overlap = overlap_of(depths, link_tokens, engine_block, prompt_tokens)
    assert min(overlap) >= 0
    assert 0 <= overlap.total < prompt_tokens
    ends = (overlap.confirmed, overlap.settled, overlap.total)
    for end, depth in zip(ends, depths, strict=True):
        assert end <= depth * link_tokens
        assert end % (engine_block or 1) == 0
        assert end + (engine_block or 1) > min(depth * link_tokens - 1, prompt_tokens - 1)


@pytest.mark.parametrize(
    ("depths", "overlap"),
    [
        (Depths(0, 0, 0), (0, 0, 0)),
        (Depths(1, 2, 4), (128, 128, 256)),
        (Depths(4, 4, 4), (512, 0, 0)),
        (Depths(0, 7, 9), (0, 896, 0)),
    ],
)
def test_each_part_follows_the_one_before(depths: Depths, overlap: tuple[int, int, int]) -> None:
    assert overlap_of(depths, 128, 128, 1000) == overlap


@pytest.fixture
def view() -> CacheView:
    return Beliefs().add_replica(100, lambda: ())


def struck(view: CacheView, link: int) -> bool:
    """Whether a chain is believed in only up to this block."""
    return not view.believable(PrefixChain((link,))).hashes


def test_a_block_is_disbelieved_when_it_disappoints_for_the_second_time(view: CacheView) -> None:
    for link in (7, 8):
        view.strike(link)
        assert not struck(view, link)
    view.strike(7)
    assert struck(view, 7)
    assert view.believable(PrefixChain((1, 2, 7, 3))).hashes == (1, 2)
    assert view.believable(PrefixChain((1, 2, 8, 3))).hashes == (1, 2, 8, 3)
    view.absolve([7, 9])
    assert not struck(view, 7)


def test_the_memory_of_disappointments_is_bounded(view: CacheView) -> None:
    for link in range(10_000):
        view.strike(link)
        view.strike(link)
    assert struck(view, 9_999)
    assert not struck(view, 1), "so long ago that it is forgotten"
    assert len(view._strikes) <= 4096


def test_a_new_process_starts_without_disappointments(view: CacheView) -> None:
    view.strike(7)
    view.strike(7)
    view.restart()
    assert not struck(view, 7)
