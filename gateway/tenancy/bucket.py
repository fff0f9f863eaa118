"""A token bucket: so much each minute, and after a pause a whole minute's worth at once; pure."""

from math import inf

MINUTE_S = 60.0


class Bucket:
    """Full at first. It may be taken below nothing, by what was not known before; then nobody gets any for longer.

    Times are seconds on one clock of the caller's.
    """

    __slots__ = ("_at", "_level", "size")

    def __init__(self, per_minute: int) -> None:
        self.size = per_minute
        self._level = float(per_minute)
        self._at = -inf

    def left(self, now: float) -> float:
        """What is in it; below 0: what is owed."""
        if now > self._at:
            if self._level < self.size:
                self._level = min(self.size, self._level + (now - self._at) * self.size / MINUTE_S)
            self._at = now
        return self._level

    def wait_s(self, amount: float, now: float) -> float:
        """Seconds until so much is in it; 0: it is. Nobody waits for more than a full bucket."""
        missing = min(amount, self.size) - self.left(now)
        return max(0.0, missing * MINUTE_S / self.size)

    def take(self, amount: float, now: float) -> None:
        """Take so much, whatever is in it; below 0: put it back."""
        self._level = min(self.size, self.left(now) - amount)

    def resize(self, per_minute: int, now: float) -> None:
        """Another size: what was taken stays taken."""
        taken = self.size - self.left(now)
        self.size = per_minute
        self._level = per_minute - taken
