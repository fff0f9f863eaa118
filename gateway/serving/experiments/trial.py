"""Trials: the experiments that there are and how each stands, and what each command makes of them; pure.

All workers follow the same commands in the same order; times come with the commands, so that all say the same.
"""

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from gateway.config.experiments import ExperimentConfig
from gateway.serving.membership.refusal import PlanError

FILE, API, LEFT = "file", "api", "left"
"""By whose word an experiment is there; the last one is no longer in the file that it was in."""
RUNNING, STOPPED, WAITING = "running", "stopped", "waiting"


class StoppedArm(msgspec.Struct, frozen=True):
    """An arm that a guardrail stopped: its units go to the control."""

    arm: str
    at: float
    why: str


class Trial(msgspec.Struct, frozen=True):
    """An experiment as it stands. Times are seconds since the Unix epoch, 0 for never.

    `state` is running, stopped, or waiting (for its first start). What was observed counts from `counts_from`: the
    start, or the last change of what is compared.
    """

    definition: ExperimentConfig
    origin: str = FILE
    state: str = WAITING
    why: str = ""
    began_at: float = 0.0
    counts_from: float = 0.0
    ended_at: float = 0.0
    stopped_arms: tuple[StoppedArm, ...] = ()
    defined_at: float = 0.0
    changed_at: float = 0.0

    @property
    def name(self) -> str:
        """The experiment's."""
        return self.definition.name

    @property
    def counts_to(self) -> float:
        """Until when observations can be compared: the end, or when an arm's units went to the control."""
        ends = [one.at for one in self.stopped_arms]
        if self.state == STOPPED:
            ends.append(self.ended_at)
        return min(ends, default=float("inf"))


class Define(msgspec.Struct, frozen=True, tag=True):
    """There is to be such an experiment, or it is to be like this from now on."""

    definition: ExperimentConfig
    at: float


class Begin(msgspec.Struct, frozen=True, tag=True):
    """It runs from now on, and counts anew."""

    name: str
    at: float


class End(msgspec.Struct, frozen=True, tag=True):
    """It runs no longer."""

    name: str
    at: float
    why: str


class EndArm(msgspec.Struct, frozen=True, tag=True):
    """One of its arms gets no more units."""

    name: str
    arm: str
    at: float
    why: str


class Forget(msgspec.Struct, frozen=True, tag=True):
    """It is not to be any more, with all that was observed; only for those that the API made."""

    name: str


TrialCommand = Define | Begin | End | EndArm | Forget
Trials = tuple[Trial, ...]


class Event(NamedTuple):
    """Something that happened to an experiment. `arm` "" where it was to all of it."""

    experiment: str
    at: float
    kind: str
    arm: str
    said: str


def of_file(definitions: Sequence[ExperimentConfig], known: Trials, at: float) -> Trials:
    """The trials when the file says this: its own first, in its order, then those of the API.

    What the file no longer names is stopped, and what was observed of it stays until it is forgotten.
    """
    before = {trial.name: trial for trial in known}
    made = []
    for definition in definitions:
        old = before.pop(definition.name, None)
        if old is None or old.origin == LEFT:
            made.append(_first(definition, FILE, at))
        else:
            made.append(msgspec.structs.replace(_redefined(old, definition, at), origin=FILE))
    return (*made, *(_left(trial, at) if trial.origin == FILE else trial for trial in before.values()))


def after(trials: Trials, command: TrialCommand) -> Trials:
    """The trials that follow. Raises PlanError."""
    match command:
        case Define():
            old = _find(trials, command.definition.name)
            if old is None:
                return (*trials, _first(command.definition, API, command.at))
            return _with(trials, _redefined(old, command.definition, command.at))
        case Begin():
            trial = _known(trials, command.name)
            if trial.state == RUNNING:
                return trials
            return _with(trials, _begun(trial, command.at))
        case End():
            return _with(trials, _ended(_known(trials, command.name), command.at, command.why))
        case EndArm():
            return _with(trials, _without(_known(trials, command.name), command))
        case Forget():
            trial = _known(trials, command.name)
            if trial.origin == FILE:
                message = f"the experiment `{trial.name}` is the configuration file's: take it out there"
                raise PlanError(message, 409, "experiment_of_file")
            return tuple(one for one in trials if one is not trial)


def events_between(before: Trials, now: Trials) -> list[Event]:
    """What has happened, as an operator would tell it; the same again for whoever was not there before."""
    old = {trial.name: trial for trial in before}
    return [event for trial in now for event in _events(old.get(trial.name), trial)]


def _events(old: Trial | None, trial: Trial) -> list[Event]:
    told = []
    if old is None:
        by = "by the file" if trial.origin == FILE else "by the admin API"
        told.append(Event(trial.name, trial.defined_at, "defined", "", by))
    elif old.definition != trial.definition:
        fresh = "; counting began anew" if trial.counts_from != old.counts_from else ""
        what = _changed(old.definition, trial.definition)
        told.append(Event(trial.name, trial.changed_at, "changed", "", what + fresh))
    state = WAITING if old is None else old.state
    if trial.state == RUNNING and (state != RUNNING or (old is not None and old.began_at != trial.began_at)):
        ramp = f"ramping up over {trial.definition.ramp_s:g} s" if trial.definition.ramp_s else "at once"
        much = f"{trial.definition.traffic:.0%} of the units"
        told.append(Event(trial.name, trial.began_at, "started", "", f"{much}, {ramp}"))
    if trial.state == STOPPED and state != STOPPED:
        told.append(Event(trial.name, trial.ended_at, "stopped", "", trial.why))
    known = () if old is None else old.stopped_arms
    told += [
        Event(trial.name, one.at, "arm stopped", one.arm, one.why) for one in trial.stopped_arms if one not in known
    ]
    return told


def _changed(old: ExperimentConfig, new: ExperimentConfig) -> str:
    names = [name for name in old.__struct_fields__ if getattr(old, name) != getattr(new, name)]
    return ", ".join(names)


def _first(definition: ExperimentConfig, origin: str, at: float) -> Trial:
    trial = Trial(definition, origin, defined_at=at, changed_at=at)
    return _begun(trial, at) if definition.start == "auto" else trial


def _begun(trial: Trial, at: float) -> Trial:
    return msgspec.structs.replace(
        trial, state=RUNNING, why="", began_at=at, counts_from=at, ended_at=0.0, stopped_arms=(), changed_at=at
    )


def _ended(trial: Trial, at: float, why: str) -> Trial:
    if trial.state == STOPPED:
        return trial
    return msgspec.structs.replace(trial, state=STOPPED, why=why, ended_at=at, changed_at=at)


def _left(trial: Trial, at: float) -> Trial:
    return msgspec.structs.replace(_ended(trial, at, "the file names it no longer"), origin=LEFT, changed_at=at)


def _redefined(trial: Trial, definition: ExperimentConfig, at: float) -> Trial:
    """What is compared with what counts anew where that has changed, stopped arms included."""
    if trial.definition == definition:
        return trial
    changed = msgspec.structs.replace(trial, definition=definition, changed_at=at)
    if definition.asks_alike(trial.definition):
        return changed
    return msgspec.structs.replace(changed, counts_from=at if trial.counts_from else 0.0, stopped_arms=())


def _without(trial: Trial, command: EndArm) -> Trial:
    arms = trial.definition.arms
    if command.arm not in arms:
        message = f"the experiment `{trial.name}` has no arm `{command.arm}`; it has: {', '.join(arms)}"
        raise PlanError(message, 404, "arm_not_found")
    if command.arm == trial.definition.against:
        message = f"`{command.arm}` is the control of `{trial.name}`: stop the experiment instead"
        raise PlanError(message, 409, "arm_is_control")
    if any(one.arm == command.arm for one in trial.stopped_arms):
        return trial
    stopped = (*trial.stopped_arms, StoppedArm(command.arm, command.at, command.why))
    return msgspec.structs.replace(trial, stopped_arms=stopped, changed_at=command.at)


def _find(trials: Trials, name: str) -> Trial | None:
    return next((trial for trial in trials if trial.name == name), None)


def _known(trials: Trials, name: str) -> Trial:
    trial = _find(trials, name)
    if trial is None:
        raise PlanError(f"there is no experiment `{name}`", 404, "experiment_not_found")
    return trial


def _with(trials: Trials, changed: Trial) -> Trials:
    return tuple(changed if one.name == changed.name else one for one in trials)
