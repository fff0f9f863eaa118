"""One model's part of the queue: what waits for it, how fast that goes, and so how long a newcomer would wait; pure."""

from dataclasses import dataclass
from typing import Final

from gateway.routing.decision import Priority
from gateway.routing.drain import DrainRate
from gateway.routing.holding import LineKey
from gateway.routing.queue_limits import QueueLimits

LONGEST_RETRY_S: Final = 60.0
"""What clients' libraries take for a time to wait; they have their own ideas beyond."""
_KEPT: Final = 4096
_MEMORY: Final = 0.05


@dataclass(slots=True)
class _Part:
    """One line's: its tokens that wait, and its tenant's weight."""

    tokens: int
    weight: float


class Flow:
    """A line drains at its share of the model's rate, as if all who wait now went on to."""

    def __init__(self) -> None:
        self.rate = DrainRate()
        self._parts: dict[LineKey, _Part] = {}
        self._weights = dict.fromkeys(Priority, 0.0)
        self._lines = dict.fromkeys(Priority, 0)
        self._invited: dict[LineKey, float] = {}
        self.mean_tokens = 0.0
        self.mean_work_s = 0.0

    def add(self, line: LineKey, tokens: int, work_s: float, weight: float, now: float) -> None:
        """A request of so much prefill waits for it."""
        if not self._parts:
            self.rate.start(now)
        part = self._parts.get(line)
        if part is None:
            part = self._parts[line] = _Part(0, weight)
            self._weights[line[0]] += weight
            self._lines[line[0]] += 1
        part.tokens += tokens
        share = _MEMORY if self.mean_tokens else 1.0
        self.mean_tokens += (tokens - self.mean_tokens) * share
        self.mean_work_s += (work_s - self.mean_work_s) * share

    def remove(self, line: LineKey, tokens: int, now: float) -> None:
        """It waits no longer."""
        part = self._parts[line]
        part.tokens -= tokens
        if not part.tokens:
            del self._parts[line]
            self._lines[line[0]] -= 1
            self._weights[line[0]] = self._weights[line[0]] - part.weight if self._lines[line[0]] else 0.0
            if not self._parts:
                self.rate.stop(now)

    @property
    def is_empty(self) -> bool:
        """Whether nobody waits for it."""
        return not self._parts

    def wait_s(self, line: LineKey, tokens: float, limits: QueueLimits, now: float) -> float:
        """How long the line's next request would wait, if it is of so many tokens.

        Those before it and itself go at the line's share, and it is sent when all but itself has gone: who is alone in
        its line waits for its turn among the lines.
        """
        part = self._parts.get(line)
        ahead = 0 if part is None else part.tokens
        return (ahead + tokens) / self._line_rate(line, limits, now) - tokens / self.rate.per_s(now)

    def invite(self, line: LineKey, excess_s: float, limits: QueueLimits, now: float) -> float:
        """When a refused request of that line should come again, in seconds: it would have waited so much too long.

        Each one is given a time of its own, as far apart as they can be served.
        """
        rate = self._line_rate(line, limits, now)
        at = max(self._invited.get(line, 0.0), now + excess_s)
        if len(self._invited) > _KEPT:
            self._invited.clear()
        self._invited[line] = min(at + self.mean_tokens / rate, now + LONGEST_RETRY_S)
        return min(max(at - now, 1.0), LONGEST_RETRY_S)

    def _line_rate(self, line: LineKey, limits: QueueLimits, now: float) -> float:
        priority, tenant = line
        weight = limits.weight(tenant)
        weights = self._weights[priority] + (0.0 if line in self._parts else weight)
        alone = sum(self._lines.values()) == self._lines[priority]
        share = 1.0 if alone else limits.share(priority)
        return self.rate.per_s(now) * share * weight / weights
