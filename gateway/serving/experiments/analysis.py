"""What an `Analyst` runs: `python -m gateway.serving.experiments.analysis STORE NAME KIND` prints a report; does I/O.

Also what the command line makes its offline reports with.
"""

import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import msgspec
import numpy as np

from gateway.experiments.analysis import analyse
from gateway.experiments.guardrails import guardrail_breaches
from gateway.experiments.observations import Observations
from gateway.experiments.page import page
from gateway.experiments.report import Report
from gateway.experiments.terms import Terms
from gateway.serving.experiments.store import Kept, Observed, Store, StoreError
from gateway.serving.experiments.trial import Trial

_NICE: Final = 10
"""Reports can wait; requests cannot."""


class Part(msgspec.Struct, frozen=True):
    """What one gateway brings to a report: `GET /api/experiments/{name}/observations`, as MessagePack."""

    trial: Trial
    terms: Terms
    thinned: int
    rows: list[Observed]


class Judged(NamedTuple):
    """What is judged, and by which terms."""

    observations: Observations
    terms: Terms
    thinned: int
    trial: Trial


def part_of(store: Store, kept: Kept) -> Part:
    """What counts of an experiment: after it has warmed up, until its end."""
    trial = kept.trial
    since = trial.counts_from + trial.definition.warm_up_s
    rows = store.observations(trial.name, since, trial.counts_to) if trial.counts_from else []
    return Part(trial, kept.terms, kept.thinned, rows)


def judged(parts: Sequence[Part]) -> Judged:
    """One gateway's part, or those of several that run the same experiment: of units that all of them keep."""
    first = parts[0]
    thinned = max(part.thinned for part in parts)
    since = min(part.trial.counts_from + part.trial.definition.warm_up_s for part in parts)
    until = max(min(part.trial.counts_to, time.time()) for part in parts)
    mask = (1 << thinned) - 1
    rows = sorted((row for part in parts for row in part.rows if not row.unit & mask), key=lambda row: row.at)
    terms = msgspec.structs.replace(first.terms, running_s=max(until - since, 0.0))
    if len(parts) > 1 or thinned:  # whose GPUs they are is not known, or not all that they did
        arms = tuple(msgspec.structs.replace(arm, gpus=None) for arm in terms.arms)
        terms = msgspec.structs.replace(terms, arms=arms)
    return Judged(_columns(rows, terms, since), terms, thinned, first.trial)


def report_of(what: Judged) -> Report:
    """The report, with what is to be known of how its observations were kept."""
    report = analyse(what.trial.name, what.observations, what.terms)
    notes = list(report.warnings)
    if what.thinned:
        notes.append(f"of so many requests only those of one in {1 << what.thinned} units were kept")
    notes += [f"{one.arm} was stopped: {one.why}; what came later is left out" for one in what.trial.stopped_arms]
    return msgspec.structs.replace(report, warnings=tuple(notes))


def page_of(report: Report, what: Judged) -> bytes:
    """The report as a page that needs nothing else."""
    return page(report, what.observations, what.terms).encode()


def _columns(rows: Sequence[Observed], terms: Terms, since: float) -> Observations:
    names = tuple(arm.name for arm in terms.arms)
    places = {name: place for place, name in enumerate(names)}
    rows = [row for row in rows if row.arm in places]

    def numbers(column: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        values = [getattr(row, column) for row in rows]
        return np.array([np.nan if value is None else value for value in values], dtype=np.float64)

    def flags(column: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return np.array([getattr(row, column) for row in rows], dtype=np.bool_)

    return Observations(
        arms=names,
        arm=np.array([places[row.arm] for row in rows], dtype=np.int16),
        unit=np.array([row.unit for row in rows], dtype=np.uint64),
        at_s=numbers("at") - since,
        ttft_s=numbers("ttft_s"),
        itl_s=numbers("itl_s"),
        request_s=numbers("request_s"),
        prompt_tokens=numbers("prompt_tokens"),
        cached_tokens=numbers("cached_tokens"),
        completion_tokens=numbers("completion_tokens"),
        failed=flags("failed"),
        refused=flags("refused"),
        crossed=flags("crossed"),
    )


def _said(store: Store, name: str, kind: str) -> bytes:
    kept = store.trial(name)
    if kept is None:
        raise StoreError(f"nothing was observed of an experiment `{name}` yet")
    part = part_of(store, kept)
    match kind:
        case "observations":
            return msgspec.msgpack.encode(part)
        case "html":
            what = judged([part])
            return page_of(report_of(what), what)
        case "breaches":
            what = judged([part])
            return msgspec.json.encode(guardrail_breaches(what.observations, what.terms))
        case _:
            return msgspec.json.encode(report_of(judged([part])))


def main() -> int:
    """Run it."""
    os.nice(_NICE)
    path, name, kind = sys.argv[1:]
    try:
        store = Store(Path(path), writes=False)
        try:
            sys.stdout.buffer.write(_said(store, name, kind))
        finally:
            store.close()
    except StoreError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
