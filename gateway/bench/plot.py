"""The pictures of a ladder and of a sweep; does I/O: writes a file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from gateway.bench.figures import RungFigures
from gateway.bench.plan import KIB, written
from gateway.bench.report import LadderReport, Row
from gateway.bench.sweep_report import SweepReport

SUFFIXES: Final = (".png", ".svg")
SIMULATED: Final = "simulated engines: no figure of hardware"


def write_ladder(path: Path, report: LadderReport) -> None:
    """TTFT and throughput by prompt length; with cached prefixes also TTFT by the share that was cached.

    There is at least one figure. The same report gives the same SVG. Raises OSError.
    """
    from matplotlib import rc_context  # takes most of a second to import, and few ask for a picture
    from matplotlib.figure import Figure

    shares = sorted({one.cached for one in report.rungs})
    panels = 3 if len(shares) > 1 else 2
    with rc_context({"svg.hashsalt": "prefixgate", "font.size": 9}):
        figure = Figure(figsize=(5.6 * panels, 4.6), layout="tight")
        axes = figure.subplots(1, panels)
        longest = max(one.isl for one in report.rungs)
        for row in (row for row in report.rows if report.of(row.name)):
            _draw(axes, row, report.of(row.name), longest)
        axes[0].set(xlabel="prompt, thousand tokens (1,024)", ylabel="TTFT, ms (median and quartiles)", ylim=(0, None))
        axes[1].set(xlabel="prompt, thousand tokens (1,024)", ylabel="prefill, tokens/s/GPU", ylim=(0, None))
        if panels == 3:
            axes[2].set(xlabel=f"share of {written(longest)} that was cached", ylabel="TTFT, ms", ylim=(0, None))
        axes[0].set_title(SIMULATED if any(row.simulated for row in report.rows) else "prefill ladder")
        for panel in axes:
            panel.grid(alpha=0.3)
            panel.legend(fontsize=7)
        save(figure, path)


def write_sweep(path: Path, report: SweepReport) -> None:
    """TTFT of each prompt length by chunk size, and how many long prompts ran at once.

    There is at least one figure. Raises OSError.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    ladder = report.ladder
    sizes = {one.name: one.chunk_tokens for one in report.chunks}
    with rc_context({"svg.hashsalt": "prefixgate", "font.size": 9}):
        figure = Figure(figsize=(11.2, 4.6), layout="tight")
        times, room = figure.subplots(1, 2)
        for isl in sorted({one.isl for one in ladder.rungs}):
            mine = [one for one in ladder.rungs if one.isl == isl]
            spread = ([one.ttft_ms - one.q1_ms for one in mine], [one.q3_ms - one.ttft_ms for one in mine])
            times.errorbar([sizes[one.target] for one in mine], [one.ttft_ms for one in mine], yerr=spread, marker="o",
                capsize=3, label=f"{written(isl)} tokens")  # fmt: skip
        ramped = [one for one in report.chunks if one.concurrency is not None]
        room.plot([one.chunk_tokens for one in ramped], [one.concurrency for one in ramped], marker="o", color="black")
        length = written(ramped[0].ramp_isl or 0) if ramped else ""
        times.set(xlabel="chunk, tokens", ylabel="TTFT, ms (median and quartiles)", ylim=(0, None))
        room.set(xlabel="chunk, tokens", ylabel=f"prompts of {length} at once", ylim=(0, None))
        times.set_title(SIMULATED if any(row.simulated for row in ladder.rows) else "chunk sizes")
        times.legend(fontsize=7)
        for panel in (times, room):
            panel.set_xscale("log", base=2)
            panel.set_xticks(list(sizes.values()), [f"{size:,}" for size in sizes.values()])
            panel.minorticks_off()
            panel.grid(alpha=0.3)
        save(figure, path)


def save(figure: Any, path: Path) -> None:
    """Write a figure without the date of the day. Raises OSError."""
    figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix == ".svg" else None)


def _draw(axes: Any, row: Row, figures: Sequence[RungFigures], longest: int) -> None:
    fresh = [one for one in figures if not one.cached]
    lengths = [one.isl / KIB for one in fresh]
    spread = ([one.ttft_ms - one.q1_ms for one in fresh], [one.q3_ms - one.ttft_ms for one in fresh])
    axes[0].errorbar(lengths, [one.ttft_ms for one in fresh], yerr=spread, marker="o", capsize=3, label=row.name)
    axes[1].plot(lengths, [one.tokens_per_s_per_gpu for one in fresh], marker="o", label=row.name)
    if len(axes) == 3:
        primed = [one for one in figures if one.isl == longest]
        axes[2].plot([one.cached for one in primed], [one.ttft_ms for one in primed], marker="o", label=row.name)
