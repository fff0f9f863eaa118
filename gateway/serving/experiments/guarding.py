"""Guardrails: one process looks at running experiments, and has an arm stopped that breaks one; does I/O."""

import asyncio
import logging
import time
from typing import Final

import msgspec

from gateway.experiments.report import Breach
from gateway.serving.experiments.analyst import AnalysisError
from gateway.serving.experiments.trial import RUNNING, EndArm, Trial
from gateway.serving.gateway import Gateway
from gateway.serving.membership.membership import Membership
from gateway.serving.membership.refusal import PlanError

LOOK_S: Final = 1.0

_log: Final = logging.getLogger("prefixgate")
_BREACHES: Final = msgspec.json.Decoder(list[Breach])


class Guarding:
    """Of several workers the first one's is at work; it costs nothing while no experiment has guardrails."""

    def __init__(self, gateway: Gateway, membership: Membership) -> None:
        self._gateway = gateway
        self._membership = membership
        self._looked_at: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None
        if gateway.siblings is None or gateway.siblings.number == 0:
            self._task = asyncio.create_task(self._guard())

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _guard(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            for trial in self._due():
                await self._look(trial)
                self._looked_at[trial.name] = self._gateway.clock()

    def _due(self) -> list[Trial]:
        now = self._gateway.clock()
        running = [one for one in self._gateway.experiments.trials if one.state == RUNNING]
        return [
            one
            for one in running
            if (rails := one.definition.guardrails) is not None
            and len(one.stopped_arms) + 1 < len(one.definition.arms)
            and now - self._looked_at.get(one.name, 0.0) >= rails.every_s
        ]

    async def _look(self, trial: Trial) -> None:
        analyst = self._gateway.experiments.analyst
        if analyst is None:
            return
        try:
            breaches = _BREACHES.decode(await analyst.report(trial.name, "breaches"))
        except AnalysisError as error:
            _log.warning("the guardrails of the experiment %s cannot be looked at: %s", trial.name, error)
            return
        stopped = {one.arm for one in trial.stopped_arms}
        for breach in breaches:
            if breach.arm in stopped:
                continue
            try:
                await self._membership.perform(EndArm(trial.name, breach.arm, time.time(), breach.sentence))
            except PlanError as error:  # somebody was faster, or there is no parent
                _log.warning("the arm %s of %s is not stopped: %s", breach.arm, trial.name, error)
            else:
                _log.warning("experiment %s: the arm %s is stopped: %s", trial.name, breach.arm, breach.sentence)
