"""What the options of `prefixgate simulate` mean; pure but for a look at where a plot is to go."""

import math
import re
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Final

from gateway.cli.usage import UsageError
from gateway.config import nearest
from gateway.journal.lines import FleetPool
from gateway.simulation.contest import ALL, CONTESTANTS
from gateway.simulation.fleet import (
    DEFAULT_CHUNK_TOKENS,
    DEFAULT_FLEET,
    DEFAULT_KV_TOKENS,
    SimulatedReplica,
    parse_fleet,
    recorded_fleet,
)
from gateway.simulation.misjudged import Misjudged
from gateway.simulation.plot import SUFFIXES
from gateway.simulation.run import Outage

_DOWN: Final = re.compile(r"(?P<replica>[\w.-]+)@(?P<since>[\d.]+)-(?P<until>[\d.]*)")


def policies_of(text: str) -> list[str]:
    """Names, each once, in the order given; `all` stands for many."""
    names: list[str] = []
    for name in _parts(text, "--policy"):
        if name != "all" and name not in CONTESTANTS:
            raise UsageError(f"no policy is called `{name}`{nearest(name, [*CONTESTANTS, 'all'])}")
        names += ALL if name == "all" else (name,)
    return list(dict.fromkeys(names))


def loads_of(text: str | None) -> list[float | None]:
    """Loads in ascending order; only None, the trace's own pace, where none was given."""
    if text is None:
        return [None]
    loads = sorted({_number(part, "--load") for part in _parts(text, "--load")})
    if loads[0] <= 0:
        raise UsageError("--load must be above 0, as in 0.3,0.5")
    return list(loads)


def fleet_of(
    text: str | None, recorded: Sequence[FleetPool], kv_tokens: int | None, chunk_tokens: int | None
) -> tuple[SimulatedReplica, ...]:
    """The fleet as given, else as recorded, else the default one. Raises FleetError."""
    if text is None and recorded:
        return recorded_fleet(recorded, kv_tokens, chunk_tokens)
    return parse_fleet(text or DEFAULT_FLEET, kv_tokens or DEFAULT_KV_TOKENS, chunk_tokens or DEFAULT_CHUNK_TOKENS)


def outages_of(text: str | None, fleet: Sequence[SimulatedReplica]) -> tuple[Outage, ...]:
    """When which replicas are down; at least one must be up in the end."""
    slots = {replica.name: slot for slot, replica in enumerate(fleet)}
    outages: list[Outage] = []
    for part in [] if text is None else _parts(text, "--down"):
        match = _DOWN.fullmatch(part)
        if match is None:
            raise UsageError(f"--down `{part}` is not REPLICA@FROM-UNTIL, as in {fleet[0].name}@0.4-0.6")
        name = match["replica"]
        if name not in slots:
            raise UsageError(f"no replica is called `{name}`{nearest(name, list(slots))}")
        until = _number(match["until"], "--down") if match["until"] else math.inf
        outage = Outage(slots[name], _number(match["since"], "--down"), until)
        if outage.since >= outage.until:
            raise UsageError(f"--down `{part}` ends before it begins")
        if any(one.slot == outage.slot and one.since <= until and outage.since <= one.until for one in outages):
            raise UsageError(f"--down has {name} go down while it is down")
        outages.append(outage)
    if sum(one.until == math.inf for one in outages) == len(fleet):
        raise UsageError("--down leaves no replica up: somebody must serve the last request")
    return tuple(outages)


def misjudged_of(text: str | None) -> Misjudged:
    """What routers are wrong about, and how far."""
    misjudged = Misjudged()
    known = [field.name for field in fields(Misjudged)]
    for part in [] if text is None else _parts(text, "--misjudge"):
        what, _, share = part.partition("=")
        if what not in known:
            raise UsageError(f"--misjudge knows no `{what}`{nearest(what, known)}")
        number = _number(share, "--misjudge")
        if not 0 <= number < 1:
            raise UsageError(f"--misjudge {what} must be a share below 1, as in {what}=0.3")
        misjudged = replace(misjudged, **{what: number})
    return misjudged


def plot_of(path: Path | None) -> Path | None:
    """Where to draw, checked before anything runs."""
    if path is not None and path.suffix not in SUFFIXES:
        raise UsageError(f"--plot {path} must end in {' or '.join(SUFFIXES)}")
    if path is not None and not path.parent.is_dir():
        raise UsageError(f"--plot {path}: there is no such folder")
    return path


def _parts(text: str, option: str) -> list[str]:
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if not parts:
        raise UsageError(f"{option} is empty")
    return parts


def _number(text: str, option: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise UsageError(f"{option}: `{text}` is not a number")
    return number
