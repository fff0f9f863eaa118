"""The story of a change: every step as an event, what came of each replica, and how it ended; logs."""

import logging
import time
from collections import deque
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

import msgspec

from engines.reports import PrefillSettings
from gateway.prefill.verdict import Comparison

MOST_STEPS: Final = 200
REMEMBERED: Final = 5
"""Changes that are told of."""

_log: Final = logging.getLogger("prefixgate")


class ChangeState(StrEnum):
    """How a change stands."""

    RUNNING = "running"
    DONE = "done"
    ROLLED_BACK = "rolled-back"
    """A replica did not take it well and has its old settings again; those after it were not touched."""
    FAILED = "failed"
    """It could not go on; the reason says what is to be done."""
    CANCELLED = "cancelled"


class Step(msgspec.Struct, frozen=True):
    """One event. `at` is in seconds since the Unix epoch; `replica` "" for the change as a whole."""

    at: float
    replica: str
    what: str
    said: str


class ChangeView(msgspec.Struct, frozen=True):
    """A change as people are shown it. `replicas` says how each stands, in a word or two.

    `experiment` is the name that it is recorded under, if any.
    """

    id: str
    pool: str
    state: ChangeState
    wished: PrefillSettings
    before: PrefillSettings
    experiment: str | None
    started_at: float
    ended_at: float | None
    reason: str
    replicas: dict[str, str]
    comparisons: tuple[Comparison, ...]
    steps: tuple[Step, ...]


def after_its_process(view: ChangeView) -> ChangeView:
    """What is told of it once the process that made it has ended."""
    if view.state is not ChangeState.RUNNING:
        return view
    reason = "the worker that made it ended: look whether all replicas run alike"
    return msgspec.structs.replace(view, state=ChangeState.FAILED, reason=reason)


def latest(views: Iterable[ChangeView]) -> tuple[ChangeView, ...]:
    """Those that were begun last, the oldest of them first."""
    return tuple(sorted(views, key=lambda view: view.started_at)[-REMEMBERED:])


class Story:
    """Written by the change, read by everybody."""

    def __init__(
        self, name: str, pool: str, wished: PrefillSettings, before: PrefillSettings, experiment: str | None
    ) -> None:
        self.id = name
        self.pool = pool
        self.before = before
        self.replicas: dict[str, str] = {}
        self.comparisons: list[Comparison] = []
        self.state = ChangeState.RUNNING
        self._wished = wished
        self._experiment = experiment
        self._started_at = time.time()
        self._ended_at: float | None = None
        self._reason = ""
        self._steps: deque[Step] = deque(maxlen=MOST_STEPS)

    def step(self, what: str, said: str, replica: str = "") -> None:
        """Something was done, or found."""
        self._steps.append(Step(time.time(), replica, what, said))
        _log.warning("change %s: %s%s", self.id, f"{replica}: " if replica else "", said)

    def stands(self, replica: str, how: str) -> None:
        """How it stands with a replica."""
        self.replicas[replica] = how

    def end(self, state: ChangeState, reason: str) -> None:
        """It is over."""
        self.state, self._reason, self._ended_at = state, reason, time.time()
        self._steps.append(Step(self._ended_at, "", "end", f"{state}: {reason}"))
        level = logging.ERROR if state is ChangeState.FAILED else logging.WARNING
        _log.log(level, "change %s: %s: %s", self.id, state, reason)

    def view(self) -> ChangeView:
        """As of now."""
        return ChangeView(
            self.id,
            self.pool,
            self.state,
            self._wished,
            self.before,
            self._experiment,
            self._started_at,
            self._ended_at,
            self._reason,
            dict(self.replicas),
            tuple(self.comparisons),
            tuple(self._steps),
        )
