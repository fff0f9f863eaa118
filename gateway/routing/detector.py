"""The cache-broken detector: a replica that is expected to hit and does not; pure."""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

REQUESTS: Final = 10
"""Requests in a row that must disappoint."""
RECOVERED: Final = 3
"""Requests in a row that must hit again."""
LEAST_TOKENS: Final = 512
"""Beliefs of fewer tokens prove nothing: they may fall under an engine's smallest hit."""
_NEAR_NONE: Final = 0.05
_HALF: Final = 0.5


@dataclass(frozen=True, slots=True)
class BrokenCache:
    """The evidence: over the last `requests` that should have hit, tokens expected and delivered, since `since`."""

    since: float
    requests: int
    believed_tokens: int
    delivered_tokens: int

    @property
    def sentence(self) -> str:
        """For people."""
        return (
            f"its prefix cache seems broken: of {self.believed_tokens:,} tokens that should have been cached in the "
            f"last {self.requests} requests, {self.delivered_tokens:,} were. It is routed by load until it hits "
            "again; compare the engine's version with known bugs (vllm#42948, sglang#35129), and check that prefix "
            "caching is on and that nothing at the start of prompts changes with each request"
        )


@dataclass(slots=True)
class CacheWatch:
    """One replica's recent disappointments. Beliefs count uncalibrated: calibration would hide what is looked for."""

    broken: BrokenCache | None = None
    _recent: deque[tuple[int, int]] = field(default_factory=lambda: deque(maxlen=REQUESTS))

    def observe(self, believed: int, delivered: int, at: float) -> None:
        """Take one finished request: tokens that should have been cached there, and those that were."""
        if max(believed, delivered) < LEAST_TOKENS:
            return
        self._recent.append((max(believed, delivered), delivered))
        if self.broken is not None:
            last = list(self._recent)[-RECOVERED:]
            if len(last) == RECOVERED and all(hit >= _HALF * wished for wished, hit in last):
                self.forget()
                return
        wished, hit = sum(pair[0] for pair in self._recent), sum(pair[1] for pair in self._recent)
        if len(self._recent) == REQUESTS and hit <= _NEAR_NONE * wished:
            since = at if self.broken is None else self.broken.since
            self.broken = BrokenCache(since, REQUESTS, wished, hit)

    def forget(self) -> None:
        """The replica is a new one, or works again."""
        self.broken = None
        self._recent.clear()
