"""What a sweep says: for each chunk size its ladder, its room for KV, and how it compares; pure."""

from collections.abc import Sequence

import msgspec

from gateway.bench.report import LadderReport, report_on
from gateway.bench.sweep import Swept


class ChunkRow(msgspec.Struct, frozen=True, kw_only=True):
    """One chunk size. `concurrency` is how many prompts of `ramp_isl` ran at once, and `end` why no more did.

    `chunk_actual` and `kv_capacity_tokens` are the engine's own word, None where it does not say. `trouble` is why
    there is nothing, "" where there is.
    """

    name: str
    chunk_tokens: int
    chunk_actual: int | None
    started_s: float
    kv_capacity_tokens: int | None
    ramp_isl: int | None
    concurrency: int | None
    end: str
    trouble: str


class SweepReport(msgspec.Struct, frozen=True, kw_only=True):
    """`ladder` has a row for each chunk size that was measured; `baseline` is the one that others are compared with."""

    baseline: str
    chunks: list[ChunkRow]
    ladder: LadderReport


def report_on_sweep(swept: Sequence[Swept], own_chunk: int | None, tie_margin: float) -> SweepReport:
    """`own_chunk`: the replica's own setting, which is the baseline where it was measured; else the first size is."""
    measured = [(one, one.subject) for one in swept if one.subject is not None and one.climbed.samples]
    rows = [subject.row for _, subject in measured]
    ladder = report_on(
        rows,
        [sample for one, _ in measured for sample in one.climbed.samples],
        [f"chunk {one.chunk_tokens}: {trouble}" for one in swept for trouble in one.climbed.troubles],
        {subject.target.name: subject.block_tokens for _, subject in measured},
        tie_margin,
    )
    own = [one.target.name for one, _ in measured if one.chunk_tokens == own_chunk]
    baseline = next(iter(own or [row.name for row in rows]), "")
    return SweepReport(baseline=baseline, chunks=[_chunk_row(one) for one in swept], ladder=ladder)


def _chunk_row(one: Swept) -> ChunkRow:
    return ChunkRow(
        name=one.target.name,
        chunk_tokens=one.chunk_tokens,
        chunk_actual=one.chunk_actual,
        started_s=one.started_s,
        kv_capacity_tokens=one.kv_capacity_tokens,
        ramp_isl=None if one.ramp is None else one.ramp.isl,
        concurrency=None if one.ramp is None else one.ramp.concurrency,
        end="" if one.ramp is None else one.ramp.end.value,
        trouble=one.trouble,
    )
