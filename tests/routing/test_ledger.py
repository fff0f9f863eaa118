"""The ledger: a replica's own events become links of our chains, whatever its blocks are called."""

from array import array
from collections.abc import Callable, Iterable, Sequence

import pytest

from engines.cache_events import BlockKey, BlocksCleared, BlocksRemoved, BlocksStored
from gateway.routing.chain import token_chain, token_form
from gateway.routing.index import PrefixIndex
from gateway.routing.ledger import BlockLedger

PAGE = 16


def packed(ids: Iterable[int]) -> bytes:
    return array("I", ids).tobytes()


PROMPT = packed(range(1000, 1000 + 8 * PAGE))
"""Eight pages of tokens, all different."""
KEYS = tuple(b"key %d" % n for n in range(8))


class Followed:
    """One replica's ledger and the index that it fills."""

    def __init__(self, adopt: Callable[[bytes], int | None] = lambda _: None, max_blocks: int = 1000) -> None:
        self.index = PrefixIndex()
        self.index.add_replica(100)
        self.ledger = BlockLedger(
            lambda links: self.index.state(0, links),
            lambda links: self.index.retract(0, links),
            lambda link: self.index.is_stated(0, link),
            adopt,
            max_blocks,
        )

    def stored(
        self,
        start: int,
        end: int,
        rank: int = 0,
        *,
        parent: BlockKey | None = None,
        page: int = PAGE,
        keys: Sequence[BlockKey] = KEYS,
        **more: object,
    ) -> None:
        """Pages `start` to `end` of the prompt."""
        if parent is None and start:
            parent = keys[start - 1]
        tokens = PROMPT[4 * page * start : 4 * page * end]
        event = BlocksStored(tuple(keys[start:end]), parent, tokens, page, **more)  # type: ignore[arg-type]
        self.ledger.read(rank, event)

    def removed(self, start: int, end: int, rank: int = 0, **more: object) -> None:
        self.ledger.read(rank, BlocksRemoved(KEYS[start:end], **more))  # type: ignore[arg-type]

    def cached(self, *, page: int = PAGE, adapter: str | None = None, salt: str | None = None) -> int:
        """Leading blocks of the prompt that are stated."""
        links = token_chain(token_form("x", page), PROMPT, adapter=adapter, salt=salt)
        return self.index.depths(links)[0].confirmed


@pytest.fixture
def followed() -> Followed:
    return Followed()


# ── where blocks stand ───────────────────────────────────────────────────────────────────────────


def test_blocks_are_followed_from_the_beginning_and_from_their_parents(followed: Followed) -> None:
    followed.stored(0, 3)
    assert followed.cached() == 3
    followed.stored(3, 4)
    followed.stored(4, 8)
    assert followed.cached() == 8
    assert followed.index.stated_blocks(0) == 8
    assert followed.ledger.orphans == 0


@pytest.mark.parametrize("keys", [KEYS, tuple(range(-4, 4)), tuple(range(2**64 - 8, 2**64))])
def test_the_engines_hashes_are_only_names(keys: tuple[BlockKey, ...]) -> None:
    followed = Followed()
    followed.stored(0, 2, keys=keys)
    followed.stored(2, 5, keys=keys)
    assert followed.cached() == 5


def test_a_block_that_follows_nothing_known_is_an_orphan(followed: Followed) -> None:
    followed.stored(0, 2)
    followed.stored(3, 5, parent=b"a stranger")
    assert (followed.cached(), followed.ledger.orphans) == (2, 1)
    followed.removed(3, 5)
    assert followed.index.stated_blocks(0) == 2


def test_a_shorter_last_block_is_remembered_and_counts_for_nothing(followed: Followed) -> None:
    followed.ledger.read(0, BlocksStored(KEYS[:3], None, PROMPT[: 4 * (2 * PAGE + 5)], PAGE))
    assert followed.cached() == 2
    followed.removed(2, 3)
    assert followed.cached() == 2
    followed.removed(1, 2)
    assert followed.cached() == 1


@pytest.mark.parametrize("page", [1, 2, 3, 4, 8, 16])
def test_pages_smaller_than_our_blocks_make_up_whole_ones(page: int) -> None:
    """In any split: where an event ends within a block of ours, the next one goes on there."""
    size = token_form("x", page).block
    pages = len(PROMPT) // 4 // page
    keys = tuple(range(pages))
    for cut in range(pages + 1):
        followed = Followed()
        followed.stored(0, cut, page=page, keys=keys)
        assert followed.cached(page=page) == cut * page // size
        followed.stored(cut, pages, page=page, keys=keys)
        assert followed.cached(page=page) == pages * page // size


def test_a_block_of_ours_is_gone_when_its_last_page_is() -> None:
    followed = Followed()
    keys = tuple(range(64))
    followed.stored(0, 40, page=1, keys=keys)
    assert followed.cached(page=1) == 2
    followed.ledger.read(0, BlocksRemoved(tuple(range(32, 40))))
    assert followed.cached(page=1) == 2
    followed.ledger.read(0, BlocksRemoved((31,)))
    assert followed.cached(page=1) == 1


def test_events_in_smaller_blocks_than_the_engine_reports_fill_blocks_of_its_size(followed: Followed) -> None:
    """A hybrid model's engine may hit in larger units than the group that is followed stores in."""
    followed.ledger.resize(4 * PAGE)
    followed.stored(0, 7)
    assert followed.cached(page=4 * PAGE) == 1
    followed.stored(7, 8)
    assert followed.cached(page=4 * PAGE) == 2


def test_blocks_of_a_size_that_does_not_fit_are_ignored(followed: Followed) -> None:
    followed.stored(0, 2)
    followed.stored(0, 2, page=2 * PAGE)
    followed.stored(0, 1, page=5)
    assert (followed.cached(), followed.index.stated_blocks(0)) == (2, 2)


def test_another_block_size_forgets_what_was_followed_in_the_old_one(followed: Followed) -> None:
    followed.stored(0, 8)
    followed.ledger.resize(PAGE)
    assert followed.cached() == 8
    followed.ledger.resize(2 * PAGE)
    assert (followed.cached(), followed.index.blocks(0), followed.ledger.blocks) == (0, 0, 0)
    followed.stored(0, 4, page=2 * PAGE)
    assert followed.cached(page=2 * PAGE) == 4


# ── namespaces ───────────────────────────────────────────────────────────────────────────────────

SPACES = [(None, None), ("lora", None), (None, "pepper"), ("lora", "pepper"), ("pepper", "lora"), (None, "")]


@pytest.mark.parametrize(("adapter", "salt"), SPACES)
def test_a_prompt_hits_what_was_stored_with_its_adapter_and_salt(adapter: str | None, salt: str | None) -> None:
    followed = Followed()
    followed.stored(0, 3, adapter=adapter, salt=salt)
    followed.stored(3, 4, adapter=adapter)  # the salt is in the first block's hash only
    for other in SPACES:
        expected = 4 if (other[0], other[1] or None) == (adapter, salt or None) else 0
        assert followed.cached(adapter=other[0], salt=other[1]) == expected


def test_content_that_is_more_than_tokens_is_ignored(followed: Followed) -> None:
    followed.stored(0, 3, opaque=True)
    followed.stored(3, 5)
    assert (followed.cached(), followed.index.blocks(0), followed.ledger.orphans) == (0, 0, 1)


# ── copies, tiers, ranks ─────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("media", [(None, None), ("GPU", "CPU")])
def test_a_block_is_held_until_its_last_copy_is_removed(followed: Followed, media: tuple[str | None, ...]) -> None:
    for medium in media:
        followed.stored(0, 3, medium=medium)
    assert followed.index.stated_blocks(0) == 3
    followed.removed(2, 3, medium=media[0])
    assert followed.cached() == 3
    followed.removed(0, 3, medium=media[1])
    assert followed.cached() == 2
    followed.removed(0, 2, medium=media[0])
    assert (followed.cached(), followed.index.blocks(0), followed.ledger.blocks) == (0, 0, 0)


def test_as_many_removals_are_wanted_as_there_were_copies(followed: Followed) -> None:
    for _ in range(4):
        followed.stored(0, 2)
    for _ in range(3):
        followed.removed(1, 2)
        assert followed.cached() == 2
    followed.removed(1, 2)
    assert followed.cached() == 1


@pytest.mark.parametrize("how", ["cleared", "lost"])
def test_copies_are_counted_anew_after_all_was_dropped(followed: Followed, how: str) -> None:
    for _ in range(3):
        followed.stored(0, 2)
    if how == "cleared":
        followed.ledger.read(0, BlocksCleared())
    else:
        followed.ledger.lose(0)
    followed.stored(0, 2)
    followed.removed(1, 2)
    assert followed.cached() == 1


def test_removing_what_is_not_held_changes_nothing(followed: Followed) -> None:
    followed.stored(0, 3)
    followed.removed(3, 8)
    followed.removed(2, 3)
    followed.removed(2, 3)
    assert (followed.cached(), followed.index.stated_blocks(0)) == (2, 2)


def test_a_block_is_there_while_one_rank_holds_it(followed: Followed) -> None:
    followed.stored(0, 4)
    followed.stored(0, 6, rank=1)
    followed.removed(0, 4)
    assert followed.cached() == 6
    followed.stored(0, 2)
    followed.removed(0, 6, rank=1)
    assert followed.cached() == 2
    followed.removed(0, 2)
    assert followed.index.blocks(0) == 0


def test_a_rank_that_clears_or_is_lost_leaves_the_others(followed: Followed) -> None:
    for rank in (0, 1, 2):
        followed.stored(0, 2 + rank, rank=rank)
    followed.ledger.read(2, BlocksCleared())
    assert followed.cached() == 3
    followed.ledger.lose(1)
    assert followed.cached() == 2
    followed.ledger.lose(7)
    assert followed.cached() == 2
    followed.ledger.lose_all()
    assert followed.index.blocks(0) == 0


def test_a_block_that_goes_by_two_names_is_held_until_both_are_removed(followed: Followed) -> None:
    """With drafted tokens an engine's name of a block covers the token after it, too."""
    followed.stored(0, 3)
    followed.ledger.read(0, BlocksStored((b"another",), KEYS[1], PROMPT[4 * 2 * PAGE : 4 * 3 * PAGE], PAGE))
    followed.removed(2, 3)
    assert followed.cached() == 3
    followed.ledger.read(0, BlocksRemoved((b"another",)))
    assert followed.cached() == 2


# ── attention groups ─────────────────────────────────────────────────────────────────────────────


def test_only_full_or_latent_attention_is_followed(followed: Followed) -> None:
    followed.stored(0, 6, group=0, kind="sliding_window")
    assert followed.index.blocks(0) == 0
    followed.stored(0, 4, group=1, kind="mla_attention")
    followed.stored(0, 6, group=2, kind="full_attention")
    assert followed.cached() == 4
    followed.removed(0, 4, group=2)
    followed.removed(0, 4, group=0)
    assert followed.cached() == 4
    followed.removed(2, 4, group=1)
    assert followed.cached() == 2


def test_the_lowest_group_of_the_right_kind_takes_over(followed: Followed) -> None:
    followed.stored(0, 6, group=2, kind="full_attention")
    assert followed.cached() == 6
    followed.stored(0, 4, group=1, kind="full_attention")
    assert (followed.cached(), followed.index.stated_blocks(0)) == (4, 4)
    followed.stored(6, 8, group=2, kind="full_attention")
    followed.removed(0, 6, group=2)
    assert followed.cached() == 4


def test_each_rank_follows_a_group_of_its_own(followed: Followed) -> None:
    followed.stored(0, 4, group=2, kind="full_attention")
    followed.stored(0, 6, group=1, kind="full_attention", rank=1)
    followed.removed(0, 2, group=2)
    followed.removed(3, 6, group=2, rank=1)
    assert followed.cached() == 6


def test_a_removal_without_a_group_counts(followed: Followed) -> None:
    followed.stored(0, 4, group=1, kind="full_attention")
    followed.removed(2, 4)
    assert followed.cached() == 2


# ── lost and found ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("how", ["cleared", "lost"])
def test_what_was_dropped_is_not_believed_but_may_be_followed(followed: Followed, how: str) -> None:
    """After a gap an engine goes on after blocks of which it says nothing again."""
    followed.stored(0, 3)
    if how == "cleared":
        followed.ledger.read(0, BlocksCleared())
    else:
        followed.ledger.lose(0)
    assert (followed.cached(), followed.index.blocks(0)) == (0, 0)
    followed.stored(3, 5)
    assert (followed.cached(), followed.index.stated_blocks(0), followed.ledger.orphans) == (0, 2, 0)
    followed.stored(0, 3)
    assert followed.cached() == 5
