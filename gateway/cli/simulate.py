"""`prefixgate simulate`: a trace in virtual time under our policies, published ones and bounds; does I/O."""

import argparse
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from gateway.cli.simulate_options import fleet_of, loads_of, misjudged_of, outages_of, plot_of, policies_of
from gateway.cli.simulate_tables import print_contestants, print_matrix, print_rows
from gateway.cli.usage import Commands, UsageError, command
from gateway.config import nearest
from gateway.journal.lines import JournalError
from gateway.routing.holding import DEFAULT_HOLD_MS
from gateway.simulation.contest import CONTESTANTS, OURS, Case, CaseError, Comparison, Kind, Outcome, Terms, case_at
from gateway.simulation.fleet import DEFAULT_CHUNK_TOKENS, DEFAULT_FLEET, DEFAULT_KV_TOKENS, FleetError
from gateway.simulation.matrix import DEFAULT_REQUESTS, cases
from gateway.simulation.plot import write_plot
from gateway.simulation.reading import Reading, read_trace
from gateway.simulation.results import Row, recorded_row
from gateway.simulation.trace import Trace
from gateway.simulation.workers import WorkerDiedError, play_all
from gateway.simulation.workloads import WORKLOADS

EXAMPLE: Final = "prefixgate simulate --workload chat --policy ttft,dynamo,smetric --load 0.3,0.5"
_MATRIX_FIXES: Final = ("journal", "workload", "load", "fleet", "down", "misjudge", "plot")
_MANY: Final = 50
"""Runs from which on each is told where no progress bar can be."""


def add_parser(commands: Commands) -> None:
    """Declare the command."""
    summary = "replay a trace in virtual time under several routing policies, and compare hit rates and TTFT"
    parser = command(commands, "simulate", _run, summary, EXAMPLE)
    add = parser.add_argument
    add("--trace", type=Path, metavar="FILE", help="what to replay: a trace in Mooncake's JSONL, or a journal")
    add("--journal", type=Path, metavar="FILE", help="the same; what it measured becomes the table's first rows")
    add("--workload", metavar="NAME", help=f"or a made-up workload: {', '.join(WORKLOADS)}")
    add("--policy", default="all", metavar="A,B,…",
        help="policies to compare; `all` (default): ours, every published one and two bounds; `list` says what "
        "there is")  # fmt: skip
    add("--load", metavar="X,Y,…",
        help="stretch the trace in time so that ideal cache hits leave so much of the fleet's prefill capacity in "
        "use, e.g. 0.3,0.5 (default: its own pace)")  # fmt: skip
    add("--fleet", metavar="PROFILE:COUNT[@SPEED],…",
        help=f"simulated replicas (default: the journal's, else {DEFAULT_FLEET})")  # fmt: skip
    add("--kv-tokens", type=int,
        help=f"each replica's cache at a chunk of 8192 (default: the journal's, else {DEFAULT_KV_TOKENS})")  # fmt: skip
    add("--chunk", type=int, help=f"chunked-prefill size (default: the journal's, else {DEFAULT_CHUNK_TOKENS})")
    add("--requests", type=int, metavar="N",
        help=f"how many (default: all of a trace, {DEFAULT_REQUESTS} of a workload)")  # fmt: skip
    add("--seed", type=int, default=1, help="of workload, policies and errors (default 1)")
    add("--hold-ms", type=float, default=DEFAULT_HOLD_MS,
        help=f"queued prefill above which ours holds requests; 0: never (default {DEFAULT_HOLD_MS:g})")  # fmt: skip
    add("--knowledge", choices=("events", "guess"), default="events",
        help="whether ours hears the engines' KV events, as those published policies do that use them")  # fmt: skip
    add("--down", metavar="REPLICA@FROM-UNTIL,…",
        help="replicas that die and come back empty, at shares of the trace's span, e.g. vllm-w4a8-0@0.4-0.6; "
        "without UNTIL: never")  # fmt: skip
    add("--misjudge", metavar="WHAT=SHARE,…",
        help="how wrong every router is, e.g. speed=0.3,capacity=0.3,cached=0.2")  # fmt: skip
    add("--matrix", action="store_true",
        help="the whole comparison: every policy on all workloads, slow and dying replicas and misjudgements; with "
        "--trace that comes first")  # fmt: skip
    add("--json", action="store_true", help="print all rows as JSON instead of tables")
    add("--plot", type=Path, metavar="FILE.png|.svg", help="also draw how TTFT is spread, and hit rates")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time (default: one per CPU)")


def _run(options: argparse.Namespace) -> int:
    if options.policy == "list":
        print_contestants(as_json=options.json)
        return 0
    _check(options)
    policies = policies_of(options.policy)
    reading = _reading(options)
    terms = Terms(options.seed, options.knowledge == "events", options.hold_ms)
    try:
        if options.matrix:
            return _run_matrix(options, policies, reading, terms)
        plot = plot_of(options.plot)
        outcomes, recorded = _compare(options, policies, reading, terms)
        rows = [*recorded, *(one.row for one in outcomes)]
        if options.json:
            _print_json(rows)
        else:
            print_rows(rows)
    except (FleetError, CaseError) as error:
        raise UsageError(str(error)) from error
    except WorkerDiedError as error:
        print(f"prefixgate: {error}", file=sys.stderr)
        return 1
    return 0 if plot is None else _draw(plot, outcomes)


def _draw(path: Path, outcomes: Sequence[Outcome]) -> int:
    try:
        write_plot(path, outcomes)
    except OSError as error:
        print(f"prefixgate: {path}: {error.strerror}", file=sys.stderr)
        return 1
    return 0


def _check(options: argparse.Namespace) -> None:
    sources = [name for name in ("trace", "journal", "workload") if getattr(options, name) is not None]
    if len(sources) > 1:
        raise UsageError("give only one of --trace, --journal and --workload")
    if options.matrix:
        for name in _MATRIX_FIXES:
            if getattr(options, name) is not None:
                raise UsageError(f"--matrix says itself what to play: leave --{name} out")
    elif not sources:
        raise UsageError("say what to replay: --trace FILE, --journal FILE or --workload NAME, or --matrix for all")
    if options.workload is not None and options.workload not in WORKLOADS:
        raise UsageError(f"no workload is called `{options.workload}`{nearest(options.workload, list(WORKLOADS))}")
    for name in ("jobs", "requests", "kv_tokens", "chunk"):
        number = getattr(options, name)
        if number is not None and number < 1:
            raise UsageError(f"--{name.replace('_', '-')} must be at least 1")
    if not 0 <= options.hold_ms < float("inf"):
        raise UsageError("--hold-ms must be 0 or more milliseconds")


def _reading(options: argparse.Namespace) -> Reading | None:
    """What the file says, None without one; tells on stderr what was left out of it."""
    path: Path | None = options.trace or options.journal
    if path is None:
        return None
    try:
        reading = read_trace(_lines(path), path.stem)
    except OSError as error:
        raise UsageError(f"{path}: cannot be read: {error.strerror}") from error
    except JournalError as error:
        raise UsageError(f"{path}: {error}") from error
    if not reading.trace.requests:
        raise UsageError(f"{path}: there is no request in it")
    _note(reading.notes)
    return reading


def _lines(path: Path) -> Iterator[bytes]:
    """Of the file; where there is none, of the journals that several workers have written in its stead."""
    paths = [path] if path.exists() else sorted(path.parent.glob(f"{path.name}.w*"))
    for one in paths or [path]:
        with one.open("rb") as file:
            for line in file:
                yield line if line.endswith(b"\n") else line + b"\n"  # a line that broke off stays on its own


def _compare(
    options: argparse.Namespace, policies: Sequence[str], reading: Reading | None, terms: Terms
) -> tuple[list[Outcome], list[Row]]:
    """Outcomes by load, then by mean; and what the journal measured. Raises FleetError or CaseError."""
    if reading is None:
        trace = WORKLOADS[options.workload](options.seed, options.requests or DEFAULT_REQUESTS)
    else:
        trace = reading.trace.part(options.requests)
    loads = loads_of(options.load)
    fleet = fleet_of(options.fleet, () if reading is None else reading.fleet, options.kv_tokens, options.chunk)
    terms = replace(terms, misjudged=misjudged_of(options.misjudge), outages=outages_of(options.down, fleet))
    played = [case_at(trace, load, fleet, terms) for load in loads]
    recorded = [] if reading is None or options.requests else [
        recorded_row(trace.name, case_at(trace, None, fleet).load, one) for one in reading.recorded
    ]  # fmt: skip
    outcomes = _play(played, policies, options.jobs)
    return sorted(outcomes, key=lambda one: (one.row.load or 0.0, one.row.ttft_mean_ms or 0.0)), recorded


def _run_matrix(options: argparse.Namespace, policies: Sequence[str], reading: Reading | None, terms: Terms) -> int:
    if OURS not in policies or not any(CONTESTANTS[name].kind is Kind.BASELINE for name in policies):
        raise UsageError(f"the matrix compares `{OURS}` with published policies: name it and at least one of them")
    trace: Trace | None = None if reading is None else reading.trace.part(options.requests)
    requests = options.requests or DEFAULT_REQUESTS
    kv_tokens, chunk = options.kv_tokens or DEFAULT_KV_TOKENS, options.chunk or DEFAULT_CHUNK_TOKENS
    played = list(cases(trace, requests, kv_tokens, chunk, terms))
    rows = [one.row for one in _play(played, policies, options.jobs)]
    if options.json:
        _print_json(rows)
    else:
        print_matrix(rows)
    return 0


def _play(played: Sequence[Case], policies: Sequence[str], jobs: int) -> list[Outcome]:
    """Every policy on every case, in that order, with a progress bar on stderr. Raises WorkerDiedError."""
    _note(dict.fromkeys(f"{case.workload}: {note}" for case in played for note in case.notes))
    comparisons = [Comparison(case, policy) for case, policy in product(played, policies)]
    outcomes: dict[int, Outcome] = {}
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("requests"),
        TimeElapsedColumn(), TimeRemainingColumn())  # fmt: skip
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bars:
        bar = bars.add_task("simulating", total=sum(len(one.case.trace.requests) for one in comparisons))
        with closing(play_all(comparisons, jobs, lambda more: bars.advance(bar, more))) as runs:
            for place, outcome in runs:
                outcomes[place] = outcome
                bars.update(bar, description=f"run {len(outcomes)} of {len(comparisons)}")
                if not console.is_terminal and len(comparisons) > _MANY:
                    row = outcome.row
                    print(f"{len(outcomes)}/{len(comparisons)} {row.workload} {row.policy}", file=sys.stderr)
    return [outcomes[place] for place in range(len(comparisons))]


def _note(notes: Iterable[str]) -> None:
    for note in notes:
        print(f"note: {note}", file=sys.stderr)


def _print_json(rows: Sequence[Row]) -> None:
    print(msgspec.json.format(msgspec.json.encode(rows), indent=2).decode())
