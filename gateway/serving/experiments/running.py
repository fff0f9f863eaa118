"""The experiments of one gateway process: told to the router, observed, kept; does I/O through its recorder."""

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from gateway.config.pools import PoolConfig
from gateway.experiments.terms import Terms
from gateway.routing.experiments.definition import Experiment, Exposure
from gateway.routing.facts import ExperimentsChanged, Exposed, Finished, Refused
from gateway.routing.router import Router
from gateway.serving.experiments.analyst import Analyst, Headline
from gateway.serving.experiments.judging import terms_of
from gateway.serving.experiments.observing import Participant
from gateway.serving.experiments.recorder import Recorder
from gateway.serving.experiments.trial import RUNNING, Trial, Trials, events_between
from gateway.serving.headers import Fields
from gateway.serving.membership.member import Member


class Experiments:
    """What this process has of them. `store` None: nothing is kept, for commands that only ask."""

    def __init__(self, router: Router, clock: Callable[[], float], store: Path | None) -> None:
        self.trials: Trials = ()
        self.headers: frozenset[str] = frozenset()
        """Those that who takes part depends on, in lower case."""
        self.recorder = None if store is None else Recorder(store)
        self.analyst = None if store is None else Analyst(store)
        self._router = router
        self._clock = clock
        self._kept: list[tuple[Trial, Terms]] = []

    @property
    def counts(self) -> dict[str, int]:
        """Observations so far, by what became of them."""
        return {} if self.recorder is None else dict(self.recorder.counts)

    @property
    def headlines(self) -> dict[str, Headline]:
        """By experiment: the sentence of its last report here."""
        return {} if self.analyst is None else dict(self.analyst.headlines)

    def follow(self, trials: Trials, pools: Sequence[PoolConfig], members: Sequence[Member]) -> None:
        """These are the trials from now on, with such a fleet."""
        before, self.trials = self.trials, trials
        if trials != before:
            self._tell()
        kept = [(trial, terms_of(trial, pools, members)) for trial in trials]
        if self.recorder is None or kept == self._kept:
            return
        self._kept = kept
        names = {trial.name for trial in trials}
        for gone in (trial.name for trial in before if trial.name not in names):
            self.recorder.forget(gone)
        self.recorder.keep(kept, events_between(before, trials))

    def _tell(self) -> None:
        """Have the router go by what runs."""
        running = tuple(self._running(trial) for trial in self.trials if trial.state == RUNNING)
        asked = (one.eligible.header for one in running)
        self.headers = frozenset(name for name in asked if name is not None)
        self._router.observe(ExperimentsChanged(self._clock(), running))

    def _running(self, trial: Trial) -> Experiment:
        stopped = [one.arm for one in trial.stopped_arms]
        return trial.definition.running(trial.began_at - self._epoch(), stopped)

    def _epoch(self) -> float:
        """When our clock was 0, in seconds since the Unix epoch."""
        return time.time() - self._clock()

    def marks(self, fields: Fields) -> tuple[tuple[str, str], ...]:
        """Those of a request's headers that experiments look at."""
        if not self.headers:
            return ()
        found = ((name, fields.get(name.encode())) for name in self.headers)
        return tuple((name, value.decode("latin-1")) for name, value in found if value is not None)

    def let_in(self, exposure: Exposure, accepted_at: float) -> Participant:
        """A request takes part."""
        self._router.observe(Exposed(self._clock(), exposure))
        return Participant(exposure, accepted_at)

    def over(self, participant: Participant, end: Finished | Refused) -> None:
        """Such a request has ended."""
        if self.recorder is None:
            return
        cached, replica = None, participant.replica
        if isinstance(end, Finished) and end.usage is not None and replica is not None:
            cached = self._router.cached_tokens(replica, end.usage)
        self.recorder.add(participant.observed(end, cached, self._epoch()))

    async def close(self) -> None:
        """Have all written that waits."""
        if self.analyst is not None:
            await self.analyst.close()
        if self.recorder is not None:
            await asyncio.to_thread(self.recorder.close)

    def notices(self) -> list[str]:
        """What an operator should know: sentences."""
        return [] if self.recorder is None else self.recorder.notices()


class ArmView(msgspec.Struct, frozen=True):
    """An arm as it is shown. `exposures` are requests that were let in since this gateway began."""

    name: str
    weight: float
    exposures: int
    stopped: str = ""
    """Why, if it is."""


class ExperimentView(msgspec.Struct, frozen=True):
    """An experiment as lists and the dashboard show it. Times are seconds since the Unix epoch, 0 for never."""

    name: str
    state: str
    why: str
    origin: str
    unit: str
    metric: str
    control: str
    traffic: float
    ramp_s: float
    began_at: float
    counts_from: float
    ended_at: float
    arms: tuple[ArmView, ...]
    headline: str = ""
    headline_at: float = 0.0


def views(
    trials: Trials, exposures: dict[str, dict[str, int]], headlines: dict[str, Headline]
) -> tuple[ExperimentView, ...]:
    """All of them, as they are shown."""
    return tuple(_view(trial, exposures.get(trial.name, {}), headlines.get(trial.name)) for trial in trials)


def _view(trial: Trial, exposures: dict[str, int], headline: Headline | None) -> ExperimentView:
    definition = trial.definition
    why = {one.arm: one.why for one in trial.stopped_arms}
    return ExperimentView(
        name=trial.name,
        state=trial.state,
        why=trial.why,
        origin=trial.origin,
        unit=definition.unit,
        metric=definition.metric,
        control=definition.against,
        traffic=definition.traffic,
        ramp_s=definition.ramp_s,
        began_at=trial.began_at,
        counts_from=trial.counts_from,
        ended_at=trial.ended_at,
        arms=tuple(
            ArmView(name, arm.weight, exposures.get(name, 0), why.get(name, ""))
            for name, arm in definition.table.items()
        ),
        headline="" if headline is None else headline.sentence,
        headline_at=0.0 if headline is None else headline.at,
    )
