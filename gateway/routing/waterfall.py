"""The waterfall of cached tokens, from what was available to what was delivered; pure."""

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar


@dataclass(slots=True)
class Waterfall:
    """Sums, in tokens, over requests whose engine reported what was cached: so ratios of them are right.

    available − routing_loss = routed; routed − index_loss + index_gain = delivered.
    """

    requests: int = 0
    prompt_tokens: int = 0
    available: int = 0
    """Expected at the best replica."""
    routed: int = 0
    """Expected at the chosen one."""
    delivered: int = 0
    """By the engine's word."""
    index_loss: int = 0
    """Expected and not delivered."""
    index_gain: int = 0
    """Delivered beyond expectation."""

    def add(self, prompt_tokens: int, available: int, routed: int, delivered: int) -> None:
        """Count one request."""
        self.requests += 1
        self.prompt_tokens += prompt_tokens
        self.available += available
        self.routed += routed
        self.delivered += delivered
        if routed > delivered:
            self.index_loss += routed - delivered
        else:
            self.index_gain += delivered - routed

    @property
    def routing_loss(self) -> int:
        """Available elsewhere, given up for a shorter wait."""
        return self.available - self.routed

    @property
    def hit_rate(self) -> float | None:
        """Delivered over prompt tokens; None without any."""
        return self.delivered / self.prompt_tokens if self.prompt_tokens else None


K = TypeVar("K", bound=Hashable)


class Waterfalls(Generic[K]):
    """A waterfall per key for the most recent keys; what is forgotten goes on counting under `others`."""

    def __init__(self, limit: int) -> None:
        self.others = Waterfall()
        self._limit = limit
        self._by_key: OrderedDict[K, Waterfall] = OrderedDict()

    def of(self, key: K) -> Waterfall:
        """The key's waterfall, made when first asked for."""
        one = self._by_key.get(key)
        if one is None:
            one = self._by_key[key] = Waterfall()
            if len(self._by_key) > self._limit:
                _, oldest = self._by_key.popitem(last=False)
                _merge(self.others, oldest)
        else:
            self._by_key.move_to_end(key)
        return one

    def largest(self, count: int) -> list[tuple[K, Waterfall]]:
        """The keys with most prompt tokens."""
        return self._sorted()[:count]

    def rest(self, count: int) -> Waterfall:
        """All but the largest `count` together, also those that are forgotten."""
        total = Waterfall()
        for one in (self.others, *(fall for _, fall in self._sorted()[count:])):
            _merge(total, one)
        return total

    def _sorted(self) -> list[tuple[K, Waterfall]]:
        return sorted(self._by_key.items(), key=lambda item: -item[1].prompt_tokens)


def _merge(into: Waterfall, one: Waterfall) -> None:
    into.requests += one.requests
    into.prompt_tokens += one.prompt_tokens
    into.available += one.available
    into.routed += one.routed
    into.delivered += one.delivered
    into.index_loss += one.index_loss
    into.index_gain += one.index_gain
