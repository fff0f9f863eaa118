"""Reuse: how likely a block that has been idle for so long is asked for again, from a sample of all blocks; pure."""

from collections.abc import Sequence
from itertools import islice
from math import exp, log2
from typing import Final

from gateway.routing.chain import PrefixChain

SAMPLE_TOKENS: Final = 2048
"""One link in so many tokens is followed: links are chained, so the same ones of every prompt that has them."""
_TEXT_BYTES: Final = 4
"""Of text per token, about: the same for all, or the sample of one prompt would not be that of the next."""
_KEPT: Final = 16_384
_HORIZON_S: Final = 3600.0
_REFRESH_S: Final = 5.0
_MEMORY_S: Final = 1800.0
_BINS: Final = 64
_PER_OCTAVE: Final = 4
_LEAST_S: Final = 0.1
_ENOUGH: Final = 20.0
_PRIOR: Final = 0.3


class Reuse:
    """What a full cache loses by one more prompt: the probability that its oldest blocks would have been hit again.

    Two samples of blocks are kept by their last use: one for each replica, in the order in which its engine evicts
    (least recently used first, as vLLM's and SGLang's caches do) and no longer than its share of the cache; and one
    of the whole fleet that remembers longer than any cache, to see what is asked for again after how long.
    """

    def __init__(self) -> None:
        self._last: dict[int, float] = {}  # link -> last use anywhere, oldest first
        self._caches: list[dict[int, float]] = []  # link -> last use there, oldest first
        self._sizes: list[int] = []
        self._prices: list[float] = []
        self._again = [0.0] * _BINS  # by idle time: uses of a block that was known
        self._gone = [0.0] * _BINS  # by idle time: blocks forgotten without another use
        self._refreshed_at: float | None = None

    def add_replica(self, kv_tokens: int, slot: int | None = None) -> None:
        """The next slot, or one whose replica was removed, with a cache of so many tokens."""
        if slot is not None and slot < len(self._caches):
            self.forget(slot)
            self.resize(slot, kv_tokens)
            return
        self._caches.append({})
        self._sizes.append(max(kv_tokens // SAMPLE_TOKENS, 1))
        self._prices.append(0.0)

    def resize(self, slot: int, kv_tokens: float) -> None:
        """The replica's cache holds so many tokens."""
        self._sizes[slot] = max(int(kv_tokens / SAMPLE_TOKENS), 1)

    def forget(self, slot: int) -> None:
        """The replica's cache is empty."""
        self._caches[slot].clear()
        self._prices[slot] = 0.0

    def used(self, slot: int, chain: PrefixChain, now: float) -> None:
        """The replica was sent this prompt."""
        last, cache, again = self._last, self._caches[slot], self._again
        unit = SAMPLE_TOKENS if chain.form.counts_tokens else SAMPLE_TOKENS * _TEXT_BYTES
        stride = max(unit // chain.form.block, 1)
        for link in chain.hashes[stride // 2 :: stride]:
            before = last.pop(link, None)
            if before is not None:
                again[_bin(now - before)] += 1.0
            last[link] = now
            cache.pop(link, None)
            cache[link] = now
        surplus = len(cache) - self._sizes[slot]
        if surplus > 0:
            for link in list(islice(cache, surplus)):
                del cache[link]

    @property
    def losses(self) -> Sequence[float]:
        """By slot: the probability, as of the last refresh, that what a new prompt evicts there would be used again.

        0 where there is room.
        """
        return self._prices

    @property
    def counts(self) -> tuple[list[float], list[float]]:
        """By idle time: uses of known blocks, and blocks that were never used again."""
        return list(self._again), list(self._gone)

    def start_from(self, again: Sequence[float], gone: Sequence[float]) -> None:
        """Begin with the counts of another, if nothing was counted yet."""
        if not any(self._again) and not any(self._gone) and len(again) == len(gone) == _BINS:
            self._again, self._gone = list(again), list(gone)

    def refresh(self, now: float) -> None:
        """Learn from what has been idle until now; does nothing more often than every few seconds."""
        before = self._refreshed_at
        if before is not None and now - before < _REFRESH_S:
            return
        self._refreshed_at = now
        if before is not None:
            kept = exp((before - now) / _MEMORY_S)
            self._again = [kept * count for count in self._again]
            self._gone = [kept * count for count in self._gone]
        self._drop_old(now)
        for slot, (cache, size) in enumerate(zip(self._caches, self._sizes, strict=True)):
            full = len(cache) >= size
            self._prices[slot] = self._probability(next(iter(cache.values())), now) if full else 0.0

    def _drop_old(self, now: float) -> None:
        surplus = len(self._last) - _KEPT
        old: list[int] = []
        for link, at in self._last.items():
            if len(old) >= surplus and now - at < _HORIZON_S:
                break
            old.append(link)
        for link in old:
            self._gone[_bin(now - self._last.pop(link))] += 1.0

    def _probability(self, unused_since: float, now: float) -> float:
        """Of all blocks that were ever idle for as long, the share that was used again."""
        first = _bin(now - unused_since)
        idle = 0
        for at in self._last.values():  # the oldest come first
            if at > unused_since:
                break
            idle += 1
        again = sum(self._again[first:])
        all_of_them = again + sum(self._gone[first:]) + idle
        return again / all_of_them if all_of_them >= _ENOUGH else _PRIOR


def _bin(idle_s: float) -> int:
    return min(max(int(_PER_OCTAVE * log2(max(idle_s, _LEAST_S) / _LEAST_S)), 0), _BINS - 1)
