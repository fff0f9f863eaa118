"""The quality probe as a guardrail: the arms of an experiment are asked the same questions now and then; does I/O.

An arm that has fewer answers right than the control, beyond chance and by more than is allowed, is stopped. However
often that is looked at, an equal arm is stopped with a chance of at most 5 %, ever: of that, probe number k may spend
1 / (k (k + 1)), which sums up to all of it.
"""

import asyncio
import logging
import sys
import time
from math import inf
from typing import Final

import msgspec

from gateway.experiments.terms import DEFAULT_TERMS
from gateway.probe.answered import Answered
from gateway.probe.pairing import Answers, Discordant, discordant, pairs_of
from gateway.probe.questions import Question, own_questions
from gateway.probe.run import ask_all
from gateway.serving.experiments.arm_target import ArmTarget
from gateway.serving.experiments.trial import RUNNING, EndArm, Trial
from gateway.serving.gateway import Gateway
from gateway.serving.membership.membership import Membership
from gateway.serving.membership.refusal import PlanError

LOOK_S: Final = 1.0
_JUDGED_S: Final = 60.0

_log: Final = logging.getLogger("prefixgate")


class Judged(msgspec.Struct, frozen=True):
    """What `gateway.probe.judging` says, as far as it matters here."""

    drop: float
    p_value: float
    verdict: str


class Probing:
    """Of several workers the first one's is at work; it costs nothing while no experiment wants it."""

    def __init__(self, gateway: Gateway, membership: Membership) -> None:
        self._gateway = gateway
        self._membership = membership
        self._questions: list[Question] = []
        self._probes: dict[str, int] = {}
        """How many an experiment has had, by name and start."""
        self._ended_at: dict[str, float] = {}
        self._task: asyncio.Task[None] | None = None
        if gateway.siblings is None or gateway.siblings.number == 0:
            self._task = asyncio.create_task(self._watch())
            self._task.add_done_callback(_ended)

    def probes(self, trial: Trial) -> int:
        """How many it has had since its start."""
        return self._probes.get(_key(trial), 0)

    async def close(self) -> None:
        """Probe no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            for trial in self._due():
                await self.probe(trial)

    def _due(self) -> list[Trial]:
        now = self._gateway.clock()
        return [
            one
            for one in self._gateway.experiments.trials
            if one.state == RUNNING
            and (rails := one.definition.guardrails) is not None
            and rails.probe_every_s is not None
            and len(one.stopped_arms) + 1 < len(one.definition.arms)
            and now - self._ended_at.get(_key(one), -inf) >= rails.probe_every_s
        ]

    async def probe(self, trial: Trial) -> None:
        """Ask all arms that still run, and stop those that are worse."""
        key, definition = _key(trial), trial.definition
        self._questions = self._questions or own_questions()
        stopped = {one.arm for one in trial.stopped_arms}
        async with asyncio.TaskGroup() as group:
            asked = {
                name: group.create_task(self._asked(ArmTarget(self._gateway, name, arm, definition.eligible.models)))
                for name, arm in definition.table.items()
                if name not in stopped
            }
        answers = {name: task.result() for name, task in asked.items()}
        number = self.probes(trial) + 1
        alpha = DEFAULT_TERMS.alpha / (number * (number + 1)) / (len(definition.arms) - 1)
        control = answers.pop(definition.against)
        for name, given in answers.items():
            await self._judge(trial, name, control, given, alpha)
        self._probes[key], self._ended_at[key] = number, self._gateway.clock()

    async def _asked(self, target: ArmTarget) -> Answers:
        answers: dict[str, Answered] = {}

        def told(answer: Answered) -> None:
            answers[answer.id] = answer

        await ask_all(target, self._questions, 1, told)
        return answers

    async def _judge(self, trial: Trial, arm: str, left: Answers, right: Answers, alpha: float) -> None:
        rails = trial.definition.guardrails
        pairs = pairs_of(self._questions, left, right)
        if rails is None or len(pairs) < len(self._questions):
            error = next((one.error for one in (*left.values(), *right.values()) if one.error), "not all answered")
            _log.warning("experiment %s: the probe of %s is not judged: %s", trial.name, arm, error)
            return
        counts = discordant(pairs)
        if counts.only_left <= counts.only_right:
            return  # surely not worse
        judged = await _judged(counts, rails.probe_max_drop, alpha)
        if judged is None or judged.verdict != "worse":
            return
        rights = [sum(one.left.right for one in pairs), sum(one.right.right for one in pairs)]
        sentence = (
            f"{arm} is to be stopped: it has {rights[1]} of {len(pairs)} probe questions right, and "
            f"{trial.definition.against} {rights[0]}; p = {judged.p_value:.2g}."
        )
        try:
            await self._membership.perform(EndArm(trial.name, arm, time.time(), sentence))
        except PlanError as error:  # somebody was faster, or there is no parent
            _log.warning("the arm %s of %s is not stopped: %s", arm, trial.name, error)
        else:
            _log.warning("experiment %s: the arm %s is stopped: %s", trial.name, arm, sentence)


def _ended(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("nobody is probed any more, for an error of the gateway's own", exc_info=error)


def _key(trial: Trial) -> str:
    """Another start is another experiment."""
    return f"{trial.name}\0{trial.began_at}"


async def _judged(counts: Discordant, max_drop: float, alpha: float) -> Judged | None:
    """By a process of its own: scipy is not to load in the one that serves. None where that fails."""
    case = msgspec.json.encode({"counts": counts, "max_drop": max_drop, "alpha": alpha})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "gateway.probe.judging",
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )  # fmt: skip
    try:
        async with asyncio.timeout(_JUDGED_S):
            said, complaint = await process.communicate(case)
    except TimeoutError:
        said, complaint = b"", b"it took too long"
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        _log.warning("a probe could not be judged: %s", complaint.decode(errors="replace").strip().splitlines()[-1:])
        return None
    return msgspec.json.decode(said, type=Judged)
