"""Faults that a test can order from a simulated engine: refuse, cut a stream, go silent; pure."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self


@dataclass(slots=True)
class Faults:
    """What is ordered for the next `remaining` generating requests.

    `status` refuses them; `cut_after_tokens` closes the connection of a stream after that many tokens.
    """

    remaining: int = 0
    status: int | None = None
    cut_after_tokens: int | None = None
    unhealthy: bool = False
    """Whether `/health` answers 503 until told otherwise."""

    @classmethod
    def read(cls, body: Mapping[str, Any]) -> Self:
        """From `{"status"?, "cut_after_tokens"?, "count"?, "unhealthy"?}`; an empty body ends all faults."""
        ordered = body.get("status") is not None or body.get("cut_after_tokens") is not None
        return cls(
            remaining=int(body.get("count", 1)) if ordered else 0,
            status=body.get("status"),
            cut_after_tokens=body.get("cut_after_tokens"),
            unhealthy=bool(body.get("unhealthy")),
        )

    def take(self) -> tuple[int | None, int | None]:
        """The fault of one request: a status to refuse with, and a number of tokens to cut after."""
        if not self.remaining:
            return None, None
        self.remaining -= 1
        return self.status, self.cut_after_tokens
