"""The ledger of a replica's own cache events: its block hashes followed into our chains by their token ids; pure."""

from collections.abc import Callable, Iterable
from itertools import islice
from typing import Final

from engines.cache_events import BlockKey, BlocksCleared, BlocksRemoved, BlocksStored, CacheEvent
from gateway.routing.chain import TOKEN_BYTES, extend, root, token_form, token_namespace

MAX_BLOCKS: Final = 2_000_000
"""Blocks remembered of one data-parallel rank; beyond it the oldest are forgotten."""

LEDGER_ENTRY_BYTES: Final = 155
"""Memory of one stated block: its engine's hash, our link, its place in two maps (`make bench-index`)."""

_MAIN_KINDS: Final = frozenset({"full_attention", "mla_attention", "sink_full_attention"})
_FORGET_SHARE: Final = 64

Node = int | tuple[int, bytes]
"""Where an engine's block ends in our chain: at a link, or at a link and some tokens into the next block."""

Adopter = Callable[[bytes], int | None]
"""The link after which a prompt in flight continues with these tokens; None where none or several do."""


class _Rank:
    """One data-parallel rank. `nodes` are the blocks it holds; `known` those whose whereabouts are uncertain,
    kept because new blocks may follow them.
    """

    def __init__(self) -> None:
        self.group: int | None = None
        self.nodes: dict[BlockKey, Node] = {}
        self.known: dict[BlockKey, Node] = {}
        self.copies: dict[BlockKey, int] = {}

    def drop_all(self) -> list[int]:
        """Hold nothing; the links that ended at what was held."""
        links = [node for node in self.nodes.values() if isinstance(node, int)]
        if self.nodes:
            self.known, self.nodes, self.copies = self.nodes, {}, {}
        return links


class BlockLedger:
    """Turns one replica's events into links that it now holds (`state`) or no longer holds (`retract`).

    Engines hash with seeds and salts of their own, so their hashes are only names: each stored block's tokens are
    hashed into our own chain, after the link at which its parent ends. Of a hybrid model's attention groups only
    the main one is followed (the lowest `group` of full or latent attention): the others drop blocks as their
    windows slide. An engine may hold several copies of a block (vLLM), or one in several tiers: it is held until
    the last one is removed.
    """

    def __init__(
        self,
        state: Callable[[Iterable[int]], None],
        retract: Callable[[list[int]], None],
        stated: Callable[[int], bool],
        adopt: Adopter,
        max_blocks: int = MAX_BLOCKS,
    ) -> None:
        self.block_tokens: int | None = None
        """The engine's block size: what it reports, or that of the first event."""
        self.orphans = 0
        """Stored events that could not be placed: nobody knows what they follow."""
        self._state = state
        self._retract = retract
        self._stated = stated
        self._adopt = adopt
        self._max_blocks = max_blocks
        self._ranks: dict[int, _Rank] = {}
        self._shared: dict[int, int] = {}  # links that are held under several names or by several ranks: how many

    @property
    def blocks(self) -> int:
        """Engine blocks that are remembered, held or not."""
        return sum(len(rank.nodes) + len(rank.known) for rank in self._ranks.values())

    def read(self, number: int, event: CacheEvent) -> None:
        """Take one event of a rank."""
        rank = self._rank(number)
        match event:
            case BlocksStored():
                self._stored(rank, event)
            case BlocksRemoved():
                if event.group is None or event.group == rank.group:
                    self._removed(rank, event.hashes)
            case BlocksCleared():
                self.lose(number)

    def lose(self, number: int) -> None:
        """What the rank said no longer holds."""
        rank = self._rank(number)
        self._drop(rank.drop_all())

    def lose_all(self) -> None:
        """Nothing that any rank said holds any longer."""
        for number in self._ranks:
            self.lose(number)

    def resize(self, block_tokens: int) -> None:
        """The engine's block size by its own report; what was followed in another size is forgotten."""
        if self.block_tokens not in (None, block_tokens):
            self.lose_all()
            self._ranks.clear()
        self.block_tokens = block_tokens

    def _rank(self, number: int) -> _Rank:
        rank = self._ranks.get(number)
        if rank is None:
            rank = self._ranks[number] = _Rank()
        return rank

    def _stored(self, rank: _Rank, event: BlocksStored) -> None:
        if event.opaque or not self._is_main(rank, event) or not self._fits(event.block_tokens):
            return
        start = self._start(rank, event)
        if start is None:
            self.orphans += 1
            return
        size = event.block_tokens * TOKEN_BYTES
        assert self.block_tokens is not None  # noqa: S101 - `_fits` saw to it
        width = token_form("", self.block_tokens).block * TOKEN_BYTES
        if isinstance(start, int) and size == width and len(event.tokens) == size * len(event.hashes):
            nodes: list[Node] = list(extend(start, event.tokens, width))
        else:
            nodes = _paged(start, event.tokens, size, width)
        self._hold(rank, event.hashes, nodes)

    def _is_main(self, rank: _Rank, event: BlocksStored) -> bool:
        """Whether the event is of the group that is followed; a lower one of the right kind takes over."""
        if event.kind is not None and event.kind not in _MAIN_KINDS:
            return False
        if event.group is None or event.group == rank.group:
            return True
        if rank.group is not None and event.group > rank.group:
            return False
        self._drop(rank.drop_all())
        rank.group, rank.known = event.group, {}
        return True

    def _fits(self, block_tokens: int) -> bool:
        """Whether blocks of this size make up whole blocks of the size that is followed."""
        if block_tokens < 1:
            return False
        if self.block_tokens is None:
            self.block_tokens = block_tokens
        return token_form("", self.block_tokens).block % block_tokens == 0

    def _start(self, rank: _Rank, event: BlocksStored) -> Node | None:
        if event.parent is None:
            return root(token_namespace(event.adapter, event.salt))
        for place in (rank.nodes, rank.known):
            node = place.get(event.parent)
            if node is not None:
                return node
        first = event.tokens[: event.block_tokens * TOKEN_BYTES]
        return self._adopt(first) if event.adapter is None and event.salt is None else None

    def _hold(self, rank: _Rank, hashes: tuple[BlockKey, ...], nodes: list[Node]) -> None:
        held, copies, stated = rank.nodes, rank.copies, self._stated
        fresh = []
        for key, node in zip(hashes, nodes, strict=False):
            if key in held:
                copies[key] = copies.get(key, 0) + 1
            else:
                held[key] = node
                if not isinstance(node, int):
                    continue
                if stated(node):
                    self._shared[node] = self._shared.get(node, 1) + 1
                else:
                    fresh.append(node)
        if fresh:
            self._state(fresh)
        if len(held) > self._max_blocks:
            oldest = islice(held, len(held) - self._max_blocks + self._max_blocks // _FORGET_SHARE)
            rank.copies.clear()
            self._removed(rank, tuple(oldest))

    def _removed(self, rank: _Rank, hashes: tuple[BlockKey, ...]) -> None:
        gone = []
        for key in hashes:
            left = rank.copies.get(key)
            if left is None:
                node = rank.nodes.pop(key, None)
                if isinstance(node, int):
                    gone.append(node)
            elif left == 1:
                del rank.copies[key]
            else:
                rank.copies[key] = left - 1
        self._drop(gone)

    def _drop(self, links: list[int]) -> None:
        """The links lose one of their holders."""
        gone = [link for link in links if not self._shared or not self._is_shared(link)]
        if gone:
            self._retract(gone)

    def _is_shared(self, link: int) -> bool:
        """Whether others hold the link too; there is one less of them now."""
        count = self._shared.pop(link, 1) - 1
        if count > 1:
            self._shared[link] = count
        return count > 0


def _paged(start: Node, tokens: bytes, size: int, width: int) -> list[Node]:
    """Where each engine block of `size` bytes ends in a chain whose blocks are `width` bytes, a multiple of it."""
    link, rest = (start, b"") if isinstance(start, int) else start
    nodes: list[Node] = []
    for at in range(0, len(tokens), size):
        rest += tokens[at : at + size]
        if len(rest) >= width:
            (link,) = extend(link, rest[:width], width)
            rest = rest[width:]
        nodes.append((link, rest) if rest else link)
    return nodes
