"""Whether a replica is up, by one look after the other, without flapping; pure."""

from typing import Final

FLAP_S: Final = 60.0
"""A replica that goes down so soon after it came up is flapping."""
MOST_LOOKS: Final = 8


class Damping:
    """Down only after several looks that failed, up again only after good ones: the more, the more it has flapped."""

    def __init__(self, down_after: int) -> None:
        self.up = False
        self._down_after = down_after
        self._bad = 0
        self._good = 0
        self._wanted = 1  # good looks in a row before it is up
        self._up_at = 0.0

    def look(self, now: float, *, well: bool, at_once: bool = False) -> bool:
        """Take one look's result; whether the replica counts as up now. `at_once`: a failure that leaves no doubt."""
        if well:
            self._bad = 0
            self._good += 1
            if not self.up and self._good >= self._wanted:
                self.up, self._up_at = True, now
            return self.up
        self._good = 0
        self._bad += 1
        if self.up and (at_once or self._bad >= self._down_after):
            self.down(now)
        return self.up

    def down(self, now: float) -> None:
        """It is down, by a look's word or a request's."""
        if self.up:
            self.up = False
            self._good = 0
            self._wanted = min(2 * self._wanted, MOST_LOOKS) if now - self._up_at < FLAP_S else 1
