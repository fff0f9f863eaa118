"""How long requests lately took from being sent to their first token: the slow ones, soon forgotten; pure."""

from typing import Final

_KEPT: Final = 0.99


class Starts:
    """The longest, which fades by a hundredth with each request that comes after it."""

    def __init__(self) -> None:
        self.slow_s = 0.0

    def learn(self, seconds: float) -> None:
        """One took so long."""
        self.slow_s = max(self.slow_s * _KEPT, seconds)
